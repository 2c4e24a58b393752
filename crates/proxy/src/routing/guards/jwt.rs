//! JSON Web Tokens: where they are looked for, what they must say, and what the backend is told of them.
//!
//! Keys may have to be fetched first, so that a token is examined in two steps: what it says by itself, and whether one of
//! the keys signed it ([`Examined`]). Nothing that it says counts before both are done.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue, StatusCode, header};
use identity::jwt::{MalformedToken, Unverified, VerificationKey};
use serde_json::Value;

use super::{super::cookies::cookie, Claims, Entrant, Refusal, RemoteKeys, api_key::parameter};

/// How far the clocks of issuers may be off: Envoy's.
const SKEW_SECONDS: i64 = 60;

/// Tokens of one request that a provider looks at; more are not what it says it takes.
const TOKENS: usize = 4;

/// Asks for a token.
#[derive(Clone, Debug)]
pub struct Jwt {
    /// Who issues tokens; one whose token is good is enough.
    pub providers: Vec<Provider>,
    /// What happens without a good one.
    pub lenience: Lenience,
}

/// What passes besides good tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lenience {
    /// Nothing.
    #[default]
    None,
    /// Requests without a token.
    Missing,
    /// Everything: tokens are only told of.
    Failed,
}

/// Somebody who issues tokens.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its name, by which rules refer to it.
    pub name: Arc<str>,
    /// What `iss` must be.
    pub issuer: Option<Box<str>>,
    /// Of which `aud` must have one; not looked at when empty.
    pub audiences: Vec<Box<str>>,
    /// What signs its tokens.
    pub keys: KeySource,
    /// Where its tokens are looked for.
    pub places: Vec<TokenPlace>,
    /// Claims that the backend is told in headers.
    pub headers: Vec<(HeaderName, Vec<Box<str>>)>,
    /// Whether the rule is looked for again with those headers.
    pub recompute: bool,
}

/// Where keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// They are there.
    Local(Arc<[VerificationKey]>),
    /// They are fetched.
    Remote(Arc<RemoteKeys>),
}

/// A place where a token may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// A header, and what stands before the token.
    Header(HeaderName, Box<str>),
    /// A parameter of the query.
    Parameter(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

/// What is wrong with a token, in the order in which it is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// There is none.
    Missing,
    /// It is none.
    Format,
    /// What it says is not understood.
    Payload,
    /// It is somebody else's.
    Issuer,
    /// It holds only later.
    NotYet,
    /// It holds no more.
    Expired,
    /// It is for others.
    Audience,
    /// There are no keys to verify it by.
    Keys,
    /// None of the keys is the one that it names.
    Key,
    /// It was not signed by the key that it names.
    Signature,
}

impl Flaw {
    /// What the client is told.
    pub(crate) fn refusal(self, entrant: &Entrant<'_>) -> Refusal {
        let (status, says) = match self {
            Flaw::Missing => (StatusCode::UNAUTHORIZED, "Jwt is missing"),
            Flaw::Format => (
                StatusCode::UNAUTHORIZED,
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            ),
            Flaw::Payload => (StatusCode::UNAUTHORIZED, "Jwt payload is an invalid JSON"),
            Flaw::Issuer => (StatusCode::UNAUTHORIZED, "Jwt issuer is not configured"),
            Flaw::NotYet => (StatusCode::UNAUTHORIZED, "Jwt not yet valid"),
            Flaw::Expired => (StatusCode::UNAUTHORIZED, "Jwt is expired"),
            Flaw::Audience => (StatusCode::FORBIDDEN, "Audiences in Jwt are not allowed"),
            Flaw::Keys => (StatusCode::UNAUTHORIZED, "Jwks remote fetch is failed"),
            Flaw::Key => (StatusCode::UNAUTHORIZED, "Jwks doesn't have key to match kid or alg from Jwt"),
            Flaw::Signature => (StatusCode::UNAUTHORIZED, "Jwt verification fails"),
        };
        let error = if self == Flaw::Missing { "" } else { ", error=\"invalid_token\"" };
        let refusal = Refusal::new(status, says);
        match HeaderValue::try_from(format!("Bearer realm=\"{}\"{error}", entrant.realm())) {
            Ok(challenge) => refusal.with(header::WWW_AUTHENTICATE, challenge),
            Err(_) => refusal.with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        }
    }

    /// Which of two is told: one that says something of a token that was meant.
    pub(crate) fn or(self, other: Flaw) -> Flaw {
        match (self, other) {
            (Flaw::Missing, other) | (other, Flaw::Missing) => other,
            (Flaw::Issuer, other) | (other, Flaw::Issuer) => other,
            (first, _) => first,
        }
    }
}

/// A token that says what it should, of which nothing is proven yet.
pub(crate) struct Examined<'t> {
    token: Unverified<'t>,
    claims: Claims,
}

impl Examined<'_> {
    /// What it says, if one of the keys signed it.
    pub(crate) fn verify(&self, keys: &[VerificationKey]) -> Result<Claims, Flaw> {
        if self.token.is_signed_by_any(keys.iter()) {
            return Ok(self.claims.clone());
        }
        Err(if self.names_one_of(keys) { Flaw::Signature } else { Flaw::Key })
    }

    /// Whether the key that it names is among these; one that names none may be meant for any.
    pub(crate) fn names_one_of(&self, keys: &[VerificationKey]) -> bool {
        self.token.key_id.as_ref().is_none_or(|id| keys.iter().any(|key| key.id == *id))
    }
}

impl Provider {
    /// The tokens of a request.
    pub(crate) fn tokens(&self, entrant: &Entrant<'_>) -> Vec<String> {
        self.places.iter().filter_map(|place| place.read(entrant)).take(TOKENS).collect()
    }

    /// Whether a token says what it should at a time in seconds since 1970.
    pub(crate) fn examine<'t>(&self, token: &'t str, now: i64) -> Result<Examined<'t>, Flaw> {
        let token = Unverified::parse(token).map_err(|MalformedToken(_)| Flaw::Format)?;
        let claims: Claims = serde_json::from_slice(&token.payload).map_err(|_| Flaw::Payload)?;
        let issuer = claims.get("iss").and_then(Value::as_str);
        if self.issuer.as_deref().is_some_and(|expected| issuer != Some(expected)) {
            return Err(Flaw::Issuer);
        }
        if seconds(&claims, "nbf")?.is_some_and(|from| now.saturating_add(SKEW_SECONDS) < from) {
            return Err(Flaw::NotYet);
        }
        if seconds(&claims, "exp")?.is_some_and(|until| now > until.saturating_add(SKEW_SECONDS)) {
            return Err(Flaw::Expired);
        }
        let meant = |value: &Value| value.as_str().is_some_and(|text| self.audiences.iter().any(|one| **one == *text));
        let is_meant = match claims.get("aud") {
            _ if self.audiences.is_empty() => true,
            Some(Value::Array(all)) => all.iter().any(meant),
            Some(one) => meant(one),
            None => false,
        };
        if !is_meant {
            return Err(Flaw::Audience);
        }
        Ok(Examined { token, claims })
    }

    /// Tells the backend what a verified token says; says whether it is told anything.
    pub(crate) fn tell(&self, claims: &Claims, entrant: &mut Entrant<'_>) -> bool {
        let mut told = false;
        for (name, path) in &self.headers {
            if let Some(value) = lookup(claims, path).and_then(written) {
                entrant.parts.headers.insert(name, value);
                told = true;
            }
        }
        told
    }
}

impl Jwt {
    /// Takes out of a request what only a token may tell the backend.
    pub(crate) fn clear(&self, entrant: &mut Entrant<'_>) {
        for (name, _) in self.providers.iter().flat_map(|provider| &provider.headers) {
            entrant.parts.headers.remove(name);
        }
    }
}

/// A time in seconds since 1970; fractions do not count.
fn seconds(claims: &Claims, name: &str) -> Result<Option<i64>, Flaw> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_i64() {
            Some(seconds) => Ok(Some(seconds)),
            // The greatest numbers are as good as the end of time.
            None => value
                .as_f64()
                .filter(|seconds| *seconds >= 0.0)
                .map(|seconds| Some(seconds as i64))
                .ok_or(Flaw::Payload),
        },
    }
}

/// What a claim is, on a way through objects.
pub(super) fn lookup<'c>(claims: &'c Claims, path: &[Box<str>]) -> Option<&'c Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(claims.get(&**first)?, |value, name| value.get(&**name))
}

/// A claim as a header has it: texts, numbers and truth as they are, the rest encoded.
fn written(value: &Value) -> Option<HeaderValue> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) => URL_SAFE_NO_PAD.encode(value.to_string()),
    };
    HeaderValue::try_from(text).ok()
}

impl TokenPlace {
    /// Where tokens are looked for unless a policy says where.
    pub fn usual() -> Vec<TokenPlace> {
        vec![TokenPlace::Header(header::AUTHORIZATION, "Bearer ".into()), TokenPlace::Parameter("access_token".into())]
    }

    fn read(&self, entrant: &Entrant<'_>) -> Option<String> {
        let headers = &entrant.parts.headers;
        let token = match self {
            TokenPlace::Header(name, prefix) => {
                let value = headers.get(name)?.to_str().ok()?.trim_start();
                let (start, rest) = value.split_at_checked(prefix.len())?;
                // The names of schemes are the same in any case (RFC 9110, section 11.1).
                if !start.eq_ignore_ascii_case(prefix) {
                    return None;
                }
                rest.trim().to_owned()
            }
            TokenPlace::Parameter(name) => parameter(entrant.parts.uri.query()?, name)?,
            TokenPlace::Cookie(name) => cookie(headers, name)?.trim_matches('"').to_owned(),
        };
        Some(token).filter(|token| !token.is_empty())
    }
}

#[cfg(test)]
mod tests;
