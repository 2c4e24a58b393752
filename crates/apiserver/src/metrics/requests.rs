//! What every request counts, in fixed arrays of atomics: by resource, verb, scope and whether it was a dry run.

use std::{
    fmt::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::RwLock;

use super::{
    head,
    histogram::{Bounds, Histogram},
};

/// Verbs as upstream labels them: HTTP's, but for those that tell more.
const VERBS: [&str; 9] = ["GET", "LIST", "WATCH", "POST", "PUT", "PATCH", "APPLY", "DELETE", "CONNECT"];

/// How much a request is about, as upstream labels it.
const SCOPES: [&str; 3] = ["resource", "namespace", "cluster"];

/// Values of the label `dry_run`.
const DRY_RUNS: [&str; 2] = ["", "All"];

/// Status codes with a counter of their own; all others share the last.
const CODES: [u16; 23] =
    [101, 200, 201, 202, 302, 304, 400, 401, 403, 404, 405, 406, 408, 409, 410, 413, 415, 422, 429, 502, 503, 504, 500];

/// Upstream's bounds, and before them some that tell fast requests apart.
pub(super) static DURATION_BOUNDS: Bounds = Bounds::seconds(&[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0,
    6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
]);
/// Least bound of what service levels are measured by.
const SERVICE_LEVEL_LEAST: f64 = 0.05;
static SIZE_BOUNDS: Bounds = Bounds::bytes(&[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9]);

/// Subresources of one resource with counters of their own: more than any has, and requests may name any.
const SUBRESOURCES_MAX: usize = 16;

#[derive(Debug)]
struct Counters {
    codes: [AtomicU64; CODES.len()],
    took: Histogram,
    /// Only of what is read.
    sizes: Option<Histogram>,
}

/// By verb and scope; made when the first request comes.
#[derive(Debug, Default)]
struct Verbs([OnceLock<Box<Counters>>; VERBS.len() * SCOPES.len()]);

/// By dry run; most resources are never asked for, and then this is all they cost.
#[derive(Debug, Default)]
struct Requests([OnceLock<Box<Verbs>>; DRY_RUNS.len()]);

/// The counters of one resource.
#[derive(Debug, Default)]
pub(crate) struct ResourceMetrics {
    main: Requests,
    subresources: RwLock<Vec<(String, Arc<Requests>)>>,
    /// Watches open now, by scope.
    watches: [AtomicI64; SCOPES.len()],
    /// Events sent to watches.
    pub(crate) watch_events: AtomicU64,
}

/// How much a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// One object.
    Resource,
    Namespace,
    Cluster,
}

/// What a request is counted as.
#[derive(Clone, Copy)]
pub(crate) struct Counted<'a> {
    /// The verb of access rules.
    pub(crate) verb: &'a str,
    /// A patch that is server-side apply.
    pub(crate) applies: bool,
    pub(crate) dry_run: bool,
    pub(crate) subresource: &'a str,
    pub(crate) scope: Scope,
}

/// How a request ended.
#[derive(Clone, Copy)]
pub(crate) struct Ending {
    pub(crate) code: u16,
    pub(crate) took: Duration,
    /// Size of the answer, where it is known.
    pub(crate) bytes: Option<u64>,
}

impl Scope {
    /// Of a request with this verb, name and namespace.
    pub(crate) fn of(verb: &str, is_named: bool, is_namespaced: bool) -> Self {
        match (verb, is_named, is_namespaced) {
            ("create", ..) | (_, true, _) => Self::Resource,
            (_, _, true) => Self::Namespace,
            _ => Self::Cluster,
        }
    }
}

impl Counted<'_> {
    /// The verb's place among [`VERBS`].
    fn verb(&self) -> Option<usize> {
        Some(match self.verb {
            "get" => 0,
            "list" => 1,
            "watch" => 2,
            "create" => 3,
            "update" => 4,
            "patch" if self.applies => 6,
            "patch" => 5,
            "delete" | "deletecollection" => 7,
            "connect" => 8,
            _ => return None,
        })
    }

    /// The verb as metrics name it.
    pub(crate) fn verb_label(&self) -> &'static str {
        self.verb().map_or("other", |place| VERBS[place])
    }

    /// The scope as metrics name it.
    pub(crate) fn scope_label(&self) -> &'static str {
        SCOPES[self.scope as usize]
    }
}

impl Requests {
    fn observe(&self, asked: Counted<'_>, ending: Ending) {
        let Some(verb) = asked.verb() else { return };
        let verbs = self.0[usize::from(asked.dry_run)].get_or_init(Box::default);
        let Some(counters) = verbs.0.get(verb * SCOPES.len() + asked.scope as usize) else { return };
        let counters = counters.get_or_init(|| {
            let sizes = (verb < 2).then(|| Histogram::new(&SIZE_BOUNDS));
            Box::new(Counters { codes: Default::default(), took: Histogram::new(&DURATION_BOUNDS), sizes })
        });
        let code = CODES.iter().position(|known| *known == ending.code).unwrap_or(CODES.len() - 1);
        counters.codes[code].fetch_add(1, Relaxed);
        counters.took.took(ending.took);
        if let (Some(sizes), Some(bytes)) = (&counters.sizes, ending.bytes) {
            sizes.sized(bytes);
        }
    }

    /// The counters that exist, each with its labels but for the dry run, and with that.
    fn each(&self, labels: &str, subresource: &str, mut use_it: impl FnMut(&str, &str, &Counters)) {
        for (dry_run, verbs) in DRY_RUNS.iter().zip(&self.0) {
            for (index, counters) in verbs.get().into_iter().flat_map(|verbs| verbs.0.iter().enumerate()) {
                let Some(counters) = counters.get() else { continue };
                let (verb, scope) = (VERBS[index / SCOPES.len()], SCOPES[index % SCOPES.len()]);
                let labels = format!(
                    "component=\"apiserver\",{labels},scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\""
                );
                use_it(&labels, dry_run, counters);
            }
        }
    }
}

impl ResourceMetrics {
    /// Counts one answered request.
    pub(crate) fn observe(&self, asked: Counted<'_>, ending: Ending) {
        if asked.subresource.is_empty() {
            return self.main.observe(asked, ending);
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
        requests.observe(asked, ending);
    }

    /// Watches of a scope open now.
    pub(crate) fn watches(&self, scope: Scope) -> &AtomicI64 {
        &self.watches[scope as usize]
    }

    fn each(&self, labels: &str, mut use_it: impl FnMut(&str, &str, &Counters)) {
        self.main.each(labels, "", &mut use_it);
        for (name, requests) in &*self.subresources.read() {
            requests.each(labels, name, &mut use_it);
        }
    }
}

/// Appends the metrics of all resources; `resources` yields labels and counters.
pub(super) fn render<'a>(resources: impl Iterator<Item = (String, &'a ResourceMetrics)> + Clone, out: &mut String) {
    let name = "apiserver_request_total";
    head(out, name, "counter", "Counter of apiserver requests.");
    for (labels, metrics) in resources.clone() {
        metrics.each(&labels, |labels, dry_run, counters| {
            for (code, count) in CODES.iter().zip(&counters.codes).filter(|(_, count)| count.load(Relaxed) > 0) {
                let count = count.load(Relaxed);
                let _ = writeln!(out, "{name}{{code=\"{code}\",dry_run=\"{dry_run}\",{labels}}} {count}");
            }
        });
    }
    let name = "apiserver_request_duration_seconds";
    head(out, name, "histogram", "Response latency distribution in seconds.");
    for (labels, metrics) in resources.clone() {
        metrics.each(&labels, |labels, dry_run, counters| {
            counters.took.render(name, &format!("dry_run=\"{dry_run}\",{labels}"), out);
        });
    }
    // dry runs are no part of a service
    let name = "apiserver_request_sli_duration_seconds";
    head(out, name, "histogram", "Response latency distribution in seconds, as service levels are measured.");
    for (labels, metrics) in resources.clone() {
        metrics.each(&labels, |labels, dry_run, counters| {
            if dry_run.is_empty() {
                counters.took.render_above(SERVICE_LEVEL_LEAST, name, labels, out);
            }
        });
    }
    let name = "apiserver_response_sizes";
    head(out, name, "histogram", "Response size distribution in bytes, of what was read.");
    for (labels, metrics) in resources.clone() {
        metrics.each(&labels, |labels, _, counters| {
            if let Some(sizes) = counters.sizes.as_ref().filter(|sizes| sizes.is_used()) {
                sizes.render(name, labels, out);
            }
        });
    }
    let name = "apiserver_longrunning_requests";
    head(out, name, "gauge", "Gauge of all active long-running apiserver requests.");
    for (labels, metrics) in resources.clone() {
        for (scope, open) in SCOPES.iter().zip(&metrics.watches).filter(|(_, open)| open.load(Relaxed) > 0) {
            let open = open.load(Relaxed);
            let labels = format!("component=\"apiserver\",{labels},scope=\"{scope}\",subresource=\"\",verb=\"WATCH\"");
            let _ = writeln!(out, "{name}{{{labels}}} {open}");
        }
    }
    let name = "apiserver_watch_events_total";
    head(out, name, "counter", "Number of events sent in watch clients");
    for (labels, metrics) in resources {
        let sent = metrics.watch_events.load(Relaxed);
        if sent > 0 {
            let _ = writeln!(out, "{name}{{{labels}}} {sent}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Counted<'_> =
        Counted { verb: "get", applies: false, dry_run: false, subresource: "", scope: Scope::Resource };

    fn ended(code: u16, millis: u64) -> Ending {
        Ending { code, took: Duration::from_millis(millis), bytes: Some(5_000) }
    }

    #[test]
    fn requests_are_counted_by_verb_scope_subresource_and_code_and_timed() {
        let metrics = ResourceMetrics::default();
        metrics.observe(GET, ended(200, 2));
        metrics.observe(GET, ended(418, 90_000));
        metrics.observe(Counted { subresource: "status", ..GET }, ended(200, 0));
        metrics.observe(Counted { verb: "list", scope: Scope::Namespace, ..GET }, ended(200, 0));
        metrics.observe(Counted { verb: "deletecollection", scope: Scope::Namespace, ..GET }, ended(200, 0));
        metrics.observe(Counted { verb: "patch", applies: true, dry_run: true, ..GET }, ended(200, 0));
        metrics.watches(Scope::Cluster).fetch_add(1, Relaxed);
        let labels = "resource=\"pods\"".to_owned();
        let mut text = String::new();
        render([(labels, &metrics)].into_iter(), &mut text);
        for line in [
            "apiserver_request_total{code=\"200\",dry_run=\"\",component=\"apiserver\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\"} 1",
            "apiserver_request_total{code=\"200\",dry_run=\"\",component=\"apiserver\",resource=\"pods\",scope=\"resource\",subresource=\"status\",verb=\"GET\"} 1",
            "apiserver_request_total{code=\"200\",dry_run=\"\",component=\"apiserver\",resource=\"pods\",scope=\"namespace\",subresource=\"\",verb=\"LIST\"} 1",
            "apiserver_request_total{code=\"200\",dry_run=\"\",component=\"apiserver\",resource=\"pods\",scope=\"namespace\",subresource=\"\",verb=\"DELETE\"} 1",
            "apiserver_request_total{code=\"200\",dry_run=\"All\",component=\"apiserver\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"APPLY\"} 1",
            "apiserver_request_duration_seconds_bucket{dry_run=\"\",component=\"apiserver\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\",le=\"0.0025\"} 1",
            "apiserver_request_duration_seconds_bucket{dry_run=\"\",component=\"apiserver\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\",le=\"+Inf\"} 2",
            "apiserver_request_sli_duration_seconds_bucket{component=\"apiserver\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\",le=\"0.05\"} 1",
            "apiserver_request_sli_duration_seconds_count{component=\"apiserver\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\"} 2",
            "apiserver_response_sizes_bucket{component=\"apiserver\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\",le=\"10000\"} 2",
            "apiserver_longrunning_requests{component=\"apiserver\",resource=\"pods\",scope=\"cluster\",subresource=\"\",verb=\"WATCH\"} 1",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
        assert!(!text.contains("apiserver_response_sizes_count{component=\"apiserver\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"APPLY\"}"));
    }

    #[test]
    fn made_up_subresources_do_not_pile_up() {
        let metrics = ResourceMetrics::default();
        for index in 0..100 {
            metrics.observe(Counted { subresource: &format!("s{index}"), ..GET }, ended(404, 0));
        }
        assert_eq!(metrics.subresources.read().len(), SUBRESOURCES_MAX);
    }
}
