//! Which endpoint a request goes to.

use std::net::IpAddr;

use http::HeaderName;
use resilience::balance::hash;

use crate::routing::{Origin, RequestHead, Template, cookie};

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
    /// One of so many for the same key.
    Few(HashKey, u32),
}

/// What a key is made of.
#[derive(Clone, Copy, Debug)]
pub struct Keyed<'a> {
    /// The request.
    pub head: RequestHead<'a>,
    /// Whether it came over TLS, and to which port.
    pub at: (bool, u16),
    /// The client's address.
    pub source: IpAddr,
}

impl Balance {
    /// The key of a request as a number; `None` where any endpoint will do.
    pub fn key(&self, request: Keyed<'_>, random: u64) -> Option<u64> {
        match self {
            Balance::Hash(key) => key.of(request),
            // A key of its own for each of the few that a key stands for.
            Balance::Few(key, count) => {
                let draw = random % u64::from((*count).max(1));
                key.of(request).map(|key| hash(&key.to_le_bytes(), draw))
            }
            Balance::Turns | Balance::Random | Balance::LeastRequest | Balance::Fastest => None,
        }
    }
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
    /// A text with parts of the request in it.
    Text(Template),
}

impl HashKey {
    /// The key of a request as a number; `None` when the request has none, and any endpoint will do.
    pub fn of(&self, Keyed { head, at: (tls, port), source }: Keyed<'_>) -> Option<u64> {
        let RequestHead { headers, query, .. } = head;
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
            HashKey::Text(template) => {
                let origin =
                    Origin { tls, host: head.host, port, path: head.path, query, client: Some(source.to_canonical()) };
                Some(hash(template.render(&head, origin).as_bytes(), 0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::{HeaderMap, HeaderValue, Method};

    use super::*;

    #[test]
    fn requests_have_the_key_of_what_they_have_in_common() {
        let key = |of: &HashKey, headers: &[(&'static str, &'static str)], query: Option<&str>, source: [u8; 4]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            let head = RequestHead { host: "h", method: &Method::GET, path: "/p", query, headers: &map };
            of.of(Keyed { head, at: (false, 80), source: source.into() })
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
        let text = |text| HashKey::Text(Template::parse(text, &|_| None).unwrap());
        let (target, client) = (text("${request_uri}-x"), text("$remote_addr$http_x_user"));
        assert_eq!(key(&target, &[("x", "1")], Some("u=1"), a), key(&target, &[], Some("u=1"), b));
        assert_ne!(key(&target, &[], Some("u=1"), a), key(&target, &[], Some("u=2"), a));
        assert_ne!(key(&client, &[], None, a), key(&client, &[], None, b));
        assert_ne!(key(&client, &[], None, a), key(&client, &[("x-user", "1")], None, a));
    }

    #[test]
    fn a_key_stands_for_so_many_others() {
        let few = Balance::Few(HashKey::Source, 3);
        let headers = HeaderMap::new();
        let head = RequestHead { host: "h", method: &Method::GET, path: "/", query: None, headers: &headers };
        let keys = |source: [u8; 4]| -> BTreeSet<_> {
            (0..90).map(|random| few.key(Keyed { head, at: (false, 80), source: source.into() }, random)).collect()
        };
        assert_eq!(keys([10, 0, 0, 1]).len(), 3);
        assert!(keys([10, 0, 0, 1]).is_disjoint(&keys([10, 0, 0, 2])));
    }
}
