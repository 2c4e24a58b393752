//! Upstream's conformance tests of Deployments (`[sig-apps] Deployment`).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use reconcile::Change;
use serde_json::{Value, json};

use crate::cluster::{Cluster, deployment, object};

const REVISION: &str = "deployment.kubernetes.io/revision";

fn replicaset(name: &str, app: &str, replicas: i32, revision: &str) -> Value {
    let labels = json!({"app": app, "pod": name});
    json!({"metadata": {"name": name, "labels": labels, "annotations": {REVISION: revision}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "old:1"}]}}}})
}

fn is_complete(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    let status = deployment.status.clone().unwrap_or_default();
    let counts = [status.updated_replicas, status.replicas, status.available_replicas];
    status.observed_generation == deployment.metadata.generation
        && counts.iter().all(|count| count.unwrap_or(0) == wanted.unwrap())
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap()
}

fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

/// Changes the deployment, and waits until the informers have seen it: what they show then is not from before.
async fn patch(cluster: &Cluster, patch: Value) -> Deployment {
    let api = cluster.api::<Deployment>();
    let changed = api.patch("web", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    let seen = |deployment: &Deployment| deployment.metadata.generation >= changed.metadata.generation;
    cluster.until_one("web", "is seen", seen).await;
    changed
}

fn new_image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

async fn has_sizes(cluster: &Cluster, mut expected: Vec<i32>) -> Vec<Arc<ReplicaSet>> {
    expected.sort_unstable();
    let sizes = |sets: &[Arc<ReplicaSet>]| {
        let mut sizes: Vec<i32> = sets.iter().map(|set| size(set)).collect();
        sizes.sort_unstable();
        sizes
    };
    cluster.until::<ReplicaSet>(&format!("sizes {expected:?}"), |sets| sizes(sets) == expected).await
}

/// "RollingUpdateDeployment should delete old pods and create new ones", with a set that was there before, and "deployment
/// should delete old replica sets"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_was_there_is_adopted_replaced_and_deleted() {
    let cluster = Cluster::start(1).await;
    cluster.create::<ReplicaSet>(replicaset("before", "web", 1, "3546343826724305832")).await;
    cluster
        .until_one::<ReplicaSet>("before", "runs", |set| set.status.as_ref().unwrap().available_replicas == Some(1))
        .await;
    cluster.create::<Deployment>(deployment("web", 1, "web:1")).await;
    let complete = cluster.until_one("web", "is complete", is_complete).await;
    assert_eq!(complete.annotations()[REVISION], "3546343826724305833");
    cluster.until::<Pod>("one new pod", |pods| pods.len() == 1 && image(&pods[0]) == "web:1").await;
    let sets = has_sizes(&cluster, vec![0, 1]).await;
    let old = sets.iter().find(|set| set.name_any() == "before").unwrap();
    assert_eq!(old.owner_references()[0].uid, complete.uid().unwrap());

    patch(&cluster, json!({"spec": {"revisionHistoryLimit": 0}})).await;
    has_sizes(&cluster, vec![1]).await;
    cluster.stop().await;
}

/// "RecreateDeployment should delete old pods and create new ones"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreate_never_runs_old_and_new_pods_together() {
    let cluster = Cluster::start(1).await;
    let mut value = deployment("web", 3, "web:1");
    value["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create::<Deployment>(value).await;
    cluster.until_one("web", "is complete", is_complete).await;
    let mut changes = cluster.informers.of::<Pod>().subscribe();
    patch(&cluster, new_image("web:2")).await;
    cluster.until_one("web", "is complete", is_complete).await;
    let mut old = std::collections::BTreeSet::new();
    let mut new = 0;
    while new < 3 {
        let change = changes.next().await.unwrap();
        let pod = change.object();
        match &change {
            Change::Applied { .. } if image(pod) == "web:1" => {
                old.insert(pod.name_any());
            }
            Change::Deleted(_) => {
                old.remove(&pod.name_any());
            }
            Change::Applied { old: None, .. } => {
                assert!(old.is_empty(), "{old:?} still run");
                new += 1;
            }
            Change::Applied { .. } => {}
        }
    }
    cluster.stop().await;
}

/// "deployment should support rollover"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_is_overtaken_by_the_next_one() {
    let cluster = Cluster::start(1).await;
    cluster.create::<ReplicaSet>(replicaset("before", "web", 1, "1")).await;
    let mut value = deployment("web", 1, "broken");
    value["spec"]["minReadySeconds"] = 1.into();
    cluster.create::<Deployment>(value).await;
    has_sizes(&cluster, vec![1, 1]).await;
    cluster.until::<Pod>("a broken pod", |pods| pods.iter().any(|pod| image(pod) == "broken")).await;
    patch(&cluster, new_image("web:2")).await;
    cluster.until_one("web", "is complete", is_complete).await;
    has_sizes(&cluster, vec![0, 0, 1]).await;
    cluster.until::<Pod>("one new pod", |pods| pods.len() == 1 && image(&pods[0]) == "web:2").await;
    cluster.stop().await;
}

/// "deployment should support proportional scaling"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_rollout_is_scaled_in_proportion() {
    let cluster = Cluster::start(2).await;
    let mut value = deployment("web", 10, "web:1");
    value["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 3, "maxUnavailable": 2});
    cluster.create::<Deployment>(value).await;
    cluster.until_one("web", "is complete", is_complete).await;
    patch(&cluster, new_image("broken")).await;
    let sets = has_sizes(&cluster, vec![8, 5]).await;
    let available = |set: &ReplicaSet| set.status.as_ref().is_some_and(|status| status.available_replicas == Some(8));
    let old = sets.iter().find(|set| size(set) == 8).unwrap().name_any();
    cluster.until_one(&old, "has eight", available).await;
    patch(&cluster, json!({"spec": {"replicas": 30}})).await;
    let sets = has_sizes(&cluster, vec![20, 13]).await;
    assert_eq!(sets.iter().find(|set| size(set) == 20).unwrap().name_any(), old);
    cluster.stop().await;
}

/// "should run the lifecycle of a Deployment", "should validate Deployment Status endpoints" and "Deployment should have a
/// working scale subresource"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_lives_from_create_to_deletecollection() {
    let cluster = Cluster::start(1).await;
    let mut value = deployment("web", 1, "web:1");
    value["metadata"]["labels"] = json!({"test": "static"});
    cluster.create::<Deployment>(value).await;
    cluster.until_one("web", "is complete", is_complete).await;
    let api = cluster.api::<Deployment>();

    let mut scale: Scale = object(serde_json::to_value(api.get_scale("web").await.unwrap()).unwrap());
    assert_eq!((scale.spec.as_ref().unwrap().replicas, scale.status.as_ref().unwrap().replicas), (Some(1), 1));
    assert_eq!(scale.status.as_ref().unwrap().selector.as_deref(), Some("app=web"));
    scale.spec.as_mut().unwrap().replicas = Some(2);
    api.replace_scale("web", &PostParams::default(), &object(serde_json::to_value(&scale).unwrap())).await.unwrap();
    let four = json!({"spec": {"replicas": 4}});
    api.patch_scale("web", &PatchParams::default(), &Patch::Merge(four)).await.unwrap();
    cluster
        .until_one::<Deployment>("web", "has four", |d| {
            is_complete(d) && d.status.as_ref().unwrap().replicas == Some(4)
        })
        .await;

    let condition = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test"});
    let mut live = api.get_status("web").await.unwrap();
    live.status.as_mut().unwrap().conditions.as_mut().unwrap().push(object(condition.clone()));
    api.replace_status("web", &PostParams::default(), &live).await.unwrap();
    let patched = json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True"}]}});
    let patched = api.patch_status("web", &PatchParams::default(), &Patch::Strategic(patched)).await.unwrap();
    let types = |deployment: &Deployment| -> Vec<String> {
        let status = deployment.status.clone().unwrap_or_default();
        status.conditions.unwrap_or_default().into_iter().map(|condition| condition.type_).collect()
    };
    assert!(types(&patched).contains(&"StatusPatched".into()));

    patch(&cluster, json!({"metadata": {"labels": {"patched": "yes"}}})).await;
    patch(&cluster, new_image("web:2")).await;
    let complete = cluster.until_one("web", "is complete", is_complete).await;
    assert!(types(&complete).contains(&"StatusUpdate".into()), "others' conditions stay");
    assert_eq!(complete.status.as_ref().unwrap().terminating_replicas.map(|count| count >= 0), Some(true));
    let all: Api<Deployment> = Api::all(cluster.client.clone());
    let chosen = ListParams::default().labels("test=static");
    assert_eq!(all.list(&chosen).await.unwrap().items.len(), 1);
    api.delete_collection(&DeleteParams::default(), &chosen).await.unwrap();
    cluster.until::<Deployment>("is deleted", |all| all.is_empty()).await;
    cluster.until::<ReplicaSet>("its sets follow", |sets| sets.is_empty()).await;
    cluster.until::<Pod>("its pods follow", |pods| pods.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_annotation_rolls_back() {
    let cluster = Cluster::start(1).await;
    cluster.create::<Deployment>(deployment("web", 1, "web:1")).await;
    cluster.until_one("web", "is complete", is_complete).await;
    patch(&cluster, new_image("web:2")).await;
    cluster.until_one("web", "is complete", is_complete).await;
    patch(&cluster, json!({"metadata": {"annotations": {"deprecated.deployment.rollback.to": "0"}}})).await;
    let back = |deployment: &Deployment| {
        is_complete(deployment)
            && deployment.annotations()[REVISION] == "3"
            && !deployment.annotations().contains_key("deprecated.deployment.rollback.to")
    };
    cluster.until_one("web", "is back", back).await;
    cluster.until::<Pod>("one old pod", |pods| pods.len() == 1 && image(&pods[0]) == "web:1").await;
    cluster.stop().await;
}
