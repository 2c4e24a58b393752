//! Requests that are done once.

use http::{HeaderMap, HeaderName};
use resilience::idempotency::Keeper;

use super::rule::Owner;
use crate::answers::Answers;

/// How requests with the same idempotency key are done once.
#[derive(Clone, Debug)]
pub struct Once {
    pub(crate) keeper: Keeper<Answers>,
    /// Whose route it is: keys of one route are none of another.
    pub(crate) owner: Owner,
    /// The headers that say who a caller is.
    pub(crate) callers: Vec<HeaderName>,
}

impl Once {
    /// Who sends a request: keys of one caller are none of another's.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Vec<u8> {
        let mut caller = Vec::new();
        let mut add = |text: &[u8]| {
            // Each with its length, so that no two callers run together to the same.
            caller.extend_from_slice(&(text.len() as u64).to_be_bytes());
            caller.extend_from_slice(text);
        };
        add(self.owner.kind.as_bytes());
        add(self.owner.name.as_bytes());
        for name in &self.callers {
            add(name.as_str().as_bytes());
            for value in headers.get_all(name) {
                add(value.as_bytes());
            }
        }
        caller
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use http::{HeaderValue, header::AUTHORIZATION};
    use resilience::idempotency::IdempotencyConfig;

    use super::*;
    use crate::answers::Stores;

    #[test]
    fn callers_are_told_apart_by_route_and_by_what_they_send() {
        let tenant = HeaderName::from_static("x-tenant");
        let once = |route: &str| Once {
            keeper: Keeper::new(IdempotencyConfig::default(), Stores::new(PathBuf::new()).embedded()).unwrap(),
            owner: Owner { kind: "HTTPRoute", name: route.into() },
            callers: vec![AUTHORIZATION, tenant.clone()],
        };
        let headers = |values: &[(&HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in values {
                headers.append(*name, HeaderValue::from_static(value));
            }
            headers
        };
        let all = [
            ("a/r", headers(&[])),
            ("a/s", headers(&[])),
            ("a/r", headers(&[(&AUTHORIZATION, "x")])),
            ("a/r", headers(&[(&tenant, "x")])),
            ("a/r", headers(&[(&AUTHORIZATION, "x"), (&tenant, "y")])),
            ("a/r", headers(&[(&AUTHORIZATION, "x"), (&AUTHORIZATION, "y")])),
            ("a/r", headers(&[(&AUTHORIZATION, "xy")])),
        ];
        let callers: std::collections::BTreeSet<_> =
            all.iter().map(|(route, headers)| once(route).caller(headers)).collect();
        assert_eq!(callers.len(), all.len());
        let other = headers(&[(&AUTHORIZATION, "x"), (&HeaderName::from_static("date"), "now")]);
        assert_eq!(once("a/r").caller(&other), once("a/r").caller(&all[2].1), "nothing else counts");
    }
}
