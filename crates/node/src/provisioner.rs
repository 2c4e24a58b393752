//! Directories of this node for PersistentVolumeClaims: the provisioner `keelson.dev/directory`.
//!
//! It is to the binder what upstream calls an external provisioner: a claim whose annotations ask for it, and whose selected
//! node is this one, gets a directory below the node's root and a PersistentVolume of type `local` that is bound to this node.
//! Sizes are not enforced, so a volume grows by saying so. Claims of a class that does not wait for a consumer are taken on
//! by the node that is first to write its name into them. Where the chosen node is gone, the scheduler chooses again.
//!
//! When a volume is released and its reclaim policy is `Delete`, first its directory goes, then the volume, which a finalizer
//! holds until then. Every step is idempotent and begins with what is there, so that a crash at any point leaves neither a
//! directory without volume nor a volume without directory: a directory whose volume was never made is empty, and only empty
//! directories are removed without being asked to. One whose volume is unknown to the API otherwise stays: perhaps it is the
//! API that has forgotten, as after a restored backup.

mod decisions;
mod directories;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, io, path::PathBuf, time::Duration};

use k8s_openapi::{
    api::{
        core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use reconcile::{Change, EventType, Index, Informer, Informers, Key, Queue, Recorder, feed, run_controller};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use decisions::{ClaimStep, FINALIZER, PROVISIONED_BY, SELECTED_NODE, VolumeStep};
use directories::Directories;

/// Name of the provisioner in StorageClasses.
pub const PROVISIONER: &str = "keelson.dev/directory";
/// Claims and volumes handled at once; each makes or removes a directory.
const WORKERS: usize = 2;

/// A directory or an object could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
enum ProvisionError {
    #[error("cannot {action} the directory {}: {source}", path.display())]
    Directory { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {action} {object}: {source}")]
    Api { action: &'static str, object: String, source: Box<kube::Error> },
}

fn failed(action: &'static str, object: impl ToString) -> impl FnOnce(kube::Error) -> ProvisionError {
    move |source| ProvisionError::Api { action, object: object.to_string(), source: Box::new(source) }
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
    nodes: Informer<Node>,
    /// Claims by the name that a volume made for them has.
    by_volume: Index<PersistentVolumeClaim>,
    /// Claims that wait for a directory by the node that was chosen for them.
    by_node: Index<PersistentVolumeClaim>,
    node: String,
    directories: Directories,
}

/// Provisions below `root` until `stop`.
pub async fn run(informers: Informers, client: Client, node: String, root: PathBuf, stop: CancellationToken) {
    let claims = informers.of::<PersistentVolumeClaim>();
    let provisioner = Provisioner {
        by_volume: claims.index("volume made for it", |claim| vec![volume_name(claim)]),
        by_node: claims.index("chosen node", |claim| {
            let bound = claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some());
            let chosen = claim.annotations().get(SELECTED_NODE).filter(|_| !bound && decisions::is_asked(claim));
            chosen.cloned().into_iter().collect()
        }),
        recorder: Recorder::with_host(client.clone(), PROVISIONER, &node),
        client,
        claims,
        volumes: informers.of(),
        classes: informers.of(),
        nodes: informers.of(),
        node,
        directories: Directories::new(root),
    };
    let synced = async {
        provisioner.claims.synced().await
            && provisioner.volumes.synced().await
            && provisioner.classes.synced().await
            && provisioner.nodes.synced().await
    };
    tokio::select! {
        () = stop.cancelled() => return,
        synced = synced => if !synced { return },
    }
    let queue: Queue<Work> = Queue::new();
    provisioner.survey(&queue).await;
    let from_claims = feed(&provisioner.claims, &queue, |change| match change {
        Change::Applied { new, .. } => decisions::is_asked(new).then(|| Work::Claim(Key::of(&**new))),
        // Its directory may be there and its volume not yet.
        Change::Deleted(claim) => decisions::is_asked(claim).then(|| Work::Volume(volume_name(claim))),
    });
    let from_volumes = feed(&provisioner.volumes, &queue, |change| {
        let volume = change.object();
        volume
            .annotations()
            .get(PROVISIONED_BY)
            .filter(|by| *by == PROVISIONER)
            .map(|_| Work::Volume(volume.name_any()))
    });
    let from_nodes = feed(&provisioner.nodes, &queue, |change| match change {
        Change::Deleted(node) => {
            provisioner.by_node.get(&node.name_any()).iter().map(|c| Work::Claim(Key::of(&**c))).collect()
        }
        Change::Applied { .. } => Vec::new(),
    });
    let work = run_controller("directory-provisioner", queue.clone(), WORKERS, stop.clone(), |work| {
        let provisioner = provisioner.clone();
        async move {
            match work {
                Work::Claim(key) => provisioner.claim(&key).await,
                Work::Volume(name) => provisioner.volume(&name).await,
            }
        }
    });
    tokio::select! {
        () = work => provisioner.recorder.flush().await,
        _ = async { tokio::join!(from_claims, from_volumes, from_nodes) } => {}
    }
}

/// The name is the claim's for ever: whatever is begun twice is the same volume.
fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid().unwrap_or_default())
}

impl Provisioner {
    /// Has a look at every directory that is there.
    async fn survey(&self, queue: &Queue<Work>) {
        let directories = self.directories.clone();
        let found = tokio::task::spawn_blocking(move || directories.survey()).await;
        match found.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(names) => names.into_iter().for_each(|name| queue.add(Work::Volume(name))),
            Err(error) => tracing::warn!(%error, "cannot look for directories that were given up"),
        }
    }

    async fn on_disk(
        &self,
        action: &'static str,
        volume: &str,
        work: impl FnOnce(&Directories, &str) -> io::Result<()> + Send + 'static,
    ) -> Result<(), ProvisionError> {
        let (directories, name) = (self.directories.clone(), volume.to_owned());
        let done = tokio::task::spawn_blocking(move || work(&directories, &name)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|source| {
            let path = self.directories.path(volume);
            ProvisionError::Directory { action, path, source }
        })
    }

    fn all_volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    fn claims_of(&self, namespace: &str) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// Claims.
impl Provisioner {
    async fn claim(&self, key: &Key) -> Result<Option<Duration>, ProvisionError> {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(None) };
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
        let class = self.classes.get("", class);
        let labels: BTreeMap<_, _> =
            self.nodes.get("", &self.node).and_then(|node| node.metadata.labels.clone()).unwrap_or_default();
        let has_node = |name: &str| self.nodes.get("", name).is_some();
        match decisions::of_claim(&claim, class.as_deref(), &self.node, &labels, has_node) {
            ClaimStep::None => self.grow(&claim).await?,
            ClaimStep::TakeOn => self.select(key, &claim, Some(&self.node)).await?,
            ClaimStep::GiveBack => self.select(key, &claim, None).await?,
            ClaimStep::Refuse(why) => self.tell_failure(&claim, &why),
            ClaimStep::Make => {
                if let Some(class) = class
                    && let Err(error) = self.make(&claim, &class).await
                {
                    self.tell_failure(&claim, &error.to_string());
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    fn tell_failure(&self, claim: &PersistentVolumeClaim, why: &str) {
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
        let text = format!("failed to provision volume with StorageClass {class:?}: {why}");
        self.recorder.about(claim, EventType::Warning, "ProvisioningFailed", text);
    }

    /// Writes a node's name into the claim, or takes it out, unless somebody was faster; then the claim comes back so.
    async fn select(&self, key: &Key, claim: &PersistentVolumeClaim, node: Option<&str>) -> Result<(), ProvisionError> {
        let patch = json!({"metadata": {"uid": claim.uid(), "resourceVersion": claim.resource_version(),
            "annotations": {SELECTED_NODE: node}}});
        let claims = self.claims_of(&key.namespace);
        match claims.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if !is_code(&error, 404) => Err(failed("choose the node of claim", key)(error)),
            _ => Ok(()),
        }
    }

    async fn make(&self, claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<(), ProvisionError> {
        let name = volume_name(claim);
        if self.volumes.get("", &name).is_some() {
            return Ok(());
        }
        let key = Key::of(claim);
        let text = format!("External provisioner is provisioning volume for claim \"{key}\"");
        self.recorder.about(claim, EventType::Normal, "Provisioning", text);
        self.on_disk("make", &name, Directories::make).await?;
        let object = decisions::volume_for(&name, claim, class, &self.directories.path(&name), &self.node);
        let volume: PersistentVolume = serde_json::from_value(object)
            .map_err(|error| failed("describe persistentvolume", &name)(kube::Error::SerdeError(error)))?;
        match self.all_volumes().create(&PostParams::default(), &volume).await {
            Err(error) if !is_code(&error, 409) => Err(failed("create persistentvolume", &name)(error)),
            _ => {
                let text = format!("Successfully provisioned volume {name}");
                self.recorder.about(claim, EventType::Normal, "ProvisioningSucceeded", text);
                Ok(())
            }
        }
    }

    /// Gives a bound claim the size it asks for: the volume's first, so that the claim never says more than there is.
    async fn grow(&self, claim: &PersistentVolumeClaim) -> Result<(), ProvisionError> {
        let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        let Some(volume) = self.volumes.get("", name) else { return Ok(()) };
        if !decisions::is_here(&volume, &self.directories.path(name), &self.node) {
            return Ok(());
        }
        let Some((Quantity(size), grown)) = decisions::growth(claim, &volume) else { return Ok(()) };
        let (parameters, capacity) = (PatchParams::default(), json!({"storage": size}));
        if !grown {
            let patch = json!({"metadata": {"uid": volume.uid()}, "spec": {"capacity": capacity}});
            let written = self.all_volumes().patch(name, &parameters, &Patch::Merge(patch)).await;
            written.map_err(failed("enlarge persistentvolume", name))?;
        }
        let key = Key::of(claim);
        let patch = json!({"metadata": {"uid": claim.uid()}, "status": {"capacity": capacity}});
        let written = self.claims_of(&key.namespace).patch_status(&key.name, &parameters, &Patch::Merge(patch)).await;
        written.map_err(failed("tell the new size to claim", &key))?;
        self.recorder.about(claim, EventType::Normal, "VolumeResizeSuccessful", "Resize volume succeeded");
        Ok(())
    }
}

/// Volumes.
impl Provisioner {
    async fn volume(&self, name: &str) -> Result<Option<Duration>, ProvisionError> {
        let path = self.directories.path(name);
        let needs = |volume: &PersistentVolume| decisions::of_volume(volume, &path, &self.node);
        match self.volumes.get("", name) {
            None => self.forget(name).await?,
            Some(volume) if needs(&volume) == VolumeStep::None => {}
            Some(_) => {
                // What is decided here may end with data: the newest version decides, not the cache.
                let volume = self.all_volumes().get_opt(name).await.map_err(failed("read persistentvolume", name))?;
                let Some(volume) = volume else { return Ok(None) };
                match needs(&volume) {
                    VolumeStep::None => {}
                    VolumeStep::Hold => self.set_held(&volume, true).await?,
                    VolumeStep::LetGo => self.set_held(&volume, false).await?,
                    VolumeStep::Remove => self.remove(&volume).await?,
                }
            }
        }
        Ok(None)
    }

    /// A claim is gone, or a directory was found, and there is no volume: what was begun for it is undone if it is unused.
    async fn forget(&self, name: &str) -> Result<(), ProvisionError> {
        let wanted = self.by_volume.count(name) > 0;
        let known = async { self.all_volumes().get_opt(name).await.map_err(failed("read persistentvolume", name)) };
        if wanted || known.await?.is_some() {
            return Ok(());
        }
        self.on_disk("remove", name, Directories::remove_unused).await
    }

    async fn remove(&self, volume: &PersistentVolume) -> Result<(), ProvisionError> {
        let name = volume.name_any();
        if let Err(error) = self.on_disk("remove", &name, Directories::remove).await {
            self.recorder.about(volume, EventType::Warning, "VolumeFailedDelete", error.to_string());
            return Err(error);
        }
        if volume.metadata.deletion_timestamp.is_none() {
            let preconditions = Some(Preconditions { uid: volume.uid(), resource_version: None });
            let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
            match self.all_volumes().delete(&name, &parameters).await {
                Err(error) if !is_code(&error, 404) => return Err(failed("delete persistentvolume", name)(error)),
                _ => {}
            }
            // Its deletion brings it back, to be let go.
            return Ok(());
        }
        self.set_held(volume, false).await
    }

    async fn set_held(&self, volume: &PersistentVolume, held: bool) -> Result<(), ProvisionError> {
        let mut finalizers: Vec<&str> = volume.finalizers().iter().map(String::as_str).collect();
        finalizers.retain(|finalizer| *finalizer != FINALIZER);
        finalizers.extend(held.then_some(FINALIZER));
        let patch: Value = json!({"metadata": {"uid": volume.uid(), "resourceVersion": volume.resource_version(),
            "finalizers": finalizers}});
        let name = volume.name_any();
        match self.all_volumes().patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if !is_code(&error, 404) => Err(failed("update persistentvolume", name)(error)),
            _ => Ok(()),
        }
    }
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}
