//! `/livez`, `/readyz` and `/healthz`: one named check per part, and the post-start hooks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use http::{Response, StatusCode};
use parking_lot::RwLock;

use crate::{
    body::{self, Body},
    metrics::{Family, head},
    options::Query,
};

/// A check: `Err` says what is wrong.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The names of what has to happen after the start before the server is ready, as upstream calls them; all of it has
/// happened when the server has been bootstrapped.
const HOOKS: [&str; 24] = [
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/start-kube-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/storage-object-count-tracker-hook",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-status-available-controller",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-discovery-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "poststarthook/apiservice-openapi-controller",
];

/// Upstream's name for the check of the storage.
pub(crate) const STORAGE: &str = "etcd";

/// All checks.
pub(crate) struct Health {
    /// Of the storage, which every question is about.
    storage: RwLock<Option<Check>>,
    /// Of other parts, which a server can live without.
    checks: RwLock<BTreeMap<String, Check>>,
    is_started: AtomicBool,
    totals: Family<AtomicU64>,
}

impl Default for Health {
    fn default() -> Self {
        let totals =
            Family::counters("kubernetes_healthchecks_total", "Results of all health checks that were asked for.");
        Self { storage: RwLock::default(), checks: RwLock::default(), is_started: AtomicBool::new(false), totals }
    }
}

/// Which question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    Live,
    Ready,
    Healthy,
}

impl Probe {
    fn name(self) -> &'static str {
        match self {
            Self::Live => "livez",
            Self::Ready => "readyz",
            Self::Healthy => "healthz",
        }
    }
}

impl Health {
    /// Sets the check of the storage. Monitoring knows it by upstream's name, whatever the storage is.
    pub(crate) fn watch_storage(&self, check: Check) {
        *self.storage.write() = Some(check);
    }

    /// Adds a check to `/readyz` and `/healthz`.
    pub(crate) fn add(&self, name: &str, check: Check) {
        self.checks.write().insert(name.to_owned(), check);
    }

    /// What one check says, `None` where there is none of the name.
    pub(crate) fn check(&self, name: &str) -> Option<Result<(), String>> {
        let storage = || self.storage.read().clone();
        let check = if name == STORAGE { storage()? } else { self.checks.read().get(name).cloned()? };
        Some(check())
    }

    /// Says that every post-start hook has run.
    pub(crate) fn started(&self) {
        self.is_started.store(true, Relaxed);
    }

    fn results(&self, probe: Probe, stopping: bool) -> Vec<(String, Result<(), String>)> {
        let is_started = self.is_started.load(Relaxed);
        let done = |is_done: bool| if is_done { Ok(()) } else { Err("not finished".to_owned()) };
        let mut results = vec![("ping".to_owned(), Ok(())), ("log".to_owned(), Ok(()))];
        results.extend(self.storage.read().as_ref().map(|check| (STORAGE.to_owned(), check())));
        if probe == Probe::Ready {
            results.push(("informer-sync".to_owned(), done(is_started)));
        }
        if probe != Probe::Live {
            results.extend(self.checks.read().iter().map(|(name, check)| (name.clone(), check())));
        }
        let outcome = || done(is_started || probe == Probe::Live);
        results.extend(HOOKS.map(|hook| (hook.to_owned(), outcome())));
        results.push(("autoregister-completion".to_owned(), outcome()));
        if probe == Probe::Ready {
            results.push(("shutdown".into(), if stopping { Err("process is shutting down".into()) } else { Ok(()) }));
        }
        results
    }

    /// `/metrics/slis`: each check as a gauge, and how often it was asked for.
    pub(crate) fn metrics(&self) -> String {
        let mut out = String::new();
        let name = "kubernetes_healthcheck";
        head(&mut out, name, "gauge", "This metric records the result of a single healthcheck.");
        for probe in [Probe::Healthy, Probe::Live, Probe::Ready] {
            for (check, result) in self.results(probe, false) {
                let value = u8::from(result.is_ok());
                out.push_str(&format!("{name}{{name=\"{check}\",type=\"{}\"}} {value}\n", probe.name()));
            }
        }
        self.totals.render("counter", &mut out);
        out
    }

    /// Answers a probe; `only` is the name of a single check.
    pub(crate) fn answer(&self, probe: Probe, only: &str, query: &Query<'_>, stopping: bool) -> Response<Body> {
        let results = self.results(probe, stopping);
        if !only.is_empty() {
            return match results.into_iter().find(|(name, _)| name == only) {
                Some((_, Ok(()))) => text(StatusCode::OK, "ok".into()),
                Some((_, Err(why))) => {
                    text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n"))
                }
                None => text(StatusCode::NOT_FOUND, "404 page not found\n".into()),
            };
        }
        let mut excluded: Vec<&str> = query.all("exclude").collect();
        let (mut lines, mut failed) = (String::new(), false);
        for (check, result) in &results {
            if let Some(at) = excluded.iter().position(|name| name == check) {
                excluded.swap_remove(at);
                lines.push_str(&format!("[+]{check} excluded: ok\n"));
                continue;
            }
            let status = if result.is_ok() { "success" } else { "error" };
            self.totals.count(&[("name", check), ("status", status), ("type", probe.name())]);
            // this is for everybody to see, so it does not say what is wrong
            lines.push_str(&match result {
                Ok(()) => format!("[+]{check} ok\n"),
                Err(_) => format!("[-]{check} failed: reason withheld\n"),
            });
            failed |= result.is_err();
        }
        if !excluded.is_empty() {
            excluded.sort_unstable();
            let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
            let what = "warn: some health checks cannot be excluded: no matches for";
            lines.push_str(&format!("{what} {}\n", names.join(",")));
        }
        let status = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        if !failed && query.all("verbose").next().is_none() {
            return text(status, "ok".into());
        }
        lines.push_str(&format!("{} check {}\n", probe.name(), if failed { "failed" } else { "passed" }));
        text(status, lines)
    }
}

/// An answer in plain text.
pub(crate) fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn ask(health: &Health, probe: Probe, only: &str, query: &str) -> (u16, String) {
        let response = health.answer(probe, only, &Query::parse(Some(query)), false);
        let status = response.status().as_u16();
        (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_waits_for_the_hooks_and_names_what_fails() {
        let health = Health::default();
        assert_eq!(ask(&health, Probe::Live, "", "").await, (200, "ok".into()));
        let (status, text) = ask(&health, Probe::Ready, "", "").await;
        assert_eq!(status, 500);
        assert!(text.contains("[-]poststarthook/rbac/bootstrap-roles failed: reason withheld"), "{text}");
        health.started();
        let (status, text) = ask(&health, Probe::Ready, "", "verbose").await;
        assert_eq!(status, 200);
        assert!(text.contains("[+]ping ok\n") && text.ends_with("readyz check passed\n"), "{text}");
        health.add("disk", Arc::new(|| Err("full".into())));
        let single = ask(&health, Probe::Ready, "disk", "verbose").await;
        assert_eq!(single, (500, "internal server error: full\n".into()));
        assert_eq!(ask(&health, Probe::Ready, "ping", "verbose").await, (200, "ok".into()));
        assert_eq!(ask(&health, Probe::Ready, "", "exclude=disk").await.0, 200);
        assert_eq!(ask(&health, Probe::Ready, "nothing", "").await.0, 404);
        let (_, text) = ask(&health, Probe::Ready, "", "exclude=disk&exclude=b&exclude=a&verbose").await;
        let warned = "warn: some health checks cannot be excluded: no matches for \"a\",\"b\"\nreadyz check passed\n";
        assert!(text.contains("[+]disk excluded: ok\n") && text.ends_with(warned), "{text}");
        assert_eq!(ask(&health, Probe::Live, "", "").await, (200, "ok".into()));
        health.watch_storage(Arc::new(|| Err("gone".into())));
        assert_eq!(ask(&health, Probe::Live, "", "").await.0, 500);
        let metrics = health.metrics();
        assert!(metrics.contains("kubernetes_healthcheck{name=\"etcd\",type=\"livez\"} 0\n"), "{metrics}");
        let asked = "kubernetes_healthchecks_total{name=\"etcd\",status=\"error\",type=\"livez\"} 1\n";
        assert!(metrics.contains(asked), "{metrics}");
    }
}
