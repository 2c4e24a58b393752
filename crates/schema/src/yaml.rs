//! YAML from clients, as JSON values.

use serde_json::Value;

use crate::json::{DuplicateField, collect};

/// The text is not one YAML document of JSON's types.
#[derive(Debug, thiserror::Error)]
#[error("error converting YAML to JSON: yaml: {message}")]
pub struct ParseError {
    message: String,
}

/// Parses one YAML document.
pub fn parse(bytes: &[u8]) -> Result<(Value, Vec<DuplicateField>), ParseError> {
    let fail = |message: String| ParseError { message };
    let text = std::str::from_utf8(bytes).map_err(|error| fail(error.to_string()))?;
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| collect(deserializer))
        .map_err(|error| fail(error.to_string()))
}

/// The first key that a mapping sets twice, with its line, in the words of upstream's strict decoder.
pub fn repeated_key(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<serde::de::IgnoredAny>(text, options) {
        Err(serde_saphyr::Error::DuplicateMappingKey { key, location }) => Some(format!(
            "error converting YAML to JSON: yaml: unmarshal errors:\n  line {}: key {:?} already set in map",
            location.line(),
            key.unwrap_or_default()
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_resolve_as_upstream_resolves_them() {
        let text =
            "a: yes\nb: off\nc: 010\nd: 0x10\ne: 1.5\nf: ~\ng: \"yes\"\nh: 2024-01-01\ni: 1e3\nj: 0.10\nk: null\nl:\n";
        assert_eq!(
            parse(text.as_bytes()).unwrap().0,
            json!({"a": true, "b": false, "c": 8, "d": 16, "e": 1.5, "f": null, "g": "yes", "h": "2024-01-01",
                "i": 1000.0, "j": 0.1, "k": null, "l": null})
        );
    }

    #[test]
    fn structures_anchors_and_duplicates_are_read() {
        let text = "a: &x {p: 1}\nb:\n  <<: *x\n  q: [1, two]\nc: |\n  text\nb2: 1\nb2: 2\n8080: http\n";
        let (value, duplicates) = parse(text.as_bytes()).unwrap();
        assert_eq!(
            value,
            json!({"a": {"p": 1}, "b": {"p": 1, "q": [1, "two"]}, "c": "text\n", "b2": 2, "8080": "http"})
        );
        assert_eq!(duplicates.len(), 1);
    }

    #[test]
    fn a_repeated_key_is_named_with_its_line() {
        let repeated = repeated_key(b"\na: 1\nb:\n  c: 1\n  c: 2\n").unwrap();
        assert!(repeated.ends_with("line 5: key \"c\" already set in map"), "{repeated}");
        assert_eq!(repeated_key(b"a: {b: 1}\n"), None);
    }

    #[test]
    fn hostile_texts_are_refused() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned()
            + &(1..12)
                .map(|at| {
                    let (name, before) = (char::from(b'a' + at), char::from(b'a' + at - 1));
                    format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 10].join(","))
                })
                .collect::<String>();
        assert!(parse(bomb.as_bytes()).is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
        assert!(parse(b"a: b: c").is_err());
        assert!(parse(&[0xff, 0xfe]).is_err());
    }
}
