//! Upstream's conformance tests of ReplicaSets and ReplicationControllers (`[sig-apps]`).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::{Pod, ReplicationController, ResourceQuota};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, object};

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "web:1"}]}})
}

fn replicaset(replicas: i32) -> Value {
    json!({"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": "web"}}, "template": template()}})
}

fn replication_controller(replicas: i32) -> Value {
    json!({"metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": replicas, "selector": {"app": "web"}, "template": template()}})
}

fn has(count: i32) -> impl Fn(&ReplicaSet) -> bool {
    move |set| {
        let status = set.status.clone().unwrap_or_default();
        status.observed_generation == set.metadata.generation
            && status.replicas == count
            && status.available_replicas.unwrap_or(0) == count
    }
}

fn controller_has(count: i32) -> impl Fn(&ReplicationController) -> bool {
    move |set| {
        let status = set.status.clone().unwrap_or_default();
        status.observed_generation == set.metadata.generation
            && status.replicas == count
            && status.available_replicas.unwrap_or(0) == count
    }
}

async fn orphan(cluster: &Cluster) {
    let pod = json!({"metadata": {"name": "orphan", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web:1"}]}});
    cluster.create::<Pod>(pod).await;
}

/// "Replace and Patch tests" and "Replicaset should have a working scale subresource"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replicaset_is_scaled_patched_and_replaced() {
    let cluster = Cluster::start(1).await;
    let sets = cluster.api::<ReplicaSet>();
    cluster.create::<ReplicaSet>(replicaset(1)).await;
    cluster.until_one("web", "has one", has(1)).await;
    let mut scale: Scale = object(serde_json::to_value(sets.get_scale("web").await.unwrap()).unwrap());
    assert_eq!((scale.spec.as_ref().unwrap().replicas, scale.status.as_ref().unwrap().replicas), (Some(1), 1));
    scale.spec.as_mut().unwrap().replicas = Some(2);
    sets.replace_scale("web", &PostParams::default(), &object(serde_json::to_value(&scale).unwrap())).await.unwrap();
    cluster.until_one("web", "has two", has(2)).await;
    let three = json!({"metadata": {"labels": {"test-rs": "patched"}}, "spec": {"replicas": 3,
        "template": {"spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "web:2"}]}}}});
    let patched = sets.patch("web", &PatchParams::default(), &Patch::Strategic(three)).await.unwrap();
    assert_eq!(patched.labels()["test-rs"], "patched");
    cluster.until_one("web", "has three", has(3)).await;
    let mut live = sets.get("web").await.unwrap();
    live.spec.as_mut().unwrap().replicas = Some(1);
    sets.replace("web", &PostParams::default(), &live).await.unwrap();
    let set = cluster.until_one("web", "has one", has(1)).await;
    assert_eq!(set.status.as_ref().unwrap().fully_labeled_replicas, Some(1));
    cluster.stop().await;
}

/// "should list and delete a collection of ReplicaSets" and "should validate Replicaset Status endpoints"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_and_a_status_are_written_by_hand() {
    let cluster = Cluster::start(1).await;
    let sets = cluster.api::<ReplicaSet>();
    cluster.create::<ReplicaSet>(replicaset(3)).await;
    cluster.until_one("web", "has three", has(3)).await;
    let condition = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test"});
    let mut live = sets.get_status("web").await.unwrap();
    live.status.as_mut().unwrap().conditions.get_or_insert_default().push(object(condition));
    sets.replace_status("web", &PostParams::default(), &live).await.unwrap();
    let patched = json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True"}]}});
    let patched = sets.patch_status("web", &PatchParams::default(), &Patch::Strategic(patched)).await.unwrap();
    assert_eq!(patched.status.unwrap().conditions.unwrap().len(), 2);
    let four = json!({"spec": {"replicas": 4}});
    sets.patch("web", &PatchParams::default(), &Patch::Merge(four)).await.unwrap();
    let set = cluster.until_one("web", "has four", has(4)).await;
    assert_eq!(set.status.as_ref().unwrap().conditions.as_ref().unwrap().len(), 2, "others' conditions stay");

    let chosen = ListParams::default().labels("app=web");
    assert_eq!(sets.list(&chosen).await.unwrap().items.len(), 1);
    sets.delete_collection(&DeleteParams::default(), &chosen).await.unwrap();
    cluster.until::<ReplicaSet>("is deleted", |sets| sets.is_empty()).await;
    cluster.until::<Pod>("its pods follow", |pods| pods.is_empty()).await;
    cluster.stop().await;
}

/// "ReplicationController should adopt matching pods on creation" and "should release no longer matching pods"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_adopts_and_releases() {
    let cluster = Cluster::start(1).await;
    orphan(&cluster).await;
    cluster.create::<ReplicationController>(replication_controller(1)).await;
    let owned = |pod: &Pod| pod.owner_references().iter().any(|owner| owner.kind == "ReplicationController");
    cluster.until_one("orphan", "is adopted", owned).await;
    cluster.until_one("web", "has one", controller_has(1)).await;
    assert_eq!(cluster.keys::<Pod>().len(), 1);
    let relabel = json!({"metadata": {"labels": {"app": "other"}}});
    cluster.api::<Pod>().patch("orphan", &PatchParams::default(), &Patch::Merge(relabel)).await.unwrap();
    cluster.until_one::<Pod>("orphan", "is released", |pod| pod.owner_references().is_empty()).await;
    let replaced = |pods: &[Arc<Pod>]| pods.len() == 2 && pods.iter().filter(|pod| owned(pod)).count() == 1;
    cluster.until::<Pod>("is replaced", replaced).await;
    cluster.stop().await;
}

/// "ReplicationController should test the lifecycle of a ReplicationController" and "should get and update a
/// ReplicationController scale"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_lives_from_create_to_deletecollection() {
    let cluster = Cluster::start(1).await;
    let api = cluster.api::<ReplicationController>();
    cluster.create::<ReplicationController>(replication_controller(1)).await;
    cluster.until_one("web", "has one", controller_has(1)).await;
    let label = json!({"metadata": {"labels": {"test": "patched"}}});
    api.patch("web", &PatchParams::default(), &Patch::Strategic(label)).await.unwrap();
    let status = json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True"}]}});
    api.patch_status("web", &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    let mut scale: Scale = object(serde_json::to_value(api.get_scale("web").await.unwrap()).unwrap());
    assert_eq!(scale.status.as_ref().unwrap().selector.as_deref(), Some("app=web"));
    scale.spec.as_mut().unwrap().replicas = Some(2);
    api.replace_scale("web", &PostParams::default(), &object(serde_json::to_value(&scale).unwrap())).await.unwrap();
    let set = cluster.until_one("web", "has two", controller_has(2)).await;
    assert_eq!(set.status.as_ref().unwrap().conditions.as_ref().unwrap()[0].type_, "StatusPatched");
    let chosen = ListParams::default().labels("test=patched");
    assert_eq!(api.list(&chosen).await.unwrap().items.len(), 1);
    // By default its pods would be orphaned.
    api.delete_collection(&DeleteParams::background(), &chosen).await.unwrap();
    cluster.until::<ReplicationController>("is deleted", |sets| sets.is_empty()).await;
    cluster.until::<Pod>("its pods follow", |pods| pods.is_empty()).await;
    cluster.stop().await;
}

/// "should surface a failure condition on a common issue like exceeded quota", of both kinds
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exceeded_quota_is_a_failure_condition_until_it_is_not() {
    let cluster = Cluster::start(1).await;
    cluster.create::<ResourceQuota>(json!({"metadata": {"name": "two"}, "spec": {"hard": {"pods": "2"}}})).await;
    let counted = |quota: &ResourceQuota| quota.status.as_ref().is_some_and(|status| status.hard.is_some());
    cluster.until_one("two", "is counted", counted).await;
    cluster.create::<ReplicaSet>(replicaset(3)).await;
    let failure = |set: &ReplicaSet| {
        let conditions = set.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().find(|condition| condition.type_ == "ReplicaFailure").cloned()
    };
    let set = cluster.until_one::<ReplicaSet>("web", "fails", |set| failure(set).is_some()).await;
    let condition = failure(&set).unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("True", Some("FailedCreate")));
    let message = condition.message.unwrap();
    assert!(message.starts_with("pods \"web-") && message.contains("exceeded quota: two"), "{message}");
    let two = json!({"spec": {"replicas": 2}});
    cluster.api::<ReplicaSet>().patch("web", &PatchParams::default(), &Patch::Merge(two)).await.unwrap();
    cluster.until_one::<ReplicaSet>("web", "is well", |set| failure(set).is_none() && has(2)(set)).await;
    cluster.api::<ReplicaSet>().delete("web", &DeleteParams::default()).await.unwrap();
    cluster.until::<Pod>("no pods", |pods| pods.is_empty()).await;

    cluster.create::<ReplicationController>(replication_controller(3)).await;
    let fails = |set: &ReplicationController| {
        let conditions = set.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "ReplicaFailure")
    };
    cluster.until_one("web", "fails", fails).await;
    let two = json!({"spec": {"replicas": 2}});
    cluster.api::<ReplicationController>().patch("web", &PatchParams::default(), &Patch::Merge(two)).await.unwrap();
    cluster.until_one::<ReplicationController>("web", "is well", |set| !fails(set) && controller_has(2)(set)).await;
    cluster.stop().await;
}

/// What finds orphans by their labels must not lose those that are selected otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_selects_by_expressions_alone_adopts_too() {
    let cluster = Cluster::start(1).await;
    let selector = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "site"]}]});
    let mut set = replicaset(2);
    set["spec"]["selector"] = selector;
    orphan(&cluster).await;
    cluster.create::<ReplicaSet>(set).await;
    let owned = |pod: &Pod| pod.owner_references().iter().any(|owner| owner.name == "web");
    cluster.until_one("orphan", "is adopted", owned).await;
    cluster.until_one("web", "has two", has(2)).await;
    let later = json!({"metadata": {"name": "later", "labels": {"app": "site"}},
        "spec": {"containers": [{"name": "c", "image": "web:1"}]}});
    cluster.create::<Pod>(later).await;
    cluster
        .until::<Pod>("is adopted, and then there is one too many", |pods| {
            pods.len() == 2 && pods.iter().all(|pod| owned(pod))
        })
        .await;
    cluster.stop().await;
}
