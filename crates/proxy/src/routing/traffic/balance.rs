//! Which endpoint a request goes to.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use resilience::balance::hash;

use crate::routing::cookie;

/// How an endpoint is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    Turns,
    /// Any.
    Random,
    /// Of two that are drawn the one with fewer requests under way.
    LeastRequest,
    /// Of two that are drawn the one that would answer sooner, by how long it took lately and what is under way there.
    Fastest,
    /// The same one for the same key.
    Hash(HashKey),
}

/// What requests must have in common to be sent to the same endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address.
    Source,
    /// The values of these headers.
    Headers(Box<[HeaderName]>),
    /// The value of a cookie.
    Cookie(Box<str>),
    /// The values of these query parameters.
    Query(Box<[Box<str>]>),
}

impl HashKey {
    /// The key of a request as a number; `None` when the request has none, and any endpoint will do.
    pub fn of(&self, headers: &HeaderMap, query: Option<&str>, source: IpAddr) -> Option<u64> {
        let joined = |hashes: &mut dyn Iterator<Item = u64>| hashes.reduce(|all, one| all.rotate_left(1) ^ one);
        match self {
            HashKey::Source => Some(match source.to_canonical() {
                IpAddr::V4(address) => hash(&address.octets(), 0),
                IpAddr::V6(address) => hash(&address.octets(), 0),
            }),
            HashKey::Headers(names) => {
                let values = names.iter().flat_map(|name| headers.get_all(name));
                joined(&mut values.map(|value| hash(value.as_bytes(), 0)))
            }
            HashKey::Cookie(name) => cookie(headers, name).map(|value| hash(value.as_bytes(), 0)),
            HashKey::Query(names) => {
                let pairs = || query.unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
                let value = |name: &str| pairs().find(|(key, _)| *key == name).map(|(_, value)| value);
                let values = names.iter().filter_map(|name| value(name));
                joined(&mut values.map(|value| hash(value.as_bytes(), 0)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn requests_have_the_key_of_what_they_have_in_common() {
        let key = |of: &HashKey, headers: &[(&'static str, &'static str)], query: Option<&str>, source: [u8; 4]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            of.of(&map, query, source.into())
        };
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let source = HashKey::Source;
        assert_eq!(key(&source, &[("x", "1")], None, a), key(&source, &[], Some("q"), a));
        assert_ne!(key(&source, &[], None, a), key(&source, &[], None, b));
        let header = HashKey::Headers([HeaderName::from_static("x-user")].into());
        assert_eq!(key(&header, &[("x-user", "1")], None, a), key(&header, &[("x-user", "1"), ("y", "2")], None, b));
        assert_ne!(key(&header, &[("x-user", "1")], None, a), key(&header, &[("x-user", "2")], None, a));
        assert_eq!(key(&header, &[("y", "1")], None, a), None, "without the header any endpoint will do");
        let cookie = HashKey::Cookie("id".into());
        let same = key(&cookie, &[("cookie", "a=b; id=7")], None, a);
        assert_eq!(same, key(&cookie, &[("cookie", "x=y"), ("cookie", "id=7")], None, b));
        assert!(same.is_some() && key(&cookie, &[("cookie", "idx=7")], None, a).is_none());
        let query = HashKey::Query(["u".into(), "v".into()].into());
        assert_eq!(key(&query, &[], Some("u=1&z=3&v=2"), a), key(&query, &[], Some("v=2&u=1"), b));
        assert_ne!(key(&query, &[], Some("u=1&v=2"), a), key(&query, &[], Some("u=2&v=1"), a));
        assert_eq!(key(&query, &[], None, a), None);
    }
}
