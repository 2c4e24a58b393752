//! The rules for names, labels and annotations, with upstream's messages. Each check gives one message per broken rule.

/// Longest DNS-1123 label.
pub const DNS1123_LABEL_MAX: usize = 63;
/// Longest DNS-1123 subdomain.
pub const DNS1123_SUBDOMAIN_MAX: usize = 253;
/// Longest name part of a qualified name, and longest label value.
pub const LABEL_MAX: usize = 63;
/// Most bytes in all annotations of an object.
pub const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
/// What is wrong with a label that would do as a subdomain.
pub const NO_DOTS: &str = "must not contain dots";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
    alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
    validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
    alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
    '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
    for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether the first and last byte are `edge` and all are `edge` or one of `inner`.
fn shaped(text: &str, edge: fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    edge(*first) && edge(*last) && bytes.iter().all(|byte| edge(*byte) || inner.contains(byte))
}

fn check(text: &str, max: usize, valid: bool, rule: &str) -> Vec<String> {
    let long = (text.len() > max).then(|| too_long(max));
    long.into_iter().chain((!valid).then(|| rule.to_owned())).collect()
}

/// A DNS-1123 label: names of namespaces, containers, ports.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let rule = if is_subdomain(text) { NO_DOTS } else { LABEL_RULE };
    check(text, DNS1123_LABEL_MAX, shaped(text, lower, b"-"), rule)
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(|label| shaped(label, lower, b"-"))
}

/// A DNS-1123 subdomain: names of most objects.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    check(text, DNS1123_SUBDOMAIN_MAX, is_subdomain(text), SUBDOMAIN_RULE)
}

/// A DNS-1035 label: names of services.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let valid = shaped(text, lower, b"-") && text.as_bytes()[0].is_ascii_lowercase();
    check(text, DNS1123_LABEL_MAX, valid, DNS1035_RULE)
}

/// A label or annotation key: `name` or `prefix/name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    let name = match text.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                messages.push("prefix part must be non-empty".to_owned());
            } else {
                messages.extend(dns1123_subdomain(prefix).into_iter().map(|message| format!("prefix part {message}")));
            }
            *name
        }
        _ => {
            return vec![format!(
                "a valid label key {QUALIFIED_RULE} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        messages.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !shaped(name, |byte| byte.is_ascii_alphanumeric(), b"-_.") {
        messages.push(format!("name part {QUALIFIED_RULE}"));
    }
    messages
}

/// A label value.
pub fn label_value(text: &str) -> Vec<String> {
    let valid = text.is_empty() || shaped(text, |byte| byte.is_ascii_alphanumeric(), b"-_.");
    check(text, LABEL_MAX, valid, LABEL_VALUE_RULE)
}

/// A name that only has to fit into a path segment: RBAC objects.
pub fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    let held = ["/", "%"].into_iter().filter(|part| text.contains(part));
    held.map(|part| format!("may not contain '{part}'")).collect()
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(text: &str) -> Vec<String> {
    const RULE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  \
        or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
    let valid = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let mut messages = check(text, DNS1123_SUBDOMAIN_MAX, valid, RULE);
    match text {
        "." | ".." => messages.push(format!("must not be '{text}'")),
        _ if text.starts_with("..") => messages.push("must not start with '..'".to_owned()),
        _ => {}
    }
    messages
}

/// A service port name as pods and ingresses refer to it: at most 15 bytes, one letter at least.
pub fn port_name(text: &str) -> Vec<String> {
    const MAX: usize = 15;
    let mut messages = Vec::new();
    if text.len() > MAX {
        messages.push(format!("must be no more than {MAX} characters"));
    }
    if !text.bytes().all(|byte| lower(byte) || byte == b'-') || text.is_empty() {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_accept_and_refuse() {
        type Rule = fn(&str) -> Vec<String>;
        let long = "a".repeat(64);
        let cases: [(Rule, &[&str], &[&str]); 8] = [
            (dns1123_label, &["a", "1", "a-b"], &["", "A", "-a", "a-", "a.b", &long]),
            (dns1123_subdomain, &["a", "a.b", "1.2"], &["", "a..b", ".a", "a_b", "A"]),
            (dns1035_label, &["a", "a1"], &["", "1a", "a-"]),
            (qualified_name, &["a", "A_b.c", "example.com/x"], &["", "/a", "a/", "a/b/c", "-a", "A.com/x", &long]),
            (label_value, &["", "a", "A_1"], &["-", "a b", &long]),
            (path_segment, &["system:node", "a b"], &[".", "..", "a/b", "a%b"]),
            (config_map_key, &["a", ".a", "A-_."], &["", ".", "..", "..a", "a b"]),
            (port_name, &["http", "a-1"], &["", "1", "a--b", "-a", "HTTP", "a-very-long-name"]),
        ];
        for (at, (rule, good, bad)) in cases.into_iter().enumerate() {
            for text in good {
                assert!(rule(text).is_empty(), "rule {at}: {text:?} {:?}", rule(text));
            }
            for text in bad {
                assert!(!rule(text).is_empty(), "rule {at}: {text:?}");
            }
        }
    }

    #[test]
    fn messages_are_upstreams() {
        let message = &dns1123_label("A")[0];
        assert!(message.starts_with("a lowercase RFC 1123 label must consist of"), "{message}");
        assert!(message.contains("(e.g. 'my-name',  or '123-abc', regex used"), "{message}");
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert_eq!(dns1123_label("a.b"), [NO_DOTS]);
    }
}
