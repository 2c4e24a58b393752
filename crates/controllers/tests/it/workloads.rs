use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Endpoints, Event, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::cluster::{Cluster, deployment};

/// What `kubectl rollout status` waits for.
fn rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    let status = deployment.status.clone().unwrap_or_default();
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) == wanted.unwrap()
        && status.replicas.unwrap_or(0) == wanted.unwrap()
        && status.available_replicas.unwrap_or(0) == wanted.unwrap()
}

fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

async fn set_image(cluster: &Cluster, name: &str, image: &str) {
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    cluster.api::<Deployment>().patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_rolled_out_updated_scaled_and_undone() {
    let cluster = Cluster::start(3).await;
    cluster.create::<Deployment>(deployment("web", 3, "web:1")).await;
    let first = cluster.until_one("web", "rolls out", rolled_out).await;
    assert_eq!(first.annotations()["deployment.kubernetes.io/revision"], "1");
    let nodes: std::collections::BTreeSet<_> = cluster
        .until::<Pod>("three pods", |pods| pods.len() == 3)
        .await
        .iter()
        .filter_map(|pod| pod.spec.as_ref()?.node_name.clone())
        .collect();
    assert_eq!(nodes.len(), 3, "spread over all nodes");

    set_image(&cluster, "web", "web:2").await;
    cluster
        .until_one("web", "is updated", |d| {
            rolled_out(d) && d.annotations()["deployment.kubernetes.io/revision"] == "2"
        })
        .await;
    cluster.until::<Pod>("only new pods", |pods| pods.len() == 3 && pods.iter().all(|pod| image(pod) == "web:2")).await;

    let scale = json!({"spec": {"replicas": 5}});
    cluster.api::<Deployment>().patch_scale("web", &PatchParams::default(), &Patch::Merge(scale)).await.unwrap();
    cluster
        .until_one::<Deployment>("web", "is scaled", |d| {
            rolled_out(d) && d.status.as_ref().unwrap().replicas == Some(5)
        })
        .await;

    // What `kubectl rollout undo` does: the template of the previous revision again.
    set_image(&cluster, "web", "web:1").await;
    cluster
        .until_one("web", "is undone", |d| rolled_out(d) && d.annotations()["deployment.kubernetes.io/revision"] == "3")
        .await;
    let sets = cluster.until::<ReplicaSet>("two sets", |sets| sets.len() == 2).await;
    assert_eq!(sets.iter().filter(|set| set.spec.as_ref().unwrap().replicas == Some(5)).count(), 1);
    let messages = cluster
        .until::<Event>("events", |events| {
            let told = |text: &str| events.iter().any(|e| e.message.as_deref().is_some_and(|m| m.contains(text)));
            told("from 0 to 3")
                && told("from 3 to 5")
                && told("Successfully assigned default/web-")
                && told("Created pod: web-")
        })
        .await;
    assert!(messages.iter().any(|event| event.reason.as_deref() == Some("ScalingReplicaSet")));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_update_leaves_the_old_pods_running() {
    let cluster = Cluster::start(2).await;
    cluster.create::<Deployment>(deployment("web", 2, "web:1")).await;
    cluster.until_one("web", "rolls out", rolled_out).await;
    set_image(&cluster, "web", "broken").await;
    cluster
        .until::<Pod>("one broken pod beside two", |pods| {
            pods.iter().filter(|pod| image(pod) == "broken").count() == 1 && pods.len() == 3
        })
        .await;
    let stuck = cluster
        .until_one::<Deployment>("web", "is stuck", |d| d.status.as_ref().unwrap().unavailable_replicas == Some(1))
        .await;
    assert_eq!(stuck.status.as_ref().unwrap().available_replicas, Some(2));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicasets_replace_lost_pods_and_adopt_and_release() {
    let cluster = Cluster::start(1).await;
    cluster
        .create::<Pod>(json!({"metadata": {"name": "orphan", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web:1"}]}}))
        .await;
    cluster
        .create::<ReplicaSet>(json!({"metadata": {"name": "web"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "web:1"}]}}}}))
        .await;
    let ready = |set: &ReplicaSet| set.status.as_ref().is_some_and(|status| status.available_replicas == Some(2));
    cluster.until_one("web", "is complete", ready).await;
    let owned = |pod: &Pod| pod.owner_references().iter().any(|owner| owner.name == "web");
    cluster.until_one("orphan", "is adopted", owned).await;

    let relabel = json!({"metadata": {"labels": {"app": "debug"}}});
    cluster.api::<Pod>().patch("orphan", &PatchParams::default(), &Patch::Merge(relabel)).await.unwrap();
    cluster.until_one::<Pod>("orphan", "is released", |pod| pod.owner_references().is_empty()).await;
    cluster
        .until::<Pod>("is replaced", |pods| pods.len() == 3 && pods.iter().filter(|pod| owned(pod)).count() == 2)
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoint_slices_follow_pods() {
    let cluster = Cluster::start(2).await;
    cluster
        .create::<Service>(json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}}))
        .await;
    let ours = |slices: &[std::sync::Arc<EndpointSlice>]| -> Vec<EndpointSlice> {
        let of_web = |slice: &&std::sync::Arc<EndpointSlice>| {
            slice.labels().get("kubernetes.io/service-name").is_some_and(|n| n == "web")
        };
        slices.iter().filter(of_web).map(|slice| EndpointSlice::clone(slice)).collect()
    };
    let count = move |slices: &[std::sync::Arc<EndpointSlice>]| -> usize {
        let ready = |e: &k8s_openapi::api::discovery::v1::Endpoint| e.conditions.as_ref().unwrap().ready == Some(true);
        ours(slices).iter().flat_map(|slice| slice.endpoints.iter().flatten()).filter(|e| ready(e)).count()
    };
    cluster.until::<EndpointSlice>("an empty slice", |slices| ours(slices).len() == 1).await;
    cluster.create::<Deployment>(deployment("web", 3, "web:1")).await;
    let slices = cluster.until::<EndpointSlice>("three endpoints", |slices| count(slices) == 3).await;
    let slice = ours(&slices).into_iter().find(|slice| !slice.endpoints.as_ref().unwrap().is_empty()).unwrap();
    assert_eq!(slice.ports.unwrap()[0].port, Some(8080));
    cluster.until::<EndpointSlice>("one slice", |slices| ours(slices).len() == 1).await;

    let scale = json!({"spec": {"replicas": 1}});
    cluster.api::<Deployment>().patch_scale("web", &PatchParams::default(), &Patch::Merge(scale)).await.unwrap();
    cluster.until::<EndpointSlice>("one endpoint", |slices| count(slices) == 1).await;
    cluster
        .until_one::<Endpoints>("web", "has one address", |endpoints| {
            let addresses = endpoints.subsets.iter().flatten().flat_map(|subset| subset.addresses.iter().flatten());
            addresses.count() == 1
        })
        .await;
    cluster.api::<Service>().delete("web", &kube::api::DeleteParams::default()).await.unwrap();
    cluster.until::<EndpointSlice>("none", |slices| ours(slices).is_empty()).await;
    cluster.until::<Endpoints>("none", |all| all.iter().all(|endpoints| endpoints.name_any() != "web")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_runs_when_there_is_room() {
    let cluster = Cluster::start(1).await;
    cluster
        .create::<Pod>(
            json!({"metadata": {"name": "big"}, "spec": {"nodeSelector": {"kubernetes.io/hostname": "node-1"},
        "containers": [{"name": "c", "image": "web:1"}]}}),
        )
        .await;
    let condition = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        conditions.into_iter().find(|condition| condition.type_ == "PodScheduled")
    };
    let waiting = cluster.until_one::<Pod>("big", "is refused", |pod| condition(pod).is_some()).await;
    let refused = condition(&waiting).unwrap();
    assert_eq!((refused.status.as_str(), refused.reason.as_deref()), ("False", Some("Unschedulable")));
    assert!(
        refused
            .message
            .unwrap()
            .starts_with("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.")
    );
    cluster.add_node("node-1").await;
    let label = json!({"metadata": {"labels": {"kubernetes.io/hostname": "node-1"}}});
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(cluster.client.clone());
    nodes.patch("node-1", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    let on = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some("node-1");
    cluster.until_one::<Pod>("big", "is bound", on).await;
    cluster.stop().await;
}
