//! How fast the scheduling core places pods, on clusters of the sizes that `docs/benchmarks.md` speaks of.
//!
//! `cargo run --release -p scheduler --example throughput -- [CASE …]`

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use scheduler::{Configuration, Placement, Planner, PodInfo, SCHEDULER_NAME, Snapshot};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

/// A measurement: so many pods of a kind on so many nodes.
struct Case {
    name: &'static str,
    nodes: usize,
    pods: usize,
    /// The pods' labels and spec, by their number.
    pod: fn(usize) -> Value,
}

const CASES: &[Case] = &[
    Case { name: "plain", nodes: 1000, pods: 10_000, pod: plain },
    Case { name: "plain", nodes: 5000, pods: 30_000, pod: plain },
    Case { name: "unlike", nodes: 1000, pods: 10_000, pod: unlike },
    Case { name: "unlike", nodes: 5000, pods: 30_000, pod: unlike },
    Case { name: "affinity-and-spread", nodes: 1000, pods: 5000, pod: affine },
    Case { name: "affinity-and-spread", nodes: 5000, pods: 5000, pod: affine },
    Case { name: "affinity-and-spread-unlike", nodes: 1000, pods: 2000, pod: affine_unlike },
    Case { name: "no-room", nodes: 1000, pods: 2000, pod: too_large },
    Case { name: "preemption", nodes: 1000, pods: 200, pod: urgent },
];

fn requests(cpu: &str) -> Value {
    json!([{"name": "c", "image": "web:1", "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}}])
}

/// Pods of twenty workloads.
fn plain(at: usize) -> Value {
    json!({"metadata": {"labels": {"app": format!("app-{}", at % 20)}}, "spec": {"containers": requests("100m")}})
}

/// Pods of which no two are alike, as those of a StatefulSet.
fn unlike(at: usize) -> Value {
    json!({"metadata": {"labels": {"app": "db", "index": at.to_string()}}, "spec": {"containers": requests("100m")}})
}

/// Pods of twenty workloads, each spread over zones and nodes, away from its like and beside a cache.
fn affine(at: usize) -> Value {
    let app = format!("app-{}", at % 20);
    let selector = json!({"matchLabels": {"app": app}});
    json!({"metadata": {"labels": {"app": app, "tier": "web"}}, "spec": {
        "containers": requests("100m"),
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": selector},
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": selector}],
        "affinity": {
            "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"tier": "web"}}, "topologyKey": "topology.kubernetes.io/region"}]},
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}]}}}})
}

/// The same with no two pods alike.
fn affine_unlike(at: usize) -> Value {
    let mut pod = affine(at);
    pod["metadata"]["labels"]["index"] = json!(at.to_string());
    pod
}

fn too_large(at: usize) -> Value {
    json!({"metadata": {"labels": {"index": at.to_string()}}, "spec": {"containers": requests("128")}})
}

/// Pods for which others must leave: nodes are full in this case.
fn urgent(_: usize) -> Value {
    json!({"metadata": {"labels": {"app": "urgent"}}, "spec": {"priority": 1000, "containers": requests("4")}})
}

fn pod(at: usize, mut value: Value) -> Result<PodInfo, Failure> {
    let metadata = json!({"name": format!("pod-{at}"), "namespace": "default", "uid": format!("uid-{at}"),
        "labels": value["metadata"]["labels"]});
    value["metadata"] = metadata;
    value["spec"]["schedulerName"] = json!(SCHEDULER_NAME);
    let pod: Pod = serde_json::from_value(value)?;
    Ok(PodInfo::of(&pod))
}

fn measure(case: &Case) -> Result<(), Failure> {
    let mut snapshot = Snapshot::new();
    for at in 0..case.nodes {
        let name = format!("node-{at}");
        let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/region": "r",
            "topology.kubernetes.io/zone": format!("zone-{}", at % 10)});
        let node = json!({"metadata": {"name": name, "labels": labels},
            "status": {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "1000"}}});
        snapshot.set_node(&serde_json::from_value(node)?);
        if case.name == "preemption" {
            for part in 0..16 {
                let full = json!({"metadata": {"labels": {}}, "spec": {"containers": requests("4")}});
                snapshot.place(&pod(1_000_000 + at * 16 + part, full)?, &name);
            }
        }
    }
    let mut waiting = Vec::with_capacity(case.pods);
    for at in 0..case.pods {
        waiting.push(snapshot.share(pod(at, (case.pod)(at))?));
    }
    let mut planner = Planner::new(&Configuration::default());
    let mut times: Vec<Duration> = Vec::with_capacity(case.pods);
    let mut placed = 0;
    let start = Instant::now();
    for (seed, pod) in (0..).zip(&waiting) {
        let began = Instant::now();
        if let Placement::Node { name, .. } = planner.decide(&mut snapshot, pod, seed) {
            snapshot.place(pod, &name);
            placed += 1;
        }
        times.push(began.elapsed());
    }
    let elapsed = start.elapsed();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 1000).min(times.len() - 1)];
    println!(
        "{:<27} {:>5} nodes {:>6} pods {placed:>6} placed {:>9.0} pods/s  p50 {:>9.1?}  p99 {:>9.1?}  max {:>9.1?}",
        case.name,
        case.nodes,
        case.pods,
        f64::from(u32::try_from(case.pods)?) / elapsed.as_secs_f64(),
        at(500),
        at(990),
        at(1000),
    );
    Ok(())
}

fn main() -> Result<(), Failure> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for case in CASES.iter().filter(|case| wanted.is_empty() || wanted.iter().any(|name| name == case.name)) {
        measure(case)?;
    }
    Ok(())
}
