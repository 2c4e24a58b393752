//! Volumes for claims whose pods go to simulated nodes, which have no provisioner of their own.
//!
//! Keelson's own directories are made by the node that a pod goes to, so on a simulated node this makes the volume. Every other
//! provisioner is somebody else's, except where there is nobody else: in a cluster that was begun to plan with.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, PostParams, Preconditions},
};
use reconcile::{Informer, Informers, Key, Queue, feed, run_controller};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    Options,
    behaviour::DOMAIN,
    nodes::{NodeOptions, ZONE},
};

/// The provisioner whose volumes a node makes itself.
const DIRECTORIES: &str = "keelson.dev/directory";
/// Annotations by which a provisioner is asked for a volume.
const ASKED: [&str; 2] = ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// Annotation that names the node where the volume is needed.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The label by which a volume says on which node it is.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Claims and volumes handled at once; each is one request.
const WORKERS: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Claim(Key),
    Volume(String),
}

/// Makes volumes and removes them.
#[derive(Clone)]
pub(crate) struct Volumes {
    client: Client,
    options: Arc<Options>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
}

impl Volumes {
    pub(crate) fn new(client: Client, options: Arc<Options>, informers: &Informers) -> Self {
        Self { client, options, claims: informers.of(), volumes: informers.of(), classes: informers.of() }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let synced = async { self.claims.synced().await && self.volumes.synced().await && self.classes.synced().await };
        tokio::select! {
            () = stop.cancelled() => return,
            synced = synced => if !synced { return },
        }
        let queue: Queue<Work> = Queue::new();
        let claims = feed(&self.claims, &queue, |change| Some(Work::Claim(Key::of(&**change.object()))));
        let volumes = feed(&self.volumes, &queue, |change| Some(Work::Volume(change.object().name_any())));
        let work = run_controller("simulated-volumes", queue.clone(), WORKERS, stop, |work| {
            let own = self.clone();
            async move {
                match work {
                    Work::Claim(key) => own.claim(&key).await,
                    Work::Volume(name) => own.volume(&name).await,
                }
            }
        });
        tokio::select! {
            () = work => {}
            _ = async { tokio::join!(claims, volumes) } => {}
        }
    }

    fn all(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    async fn claim(&self, key: &Key) -> Result<Option<Duration>, kube::Error> {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(None) };
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
        let Some(class) = self.classes.get("", class) else { return Ok(None) };
        let alone = self.options.manifests.is_some();
        let Some(volume) = volume_for(&claim, &class, &self.options.nodes, alone) else { return Ok(None) };
        let volume = serde_json::from_value(volume).map_err(kube::Error::SerdeError)?;
        match self.all().create(&PostParams::default(), &volume).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
            created => created.map(|_| None),
        }
    }

    /// Removes a volume that was made here when its claim is gone.
    async fn volume(&self, name: &str) -> Result<Option<Duration>, kube::Error> {
        let Some(volume) = self.volumes.get("", name) else { return Ok(None) };
        if !is_over(&volume, &self.options.nodes) {
            return Ok(None);
        }
        let preconditions = Some(Preconditions { uid: volume.uid(), resource_version: volume.resource_version() });
        match self.all().delete(name, &DeleteParams { preconditions, ..DeleteParams::default() }).await {
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(None),
            deleted => deleted.map(|_| None),
        }
    }
}

/// The volume for a claim, if it is for us to make. `alone`: there are no other provisioners.
fn volume_for(claim: &PersistentVolumeClaim, class: &StorageClass, nodes: &NodeOptions, alone: bool) -> Option<Value> {
    let spec = claim.spec.as_ref()?;
    let bound = spec.volume_name.as_ref().is_some_and(|name| !name.is_empty());
    let asked = ASKED.iter().find_map(|name| claim.annotations().get(*name))?;
    if bound || claim.metadata.deletion_timestamp.is_some() || !(alone || asked == DIRECTORIES) {
        return None;
    }
    let chosen = claim.annotations().get(SELECTED_NODE);
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    let (source, place) = match chosen.map(|node| (node, nodes.number(node))) {
        Some((node, Some(_))) if asked == DIRECTORIES => {
            (json!({"local": {"path": "/simulated"}}), Some((HOSTNAME, node.clone())))
        }
        // disks of a network are usually those of a zone
        Some((_, Some(number))) => (csi(asked, claim), waits.then(|| (ZONE, nodes.zone(number)))),
        Some((_, None)) => return None,
        None if waits || !alone => return None,
        None => (csi(asked, claim), None),
    };
    let size = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage"));
    let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": format!("pvc-{}", claim.uid()?), "labels": {NodeOptions::fleet_label(): nodes.prefix},
            "annotations": {"pv.kubernetes.io/provisioned-by": DOMAIN.trim_end_matches('/')}},
        "spec": {"capacity": {"storage": size}, "accessModes": spec.access_modes, "volumeMode": spec.volume_mode,
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.name_any(),
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
                "name": claim.name_any(), "uid": claim.uid()}}});
    if let (Some(into), Some(source)) = (volume["spec"].as_object_mut(), source.as_object()) {
        into.extend(source.clone());
    }
    if let Some((key, value)) = place {
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": key, "operator": "In", "values": [value]}]}]}});
    }
    Some(volume)
}

fn csi(driver: &str, claim: &PersistentVolumeClaim) -> Value {
    // class names may have a slash where names of drivers may not
    json!({"csi": {"driver": driver.replace('/', "."), "volumeHandle": claim.uid()}})
}

/// Whether a volume is one of ours that nobody needs any more.
fn is_over(volume: &PersistentVolume, nodes: &NodeOptions) -> bool {
    let ours = volume.labels().get(&NodeOptions::fleet_label()) == Some(&nodes.prefix);
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    ours && phase == Some("Released") && policy == Some("Delete") && volume.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(provisioner: &str, mode: &str) -> StorageClass {
        let class = json!({"metadata": {"name": "fast"}, "provisioner": provisioner, "volumeBindingMode": mode});
        serde_json::from_value(class).unwrap()
    }

    fn claim(provisioner: &str, node: Option<&str>) -> PersistentVolumeClaim {
        let annotations = json!({ASKED[0]: provisioner, SELECTED_NODE: node.unwrap_or_default()});
        let mut claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": "data-db-0", "namespace": "shop", "uid": "u1", "annotations": annotations},
            "spec": {"storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "10Gi"}}}}))
        .unwrap();
        if node.is_none() {
            claim.annotations_mut().remove(SELECTED_NODE);
        }
        claim
    }

    fn place(volume: &Value) -> &Value {
        &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]
    }

    #[test]
    fn a_directory_is_on_the_node_that_was_chosen() {
        let (nodes, waiting) = (NodeOptions::new(3), class(DIRECTORIES, "WaitForFirstConsumer"));
        let made = volume_for(&claim(DIRECTORIES, Some("sim-0001")), &waiting, &nodes, false).unwrap();
        let _: PersistentVolume = serde_json::from_value(made.clone()).unwrap();
        assert_eq!(place(&made)["values"], json!(["sim-0001"]));
        assert_eq!(made["spec"]["claimRef"]["name"], "data-db-0");
        for node in [None, Some("real"), Some("sim-0003")] {
            assert_eq!(volume_for(&claim(DIRECTORIES, node), &waiting, &nodes, false), None, "{node:?}");
        }
    }

    #[test]
    fn other_provisioners_are_stood_in_for_only_where_there_are_none() {
        let nodes = NodeOptions::new(3);
        let (waiting, at_once) =
            (class("ebs.example.org", "WaitForFirstConsumer"), class("ebs.example.org", "Immediate"));
        let of = |node, class, alone| volume_for(&claim("ebs.example.org", node), class, &nodes, alone);
        assert_eq!(of(Some("sim-0001"), &waiting, false), None);
        assert_eq!(place(&of(Some("sim-0001"), &waiting, true).unwrap())["values"], json!(["simulated-2"]));
        assert_eq!(of(None, &waiting, true), None);
        assert_eq!(of(None, &at_once, true).unwrap()["spec"]["nodeAffinity"], Value::Null);
        let mut bound = claim("ebs.example.org", None);
        bound.spec.as_mut().unwrap().volume_name = Some("pvc-u1".to_owned());
        assert_eq!(volume_for(&bound, &at_once, &nodes, true), None);
    }

    #[test]
    fn a_volume_goes_when_its_claim_has_gone() {
        let nodes = NodeOptions::new(3);
        let volume = |phase: &str, policy: &str, fleet: &str| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "v", "labels": {NodeOptions::fleet_label(): fleet}},
                "spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase}}))
            .unwrap()
        };
        assert!(is_over(&volume("Released", "Delete", "sim"), &nodes));
        for (phase, policy, fleet) in
            [("Bound", "Delete", "sim"), ("Released", "Retain", "sim"), ("Released", "Delete", "other")]
        {
            assert!(!is_over(&volume(phase, policy, fleet), &nodes), "{phase} {policy} {fleet}");
        }
    }
}
