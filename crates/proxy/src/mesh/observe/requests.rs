//! Requests: how many, how they ended, and how long they took.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::StatusCode;
use parking_lot::Mutex;
use tracing::info;

use super::{Ends, UNKNOWN, label};
use crate::server::Exchanged;

/// Series at most: a kilobyte each, and some twenty lines of what is told of them. Requests beyond are counted together.
const SERIES: usize = 2_000;

/// Upper ends of the buckets, in milliseconds: Istio's.
const BUCKETS: [f64; 19] =
    [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6];

/// Requests that have their labels in common.
#[derive(Default)]
struct Counters {
    total: AtomicU64,
    /// How many ended in each bucket; the last is for those that took longer.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

/// All requests.
#[derive(Default)]
pub(super) struct Requests {
    series: Mutex<HashMap<Arc<str>, Arc<Counters>>>,
}

impl Requests {
    pub(super) fn count(&self, exchange: &Exchanged, ends: &Ends) {
        let labels = labels(exchange, ends);
        let counters = {
            let mut series = self.series.lock();
            match series.get(&*labels) {
                Some(known) => Arc::clone(known),
                None => {
                    let labels: Arc<str> = if series.len() < SERIES { labels.into() } else { "".into() };
                    Arc::clone(series.entry(labels).or_default())
                }
            }
        };
        let millis = exchange.duration.as_secs_f64() * 1e3;
        let bucket = BUCKETS.partition_point(|end| *end < millis);
        counters.total.fetch_add(1, Ordering::Relaxed);
        counters.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(exchange.duration.as_micros()).unwrap_or(u64::MAX);
        counters.micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub(super) fn render(&self, out: &mut String) {
        let mut all: Vec<_> = {
            let series = self.series.lock();
            series.iter().map(|(labels, counters)| (Arc::clone(labels), Arc::clone(counters))).collect()
        };
        if all.is_empty() {
            return;
        }
        all.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        // writing to a text does not fail
        let _ = writeln!(out, "# TYPE istio_requests_total counter");
        for (labels, counters) in &all {
            let _ = writeln!(out, "istio_requests_total{{{labels}}} {}", counters.total.load(Ordering::Relaxed));
        }
        const DURATION: &str = "istio_request_duration_milliseconds";
        let _ = writeln!(out, "# TYPE {DURATION} histogram");
        for (labels, counters) in &all {
            let comma = if labels.is_empty() { "" } else { "," };
            let mut below = 0;
            for (bucket, count) in counters.buckets.iter().enumerate() {
                below += count.load(Ordering::Relaxed);
                let _ = match BUCKETS.get(bucket) {
                    Some(end) => writeln!(out, "{DURATION}_bucket{{{labels}{comma}le=\"{end}\"}} {below}"),
                    None => writeln!(out, "{DURATION}_bucket{{{labels}{comma}le=\"+Inf\"}} {below}"),
                };
            }
            let millis = counters.micros.load(Ordering::Relaxed) as f64 / 1e3;
            let _ = writeln!(out, "{DURATION}_sum{{{labels}}} {millis}\n{DURATION}_count{{{labels}}} {below}");
        }
    }
}

fn labels(exchange: &Exchanged, ends: &Ends) -> String {
    let mut labels = ends.labels(if exchange.grpc { "grpc" } else { "http" }, flags(exchange));
    label(&mut labels, "response_code", exchange.status.as_str());
    // As Istio has it: the code of gRPC of calls, else nothing.
    let code = exchange.code.filter(|_| exchange.grpc).map(|code| code.to_string()).unwrap_or_default();
    label(&mut labels, "grpc_response_status", &code);
    let route = exchange.went.as_ref().map(|went| went.route.to_string());
    label(&mut labels, "route_name", route.as_deref().unwrap_or(UNKNOWN));
    labels
}

/// Envoy's words for how a request failed without an answer of an endpoint.
fn flags(exchange: &Exchanged) -> &'static str {
    match (exchange.endpoint, &exchange.went, exchange.status) {
        _ if !exchange.whole => "DC",
        (Some(_), ..) => "-",
        (None, None, StatusCode::NOT_FOUND) => "NR",
        (None, Some(_), StatusCode::SERVICE_UNAVAILABLE) => "UH",
        (None, Some(_), StatusCode::BAD_GATEWAY) => "UF",
        (None, Some(_), StatusCode::GATEWAY_TIMEOUT) => "UT",
        _ => "-",
    }
}

/// Writes a request down.
pub(super) fn tell(exchange: &Exchanged, ends: &Ends) {
    let name = |workload: &Option<Arc<super::Workload>>| {
        workload.as_ref().map(|workload| format!("{}/{}", workload.namespace, workload.name))
    };
    let text = |value: &Option<http::HeaderValue>| {
        value.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    info!(
        target: "mesh_access",
        reporter = ends.reporter.name(),
        source = name(&ends.source),
        source_principal = ends.source_principal,
        destination = name(&ends.destination),
        destination_principal = ends.destination_principal,
        service = ends.service.as_ref().map(ToString::to_string),
        mutual_tls = ends.secured,
        method = exchange.method.as_str(),
        authority = text(&exchange.authority),
        path = &*exchange.path,
        protocol = ?exchange.version,
        response_code = exchange.status.as_u16(),
        grpc_status = exchange.code,
        response_flags = flags(exchange),
        route_name = exchange.went.as_ref().map(|went| went.route.to_string()),
        rule_name = exchange.went.as_ref().and_then(|went| went.rule.as_deref()),
        endpoint = exchange.endpoint.map(|endpoint| endpoint.to_string()),
        bytes_received = exchange.received,
        bytes_sent = exchange.sent,
        duration_ms = exchange.duration.as_millis() as u64,
        traceparent = text(&exchange.trace),
        request_id = text(&exchange.id),
        "request"
    );
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Method, Version};
    use reconcile::Key;

    use super::*;
    use crate::{
        mesh::observe::{Reporter, Telemetry, service_of},
        routing::{Backend, Owner},
        server::Went,
    };

    fn exchange() -> Exchanged {
        let route = Owner { kind: "HTTPRoute", name: "shop/split".into() };
        Exchanged {
            method: Method::GET,
            authority: None,
            path: "/".into(),
            version: Version::HTTP_11,
            grpc: false,
            trace: None,
            id: None,
            received: None,
            status: StatusCode::OK,
            code: None,
            went: Some(Went { route, rule: None, backend: Backend::new("shop/web:80") }),
            endpoint: Some(([10, 0, 0, 1], 80).into()),
            sent: 7,
            duration: Duration::from_millis(3),
            whole: true,
        }
    }

    fn ends() -> Ends {
        Ends {
            reporter: Reporter::Source,
            source: None,
            source_principal: Some("cluster.local/ns/shop/sa/client".into()),
            destination: None,
            destination_principal: None,
            service: service_of("shop/web:80"),
            secured: true,
        }
    }

    #[test]
    fn requests_are_counted_by_service_route_identity_and_outcome() {
        let telemetry = Telemetry::default();
        telemetry.request(&exchange(), &ends());
        telemetry.request(&Exchanged { duration: Duration::from_millis(300), ..exchange() }, &ends());
        let failed = Exchanged { status: StatusCode::BAD_GATEWAY, endpoint: None, ..exchange() };
        telemetry.request(&failed, &ends());
        let call = Exchanged { grpc: true, code: Some(5), ..exchange() };
        telemetry.request(&call, &ends());
        let mut out = String::new();
        telemetry.render(&mut out);
        let line = |parts: &[&str]| {
            let mut lines = out.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
            let found = lines.next().unwrap_or_else(|| panic!("{parts:?} in {out}")).to_owned();
            assert!(lines.next().is_none(), "{parts:?} more than once in {out}");
            found
        };
        let good = line(&["istio_requests_total{", "response_code=\"200\"", "request_protocol=\"http\""]);
        for part in [
            "reporter=\"source\"",
            "source_principal=\"spiffe://cluster.local/ns/shop/sa/client\"",
            "destination_service=\"web.shop.svc.cluster.local\"",
            "route_name=\"HTTPRoute shop/split\"",
            "response_flags=\"-\"",
            "} 2",
        ] {
            assert!(good.contains(part), "{part} in {good}");
        }
        line(&["istio_requests_total{", "response_code=\"502\"", "response_flags=\"UF\"", "} 1"]);
        line(&["istio_requests_total{", "request_protocol=\"grpc\"", "grpc_response_status=\"5\"", "} 1"]);
        let bucket = |end: &str| line(&["_milliseconds_bucket{", "code=\"200\"", "\"http\"", &format!("le=\"{end}\"")]);
        for (end, count) in [("1", 0), ("5", 1), ("250", 1), ("500", 2), ("+Inf", 2)] {
            assert!(bucket(end).ends_with(&format!("}} {count}")), "{end}: {}", bucket(end));
        }
        let sum = line(&["_milliseconds_sum{", "response_code=\"200\"", "request_protocol=\"http\""]);
        assert!(sum.ends_with("} 303"), "{sum}");
    }

    #[test]
    fn requests_beyond_the_limit_are_counted_together() {
        let requests = Requests::default();
        for number in 0..SERIES + 5 {
            let service = Some(Key::new("shop", format!("s{number}")));
            requests.count(&exchange(), &Ends { service, ..ends() });
        }
        let series = requests.series.lock();
        assert_eq!(series.len(), SERIES + 1);
        assert_eq!(series[""].total.load(Ordering::Relaxed), 5);
    }
}
