//! Paths as policies see them: in every form in which a workload may read what was sent.

use std::borrow::Cow;

/// The forms of a path: with dots resolved and characters decoded that need no encoding, and, where that differs, as a
/// server reads it that also decodes separators, takes a backslash for a slash, and several slashes for one.
pub(crate) fn forms(path: &str) -> (Cow<'_, str>, Option<String>) {
    let plain = !path.bytes().any(|byte| matches!(byte, b'%' | b'\\')) && !path.contains("//") && !path.contains("/.");
    if plain {
        return (Cow::Borrowed(path), None);
    }
    let base = resolve(&decode(path, |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)), false);
    let mut all = path.to_owned();
    // A server that decodes what its proxy had decoded already; more often than twice nobody does.
    for _ in 0..2 {
        all = decode(&all, |byte| byte.is_ascii_graphic());
    }
    let deep = resolve(&all.replace('\\', "/"), true);
    let differs = deep != base;
    (Cow::Owned(base), differs.then_some(deep))
}

/// Decodes the encoded characters that `which` names.
fn decode(path: &str, which: impl Fn(u8) -> bool) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        let byte = rest.get(at + 1..at + 3).and_then(hex);
        match byte.filter(|byte| which(*byte)) {
            Some(byte) => {
                decoded.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            None => {
                decoded.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

fn hex(digits: &str) -> Option<u8> {
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Resolves `.` and `..`, and with `merge` several slashes into one.
fn resolve(path: &str, merge: bool) -> String {
    let Some(rest) = path.strip_prefix('/') else { return path.to_owned() };
    let mut elements: Vec<&str> = Vec::new();
    let mut parts = rest.split('/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    elements.pop();
                }
                if last {
                    elements.push("");
                }
            }
            "" if merge && !last => {}
            part => elements.push(part),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for element in &elements {
        resolved.push('/');
        resolved.push_str(element);
    }
    if resolved.is_empty() {
        resolved.push('/');
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_the_forms_that_servers_read() {
        for (path, base, deep) in [
            ("/a/b", "/a/b", None),
            ("/", "/", None),
            ("/a/./b", "/a/b", None),
            ("/a/../b", "/b", None),
            ("/../../b", "/b", None),
            ("/a/..", "/", None),
            ("/a/b/.", "/a/b/", None),
            ("/%61dmin", "/admin", None),
            ("/a/%2e%2e/b", "/b", None),
            ("/.well-known", "/.well-known", None),
            ("//a", "//a", Some("/a")),
            ("/a//b/", "/a//b/", Some("/a/b/")),
            ("/a%2Fb", "/a%2Fb", Some("/a/b")),
            ("/a%2f..%2Fb", "/a%2f..%2Fb", Some("/b")),
            ("/a%5cb", "/a%5cb", Some("/a/b")),
            ("/a\\b", "/a\\b", Some("/a/b")),
            ("/%2561dmin", "/%2561dmin", Some("/admin")),
            ("/%zz/%4", "/%zz/%4", None),
            ("*", "*", None),
        ] {
            let (found, other) = forms(path);
            assert_eq!((&*found, other.as_deref()), (base, deep), "{path}");
        }
    }
}
