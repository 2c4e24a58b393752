//! DaemonSets and ControllerRevisions, and upstream's conformance tests of them (`[sig-apps] Daemon set`).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;

fn daemonset(spec: Value) -> Value {
    let mut set = json!({"metadata": {"name": "ds", "labels": {"app": "ds"}}, "spec": {
        "selector": {"matchLabels": {"app": "ds"}},
        "template": {"metadata": {"labels": {"app": "ds"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "web:1"}]}}}});
    for (path, value) in spec.as_object().unwrap() {
        match path.strip_prefix("pod.") {
            Some(field) => set["spec"]["template"]["spec"][field] = value.clone(),
            None => set["spec"][path] = value.clone(),
        }
    }
    set
}

/// Whether as many pods are wanted, updated and available, and no others are there.
fn covers(nodes: i32) -> impl Fn(&DaemonSet) -> bool {
    move |set| {
        let status = set.status.clone().unwrap_or_default();
        status.observed_generation == set.metadata.generation
            && status.desired_number_scheduled == nodes
            && status.number_misscheduled == 0
            && status.updated_number_scheduled.unwrap_or(0) == nodes
            && status.number_available.unwrap_or(0) == nodes
    }
}

fn nodes_of(pods: &[Arc<Pod>]) -> Vec<String> {
    let mut nodes: Vec<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    nodes.sort();
    nodes
}

/// Changes the set, and waits until the informers have seen it: what they show then is not from before.
async fn patch(cluster: &Cluster, patch: Value) {
    let sets = cluster.api::<DaemonSet>();
    let changed = sets.patch("ds", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    let seen = |set: &DaemonSet| set.metadata.generation >= changed.metadata.generation;
    cluster.until_one("ds", "is seen", seen).await;
}

async fn set_image(cluster: &Cluster, image: &str) {
    patch(cluster, json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})).await;
}

async fn change_node(cluster: &Cluster, name: &str, patch: Value) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn told(cluster: &Cluster, text: &str) {
    let told = |event: &Arc<Event>| event.message.as_deref().is_some_and(|message| message.contains(text));
    cluster.until::<Event>(text, |events| events.iter().any(told)).await;
}

/// "should run and stop simple daemon" and "should retry creating failed daemon pods"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_on_every_node_and_comes_back() {
    let cluster = Cluster::start(3).await;
    cluster.create::<DaemonSet>(daemonset(json!({}))).await;
    cluster.until_one("ds", "covers all", covers(3)).await;
    let pods = cluster.until::<Pod>("three pods", |pods| pods.len() == 3).await;
    assert_eq!(nodes_of(&pods), ["node-0", "node-1", "node-2"]);
    told(&cluster, "Created pod: ds-").await;

    let victim = pods[0].name_any();
    cluster.api::<Pod>().delete(&victim, &DeleteParams::default()).await.unwrap();
    cluster
        .until::<Pod>("it is replaced", |pods| pods.len() == 3 && pods.iter().all(|pod| pod.name_any() != victim))
        .await;
    cluster.until_one("ds", "covers all", covers(3)).await;
    let victim = cluster.until::<Pod>("three pods", |pods| pods.len() == 3).await[0].name_any();
    let failed = json!({"status": {"phase": "Failed"}});
    cluster.api::<Pod>().patch_status(&victim, &PatchParams::default(), &Patch::Merge(failed)).await.unwrap();
    cluster
        .until::<Pod>("it is replaced", |pods| pods.len() == 3 && pods.iter().all(|pod| pod.name_any() != victim))
        .await;
    told(&cluster, "Found failed daemon pod default/ds-").await;
    told(&cluster, "Deleted pod: ds-").await;

    cluster.add_node("node-3").await;
    cluster.until_one("ds", "covers the new node", covers(4)).await;
    cluster.api::<DaemonSet>().delete("ds", &DeleteParams::default()).await.unwrap();
    cluster.until::<Pod>("stopped", |pods| pods.is_empty()).await;
    cluster.stop().await;
}

/// "should run and stop complex daemon", and upstream's test of node affinity
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_follow_labels_and_taints_of_nodes() {
    let cluster = Cluster::start(2).await;
    cluster.create::<DaemonSet>(daemonset(json!({"pod.nodeSelector": {"color": "blue"}}))).await;
    cluster.until_one("ds", "covers nothing", covers(0)).await;
    change_node(&cluster, "node-0", json!({"metadata": {"labels": {"color": "blue"}}})).await;
    cluster.until_one("ds", "covers one", covers(1)).await;
    change_node(&cluster, "node-0", json!({"metadata": {"labels": {"color": "green"}}})).await;
    cluster.until::<Pod>("it goes", |pods| pods.is_empty()).await;
    cluster.until_one("ds", "covers nothing", covers(0)).await;
    let green = json!({"color": "green"});
    patch(
        &cluster,
        json!({"spec": {"template": {"spec": {"nodeSelector": green}},
        "updateStrategy": {"type": "RollingUpdate"}}}),
    )
    .await;
    cluster.until::<Pod>("it is back", |pods| nodes_of(pods) == ["node-0"]).await;

    let everywhere = json!({"spec": {"template": {"spec": {"nodeSelector": null}}}});
    patch(&cluster, everywhere).await;
    cluster.until_one("ds", "covers both", covers(2)).await;
    // Cordoned nodes keep and get daemon pods.
    change_node(&cluster, "node-1", json!({"spec": {"unschedulable": true}})).await;
    let pods = cluster.until::<Pod>("both", |pods| pods.len() == 2).await;
    let on_cordoned =
        pods.iter().find(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some("node-1")).unwrap();
    cluster.api::<Pod>().delete(&on_cordoned.name_any(), &DeleteParams::default()).await.unwrap();
    let anew = |pods: &[Arc<Pod>]| {
        nodes_of(pods) == ["node-0", "node-1"] && pods.iter().all(|pod| pod.name_any() != on_cordoned.name_any())
    };
    cluster.until::<Pod>("it is back on the cordoned node", anew).await;
    let drained = json!({"spec": {"taints": [{"key": "x", "effect": "NoExecute"}]}});
    change_node(&cluster, "node-1", drained).await;
    cluster.until::<Pod>("it goes", |pods| nodes_of(pods) == ["node-0"]).await;
    cluster.until_one("ds", "covers one", covers(1)).await;
    cluster.stop().await;
}

/// "should update pod when spec was updated and update strategy is RollingUpdate" and "should rollback without unnecessary
/// restarts"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_is_rolled_out_and_a_broken_one_undone_without_restarts() {
    let cluster = Cluster::start(3).await;
    cluster.create::<DaemonSet>(daemonset(json!({}))).await;
    cluster.until_one("ds", "covers all", covers(3)).await;
    set_image(&cluster, "web:2").await;
    cluster.until_one("ds", "is updated", covers(3)).await;
    let image = |pod: &Arc<Pod>| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    let pods =
        cluster.until::<Pod>("three pods", |pods| pods.len() == 3 && pods.iter().all(|p| image(p) == "web:2")).await;
    let hash = pods[0].labels()["controller-revision-hash"].clone();
    assert!(pods.iter().all(|pod| pod.labels()["pod-template-generation"] == "2"));
    let revisions = cluster.until::<ControllerRevision>("two revisions", |revisions| revisions.len() == 2).await;
    let current = revisions.iter().find(|revision| revision.revision == 2).unwrap();
    assert_eq!(
        (current.labels()["controller-revision-hash"].as_str(), current.labels()["app"].as_str()),
        (&*hash, "ds")
    );
    assert_eq!(current.name_any(), format!("ds-{hash}"));

    set_image(&cluster, "broken").await;
    let one_broken = |pods: &[Arc<Pod>]| {
        pods.len() == 3
            && pods.iter().filter(|pod| image(pod) == "broken" && pod.status.as_ref().unwrap().pod_ip.is_some()).count()
                == 1
    };
    let during = cluster.until::<Pod>("one pod is broken", one_broken).await;
    let untouched: Vec<_> = during.iter().filter(|pod| image(pod) == "web:2").map(|pod| pod.uid()).collect();
    set_image(&cluster, "web:2").await;
    cluster.until_one("ds", "is undone", covers(3)).await;
    let after =
        cluster.until::<Pod>("three pods", |pods| pods.len() == 3 && pods.iter().all(|p| image(p) == "web:2")).await;
    assert!(
        untouched.iter().all(|uid| after.iter().any(|pod| pod.uid() == *uid)),
        "what was not updated was not touched"
    );
    let revisions = cluster.until::<ControllerRevision>("three revisions", |revisions| revisions.len() == 3).await;
    let newest = revisions.iter().max_by_key(|revision| revision.revision).unwrap();
    assert_eq!((newest.revision, newest.labels()["controller-revision-hash"].as_str()), (4, &*hash));
    cluster.stop().await;
}

/// "should list and delete a collection of DaemonSets" and "should verify changes to a daemon set status"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_and_a_status_are_written_by_hand() {
    let cluster = Cluster::start(1).await;
    cluster.create::<DaemonSet>(daemonset(json!({}))).await;
    cluster.until_one("ds", "covers all", covers(1)).await;
    let sets = cluster.api::<DaemonSet>();
    let condition = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test"});
    let status = json!({"status": {"conditions": [condition]}});
    sets.patch_status("ds", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let mut live = sets.get_status("ds").await.unwrap();
    live.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].reason = Some("Again".into());
    sets.replace_status("ds", &PostParams::default(), &live).await.unwrap();
    cluster.add_node("node-1").await;
    let set = cluster.until_one("ds", "covers both", covers(2)).await;
    let kept = set.status.as_ref().unwrap().conditions.clone().unwrap();
    assert_eq!(kept[0].reason.as_deref(), Some("Again"), "the controller leaves conditions alone");

    let all: Api<DaemonSet> = Api::all(cluster.client.clone());
    let chosen = ListParams::default().labels("app=ds");
    assert_eq!(all.list(&chosen).await.unwrap().items.len(), 1);
    sets.delete_collection(&DeleteParams::default(), &chosen).await.unwrap();
    cluster.until::<DaemonSet>("is deleted", |sets| sets.is_empty()).await;
    cluster.until::<Pod>("its pods follow", |pods| pods.is_empty()).await;
    cluster.until::<ControllerRevision>("its revisions follow", |revisions| revisions.is_empty()).await;
    cluster.stop().await;
}

/// "[sig-apps] ControllerRevision should manage the lifecycle of a ControllerRevision"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revisions_are_made_by_the_controller_and_by_hand() {
    let cluster = Cluster::start(1).await;
    cluster.create::<DaemonSet>(daemonset(json!({}))).await;
    cluster.until_one("ds", "covers all", covers(1)).await;
    let revisions = cluster.api::<ControllerRevision>();
    let initial = revisions.list(&ListParams::default().labels("app=ds")).await.unwrap().items.remove(0);
    let label = json!({"metadata": {"labels": {"x": "patched"}}});
    let patched =
        revisions.patch(&initial.name_any(), &PatchParams::default(), &Patch::Strategic(label)).await.unwrap();
    assert_eq!(patched.labels()["x"], "patched");

    // A second one by hand, of data of its own, which the set adopts as history.
    let mut second = ControllerRevision { revision: initial.revision + 1, ..initial.clone() };
    second.metadata = serde_json::from_value(json!({"generateName": "ds-", "labels": initial.labels(),
        "ownerReferences": initial.owner_references()}))
    .unwrap();
    second.data.as_mut().unwrap().0["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure".into();
    let second = revisions.create(&PostParams::default(), &second).await.unwrap();
    let renumbered = |revision: &ControllerRevision| revision.revision > second.revision;
    cluster.until_one(&initial.name_any(), "stays the newest", renumbered).await;

    let mut written = revisions.get(&second.name_any()).await.unwrap();
    written.labels_mut().insert("x".into(), "updated".into());
    revisions.replace(&second.name_any(), &PostParams::default(), &written).await.unwrap();
    let chosen = ListParams::default().labels("x=updated");
    revisions.delete_collection(&DeleteParams::default(), &chosen).await.unwrap();
    cluster.until::<ControllerRevision>("one is left", |revisions| revisions.len() == 1).await;

    // Without any the controller makes one anew.
    revisions.delete(&initial.name_any(), &DeleteParams::default()).await.unwrap();
    let anew = |all: &[Arc<ControllerRevision>]| all.len() == 1 && all[0].uid() != initial.uid();
    cluster.until::<ControllerRevision>("a new one", anew).await;
    cluster.until_one("ds", "covers all", covers(1)).await;
    cluster.stop().await;
}
