//! Names and passwords (RFC 7617).

use std::sync::Arc;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::{Entrant, Passwords, Refusal};

/// With or without padding, as clients write it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Asks for a name and a password.
#[derive(Clone, Debug)]
pub struct BasicAuth {
    passwords: Arc<Passwords>,
    forward: Option<HeaderName>,
    realm: Option<Box<str>>,
}

impl BasicAuth {
    /// Lets those pass who have a password.
    pub fn new(passwords: Arc<Passwords>) -> Self {
        BasicAuth { passwords, forward: None, realm: None }
    }

    /// Tells the backend the name in a header.
    #[must_use]
    pub fn forwarding(mut self, header: Option<HeaderName>) -> Self {
        self.forward = header;
        self
    }

    /// Calls what is protected by a name; else it is called by where the request was sent.
    #[must_use]
    pub fn in_realm(mut self, realm: impl Into<Box<str>>) -> Self {
        self.realm = Some(realm.into());
        self
    }

    pub(super) fn ask(&self, entrant: &mut Entrant<'_>) -> Result<(), Refusal> {
        let refused = |why| self.refuse(entrant, why);
        let value = entrant.parts.headers.get(header::AUTHORIZATION);
        let value = value.ok_or_else(|| refused("User authentication failed. Missing username and password."))?;
        let token = credentials(value.as_bytes())
            .ok_or_else(|| refused("User authentication failed. Expected 'Basic' authentication scheme."))?;
        let (name, password) =
            pair(token).ok_or_else(|| refused("User authentication failed. Invalid basic credential format."))?;
        if !self.passwords.verify(&name, &password) {
            return Err(refused("User authentication failed. Invalid username/password combination."));
        }
        if let Some(header) = &self.forward {
            // A name that cannot be told is not let through under one that the client chose.
            let name = HeaderValue::try_from(name);
            let name = name.map_err(|_| refused("User authentication failed. Invalid basic credential format."))?;
            entrant.parts.headers.insert(header, name);
        }
        Ok(())
    }

    fn refuse(&self, entrant: &Entrant<'_>, why: &'static str) -> Refusal {
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, why);
        let realm = match &self.realm {
            Some(realm) => realm.replace('\\', "\\\\").replace('"', "\\\""),
            None => entrant.realm(),
        };
        match HeaderValue::try_from(format!("Basic realm=\"{realm}\"")) {
            Ok(challenge) => refusal.with(header::WWW_AUTHENTICATE, challenge),
            Err(_) => refusal.with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic")),
        }
    }
}

/// What follows the name of the scheme.
fn credentials(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("Basic ".len())?;
    scheme.eq_ignore_ascii_case(b"Basic ").then(|| rest.trim_ascii())
}

/// A name and a password, which may hold colons.
fn pair(token: &[u8]) -> Option<(String, Vec<u8>)> {
    let decoded = BASE64.decode(token).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let name = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    Some((name, decoded[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn ask(basic: &BasicAuth, authorization: Option<&str>) -> (Result<(), Refusal>, Option<HeaderValue>) {
        let mut request = Request::builder().uri("/a?b=c").header("x-user", "somebody");
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let authority = HeaderValue::from_static("shop.test:8080");
        let client = "10.0.0.7".parse().unwrap();
        let entrant = &mut Entrant::new(&mut parts, ("shop.test", &authority), client, true);
        (basic.ask(entrant), parts.headers.get("x-user").cloned())
    }

    fn basic() -> BasicAuth {
        BasicAuth::new(Arc::new(Passwords::parse("ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=").unwrap()))
    }

    #[test]
    fn a_name_and_its_password_pass_and_the_backend_is_told_the_name() {
        // ada:password
        for value in ["Basic YWRhOnBhc3N3b3Jk", "basic YWRhOnBhc3N3b3Jk ", "BASIC YWRhOnBhc3N3b3Jk"] {
            assert_eq!(ask(&basic(), Some(value)), (Ok(()), Some(HeaderValue::from_static("somebody"))), "{value}");
            let forwarding = basic().forwarding(Some(HeaderName::from_static("x-user")));
            assert_eq!(ask(&forwarding, Some(value)), (Ok(()), Some(HeaderValue::from_static("ada"))), "{value}");
        }
    }

    #[test]
    fn others_are_told_why_not_and_what_is_protected() {
        for (value, why) in [
            (None, "Missing username and password."),
            (Some("Bearer YWRhOnBhc3N3b3Jk"), "Expected 'Basic' authentication scheme."),
            (Some("Basic"), "Expected 'Basic' authentication scheme."),
            (Some("Basic %%%"), "Invalid basic credential format."),
            (Some("Basic YWRh"), "Invalid basic credential format."),
            (Some("Basic YWRhOlBhc3N3b3Jk"), "Invalid username/password combination."),
        ] {
            let refusal = ask(&basic(), value).0.unwrap_err();
            assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
            assert_eq!(refusal.body.as_deref(), Some(format!("User authentication failed. {why}").as_bytes()));
            let challenge = HeaderValue::from_static("Basic realm=\"https://shop.test:8080/a?b=c\"");
            assert_eq!(refusal.headers, [(header::WWW_AUTHENTICATE, challenge)]);
        }
        let refusal = ask(&basic().in_realm("the \"shop\""), None).0.unwrap_err();
        assert_eq!(refusal.headers[0].1, "Basic realm=\"the \\\"shop\\\"\"");
    }
}
