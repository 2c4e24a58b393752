//! What controllers and scheduler make of many workloads, on simulated nodes.
//!
//! - `workloads`: one large Deployment is created, scaled and deleted.
//! - `churn`: many Deployments are updated at once while somebody else uses the API; then it is looked what is left.
//! - `steady`: many pods and no change: what rest costs.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    Size,
    measure::{Latencies, Report, drive},
    population::WRITERS,
    target::{Content, JSON, MERGE, Target, content},
};

const NAMESPACE: &str = "scale-workloads";
/// Replicas of each of many Deployments.
const REPLICAS_EACH: usize = 3;
/// Deployments that the pods of a cluster at rest belong to.
const RESTING_DEPLOYMENTS: usize = 20;
/// How often one object is looked at, and how often a long list.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const LIST_AGAIN: Duration = Duration::from_millis(250);
/// Between two requests of the user beside a churn.
const USER_PAUSE: Duration = Duration::from_millis(50);
/// How long a cluster is left alone before it counts as at rest, and how long it is watched then.
const REST: Duration = Duration::from_secs(20);
const WATCHED: Duration = Duration::from_secs(60);
/// What must be gone when Deployments are.
const LEFT_BEHIND: [&str; 3] = [
    "/apis/apps/v1/namespaces/scale-workloads/replicasets",
    "/api/v1/namespaces/scale-workloads/pods",
    "/apis/discovery.k8s.io/v1/namespaces/scale-workloads/endpointslices",
];

fn deployments() -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments")
}

fn deployment(name: &str, replicas: usize) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {
            "terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": "registry.example/app:v1",
                "ports": [{"containerPort": 8080, "name": "http"}],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}]}}}})
}

/// Whether a Deployment is as it was asked to be, all of it.
fn is_done(deployment: &Value) -> bool {
    let status = &deployment["status"];
    let wanted = deployment["spec"]["replicas"].as_u64();
    let count = |name: &str| status[name].as_u64().or(Some(0));
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "readyReplicas"].iter().all(|name| count(name) == wanted)
}

async fn prepare(target: &Target) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    target.ensure("/api/v1/namespaces", &namespace).await?;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    target.ensure(&format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"), &account).await
}

/// Waits until an object is as wished, and says since when the wish was.
async fn until(target: &Target, path: &str, patience: Duration, is: impl Fn(&Value) -> bool) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let found = target.read(path).await?;
        if is(&found) {
            return Ok(start.elapsed());
        }
        if start.elapsed() > patience {
            bail!("{path}: not there after {patience:?}; status {}", found["status"]);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits until all Deployments are done.
async fn all_done(target: &Target, count: usize, start: Instant, patience: Duration) -> Result<Duration> {
    loop {
        let list = target.read(&format!("{}?resourceVersion=0", deployments())).await?;
        let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
        let done = items.iter().filter(|deployment| is_done(deployment)).count();
        if items.len() == count && done == count {
            return Ok(start.elapsed());
        }
        if start.elapsed() > patience {
            bail!("{done} of {count} Deployments are done after {patience:?}");
        }
        tokio::time::sleep(LIST_AGAIN).await;
    }
}

async fn count(target: &Target, path: &str) -> Result<usize> {
    let list = target.read(&format!("{path}?resourceVersion=0")).await?;
    Ok(list["items"].as_array().map_or(0, Vec::len))
}

/// Waits until nothing of a kind is left.
async fn none_left(target: &Target, path: &str, patience: Duration) -> Result<Duration> {
    until(target, path, patience, |list| list["items"].as_array().is_none_or(Vec::is_empty)).await
}

/// One Deployment of many replicas.
pub(crate) async fn run(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    let replicas = size.replicas;
    report.title(&format!("a Deployment of {replicas} replicas on {} simulated nodes", size.nodes));
    prepare(target).await?;
    let (one, pods) = (format!("{}/large", deployments()), format!("/api/v1/namespaces/{NAMESPACE}/pods"));
    let rate = |took: Duration| format!("{:.0} pods/s", replicas as f64 / took.as_secs_f64());
    let start = Instant::now();
    target.send(Method::POST, &deployments(), Some(content(JSON, &deployment("large", replicas)))).await?;
    until(target, &one, size.patience, is_done).await?;
    report.took("created until all are ready", start.elapsed(), &rate(start.elapsed()));
    for (name, wanted) in [("scaled to twice as many", 2 * replicas), ("scaled back", replicas)] {
        let start = Instant::now();
        let scaled = content(MERGE, &json!({"spec": {"replicas": wanted}}));
        target.send(Method::PATCH, &one, Some(scaled)).await?;
        until(target, &one, size.patience, is_done).await?;
        report.took(name, start.elapsed(), &rate(start.elapsed()));
    }
    let start = Instant::now();
    target.send(Method::DELETE, &format!("{one}?propagationPolicy=Background"), None).await?;
    none_left(target, &pods, size.patience).await?;
    report.took("deleted until no pod is left", start.elapsed(), &rate(start.elapsed()));
    reconciles(target, report).await
}

/// Somebody who uses the API while others keep it busy.
struct User {
    stop: Arc<AtomicBool>,
    running: JoinSet<Result<(Latencies, Latencies, Latencies)>>,
    start: Instant,
}

impl User {
    fn start(target: &Arc<Target>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (target, stopped) = (target.clone(), stop.clone());
        let mut running = JoinSet::new();
        running.spawn(async move {
            let (mut reads, mut writes, mut lists) = <(Latencies, Latencies, Latencies)>::default();
            let maps = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
            target.ensure(&maps, &crate::objects::config_map("user", "0")).await?;
            let (one, page) = (format!("{maps}/user"), format!("/api/v1/namespaces/{NAMESPACE}/pods?limit=500"));
            for round in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let object = crate::objects::config_map("user", &round.to_string());
                timed(&target, &mut writes, Method::PUT, &one, Some(content(JSON, &object))).await?;
                timed(&target, &mut reads, Method::GET, &one, None).await?;
                timed(&target, &mut lists, Method::GET, &page, None).await?;
                tokio::time::sleep(USER_PAUSE).await;
            }
            Ok((reads, writes, lists))
        });
        Self { stop, running, start: Instant::now() }
    }

    async fn report(mut self, report: &Report) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let took = self.start.elapsed();
        while let Some(ended) = self.running.join_next().await {
            let (reads, writes, lists) = ended??;
            for (name, latencies) in [("  a user's reads", reads), ("  writes", writes), ("  lists of 500 pods", lists)]
            {
                report.events(name, latencies.len(), took, &latencies, "beside it");
            }
        }
        Ok(())
    }
}

async fn timed(
    target: &Target,
    latencies: &mut Latencies,
    method: Method,
    path: &str,
    body: Option<Content>,
) -> Result<()> {
    let sent = Instant::now();
    target.send(method, path, body).await?;
    latencies.add(sent.elapsed());
    Ok(())
}

/// Many Deployments, all updated at once.
pub(crate) async fn churn(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    let many = size.deployments;
    report.title(&format!("{many} Deployments of {REPLICAS_EACH} on {} simulated nodes", size.nodes));
    prepare(target).await?;
    report.memory("memory before");
    let start = Instant::now();
    let writer = target.clone();
    let made = drive(many, WRITERS, size.patience, move |number| {
        let target = writer.clone();
        async move { target.ensure(&deployments(), &deployment(&format!("app-{number:04}"), REPLICAS_EACH)).await }
    })
    .await;
    report.load("created", &made, "64 writers");
    let took = all_done(target, many, start, size.patience).await?;
    report.took(
        "until all pods are ready",
        took,
        &format!("{:.0} pods/s", (many * REPLICAS_EACH) as f64 / took.as_secs_f64()),
    );
    for round in 0..size.rounds {
        let user = User::start(target);
        let start = Instant::now();
        let writer = target.clone();
        let updated = drive(many, WRITERS, size.patience, move |number| {
            let target = writer.clone();
            async move {
                let template = json!({"metadata": {"annotations": {"round": format!("{round}")}}});
                let patch = content(MERGE, &json!({"spec": {"template": template}}));
                target.send(Method::PATCH, &format!("{}/app-{number:04}", deployments()), Some(patch)).await.map(drop)
            }
        })
        .await;
        report.load("all updated at once", &updated, "64 writers");
        let took = all_done(target, many, start, size.patience).await?;
        report.took(
            "until all have rolled over",
            took,
            &format!("{:.0} pods/s", (many * REPLICAS_EACH) as f64 / took.as_secs_f64()),
        );
        user.report(report).await?;
        report.memory("memory after it");
    }
    for (name, path) in ["ReplicaSets", "pods"].iter().zip(LEFT_BEHIND) {
        println!("{:<36} {:>9}", format!("{name} then"), count(target, path).await?);
    }
    reconciles(target, report).await?;
    clear(target, size, report).await
}

/// Deletes all Deployments, waits until what belongs to them is gone, and shows what it left of memory.
async fn clear(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    let start = Instant::now();
    let (status, _) = target.exchange(Method::DELETE, &deployments(), JSON, None).await?;
    if status != StatusCode::OK {
        bail!("delete Deployments: {status}");
    }
    for path in LEFT_BEHIND {
        none_left(target, path, size.patience).await?;
    }
    report.took("deleted until nothing is left", start.elapsed(), "");
    tokio::time::sleep(REST).await;
    report.memory("memory at the end");
    Ok(())
}

/// Many pods of few Deployments, and nobody who changes anything.
pub(crate) async fn steady(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    let each = size.pods / RESTING_DEPLOYMENTS;
    report.title(&format!("{} pods on {} simulated nodes", each * RESTING_DEPLOYMENTS, size.nodes));
    prepare(target).await?;
    report.memory("memory with the nodes");
    let start = Instant::now();
    for number in 0..RESTING_DEPLOYMENTS {
        target.ensure(&deployments(), &deployment(&format!("rest-{number:02}"), each)).await?;
    }
    let took = all_done(target, RESTING_DEPLOYMENTS, start, size.patience).await?;
    let pods = (each * RESTING_DEPLOYMENTS) as f64;
    report.took("until all pods are ready", took, &format!("{:.0} pods/s", pods / took.as_secs_f64()));
    report.memory("memory then");
    tokio::time::sleep(REST).await;
    report.memory("memory at rest");
    let (start, before) = (Instant::now(), report.cpu_seconds());
    tokio::time::sleep(WATCHED).await;
    let share = 100.0 * (report.cpu_seconds() - before) / start.elapsed().as_secs_f64();
    println!("{:<36} {share:>9.2} % of a core over {WATCHED:?}", "cpu at rest");
    report.memory("memory after it");
    reconciles(target, report).await?;
    clear(target, size, report).await
}

/// Reconcile times by controller, of all that were done since the server started.
async fn reconciles(target: &Target, report: &Report) -> Result<()> {
    let text = String::from_utf8_lossy(&target.get("/metrics").await?).into_owned();
    let (waited, worked) =
        (histograms(&text, "workqueue_queue_duration_seconds"), histograms(&text, "workqueue_work_duration_seconds"));
    if worked.is_empty() {
        report.title("the server has no metrics of work queues");
    }
    for (name, work) in worked {
        let empty = Vec::new();
        let wait = waited.get(&name).unwrap_or(&empty);
        let count = work.last().map_or(0.0, |(_, count)| *count);
        if count > 0.0 {
            let [w50, w99, q50, q99] = [(&work, 0.5), (&work, 0.99), (wait, 0.5), (wait, 0.99)]
                .map(|(buckets, quantile)| quantile_of(buckets, quantile) * 1e3);
            println!(
                "  {name:<34} {count:>9} runs   p50 {w50:>8.2} ms   p99 {w99:>8.2} ms   waited p50 {q50:>8.2} ms   p99 {q99:>9.2} ms"
            );
        }
    }
    Ok(())
}

/// The cumulative buckets of a histogram, by the label `name`.
fn histograms(text: &str, family: &str) -> BTreeMap<String, Vec<(f64, f64)>> {
    let mut found: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let label = |labels: &str, name: &str| {
        let (_, rest) = labels.split_once(&format!("{name}=\""))?;
        rest.split('"').next().map(ToOwned::to_owned)
    };
    for line in text.lines() {
        let Some((labels, value)) = line
            .strip_prefix(family)
            .and_then(|rest| rest.strip_prefix("_bucket{"))
            .and_then(|rest| rest.rsplit_once("} "))
        else {
            continue;
        };
        let (Some(name), Some(limit), Ok(count)) = (label(labels, "name"), label(labels, "le"), value.parse()) else {
            continue;
        };
        found.entry(name).or_default().push((limit.parse().unwrap_or(f64::INFINITY), count));
    }
    found
}

/// A quantile of cumulative buckets, linear within its bucket as Prometheus computes it.
fn quantile_of(buckets: &[(f64, f64)], quantile: f64) -> f64 {
    let wanted = buckets.last().map_or(0.0, |(_, count)| count * quantile);
    let (mut lower, mut below) = (0.0, 0.0);
    for (limit, count) in buckets {
        if *count >= wanted && *count > 0.0 {
            if limit.is_infinite() {
                return lower;
            }
            return lower + (limit - lower) * (wanted - below) / (count - below).max(1.0);
        }
        (lower, below) = (*limit, *count);
    }
    f64::NAN
}

/// Deletes the namespace.
pub(crate) async fn delete(target: &Target) -> Result<()> {
    target.exchange(Method::DELETE, &format!("/api/v1/namespaces/{NAMESPACE}"), JSON, None).await.map(drop)
}
