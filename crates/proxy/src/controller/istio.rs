//! Istio's VirtualService and DestinationRule: compiled into the rules and upstreams that routes and policies of Gateway
//! API are compiled into too.
//!
//! A VirtualService is for clients in the mesh. As with routes, one in the namespace of a Service is for all its clients and
//! one elsewhere for the clients of its own namespace: Istio would let any namespace lead away any Service's traffic. A
//! DestinationRule is about a Service of its own namespace, whoever sends to it.

use std::time::Duration;

use reconcile::Key;

use super::verdict::Fault;

mod destinations;
mod virtual_services;

pub(crate) use destinations::{DestinationPlan, about, otherwise, otherwise_owner, upstreams};
pub(crate) use virtual_services::{VirtualPlan, owner, plan};

/// The domain of the cluster's names.
const DOMAIN: &str = ".svc.cluster.local";

/// The Service that a host names for an object of a namespace.
pub(crate) fn service_of(host: &str, own: &str) -> Option<Key> {
    let host = host.strip_suffix(DOMAIN).or_else(|| host.strip_suffix(".svc")).unwrap_or(host);
    let (name, namespace) = host.split_once('.').unwrap_or((host, own));
    let is_label = |text: &str| !text.is_empty() && !text.contains(['.', '*', '/', ':']);
    (is_label(name) && is_label(namespace)).then(|| Key::new(namespace, name))
}

/// A duration as Istio writes them, those of Go: `1.5s`, `1m30s`.
fn duration(field: &str, text: Option<&str>) -> Result<Option<Duration>, Fault> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || Fault::new("UnsupportedValue", format!("{field}: {text:?} is no duration"));
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits =
            rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|digits| *digits > 0).ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        seconds += number
            * match &rest[digits..digits + unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(wrong()),
            };
        rest = &rest[digits + unit..];
    }
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    Ok(Some(duration).filter(|duration| !duration.is_zero()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_services() {
        for (host, expected) in [
            ("web", Some(("shop", "web"))),
            ("web.other", Some(("other", "web"))),
            ("web.other.svc", Some(("other", "web"))),
            ("web.other.svc.cluster.local", Some(("other", "web"))),
            ("*.example.com", None),
            ("www.example.com", None),
            ("", None),
        ] {
            let expected = expected.map(|(namespace, name)| Key::new(namespace, name));
            assert_eq!(service_of(host, "shop"), expected, "{host}");
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        for (text, expected) in [("1s", 1000), ("1.5s", 1500), ("1m30s", 90_000), ("250ms", 250), ("2h", 7_200_000)] {
            assert_eq!(duration("f", Some(text)).unwrap(), Some(Duration::from_millis(expected)), "{text}");
        }
        assert_eq!(duration("f", Some("0s")).unwrap(), None);
        for wrong in ["1", "s", "1x", "1e400s", "-1s", "1.2.3s"] {
            assert_eq!(duration("f", Some(wrong)).unwrap_err().message, format!("f: {wrong:?} is no duration"));
        }
    }
}
