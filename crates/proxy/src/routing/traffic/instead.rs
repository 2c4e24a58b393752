//! Answers in place of those that say that something went wrong.

use std::ops::RangeInclusive;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::routing::{HeaderEdits, TextMatch};

/// Whose answers are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// All.
    All,
    /// The gateway's own.
    Own,
    /// Those of backends.
    Backends,
}

/// Another answer.
#[derive(Clone, Debug)]
pub struct Instead {
    /// Whose answers.
    pub whose: Whose,
    /// Those with one of these statuses; with any where none is named.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// Those with all of these headers.
    pub headers: Vec<(HeaderName, TextMatch)>,
    /// Another status.
    pub status: Option<StatusCode>,
    /// Another body.
    pub body: Option<Bytes>,
    /// The type of the body.
    pub kind: Option<HeaderValue>,
    /// Changes of the headers.
    pub edits: HeaderEdits,
    /// Where the client is sent instead.
    pub elsewhere: Option<Elsewhere>,
}

/// Where a client is sent instead of getting an answer; what is left open is as the client asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// The status that says so.
    pub status: StatusCode,
    /// The scheme.
    pub scheme: Option<Box<str>>,
    /// The host.
    pub host: Option<Box<str>>,
    /// The port; the scheme's own when absent.
    pub port: Option<u16>,
    /// The path; with it goes the query.
    pub path: Option<Box<str>>,
}

impl Elsewhere {
    /// The address that a client is sent to which asked for `path_and_query` at an authority.
    pub fn location(&self, tls: bool, authority: &str, path_and_query: &str) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(if tls { "https" } else { "http" });
        let path = self.path.as_deref().unwrap_or(path_and_query);
        let slash = if path.starts_with('/') { "" } else { "/" };
        match (&self.host, self.port) {
            (None, None) if self.scheme.is_none() => format!("{scheme}://{authority}{slash}{path}"),
            (host, port) => {
                let own = authority.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
                let host = host.as_deref().unwrap_or(own.map_or(authority, |(host, _)| host));
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                format!("{scheme}://{host}{port}{slash}{path}")
            }
        }
    }
}

impl Instead {
    /// Whether an answer is replaced.
    pub fn takes(&self, own: bool, status: StatusCode, headers: &HeaderMap) -> bool {
        let whose = match self.whose {
            Whose::All => true,
            Whose::Own => own,
            Whose::Backends => !own,
        };
        let has = |(name, value): &(HeaderName, TextMatch)| {
            let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.any(|found| value.takes(found))
        };
        whose
            && (self.statuses.is_empty() || self.statuses.iter().any(|range| range.contains(&status.as_u16())))
            && self.headers.iter().all(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_redirect_leaves_open_is_as_the_client_asked() {
        let elsewhere = |scheme: Option<&str>, host: Option<&str>, port, path: Option<&str>| Elsewhere {
            status: StatusCode::FOUND,
            scheme: scheme.map(Into::into),
            host: host.map(Into::into),
            port,
            path: path.map(Into::into),
        };
        for (to, expected) in [
            (elsewhere(None, None, None, None), "http://a.test:8080/x?y"),
            (elsewhere(Some("https"), None, None, None), "https://a.test/x?y"),
            (elsewhere(None, Some("b.test"), None, Some("/sorry")), "http://b.test/sorry"),
            (elsewhere(None, None, Some(81), Some("sorry")), "http://a.test:81/sorry"),
        ] {
            assert_eq!(to.location(false, "a.test:8080", "/x?y"), expected);
        }
    }
}
