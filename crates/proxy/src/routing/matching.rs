//! Conditions on a request, and how specific they are.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName, Method};
use regex::Regex;

use super::{canary::Canary, cookies::cookie};

/// What a decision looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The host in lower case, without its port.
    pub host: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The path, as it was sent.
    pub path: &'a str,
    /// The query, without `?`.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// A condition on the path.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// The whole path.
    Exact(Box<str>),
    /// The first elements of the path, without a trailing slash; empty for every path.
    Prefix(Box<str>),
    /// A pattern for the whole path.
    Pattern(Regex),
    /// A pattern for the beginning of the path, whatever its case. It comes before the prefixes that are no longer than
    /// its text, and after longer ones, as ingress-nginx has it.
    Location {
        /// The pattern.
        pattern: Regex,
        /// Length of its text.
        length: usize,
    },
    /// A pattern for the whole path, in a list that is tried in its own order whatever else its conditions say.
    InOrder {
        /// The pattern.
        pattern: Regex,
        /// Length of the prefix that a rewrite replaces.
        prefix: usize,
    },
}

impl PathMatch {
    /// A prefix of whole elements: `/a` takes `/a`, `/a/` and `/a/b`, but not `/ab`.
    pub fn prefix(path: &str) -> Self {
        PathMatch::Prefix(path.trim_end_matches('/').into())
    }

    /// A pattern for the whole path.
    pub fn pattern(pattern: &str) -> Result<Self, regex::Error> {
        whole(pattern).map(PathMatch::Pattern)
    }

    /// A pattern for the beginning of the path, whatever its case.
    pub fn location(pattern: &str) -> Result<Self, regex::Error> {
        let length = pattern.len();
        // Checked by itself first: it must not end the group.
        Regex::new(pattern)?;
        Ok(PathMatch::Location { pattern: Regex::new(&format!("(?i)^(?:{pattern})"))?, length })
    }

    /// A pattern for the whole path in a list with its own order; a rewrite replaces so much of the path.
    pub fn in_order(pattern: &str, prefix: usize) -> Result<Self, regex::Error> {
        Ok(PathMatch::InOrder { pattern: whole(pattern)?, prefix })
    }

    pub(super) fn takes(&self, path: &str) -> bool {
        match self {
            PathMatch::Exact(exact) => **exact == *path,
            PathMatch::Prefix(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathMatch::Pattern(pattern) | PathMatch::Location { pattern, .. } | PathMatch::InOrder { pattern, .. } => {
                pattern.is_match(path)
            }
        }
    }

    /// Length of the prefix that a rewrite replaces.
    pub(crate) fn prefix_len(&self) -> usize {
        match self {
            PathMatch::Prefix(prefix) => prefix.len(),
            PathMatch::InOrder { prefix, .. } => *prefix,
            PathMatch::Exact(_) | PathMatch::Pattern(_) | PathMatch::Location { .. } => 0,
        }
    }

    /// Length of the longest prefix that comes after it.
    pub(super) fn outranks(&self) -> usize {
        match self {
            PathMatch::Exact(_) | PathMatch::Pattern(_) | PathMatch::InOrder { .. } => usize::MAX,
            PathMatch::Location { length, .. } => *length,
            PathMatch::Prefix(prefix) => prefix.len(),
        }
    }
}

/// A condition on a value.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// The value as it is.
    Exact(Box<str>),
    /// A pattern for the whole value.
    Pattern(Regex),
}

impl ValueMatch {
    /// A pattern for the whole value.
    pub fn pattern(pattern: &str) -> Result<Self, regex::Error> {
        whole(pattern).map(ValueMatch::Pattern)
    }

    /// Whether a header fulfils it.
    pub(super) fn takes_header(&self, headers: &HeaderMap, name: &HeaderName) -> bool {
        takes_header(headers, name, self)
    }

    /// Whether a query parameter fulfils it.
    pub(super) fn takes_parameter(&self, query: Option<&str>, name: &str) -> bool {
        takes_parameter(query, name, self)
    }

    fn takes(&self, value: &str) -> bool {
        match self {
            ValueMatch::Exact(exact) => **exact == *value,
            ValueMatch::Pattern(pattern) => pattern.is_match(value),
        }
    }
}

fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}

/// All conditions of a match; each must hold.
#[derive(Clone, Debug)]
pub struct RequestMatch {
    /// Labels that the host must have: the wildcard of an Ingress stands for one label only.
    pub host_labels: Option<usize>,
    /// On the path.
    pub path: PathMatch,
    /// On the method.
    pub method: Option<Method>,
    /// On headers.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// On query parameters.
    pub query: Vec<(Box<str>, ValueMatch)>,
    /// On cookies.
    pub cookies: Vec<(Box<str>, ValueMatch)>,
    /// Which of the requests are a canary's.
    pub canary: Option<Arc<Canary>>,
}

impl RequestMatch {
    /// Takes every path below a prefix.
    pub fn prefix(path: &str) -> Self {
        RequestMatch {
            host_labels: None,
            path: PathMatch::prefix(path),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
            canary: None,
        }
    }

    /// Whether every condition holds; `random` draws for a canary.
    pub fn takes(&self, head: &RequestHead<'_>, random: u64) -> bool {
        self.path.takes(head.path)
            && self.host_labels.is_none_or(|labels| head.host.split('.').count() == labels)
            && self.method.as_ref().is_none_or(|method| method == head.method)
            && self.headers.iter().all(|(name, condition)| takes_header(head.headers, name, condition))
            && self.query.iter().all(|(name, condition)| takes_parameter(head.query, name, condition))
            && self.cookies.iter().all(|(name, condition)| takes_cookie(head.headers, name, condition))
            && self.canary.as_ref().is_none_or(|canary| canary.takes(head.headers, random))
    }
}

/// What decides between equally specific matches: the older object, then its name, then the order in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Seconds since 1970 at which the route was created.
    pub created: i64,
    /// `namespace/name` of the route.
    pub name: String,
    /// Index of the rule and of the match in it.
    pub order: (usize, usize),
}

/// Several values of one header count as their list, joined by commas.
fn takes_header(headers: &HeaderMap, name: &HeaderName, condition: &ValueMatch) -> bool {
    let mut values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    let Some(first) = values.next() else { return false };
    match values.next() {
        None => condition.takes(first),
        Some(second) => {
            let rest = values.fold(format!("{first},{second}"), |list, value| list + "," + value);
            condition.takes(&rest)
        }
    }
}

/// The first of several cookies of one name counts.
fn takes_cookie(headers: &HeaderMap, name: &str, condition: &ValueMatch) -> bool {
    cookie(headers, name).is_some_and(|value| condition.takes(value))
}

/// The first of several parameters of one name counts.
fn takes_parameter(query: Option<&str>, name: &str, condition: &ValueMatch) -> bool {
    let pairs = query.unwrap_or("").split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(key, _)| decoded(key) == name).map(|(_, value)| value);
    values.next().is_some_and(|value| condition.takes(&decoded(value)))
}

/// A query component without its percent encoding; `+` is a space there.
pub(super) fn decoded(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let escaped = match bytes[at] {
            b'%' => bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok()),
            _ => None,
        };
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}
