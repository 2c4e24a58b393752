//! The formats of names, labels and other identifiers, with upstream's messages.
//!
//! Every check is a loop over bytes; a valid value allocates nothing.

/// Longest DNS label.
pub(crate) const LABEL_BYTES_MAX: usize = 63;
/// Longest DNS subdomain.
pub(crate) const SUBDOMAIN_BYTES_MAX: usize = 253;

const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const ENV_RULE: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const CONFIG_KEY_RULE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const WILDCARD_RULE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// What a kind's names look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// Dot-separated lower case labels, up to 253 bytes.
    Subdomain,
    /// One lower case label, up to 63 bytes.
    Label,
    /// A label that starts with a letter.
    Dns1035Label,
    /// Anything that is one segment of a path.
    PathSegment,
}

impl NameRule {
    /// What is wrong with `name`; with `prefix` it is a `generateName`, which may end in a dash.
    pub fn check(self, name: &str, prefix: bool) -> Option<String> {
        let masked;
        let name = if prefix && name.len() > 1 && name.ends_with('-') && self != Self::PathSegment {
            masked = format!("{}a", &name[..name.len() - 1]);
            masked.as_str()
        } else {
            name
        };
        match self {
            Self::Subdomain => subdomain(name),
            Self::Label => label(name),
            Self::Dns1035Label => dns_1035(name),
            Self::PathSegment => path_segment(name, prefix),
        }
    }
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn is_label(text: &[u8]) -> bool {
    fn alphanumeric(byte: u8) -> bool {
        byte.is_ascii_lowercase() || byte.is_ascii_digit()
    }
    match text {
        [] => false,
        [one] => alphanumeric(*one),
        [first, middle @ .., last] => {
            alphanumeric(*first)
                && alphanumeric(*last)
                && middle.iter().all(|byte| alphanumeric(*byte) || *byte == b'-')
        }
    }
}

fn is_word(text: &[u8]) -> bool {
    match text {
        [] => false,
        [one] => one.is_ascii_alphanumeric(),
        [first, middle @ .., last] => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && middle.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        }
    }
}

/// A lower case RFC 1123 subdomain.
pub(crate) fn subdomain(name: &str) -> Option<String> {
    if name.len() > SUBDOMAIN_BYTES_MAX {
        return Some(too_long(SUBDOMAIN_BYTES_MAX));
    }
    (!name.as_bytes().split(|byte| *byte == b'.').all(is_label)).then(|| SUBDOMAIN_RULE.to_owned())
}

/// A lower case RFC 1123 label.
pub(crate) fn label(name: &str) -> Option<String> {
    if name.len() > LABEL_BYTES_MAX {
        return Some(too_long(LABEL_BYTES_MAX));
    }
    let rule = || if subdomain(name).is_none() { schema::names::NO_DOTS } else { LABEL_RULE };
    (!is_label(name.as_bytes())).then(|| rule().to_owned())
}

/// An RFC 1035 label.
pub fn dns_1035(name: &str) -> Option<String> {
    if name.len() > LABEL_BYTES_MAX {
        return Some(too_long(LABEL_BYTES_MAX));
    }
    let starts = name.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    (!(starts && is_label(name.as_bytes()))).then(|| DNS_1035_RULE.to_owned())
}

/// `*.` and a subdomain.
pub(crate) fn wildcard_subdomain(name: &str) -> Option<String> {
    if name.len() > SUBDOMAIN_BYTES_MAX {
        return Some(too_long(SUBDOMAIN_BYTES_MAX));
    }
    let valid = name.strip_prefix("*.").is_some_and(|rest| rest.as_bytes().split(|byte| *byte == b'.').all(is_label));
    (!valid).then(|| WILDCARD_RULE.to_owned())
}

/// One segment of a URL path.
pub fn path_segment(name: &str, prefix: bool) -> Option<String> {
    if !prefix && (name == "." || name == "..") {
        return Some(format!("may not be '{name}'"));
    }
    ['/', '%'].into_iter().find(|char| name.contains(*char)).map(|char| format!("may not contain '{char}'"))
}

/// A label value.
pub(crate) fn label_value(value: &str) -> Option<String> {
    if value.len() > LABEL_BYTES_MAX {
        return Some(too_long(LABEL_BYTES_MAX));
    }
    (!value.is_empty() && !is_word(value.as_bytes())).then(|| LABEL_VALUE_RULE.to_owned())
}

/// A label key, annotation key, finalizer or resource name: `[prefix/]name`.
pub(crate) fn qualified(name: &str) -> Option<String> {
    let mut parts = name.split('/');
    let (prefix, word) = match (parts.next(), parts.next(), parts.next()) {
        (Some(word), None, _) => (None, word),
        (Some(prefix), Some(word), None) => (Some(prefix), word),
        _ => {
            return Some(format!(
                "a qualified name {QUALIFIED_RULE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
        }
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Some("prefix part must be non-empty".to_owned());
        }
        if let Some(message) = subdomain(prefix) {
            return Some(format!("prefix part {message}"));
        }
    }
    if word.is_empty() {
        Some("name part must be non-empty".to_owned())
    } else if word.len() > LABEL_BYTES_MAX {
        Some(format!("name part {}", too_long(LABEL_BYTES_MAX)))
    } else if !is_word(word.as_bytes()) {
        Some(format!("name part {QUALIFIED_RULE}"))
    } else {
        None
    }
}

/// The name of an environment variable: printable ASCII without `=`.
pub(crate) fn env_var(name: &str) -> Option<String> {
    let valid = !name.is_empty() && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=');
    (!valid).then(|| ENV_RULE.to_owned())
}

/// A key of a ConfigMap or Secret.
pub(crate) fn config_key(key: &str) -> Option<String> {
    if key.len() > SUBDOMAIN_BYTES_MAX {
        return Some(too_long(SUBDOMAIN_BYTES_MAX));
    }
    if !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) || key.is_empty() {
        return Some(CONFIG_KEY_RULE.to_owned());
    }
    match key {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        key if key.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// The name of an HTTP header.
pub(crate) fn http_header(name: &str) -> Option<&'static str> {
    let valid = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (!valid).then_some(
        "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
    )
}

/// A kernel parameter, its words separated by dots or slashes.
pub(crate) fn sysctl(name: &str) -> Option<&'static str> {
    let word = |word: &str| {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = word.as_bytes();
        bytes.first().is_some_and(|byte| alphanumeric(*byte))
            && bytes.last().is_some_and(|byte| alphanumeric(*byte))
            && bytes.iter().all(|byte| alphanumeric(*byte) || matches!(byte, b'-' | b'_'))
    };
    let valid = name.len() <= SUBDOMAIN_BYTES_MAX && name.split(['.', '/']).all(word);
    (!valid).then_some(
        "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
    )
}

/// The name of a port: `IANA_SVC_NAME`.
pub(crate) fn port_name(name: &str) -> Option<&'static str> {
    if name.len() > 15 {
        Some("must be no more than 15 characters")
    } else if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        Some("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    } else if !name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        Some("must contain at least one letter (a-z)")
    } else if name.contains("--") {
        Some("must not contain consecutive hyphens")
    } else if name.starts_with('-') || name.ends_with('-') {
        Some("must not begin or end with a hyphen")
    } else {
        None
    }
}

/// A port number.
pub(crate) fn port_number(port: i64) -> Option<&'static str> {
    (!(1..=65535).contains(&port)).then_some("must be between 1 and 65535, inclusive")
}

/// The alphabet of generated suffixes: no vowels, so no words, and no look-alikes.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Characters of a generated suffix.
const SUFFIX_BYTES: usize = 5;

/// `base` cut so that it fits a label, and a random suffix; `random` gives one byte at a time.
pub fn generate(base: &str, mut random: impl FnMut() -> u8) -> String {
    let mut end = base.len().min(LABEL_BYTES_MAX - SUFFIX_BYTES);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = String::with_capacity(end + SUFFIX_BYTES);
    name.push_str(&base[..end]);
    for _ in 0..SUFFIX_BYTES {
        name.push(char::from(SUFFIX_ALPHABET[usize::from(random()) % SUFFIX_ALPHABET.len()]));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (check, good, bad) in [
            (
                subdomain as fn(&str) -> Option<String>,
                vec!["a", "a.b-c.9"],
                vec!["", "A", "a..b", ".a", "a.", "-a", "a_b"],
            ),
            (label, vec!["a", "9", "a-b"], vec!["", "a.b", "-a", "a-", "A"]),
            (dns_1035, vec!["a", "a9"], vec!["9a", "", "a-"]),
            (label_value, vec!["", "A_b.c-9"], vec!["-a", "a b", "a/"]),
            (qualified, vec!["a", "A.b_c", "x.io/Name"], vec!["", "/a", "a/", "a/b/c", "A.io/x", "a b"]),
            (env_var, vec!["A_b", "1 x"], vec!["", "A=b", "ä"]),
            (config_key, vec!["a", ".a", "A-b_c"], vec!["", ".", "..", "..a", "a/b"]),
            (wildcard_subdomain, vec!["*.a.b"], vec!["*", "a.b", "*.", "*.*.a"]),
        ] {
            for name in good {
                assert_eq!(check(name), None, "{name}");
            }
            for name in bad {
                assert!(check(name).is_some(), "{name}");
            }
        }
        assert_eq!(subdomain(&"a".repeat(254)).as_deref(), Some("must be no more than 253 bytes"));
        assert_eq!(qualified("a/").as_deref(), Some("name part must be non-empty"));
        assert_eq!(NameRule::Subdomain.check("web-", true), None);
        assert!(NameRule::Subdomain.check("web-", false).is_some());
        assert_eq!(NameRule::PathSegment.check("system:a", false), None);
        assert_eq!(NameRule::PathSegment.check("a/b", false).as_deref(), Some("may not contain '/'"));
        assert_eq!(port_name("http"), None);
        assert!(port_name("80").is_some() && port_name("a--b").is_some() && port_name("0123456789abcdef").is_some());
    }

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generate("web-", || 0), "web-bbbbb");
        assert_eq!(generate(&"x".repeat(80), || 26).len(), 63);
    }
}
