//! OpenID Connect: users that an identity provider vouches for with ID tokens.
//!
//! Whom a token stands for is a pure function of its claims. The provider's keys are fetched when they are first needed
//! and again when a token names a key that is not known, one fetch at a time and not more often than
//! [`REFRESH_PAUSE`]; a request waits for the fetch, so that the first token of a new key is good.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::StatusCode;
use identity::jwt::{Algorithm, Unverified, VerificationKey};
use jiff::Timestamp;
use serde_json::Value;
use strategy::{
    tree,
    user::{GROUP_AUTHENTICATED, User},
};
use tokio::sync::Mutex;

use crate::outbound::{ClientConfig, Outbound, Target, Trust};

/// Shortest time between two fetches of the keys: tokens that name keys of nobody must not make us flood the provider.
const REFRESH_PAUSE: Duration = Duration::from_secs(10);
/// How long the provider may take to answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Clocks may differ by this much for a token's beginning, as upstream allows.
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 300;

/// Which provider is believed, and how users are read from its tokens.
#[derive(Clone, Debug)]
pub struct OidcConfig {
    /// URL of the provider, as its tokens name it.
    pub issuer_url: String,
    /// Whom tokens must be meant for.
    pub client_id: String,
    /// The claim that names the user.
    pub username_claim: String,
    /// What stands before the user's name: `-` nothing, empty the issuer and `#` (nothing for e-mail addresses).
    pub username_prefix: String,
    /// The claim that lists the groups; empty for none.
    pub groups_claim: String,
    /// What stands before each group's name.
    pub groups_prefix: String,
    /// Claims that must have these values.
    pub required_claims: BTreeMap<String, String>,
    /// How tokens may be signed.
    pub signing_algorithms: Vec<Algorithm>,
    /// Who signs the provider's certificate (PEM); `None` trusts whom the machine trusts.
    pub ca_pem: Option<Vec<u8>>,
}

/// An ID token was refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(crate) enum RefusedIdToken {
    #[error("oidc: verify token: oidc: failed to unmarshal claims")]
    Claims,
    #[error("oidc: authenticator not initialized")]
    NoKeys,
    #[error("oidc: verify token: oidc: expected audience {expected:?} got {found:?}")]
    Audience { expected: String, found: Vec<String> },
    #[error("oidc: verify token: oidc: token is expired (Token Expiry: {0})")]
    Expired(Timestamp),
    #[error("oidc: verify token: oidc: current time {now} before the nbf (not before) time: {not_before}")]
    NotYetValid { now: Timestamp, not_before: Timestamp },
    #[error(
        "oidc: verify token: oidc: id token signed with unsupported algorithm, expected {expected:?} got {found:?}"
    )]
    Algorithm { expected: Vec<&'static str>, found: &'static str },
    #[error("oidc: verify token: failed to verify signature: failed to verify id token signature")]
    Signature,
    #[error("oidc: parse username claims {claim:?}: claim not present")]
    NoUsername { claim: String },
    #[error("oidc: email not verified")]
    EmailNotVerified,
    #[error("oidc: parse groups claim {claim:?}: it is neither a text nor a list of texts")]
    Groups { claim: String },
    #[error("oidc: required claim {0} not present in ID token")]
    MissingClaim(String),
    #[error("oidc: required claim {claim} value does not match. Got = {found}, want = {wanted}")]
    OtherClaim { claim: String, found: String, wanted: String },
}

/// Believes one provider.
pub(crate) struct Oidc {
    config: OidcConfig,
    keys: ArcSwapOption<Vec<VerificationKey>>,
    /// When the keys were last asked for; held while they are.
    fetched: Mutex<Option<Instant>>,
}

impl Oidc {
    pub(crate) fn new(config: OidcConfig) -> Self {
        Self { config, keys: ArcSwapOption::empty(), fetched: Mutex::new(None) }
    }

    /// Whether a token says it comes from this provider.
    pub(crate) fn issued(&self, token: &Unverified<'_>) -> bool {
        token.issuer().as_deref() == Some(&self.config.issuer_url)
    }

    /// The user a token of this provider stands for.
    pub(crate) fn authenticate(&self, token: &Unverified<'_>, now: Timestamp) -> Result<User, RefusedIdToken> {
        let claims: Value = serde_json::from_slice(&token.payload).map_err(|_| RefusedIdToken::Claims)?;
        check(&self.config, &claims, now)?;
        if !self.config.signing_algorithms.contains(&token.algorithm) {
            let expected = self.config.signing_algorithms.iter().map(|algorithm| algorithm.name()).collect();
            return Err(RefusedIdToken::Algorithm { expected, found: token.algorithm.name() });
        }
        let keys = self.keys.load();
        let keys = keys.as_deref().ok_or(RefusedIdToken::NoKeys)?;
        if !token.is_signed_by_any(keys.iter()) {
            return Err(RefusedIdToken::Signature);
        }
        user(&self.config, &claims)
    }

    /// Makes sure of the key that a token names, as far as the provider publishes it. Other credentials cost a look at
    /// their form.
    pub(crate) async fn prepare(&self, token: &str, outbound: &Outbound) {
        let Ok(parsed) = Unverified::parse(token) else { return };
        if !self.issued(&parsed) || self.knows(&parsed) {
            return;
        }
        let mut fetched = self.fetched.lock().await;
        // whoever waited for the lock may have waited for the very key
        if self.knows(&parsed) || fetched.is_some_and(|at| at.elapsed() < REFRESH_PAUSE) {
            return;
        }
        *fetched = Some(Instant::now());
        match self.fetch(outbound).await {
            Ok(keys) => self.keys.store(Some(Arc::new(keys))),
            Err(error) => {
                tracing::warn!(
                    issuer = self.config.issuer_url,
                    error,
                    "the keys of the identity provider cannot be had"
                );
            }
        }
    }

    fn knows(&self, token: &Unverified<'_>) -> bool {
        let keys = self.keys.load();
        keys.as_ref().is_some_and(|keys| {
            let named = |id: &String| keys.iter().any(|key| key.id == *id);
            token.key_id.as_ref().is_none_or(named)
        })
    }

    async fn fetch(&self, outbound: &Outbound) -> Result<Vec<VerificationKey>, String> {
        let base = self.config.issuer_url.trim_end_matches('/');
        let discovery = self.get(outbound, format!("{base}/.well-known/openid-configuration")).await?;
        let issuer = tree::text(&discovery, "issuer");
        if issuer != self.config.issuer_url {
            return Err(format!("it calls itself {issuer:?}"));
        }
        let keys = tree::text(&discovery, "jwks_uri").to_owned();
        if !keys.starts_with("https://") {
            return Err(format!("its keys are not at an https address but {keys:?}"));
        }
        let keys = VerificationKey::from_jwks(&self.get(outbound, keys).await?);
        if keys.is_empty() { Err("it publishes no key that can be used".into()) } else { Ok(keys) }
    }

    async fn get(&self, outbound: &Outbound, url: String) -> Result<Value, String> {
        let trust = match &self.config.ca_pem {
            Some(pem) => Trust::Bundle(pem.as_slice().into()),
            None => Trust::System,
        };
        let config = ClientConfig { target: Target::Url(url.clone()), trust, identity: None };
        let answer = outbound.get(&config, &url, FETCH_TIMEOUT).await;
        let (status, bytes): (StatusCode, Bytes) = answer.map_err(|error| format!("{url}: {error}"))?;
        if status != StatusCode::OK {
            return Err(format!("{url}: {status}"));
        }
        serde_json::from_slice(&bytes).map_err(|error| format!("{url}: {error}"))
    }
}

/// Whether the token is meant for us and its time is now.
fn check(config: &OidcConfig, claims: &Value, now: Timestamp) -> Result<(), RefusedIdToken> {
    let audiences = texts(&claims["aud"]).ok_or(RefusedIdToken::Claims)?;
    if !audiences.contains(&config.client_id) {
        return Err(RefusedIdToken::Audience { expected: config.client_id.clone(), found: audiences });
    }
    let moment = |name: &str| {
        let number = claims[name].as_i64().or_else(|| claims[name].as_f64().map(|seconds| seconds as i64));
        number.and_then(|seconds| Timestamp::from_second(seconds).ok())
    };
    let expiry = moment("exp").ok_or(RefusedIdToken::Claims)?;
    if now > expiry {
        return Err(RefusedIdToken::Expired(expiry));
    }
    match moment("nbf") {
        Some(not_before) if now.as_second() + NOT_BEFORE_LEEWAY_SECONDS < not_before.as_second() => {
            Err(RefusedIdToken::NotYetValid { now, not_before })
        }
        _ => Ok(()),
    }
}

/// A claim that is one text or a list of texts.
fn texts(claim: &Value) -> Option<Vec<String>> {
    match claim {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// The user that verified claims describe.
fn user(config: &OidcConfig, claims: &Value) -> Result<User, RefusedIdToken> {
    let claim = &config.username_claim;
    let name = claims[claim].as_str().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| RefusedIdToken::NoUsername { claim: claim.clone() })?;
    // a provider that says nothing about an address is believed, one that says it was never checked is not
    if claim == "email" && claims.get("email_verified").is_some_and(|verified| *verified != Value::Bool(true)) {
        return Err(RefusedIdToken::EmailNotVerified);
    }
    let prefix = match config.username_prefix.as_str() {
        "-" => String::new(),
        "" if claim == "email" => String::new(),
        "" => format!("{}#", config.issuer_url),
        prefix => prefix.to_owned(),
    };
    for (claim, wanted) in &config.required_claims {
        let found = claims.get(claim).ok_or_else(|| RefusedIdToken::MissingClaim(claim.clone()))?;
        if found.as_str() != Some(wanted) {
            let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            return Err(RefusedIdToken::OtherClaim { claim: claim.clone(), found, wanted: wanted.clone() });
        }
    }
    let mut user = User::new(format!("{prefix}{name}"), &[]);
    if let Some(groups) = claims.get(&config.groups_claim).filter(|_| !config.groups_claim.is_empty()) {
        let groups = texts(groups).ok_or_else(|| RefusedIdToken::Groups { claim: config.groups_claim.clone() })?;
        user.groups.extend(groups.into_iter().map(|group| format!("{}{group}", config.groups_prefix)));
    }
    user.groups.push(GROUP_AUTHENTICATED.to_owned());
    if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
        user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("JTI={id}")]);
    }
    Ok(user)
}

#[cfg(test)]
mod tests;
