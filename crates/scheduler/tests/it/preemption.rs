//! Preemption through the API.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;

pub(crate) async fn priority(cluster: &Cluster, name: &str, value: i32) {
    cluster.global::<PriorityClass>(json!({"metadata": {"name": name}, "value": value})).await;
}

pub(crate) fn of(class: &str) -> Value {
    json!({"priorityClassName": class})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preemptor_is_nominated_its_victims_told_and_others_spared() {
    let cluster = Cluster::start().await;
    cluster.node("a", json!({}), json!({"cpu": "2"})).await;
    priority(&cluster, "high", 1000).await;
    priority(&cluster, "low", 1).await;
    cluster.pod("spared", json!({"cpu": "1"}), of("low")).await;
    cluster.bound("spared").await;
    cluster
        .pod(
            "victim",
            json!({"cpu": "1"}),
            json!({"priorityClassName": "low",
        "metadata": {"labels": {"app": "victim"}}}),
        )
        .await;
    cluster.bound("victim").await;
    let budget = json!({"metadata": {"name": "guard"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "spared"}}}});
    cluster.create::<PodDisruptionBudget>(budget).await;
    let label = json!({"metadata": {"labels": {"app": "spared"}}});
    cluster.api().patch("spared", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    cluster.until("spared", |pod| pod.metadata.labels.is_some()).await;
    cluster.pod("meek", json!({"cpu": "1"}), json!({"priorityClassName": "high", "preemptionPolicy": null})).await;
    cluster.until_gone("victim").await;
    assert_eq!(cluster.bound("meek").await, "a");
    let message = cluster.event("Preempted", "victim").await;
    assert!(message.starts_with("Preempted by pod ") && message.ends_with(" on node a"), "{message}");
    let refused = cluster.event("FailedScheduling", "meek").await;
    assert!(refused.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{refused}");
    assert!(cluster.pods.get("default", "spared").is_some());
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_never_preempts_waits() {
    let cluster = Cluster::start().await;
    cluster.node("a", json!({}), json!({"cpu": "1"})).await;
    let never = json!({"metadata": {"name": "never"}, "value": 1000, "preemptionPolicy": "Never"});
    cluster.global::<PriorityClass>(never).await;
    cluster.pod("low", json!({"cpu": "1"}), json!({})).await;
    cluster.bound("low").await;
    cluster.pod("patient", json!({"cpu": "1"}), of("never")).await;
    let (reason, message) = cluster.unscheduled("patient").await;
    assert_eq!(reason, "Unschedulable");
    assert!(message.ends_with("preemption: not eligible due to preemptionPolicy=Never."), "{message}");
    cluster.api().delete("low", &kube::api::DeleteParams::default()).await.unwrap();
    assert_eq!(cluster.bound("patient").await, "a", "the room that is free in the end");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_gets_its_volume_where_the_pod_goes() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.node(name, json!({}), json!({})).await;
    }
    cluster
        .global::<StorageClass>(json!({"metadata": {"name": "local"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}))
        .await;
    cluster
        .global::<PersistentVolume>(json!({"metadata": {"name": "disk"}, "spec": {
        "storageClassName": "local", "capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"],
        "local": {"path": "/mnt/disk"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}]}}}}))
        .await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"storageClassName": "local",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.create::<PersistentVolumeClaim>(claim).await;
    let volumes = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]});
    cluster.pod("db", json!({"cpu": "1"}), volumes).await;
    let disks: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let claimed = |disk: &PersistentVolume| {
        disk.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).and_then(|claim| claim.name.clone())
    };
    let taken = async {
        while claimed(&disks.get("disk").await.unwrap()).as_deref() != Some("data") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::cluster::PATIENCE, taken).await.expect("the volume is set aside for the claim");
    // the controller that binds claims now names the volume
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), "default");
    let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "disk"}});
    claims.patch("data", &PatchParams::default(), &Patch::Merge(bound)).await.unwrap();
    assert_eq!(cluster.bound("db").await, "b");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_made_for_a_pod_that_goes_away_is_free_for_others() {
    let cluster = Cluster::start().await;
    cluster.node("a", json!({}), json!({"cpu": "2"})).await;
    priority(&cluster, "high", 1000).await;
    priority(&cluster, "middle", 100).await;
    // a finalizer keeps it where it is, whoever wants its place
    let stays = json!({"metadata": {"finalizers": ["example.com/stays"]}});
    cluster.pod("staying", json!({"cpu": "2"}), stays).await;
    cluster.bound("staying").await;
    cluster.pod("urgent", json!({"cpu": "2"}), of("high")).await;
    let nominated = |pod: &k8s_openapi::api::core::v1::Pod| {
        pod.status.as_ref().is_some_and(|status| status.nominated_node_name.as_deref() == Some("a"))
    };
    cluster.until("urgent", nominated).await;
    cluster.pod("waiting", json!({"cpu": "2"}), of("middle")).await;
    let (_, message) = cluster.unscheduled("waiting").await;
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{message}");
    let free = json!({"metadata": {"finalizers": null}});
    cluster.api().delete("urgent", &kube::api::DeleteParams::default()).await.unwrap();
    cluster.until_gone("urgent").await;
    cluster.api().patch("staying", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    assert_eq!(cluster.bound("waiting").await, "a");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_of_yet_higher_priority_takes_the_room_and_the_nomination() {
    let cluster = Cluster::start().await;
    cluster.node("a", json!({}), json!({"cpu": "2"})).await;
    for (name, value) in [("middle", 100), ("high", 1000)] {
        priority(&cluster, name, value).await;
    }
    let stays = json!({"metadata": {"finalizers": ["example.com/stays"]}});
    cluster.pod("staying", json!({"cpu": "2"}), stays).await;
    cluster.bound("staying").await;
    let nominated = |pod: &k8s_openapi::api::core::v1::Pod| {
        pod.status.as_ref().is_some_and(|status| status.nominated_node_name.as_deref() == Some("a"))
    };
    cluster.pod("first", json!({"cpu": "2"}), of("middle")).await;
    cluster.until("first", nominated).await;
    cluster.pod("second", json!({"cpu": "2"}), of("high")).await;
    cluster.until("second", nominated).await;
    cluster.until("first", |pod| !nominated(pod)).await;
    let free = json!({"metadata": {"finalizers": null}});
    cluster.api().patch("staying", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    let second = cluster.until("second", |pod| crate::cluster::node_of(pod).is_some()).await;
    assert!(!nominated(&second), "a binding ends the nomination");
    assert_eq!(crate::cluster::node_of(&cluster.pods.get("default", "first").unwrap()), None);
    cluster.end().await;
}
