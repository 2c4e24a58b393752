//! Patterns of policies: texts, blocks of addresses, paths.

use std::net::IpAddr;

use regex::Regex;

/// A condition on a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// `*`: it is not empty.
    Present,
    /// All of it.
    Exact(Box<str>),
    /// `text*`.
    Prefix(Box<str>),
    /// `*text`.
    Suffix(Box<str>),
}

impl Text {
    pub(super) fn parse(pattern: &str) -> Self {
        match (pattern, pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
            ("*", ..) => Text::Present,
            (_, Some(prefix), _) => Text::Prefix(prefix.into()),
            (_, _, Some(suffix)) => Text::Suffix(suffix.into()),
            _ => Text::Exact(pattern.into()),
        }
    }

    /// One that does not look at the case, for a text in lower case.
    pub(super) fn parse_lower(pattern: &str) -> Self {
        Text::parse(&pattern.to_ascii_lowercase())
    }

    pub(super) fn takes(&self, text: &str) -> bool {
        match self {
            Text::Present => !text.is_empty(),
            Text::Exact(exact) => **exact == *text,
            Text::Prefix(prefix) => text.starts_with(&**prefix),
            Text::Suffix(suffix) => text.ends_with(&**suffix),
        }
    }
}

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    first: u128,
    /// Bits that are free.
    free: u32,
    v6: bool,
}

impl Block {
    /// `10.0.0.0/8`, or one address.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let (number, v6) = number(address.parse().ok()?);
        let width = if v6 { 128 } else { 32 };
        let bits = bits.unwrap_or(width);
        if bits > width {
            return None;
        }
        let free = width - bits;
        Some(Block { first: cut(number, free), free, v6 })
    }

    pub(super) fn takes(self, address: IpAddr) -> bool {
        let (number, v6) = number(address.to_canonical());
        self.v6 == v6 && cut(number, self.free) == self.first
    }
}

fn number(address: IpAddr) -> (u128, bool) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), false),
        IpAddr::V6(v6) => (v6.to_bits(), true),
    }
}

fn cut(number: u128, free: u32) -> u128 {
    number.checked_shr(free).unwrap_or(0)
}

/// A condition on a path.
#[derive(Clone, Debug)]
pub(super) enum PathPattern {
    Text(Text),
    /// With `{*}` for one element and `{**}` for any number of them.
    Template(Regex),
}

impl PathPattern {
    /// An error for a template that says nothing certain.
    pub(super) fn parse(pattern: &str) -> Result<Self, String> {
        if !pattern.contains("{*}") && !pattern.contains("{**}") {
            return Ok(PathPattern::Text(Text::parse(pattern)));
        }
        let mut regex = String::from("^");
        let mut rest = pattern;
        let mut ended = false;
        while let Some(open) = rest.find('{') {
            regex.push_str(&regex::escape(&rest[..open]));
            rest = &rest[open..];
            if ended {
                return Err(format!("path {pattern:?}: {{**}} must be the last operator"));
            }
            if let Some(after) = rest.strip_prefix("{*}") {
                regex.push_str("[^/]+");
                rest = after;
            } else if let Some(after) = rest.strip_prefix("{**}") {
                regex.push_str(".*");
                rest = after;
                ended = true;
            } else {
                return Err(format!("path {pattern:?}: only {{*}} and {{**}} may stand in braces"));
            }
        }
        if pattern.replace("{**}", "").replace("{*}", "").contains('*') {
            return Err(format!("path {pattern:?}: * does not go together with {{*}} and {{**}}"));
        }
        regex.push_str(&regex::escape(rest));
        regex.push('$');
        Regex::new(&regex).map(PathPattern::Template).map_err(|error| format!("path {pattern:?}: {error}"))
    }

    pub(super) fn takes(&self, path: &str) -> bool {
        match self {
            PathPattern::Text(text) => text.takes(path),
            PathPattern::Template(regex) => regex.is_match(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_exact_or_open_at_one_end() {
        for (pattern, taken, refused) in [
            ("*", vec!["a", "*"], vec![""]),
            ("a", vec!["a"], vec!["", "A", "ab"]),
            ("a*", vec!["a", "ab"], vec!["ba", ""]),
            ("*a", vec!["a", "ba"], vec!["ab"]),
            ("a*b", vec!["a*b"], vec!["ab", "axb"]),
        ] {
            let text = Text::parse(pattern);
            assert!(taken.iter().all(|value| text.takes(value)), "{pattern} takes {taken:?}");
            assert!(!refused.iter().any(|value| text.takes(value)), "{pattern} takes none of {refused:?}");
        }
    }

    #[test]
    fn blocks_are_of_one_family() {
        for (block, taken, refused) in [
            ("10.1.2.3", vec!["10.1.2.3", "::ffff:10.1.2.3"], vec!["10.1.2.4"]),
            ("10.1.0.0/16", vec!["10.1.255.255"], vec!["10.2.0.0", "::10.1.0.0"]),
            ("0.0.0.0/0", vec!["1.2.3.4"], vec!["::1"]),
            ("::/0", vec!["::1"], vec!["1.2.3.4"]),
            ("2001:db8::/32", vec!["2001:db8:1::"], vec!["2001:db9::"]),
        ] {
            let parsed = Block::parse(block).unwrap();
            let takes = |address: &&str| parsed.takes(address.parse().unwrap());
            assert!(taken.iter().all(takes), "{block} takes {taken:?}");
            assert!(!refused.iter().any(takes), "{block} takes none of {refused:?}");
        }
        for bad in ["", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/x", "a"] {
            assert_eq!(Block::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn templates_stand_for_elements() {
        for (pattern, taken, refused) in [
            ("/a/{*}", vec!["/a/b"], vec!["/a", "/a/", "/a/b/c"]),
            ("/a/{*}/c", vec!["/a/b/c"], vec!["/a/c", "/a/b/b/c"]),
            ("/a/{**}", vec!["/a/", "/a/b", "/a/b/c"], vec!["/a", "/b"]),
            ("/a/{*}/c/{**}", vec!["/a/b/c/", "/a/b/c/d/e"], vec!["/a/c/d"]),
            ("/a.b/{*}", vec!["/a.b/c"], vec!["/axb/c"]),
        ] {
            let parsed = PathPattern::parse(pattern).unwrap();
            assert!(taken.iter().all(|path| parsed.takes(path)), "{pattern} takes {taken:?}");
            assert!(!refused.iter().any(|path| parsed.takes(path)), "{pattern} takes none of {refused:?}");
        }
        for bad in ["/{**}/{*}", "/{*}/{a}", "/{*}/b*"] {
            assert!(PathPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
