//! How many pods per second the scheduling core places on a cluster of empty nodes.
//!
//! `cargo run --release -p scheduler --example throughput -- [NODES] [PODS]`

use std::sync::Arc;
use std::time::Instant;

use scheduler::{Placement, PodInfo, Snapshot, schedule};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let nodes: usize = arguments.next().as_deref().unwrap_or("100").parse()?;
    let pods: usize = arguments.next().as_deref().unwrap_or("10000").parse()?;
    let mut snapshot = Snapshot::new();
    for at in 0..nodes {
        let node = json!({"metadata": {"name": format!("node-{at}"), "labels": {"kubernetes.io/os": "linux"}},
            "status": {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "1000"}}});
        snapshot.set_node(&serde_json::from_value(node)?);
    }
    let mut waiting = Vec::with_capacity(pods);
    for at in 0..pods {
        let pod = json!({"metadata": {"name": format!("pod-{at}"), "namespace": "default", "uid": at.to_string(),
                "labels": {"app": format!("app-{}", at % 20)}},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]}});
        waiting.push(Arc::new(PodInfo::of(&serde_json::from_value(pod)?)));
    }
    let start = Instant::now();
    let mut placed = 0;
    for (seed, pod) in (0..).zip(&waiting) {
        if let Placement::Node(node) = schedule(&snapshot, pod, seed) {
            snapshot.place(Arc::clone(pod), &node);
            placed += 1;
        }
    }
    let elapsed = start.elapsed();
    let rate = f64::from(placed) / elapsed.as_secs_f64();
    println!("{placed} of {pods} pods placed on {nodes} nodes in {elapsed:?}: {rate:.0} pods/s");
    Ok(())
}
