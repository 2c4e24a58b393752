//! JSON Web Tokens (RFC 7519) as compact JWS (RFC 7515): taking them apart, and the public keys that verify them
//! (RFC 7517), whoever signed them.
//!
//! Only asymmetric algorithms are known: a token that asks to be verified in any other way is malformed.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ring::{
    digest,
    signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey},
};
use serde::Deserialize;
use serde_json::{Value, json};
use x509_parser::{prelude::FromDer, public_key::PublicKey, x509::SubjectPublicKeyInfo};

use crate::der;

/// Longest token that is looked at; real ones are about 1 KiB, those of providers with many groups some more.
pub const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// Most keys of a set that are looked at; providers publish two or three.
const KEYS_MAX: usize = 64;

/// `rsaEncryption`.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// `id-ecPublicKey`.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// `prime256v1`.
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// `secp384r1`.
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

/// `id-Ed25519`.
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// The token is not a JWT that could be ours or anybody's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the token is malformed: {0}")]
pub struct MalformedToken(pub &'static str);

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS #1 v1.5 with SHA-384.
    Rs384,
    /// RSA PKCS #1 v1.5 with SHA-512.
    Rs512,
    /// RSA-PSS with SHA-256.
    Ps256,
    /// RSA-PSS with SHA-384.
    Ps384,
    /// RSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All that are known.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// Its name in a token's header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Self::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
            Self::Es256 | Self::Es384 | Self::EdDsa => None,
        }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood: none is.
    #[serde(default)]
    crit: Option<Value>,
}

/// A token taken apart, of which nothing is proven yet.
pub struct Unverified<'a> {
    /// How it says it is signed.
    pub algorithm: Algorithm,
    /// Which key it says signed it.
    pub key_id: Option<String>,
    /// The claims, undecoded.
    pub payload: Vec<u8>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// When it is no compact JWS, or signed in a way that is not known.
    pub fn parse(token: &'a str) -> Result<Self, MalformedToken> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(MalformedToken("it is too long"));
        }
        let three = || MalformedToken("it has not three parts");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(three)?;
        let (header, payload) = signed.split_once('.').ok_or_else(three)?;
        if payload.contains('.') {
            return Err(three());
        }
        let decode = |part: &str| BASE64.decode(part).map_err(|_| MalformedToken("a part is not base64url"));
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|_| MalformedToken("its header is not understood"))?;
        if header.crit.is_some() {
            return Err(MalformedToken("its header asks for extensions"));
        }
        let algorithm = Algorithm::named(&header.alg).ok_or(MalformedToken("its signature algorithm is not known"))?;
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        Ok(Self { algorithm, key_id: header.kid, payload, signed, signature })
    }

    /// The `iss` claim, as far as the claims can be read.
    pub fn issuer(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Issued {
            iss: String,
        }
        serde_json::from_slice::<Issued>(&self.payload).ok().map(|claims| claims.iss)
    }

    /// Whether `key` made the signature.
    pub fn is_signed_by(&self, key: &VerificationKey) -> bool {
        key.algorithm.is_none_or(|only| only == self.algorithm)
            && key.material.verifies(self.algorithm, self.signed.as_bytes(), &self.signature)
    }

    /// Whether one of `keys` made the signature. A key of the id that the token names is tried first; keys of other
    /// names are tried too, because a set may have been written with other ids than its issuer's.
    pub fn is_signed_by_any<'k>(&self, keys: impl Iterator<Item = &'k VerificationKey> + Clone) -> bool {
        let named = |key: &&VerificationKey| self.key_id.as_deref() == Some(key.id.as_str());
        keys.clone().filter(named).any(|key| self.is_signed_by(key))
            || keys.filter(|key| !named(key)).any(|key| self.is_signed_by(key))
    }
}

#[derive(Clone, Debug)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Material {
    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (self, algorithm) {
            (Self::P256(point), Algorithm::Es256) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            (Self::P384(point), Algorithm::Es384) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature).is_ok()
            }
            (Self::Ed25519(point), Algorithm::EdDsa) => {
                UnparsedPublicKey::new(&signature::ED25519, point).verify(message, signature).is_ok()
            }
            (Self::Rsa { n, e }, algorithm) => algorithm.rsa().is_some_and(|parameters| {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }),
            _ => false,
        }
    }

    fn spki(&self) -> Vec<u8> {
        let curve = |curve, point: &[u8]| {
            der::sequence([der::sequence([der::identifier(EC), der::identifier(curve)]), der::bits(point)])
        };
        match self {
            Self::P256(point) => curve(P256, point),
            Self::P384(point) => curve(P384, point),
            Self::Ed25519(point) => der::sequence([der::sequence([der::identifier(ED25519)]), der::bits(point)]),
            Self::Rsa { n, e } => {
                let null = vec![0x05, 0x00];
                let key = der::sequence([der::positive(n), der::positive(e)]);
                der::sequence([der::sequence([der::identifier(RSA), null]), der::bits(&key)])
            }
        }
    }
}

/// A public key that verifies tokens.
#[derive(Clone, Debug)]
pub struct VerificationKey {
    /// Its id; for keys of our own the hash of the key, as upstream computes it.
    pub id: String,
    algorithm: Option<Algorithm>,
    material: Material,
}

impl VerificationKey {
    fn of(material: Material) -> Self {
        let id = BASE64.encode(digest::digest(&digest::SHA256, &material.spki()));
        Self { id, algorithm: None, material }
    }

    /// A P-256 key from its uncompressed point.
    pub(crate) fn p256(point: &[u8]) -> Self {
        Self::of(Material::P256(point.to_vec()))
    }

    /// An RSA key from its modulus and exponent.
    pub(crate) fn rsa(n: &[u8], e: &[u8]) -> Self {
        Self::of(Material::Rsa { n: stripped(n), e: stripped(e) })
    }

    /// The key in a DER SubjectPublicKeyInfo; `None` when it is of a kind that is not known.
    pub fn from_spki(bytes: &[u8]) -> Option<Self> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(bytes).ok()?;
        if !rest.is_empty() {
            return None;
        }
        match info.parsed().ok()? {
            PublicKey::RSA(key) => Some(Self::rsa(key.modulus, key.exponent)),
            PublicKey::EC(point) => match point.data().len() {
                65 => Some(Self::of(Material::P256(point.data().to_vec()))),
                97 => Some(Self::of(Material::P384(point.data().to_vec()))),
                _ => None,
            },
            _ => None,
        }
    }

    /// The key as PEM, as it is kept when its private half goes.
    pub fn pem(&self) -> String {
        pem::encode(&pem::Pem::new("PUBLIC KEY", self.material.spki()))
    }

    /// One key of a key set; `None` when it is not for signatures, or of a kind that is not known.
    pub fn from_jwk(key: &Value) -> Option<Self> {
        let text = |field: &str| key.get(field).and_then(Value::as_str);
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |field: &str| BASE64.decode(text(field)?.trim_end_matches('=')).ok();
        let point = |size: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == size && y.len() == size).then(|| [&[4][..], &x, &y].concat())
        };
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => Material::Rsa { n: stripped(&bytes("n")?), e: stripped(&bytes("e")?) },
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
            _ => return None,
        };
        let algorithm = match text("alg") {
            None | Some("") => None,
            Some(name) => Some(Algorithm::named(name)?),
        };
        Some(Self { id: text("kid").unwrap_or_default().to_owned(), algorithm, material })
    }

    /// The keys of a key set (RFC 7517) that can be used, at most 64.
    pub fn from_jwks(set: &Value) -> Vec<Self> {
        let keys = set.get("keys").and_then(Value::as_array);
        keys.into_iter().flatten().filter_map(Self::from_jwk).take(KEYS_MAX).collect()
    }

    /// The key as a member of a key set.
    pub fn to_jwk(&self) -> Value {
        let point = |curve: &str, alg: &str, point: &[u8]| {
            let (x, y) = point[1..].split_at((point.len() - 1) / 2);
            json!({"use": "sig", "kty": "EC", "kid": self.id, "crv": curve, "alg": alg,
                "x": BASE64.encode(x), "y": BASE64.encode(y)})
        };
        match &self.material {
            Material::P256(bytes) => point("P-256", "ES256", bytes),
            Material::P384(bytes) => point("P-384", "ES384", bytes),
            Material::Ed25519(bytes) => json!({"use": "sig", "kty": "OKP", "kid": self.id, "crv": "Ed25519",
                "alg": "EdDSA", "x": BASE64.encode(bytes)}),
            Material::Rsa { n, e } => json!({"use": "sig", "kty": "RSA", "kid": self.id, "alg": "RS256",
                "n": BASE64.encode(n), "e": BASE64.encode(e)}),
        }
    }

    /// The algorithm that this cluster's tokens of such a key are signed with.
    pub fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::P256(_) => Algorithm::Es256,
            Material::P384(_) => Algorithm::Es384,
            Material::Ed25519(_) => Algorithm::EdDsa,
            Material::Rsa { .. } => Algorithm::Rs256,
        }
    }
}

/// Without leading zeros, as ring and RFC 7518 want numbers.
fn stripped(number: &[u8]) -> Vec<u8> {
    number[number.iter().position(|byte| *byte != 0).unwrap_or(number.len())..].to_vec()
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
    };

    use super::*;

    #[test]
    fn only_three_known_parts_are_a_token() {
        let header = |text: &str| BASE64.encode(text);
        for (token, why) in [
            ("a.b".to_owned(), "it has not three parts"),
            ("a.b.c.d".to_owned(), "it has not three parts"),
            ("*.e30.x".to_owned(), "a part is not base64url"),
            (format!("{}.e30.AA", header("[]")), "its header is not understood"),
            (format!("{}.e30.AA", header(r#"{"alg":"none"}"#)), "its signature algorithm is not known"),
            (format!("{}.e30.AA", header(r#"{"alg":"HS256"}"#)), "its signature algorithm is not known"),
            (format!("{}.e30.AA", header(r#"{"alg":"ES256","crit":["x"]}"#)), "its header asks for extensions"),
            ("a".repeat(TOKEN_BYTES_MAX + 1), "it is too long"),
        ] {
            assert_eq!(Unverified::parse(&token).err(), Some(MalformedToken(why)), "{why}");
        }
    }

    #[test]
    fn a_key_verifies_in_each_form_it_takes_and_only_with_its_algorithm() {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let signed = format!("{}.{}", BASE64.encode(r#"{"alg":"ES384","kid":"k"}"#), BASE64.encode(r#"{"iss":"i"}"#));
        let token = format!("{signed}.{}", BASE64.encode(pair.sign(&random, signed.as_bytes()).unwrap()));
        let parsed = Unverified::parse(&token).unwrap();
        assert_eq!(parsed.issuer().as_deref(), Some("i"));
        let key = VerificationKey::of(Material::P384(pair.public_key().as_ref().to_vec()));
        let block = ::pem::parse(key.pem()).unwrap();
        let again = VerificationKey::from_spki(block.contents()).unwrap();
        assert_eq!(again.id, key.id);
        let sets = VerificationKey::from_jwks(&json!({"keys": [key.to_jwk(), {"kty": "oct"}]}));
        assert_eq!(sets.len(), 1);
        for key in [&key, &again, &sets[0]] {
            assert!(parsed.is_signed_by(key));
        }
        let mut other = key.to_jwk();
        other["alg"] = "ES256".into();
        assert!(!parsed.is_signed_by(&VerificationKey::from_jwk(&other).unwrap()));
        other["use"] = "enc".into();
        assert!(VerificationKey::from_jwk(&other).is_none());
    }

    #[test]
    fn ed25519_keys_verify() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let signed = format!("{}.{}", BASE64.encode(r#"{"alg":"EdDSA"}"#), BASE64.encode("{}"));
        let token = format!("{signed}.{}", BASE64.encode(pair.sign(signed.as_bytes())));
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(pair.public_key())});
        let key = VerificationKey::from_jwk(&jwk).unwrap();
        let again = VerificationKey::from_jwk(&key.to_jwk()).unwrap();
        for key in [&key, &again] {
            assert!(Unverified::parse(&token).unwrap().is_signed_by(key));
        }
        assert!(VerificationKey::from_jwk(&json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"})).is_none());
        let other = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap();
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(other.public_key())});
        assert!(!Unverified::parse(&token).unwrap().is_signed_by(&VerificationKey::from_jwk(&jwk).unwrap()));
    }
}
