//! Directories of this node for PersistentVolumeClaims: the provisioner `keelson.dev/directory`.
//!
//! A claim of a StorageClass with this provisioner gets a folder below the node's root, and a PersistentVolume of type
//! `local` that is bound to this node. The size is not enforced. When the claim is deleted and the volume's reclaim
//! policy is `Delete`, the folder goes, then the volume.

use std::{collections::BTreeMap, fs, io, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams},
};
use reconcile::{Change, EventType, Informer, Informers, Key, Queue, Recorder, feed, run_controller};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Name of the provisioner in StorageClasses.
pub const PROVISIONER: &str = "keelson.dev/directory";
/// Annotation that tells whose a volume is.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Claims and volumes handled at once; each makes or removes a folder.
const WORKERS: usize = 2;

/// A folder or a volume could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The folder.
    #[error("cannot {action} {}: {source}", path.display())]
    Folder {
        /// What was being done.
        action: &'static str,
        /// To which folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The API refused or did not answer.
    #[error("cannot {action} persistentvolume {name}: {source}")]
    Api {
        /// What was being done.
        action: &'static str,
        /// To which volume.
        name: String,
        /// Why it failed.
        source: Box<kube::Error>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Claim(Key),
    Volume(String),
}

#[derive(Clone)]
struct Provisioner {
    client: Client,
    recorder: Recorder,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    node: String,
    root: PathBuf,
}

/// Provisions below `root` until `stop`.
pub async fn run(informers: Informers, client: Client, node: String, root: PathBuf, stop: CancellationToken) {
    let (claims, volumes, classes) =
        (informers.of::<PersistentVolumeClaim>(), informers.of::<PersistentVolume>(), informers.of::<StorageClass>());
    let queue: Queue<Work> = Queue::new();
    let from_claims = feed(&claims, &queue, |change| {
        let claim = change.object();
        // A claim that goes releases its volume.
        let volume = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|name| !name.is_empty());
        let gone = matches!(change, Change::Deleted(_));
        if gone { volume.map(Work::Volume) } else { Some(Work::Claim(Key::of(&**claim))) }
    });
    let from_volumes = feed(&volumes, &queue, |change| [Work::Volume(change.object().name_any())]);
    let recorder = Recorder::new(client.clone(), PROVISIONER);
    let (claims, volumes) = (claims.clone(), volumes.clone());
    let provisioner = Provisioner { client, recorder, claims, volumes, classes, node, root };
    let work = async {
        if provisioner.claims.synced().await && provisioner.volumes.synced().await && provisioner.classes.synced().await
        {
            run_controller("directory-provisioner", queue.clone(), WORKERS, stop.clone(), |work| {
                let provisioner = provisioner.clone();
                async move {
                    match work {
                        Work::Claim(key) => provisioner.provision(&key).await,
                        Work::Volume(name) => provisioner.reclaim(&name).await,
                    }
                }
            })
            .await;
        }
    };
    tokio::select! {
        () = work => {}
        ((), ()) = async { tokio::join!(from_claims, from_volumes) } => {}
    }
}

/// Whether the claim waits for a volume of ours.
fn waits_for_us(claim: &PersistentVolumeClaim, class: Option<&StorageClass>) -> bool {
    let Some(spec) = &claim.spec else { return false };
    claim.metadata.deletion_timestamp.is_none()
        && spec.volume_name.as_deref().unwrap_or_default().is_empty()
        && spec.volume_mode.as_deref() != Some("Block")
        && class.is_some_and(|class| class.provisioner == PROVISIONER)
}

/// Whether the volume is ours, its claim is gone, and its folder should go with it.
fn to_reclaim(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> bool {
    let ours = volume.annotations().get(PROVISIONED_BY).is_some_and(|by| by == PROVISIONER);
    let Some(spec) = &volume.spec else { return false };
    let Some(reference) = &spec.claim_ref else { return false };
    let held = claim.is_some_and(|claim| claim.metadata.uid == reference.uid);
    ours && !held && spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete")
}

fn volume_of(name: &str, claim: &PersistentVolumeClaim, class: &StorageClass, path: &str, node: &str) -> Value {
    let spec = claim.spec.clone().unwrap_or_default();
    let size = spec.resources.and_then(|r| r.requests).and_then(|r| r.get("storage").cloned());
    let capacity: BTreeMap<&str, _> = size.into_iter().map(|size| ("storage", size)).collect();
    json!({"apiVersion": "v1", "kind": "PersistentVolume",
    "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
    "spec": {
        "capacity": capacity,
        "accessModes": spec.access_modes,
        "volumeMode": "Filesystem",
        "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
        "storageClassName": class.name_any(),
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
            "name": claim.name_any(), "uid": claim.metadata.uid},
        "local": {"path": path},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}},
    }})
}

impl Provisioner {
    fn folder(&self, volume: &str) -> PathBuf {
        self.root.join(volume)
    }

    async fn provision(&self, key: &Key) -> Result<Option<Duration>, ProvisionError> {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(None) };
        let class_name = claim.spec.as_ref().and_then(|s| s.storage_class_name.clone()).unwrap_or_default();
        let class = self.classes.get("", &class_name);
        let (true, Some(class)) = (waits_for_us(&claim, class.as_deref()), class) else { return Ok(None) };
        let name = format!("pvc-{}", claim.uid().unwrap_or_default());
        if self.volumes.get("", &name).is_some() {
            return Ok(None);
        }
        let folder = self.folder(&name);
        // Any user of a container may write: the pod's fsGroup narrows it when the volume is mounted.
        let make = || {
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))
        };
        make().map_err(|source| ProvisionError::Folder { action: "create", path: folder.clone(), source })?;
        let object = volume_of(&name, &claim, &class, &folder.to_string_lossy(), &self.node);
        self.create(&name, &object, &claim).await?;
        Ok(None)
    }

    async fn create(
        &self,
        name: &str,
        object: &Value,
        claim: &Arc<PersistentVolumeClaim>,
    ) -> Result<(), ProvisionError> {
        let failed = |source: Box<kube::Error>| ProvisionError::Api { action: "create", name: name.to_owned(), source };
        let volume: PersistentVolume =
            serde_json::from_value(object.clone()).map_err(|error| failed(Box::new(kube::Error::SerdeError(error))))?;
        match Api::<PersistentVolume>::all(self.client.clone()).create(&PostParams::default(), &volume).await {
            Ok(_) => {
                let text = format!("Successfully provisioned volume {name}");
                self.recorder.about(&**claim, EventType::Normal, "ProvisioningSucceeded", &text);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => {
                let text = format!("failed to provision volume: {error}");
                self.recorder.about(&**claim, EventType::Warning, "ProvisioningFailed", &text);
                Err(failed(Box::new(error)))
            }
        }
    }

    async fn reclaim(&self, name: &str) -> Result<Option<Duration>, ProvisionError> {
        let Some(volume) = self.volumes.get("", name) else { return Ok(None) };
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.clone()).unwrap_or_default();
        let claim = self.claims.get(&reference.namespace.unwrap_or_default(), &reference.name.unwrap_or_default());
        if !to_reclaim(&volume, claim.as_deref()) {
            return Ok(None);
        }
        let folder = self.folder(name);
        match fs::remove_dir_all(&folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(ProvisionError::Folder { action: "remove", path: folder, source });
            }
            _ => {}
        }
        match Api::<PersistentVolume>::all(self.client.clone()).delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(error) => Err(ProvisionError::Api { action: "delete", name: name.to_owned(), source: Box::new(error) }),
            Ok(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let metadata = json!({"name": "data", "namespace": "ns", "uid": "u1"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn class(provisioner: &str) -> StorageClass {
        serde_json::from_value(json!({"metadata": {"name": "c"}, "provisioner": provisioner})).unwrap()
    }

    #[test]
    fn only_waiting_claims_of_our_class_are_ours() {
        assert!(waits_for_us(&claim(json!({})), Some(&class(PROVISIONER))));
        assert!(!waits_for_us(&claim(json!({})), Some(&class("other"))));
        assert!(!waits_for_us(&claim(json!({})), None));
        assert!(!waits_for_us(&claim(json!({"volumeName": "pv"})), Some(&class(PROVISIONER))));
    }

    #[test]
    fn a_volume_is_reclaimed_only_when_it_is_ours_and_its_own_claim_is_gone() {
        let object = volume_of("pv", &claim(json!({})), &class(PROVISIONER), "/x", "n");
        let volume: PersistentVolume = serde_json::from_value(object.clone()).unwrap();
        assert!(to_reclaim(&volume, None));
        assert!(!to_reclaim(&volume, Some(&claim(json!({})))));
        let mut retained = object.clone();
        retained["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
        assert!(!to_reclaim(&serde_json::from_value(retained).unwrap(), None));
        let mut foreign = object;
        foreign["metadata"]["annotations"] = json!({PROVISIONED_BY: "other"});
        assert!(!to_reclaim(&serde_json::from_value(foreign).unwrap(), None));
    }
}
