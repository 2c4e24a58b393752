//! Which requests a canary takes from the rule that it stands beside.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use regex::Regex;

use super::{
    backend::Backend,
    cookies::cookie,
    traffic::{Session, Token},
};

/// Says that a request is the canary's, as the value of its header or cookie.
const ALWAYS: &str = "always";
/// Says that it is not.
const NEVER: &str = "never";

/// What makes a request the canary's: whose endpoint its client keeps, else its header, else its cookie, else the draw.
#[derive(Clone, Debug, Default)]
pub struct Canary {
    /// A header that decides.
    pub header: Option<(HeaderName, Values)>,
    /// A cookie that decides.
    pub cookie: Option<Box<str>>,
    /// Of so many requests that neither decided about,
    pub total: u32,
    /// so many are the canary's.
    pub weight: u32,
    /// Where clients keep their endpoint.
    pub kept: Option<HeldBy>,
}

/// How clients keep their endpoint, and whose endpoints there are.
#[derive(Clone, Debug)]
pub struct HeldBy {
    /// How.
    pub session: Arc<Session>,
    /// Those of the rule that the canary stands beside.
    pub main: Arc<Backend>,
    /// Its own.
    pub canary: Arc<Backend>,
}

impl HeldBy {
    /// Whether the client has one of the canary's; `None` when it has none that is there.
    fn by_canary(&self, headers: &HeaderMap) -> Option<bool> {
        // Whether the session has ended is for the client to know: this cookie goes when it does.
        let token = self.session.find(headers, 0)?;
        let has = |backend: &Backend| {
            backend.current().iter().any(|endpoint| Token::endpoint(backend.name(), *endpoint) == token.endpoint)
        };
        if has(&self.main) { Some(false) } else { has(&self.canary).then_some(true) }
    }
}

/// Values of the header that are the canary's.
#[derive(Clone, Debug)]
pub enum Values {
    /// `always`; and `never` is not.
    Named,
    /// This one.
    Exact(Box<str>),
    /// Those in which the pattern is found.
    Pattern(Regex),
}

impl Canary {
    pub(super) fn takes(&self, headers: &HeaderMap, random: u64) -> bool {
        if let Some(by_canary) = self.kept.as_ref().and_then(|kept| kept.by_canary(headers)) {
            return by_canary;
        }
        let by_header = self.header.as_ref().and_then(|(name, values)| {
            let value = headers.get(name)?.to_str().ok()?;
            match values {
                Values::Named => named(value),
                Values::Exact(exact) => (**exact == *value).then_some(true),
                Values::Pattern(pattern) => pattern.is_match(value).then_some(true),
            }
        });
        let by_cookie = || self.cookie.as_ref().and_then(|name| named(cookie(headers, name)?));
        // The lower half of the number draws among the backends of the rule.
        let drawn = || (random >> 32) % u64::from(self.total.max(1)) < u64::from(self.weight);
        by_header.or_else(by_cookie).unwrap_or_else(drawn)
    }
}

fn named(value: &str) -> Option<bool> {
    match value {
        ALWAYS => Some(true),
        NEVER => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn takes(canary: &Canary, headers: &[(&'static str, &'static str)], draw: u64) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        canary.takes(&map, draw << 32)
    }

    #[test]
    fn who_has_an_endpoint_keeps_it_before_all_else() {
        use crate::routing::Carrier;
        let of = |name: &str, address: &str| {
            let backend = Backend::new(name);
            backend.set_endpoints(vec![address.parse().unwrap()]);
            backend
        };
        let (main, canary) = (of("main", "10.0.0.1:80"), of("canary", "10.0.0.2:80"));
        let (name, attributes, path) = ("s".into(), "".into(), "/".into());
        let carrier = Carrier::Cookie { name, permanent: false, attributes, path, secure_as_sent: false };
        let session = Arc::new(Session { carrier, absolute: None, idle: None, keeps: true });
        let cookie = |backend: &Backend, address: &str| {
            let endpoint = Token::endpoint(backend.name(), address.parse().unwrap());
            session.tell(None, endpoint, 5, false).unwrap().1
        };
        let (of_main, of_canary) = (cookie(&main, "10.0.0.1:80"), cookie(&canary, "10.0.0.2:80"));
        let gone = cookie(&canary, "10.0.0.3:80");
        let kept = Some(HeldBy { session: Arc::clone(&session), main, canary });
        for (weight, sent, expected) in
            [(100, &of_main, false), (0, &of_canary, true), (0, &gone, false), (100, &gone, true)]
        {
            let canary = Canary { kept: kept.clone(), total: 100, weight, ..Canary::default() };
            let headers = HeaderMap::from_iter([(http::header::COOKIE, sent.clone())]);
            assert_eq!(canary.takes(&headers, 0), expected, "{weight} {sent:?}");
        }
    }

    #[test]
    fn header_decides_before_cookie_before_weight() {
        let header = |values| Some((HeaderName::from_static("x-canary"), values));
        let with = |values| Canary {
            header: header(values),
            cookie: Some("canary".into()),
            total: 100,
            weight: 30,
            kept: None,
        };
        let (always, never) = (("cookie", "canary=always"), ("cookie", "a=b; canary=never"));
        for (values, headers, draw, expected) in [
            (Values::Named, vec![], 29, true),
            (Values::Named, vec![], 30, false),
            (Values::Named, vec![], 129, true),
            (Values::Named, vec![("x-canary", "always")], 99, true),
            (Values::Named, vec![("x-canary", "never"), always], 0, false),
            (Values::Named, vec![("x-canary", "other"), always], 99, true),
            (Values::Named, vec![("x-canary", "other"), never], 0, false),
            (Values::Named, vec![("x-canary", "other"), ("cookie", "canary=x")], 0, true),
            (Values::Exact("de".into()), vec![("x-canary", "de"), never], 99, true),
            (Values::Exact("de".into()), vec![("x-canary", "always")], 99, false),
            (Values::Exact("de".into()), vec![("x-canary", "never")], 0, true),
            (Values::Pattern(Regex::new("a|b").unwrap()), vec![("x-canary", "xbx")], 99, true),
            (Values::Pattern(Regex::new("a|b").unwrap()), vec![("x-canary", "never"), always], 99, true),
        ] {
            assert_eq!(takes(&with(values.clone()), &headers, draw), expected, "{values:?} {headers:?} {draw}");
        }
        assert!(!takes(&Canary::default(), &[], 0), "nothing is taken by default");
    }
}
