//! What is counted and written down of connections and requests, under Istio's names.
//!
//! Each is told of twice: by the proxy of who began it, and by that of whom it was for, as far as either looks at requests;
//! else by what it carries. Requests have the name of their route besides Istio's labels.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use reconcile::Key;
use tracing::info;

use super::{carry::Carried, directory::Workload};
use crate::server::Exchanged;

mod requests;
use requests::Requests;

/// Series at most: some 600 bytes each. Connections beyond are not counted apart but together.
const SERIES: usize = 20_000;
/// What Istio writes where something is not known.
const UNKNOWN: &str = "unknown";

/// Who tells of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reporter {
    Source,
    Destination,
}

/// The two ends of a connection, as far as they are known.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    pub(crate) reporter: Reporter,
    pub(crate) source: Option<Arc<Workload>>,
    pub(crate) source_principal: Option<String>,
    pub(crate) destination: Option<Arc<Workload>>,
    pub(crate) destination_principal: Option<String>,
    pub(crate) service: Option<Key>,
    /// Whether it travels in mutual TLS.
    pub(crate) secured: bool,
}

#[derive(Default)]
struct Counters {
    opened: AtomicU64,
    closed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// All that is counted.
#[derive(Default)]
pub(crate) struct Telemetry {
    series: Mutex<HashMap<Arc<str>, Arc<Counters>>>,
    requests: Requests,
}

/// The Service that a backend is a port of.
pub(crate) fn service_of(backend: &str) -> Option<Key> {
    let (service, _) = backend.split_once(':')?;
    let (namespace, name) = service.split_once('/')?;
    Some(Key::new(namespace, name))
}

/// A connection that is being carried.
pub(crate) struct Record {
    ends: Ends,
    counters: Arc<Counters>,
    pub(crate) carried: Carried,
    since: Instant,
}

impl Telemetry {
    /// A connection begins.
    pub(crate) fn open(&self, ends: Ends) -> Record {
        let labels = ends.labels("tcp", "-");
        let counters = {
            let mut series = self.series.lock();
            let full = series.len() >= SERIES;
            let labels: Arc<str> = if full && !series.contains_key(&*labels) { "".into() } else { labels.into() };
            Arc::clone(series.entry(labels).or_default())
        };
        counters.opened.fetch_add(1, Ordering::Relaxed);
        Record { ends, counters, carried: Carried::default(), since: Instant::now() }
    }

    /// A request is over.
    pub(crate) fn request(&self, exchange: &Exchanged, ends: &Ends) {
        self.requests.count(exchange, ends);
        requests::tell(exchange, ends);
    }

    /// Adds the counters in Prometheus' text form.
    pub(crate) fn render(&self, out: &mut String) {
        type Value = fn(&Counters) -> &AtomicU64;
        let metrics: [(&str, Value); 4] = [
            ("istio_tcp_connections_opened_total", |counters| &counters.opened),
            ("istio_tcp_connections_closed_total", |counters| &counters.closed),
            ("istio_tcp_sent_bytes_total", |counters| &counters.sent),
            ("istio_tcp_received_bytes_total", |counters| &counters.received),
        ];
        self.requests.render(out);
        let series = self.series.lock();
        if series.is_empty() {
            return;
        }
        let mut all: Vec<_> = series.iter().collect();
        all.sort_unstable_by(|a, b| a.0.cmp(b.0));
        for (name, value) in metrics {
            // writing to a text does not fail
            let _ = writeln!(out, "# TYPE {name} counter");
            for (labels, counters) in &all {
                let _ = writeln!(out, "{name}{{{labels}}} {}", value(counters).load(Ordering::Relaxed));
            }
        }
    }
}

impl Record {
    /// The connection has ended, by an error or in order.
    pub(crate) fn close(self, outcome: &std::io::Result<()>) {
        let (received, sent) =
            (self.carried.received.load(Ordering::Relaxed), self.carried.sent.load(Ordering::Relaxed));
        self.counters.closed.fetch_add(1, Ordering::Relaxed);
        self.counters.received.fetch_add(received, Ordering::Relaxed);
        self.counters.sent.fetch_add(sent, Ordering::Relaxed);
        let name = |workload: &Option<Arc<Workload>>| {
            workload.as_ref().map(|workload| format!("{}/{}", workload.namespace, workload.name))
        };
        info!(
            target: "mesh_access",
            reporter = self.ends.reporter.name(),
            source = name(&self.ends.source),
            source_principal = self.ends.source_principal,
            destination = name(&self.ends.destination),
            destination_principal = self.ends.destination_principal,
            service = self.ends.service.as_ref().map(ToString::to_string),
            mutual_tls = self.ends.secured,
            bytes_received = received,
            bytes_sent = sent,
            duration_ms = self.since.elapsed().as_millis() as u64,
            error = outcome.as_ref().err().map(ToString::to_string),
            "connection"
        );
    }
}

impl Reporter {
    fn name(self) -> &'static str {
        match self {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
        }
    }
}

/// Adds a label; names are ours, values are anybody's.
fn label(labels: &mut String, name: &str, value: &str) {
    if !labels.is_empty() {
        labels.push(',');
    }
    labels.push_str(name);
    labels.push_str("=\"");
    for character in value.chars() {
        match character {
            '\\' => labels.push_str("\\\\"),
            '"' => labels.push_str("\\\""),
            '\n' => labels.push_str("\\n"),
            other => labels.push(other),
        }
    }
    labels.push('"');
}

impl Ends {
    fn labels(&self, protocol: &str, flags: &str) -> String {
        let mut labels = String::with_capacity(1 << 10);
        label(&mut labels, "reporter", self.reporter.name());
        self.end(&mut labels, &SOURCE, self.source.as_deref(), self.source_principal.as_deref());
        self.end(&mut labels, &DESTINATION, self.destination.as_deref(), self.destination_principal.as_deref());
        let service = self.service.as_ref();
        label(&mut labels, "destination_service_name", service.map_or(UNKNOWN, |service| &service.name));
        label(&mut labels, "destination_service_namespace", service.map_or(UNKNOWN, |service| &service.namespace));
        let host = service.map(|service| format!("{}.{}.svc.cluster.local", service.name, service.namespace));
        label(&mut labels, "destination_service", host.as_deref().unwrap_or(UNKNOWN));
        label(&mut labels, "request_protocol", protocol);
        label(&mut labels, "response_flags", flags);
        label(&mut labels, "connection_security_policy", if self.secured { "mutual_tls" } else { "none" });
        labels
    }

    fn end(&self, labels: &mut String, names: &EndNames, workload: Option<&Workload>, principal: Option<&str>) {
        let of_label = |name: &str| workload.and_then(|workload| workload.labels.get(name)).map(String::as_str);
        let revision = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
        let revision = revision.into_iter().find_map(of_label);
        let principal = principal.map(|principal| format!("spiffe://{principal}"));
        let values = [
            workload.map(|workload| &*workload.owner),
            workload.map(|workload| &*workload.namespace),
            of_label("app"),
            of_label("version"),
            workload.map(|workload| &*workload.app),
            workload.map(|_| revision.unwrap_or("latest")),
            workload.map(|_| CLUSTER),
            principal.as_deref(),
        ];
        for (name, value) in names.iter().zip(values) {
            label(labels, name, value.unwrap_or(UNKNOWN));
        }
    }
}

/// Labels of one end: workload, its namespace, app, version, canonical service and revision, cluster, principal.
type EndNames = [&'static str; 8];

const SOURCE: EndNames = [
    "source_workload",
    "source_workload_namespace",
    "source_app",
    "source_version",
    "source_canonical_service",
    "source_canonical_revision",
    "source_cluster",
    "source_principal",
];

const DESTINATION: EndNames = [
    "destination_workload",
    "destination_workload_namespace",
    "destination_app",
    "destination_version",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_cluster",
    "destination_principal",
];

/// What Istio calls the cluster that there is one of.
const CLUSTER: &str = "Kubernetes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_counted_by_who_is_at_its_ends() {
        let telemetry = Telemetry::default();
        let ends = Ends {
            reporter: Reporter::Source,
            source: None,
            source_principal: Some("cluster.local/ns/a/sa/b".into()),
            destination: None,
            destination_principal: None,
            service: Some(Key::new("shop", "web")),
            secured: true,
        };
        let mut out = String::new();
        telemetry.render(&mut out);
        assert_eq!(out, "", "who does not use the mesh sees none of it");
        let record = telemetry.open(ends.clone());
        record.carried.sent.store(7, Ordering::Relaxed);
        record.close(&Ok(()));
        drop(telemetry.open(ends));
        telemetry.render(&mut out);
        let line = |name: &str| out.lines().find(|line| line.starts_with(&format!("{name}{{"))).unwrap();
        assert!(line("istio_tcp_connections_opened_total").ends_with("} 2"), "{out}");
        assert!(line("istio_tcp_connections_closed_total").ends_with("} 1"), "{out}");
        let sent = line("istio_tcp_sent_bytes_total");
        for part in [
            "reporter=\"source\"",
            "source_principal=\"spiffe://cluster.local/ns/a/sa/b\"",
            "destination_service=\"web.shop.svc.cluster.local\"",
            "connection_security_policy=\"mutual_tls\"",
        ] {
            assert!(sent.contains(part), "{sent}");
        }
    }
}
