//! Paths that are written in several ways.

/// How paths are made uniform before rules look at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What becomes of slashes that are written with a percent sign.
    pub escaped: Slashes,
    /// Whether neighbouring slashes become one.
    pub merge: bool,
}

/// What becomes of slashes and backslashes that are written with a percent sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slashes {
    /// Nothing.
    Keep,
    /// The request is refused.
    Refuse,
    /// They are written as slashes.
    Unescape,
    /// The client is sent to the path that is written with slashes.
    Redirect,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cleaned {
    /// It stays.
    Same,
    /// It is this from now on.
    Changed(String),
    /// The client is sent to this one.
    Redirect(String),
    /// It is refused.
    Refused,
}

impl Paths {
    /// What becomes of a path.
    pub fn clean(&self, path: &str) -> Cleaned {
        let escaped = self.escaped != Slashes::Keep && has_escaped(path);
        if escaped && self.escaped == Slashes::Refuse {
            return Cleaned::Refused;
        }
        let doubled = |path: &str| path.contains("//");
        let merging = self.merge && doubled(path);
        if !escaped && !merging {
            return Cleaned::Same;
        }
        let mut clean = if escaped { unescaped(path) } else { path.to_owned() };
        if self.merge && doubled(&clean) {
            clean = merged(&clean);
        }
        if escaped && self.escaped == Slashes::Redirect { Cleaned::Redirect(clean) } else { Cleaned::Changed(clean) }
    }
}

/// Whether these bytes are a slash or backslash, written with a percent sign.
fn is_escaped(bytes: &[u8]) -> bool {
    matches!(bytes, [b'%', b'2', b'f' | b'F', ..] | [b'%', b'5', b'c' | b'C', ..])
}

fn has_escaped(path: &str) -> bool {
    path.as_bytes().windows(3).any(is_escaped)
}

/// A backslash becomes a slash too, which is what common servers take it for.
fn unescaped(path: &str) -> String {
    let (mut clean, mut rest) = (String::with_capacity(path.len()), path);
    while let Some(at) = rest.find('%') {
        clean.push_str(&rest[..at]);
        if is_escaped(&rest.as_bytes()[at..]) {
            clean.push('/');
            rest = &rest[at + 3..];
        } else {
            clean.push('%');
            rest = &rest[at + 1..];
        }
    }
    clean + rest
}

fn merged(path: &str) -> String {
    let mut clean = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !clean.ends_with('/') {
            clean.push(character);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_it_is_said() {
        let paths = |escaped, merge| Paths { escaped, merge };
        let changed = |path: &str| Cleaned::Changed(path.to_owned());
        for (rules, path, expected) in [
            (paths(Slashes::Keep, false), "/a//b%2fc", Cleaned::Same),
            (paths(Slashes::Keep, true), "/a//b%2fc", changed("/a/b%2fc")),
            (paths(Slashes::Keep, true), "//", changed("/")),
            (paths(Slashes::Refuse, true), "/a%2Fb", Cleaned::Refused),
            (paths(Slashes::Refuse, true), "/a%20b", Cleaned::Same),
            (paths(Slashes::Unescape, false), "/a%2F%5cb%2", changed("/a//b%2")),
            (paths(Slashes::Unescape, true), "/a%2F%5Cb", changed("/a/b")),
            (paths(Slashes::Redirect, true), "/a%2f/b", Cleaned::Redirect("/a/b".to_owned())),
            (paths(Slashes::Redirect, true), "/a//b", changed("/a/b")),
            (paths(Slashes::Redirect, true), "/é%2fü", Cleaned::Redirect("/é/ü".to_owned())),
        ] {
            assert_eq!(rules.clean(path), expected, "{path} {rules:?}");
        }
    }
}
