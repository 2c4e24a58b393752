//! Claims find their volumes: with the scheduler, with a provisioner, and with what users set aside.

use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, object};

const OUTSIDE: &str = "example.com/disks";

fn volume(name: &str, size: &str, class: &str, spec: &Value) -> Value {
    let mut volume = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size},
        "accessModes": ["ReadWriteOnce"], "storageClassName": class, "hostPath": {"path": "/data"}}});
    for (key, value) in spec.as_object().unwrap() {
        volume["spec"][key] = value.clone();
    }
    volume
}

fn claim(name: &str, size: &str, class: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
        "resources": {"requests": {"storage": size}}}})
}

fn mounting(name: &str, claim: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "web:1"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
}

fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn claim_is(phase: &'static str) -> impl Fn(&PersistentVolumeClaim) -> bool {
    move |claim| claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase)
}

impl Cluster {
    async fn create_volume(&self, value: Value) {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        volumes.create(&PostParams::default(), &object(value)).await.unwrap();
    }

    async fn create_class(&self, name: &str, provisioner: &str, mode: &str, default: bool) {
        let annotations = json!({"storageclass.kubernetes.io/is-default-class": default.to_string()});
        let class = json!({"metadata": {"name": name, "annotations": annotations}, "provisioner": provisioner,
            "volumeBindingMode": mode});
        let classes: Api<StorageClass> = Api::all(self.client.clone());
        classes.create(&PostParams::default(), &object(class)).await.unwrap();
    }

    /// Waits for an event with this reason about an object.
    async fn told(&self, name: &str, reason: &str, text: &str) {
        let fits = |event: &Event| {
            event.involved_object.name.as_deref() == Some(name)
                && event.reason.as_deref() == Some(reason)
                && event.message.as_deref().is_some_and(|message| message.contains(text))
        };
        let wish = format!("{reason} is told of {name}");
        self.until::<Event>(&wish, |events| events.iter().any(|event| fits(event))).await;
    }

    /// What an outside provisioner does for a claim, once it is asked for it.
    async fn provision(&self, name: &str) -> String {
        let asked = |claim: &PersistentVolumeClaim| {
            claim.annotations().get("volume.kubernetes.io/storage-provisioner").is_some_and(|by| by == OUTSIDE)
        };
        let claim = self.until_one::<PersistentVolumeClaim>(name, "is to be provisioned", asked).await;
        let made = format!("pvc-{}", claim.uid().unwrap());
        let reference = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": "default", "name": name,
            "uid": claim.uid()});
        let class = claim.spec.as_ref().unwrap().storage_class_name.clone().unwrap();
        let spec = json!({"claimRef": reference, "persistentVolumeReclaimPolicy": "Delete"});
        let mut volume = volume(&made, "1Gi", &class, &spec);
        volume["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": OUTSIDE});
        self.create_volume(volume).await;
        made
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_for_its_consumer_is_provisioned_where_that_goes() {
    let cluster = Cluster::start(2).await;
    cluster.create_class("late", OUTSIDE, "WaitForFirstConsumer", true).await;
    let mut wish = claim("data", "1Gi", "late");
    wish["spec"].as_object_mut().unwrap().remove("storageClassName");
    cluster.create::<PersistentVolumeClaim>(wish).await;
    cluster.told("data", "WaitForFirstConsumer", "waiting for first consumer to be created before binding").await;
    cluster.create::<Pod>(mounting("user", "data")).await;
    let chosen = |claim: &PersistentVolumeClaim| {
        claim.annotations().get("volume.kubernetes.io/selected-node").is_some_and(|node| node.starts_with("node-"))
    };
    let held = cluster.until_one::<PersistentVolumeClaim>("data", "has a node", chosen).await;
    let node = held.annotations()["volume.kubernetes.io/selected-node"].clone();
    cluster.told("data", "ExternalProvisioning", "external provisioner 'example.com/disks'").await;
    let made = cluster.provision("data").await;
    let placed = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let pod = cluster.until_one::<Pod>("user", "is placed", placed).await;
    assert_eq!(pod.spec.as_ref().unwrap().node_name, Some(node));
    let held = cluster.until_one::<PersistentVolumeClaim>("data", "is bound", claim_is("Bound")).await;
    assert_eq!(held.spec.as_ref().unwrap().volume_name.as_deref(), Some(made.as_str()));
    assert_eq!(held.annotations()["pv.kubernetes.io/bind-completed"], "yes");
    let bound = cluster.until_one::<PersistentVolume>(&made, "is bound", |v| phase(v) == "Bound").await;
    assert!(!bound.annotations().contains_key("pv.kubernetes.io/bound-by-controller"), "its provisioner has bound it");

    cluster.api::<Pod>().delete("user", &DeleteParams::default()).await.unwrap();
    cluster.api::<PersistentVolumeClaim>().delete("data", &DeleteParams::default()).await.unwrap();
    // what follows is the provisioner's part
    cluster.until_one::<PersistentVolume>(&made, "is released", |volume| phase(volume) == "Released").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_made_by_hand_waits_for_its_consumer_too() {
    let cluster = Cluster::start(2).await;
    cluster.create_class("local", "kubernetes.io/no-provisioner", "WaitForFirstConsumer", false).await;
    let on_node_1 = json!({"hostPath": null, "local": {"path": "/data"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}]}}});
    cluster.create_volume(volume("disk", "5Gi", "local", &on_node_1)).await;
    cluster.create::<PersistentVolumeClaim>(claim("data", "1Gi", "local")).await;
    cluster.told("data", "WaitForFirstConsumer", "").await;
    cluster.until_one::<PersistentVolume>("disk", "is not taken", |volume| phase(volume) == "Available").await;
    cluster.create::<Pod>(mounting("user", "data")).await;
    let there = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some("node-1");
    cluster.until_one::<Pod>("user", "is where the disk is", there).await;
    let held = cluster.until_one::<PersistentVolumeClaim>("data", "is bound", claim_is("Bound")).await;
    assert_eq!(held.status.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0, "5Gi");
    let disk = cluster.until_one::<PersistentVolume>("disk", "is bound", |volume| phase(volume) == "Bound").await;
    assert_eq!(disk.annotations()["pv.kubernetes.io/bound-by-controller"], "yes");

    // nobody knows how to remove it
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let policy = json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}});
    volumes.patch("disk", &PatchParams::default(), &Patch::Merge(policy)).await.unwrap();
    cluster.api::<Pod>().delete("user", &DeleteParams::default()).await.unwrap();
    cluster.api::<PersistentVolumeClaim>().delete("data", &DeleteParams::default()).await.unwrap();
    cluster.until_one::<PersistentVolume>("disk", "has failed", |volume| phase(volume) == "Failed").await;
    cluster.told("disk", "VolumeFailedDelete", "no deletable volume plugin matched").await;
    // its administrator frees it
    let free = json!({"spec": {"claimRef": null, "persistentVolumeReclaimPolicy": "Retain"}});
    volumes.patch("disk", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    cluster.until_one::<PersistentVolume>("disk", "is offered again", |volume| phase(volume) == "Available").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_wait_are_served_when_what_they_lack_appears() {
    let cluster = Cluster::start(0).await;
    cluster.create::<PersistentVolumeClaim>(claim("big", "5Gi", "manual")).await;
    cluster.create::<PersistentVolumeClaim>(claim("named", "1Gi", "")).await;
    cluster.told("big", "ProvisioningFailed", "storageclass.storage.k8s.io \"manual\" not found").await;
    cluster
        .told("named", "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
        .await;
    cluster.create_volume(volume("small", "1Gi", "manual", &json!({}))).await;
    cluster
        .create_volume(volume("aside", "1Gi", "x", &json!({"claimRef": {"namespace": "default", "name": "named"}})))
        .await;
    cluster.until_one::<PersistentVolumeClaim>("named", "has what was set aside", claim_is("Bound")).await;
    cluster.create_volume(volume("large", "9Gi", "manual", &json!({}))).await;
    let big = cluster.until_one::<PersistentVolumeClaim>("big", "is bound", claim_is("Bound")).await;
    assert_eq!(big.spec.as_ref().unwrap().volume_name.as_deref(), Some("large"));

    // A class that comes later is everybody's who named none.
    let mut wish = claim("undecided", "1Gi", "");
    wish["spec"].as_object_mut().unwrap().remove("storageClassName");
    cluster.create::<PersistentVolumeClaim>(wish).await;
    cluster.told("undecided", "FailedBinding", "").await;
    cluster.create_class("now", OUTSIDE, "Immediate", true).await;
    let made = cluster.provision("undecided").await;
    let bound = cluster.until_one::<PersistentVolumeClaim>("undecided", "is bound", claim_is("Bound")).await;
    assert_eq!(bound.spec.as_ref().unwrap().storage_class_name.as_deref(), Some("now"));

    // a claim without its volume is lost
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    volumes.delete(&made, &DeleteParams::default()).await.unwrap();
    let unprotected = json!({"metadata": {"finalizers": null}});
    volumes.patch(&made, &PatchParams::default(), &Patch::Merge(unprotected)).await.unwrap();
    cluster.until_one::<PersistentVolumeClaim>("undecided", "is lost", claim_is("Lost")).await;
    cluster
        .told("undecided", "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_volume_has_a_claim_that_lives_and_dies_with_its_pod() {
    let cluster = Cluster::start(1).await;
    cluster.create_class("late", OUTSIDE, "WaitForFirstConsumer", false).await;
    let template = json!({"metadata": {"labels": {"of": "scratch"}}, "spec": claim("x", "1Gi", "late")["spec"]});
    let user = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "web:1"}],
            "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]}})
    };
    cluster.create::<PersistentVolumeClaim>(claim("taken-scratch", "1Gi", "late")).await;
    cluster.create::<Pod>(user("taken")).await;
    let text =
        "ephemeral volume scratch: PVC default/taken-scratch was not created for pod default/taken (pod is not owner)";
    cluster.told("taken", "FailedBinding", text).await;

    let pod = cluster.create::<Pod>(user("user")).await;
    cluster.provision("user-scratch").await;
    let placed = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    cluster.until_one::<Pod>("user", "is placed", placed).await;
    let held = cluster.until_one::<PersistentVolumeClaim>("user-scratch", "is bound", claim_is("Bound")).await;
    assert_eq!((held.labels()["of"].as_str(), &held.owner_references()[0].uid), ("scratch", &pod.uid().unwrap()));
    let foreground = DeleteParams::foreground();
    cluster.api::<Pod>().delete("user", &foreground).await.unwrap();
    let gone = |claims: &[std::sync::Arc<PersistentVolumeClaim>]| claims.iter().all(|c| c.name_any() != "user-scratch");
    cluster.until::<PersistentVolumeClaim>("the claim goes with its pod", gone).await;
    cluster.until::<Pod>("the pod goes", |pods| pods.iter().all(|pod| pod.name_any() != "user")).await;
    cluster.stop().await;
}
