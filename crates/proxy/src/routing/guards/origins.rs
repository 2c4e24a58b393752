//! From pages of which origins requests may come that change something (cross-site request forgery).

use http::{Method, StatusCode, header};

use super::{Entrant, Refusal};

/// The origins whose pages may send what changes something, besides the one that requests are for.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    hosts: Vec<HostMatch>,
    /// How many of a million are only looked at.
    shadow_ppm: u32,
}

/// A condition on the host and port of an origin, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HostMatch {
    Any,
    Exact(Box<str>),
    /// Hosts that end so.
    Below(Box<str>),
}

impl Origins {
    /// From origins as policies write them: `*`, or a scheme, which does not count, and a host whose first label may be `*`.
    pub fn new(origins: &[String]) -> Self {
        let hosts = origins.iter().map(|origin| {
            let origin = origin.to_ascii_lowercase();
            let host = origin.split_once("://").map_or(&*origin, |(_, host)| host);
            match host.strip_prefix('*') {
                Some("") => HostMatch::Any,
                Some(end) => HostMatch::Below(end.into()),
                None => HostMatch::Exact(host.into()),
            }
        });
        Origins { hosts: hosts.collect(), shadow_ppm: 0 }
    }

    /// Lets so many of a million requests pass whatever their origin is.
    #[must_use]
    pub fn in_shadow(mut self, ppm: u32) -> Self {
        self.shadow_ppm = ppm;
        self
    }

    pub(super) fn ask(&self, entrant: &Entrant<'_>) -> Result<(), Refusal> {
        let parts = &entrant.parts;
        let changes = matches!(parts.method, Method::POST | Method::PUT | Method::DELETE | Method::PATCH);
        if !changes || rand::random_range(0..1_000_000) < self.shadow_ppm {
            return Ok(());
        }
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        // Pages whose origin is not told say where they are.
        let origin = match host_of(text(header::ORIGIN)) {
            "" | "null" => host_of(text(header::REFERER)),
            origin => origin,
        };
        let origin = origin.to_ascii_lowercase();
        let own = entrant.authority.as_bytes().eq_ignore_ascii_case(origin.as_bytes());
        if !origin.is_empty() && (own || self.hosts.iter().any(|host| host.takes(&origin))) {
            return Ok(());
        }
        Err(Refusal::new(StatusCode::FORBIDDEN, "Invalid origin"))
    }
}

impl HostMatch {
    fn takes(&self, host: &str) -> bool {
        match self {
            HostMatch::Any => true,
            HostMatch::Exact(exact) => **exact == *host,
            HostMatch::Below(end) => host.strip_suffix(&**end).is_some_and(|rest| !rest.is_empty()),
        }
    }
}

/// Host and port of an origin or another URL.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    fn passes(origins: &Origins, method: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let authority = HeaderValue::from_static("shop.test:8080");
        let client = "10.0.0.7".parse().unwrap();
        let entrant = Entrant::new(&mut parts, ("shop.test", &authority), client, false);
        origins.ask(&entrant).is_ok()
    }

    #[test]
    fn what_changes_something_comes_from_pages_of_its_own_or_of_listed_origins() {
        let origins = Origins::new(&["https://a.test".to_owned(), "https://*.b.test:8443".to_owned()]);
        for (origin, expected) in [
            ("http://shop.test:8080", true),
            ("http://shop.test", false),
            ("http://A.test", true),
            ("https://a.test:1", false),
            ("https://x.y.b.test:8443", true),
            ("https://b.test:8443", false),
            ("https://evilb.test:8443", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(passes(&origins, "POST", &[("origin", origin)]), expected, "{origin}");
            assert!(passes(&origins, "GET", &[("origin", origin)]), "{origin}");
        }
        assert!(passes(&origins, "PUT", &[("origin", "null"), ("referer", "https://a.test/page?x=http://c.test")]));
        assert!(!passes(&origins, "PUT", &[("referer", "https://c.test/a.test")]));
        assert!(!passes(&origins, "DELETE", &[]));
        assert!(passes(&Origins::new(&["*".to_owned()]), "PATCH", &[("origin", "https://c.test")]));
        assert!(passes(&origins.in_shadow(1_000_000), "PATCH", &[("origin", "https://c.test")]));
    }
}
