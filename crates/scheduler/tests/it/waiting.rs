//! Pods that wait: what ends their waiting, and what is said on them meanwhile.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, node_of};

async fn patch_node(cluster: &Cluster, name: &str, patch: Value) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn set_allocatable(cluster: &Cluster, name: &str, allocatable: Value) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let status = json!({"status": {"allocatable": allocatable}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

/// Waits until the pod has been refused for this, and nothing else.
async fn refused(cluster: &Cluster, name: &str, why: &str) {
    let (reason, message) = cluster.unscheduled(name).await;
    assert_eq!(reason, "Unschedulable");
    assert!(message.contains(why), "{message}");
    assert!(cluster.event("FailedScheduling", name).await.contains(why));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_scheduled_once_a_node_comes() {
    let cluster = Cluster::start().await;
    cluster.pod("p", json!({"cpu": "1"}), json!({})).await;
    refused(&cluster, "p", "no nodes available to schedule pods").await;
    cluster.node("a", json!({}), json!({})).await;
    assert_eq!(cluster.bound("p").await, "a");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_scheduled_once_its_node_grows() {
    let cluster = Cluster::start().await;
    cluster.node("a", json!({}), json!({"cpu": "1"})).await;
    cluster.pod("p", json!({"cpu": "3"}), json!({})).await;
    refused(&cluster, "p", "0/1 nodes are available: 1 Insufficient cpu.").await;
    set_allocatable(&cluster, "a", json!({"cpu": "4"})).await;
    assert_eq!(cluster.bound("p").await, "a");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_scheduled_once_a_taint_is_gone_or_a_label_is_there() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.node(name, json!({}), json!({})).await;
    }
    for name in ["a", "b"] {
        let taint = json!({"spec": {"taints": [{"key": "kept", "value": "free", "effect": "NoSchedule"}]}});
        patch_node(&cluster, name, taint).await;
    }
    cluster.pod("tainted", json!({"cpu": "1"}), json!({})).await;
    refused(&cluster, "tainted", "2 node(s) had untolerated taint").await;
    let tolerations = json!({"tolerations": [{"operator": "Exists"}], "nodeSelector": {"disk": "fast"}});
    cluster.pod("selecting", json!({"cpu": "1"}), tolerations).await;
    refused(&cluster, "selecting", "2 node(s) didn't match Pod's node affinity/selector").await;
    patch_node(&cluster, "b", json!({"spec": {"taints": null}})).await;
    assert_eq!(cluster.bound("tainted").await, "b");
    patch_node(&cluster, "a", json!({"metadata": {"labels": {"disk": "fast"}}})).await;
    assert_eq!(cluster.bound("selecting").await, "a");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cordoned_node_takes_pods_again_when_it_is_uncordoned() {
    let cluster = Cluster::start().await;
    cluster.node("a", json!({}), json!({})).await;
    patch_node(&cluster, "a", json!({"spec": {"unschedulable": true}})).await;
    cluster.pod("p", json!({"cpu": "1"}), json!({})).await;
    refused(&cluster, "p", "1 node(s) were unschedulable").await;
    patch_node(&cluster, "a", json!({"spec": {"unschedulable": null}})).await;
    assert_eq!(cluster.bound("p").await, "a");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_scheduled_once_another_leaves_or_ends() {
    let cluster = Cluster::start().await;
    cluster.node("a", json!({}), json!({"cpu": "2"})).await;
    for name in ["first", "second"] {
        cluster.pod(name, json!({"cpu": "1"}), json!({})).await;
        cluster.bound(name).await;
    }
    for name in ["third", "fourth"] {
        cluster.pod(name, json!({"cpu": "1"}), json!({})).await;
        refused(&cluster, name, "1 Insufficient cpu").await;
    }
    cluster.api().delete("first", &DeleteParams::default()).await.unwrap();
    cluster.bound("third").await;
    let over = json!({"status": {"phase": "Succeeded"}});
    cluster.api().patch_status("second", &PatchParams::default(), &Patch::Merge(over)).await.unwrap();
    cluster.bound("fourth").await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_scheduled_once_the_pod_it_wants_to_be_beside_has_a_node() {
    let cluster = Cluster::start().await;
    for (name, zone) in [("a", "z1"), ("b", "z2")] {
        cluster.node(name, json!({"zone": zone}), json!({})).await;
    }
    let beside = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
    cluster.pod("web", json!({"cpu": "1"}), beside).await;
    refused(&cluster, "web", "2 node(s) didn't match pod affinity rules").await;
    let spec = json!({"metadata": {"labels": {"app": "db"}}, "nodeSelector": {"zone": "z2"}});
    cluster.pod("db", json!({"cpu": "1"}), spec).await;
    assert_eq!(cluster.bound("web").await, "b");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allocatable_counts_and_not_capacity() {
    let cluster = Cluster::start().await;
    cluster.node("a", json!({}), json!({"cpu": "4"})).await;
    set_allocatable(&cluster, "a", json!({"cpu": "500m"})).await;
    // the scheduler has seen it once it refuses what only the capacity would hold
    cluster.pod("large", json!({"cpu": "1"}), json!({})).await;
    let (_, message) = cluster.unscheduled("large").await;
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{message}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_names_the_generation_it_is_about() {
    let cluster = Cluster::start().await;
    let gates = json!({"schedulingGates": [{"name": "example.com/wait"}]});
    cluster.pod("p", json!({"cpu": "1"}), gates).await;
    let condition = |pod: &Pod| {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let condition = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?.clone();
        Some((condition.reason.unwrap_or_default(), condition.observed_generation == pod.metadata.generation))
    };
    let is = |reason: &str| {
        let wanted = Some((reason.to_owned(), true));
        move |pod: &Pod| condition(pod) == wanted
    };
    cluster.until("p", is("SchedulingGated")).await;
    let free = json!({"spec": {"schedulingGates": null}});
    cluster.api().patch("p", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    cluster.until("p", is("Unschedulable")).await;
    cluster.node("a", json!({}), json!({})).await;
    let pod = cluster.until("p", is("")).await;
    assert_eq!(node_of(&pod), Some("a"));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_more_important_of_pods_that_wait_goes_first() {
    let cluster = Cluster::start().await;
    crate::preemption::priority(&cluster, "high", 1000).await;
    for (name, class) in [("low", json!({})), ("high", json!({"priorityClassName": "high"}))] {
        cluster.pod(name, json!({"cpu": "1"}), class).await;
        refused(&cluster, name, "no nodes available to schedule pods").await;
    }
    cluster.node("a", json!({}), json!({"cpu": "1"})).await;
    assert_eq!(cluster.bound("high").await, "a");
    let low = cluster.pods.get("default", "low").unwrap();
    assert_eq!(node_of(&low), None);
    cluster.end().await;
}
