//! Several profiles, pods of other schedulers, and gates.

use kube::api::{Patch, PatchParams};
use scheduler::Configuration;
use serde_json::json;

use crate::cluster::{Cluster, node_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_pod_is_placed_by_its_profile_and_foreign_pods_by_nobody() {
    let configuration = Configuration::read(&json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [
            {"schedulerName": "default-scheduler"},
            {"schedulerName": "packing", "pluginConfig": [{"name": "NodeResourcesFit", "args": {
                "scoringStrategy": {"type": "MostAllocated"}}}],
                "plugins": {"score": {"disabled": [{"name": "NodeResourcesBalancedAllocation"}]}}}]}))
    .unwrap();
    let cluster = Cluster::configured(&configuration).await;
    for name in ["a", "b"] {
        cluster.node(name, json!({}), json!({})).await;
    }
    let asks = || json!({"cpu": "500m", "memory": "512Mi"});
    cluster.pod("foreign", asks(), json!({"schedulerName": "other"})).await;
    cluster.pod("first", asks(), json!({})).await;
    let first = cluster.bound("first").await;
    cluster.pod("packed", asks(), json!({"schedulerName": "packing"})).await;
    assert_eq!(cluster.bound("packed").await, first, "the fuller node");
    cluster.pod("spread", asks(), json!({})).await;
    assert_ne!(cluster.bound("spread").await, first, "the emptier node");
    let foreign = cluster.pods.get("default", "foreign").unwrap();
    assert_eq!(node_of(&foreign), None);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gated_pod_is_tried_once_its_gates_are_gone() {
    let cluster = Cluster::start().await;
    cluster.node("a", json!({}), json!({})).await;
    let gates = json!({"schedulingGates": [{"name": "example.com/wait"}]});
    cluster.pod("gated", json!({"cpu": "100m"}), gates).await;
    let (reason, message) = cluster.unscheduled("gated").await;
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
    );
    cluster.pod("open", json!({"cpu": "100m"}), json!({})).await;
    cluster.bound("open").await;
    assert_eq!(node_of(&cluster.pods.get("default", "gated").unwrap()), None);
    let free = json!({"spec": {"schedulingGates": null}});
    cluster.api().patch("gated", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    assert_eq!(cluster.bound("gated").await, "a");
    cluster.end().await;
}
