//! Service-account tokens: JSON Web Tokens with the claims of bound tokens (KEP-1205), and the older ones that a Secret
//! keeps, which name that Secret and never expire.
//!
//! One key signs; besides it every public key in a file `NAME-*.pub` next to the signing key's `NAME.key` verifies, so
//! that the signing key can be replaced while tokens of its predecessor are still about: rename `sa.pub` to `sa-1.pub`,
//! remove `sa.key`, restart.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jiff::Timestamp;
use ring::{
    rand::SystemRandom,
    rsa::PublicKeyComponents,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    file::{FileError, beside, read_if_there, write_private},
    jwt::{Algorithm, MalformedToken, Unverified, VerificationKey},
};

/// Clocks may differ by this much, as upstream allows.
const LEEWAY_SECONDS: i64 = 60;
/// Issuer of the tokens that Secrets keep, as upstream names it.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// A token could not be signed or is not valid.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A key could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is not the key it should be.
    #[error("{} is not {expected}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What was expected in it.
        expected: &'static str,
    },
    /// The random number generator failed.
    #[error("no randomness for a signature")]
    Random,
    /// The token is not a JWT.
    #[error(transparent)]
    Malformed(#[from] MalformedToken),
    /// The claims lack something.
    #[error("{0}")]
    Claims(&'static str),
    /// The signature does not match.
    #[error("invalid signature, no keys found")]
    Signature,
    /// The token's time is over.
    #[error("service account token has expired")]
    Expired,
    /// The token's time has not come.
    #[error("service account token is not valid yet")]
    NotYetValid,
    /// The token was made in the future.
    #[error("service account token is issued in the future")]
    IssuedInTheFuture,
    /// The token was made by another issuer.
    #[error("the token was issued by {0:?}")]
    Issuer(String),
}

/// An object whose deletion ends a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundObject {
    /// Its name.
    pub name: String,
    /// Its UID, empty when it was not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The `kubernetes.io` claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// From when on the holder should have fetched a new token, seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// The claims of a bound service-account token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences.
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// Expiry, seconds since the epoch.
    pub exp: i64,
    /// Issued at, seconds since the epoch.
    pub iat: i64,
    /// Issuer.
    pub iss: String,
    /// Token id.
    #[serde(default)]
    pub jti: String,
    /// Not valid before, seconds since the epoch.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
    /// What the token is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: KubernetesClaims,
}

/// The claims of a token that a Secret keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyClaims {
    /// Issuer.
    pub iss: String,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
    /// Namespace of account and Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    /// Name of the Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    /// Name of the account.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    /// UID of the account.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub uid: String,
}

/// The claims of a token whose signature is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// A token from a TokenRequest.
    Bound(Box<Claims>),
    /// A token of a Secret.
    Legacy(LegacyClaims),
}

/// A claim that is one text or a list of texts.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Texts {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Texts::deserialize(deserializer)? {
        Texts::One(text) => vec![text],
        Texts::Many(texts) => texts,
    })
}

enum SigningKey {
    P256(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

impl SigningKey {
    /// Reads PKCS #8 (either kind of key) or PKCS #1.
    fn from_pem(text: &str, random: &SystemRandom) -> Option<Self> {
        let block = pem::parse(text).ok()?;
        match block.tag() {
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(block.contents()).ok().map(|key| Self::Rsa(Box::new(key))),
            "PRIVATE KEY" => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, block.contents(), random)
                .map(|key| Self::P256(Box::new(key)))
                .or_else(|_| RsaKeyPair::from_pkcs8(block.contents()).map(|key| Self::Rsa(Box::new(key))))
                .ok(),
            _ => None,
        }
    }

    fn public(&self) -> VerificationKey {
        match self {
            Self::P256(key) => VerificationKey::p256(key.public_key().as_ref()),
            Self::Rsa(key) => {
                let parts: PublicKeyComponents<Vec<u8>> = key.public_key().into();
                VerificationKey::rsa(&parts.n, &parts.e)
            }
        }
    }

    fn sign(&self, random: &SystemRandom, message: &[u8]) -> Result<Vec<u8>, ring::error::Unspecified> {
        match self {
            Self::P256(key) => key.sign(random, message).map(|signature| signature.as_ref().to_vec()),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, random, message, &mut signature).map(|()| signature)
            }
        }
    }
}

/// Signs and verifies service-account tokens.
pub struct TokenSigner {
    key: SigningKey,
    random: SystemRandom,
    issuer: String,
    /// The signing key's public half first, then older ones.
    keys: Vec<VerificationKey>,
}

impl TokenSigner {
    /// Loads the signing key kept at `path`, or makes one there, and the older public keys beside it.
    ///
    /// # Errors
    /// When a file cannot be read, or is not a key: an older key that is silently left out would end every token that
    /// was signed with it.
    pub fn load_or_create(path: &Path, issuer: &str) -> Result<Self, TokenError> {
        let random = SystemRandom::new();
        let text = match read_if_there(path)? {
            Some(text) => text,
            None => {
                let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                    .map_err(|_| TokenError::Random)?;
                let text = pem::encode(&pem::Pem::new("PRIVATE KEY", document.as_ref()));
                write_private(path, text.as_bytes())?;
                text
            }
        };
        let expected = "an RSA or ECDSA P-256 private key in PEM";
        let key =
            SigningKey::from_pem(&text, &random).ok_or_else(|| TokenError::Key { path: path.to_owned(), expected })?;
        let own = key.public();
        let public = path.with_extension("pub");
        if read_if_there(&public)?.as_deref() != Some(own.pem().as_str()) {
            write_private(&public, own.pem().as_bytes())?;
        }
        let mut keys = vec![own];
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let prefix = format!("{}-", path.file_stem().unwrap_or_default().to_string_lossy());
        for path in beside(directory, &prefix, ".pub")? {
            let text = read_if_there(&path)?.unwrap_or_default();
            let expected = "an RSA or ECDSA (P-256, P-384) public key in PEM";
            let key = pem::parse(&text).ok().and_then(|block| VerificationKey::from_spki(block.contents()));
            keys.push(key.ok_or(TokenError::Key { path, expected })?);
        }
        Ok(Self { key, random, issuer: issuer.to_owned(), keys })
    }

    /// The issuer written into every token, also the API server's default audience.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The key set (RFC 7517) that verifies these tokens.
    pub fn jwks(&self) -> Value {
        json!({"keys": self.keys.iter().map(VerificationKey::to_jwk).collect::<Vec<_>>()})
    }

    /// Names of the algorithms that tokens are signed with.
    pub fn algorithms(&self) -> Vec<&'static str> {
        let mut names: Vec<&str> = self.keys.iter().map(|key| key.algorithm().name()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Signs the claims of a bound token. `iss` is set to this signer's issuer.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn sign(&self, mut claims: Claims) -> Result<String, TokenError> {
        claims.iss.clone_from(&self.issuer);
        self.sign_claims(serde_json::to_vec(&claims))
    }

    /// Signs a token for a Secret to keep. It ends with the Secret or the account.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn sign_legacy(&self, namespace: &str, account: &str, uid: &str, secret: &str) -> Result<String, TokenError> {
        let claims = LegacyClaims {
            iss: LEGACY_ISSUER.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{account}"),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.to_owned(),
            uid: uid.to_owned(),
        };
        self.sign_claims(serde_json::to_vec(&claims))
    }

    fn sign_claims(&self, claims: serde_json::Result<Vec<u8>>) -> Result<String, TokenError> {
        let claims = claims.map_err(|_| TokenError::Claims("the claims cannot be written"))?;
        let own = &self.keys[0];
        let header = json!({"alg": own.algorithm().name(), "kid": own.id}).to_string();
        let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let signature = self.key.sign(&self.random, signed.as_bytes()).map_err(|_| TokenError::Random)?;
        Ok(format!("{signed}.{}", BASE64.encode(signature)))
    }

    /// Whether a token says it was issued here, so that [`TokenSigner::verify`] is to decide about it.
    pub fn issued(&self, token: &Unverified<'_>) -> bool {
        token.issuer().is_some_and(|issuer| issuer == self.issuer || issuer == LEGACY_ISSUER)
    }

    /// Checks issuer, signature and time, and returns the claims. Audience and bound objects are the caller's to check.
    ///
    /// # Errors
    /// Says what is wrong with the token.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Verified, TokenError> {
        self.verify_parsed(&Unverified::parse(token)?, now)
    }

    /// As [`TokenSigner::verify`], of a token taken apart already.
    ///
    /// # Errors
    /// Says what is wrong with the token.
    pub fn verify_parsed(&self, token: &Unverified<'_>, now: Timestamp) -> Result<Verified, TokenError> {
        let issuer = token.issuer().ok_or(MalformedToken("its claims are not understood"))?;
        if issuer != self.issuer && issuer != LEGACY_ISSUER {
            return Err(TokenError::Issuer(issuer));
        }
        let known = matches!(token.algorithm, Algorithm::Es256 | Algorithm::Es384 | Algorithm::Rs256);
        if !known || !token.is_signed_by_any(self.keys.iter()) {
            return Err(TokenError::Signature);
        }
        if issuer == LEGACY_ISSUER {
            return legacy(&token.payload).map(Verified::Legacy);
        }
        let malformed = |_| MalformedToken("its claims are not understood");
        let claims: Claims = serde_json::from_slice(&token.payload).map_err(malformed)?;
        let now = now.as_second();
        if now.saturating_sub(LEEWAY_SECONDS) > claims.exp {
            return Err(TokenError::Expired);
        }
        if now.saturating_add(LEEWAY_SECONDS) < claims.nbf {
            return Err(TokenError::NotYetValid);
        }
        if now.saturating_add(LEEWAY_SECONDS) < claims.iat {
            return Err(TokenError::IssuedInTheFuture);
        }
        Ok(Verified::Bound(Box::new(claims)))
    }
}

impl Claims {
    /// Whether the token's time is over.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        now.as_second().saturating_sub(LEEWAY_SECONDS) > self.exp
    }
}

fn legacy(payload: &[u8]) -> Result<LegacyClaims, TokenError> {
    let claims: LegacyClaims =
        serde_json::from_slice(payload).map_err(|_| MalformedToken("its claims are not understood"))?;
    for (claim, missing) in [
        (&claims.namespace, "namespace claim is missing"),
        (&claims.secret, "secretName claim is missing"),
        (&claims.account, "serviceAccountName claim is missing"),
        (&claims.uid, "serviceAccountUID claim is missing"),
    ] {
        if claim.is_empty() {
            return Err(TokenError::Claims(missing));
        }
    }
    if claims.sub != format!("system:serviceaccount:{}:{}", claims.namespace, claims.account) {
        return Err(TokenError::Claims("sub claim is invalid"));
    }
    Ok(claims)
}

#[cfg(test)]
mod tests;
