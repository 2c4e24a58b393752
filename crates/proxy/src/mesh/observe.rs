//! What is counted and written down of connections, under Istio's names.
//!
//! Each connection is told of twice: by the proxy of who opened it, and by that of whom it was opened to.

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
        let labels = ends.labels();
        let counters = {
            let mut series = self.series.lock();
            let full = series.len() >= SERIES;
            let labels: Arc<str> = if full && !series.contains_key(&*labels) { "".into() } else { labels.into() };
            Arc::clone(series.entry(labels).or_default())
        };
        counters.opened.fetch_add(1, Ordering::Relaxed);
        Record { ends, counters, carried: Carried::default(), since: Instant::now() }
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

impl Ends {
    fn labels(&self) -> String {
        let mut labels = String::with_capacity(640);
        let mut add = |name: &str, value: &str| {
            let separator = if labels.is_empty() { "" } else { "," };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            // writing to a text does not fail
            let _ = write!(labels, "{separator}{name}=\"{value}\"");
        };
        add("reporter", self.reporter.name());
        let ends = [
            ("source", &self.source, &self.source_principal),
            ("destination", &self.destination, &self.destination_principal),
        ];
        for (end, workload, principal) in ends {
            let of = |part: fn(&Workload) -> &str| workload.as_deref().map_or(UNKNOWN, part);
            add(&format!("{end}_workload"), of(|workload| &workload.owner));
            add(&format!("{end}_workload_namespace"), of(|workload| &workload.namespace));
            add(&format!("{end}_canonical_service"), of(|workload| &workload.app));
            let principal = principal.as_ref().map(|principal| format!("spiffe://{principal}"));
            add(&format!("{end}_principal"), principal.as_deref().unwrap_or(UNKNOWN));
        }
        let service = self.service.as_ref();
        add("destination_service_name", service.map_or(UNKNOWN, |service| &service.name));
        add("destination_service_namespace", service.map_or(UNKNOWN, |service| &service.namespace));
        let host = service.map(|service| format!("{}.{}.svc.cluster.local", service.name, service.namespace));
        add("destination_service", host.as_deref().unwrap_or(UNKNOWN));
        add("request_protocol", "tcp");
        add("response_flags", "-");
        add("connection_security_policy", if self.secured { "mutual_tls" } else { "none" });
        labels
    }
}

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
