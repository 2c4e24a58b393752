//! Request metrics in Prometheus' text format: counters live in fixed arrays of atomics, so that counting takes no lock.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Verbs as upstream labels them, upper case in metrics.
pub(crate) const VERBS: [&str; 9] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "connect"];

/// Status codes with a counter of their own; all others share the last.
const CODES: [u16; 18] = [101, 200, 201, 202, 400, 401, 403, 404, 405, 406, 409, 410, 413, 415, 422, 429, 503, 500];

/// Upper bounds of the duration histogram, in seconds.
const BOUNDS: [f64; 12] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

#[derive(Debug, Default)]
struct VerbMetrics {
    codes: [AtomicU64; CODES.len()],
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// The counters of one resource.
#[derive(Debug, Default)]
pub(crate) struct ResourceMetrics {
    verbs: [VerbMetrics; VERBS.len()],
}

impl ResourceMetrics {
    /// Counts one answered request.
    pub(crate) fn observe(&self, verb: &str, code: u16, took: Duration) {
        let Some(verb) = VERBS.iter().position(|known| *known == verb).and_then(|index| self.verbs.get(index)) else {
            return;
        };
        let code = CODES.iter().position(|known| *known == code).unwrap_or(CODES.len() - 1);
        verb.codes[code].fetch_add(1, Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        verb.buckets[bucket].fetch_add(1, Relaxed);
        verb.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    fn counters(&self, labels: &str, out: &mut String) {
        for (name, verb) in VERBS.iter().zip(&self.verbs) {
            for (code, count) in CODES.iter().zip(&verb.codes).filter(|(_, count)| count.load(Relaxed) > 0) {
                let verb = name.to_uppercase();
                let count = count.load(Relaxed);
                let _ = writeln!(out, "apiserver_request_total{{code=\"{code}\",{labels},verb=\"{verb}\"}} {count}");
            }
        }
    }

    fn histograms(&self, labels: &str, out: &mut String) {
        const NAME: &str = "apiserver_request_duration_seconds";
        for (name, verb) in VERBS.iter().zip(&self.verbs) {
            let counts: Vec<u64> = verb.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
            let total: u64 = counts.iter().sum();
            if total == 0 {
                continue;
            }
            let labels = format!("{labels},verb=\"{}\"", name.to_uppercase());
            let mut sum = 0;
            for (bound, count) in BOUNDS.iter().zip(&counts) {
                sum += count;
                let _ = writeln!(out, "{NAME}_bucket{{{labels},le=\"{bound}\"}} {sum}");
            }
            let _ = writeln!(out, "{NAME}_bucket{{{labels},le=\"+Inf\"}} {total}");
            let seconds = Duration::from_micros(verb.micros.load(Relaxed)).as_secs_f64();
            let _ = writeln!(out, "{NAME}_sum{{{labels}}} {seconds}");
            let _ = writeln!(out, "{NAME}_count{{{labels}}} {total}");
        }
    }
}

/// Gauges of the whole server.
#[derive(Debug, Default)]
pub(crate) struct ServerMetrics {
    /// Watches open now.
    pub(crate) watches: AtomicI64,
    /// Requests being handled now, watches left out.
    pub(crate) inflight: AtomicI64,
    /// Connections open now.
    pub(crate) connections: AtomicI64,
    /// Requests nobody vouched for.
    pub(crate) unauthenticated: AtomicU64,
}

/// Writes everything out; `resources` yields labels and counters.
pub(crate) fn render<'a>(
    server: &ServerMetrics,
    resources: impl Iterator<Item = (String, &'a ResourceMetrics)> + Clone,
    objects: impl Iterator<Item = (String, usize)>,
) -> String {
    let mut out = String::with_capacity(16 * 1024);
    out.push_str(
        "# HELP apiserver_request_total Counter of apiserver requests.\n# TYPE apiserver_request_total counter\n",
    );
    for (labels, metrics) in resources.clone() {
        metrics.counters(&labels, &mut out);
    }
    out.push_str("# HELP apiserver_request_duration_seconds Response latency distribution in seconds.\n");
    out.push_str("# TYPE apiserver_request_duration_seconds histogram\n");
    for (labels, metrics) in resources {
        metrics.histograms(&labels, &mut out);
    }
    for (name, help, value) in [
        ("apiserver_longrunning_requests", "Watches open now.", server.watches.load(Relaxed)),
        ("apiserver_current_inflight_requests", "Requests being handled now.", server.inflight.load(Relaxed)),
        ("apiserver_open_connections", "Connections open now.", server.connections.load(Relaxed)),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    let name = "authentication_attempts_refused_total";
    let refused = server.unauthenticated.load(Relaxed);
    let _ = writeln!(out, "# HELP {name} Requests nobody vouched for.\n# TYPE {name} counter\n{name} {refused}");
    out.push_str(
        "# HELP apiserver_storage_objects Objects stored, by resource.\n# TYPE apiserver_storage_objects gauge\n",
    );
    for (resource, count) in objects {
        let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_verb_and_code_and_timed() {
        let metrics = ResourceMetrics::default();
        metrics.observe("get", 200, Duration::from_millis(2));
        metrics.observe("get", 418, Duration::from_secs(60));
        let text = render(
            &ServerMetrics::default(),
            [("resource=\"pods\"".to_owned(), &metrics)].into_iter(),
            [("pods".to_owned(), 3)].into_iter(),
        );
        assert!(text.contains("apiserver_request_total{code=\"200\",resource=\"pods\",verb=\"GET\"} 1\n"));
        assert!(
            text.contains(
                "apiserver_request_duration_seconds_bucket{resource=\"pods\",verb=\"GET\",le=\"0.0025\"} 1\n"
            )
        );
        assert!(
            text.contains("apiserver_request_duration_seconds_bucket{resource=\"pods\",verb=\"GET\",le=\"+Inf\"} 2\n")
        );
        assert!(text.contains("apiserver_storage_objects{resource=\"pods\"} 3\n"));
    }
}
