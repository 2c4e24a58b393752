//! What the server tells about itself at `/metrics`, in Prometheus' text format, under upstream's names and labels.
//!
//! What every request counts lives in fixed arrays of atomics ([`requests`], [`access`]), so that counting takes no lock.
//! What has labels that only configuration knows, and happens rarely or takes long, is a [`Family`].

use std::{
    fmt::Write as _,
    sync::{
        LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use kinds::Resource;

mod access;
mod admission;
mod family;
mod histogram;
mod process;
mod requests;

pub(crate) use access::{AccessMetrics, Identified};
pub(crate) use admission::{AdmissionMetrics, Answer, Check, Conditioned, Step};
pub(crate) use family::Family;
pub(crate) use histogram::{Bounds, Histogram};
pub(crate) use process::{render as render_process, render_tasks};
pub(crate) use requests::{Counted, Ending, ResourceMetrics, Scope};

/// What Prometheus' clients take unless told otherwise.
static EXPRESSION_BOUNDS: Bounds = Bounds::seconds(&[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);

/// Times of the expressions of custom resources, of the process: definitions are compiled where no server is at hand.
pub(crate) static EXPRESSIONS: LazyLock<ExpressionMetrics> = LazyLock::new(|| ExpressionMetrics {
    compilation: Histogram::new(&EXPRESSION_BOUNDS),
    evaluation: Histogram::new(&EXPRESSION_BOUNDS),
});

/// How long expressions take.
#[derive(Debug)]
pub(crate) struct ExpressionMetrics {
    pub(crate) compilation: Histogram,
    pub(crate) evaluation: Histogram,
}

impl ExpressionMetrics {
    fn render(&self, out: &mut String) {
        let name = "apiserver_cel_compilation_duration_seconds";
        head(out, name, "histogram", "CEL compilation time in seconds.");
        self.compilation.render(name, "", out);
        let name = "apiserver_cel_evaluation_duration_seconds";
        head(out, name, "histogram", "CEL evaluation time in seconds.");
        self.evaluation.render(name, "", out);
    }
}

/// What the whole server counts.
#[derive(Debug)]
pub(crate) struct ServerMetrics {
    /// Requests being handled now that change something, and those that do not; watches left out.
    inflight: [AtomicI64; 2],
    /// Connections open now.
    pub(crate) connections: AtomicI64,
    /// Connections whose TLS handshake failed.
    pub(crate) handshake_errors: AtomicU64,
    pub(crate) access: AccessMetrics,
    pub(crate) admission: AdmissionMetrics,
    /// Requests of types that will go away.
    deprecated: Family<AtomicU64>,
    /// Requests ended to protect the server.
    terminated: Family<AtomicU64>,
    /// What conversion webhooks took.
    conversions: Family<Histogram>,
    /// Writes to etcd, where that is the store, how many of them failed, and what they took.
    etcd: [Family<AtomicU64>; 2],
    etcd_times: Family<Histogram>,
    /// Aggregated servers that do not answer.
    unavailable: Family<AtomicU64>,
    /// How often they stopped to.
    unavailable_total: Family<AtomicU64>,
}

impl Default for ServerMetrics {
    fn default() -> Self {
        Self {
            inflight: Default::default(),
            connections: AtomicI64::default(),
            handshake_errors: AtomicU64::default(),
            access: AccessMetrics::default(),
            admission: AdmissionMetrics::default(),
            deprecated: Family::counters(
                "apiserver_requested_deprecated_apis",
                "Deprecated APIs that have been requested, and the release that removes them.",
            ),
            terminated: Family::counters(
                "apiserver_request_terminations_total",
                "Number of requests which apiserver terminated in self-defense.",
            ),
            conversions: Family::new(
                "apiserver_crd_conversion_webhook_duration_seconds",
                "Time that conversion webhooks took, in seconds.",
                || Histogram::new(&histogram::DOUBLING),
            ),
            etcd: [
                Family::counters("etcd_requests_total", "Writes to etcd, by operation and type of object."),
                Family::counters("etcd_request_errors_total", "Writes to etcd that failed, by operation and type."),
            ],
            etcd_times: Family::new(
                "etcd_request_duration_seconds",
                "Time that writes to etcd took, by operation and type of object.",
                || Histogram::new(&requests::DURATION_BOUNDS),
            ),
            unavailable: Family::counters(
                "aggregator_unavailable_apiservice",
                "APIServices that do not answer, by their name.",
            ),
            unavailable_total: Family::counters(
                "aggregator_unavailable_apiservice_total",
                "How often APIServices stopped to answer, by name and reason.",
            ),
        }
    }
}

/// Counts a request while it is handled.
pub(crate) struct Inflight<'a>(&'a AtomicI64);

impl ServerMetrics {
    /// Counts a request of this verb until the guard goes, however the request ends.
    pub(crate) fn handling(&self, verb: &str) -> Inflight<'_> {
        let gauge = &self.inflight[usize::from(matches!(verb, "get" | "list" | "watch"))];
        gauge.fetch_add(1, Relaxed);
        Inflight(gauge)
    }

    /// Notes that somebody uses a type that will go away.
    pub(crate) fn uses_deprecated(&self, resource: &Resource, subresource: &str) {
        let labels = [
            ("group", &*resource.group),
            // when definitions of custom resources drop a version, they do not say
            ("removed_release", ""),
            ("resource", &resource.plural),
            ("subresource", subresource),
            ("version", &resource.version),
        ];
        self.deprecated.set(&labels, 1);
    }

    /// Notes that a request was ended before its time.
    pub(crate) fn ended_early(&self, resource: &Resource, asked: Counted<'_>, code: u16) {
        let labels = [
            ("code", &*code.to_string()),
            ("component", "apiserver"),
            ("group", &resource.group),
            ("resource", &resource.plural),
            ("scope", asked.scope_label()),
            ("subresource", asked.subresource),
            ("verb", asked.verb_label()),
            ("version", &resource.version),
        ];
        self.terminated.count(&labels);
    }

    /// Notes what a conversion webhook took.
    pub(crate) fn converted(&self, definition: &str, (from, to): (&str, &str), succeeded: bool, took: Duration) {
        let succeeded = if succeeded { "true" } else { "false" };
        let labels = [("crd_name", definition), ("from_version", from), ("succeeded", succeeded), ("to_version", to)];
        self.conversions.took(&labels, took);
    }

    /// Notes a write to etcd.
    pub(crate) fn asked_etcd(&self, operation: &str, resource: &Resource, failed: bool, took: Duration) {
        let labels = [("group", &*resource.group), ("operation", operation), ("resource", &*resource.plural)];
        let [requests, errors] = &self.etcd;
        requests.count(&labels);
        if failed {
            errors.count(&labels);
        }
        self.etcd_times.took(&labels, took);
    }

    /// Forgets which aggregated servers answer, before they are asked again: some may be gone.
    pub(crate) fn asks_aggregated(&self) {
        self.unavailable.clear();
    }

    /// Notes whether an aggregated server answers.
    pub(crate) fn answers(&self, name: &str, available: bool) {
        self.unavailable.set(&[("name", name)], u64::from(!available));
    }

    /// Notes why an aggregated server that did answer does not any more.
    pub(crate) fn stopped_to_answer(&self, name: &str, reason: &str) {
        self.unavailable_total.count(&[("name", name), ("reason", reason)]);
    }
}

impl Drop for Inflight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Appends what comes before the lines of a metric.
pub(crate) fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Writes everything out; `resources` yields labels and counters, `objects` the group and plural of each resource and how
/// many are stored.
pub(crate) fn render<'a>(
    server: &ServerMetrics,
    resources: impl Iterator<Item = (String, &'a ResourceMetrics)> + Clone,
    objects: &[(String, String, usize)],
) -> String {
    let mut out = String::with_capacity(64 * 1024);
    requests::render(resources, &mut out);
    let name = "apiserver_current_inflight_requests";
    head(&mut out, name, "gauge", "Maximal number of currently used inflight request limit of this apiserver.");
    for (kind, gauge) in ["mutating", "readOnly"].iter().zip(&server.inflight) {
        let _ = writeln!(out, "{name}{{request_kind=\"{kind}\"}} {}", gauge.load(Relaxed));
    }
    let name = "apiserver_open_connections";
    head(&mut out, name, "gauge", "Connections open now.");
    let _ = writeln!(out, "{name} {}", server.connections.load(Relaxed));
    let name = "apiserver_tls_handshake_errors_total";
    head(&mut out, name, "counter", "Connections whose TLS handshake failed.");
    let _ = writeln!(out, "{name} {}", server.handshake_errors.load(Relaxed));
    server.access.render(&mut out);
    server.admission.render(&mut out);
    EXPRESSIONS.render(&mut out);
    server.deprecated.render("gauge", &mut out);
    server.terminated.render("counter", &mut out);
    server.conversions.render(&mut out);
    server.etcd.iter().for_each(|family| family.render("counter", &mut out));
    server.etcd_times.render(&mut out);
    server.unavailable.render("gauge", &mut out);
    server.unavailable_total.render("counter", &mut out);
    let name = "apiserver_storage_objects";
    head(&mut out, name, "gauge", "Number of stored objects at the time of last check split by kind.");
    for (group, plural, count) in objects {
        let dot = if group.is_empty() { "" } else { "." };
        let _ = writeln!(out, "{name}{{resource=\"{plural}{dot}{group}\"}} {count}");
    }
    let name = "apiserver_resource_objects";
    head(&mut out, name, "gauge", "Number of stored objects at the time of last check split by kind.");
    for (group, plural, count) in objects {
        let _ = writeln!(out, "{name}{{group=\"{group}\",resource=\"{plural}\"}} {count}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_counts_what_it_is_busy_with_and_what_it_holds() {
        let server = ServerMetrics::default();
        let _handling = server.handling("update");
        server.answers("v1.example.com", false);
        server.stopped_to_answer("v1.example.com", "ServiceNotFound");
        let asked = Counted { verb: "list", applies: false, dry_run: false, subresource: "", scope: Scope::Cluster };
        let deployments = kinds::builtin().iter().find(|row| row.group == "apps" && row.plural == "deployments");
        server.ended_early(deployments.unwrap(), asked, 504);
        server.asked_etcd("create", deployments.unwrap(), false, Duration::from_millis(3));
        let objects = [("apps".to_owned(), "deployments".to_owned(), 3)];
        let text = render(&server, std::iter::empty(), &objects);
        for line in [
            "apiserver_current_inflight_requests{request_kind=\"mutating\"} 1",
            "apiserver_storage_objects{resource=\"deployments.apps\"} 3",
            "apiserver_resource_objects{group=\"apps\",resource=\"deployments\"} 3",
            "aggregator_unavailable_apiservice{name=\"v1.example.com\"} 1",
            "aggregator_unavailable_apiservice_total{name=\"v1.example.com\",reason=\"ServiceNotFound\"} 1",
            "etcd_requests_total{group=\"apps\",operation=\"create\",resource=\"deployments\"} 1",
            "etcd_request_duration_seconds_bucket{group=\"apps\",operation=\"create\",resource=\"deployments\",le=\"0.005\"} 1",
            "apiserver_request_terminations_total{code=\"504\",component=\"apiserver\",group=\"apps\",resource=\"deployments\",scope=\"cluster\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    }
}
