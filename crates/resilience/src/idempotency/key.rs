//! Keys, as clients write them.

use http::HeaderMap;

use crate::retry::IDEMPOTENCY_KEY;

/// Bytes of a key, at most: a UUID has 36, a signature 64.
const KEY_BYTES_MAX: usize = 255;

/// What a client calls a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

/// A key cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There are several.
    #[error("idempotency-key: must be there once")]
    Several,
    /// It has no characters, or too many.
    #[error("idempotency-key: must have 1 to {KEY_BYTES_MAX} characters")]
    Length,
    /// It has characters that are not allowed in one.
    #[error("idempotency-key: must be a string in quotes or a word, of visible ASCII characters")]
    Characters,
}

impl Key {
    /// The key of a request, if it has one: a string in quotes, as the draft has it, or the same without quotes, as most
    /// clients send it. Both are the same key.
    ///
    /// # Errors
    /// When there is something else.
    pub fn read(headers: &HeaderMap) -> Result<Option<Self>, KeyError> {
        let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(KeyError::Several);
        }
        let value = value.to_str().map_err(|_| KeyError::Characters)?.trim_matches([' ', '\t']);
        Self::parse(value).map(Some)
    }

    fn parse(value: &str) -> Result<Self, KeyError> {
        let key = match value.strip_prefix('"') {
            Some(rest) => unquote(rest)?,
            None if value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';')) => {
                value.to_owned()
            }
            None => return Err(KeyError::Characters),
        };
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(KeyError::Length);
        }
        Ok(Self(key.into()))
    }

    /// Its characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The string that a quote has begun, to its end (RFC 9651, section 3.3.3).
fn unquote(text: &str) -> Result<String, KeyError> {
    let (mut string, mut bytes) = (String::new(), text.bytes());
    loop {
        match bytes.next() {
            Some(b'"') if bytes.len() == 0 => return Ok(string),
            Some(b'\\') => match bytes.next() {
                Some(byte @ (b'"' | b'\\')) => string.push(byte as char),
                _ => return Err(KeyError::Characters),
            },
            Some(byte @ (b' '..=b'~')) if byte != b'"' => string.push(byte as char),
            _ => return Err(KeyError::Characters),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn read(value: &[u8]) -> Result<Option<Key>, KeyError> {
        let value = HeaderValue::from_bytes(value).unwrap();
        Key::read(&HeaderMap::from_iter([(IDEMPOTENCY_KEY, value)]))
    }

    #[test]
    fn keys_are_read_with_and_without_quotes() {
        for (text, key) in [("\"8e03978e\"", "8e03978e"), ("8e03978e", "8e03978e"), (r#""a \"b\\""#, r#"a "b\"#)] {
            assert_eq!(read(text.as_bytes()).unwrap().unwrap().as_str(), key);
        }
        assert_eq!(Key::read(&HeaderMap::new()), Ok(None));
        for text in ["", "\"\""] {
            assert_eq!(read(text.as_bytes()), Err(KeyError::Length), "{text}");
        }
        for text in ["\"a", "\"a\";b", "a b", "a,b", "a\"b", "\"\\n\"", "ü"] {
            assert_eq!(read(text.as_bytes()), Err(KeyError::Characters), "{text}");
        }
        assert_eq!(read(&[b'a'; 256]), Err(KeyError::Length));
        let mut two = HeaderMap::new();
        for key in ["a", "b"] {
            two.append(IDEMPOTENCY_KEY, HeaderValue::from_static(key));
        }
        assert_eq!(Key::read(&two), Err(KeyError::Several));
    }

    proptest! {
        #[test]
        fn every_string_of_the_draft_is_a_key(key in "[ -~]{1,200}") {
            let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assert_eq!(Key::parse(&quoted), Ok(Key(key.into())));
        }

        #[test]
        fn no_text_is_too_strange(text: String) {
            if let Ok(key) = Key::parse(&text) {
                prop_assert!(key.as_str().bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
            }
        }
    }
}
