//! StatefulSets, and upstream's conformance tests of them (`[sig-apps] StatefulSet Basic StatefulSet functionality`).

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, object};

fn statefulset(spec: Value) -> Value {
    let mut set = json!({"metadata": {"name": "ss", "labels": {"app": "ss"}}, "spec": {"replicas": 3, "serviceName": "test",
        "selector": {"matchLabels": {"app": "ss"}},
        "template": {"metadata": {"labels": {"app": "ss"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "web:1"}]}}}});
    for (field, value) in spec.as_object().unwrap() {
        set["spec"][field] = value.clone();
    }
    set
}

fn is_complete(set: &StatefulSet) -> bool {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap();
    let status = set.status.clone().unwrap_or_default();
    status.observed_generation == set.metadata.generation
        && status.replicas == replicas
        && status.ready_replicas.unwrap_or(0) == replicas
        && status.updated_replicas.unwrap_or(0) == replicas
        && status.current_revision == status.update_revision
}

fn images(pods: &[std::sync::Arc<Pod>]) -> Vec<String> {
    pods.iter().map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).collect()
}

/// Changes the set, and waits until the informers have seen it: what they show then is not from before.
async fn patch(cluster: &Cluster, patch: Value) -> StatefulSet {
    let sets = cluster.api::<StatefulSet>();
    let changed = sets.patch("ss", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    let seen = |set: &StatefulSet| set.metadata.generation >= changed.metadata.generation;
    cluster.until_one("ss", "is seen", seen).await;
    changed
}

async fn scale(cluster: &Cluster, replicas: i32) {
    patch(cluster, json!({"spec": {"replicas": replicas}})).await;
}

async fn set_image(cluster: &Cluster, image: &str) {
    patch(cluster, json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})).await;
}

async fn set_ready(cluster: &Cluster, pod: &str, ready: &str) {
    let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": jiff::Timestamp::now()});
    let status = json!({"status": {"conditions": [condition]}});
    cluster.api::<Pod>().patch_status(pod, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
}

/// The names of pods in the order in which they were created, or in which their deletion was asked for, as events tell.
async fn told(cluster: &Cluster, verb: &str, count: usize) -> Vec<String> {
    let told = |events: &[std::sync::Arc<Event>]| -> Vec<String> {
        let mut ours: Vec<_> = events
            .iter()
            .filter(|event| event.message.as_deref().is_some_and(|message| message.starts_with(&format!("{verb} Pod"))))
            .collect();
        ours.sort_by_key(|event| {
            event.metadata.resource_version.as_ref().map(|version| version.parse::<u64>().unwrap())
        });
        ours.iter().map(|event| event.message.as_ref().unwrap().split(' ').nth(2).unwrap().to_owned()).collect()
    };
    told(&cluster.until::<Event>("told", |events| told(events).len() >= count).await)
}

/// "Scaling should happen in predictable order and halt if any stateful pod is unhealthy"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_keeps_its_order_and_halts_at_an_unhealthy_pod() {
    let cluster = Cluster::start(1).await;
    cluster.create::<StatefulSet>(statefulset(json!({}))).await;
    cluster.until_one("ss", "is complete", is_complete).await;
    assert_eq!(told(&cluster, "create", 3).await, ["ss-0", "ss-1", "ss-2"]);

    set_ready(&cluster, "ss-0", "False").await;
    scale(&cluster, 5).await;
    let waits = |set: &StatefulSet| {
        let status = set.status.as_ref().unwrap();
        status.observed_generation == set.metadata.generation && status.ready_replicas == Some(2)
    };
    let set = cluster.until_one::<StatefulSet>("ss", "has seen that it should grow", waits).await;
    assert_eq!(set.status.as_ref().unwrap().replicas, 3);
    assert!(cluster.informers.of::<Pod>().get("default", "ss-3").is_none());
    set_ready(&cluster, "ss-0", "True").await;
    cluster.until_one("ss", "is complete", is_complete).await;
    assert_eq!(told(&cluster, "create", 5).await[3..], ["ss-3", "ss-4"]);

    scale(&cluster, 0).await;
    cluster.until_one("ss", "is empty", is_complete).await;
    assert_eq!(told(&cluster, "delete", 5).await, ["ss-4", "ss-3", "ss-2", "ss-1", "ss-0"]);
    cluster.stop().await;
}

/// "Burst scaling should run to completion even with unhealthy pods"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn burst_scaling_completes_with_unhealthy_pods() {
    let cluster = Cluster::start(1).await;
    let mut set = statefulset(json!({"podManagementPolicy": "Parallel"}));
    set["spec"]["template"]["spec"]["containers"][0]["image"] = "broken".into();
    cluster.create::<StatefulSet>(set).await;
    let has = |count: i32| move |set: &StatefulSet| set.status.as_ref().is_some_and(|status| status.replicas == count);
    for count in [3, 5, 0] {
        scale(&cluster, count).await;
        cluster.until_one("ss", "is scaled", has(count)).await;
    }
    cluster.stop().await;
}

/// "should perform rolling updates and roll backs of template modifications"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_is_rolled_out_in_reverse_order_and_back() {
    let cluster = Cluster::start(1).await;
    cluster.create::<StatefulSet>(statefulset(json!({"revisionHistoryLimit": 1}))).await;
    let first = cluster.until_one("ss", "is complete", is_complete).await;
    let revision = |set: &StatefulSet| set.status.as_ref().unwrap().current_revision.clone().unwrap();
    for image in ["web:2", "web:1", "web:3"] {
        set_image(&cluster, image).await;
        let set = cluster.until_one("ss", "is complete", is_complete).await;
        let pods = cluster.until::<Pod>("three pods", |pods| pods.len() == 3).await;
        assert_eq!(images(&pods), [image; 3]);
        assert!(pods.iter().all(|pod| pod.labels()["controller-revision-hash"] == revision(&set)));
        if image == "web:2" {
            // Later events are merged into these.
            assert_eq!(told(&cluster, "delete", 3).await, ["ss-2", "ss-1", "ss-0"]);
        }
        if image == "web:1" {
            assert_eq!(revision(&set), revision(&first), "an old template has its old revision");
        }
    }
    // The current one, and one of history.
    let kept = cluster.until::<ControllerRevision>("history is cut", |revisions| revisions.len() == 2).await;
    let mut numbers: Vec<i64> = kept.iter().map(|revision| revision.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [3, 4], "going back gave the first revision a new number");
    cluster.stop().await;
}

/// "should perform canary updates and phased rolling updates of template modifications"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_allows_canaries_and_phases() {
    let cluster = Cluster::start(1).await;
    let partition = |partition: i32| json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition}});
    cluster.create::<StatefulSet>(statefulset(json!({"updateStrategy": partition(3)}))).await;
    cluster.until_one("ss", "is complete", is_complete).await;
    set_image(&cluster, "web:2").await;
    let staged = |set: &StatefulSet| {
        let status = set.status.as_ref().unwrap();
        status.update_revision != status.current_revision && status.current_replicas == Some(3)
    };
    cluster.until_one::<StatefulSet>("ss", "is staged", staged).await;
    for (at, expected) in
        [(2, ["web:1", "web:1", "web:2"]), (1, ["web:1", "web:2", "web:2"]), (0, ["web:2", "web:2", "web:2"])]
    {
        patch(&cluster, json!({"spec": {"updateStrategy": partition(at)}})).await;
        let ready = |pods: &[std::sync::Arc<Pod>]| {
            images(pods) == expected && pods.iter().all(|pod| pod.status.as_ref().unwrap().pod_ip.is_some())
        };
        cluster.until::<Pod>("one more is updated", ready).await;
        if at == 2 {
            // Pods that are lost come back at their own revision.
            let everything = ListParams::default();
            cluster.api::<Pod>().delete_collection(&DeleteParams::default(), &everything).await.unwrap();
            cluster
                .until::<Pod>("they are back", |pods| {
                    ready(pods) && pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_none())
                })
                .await;
        }
    }
    cluster.until_one("ss", "is complete", is_complete).await;
    cluster.stop().await;
}

/// "Should recreate evicted statefulset"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_pod_comes_back_under_its_name() {
    let cluster = Cluster::start(1).await;
    cluster.create::<StatefulSet>(statefulset(json!({"replicas": 1}))).await;
    cluster.until_one("ss", "is complete", is_complete).await;
    let before = cluster.api::<Pod>().get("ss-0").await.unwrap().uid();
    let evicted = json!({"status": {"phase": "Failed", "reason": "Evicted"}});
    cluster.api::<Pod>().patch_status("ss-0", &PatchParams::default(), &Patch::Strategic(evicted)).await.unwrap();
    cluster
        .until_one::<Pod>("ss-0", "runs again", |pod| {
            pod.uid() != before && pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some())
        })
        .await;
    cluster.until_one("ss", "is complete", is_complete).await;
    cluster.stop().await;
}

/// "should have a working scale subresource"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scale_subresource_works() {
    let cluster = Cluster::start(1).await;
    cluster.create::<StatefulSet>(statefulset(json!({"replicas": 1}))).await;
    cluster.until_one("ss", "is complete", is_complete).await;
    let sets = cluster.api::<StatefulSet>();
    let mut scale: Scale = object(serde_json::to_value(sets.get_scale("ss").await.unwrap()).unwrap());
    assert_eq!((scale.spec.as_ref().unwrap().replicas, scale.status.as_ref().unwrap().replicas), (Some(1), 1));
    assert_eq!(scale.status.as_ref().unwrap().selector.as_deref(), Some("app=ss"));
    scale.spec.as_mut().unwrap().replicas = Some(2);
    sets.replace_scale("ss", &PostParams::default(), &object(serde_json::to_value(&scale).unwrap())).await.unwrap();
    assert_eq!(sets.get("ss").await.unwrap().spec.unwrap().replicas, Some(2));
    let patch = json!({"spec": {"replicas": 4}});
    sets.patch_scale("ss", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert_eq!(sets.get("ss").await.unwrap().spec.unwrap().replicas, Some(4));
    let has_four = |set: &StatefulSet| is_complete(set) && set.status.as_ref().unwrap().replicas == 4;
    cluster.until_one("ss", "has four pods", has_four).await;
    cluster.stop().await;
}

/// "should list, patch and delete a collection of StatefulSets" and "should validate Statefulset Status endpoints"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_and_a_status_are_written_by_hand() {
    let cluster = Cluster::start(1).await;
    cluster.create::<StatefulSet>(statefulset(json!({"replicas": 1}))).await;
    cluster.until_one("ss", "is complete", is_complete).await;
    let sets = cluster.api::<StatefulSet>();
    let condition = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test"});
    let status = json!({"status": {"conditions": [condition]}});
    sets.patch_status("ss", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let mut live = sets.get_status("ss").await.unwrap();
    live.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].reason = Some("Again".into());
    sets.replace_status("ss", &PostParams::default(), &live).await.unwrap();

    let all: Api<StatefulSet> = Api::all(cluster.client.clone());
    assert_eq!(all.list(&ListParams::default().labels("app=ss")).await.unwrap().items.len(), 1);
    let changed = patch(
        &cluster,
        json!({"metadata": {"labels": {"test-ss": "patched"}}, "spec": {"replicas": 2,
        "template": {"spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "web:2"}]}}}}),
    )
    .await;
    assert_eq!(changed.labels()["test-ss"], "patched");
    let set = cluster.until_one("ss", "is complete", is_complete).await;
    let kept = set.status.as_ref().unwrap().conditions.clone().unwrap();
    assert_eq!(kept[0].reason.as_deref(), Some("Again"), "the controller leaves conditions alone");
    let chosen = ListParams::default().labels("test-ss=patched");
    sets.delete_collection(&DeleteParams::default(), &chosen).await.unwrap();
    cluster.until::<StatefulSet>("is deleted", |sets| sets.is_empty()).await;
    cluster.until::<Pod>("its pods follow", |pods| pods.is_empty()).await;
    cluster.until::<ControllerRevision>("its revisions follow", |revisions| revisions.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_made_before_pods_and_go_when_the_policy_says_so() {
    let cluster = Cluster::start(1).await;
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    for name in ["v0", "v1"] {
        let volume = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"], "storageClassName": "", "hostPath": {"path": "/x"}}});
        volumes.create(&PostParams::default(), &object(volume)).await.unwrap();
    }
    let template = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "resources": {"requests": {"storage": "1Gi"}}}}]);
    cluster
        .create::<StatefulSet>(statefulset(json!({"replicas": 2, "volumeClaimTemplates": template,
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Delete"}})))
        .await;
    cluster.until_one("ss", "is complete", is_complete).await;
    let claim = cluster.api::<PersistentVolumeClaim>().get("data-ss-1").await.unwrap();
    assert_eq!((claim.labels()["app"].as_str(), claim.owner_references().len()), ("ss", 0));

    scale(&cluster, 1).await;
    cluster.until_one("ss", "is scaled", is_complete).await;
    let named = |name: &'static str| {
        move |claims: &[std::sync::Arc<PersistentVolumeClaim>]| claims.iter().map(|c| c.name_any()).eq([name])
    };
    cluster.until::<PersistentVolumeClaim>("the second claim goes", named("data-ss-0")).await;
    cluster.api::<StatefulSet>().delete("ss", &DeleteParams::default()).await.unwrap();
    cluster.until::<Pod>("no pods", |pods| pods.is_empty()).await;
    cluster.until::<PersistentVolumeClaim>("the first claim stays", named("data-ss-0")).await;
    cluster.stop().await;
}

/// Upstream's "should adopt matching orphans and release non-matching pods"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphaned_pods_and_revisions_are_adopted_and_pods_released() {
    let cluster = Cluster::start(1).await;
    cluster.create::<StatefulSet>(statefulset(json!({"replicas": 1}))).await;
    let first = cluster.until_one("ss", "is complete", is_complete).await;
    let before = cluster.api::<Pod>().get("ss-0").await.unwrap().uid();
    cluster.api::<StatefulSet>().delete("ss", &DeleteParams::orphan()).await.unwrap();
    cluster.until::<StatefulSet>("is deleted", |sets| sets.is_empty()).await;
    cluster.until_one::<Pod>("ss-0", "is an orphan", |pod| pod.owner_references().is_empty()).await;

    cluster.create::<StatefulSet>(statefulset(json!({"replicas": 1}))).await;
    let second = cluster.until_one("ss", "is complete", is_complete).await;
    let pod = cluster.until_one::<Pod>("ss-0", "is adopted", |pod| !pod.owner_references().is_empty()).await;
    assert_eq!(pod.uid(), before);
    let revisions = cluster.until::<ControllerRevision>("one revision", |revisions| revisions.len() == 1).await;
    assert_eq!(revisions[0].owner_references()[0].uid, second.uid().unwrap());
    assert_eq!(first.status.as_ref().unwrap().current_revision, second.status.as_ref().unwrap().current_revision);

    let relabel = json!({"metadata": {"labels": {"app": "other"}}});
    cluster.api::<Pod>().patch("ss-0", &PatchParams::default(), &Patch::Merge(relabel)).await.unwrap();
    cluster.until_one::<Pod>("ss-0", "is released", |pod| pod.owner_references().is_empty()).await;
    cluster.api::<Pod>().delete("ss-0", &DeleteParams::default()).await.unwrap();
    cluster
        .until_one::<Pod>("ss-0", "is made anew", |pod| pod.uid() != before && !pod.owner_references().is_empty())
        .await;
    cluster.stop().await;
}
