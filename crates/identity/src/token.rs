//! Service-account tokens: JSON Web Tokens (RFC 7519) signed with ES256, with the claims of bound tokens (KEP-1205).

use std::path::Path;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jiff::Timestamp;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};

use crate::file::{FileError, read_if_there, write_private};

/// Longest token that is looked at; real ones are about 1 KiB.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// A token could not be signed or is not valid.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The signing key could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The signing key's file is not a key.
    #[error("{0} is not an ECDSA P-256 private key in PEM")]
    Key(String),
    /// The random number generator failed.
    #[error("no randomness for a signature")]
    Random,
    /// The token is not a JWT of ours.
    #[error("the token is malformed")]
    Malformed,
    /// The signature does not match.
    #[error("the token's signature is invalid")]
    Signature,
    /// The token's time is over or has not come.
    #[error("the token has expired or is not valid yet")]
    Expired,
    /// The token was made by another issuer.
    #[error("the token was issued by {0:?}")]
    Issuer(String),
}

/// An object whose deletion ends a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundObject {
    /// Its name.
    pub name: String,
    /// Its UID.
    #[serde(default)]
    pub uid: String,
}

/// The `kubernetes.io` claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesClaims {
    /// Namespace of the service account.
    pub namespace: String,
    /// The service account.
    pub serviceaccount: BoundObject,
    /// The pod the token was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BoundObject>,
    /// The node that pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<BoundObject>,
    /// The secret the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<BoundObject>,
}

/// The claims of a service-account token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences.
    pub aud: Vec<String>,
    /// Expiry, seconds since the epoch.
    pub exp: i64,
    /// Issued at, seconds since the epoch.
    pub iat: i64,
    /// Issuer.
    pub iss: String,
    /// Token id.
    pub jti: String,
    /// Not valid before, seconds since the epoch.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
    /// What the token is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: KubernetesClaims,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

/// Signs and verifies service-account tokens.
pub struct TokenSigner {
    key: EcdsaKeyPair,
    random: SystemRandom,
    issuer: String,
    key_id: String,
}

impl TokenSigner {
    /// Loads the signing key kept at `path`, or makes one there.
    pub fn load_or_create(path: &Path, issuer: &str) -> Result<Self, TokenError> {
        let bad = || TokenError::Key(path.display().to_string());
        let random = SystemRandom::new();
        let pem = match read_if_there(path)? {
            Some(pem) => pem,
            None => {
                let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                    .map_err(|_| TokenError::Random)?;
                let pem = pem::encode(&pem::Pem::new("PRIVATE KEY", document.as_ref()));
                write_private(path, pem.as_bytes())?;
                pem
            }
        };
        let document = pem::parse(&pem).map_err(|_| bad())?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.contents(), &random)
            .map_err(|_| bad())?;
        let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key().as_ref());
        let key_id = BASE64.encode(digest.as_ref());
        Ok(Self { key, random, issuer: issuer.to_owned(), key_id })
    }

    /// The issuer written into every token, also the API server's default audience.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The key set (RFC 7517) that verifies these tokens.
    pub fn jwks(&self) -> serde_json::Value {
        // An uncompressed point: 0x04, then 32 bytes each of x and y.
        let point = self.key.public_key().as_ref();
        serde_json::json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..65]),
        }]})
    }

    /// Signs the claims. `iss` is set to this signer's issuer.
    pub fn sign(&self, mut claims: Claims) -> Result<String, TokenError> {
        claims.iss.clone_from(&self.issuer);
        let encode = |part: serde_json::Result<Vec<u8>>| {
            part.map(|bytes| BASE64.encode(bytes)).map_err(|_| TokenError::Malformed)
        };
        let header = Header { alg: "ES256".to_owned(), kid: self.key_id.clone() };
        let signed = format!("{}.{}", encode(serde_json::to_vec(&header))?, encode(serde_json::to_vec(&claims))?);
        let signature = self.key.sign(&self.random, signed.as_bytes()).map_err(|_| TokenError::Random)?;
        Ok(format!("{signed}.{}", BASE64.encode(signature.as_ref())))
    }

    /// Checks signature, issuer and time, and returns the claims. Audience and bound objects are the caller's to check.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |part: &str| BASE64.decode(part).map_err(|_| TokenError::Malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        if header.alg != "ES256" {
            return Err(TokenError::Malformed);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|_| TokenError::Malformed)?;
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer(claims.iss));
        }
        let now = now.as_second();
        if now >= claims.exp || now < claims.nbf {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(exp: i64) -> Claims {
        Claims {
            aud: vec!["keelson".to_owned()],
            exp,
            iat: 100,
            iss: String::new(),
            jti: "id".to_owned(),
            nbf: 100,
            sub: "system:serviceaccount:default:web".to_owned(),
            kubernetes: KubernetesClaims {
                namespace: "default".to_owned(),
                serviceaccount: BoundObject { name: "web".to_owned(), uid: "u".to_owned() },
                pod: None,
                node: None,
                secret: None,
            },
        }
    }

    fn signer(directory: &Path) -> TokenSigner {
        TokenSigner::load_or_create(&directory.join("sa.key"), "https://kubernetes.default.svc").unwrap()
    }

    #[test]
    fn a_token_outlives_a_restart_but_not_its_expiry() {
        let directory = tempfile::tempdir().unwrap();
        let token = signer(directory.path()).sign(claims(200)).unwrap();
        let restarted = signer(directory.path());
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(restarted.verify(&token, at(150)).unwrap().sub, "system:serviceaccount:default:web");
        assert!(matches!(restarted.verify(&token, at(200)), Err(TokenError::Expired)));
        assert!(matches!(restarted.verify(&token, at(99)), Err(TokenError::Expired)));
    }

    #[test]
    fn another_key_or_a_changed_claim_is_refused() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let token = signer(one.path()).sign(claims(200)).unwrap();
        let now = Timestamp::from_second(150).unwrap();
        assert!(matches!(signer(two.path()).verify(&token, now), Err(TokenError::Signature)));
        let mut parts: Vec<&str> = token.split('.').collect();
        let forged = BASE64.encode(serde_json::to_vec(&claims(9_999)).unwrap());
        parts[1] = &forged;
        assert!(matches!(signer(one.path()).verify(&parts.join("."), now), Err(TokenError::Signature)));
        assert!(matches!(signer(one.path()).verify("a.b", now), Err(TokenError::Malformed)));
    }
}
