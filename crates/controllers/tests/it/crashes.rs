//! Controllers that end in the middle of their work, as by `kill -9`, and go on where they were.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, deployment};

/// Pod changes between two crashes, so that they meet different moments.
const STRIDES: [usize; 10] = [1, 2, 3, 1, 4, 2, 1, 5, 3, 2];

fn set(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "web:1"}]}}}})
}

fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

/// How many pods of each owner's kind there are, if all run and have that image.
fn running(pods: &[Arc<Pod>], wanted: &str) -> Option<[usize; 3]> {
    let runs = |pod: &Arc<Pod>| {
        image(pod) == wanted
            && pod.metadata.deletion_timestamp.is_none()
            && pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some())
    };
    let of =
        |kind: &str| pods.iter().filter(|pod| pod.owner_references().iter().any(|owner| owner.kind == kind)).count();
    pods.iter().all(runs).then(|| ["ReplicaSet", "StatefulSet", "DaemonSet"].map(of))
}

async fn crash_at_pod_changes(cluster: &mut Cluster) {
    let pods = cluster.informers.of::<Pod>();
    let (mut changes, there) = (pods.subscribe(), pods.len());
    for _ in 0..there {
        changes.next().await.unwrap();
    }
    for stride in STRIDES {
        for _ in 0..stride {
            changes.next().await.unwrap();
        }
        cluster.crash_controllers();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollouts_survive_crashes_with_exact_results() {
    let mut cluster = Cluster::start(3).await;
    let mut stateful = set("db");
    stateful["spec"]["replicas"] = 4.into();
    stateful["spec"]["serviceName"] = "db".into();
    cluster.create::<StatefulSet>(stateful).await;
    cluster.create::<DaemonSet>(set("agent")).await;
    cluster.create::<Deployment>(deployment("web", 5, "web:1")).await;
    crash_at_pod_changes(&mut cluster).await;
    cluster.until::<Pod>("all run", |pods| running(pods, "web:1") == Some([5, 4, 3])).await;

    let update = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "web:2"}]}}}});
    let (params, update) = (PatchParams::default(), Patch::Strategic(update));
    cluster.api::<StatefulSet>().patch("db", &params, &update).await.unwrap();
    cluster.api::<DaemonSet>().patch("agent", &params, &update).await.unwrap();
    cluster.api::<Deployment>().patch("web", &params, &update).await.unwrap();
    crash_at_pod_changes(&mut cluster).await;
    cluster.until::<Pod>("all are updated", |pods| running(pods, "web:2") == Some([5, 4, 3])).await;

    let updated = |set: &StatefulSet| {
        let status = set.status.clone().unwrap_or_default();
        status.current_revision == status.update_revision && status.available_replicas == Some(4)
    };
    cluster.until_one("db", "says so", updated).await;
    let covered = |set: &DaemonSet| {
        let status = set.status.clone().unwrap_or_default();
        status.observed_generation == Some(2) && status.number_available == Some(3)
    };
    cluster.until_one("agent", "says so", covered).await;
    let complete = |deployment: &Deployment| {
        let status = deployment.status.clone().unwrap_or_default();
        status.observed_generation == Some(2) && status.replicas == Some(5) && status.available_replicas == Some(5)
    };
    cluster.until_one("web", "says so", complete).await;
    let revisions = cluster.keys::<ControllerRevision>();
    assert_eq!((revisions.len(), cluster.keys::<ReplicaSet>().len()), (4, 2), "nothing was made twice: {revisions:?}");
    assert!(cluster.keys::<PersistentVolumeClaim>().is_empty());
    let pods = cluster.until::<Pod>("as before", |pods| running(pods, "web:2") == Some([5, 4, 3])).await;
    assert_eq!(pods.len(), 12);
    cluster.stop().await;
}
