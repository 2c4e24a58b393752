//! Bootstrap tokens: the short shared secrets with which a machine joins, and the signature by which it recognises the
//! cluster it joins.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ring::hmac;

const ID_CHARACTERS: usize = 6;
const SECRET_CHARACTERS: usize = 16;

/// A token taken apart: `ID.SECRET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootstrapToken<'a> {
    /// The public half, which names the Secret it is kept in.
    pub id: &'a str,
    /// The other half.
    pub secret: &'a str,
}

impl<'a> BootstrapToken<'a> {
    /// Takes a token apart; `None` when it is none.
    pub fn parse(token: &'a str) -> Option<Self> {
        let (id, secret) = token.split_once('.')?;
        let is = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        (is(id, ID_CHARACTERS) && is(secret, SECRET_CHARACTERS)).then_some(Self { id, secret })
    }

    /// Whether `secret` is the same, in a time that does not tell how much of it is.
    pub fn has_secret(&self, secret: &[u8]) -> bool {
        // comparing tags under one key takes the same time whatever differs
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"compare");
        hmac::verify(&key, self.secret.as_bytes(), hmac::sign(&key, secret).as_ref()).is_ok()
    }
}

/// A JWS (RFC 7515) over `content` by HMAC-SHA256 with a token's secret, without the content itself.
pub fn detached_signature(content: &str, id: &str, secret: &str) -> String {
    let header = BASE64.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let signed = format!("{header}.{}", BASE64.encode(content));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{header}..{}", BASE64.encode(tag.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_six_and_sixteen_characters() {
        let token = BootstrapToken::parse("abcdef.0123456789abcdef").unwrap();
        assert_eq!(token, BootstrapToken { id: "abcdef", secret: "0123456789abcdef" });
        assert!(token.has_secret(b"0123456789abcdef") && !token.has_secret(b"0123456789abcdeg"));
        for other in ["", "abcdef", "abcdef.0123456789abcde", "Abcdef.0123456789abcdef", "abcdef.0123456789abcdef."] {
            assert_eq!(BootstrapToken::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_signature_is_what_upstream_computes() {
        assert_eq!(
            detached_signature(
                "Hello from the other side. I must have called a thousand times.",
                "joshua",
                "my voice is my passcode"
            ),
            "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"
        );
    }
}
