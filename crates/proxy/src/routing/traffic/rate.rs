//! How many requests there may be of whom.

use std::{net::IpAddr, time::Duration};

use http::{HeaderName, Method, StatusCode};
use resilience::{
    ConfigError, Moment,
    rate::{Limiter, Limiters, RateConfig},
};

use crate::routing::{Owner, PathMatch, RequestHead, ValueMatch};

/// Clients of one rule that are told apart at a time: some megabytes. With more, those that are new share one limit.
const CLIENTS: usize = 1 << 16;

/// Limits that a request is held against.
#[derive(Debug)]
pub struct Rates {
    rules: Vec<RateRule>,
    default_last: bool,
    /// What a request beyond is answered with.
    pub status: StatusCode,
}

/// A limit, and whom it is for.
#[derive(Debug)]
pub struct RateRule {
    /// All of them must hold.
    pub conditions: Vec<Condition>,
    /// By what clients are told apart; each gets the limit for itself.
    pub distinct: Vec<Distinct>,
    /// What a request costs.
    pub cost: u32,
    /// Whether it only counts and refuses nobody.
    pub shadow: bool,
    limit: Limit,
}

#[derive(Debug)]
enum Limit {
    Nobody,
    All(Limiter),
    Each(Limiters<Vec<u8>>),
}

/// Something that holds for a request, or with `invert` does not.
#[derive(Debug)]
pub struct Condition {
    /// What.
    pub what: What,
    /// Whether the opposite is meant.
    pub invert: bool,
}

/// What a condition looks at.
#[derive(Debug)]
pub enum What {
    /// A header.
    Header(HeaderName, ValueMatch),
    /// A query parameter.
    Query(Box<str>, ValueMatch),
    /// The method, which is one of these.
    Methods(Vec<Method>),
    /// The path.
    Path(PathMatch),
    /// The client's address.
    Source(Network),
}

/// By what clients are told apart.
#[derive(Debug)]
pub enum Distinct {
    /// The value of a header.
    Header(HeaderName),
    /// The value of a query parameter.
    Query(Box<str>),
    /// The client's address.
    Source,
    /// The route that takes the request: each has the limit for itself.
    Route,
}

/// The addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Out of `address/bits`, or an address alone.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok()).filter(|bits| *bits <= most)?;
        Some(Network { address, bits })
    }

    /// Whether it has an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(of), IpAddr::V4(other)) => {
                let differ = of.to_bits() ^ other.to_bits();
                differ.checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(of), IpAddr::V6(other)) => {
                let differ = of.to_bits() ^ other.to_bits();
                differ.checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl RateRule {
    /// So many requests per time, for everybody together or, with `distinct`, for each; 0 refuses all.
    ///
    /// # Errors
    /// When the numbers make no sense; it names the field.
    pub fn new(
        requests: u32,
        per: Duration,
        conditions: Vec<Condition>,
        distinct: Vec<Distinct>,
    ) -> Result<Self, ConfigError> {
        RateRule::with_burst(requests, per, requests, conditions, distinct)
    }

    /// The same, of which so many may come at once.
    ///
    /// # Errors
    /// When the numbers make no sense; it names the field.
    pub fn with_burst(
        requests: u32,
        per: Duration,
        burst: u32,
        conditions: Vec<Condition>,
        distinct: Vec<Distinct>,
    ) -> Result<Self, ConfigError> {
        let config = RateConfig { requests, per, burst };
        let limit = match (requests, &*distinct) {
            (0, _) => Limit::Nobody,
            (_, []) => Limit::All(Limiter::new(config)?),
            _ => Limit::Each(Limiters::new(config, CLIENTS)?),
        };
        Ok(RateRule { conditions, distinct, cost: 1, shadow: false, limit })
    }

    fn is_for_everybody(&self) -> bool {
        self.conditions.is_empty() && self.distinct.iter().all(|distinct| matches!(distinct, Distinct::Route))
    }

    fn takes(&self, head: &RequestHead<'_>, source: IpAddr) -> bool {
        self.conditions.iter().all(|condition| {
            let holds = match &condition.what {
                What::Header(name, value) => value.takes_header(head.headers, name),
                What::Query(name, value) => value.takes_parameter(head.query, name),
                What::Methods(methods) => methods.contains(head.method),
                What::Path(path) => path.takes(head.path),
                What::Source(network) => network.contains(source),
            };
            holds != condition.invert
        })
    }

    /// Who a request is from, as far as this rule tells clients apart; `None` for one without what it does so by.
    fn client(&self, head: &RequestHead<'_>, source: IpAddr, route: &Owner) -> Option<Vec<u8>> {
        let mut client = Vec::new();
        for distinct in &self.distinct {
            match distinct {
                Distinct::Header(name) => client.extend_from_slice(head.headers.get(name)?.as_bytes()),
                Distinct::Query(name) => {
                    let mut pairs = head.query?.split('&').filter_map(|pair| pair.split_once('='));
                    client.extend_from_slice(pairs.find(|(key, _)| **key == **name)?.1.as_bytes());
                }
                Distinct::Source => client.extend_from_slice(source.to_canonical().to_string().as_bytes()),
                Distinct::Route => {
                    client.extend_from_slice(route.kind.as_bytes());
                    client.extend_from_slice(route.name.as_bytes());
                }
            }
            client.push(0);
        }
        Some(client)
    }

    /// # Errors
    /// With the time until there is room.
    fn count(&self, now: Moment, client: &[u8]) -> Result<(), Duration> {
        match &self.limit {
            Limit::Nobody => Err(Duration::MAX),
            Limit::All(limiter) => limiter.take(now, self.cost),
            Limit::Each(limiters) => limiters.take(now, client, self.cost),
        }
    }
}

impl Rates {
    /// With `default_last` a rule for everybody counts only those requests that no other rule takes.
    pub fn new(mut rules: Vec<RateRule>, default_last: bool) -> Self {
        rules.sort_by_key(RateRule::is_for_everybody);
        Rates { rules, default_last, status: StatusCode::TOO_MANY_REQUESTS }
    }

    /// Counts a request. Every rule that takes it does, also when another refuses it.
    ///
    /// # Errors
    /// With the time until there is room; [`Duration::MAX`] where there never will be.
    pub fn admit(&self, now: Moment, head: &RequestHead<'_>, source: IpAddr, route: &Owner) -> Result<(), Duration> {
        let (mut outcome, mut taken) = (Ok(()), false);
        for rule in &self.rules {
            if self.default_last && taken && rule.is_for_everybody() {
                continue;
            }
            if !rule.takes(head, source) {
                continue;
            }
            let Some(client) = rule.client(head, source, route) else { continue };
            taken = true;
            if let Err(wait) = rule.count(now, &client)
                && !rule.shadow
            {
                outcome = Err(outcome.err().map_or(wait, |longest: Duration| longest.max(wait)));
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    const NOW: Moment = Moment::from_nanos(1 << 50);
    const MINUTE: Duration = Duration::from_secs(60);

    fn ask(rates: &Rates, method: &Method, path: &str, user: Option<&'static str>, source: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.extend(user.map(|user| (HeaderName::from_static("x-user"), HeaderValue::from_static(user))));
        let head = RequestHead { host: "h", method, path, query: None, headers: &headers };
        rates.admit(NOW, &head, source.parse().unwrap(), &owner("a")).is_ok()
    }

    fn owner(name: &str) -> Owner {
        Owner { kind: "HTTPRoute", name: name.into() }
    }

    #[test]
    fn each_route_has_a_limit_for_itself_where_it_is_said() {
        let headers = HeaderMap::new();
        let head = RequestHead { host: "h", method: &Method::GET, path: "/", query: None, headers: &headers };
        for (distinct, expected) in [(vec![], [true, false, false]), (vec![Distinct::Route], [true, false, true])] {
            let rates = Rates::new(vec![rule(1, vec![], distinct)], true);
            let source = "10.0.0.1".parse().unwrap();
            let admitted = ["a", "a", "b"].map(|route| rates.admit(NOW, &head, source, &owner(route)).is_ok());
            assert_eq!(admitted, expected);
        }
    }

    fn rule(requests: u32, conditions: Vec<(What, bool)>, distinct: Vec<Distinct>) -> RateRule {
        let conditions = conditions.into_iter().map(|(what, invert)| Condition { what, invert }).collect();
        RateRule::new(requests, MINUTE, conditions, distinct).unwrap()
    }

    #[test]
    fn everybody_shares_a_limit_or_has_one_each() {
        let shared = Rates::new(vec![rule(2, vec![], vec![])], true);
        let answers = [1, 2, 3].map(|n| ask(&shared, &Method::GET, "/", None, &format!("10.0.0.{n}")));
        assert_eq!(answers, [true, true, false]);
        let each = Rates::new(vec![rule(1, vec![], vec![Distinct::Source])], true);
        let answers = ["10.0.0.1", "10.0.0.2", "10.0.0.1"].map(|source| ask(&each, &Method::GET, "/", None, source));
        assert_eq!(answers, [true, true, false]);
        let users = vec![Distinct::Header(HeaderName::from_static("x-user"))];
        let users = Rates::new(vec![rule(1, vec![], users)], true);
        let answers =
            [Some("a"), Some("b"), Some("a"), None, None].map(|user| ask(&users, &Method::GET, "/", user, "::1"));
        assert_eq!(answers, [true, true, false, true, true], "who has no name is not counted");
    }

    #[test]
    fn conditions_say_whom_a_limit_is_for() {
        let network = Network::parse("10.1.0.0/16").unwrap();
        for (what, invert, taken, left) in [
            (What::Methods(vec![Method::POST]), false, (Method::POST, "/", "10.0.0.1"), (Method::GET, "/", "10.0.0.1")),
            (What::Methods(vec![Method::POST]), true, (Method::GET, "/", "10.0.0.1"), (Method::POST, "/", "10.0.0.1")),
            (What::Path(PathMatch::prefix("/a")), false, (Method::GET, "/a/b", "::1"), (Method::GET, "/b", "::1")),
            (What::Source(network), false, (Method::GET, "/", "10.1.9.9"), (Method::GET, "/", "10.2.0.0")),
        ] {
            let rates = Rates::new(vec![rule(0, vec![(what, invert)], vec![])], true);
            assert!(!ask(&rates, &taken.0, taken.1, None, taken.2), "{rates:?}");
            assert!(ask(&rates, &left.0, left.1, None, left.2), "{rates:?}");
        }
    }

    #[test]
    fn a_local_rule_for_everybody_is_for_those_whom_no_other_takes() {
        let rules =
            || vec![rule(1, vec![], vec![]), rule(3, vec![(What::Path(PathMatch::prefix("/a")), false)], vec![])];
        let count = |default_last, path| {
            let rates = Rates::new(rules(), default_last);
            (0..9).filter(|_| ask(&rates, &Method::GET, path, None, "::1")).count()
        };
        assert_eq!((count(true, "/a"), count(true, "/b")), (3, 1));
        assert_eq!((count(false, "/a"), count(false, "/b")), (1, 1));
    }

    #[test]
    fn shadows_refuse_nobody_and_a_cost_counts_as_often() {
        let shadow = RateRule { shadow: true, ..rule(0, vec![], vec![]) };
        let dear = RateRule { cost: 2, ..rule(4, vec![], vec![]) };
        let rates = Rates::new(vec![shadow, dear], false);
        assert_eq!((0..9).filter(|_| ask(&rates, &Method::GET, "/", None, "::1")).count(), 2);
    }

    #[test]
    fn networks_are_addresses_that_begin_alike() {
        for (network, address, contains) in [
            ("0.0.0.0/0", "1.2.3.4", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.0/31", "10.0.0.1", true),
            ("10.0.0.0/8", "::ffff:10.2.3.4", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "1.2.3.4", false),
        ] {
            assert_eq!(
                Network::parse(network).unwrap().contains(address.parse().unwrap()),
                contains,
                "{network} {address}"
            );
        }
        assert!(["", "x", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8"].iter().all(|text| Network::parse(text).is_none()));
    }
}
