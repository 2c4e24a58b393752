//! Who a client is, where others speak for it.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};

use crate::routing::Network;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// How a client's address is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AddressBy {
    /// By its connection.
    #[default]
    Connection,
    /// By the entry of `X-Forwarded-For` that is so many from the right: so many proxies are in front.
    Hops(usize),
    /// By the last entry of `X-Forwarded-For` that is not of these proxies.
    Proxies(Vec<Network>),
    /// By a header; whether requests without it are refused.
    Header(HeaderName, bool),
}

/// A client's address, and whether it was told by somebody who is believed.
pub(crate) type Known = (IpAddr, bool);

impl AddressBy {
    /// The client of a request that came over a connection from `direct`; `None` when it must be told and is not.
    pub(crate) fn find(&self, direct: IpAddr, headers: &HeaderMap) -> Option<Known> {
        let direct = direct.to_canonical();
        match self {
            AddressBy::Connection => Some((direct, false)),
            AddressBy::Hops(hops) => {
                let told = entries(headers).nth(hops.saturating_sub(1)).and_then(address);
                Some(told.map_or((direct, false), |told| (told, true)))
            }
            AddressBy::Proxies(proxies) => Some(behind(proxies, direct, headers)),
            AddressBy::Header(name, required) => {
                let mut values = headers.get_all(name).iter();
                // Of several nobody knows which one is meant.
                let value = values.next().filter(|_| values.next().is_none());
                match value.and_then(|value| address(value.to_str().ok()?.trim())) {
                    Some(told) => Some((told, true)),
                    None => (!required).then_some((direct, false)),
                }
            }
        }
    }
}

/// The entries of all headers of the name, the last one first.
fn entries(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(FORWARDED_FOR).iter().collect::<Vec<_>>().into_iter().rev();
    values.flat_map(|value| value.to_str().unwrap_or("").rsplit(',')).map(str::trim)
}

/// An address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let alone = text.parse().ok();
    let address: IpAddr = alone.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(address.to_canonical())
}

fn behind(proxies: &[Network], direct: IpAddr, headers: &HeaderMap) -> Known {
    let is_proxy = |address: IpAddr| proxies.iter().any(|network| network.contains(address));
    if !is_proxy(direct) {
        return (direct, false);
    }
    let mut known = (direct, false);
    for entry in entries(headers) {
        // What is no address was not written by a proxy; the one that passed it on is the last that is known.
        let Some(told) = address(entry) else { break };
        known = (told, true);
        if !is_proxy(told) {
            break;
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn find(by: &AddressBy, direct: &str, values: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
        }
        by.find(direct.parse().unwrap(), &headers).map(|(address, trusted)| format!("{address} {trusted}"))
    }

    #[test]
    fn hops_are_counted_from_the_right_over_all_headers() {
        let told = ["203.0.113.128, 203.0.113.10", "203.0.113.1"];
        for (hops, expected) in
            [(1, "203.0.113.1 true"), (2, "203.0.113.10 true"), (3, "203.0.113.128 true"), (4, "10.0.0.1 false")]
        {
            assert_eq!(find(&AddressBy::Hops(hops), "10.0.0.1", &told).as_deref(), Some(expected), "{hops}");
        }
        assert_eq!(find(&AddressBy::Hops(1), "::ffff:10.0.0.1", &["who"]).as_deref(), Some("10.0.0.1 false"));
        assert_eq!(find(&AddressBy::Hops(1), "10.0.0.1", &["[2001:db8::1]:4711"]).as_deref(), Some("2001:db8::1 true"));
    }

    #[test]
    fn what_proxies_add_is_believed_up_to_the_first_that_is_none() {
        let by = AddressBy::Proxies(vec![Network::parse("10.0.0.0/8").unwrap()]);
        for (direct, told, expected) in [
            ("10.0.0.1", vec!["1.1.1.1, 2.2.2.2, 10.0.0.2"], "2.2.2.2 true"),
            ("10.0.0.1", vec!["10.0.0.9, 10.0.0.2"], "10.0.0.9 true"),
            ("10.0.0.1", vec![], "10.0.0.1 false"),
            ("10.0.0.1", vec!["1.1.1.1, nobody, 10.0.0.2"], "10.0.0.2 true"),
            ("9.9.9.9", vec!["1.1.1.1"], "9.9.9.9 false"),
        ] {
            assert_eq!(find(&by, direct, &told).as_deref(), Some(expected), "{told:?}");
        }
    }

    #[test]
    fn a_header_tells_the_address_or_the_request_is_refused() {
        let by = |required| AddressBy::Header(FORWARDED_FOR, required);
        assert_eq!(find(&by(true), "10.0.0.1", &["1.1.1.1"]).as_deref(), Some("1.1.1.1 true"));
        assert_eq!(find(&by(true), "10.0.0.1", &[]), None);
        assert_eq!(find(&by(true), "10.0.0.1", &["1.1.1.1", "2.2.2.2"]), None);
        assert_eq!(find(&by(false), "10.0.0.1", &["me"]).as_deref(), Some("10.0.0.1 false"));
        assert_eq!(find(&AddressBy::Connection, "10.0.0.1", &["1.1.1.1"]).as_deref(), Some("10.0.0.1 false"));
    }
}
