//! Request metrics in Prometheus' text format: counters live in fixed arrays of atomics, so that counting takes no lock.

use std::{
    fmt::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::RwLock;

mod process;

pub(crate) use process::render as render_process;

/// Verbs as upstream labels them, upper case in metrics.
const VERBS: [&str; 9] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "connect"];

/// How much a request is about, as upstream labels it.
const SCOPES: [&str; 3] = ["resource", "namespace", "cluster"];

/// Status codes with a counter of their own; all others share the last.
const CODES: [u16; 23] =
    [101, 200, 201, 202, 302, 304, 400, 401, 403, 404, 405, 406, 408, 409, 410, 413, 415, 422, 429, 502, 503, 504, 500];

/// Upper bounds of the duration histogram, in seconds.
const BOUNDS: [f64; 14] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0];

/// Subresources of one resource with counters of their own: more than any has, and requests may name any.
const SUBRESOURCES_MAX: usize = 16;

#[derive(Debug, Default)]
struct Counters {
    codes: [AtomicU64; CODES.len()],
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// By verb and scope; made when the first request comes.
#[derive(Debug, Default)]
struct Requests([OnceLock<Box<Counters>>; VERBS.len() * SCOPES.len()]);

/// The counters of one resource.
#[derive(Debug, Default)]
pub(crate) struct ResourceMetrics {
    main: Requests,
    subresources: RwLock<Vec<(String, Arc<Requests>)>>,
    /// Watches open now.
    pub(crate) watches: AtomicI64,
    /// Events sent to watches.
    pub(crate) watch_events: AtomicU64,
}

/// What a request is counted as.
#[derive(Clone, Copy)]
pub(crate) struct Counted<'a> {
    pub(crate) verb: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) is_named: bool,
    pub(crate) is_namespaced: bool,
}

impl Requests {
    fn observe(&self, asked: Counted<'_>, code: u16, took: Duration) {
        let Some(verb) = VERBS.iter().position(|known| *known == asked.verb) else { return };
        let scope = match asked {
            Counted { verb: "create", .. } | Counted { is_named: true, .. } => 0,
            Counted { is_namespaced: true, .. } => 1,
            _ => 2,
        };
        let Some(counters) = self.0.get(verb * SCOPES.len() + scope) else { return };
        let counters = counters.get_or_init(Box::default);
        let code = CODES.iter().position(|known| *known == code).unwrap_or(CODES.len() - 1);
        counters.codes[code].fetch_add(1, Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        counters.buckets[bucket].fetch_add(1, Relaxed);
        counters.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The counters that exist, each with its labels.
    fn each(&self, labels: &str, subresource: &str, mut use_it: impl FnMut(&str, &Counters)) {
        for (index, counters) in self.0.iter().enumerate() {
            let Some(counters) = counters.get() else { continue };
            let (verb, scope) = (VERBS[index / SCOPES.len()].to_uppercase(), SCOPES[index % SCOPES.len()]);
            let labels = format!(
                "component=\"apiserver\",{labels},scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\""
            );
            use_it(&labels, counters);
        }
    }
}

impl ResourceMetrics {
    /// Counts one answered request.
    pub(crate) fn observe(&self, asked: Counted<'_>, code: u16, took: Duration) {
        if asked.subresource.is_empty() {
            return self.main.observe(asked, code, took);
        }
        let find = |known: &[(String, Arc<Requests>)]| {
            known.iter().find(|(name, _)| name == asked.subresource).map(|(_, requests)| requests.clone())
        };
        let known = find(&self.subresources.read());
        let requests = known.unwrap_or_else(|| {
            let mut all = self.subresources.write();
            find(&all).unwrap_or_else(|| {
                let made = Arc::<Requests>::default();
                if all.len() < SUBRESOURCES_MAX {
                    all.push((asked.subresource.to_owned(), made.clone()));
                }
                made
            })
        });
        requests.observe(asked, code, took);
    }

    fn each(&self, labels: &str, mut use_it: impl FnMut(&str, &Counters)) {
        self.main.each(labels, "", &mut use_it);
        for (name, requests) in &*self.subresources.read() {
            requests.each(labels, name, &mut use_it);
        }
    }

    fn counters(&self, labels: &str, out: &mut String) {
        self.each(labels, |labels, counters| {
            for (code, count) in CODES.iter().zip(&counters.codes).filter(|(_, count)| count.load(Relaxed) > 0) {
                let count = count.load(Relaxed);
                let _ = writeln!(out, "apiserver_request_total{{code=\"{code}\",dry_run=\"\",{labels}}} {count}");
            }
        });
    }

    fn histograms(&self, labels: &str, out: &mut String) {
        const NAME: &str = "apiserver_request_duration_seconds";
        self.each(labels, |labels, counters| {
            let counts: Vec<u64> = counters.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
            let total: u64 = counts.iter().sum();
            let mut sum = 0;
            for (bound, count) in BOUNDS.iter().zip(&counts) {
                sum += count;
                let _ = writeln!(out, "{NAME}_bucket{{{labels},le=\"{bound}\"}} {sum}");
            }
            let _ = writeln!(out, "{NAME}_bucket{{{labels},le=\"+Inf\"}} {total}");
            let seconds = Duration::from_micros(counters.micros.load(Relaxed)).as_secs_f64();
            let _ = writeln!(out, "{NAME}_sum{{{labels}}} {seconds}");
            let _ = writeln!(out, "{NAME}_count{{{labels}}} {total}");
        });
    }
}

/// Gauges of the whole server.
#[derive(Debug, Default)]
pub(crate) struct ServerMetrics {
    /// Requests being handled now that change something, and those that do not; watches left out.
    inflight: [AtomicI64; 2],
    /// Connections open now.
    pub(crate) connections: AtomicI64,
    /// Requests nobody vouched for.
    pub(crate) unauthenticated: AtomicU64,
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
}

impl Drop for Inflight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Writes everything out; `resources` yields labels and counters, `objects` the group and plural of each resource and how
/// many are stored.
pub(crate) fn render<'a>(
    server: &ServerMetrics,
    resources: impl Iterator<Item = (String, &'a ResourceMetrics)> + Clone,
    objects: &[(String, String, usize)],
) -> String {
    let mut out = String::with_capacity(16 * 1024);
    head(&mut out, "apiserver_request_total", "counter", "Counter of apiserver requests.");
    for (labels, metrics) in resources.clone() {
        metrics.counters(&labels, &mut out);
    }
    let name = "apiserver_request_duration_seconds";
    head(&mut out, name, "histogram", "Response latency distribution in seconds.");
    for (labels, metrics) in resources.clone() {
        metrics.histograms(&labels, &mut out);
    }
    let name = "apiserver_longrunning_requests";
    head(&mut out, name, "gauge", "Gauge of all active long-running apiserver requests.");
    for (labels, metrics) in resources.clone() {
        let open = metrics.watches.load(Relaxed);
        if open > 0 {
            let _ = writeln!(out, "{name}{{component=\"apiserver\",{labels},verb=\"WATCH\"}} {open}");
        }
    }
    let name = "apiserver_watch_events_total";
    head(&mut out, name, "counter", "Number of events sent in watch clients");
    for (labels, metrics) in resources {
        let sent = metrics.watch_events.load(Relaxed);
        if sent > 0 {
            let _ = writeln!(out, "{name}{{{labels}}} {sent}");
        }
    }
    let name = "apiserver_current_inflight_requests";
    head(&mut out, name, "gauge", "Maximal number of currently used inflight request limit of this apiserver.");
    for (kind, gauge) in ["mutating", "readOnly"].iter().zip(&server.inflight) {
        let _ = writeln!(out, "{name}{{request_kind=\"{kind}\"}} {}", gauge.load(Relaxed));
    }
    let name = "apiserver_open_connections";
    head(&mut out, name, "gauge", "Connections open now.");
    let _ = writeln!(out, "{name} {}", server.connections.load(Relaxed));
    let name = "authentication_attempts_refused_total";
    head(&mut out, name, "counter", "Requests nobody vouched for.");
    let _ = writeln!(out, "{name} {}", server.unauthenticated.load(Relaxed));
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

    const GET: Counted<'_> = Counted { verb: "get", subresource: "", is_named: true, is_namespaced: true };

    #[test]
    fn requests_are_counted_by_verb_scope_subresource_and_code_and_timed() {
        let metrics = ResourceMetrics::default();
        metrics.observe(GET, 200, Duration::from_millis(2));
        metrics.observe(GET, 418, Duration::from_secs(90));
        metrics.observe(Counted { subresource: "status", ..GET }, 200, Duration::ZERO);
        metrics.observe(Counted { verb: "list", is_named: false, ..GET }, 200, Duration::ZERO);
        let server = ServerMetrics::default();
        let _handling = server.handling("update");
        let labels = "resource=\"pods\"".to_owned();
        let objects = [("apps".to_owned(), "deployments".to_owned(), 3)];
        let text = render(&server, [(labels, &metrics)].into_iter(), &objects);
        for line in [
            "apiserver_request_total{code=\"200\",dry_run=\"\",component=\"apiserver\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\"} 1",
            "apiserver_request_total{code=\"200\",dry_run=\"\",component=\"apiserver\",resource=\"pods\",scope=\"resource\",subresource=\"status\",verb=\"GET\"} 1",
            "apiserver_request_total{code=\"200\",dry_run=\"\",component=\"apiserver\",resource=\"pods\",scope=\"namespace\",subresource=\"\",verb=\"LIST\"} 1",
            "apiserver_request_duration_seconds_bucket{component=\"apiserver\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\",le=\"0.0025\"} 1",
            "apiserver_request_duration_seconds_bucket{component=\"apiserver\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\",le=\"+Inf\"} 2",
            "apiserver_current_inflight_requests{request_kind=\"mutating\"} 1",
            "apiserver_storage_objects{resource=\"deployments.apps\"} 3",
            "apiserver_resource_objects{group=\"apps\",resource=\"deployments\"} 3",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    }

    #[test]
    fn made_up_subresources_do_not_pile_up() {
        let metrics = ResourceMetrics::default();
        for index in 0..100 {
            metrics.observe(Counted { subresource: &format!("s{index}"), ..GET }, 404, Duration::ZERO);
        }
        assert_eq!(metrics.subresources.read().len(), SUBRESOURCES_MAX);
    }
}
