//! Redirects and rewrites.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use regex::Regex;

use super::substitution::Substitution;

/// A change of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// The whole path.
    Full(Box<str>),
    /// The prefix that the rule matched.
    Prefix(Box<str>),
    /// The whole path, made of what a pattern caught.
    Captures(Captures),
    /// What is left when the finds of a pattern are replaced.
    Replaced(Substitution),
}

/// A pattern for paths, and what becomes of those in which it is found. What it caught is `$1` to `$9` there.
#[derive(Clone, Debug)]
pub struct Captures {
    pattern: Regex,
    /// As it was written.
    target: Box<str>,
    /// The same in the words of the regular expressions, where `$1a` is a name.
    expansion: Box<str>,
}

impl Captures {
    /// Makes `target` of the paths in which the pattern is found.
    pub fn new(pattern: Regex, target: &str) -> Self {
        let mut expansion = String::with_capacity(target.len());
        let mut characters = target.chars().peekable();
        while let Some(character) = characters.next() {
            match (character, characters.peek().filter(|next| next.is_ascii_digit()).copied()) {
                ('$', Some(digit)) => {
                    characters.next();
                    expansion.extend(['$', '{', digit, '}']);
                }
                ('$', None) => expansion.push_str("$$"),
                (other, _) => expansion.push(other),
            }
        }
        Captures { pattern, target: target.into(), expansion: expansion.into() }
    }

    fn apply(&self, path: &str) -> String {
        let Some(found) = self.pattern.captures(path) else { return path.to_owned() };
        let mut expanded = String::new();
        found.expand(&self.expansion, &mut expanded);
        absolute(&expanded)
    }
}

impl PartialEq for Captures {
    fn eq(&self, other: &Self) -> bool {
        self.pattern.as_str() == other.pattern.as_str() && self.target == other.target
    }
}

impl Eq for Captures {}

impl PathChange {
    /// The new path; `matched` is the length of the matched prefix without a trailing slash.
    pub fn apply(&self, path: &str, matched: usize) -> String {
        match self {
            PathChange::Full(full) => absolute(full),
            PathChange::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                absolute(&format!("{prefix}{}", path.get(matched..).unwrap_or("")))
            }
            PathChange::Captures(captures) => captures.apply(path),
            PathChange::Replaced(substitution) => absolute(&substitution.apply(path)),
        }
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// A change of host and path on the way to the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The new host.
    pub host: Option<HostChange>,
    /// The new path.
    pub path: Option<PathChange>,
    /// Whether the backend is not told the host that the client asked for.
    pub conceals: bool,
}

/// A change of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostChange {
    /// To this one.
    Fixed(HeaderValue),
    /// To the one that a header names.
    Header(HeaderName),
    /// To the name of the backend's endpoints.
    Backend,
    /// To what becomes of the path.
    Path(Substitution),
}

impl HostChange {
    /// The new host for a request to a backend whose endpoints have this name; `None` where there is none.
    pub fn apply(&self, headers: &HeaderMap, path: &str, backend: Option<&HeaderValue>) -> Option<HeaderValue> {
        match self {
            HostChange::Fixed(host) => Some(host.clone()),
            HostChange::Header(name) => headers.get(name).cloned(),
            HostChange::Backend => backend.cloned(),
            HostChange::Path(substitution) => match substitution.apply(path) {
                // The pattern was not found.
                std::borrow::Cow::Borrowed(_) => None,
                std::borrow::Cow::Owned(host) => HeaderValue::try_from(host).ok(),
            },
        }
    }
}

/// An answer that sends the client elsewhere; what is absent stays as in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The status of the answer.
    pub status: StatusCode,
    /// `http` or `https`.
    pub scheme: Option<Box<str>>,
    /// The host.
    pub host: Option<Box<str>>,
    /// The port.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathChange>,
}

/// Where a request came in, and from whom, where that is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    pub(crate) tls: bool,
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) client: Option<std::net::IpAddr>,
}

impl Redirect {
    /// The `Location` for a request.
    pub(crate) fn location(&self, origin: Origin<'_>, matched: usize) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(if origin.tls { "https" } else { "http" });
        let well_known = match scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        // A changed scheme without a port means that scheme's own port, and only an unchanged one the listener's.
        let port = self.port.or(if self.scheme.is_some() { well_known } else { Some(origin.port) });
        let host = self.host.as_deref().unwrap_or(origin.host);
        let port = port.filter(|port| Some(*port) != well_known).map_or(String::new(), |port| format!(":{port}"));
        let path = self.path.as_ref().map_or_else(|| origin.path.to_owned(), |c| c.apply(origin.path, matched));
        let query = origin.query.map_or(String::new(), |query| format!("?{query}"));
        format!("{scheme}://{host}{port}{path}{query}")
    }
}
