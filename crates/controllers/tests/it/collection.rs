use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::cluster::{Cluster, deployment, object};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_deployment_takes_its_sets_and_pods_along() {
    let cluster = Cluster::start(1).await;
    for (name, params) in [("back", DeleteParams::background()), ("fore", DeleteParams::foreground())] {
        cluster.create::<Deployment>(deployment(name, 2, "web:1")).await;
        let running = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
        cluster.until::<Pod>("two pods", |pods| pods.len() == 2 && pods.iter().all(|pod| running(pod))).await;
        cluster.api::<Deployment>().delete(name, &params).await.unwrap();
        cluster.until::<Deployment>("deployment gone", |all| all.is_empty()).await;
        if name == "fore" {
            assert!(cluster.keys::<ReplicaSet>().is_empty(), "dependents go first");
        }
        cluster.until::<ReplicaSet>("sets gone", |all| all.is_empty()).await;
        cluster.until::<Pod>("pods gone", |all| all.is_empty()).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_own_each_other_in_a_circle_go_together() {
    let cluster = Cluster::start(0).await;
    let mut uids = Vec::new();
    for name in ["a", "b", "c"] {
        let made = cluster.create::<ConfigMap>(json!({"metadata": {"name": name}})).await;
        uids.push((name, made.uid().unwrap()));
    }
    let api = cluster.api::<ConfigMap>();
    for (at, (name, _)) in uids.iter().enumerate() {
        let (owner, uid) = &uids[(at + 2) % 3];
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid,
            "controller": true, "blockOwnerDeletion": true});
        let patch = Patch::Merge(json!({"metadata": {"ownerReferences": [owner]}}));
        api.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }
    api.delete("a", &DeleteParams::foreground()).await.unwrap();
    let others = |map: &ConfigMap| !["a", "b", "c"].contains(&map.name_any().as_str());
    cluster.until::<ConfigMap>("the circle is gone", |all| all.iter().all(|map| others(map))).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphaned_pods_stay() {
    let cluster = Cluster::start(1).await;
    cluster.create::<Deployment>(deployment("web", 1, "web:1")).await;
    cluster.until::<Pod>("a pod", |pods| pods.len() == 1).await;
    cluster.api::<Deployment>().delete("web", &DeleteParams::orphan()).await.unwrap();
    cluster.until::<Deployment>("deployment gone", |all| all.is_empty()).await;
    cluster
        .until::<ReplicaSet>("set without owner", |sets| sets.len() == 1 && sets[0].owner_references().is_empty())
        .await;
    assert_eq!(cluster.keys::<Pod>().len(), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_whose_owner_never_was_is_collected_and_one_with_another_owner_is_not() {
    let cluster = Cluster::start(0).await;
    let owner = cluster.create::<ConfigMap>(json!({"metadata": {"name": "owner"}})).await;
    let reference = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid});
    let real = reference("owner", owner.uid().unwrap().as_str());
    let fake = reference("nobody", "00000000-0000-4000-8000-000000000000");
    cluster.create::<ConfigMap>(json!({"metadata": {"name": "both", "ownerReferences": [real, fake]}})).await;
    cluster.create::<ConfigMap>(json!({"metadata": {"name": "lost", "ownerReferences": [fake]}})).await;
    cluster.until::<ConfigMap>("lost is collected", |all| all.iter().all(|map| map.name_any() != "lost")).await;
    cluster.until_one::<ConfigMap>("both", "keeps one owner", |map| map.owner_references().len() == 1).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_are_furnished_and_emptied() {
    let cluster = Cluster::start(1).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let team = object::<Namespace>(json!({"metadata": {"name": "team"}}));
    namespaces.create(&PostParams::default(), &team).await.unwrap();
    let in_team = |namespace: Option<String>| namespace.as_deref() == Some("team");
    cluster.until::<ServiceAccount>("default account", |all| all.iter().any(|a| in_team(a.namespace()))).await;
    let maps = cluster.until::<ConfigMap>("root CA", |all| all.iter().any(|map| in_team(map.namespace()))).await;
    let map = maps.iter().find(|map| in_team(map.namespace())).unwrap();
    assert_eq!(
        (map.name_any().as_str(), map.data.as_ref().unwrap()["ca.crt"].as_str()),
        ("kube-root-ca.crt", "the ca")
    );

    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), "team");
    deployments.create(&PostParams::default(), &object(deployment("web", 2, "web:1"))).await.unwrap();
    cluster.until::<Pod>("pods", |pods| pods.len() == 2).await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "team");
    maps.create(&PostParams::default(), &object(held)).await.unwrap();

    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    let waits = cluster
        .until_one::<Namespace>("team", "waits for the finalizer", |namespace| {
            let conditions = namespace.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|condition| condition.reason.as_deref() == Some("SomeFinalizersRemain"))
        })
        .await;
    assert_eq!(waits.status.as_ref().unwrap().phase.as_deref(), Some("Terminating"));
    assert!(waits.meta().deletion_timestamp.is_some());
    let release = json!({"metadata": {"finalizers": null}});
    maps.patch("held", &PatchParams::default(), &Patch::Merge(release)).await.unwrap();
    cluster.until::<Namespace>("team is gone", |all| all.iter().all(|namespace| namespace.name_any() != "team")).await;
    cluster.until::<Pod>("pods are gone", |pods| pods.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_stays_while_a_pod_uses_it_and_its_volume_while_it_is_bound() {
    let cluster = Cluster::start(1).await;
    let size = json!({"storage": "1Mi"});
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand"});
    let (mut offer, mut wish) = (spec.clone(), spec);
    (offer["capacity"], offer["hostPath"]) = (size.clone(), json!({"path": "/data"}));
    wish["resources"] = json!({"requests": size});
    let volume = object::<PersistentVolume>(json!({"metadata": {"name": "pv"}, "spec": offer}));
    volumes.create(&PostParams::default(), &volume).await.unwrap();
    cluster.create::<PersistentVolumeClaim>(json!({"metadata": {"name": "data"}, "spec": wish})).await;
    let bound = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    cluster.until_one::<PersistentVolumeClaim>("data", "bound", bound).await;
    let user = json!({"metadata": {"name": "user"}, "spec": {
        "containers": [{"name": "c", "image": "web:1"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    cluster.create::<Pod>(user).await;
    let on_node = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    cluster.until_one::<Pod>("user", "scheduled", on_node).await;

    volumes.delete("pv", &DeleteParams::default()).await.unwrap();
    let answer = cluster.api::<PersistentVolumeClaim>().delete("data", &DeleteParams::default()).await.unwrap();
    let held = answer.left().expect("the claim is still there");
    assert_eq!(held.finalizers(), ["kubernetes.io/pvc-protection"]);
    assert!(volumes.get("pv").await.unwrap().metadata.deletion_timestamp.is_some());

    cluster.api::<Pod>().delete("user", &DeleteParams::default()).await.unwrap();
    cluster.until::<PersistentVolumeClaim>("claim gone", |all| all.is_empty()).await;
    assert!(cluster.keys::<Pod>().is_empty(), "the pod goes before its claim");
    cluster.until::<PersistentVolume>("volume gone", |all| all.is_empty()).await;
    cluster.stop().await;
}

/// Waits until the server does not have it any more, which an informer that lags could not tell from not yet.
async fn gone(api: &Api<ConfigMap>, name: &str) {
    while api.get_opt(name).await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn owned_by(name: &str, owner: serde_json::Value) -> serde_json::Value {
    json!({"metadata": {"name": name, "ownerReferences": [owner]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_of_another_namespace_owns_nothing_and_its_own_children_stay() {
    let cluster = Cluster::start(0).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.create(&PostParams::default(), &object(json!({"metadata": {"name": "other"}}))).await.unwrap();
    let owner = cluster.create::<ConfigMap>(json!({"metadata": {"name": "owner"}})).await;
    let reference = |kind: &str| json!({"apiVersion": "v1", "kind": kind, "name": "owner", "uid": owner.uid()});
    let elsewhere: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "other");
    let unknown = json!({"apiVersion": "example.com/v1", "kind": "Unheard", "name": "owner", "uid": "u"});
    cluster.create::<ConfigMap>(owned_by("of-unknown-kind", unknown)).await;
    for turn in ["first", "second"] {
        // what was found out about the one must not be held against the other
        elsewhere.create(&PostParams::default(), &object(owned_by("stray", reference("ConfigMap")))).await.unwrap();
        gone(&elsewhere, "stray").await;
        cluster.create::<ConfigMap>(owned_by(turn, reference("ConfigMap"))).await;
    }
    cluster.create::<ConfigMap>(owned_by("misnamed", reference("Secret"))).await;
    gone(&cluster.api(), "misnamed").await;
    let told = |event: &Event| {
        event.reason.as_deref() == Some("OwnerRefInvalidNamespace")
            && event
                .message
                .as_deref()
                .is_some_and(|message| message.ends_with("does not exist in namespace \"other\""))
    };
    cluster.until::<Event>("it is told why", |all| all.iter().any(|event| told(event))).await;
    let left = cluster.api::<ConfigMap>().list(&ListParams::default()).await.unwrap();
    let left: Vec<String> = left.items.iter().map(ResourceExt::name_any).collect();
    for name in ["owner", "first", "second", "of-unknown-kind"] {
        assert!(left.iter().any(|known| known == name), "{name} stays: {left:?}");
    }
    cluster.stop().await;
}
