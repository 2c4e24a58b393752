//! A map from hostname patterns, most specific first.

use std::collections::HashMap;

/// Values by exact hostname, by wildcard (`*.example.com`), and for every other hostname.
///
/// A wildcard stands for one or more labels; a longer one is more specific. Names are kept in lower case.
#[derive(Clone, Debug)]
pub struct Hosts<T> {
    exact: HashMap<Box<str>, T>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Hosts { exact: HashMap::new(), wildcard: HashMap::new(), any: None }
    }
}

impl<T> Hosts<T> {
    /// The value for a pattern, made when it is missing; `None` or an empty pattern is every hostname.
    pub fn entry(&mut self, pattern: Option<&str>, make: impl FnOnce() -> T) -> &mut T {
        let pattern = pattern.unwrap_or("").to_ascii_lowercase();
        if pattern.is_empty() || pattern == "*" {
            return self.any.get_or_insert_with(make);
        }
        match pattern.strip_prefix("*.") {
            Some(suffix) => self.wildcard.entry(suffix.into()).or_insert_with(make),
            None => self.exact.entry(pattern.into()).or_insert_with(make),
        }
    }

    /// The values whose pattern matches `host` (in lower case), the most specific first.
    pub fn matching<'a, 'h>(&'a self, host: &'h str) -> impl Iterator<Item = &'a T> + use<'a, 'h, T> {
        let suffixes = std::iter::successors(host.split_once('.'), |(_, rest)| rest.split_once('.'));
        let wildcards = suffixes.filter_map(|(_, suffix)| self.wildcard.get(suffix));
        self.exact.get(host).into_iter().chain(wildcards).chain(&self.any)
    }

    /// All values.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.exact.values_mut().chain(self.wildcard.values_mut()).chain(&mut self.any)
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

/// The hostnames under which a route is reachable through a listener: the intersection of both sides' patterns, each the
/// more specific of the two. `None` stands for every hostname; an empty result for no intersection.
pub(crate) fn intersect(listener: Option<&str>, route: &[String]) -> Vec<Option<String>> {
    let Some(listener) = listener.filter(|l| !l.is_empty()).map(str::to_ascii_lowercase) else {
        return if route.is_empty() {
            vec![None]
        } else {
            route.iter().map(|h| Some(h.to_ascii_lowercase())).collect()
        };
    };
    if route.is_empty() {
        return vec![Some(listener)];
    }
    let mut hosts = Vec::new();
    for host in route.iter().map(|h| h.to_ascii_lowercase()) {
        if covers(&listener, &host) {
            hosts.push(Some(host));
        } else if covers(&host, &listener) {
            hosts.push(Some(listener.clone()));
        }
    }
    hosts.dedup();
    hosts
}
