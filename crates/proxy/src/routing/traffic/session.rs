//! How requests of one client find the same endpoint again (GEP-1619): by a token that names it, which the client keeps.
//!
//! The token says nothing that the client could learn from, and it is worth nothing to who forges one: it leads to an
//! endpoint that the route leads to anyway.

use std::{net::SocketAddr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use resilience::balance::hash;

use crate::routing::cookie;

/// How a client keeps its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A cookie of this name.
    Cookie {
        /// The name.
        name: Box<str>,
        /// Whether it outlives the browser's session, for the session's longest time.
        permanent: bool,
        /// What besides is said about it, such as `SameSite=Lax`.
        attributes: Box<str>,
        /// The path that it is for.
        path: Box<str>,
        /// Whether it is for encrypted connections only when it was given out over one.
        secure_as_sent: bool,
    },
    /// A header of this name, which the client sends as it was sent to it.
    Header(HeaderName),
}

/// How long a client finds the same endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// How it keeps its token.
    pub carrier: Carrier,
    /// From its first request on.
    pub absolute: Option<Duration>,
    /// From its last request on.
    pub idle: Option<Duration>,
    /// It stays with its endpoint when another one had to answer.
    pub keeps: bool,
}

/// What a client was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its endpoint.
    pub endpoint: u64,
    /// When its session began, in seconds since 1970.
    pub began: u64,
}

impl Token {
    /// What an endpoint of a backend is called in tokens: the same everywhere, and after every restart.
    pub fn endpoint(backend: &str, address: SocketAddr) -> u64 {
        hash(address.to_string().as_bytes(), hash(backend.as_bytes(), 0))
    }
}

impl Session {
    /// The token in a request whose session has not ended; `now` in seconds since 1970.
    pub fn find(&self, headers: &HeaderMap, now: u64) -> Option<Token> {
        let text = match &self.carrier {
            Carrier::Cookie { name, .. } => cookie(headers, name)?,
            Carrier::Header(name) => headers.get(name)?.to_str().ok()?,
        };
        let mut numbers = text.split('-').map(|number| u64::from_str_radix(number, 16));
        let (endpoint, began, used) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        let ended = |since: u64, limit: Option<Duration>| {
            limit.is_some_and(|limit| now.saturating_sub(since) >= limit.as_secs().max(1))
        };
        (!ended(began, self.absolute) && !ended(used, self.idle)).then_some(Token { endpoint, began })
    }

    /// The header that tells a client its token, when `sent` is what it sent and `endpoint` is who answered. `None` when
    /// the client knows already.
    pub fn tell(&self, sent: Option<Token>, endpoint: u64, now: u64, tls: bool) -> Option<(HeaderName, HeaderValue)> {
        let began = match sent {
            Some(token) if token.endpoint == endpoint && self.idle.is_none() => return None,
            Some(token) if token.endpoint == endpoint => token.began,
            _ => now,
        };
        let token = format!("{endpoint:x}-{began:x}-{now:x}");
        match &self.carrier {
            Carrier::Header(name) => Some((name.clone(), HeaderValue::try_from(token).ok()?)),
            Carrier::Cookie { name, permanent, attributes, path, secure_as_sent } => {
                let mut text = format!("{name}={token}; Path={path}; HttpOnly");
                if let (true, Some(absolute)) = (permanent, self.absolute) {
                    let left = (began + absolute.as_secs()).saturating_sub(now);
                    text += &format!("; Max-Age={left}");
                }
                text += attributes;
                if *secure_as_sent && tls {
                    text += "; Secure";
                }
                Some((header::SET_COOKIE, HeaderValue::try_from(text).ok()?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(permanent: bool, absolute: Option<u64>, idle: Option<u64>) -> Session {
        let (attributes, path) = ("".into(), "/".into());
        let carrier = Carrier::Cookie { name: "s".into(), permanent, attributes, path, secure_as_sent: true };
        let limit = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        Session { carrier, absolute: limit(absolute), idle: limit(idle), keeps: false }
    }

    /// What the client sends back of what it was told.
    fn returned((_, value): &(HeaderName, HeaderValue)) -> HeaderMap {
        let pair = value.to_str().unwrap().split(';').next().unwrap().to_owned();
        HeaderMap::from_iter([(header::COOKIE, HeaderValue::try_from(format!("other=1; {pair}")).unwrap())])
    }

    #[test]
    fn a_client_finds_its_endpoint_until_its_session_ends() {
        for (absolute, idle, after, found) in [
            (None, None, 1_000_000, true),
            (Some(60), None, 59, true),
            (Some(60), None, 60, false),
            (None, Some(10), 9, true),
            (None, Some(10), 10, false),
        ] {
            let session = session(false, absolute, idle);
            let told = session.tell(None, 7, 1000, false).unwrap();
            let token = session.find(&returned(&told), 1000 + after);
            assert_eq!(token, found.then_some(Token { endpoint: 7, began: 1000 }), "{absolute:?} {idle:?} {after}");
        }
    }

    #[test]
    fn use_prolongs_what_ends_when_idle_but_not_what_ends_in_any_case() {
        let session = session(true, Some(30), Some(10));
        let told = session.tell(None, 7, 1000, false).unwrap();
        let token = session.find(&returned(&told), 1008);
        let again = session.tell(token, 7, 1008, false).unwrap();
        assert_eq!(session.find(&returned(&again), 1017).unwrap().began, 1000);
        let text = again.1.to_str().unwrap();
        assert_eq!(text, "s=7-3e8-3f0; Path=/; HttpOnly; Max-Age=22");
        let text = session.tell(None, 7, 1008, true).unwrap().1;
        assert!(text.to_str().unwrap().ends_with("; Max-Age=30; Secure"), "over TLS it is for TLS only");
        let moved = session.tell(token, 8, 1009, false).unwrap();
        assert_eq!(session.find(&returned(&moved), 1009), Some(Token { endpoint: 8, began: 1009 }));
    }

    #[test]
    fn who_knows_is_not_told_and_nonsense_is_no_token() {
        let session = session(false, None, None);
        assert_eq!(session.tell(Some(Token { endpoint: 7, began: 1 }), 7, 5, false), None);
        for text in ["s=", "s=7", "s=7-x-1", "s=--", "t=7-1-1", "s=fffffffffffffffff-1-1"] {
            let headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static(text))]);
            assert_eq!(session.find(&headers, 5), None, "{text}");
        }
        let header = Session { carrier: Carrier::Header(HeaderName::from_static("x-session")), ..session };
        let (name, value) = header.tell(None, 9, 5, false).unwrap();
        assert_eq!(header.find(&HeaderMap::from_iter([(name, value)]), 6), Some(Token { endpoint: 9, began: 5 }));
    }
}
