//! A map from hostname patterns, most specific first.

use std::borrow::Cow;

use super::cow::CowMap;

/// Values by exact hostname, by wildcard (`*.example.com`), and for every other hostname.
///
/// A wildcard stands for one or more labels; a longer one is more specific. Names are kept in lower case. Clones share
/// what did not change.
#[derive(Clone, Debug)]
pub struct Hosts<T> {
    exact: CowMap<T>,
    /// By what follows `*.`.
    wildcard: CowMap<T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Hosts { exact: CowMap::default(), wildcard: CowMap::default(), any: None }
    }
}

impl<T: Clone> Hosts<T> {
    /// Changes the value of a pattern; `None` or an empty pattern is every hostname. What is left absent is removed.
    pub fn change(&mut self, pattern: Option<&str>, change: impl FnOnce(&mut Option<T>)) {
        let pattern = lower(pattern.unwrap_or(""));
        match pattern.strip_prefix("*.") {
            _ if pattern.is_empty() || pattern == "*" => change(&mut self.any),
            Some(suffix) => self.wildcard.change(suffix, change),
            None => self.exact.change(&pattern, change),
        }
    }

    /// The value of a pattern itself.
    pub fn get(&self, pattern: Option<&str>) -> Option<&T> {
        let pattern = lower(pattern.unwrap_or(""));
        match pattern.strip_prefix("*.") {
            _ if pattern.is_empty() || pattern == "*" => self.any.as_ref(),
            Some(suffix) => self.wildcard.get(suffix),
            None => self.exact.get(&pattern),
        }
    }

    /// The values whose pattern matches `host` (in lower case), the most specific first.
    pub fn matching<'a, 'h>(&'a self, host: &'h str) -> impl Iterator<Item = &'a T> + use<'a, 'h, T> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(host) };
        let first = if self.wildcard.is_empty() { None } else { host.split_once('.') };
        let suffixes = std::iter::successors(first, |(_, rest)| rest.split_once('.')).take(LABELS);
        let wildcards = suffixes.filter_map(|(_, suffix)| self.wildcard.get(suffix));
        exact.into_iter().chain(wildcards).chain(&self.any)
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.any.is_none()
    }

    /// All patterns and their values.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'_, str>, &T)> {
        let exact = self.exact.iter().map(|(host, value)| (Cow::Borrowed(host), value));
        let wildcard = self.wildcard.iter().map(|(suffix, value)| (Cow::Owned(format!("*.{suffix}")), value));
        exact.chain(wildcard).chain(self.any.iter().map(|value| (Cow::Borrowed(""), value)))
    }
}

/// Labels of a hostname that are looked at: more than a name in DNS can have, so that no client makes a lookup long.
const LABELS: usize = 128;

fn lower(pattern: &str) -> Cow<'_, str> {
    if pattern.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(pattern.to_ascii_lowercase())
    } else {
        Cow::Borrowed(pattern)
    }
}

/// Whether a hostname pattern covers another one, as listener and route hostnames do: equal, or a wildcard over it.
pub(crate) fn covers(pattern: &str, host: &str) -> bool {
    if pattern == host {
        return true;
    }
    let Some(suffix) = pattern.strip_prefix("*.") else { return false };
    let host = host.strip_prefix("*.").unwrap_or(host);
    // `*.example.com` covers `*.example.com` (above), `a.example.com` and `*.a.example.com`, but not `example.com`.
    host.len() > suffix.len() + 1 && host.ends_with(suffix) && host.as_bytes()[host.len() - suffix.len() - 1] == b'.'
}

/// Whether some hostname is one of both patterns; an absent pattern is every hostname.
pub(crate) fn overlap(one: Option<&str>, other: Option<&str>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => covers(one, other) || covers(other, one),
        (None, _) | (_, None) => true,
    }
}

/// A route's hostnames that have some hostname in common with a listener's. `None` stands for every hostname; an empty
/// result for nothing in common.
///
/// They stay as the route has them, though only what the listener admits comes to them: of two routes the one with the
/// more specific hostname of its own goes first, even where the listener's is more specific than both.
pub(crate) fn shared(listener: Option<&str>, route: &[String]) -> Vec<Option<String>> {
    if route.is_empty() {
        return vec![None];
    }
    let listener = listener.filter(|listener| !listener.is_empty()).map(str::to_ascii_lowercase);
    let mut hosts = Vec::new();
    for host in route.iter().map(|host| host.to_ascii_lowercase()) {
        if overlap(listener.as_deref(), Some(&host)) && !hosts.contains(&Some(host.clone())) {
            hosts.push(Some(host));
        }
    }
    hosts
}
