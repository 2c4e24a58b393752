//! `/livez`, `/readyz` and `/healthz`: one named check per part, and the post-start hooks.

use std::{collections::BTreeMap, sync::Arc};

use http::{Response, StatusCode};
use parking_lot::RwLock;

use crate::{
    body::{self, Body},
    options::Query,
};

/// A check: `Err` says what is wrong.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The names of what has to happen after the start before the server is ready, as upstream calls them.
const HOOKS: [&str; 6] = [
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/start-system-namespaces-controller",
];

/// All checks.
pub(crate) struct Health {
    checks: RwLock<BTreeMap<String, Check>>,
    hooks: RwLock<BTreeMap<&'static str, bool>>,
}

impl Default for Health {
    fn default() -> Self {
        Self { checks: RwLock::default(), hooks: RwLock::new(HOOKS.map(|hook| (hook, false)).into()) }
    }
}

/// Which question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    Live,
    Ready,
    Healthy,
}

impl Health {
    /// Adds a check to `/readyz` and `/healthz`.
    pub(crate) fn add(&self, name: &str, check: Check) {
        self.checks.write().insert(name.to_owned(), check);
    }

    /// Says that every post-start hook has run.
    pub(crate) fn started(&self) {
        self.hooks.write().values_mut().for_each(|done| *done = true);
    }

    fn results(&self, probe: Probe, stopping: bool) -> Vec<(String, Result<(), String>)> {
        let mut results = vec![("ping".to_owned(), Ok(())), ("log".to_owned(), Ok(()))];
        if probe != Probe::Live {
            for (name, check) in &*self.checks.read() {
                results.push((name.clone(), check()));
            }
        }
        let not_finished = || Err("not finished".to_owned());
        results.extend(self.hooks.read().iter().map(|(name, done)| {
            ((*name).to_owned(), if *done || probe == Probe::Live { Ok(()) } else { not_finished() })
        }));
        if probe == Probe::Ready {
            results.push(("shutdown".into(), if stopping { Err("process is shutting down".into()) } else { Ok(()) }));
        }
        results
    }

    /// `/metrics/slis`: each check as a gauge.
    pub(crate) fn metrics(&self) -> String {
        let mut out = String::from(
            "# HELP kubernetes_healthcheck This metric records the result of a single healthcheck.\n# TYPE kubernetes_healthcheck gauge\n",
        );
        for (probe, kind) in [(Probe::Healthy, "healthz"), (Probe::Live, "livez"), (Probe::Ready, "readyz")] {
            for (name, result) in self.results(probe, false) {
                let value = u8::from(result.is_ok());
                out.push_str(&format!("kubernetes_healthcheck{{name=\"{name}\",type=\"{kind}\"}} {value}\n"));
            }
        }
        out
    }

    /// Answers a probe; `only` is the name of a single check.
    pub(crate) fn answer(&self, probe: Probe, only: &str, query: &Query<'_>, stopping: bool) -> Response<Body> {
        let name = match probe {
            Probe::Live => "livez",
            Probe::Ready => "readyz",
            Probe::Healthy => "healthz",
        };
        let mut results = self.results(probe, stopping);
        if !only.is_empty() {
            results.retain(|(name, _)| name == only);
            if results.is_empty() {
                return text(StatusCode::NOT_FOUND, "404 page not found\n".into());
            }
        }
        let excluded: Vec<&str> = query.all("exclude").collect();
        let failed = results.iter().any(|(name, result)| result.is_err() && !excluded.contains(&name.as_str()));
        let status = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        if !failed && query.all("verbose").next().is_none() {
            return text(status, "ok".into());
        }
        let mut lines = String::new();
        for (check, result) in &results {
            lines.push_str(&match result {
                _ if excluded.contains(&check.as_str()) => format!("[+]{check} excluded: ok\n"),
                Ok(()) => format!("[+]{check} ok\n"),
                Err(_) => format!("[-]{check} failed: reason withheld\n"),
            });
        }
        lines.push_str(&format!("{name} check {}\n", if failed { "failed" } else { "passed" }));
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
        assert_eq!(ask(&health, Probe::Ready, "disk", "").await.0, 500);
        assert_eq!(ask(&health, Probe::Ready, "", "exclude=disk").await.0, 200);
        assert_eq!(ask(&health, Probe::Ready, "nothing", "").await.0, 404);
    }
}
