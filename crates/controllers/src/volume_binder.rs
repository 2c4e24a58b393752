//! Binds PersistentVolumeClaims to PersistentVolumes, and says what becomes of volumes whose claim is gone.
//!
//! A claim takes the volume that was made or set aside for it, else the smallest available one that fits; where its class
//! waits for the first consumer, the scheduler chooses, by naming the claim in the volume or a node in the claim. Volumes
//! are made and removed by provisioners, of whom this controller only tells the claim: [`steps`] holds what is decided,
//! [`binding`] in which order a binding is written down.
//!
//! Nothing is recycled, and nothing that was built into Kubernetes once makes or removes volumes: such volumes are `Failed`,
//! as they are upstream where the plug-in is missing.

mod binding;
mod facts;
mod matching;
mod steps;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use reconcile::{Change as Seen, EventType, Index, Informer, Key, Queue, Recorder, feed, run_controller};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, run_with_feeds, synced};
use crate::pods;
use binding::Change;
pub(crate) use facts::claims_of;
use facts::{
    BIND_COMPLETED, PROVISIONERS, asked_class, claim_class, claim_of, has, is_default, volume_class, volume_name,
};
use steps::{ClaimStep, Reclaim, Surroundings, Telling, VolumeStep};

/// Claims and volumes handled at once: each is a few writes.
const WORKERS: usize = 4;
/// A binding is as many writes; more mean that somebody works against us.
const BINDING_WRITES_MAX: usize = 4;
/// What claims without any class are indexed by; the others by `=` and their class.
const NO_CLASS: &str = "";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Claim(Key),
    Volume(String),
}

#[derive(Clone)]
struct Binder {
    context: Context,
    recorder: Recorder,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    /// Volumes by the claim they name.
    by_claim: Index<PersistentVolume>,
    /// Volumes without claim by their class.
    free: Index<PersistentVolume>,
    /// Claims by the volume they name.
    by_volume: Index<PersistentVolumeClaim>,
    /// Claims without volume by their class.
    waiting: Index<PersistentVolumeClaim>,
    /// Pods by the claims they name.
    users: Index<Pod>,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    let classes = context.informers.of::<StorageClass>();
    let all_pods = context.informers.of::<Pod>();
    let informers =
        async { claims.synced().await && volumes.synced().await && classes.synced().await && all_pods.synced().await };
    if !synced(&stop, informers).await {
        return;
    }
    let binder = Binder {
        recorder: Recorder::new(context.client.clone(), "persistentvolume-controller"),
        by_claim: volumes.index("claim", |volume| claim_of(volume).iter().map(Key::to_string).collect()),
        free: volumes.index("class of free", |volume| match claim_of(volume) {
            None => vec![volume_class(volume).to_owned()],
            Some(_) => Vec::new(),
        }),
        by_volume: claims.index("volume", |claim| volume_name(claim).map(str::to_owned).into_iter().collect()),
        waiting: claims.index("class of waiting", |claim| {
            let waits = volume_name(claim).is_none() && !has(claim, BIND_COMPLETED);
            if waits { vec![asked_class(claim).map_or_else(|| NO_CLASS.to_owned(), of_class)] } else { Vec::new() }
        }),
        users: all_pods.index("claim", |pod| claims_of(pod).map(|key| key.to_string()).collect()),
        claims: claims.clone(),
        volumes: volumes.clone(),
        classes: classes.clone(),
        context,
    };
    let queue: Queue<Work> = Queue::new();
    let from_claims = feed(&claims, &queue, |change| binder.concerned_by_claim(change));
    let from_volumes = feed(&volumes, &queue, |change| binder.concerned_by_volume(change));
    let from_classes = feed(&classes, &queue, |change| binder.concerned_by_class(change.object()));
    let from_pods = feed(&all_pods, &queue, |change| match change {
        // It is told on the claim that it now waits for this pod to be scheduled.
        Seen::Applied { old: None, new } if pods::node_name(new).is_none() => claims_of(new).map(Work::Claim).collect(),
        _ => Vec::new(),
    });
    let run = run_controller("persistentvolume-binder", queue.clone(), WORKERS, stop, |work| {
        let binder = binder.clone();
        async move {
            match work {
                Work::Claim(key) => binder.claim(&key).await,
                Work::Volume(name) => binder.volume(&name).await,
            }
        }
    });
    run_with_feeds(run, futures::future::join4(from_claims, from_volumes, from_classes, from_pods)).await;
    binder.recorder.flush().await;
}

fn of_class(class: &str) -> String {
    format!("={class}")
}

/// Which of these a change of another object concerns.
impl Binder {
    fn concerned_by_claim(&self, change: &Seen<PersistentVolumeClaim>) -> Vec<Work> {
        let claim = change.object();
        let key = Key::of(&**claim);
        let volumes = self.by_claim.get(&key.to_string());
        let mut work: Vec<Work> = volumes.iter().map(|volume| Work::Volume(volume.name_any())).collect();
        match change {
            Seen::Applied { .. } => work.push(Work::Claim(key)),
            Seen::Deleted(_) => work.extend(volume_name(claim).map(|name| Work::Volume(name.to_owned()))),
        }
        work
    }

    fn concerned_by_volume(&self, change: &Seen<PersistentVolume>) -> Vec<Work> {
        let volume = change.object();
        let name = volume.name_any();
        let mut work: Vec<Work> =
            self.by_volume.get(&name).iter().map(|claim| Work::Claim(Key::of(&**claim))).collect();
        match claim_of(volume) {
            Some(key) => work.push(Work::Claim(key)),
            None => {
                let class = volume_class(volume);
                work.extend(self.waiting_for(&of_class(class)));
                if class.is_empty() {
                    work.extend(self.waiting_for(NO_CLASS));
                }
            }
        }
        work.push(Work::Volume(name));
        work
    }

    fn concerned_by_class(&self, class: &StorageClass) -> Vec<Work> {
        let mut work: Vec<Work> = self.waiting_for(&of_class(&class.name_any())).collect();
        if is_default(class) {
            work.extend(self.waiting_for(NO_CLASS));
        }
        work
    }

    fn waiting_for(&self, class: &str) -> impl Iterator<Item = Work> + use<> {
        self.waiting.get(class).into_iter().map(|claim| Work::Claim(Key::of(&*claim)))
    }
}

/// The work.
impl Binder {
    async fn claim(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(None) };
        match self.look_around(&claim) {
            ClaimStep::Bind(volume) => self.bind(&volume, &claim).await?,
            ClaimStep::Wait(telling) => {
                self.tell(&*claim, telling);
                self.set_claim_status(&claim, "Pending").await?;
            }
            ClaimStep::TakeClass(class) => {
                self.write_claim(&claim, json!({"spec": {"storageClassName": class}})).await?;
            }
            ClaimStep::Provision { by, announce } => {
                if announce {
                    let annotations: Value = PROVISIONERS.iter().map(|name| ((*name).to_owned(), json!(by))).collect();
                    self.write_claim(&claim, json!({"metadata": {"annotations": annotations}})).await?;
                }
                self.tell(&*claim, Some(steps::awaiting(&by)));
            }
            ClaimStep::Lose(telling) => self.lose(&claim, telling).await?,
            ClaimStep::Broken(telling) => self.tell(&*claim, Some(telling)),
            ClaimStep::Rest => {}
        }
        Ok(None)
    }

    fn look_around(&self, claim: &PersistentVolumeClaim) -> ClaimStep {
        let key = Key::of(claim).to_string();
        let class = claim_class(claim);
        let named = volume_name(claim);
        let mut offers = Vec::new();
        let mut unscheduled = Vec::new();
        if named.is_none() && !has(claim, BIND_COMPLETED) {
            offers = self.by_claim.get(&key);
            offers.extend(self.free.get(class));
            let waits = |pod: &Arc<Pod>| pods::node_name(pod).is_none() && pods::is_active(pod);
            unscheduled = self.users.get(&key).iter().filter(|pod| waits(pod)).map(|pod| pod.name_any()).collect();
            unscheduled.sort_unstable();
        }
        let around = Surroundings {
            named: named.and_then(|name| self.volumes.get("", name)),
            offers: &offers,
            class: self.classes.get("", class).filter(|_| !class.is_empty()),
            default_class: asked_class(claim).is_none().then(|| self.default_class()).flatten(),
            unscheduled: &unscheduled,
        };
        steps::of_claim(claim, around)
    }

    /// Of several default classes the newest, as upstream.
    fn default_class(&self) -> Option<String> {
        let classes = self.classes.list().into_iter().filter(|class| is_default(class));
        let newest = classes.max_by(|one, other| {
            let created = |class: &StorageClass| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
            created(one).cmp(&created(other)).then_with(|| other.name_any().cmp(&one.name_any()))
        });
        newest.map(|class| class.name_any())
    }

    async fn bind(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), ReconcileError> {
        let (mut volume, mut claim) = (volume.clone(), claim.clone());
        for _ in 0..BINDING_WRITES_MAX {
            match binding::bind(&volume, &claim) {
                None => break,
                Some(Change::Volume(patch)) => volume = self.write_volume(&volume, patch).await?,
                Some(Change::VolumeStatus(status)) => volume = self.write_volume_status(&volume, status).await?,
                Some(Change::Claim(patch)) => claim = self.write_claim(&claim, patch).await?,
                Some(Change::ClaimStatus(status)) => claim = self.write_claim_status(&claim, status).await?,
            }
        }
        Ok(())
    }

    async fn lose(&self, claim: &PersistentVolumeClaim, telling: Telling) -> Result<(), ReconcileError> {
        if facts::claim_phase(claim) == "Lost" {
            return Ok(());
        }
        if let Some(name) = volume_name(claim).filter(|name| self.volumes.get("", name).is_none()) {
            // The cache may be younger than the volume; what is said here frightens people.
            let found = self.context.api_all::<PersistentVolume>().get_opt(name).await;
            if found.map_err(failed("look for", name))?.is_some() {
                return Ok(());
            }
        }
        self.set_claim_status(claim, "Lost").await?;
        self.tell(claim, Some(telling));
        Ok(())
    }

    async fn volume(&self, name: &str) -> Result<Option<Duration>, ReconcileError> {
        let Some(volume) = self.volumes.get("", name) else { return Ok(None) };
        let key = claim_of(&volume);
        let claim = key.as_ref().and_then(|key| self.claims.get(&key.namespace, &key.name));
        match steps::of_volume(&volume, claim.as_deref()) {
            VolumeStep::Phase(phase) => {
                self.set_phase(&volume, phase, "").await?;
            }
            VolumeStep::Rest => {}
            VolumeStep::Mismatch(of_volume, of_claim) => {
                self.tell(&*volume, Some(of_volume));
                if let Some(claim) = claim {
                    self.tell(&*claim, Some(of_claim));
                }
            }
            VolumeStep::Release(reclaim) => self.release(&volume, key.as_ref(), reclaim).await?,
            VolumeStep::Unbind => {
                if let Change::Volume(patch) = binding::unbind(&volume) {
                    let free = self.write_volume(&volume, patch).await?;
                    self.set_phase(&free, "Available", "").await?;
                }
            }
        }
        Ok(None)
    }

    async fn release(
        &self,
        volume: &PersistentVolume,
        key: Option<&Key>,
        reclaim: Reclaim,
    ) -> Result<(), ReconcileError> {
        let mut released = volume.clone();
        if !matches!(facts::volume_phase(volume), "Released" | "Failed") {
            if let Some(key) = key {
                // The claim may be younger than the cache: its data would be given up.
                let claims = self.context.api::<PersistentVolumeClaim>(&key.namespace);
                let found = claims.get_opt(&key.name).await.map_err(failed("look for", key))?;
                let bound = found.as_ref().and_then(volume_name) == Some(&volume.name_any());
                let undecided = found.as_ref().is_some_and(|claim| volume_name(claim).is_none());
                let same = found.is_some_and(|found| found.metadata.uid.as_deref() == facts::claim_uid(volume));
                if same && (bound || undecided) {
                    return Ok(());
                }
            }
            released = self.set_phase(volume, "Released", "").await?;
        }
        let Reclaim::Fail(telling) = reclaim else { return Ok(()) };
        if facts::volume_phase(&released) != "Failed" {
            self.set_phase(&released, "Failed", &telling.message).await?;
            self.tell(volume, Some(telling));
        }
        Ok(())
    }
}

/// The writes. Each names the version it rests on: of two that want the same object one decides anew.
impl Binder {
    fn tell<K: kube::Resource<DynamicType = ()>>(&self, about: &K, telling: Option<Telling>) {
        if let Some(Telling { is_warning, reason, message }) = telling {
            let kind = if is_warning { EventType::Warning } else { EventType::Normal };
            self.recorder.about(about, kind, reason, message);
        }
    }

    async fn set_claim_status(&self, claim: &PersistentVolumeClaim, phase: &str) -> Result<(), ReconcileError> {
        if let Some(Change::ClaimStatus(status)) = binding::claim_status(claim, phase, None) {
            self.write_claim_status(claim, status).await?;
        }
        Ok(())
    }

    async fn set_phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        message: &str,
    ) -> Result<PersistentVolume, ReconcileError> {
        match binding::phase(volume, phase, message) {
            Some(Change::VolumeStatus(status)) => self.write_volume_status(volume, status).await,
            _ => Ok(volume.clone()),
        }
    }

    async fn write_volume(&self, volume: &PersistentVolume, patch: Value) -> Result<PersistentVolume, ReconcileError> {
        let patch = Patch::Merge(resting_on(volume, patch));
        let volumes = self.context.api_all::<PersistentVolume>();
        let name = volume.name_any();
        volumes.patch(&name, &PatchParams::default(), &patch).await.map_err(failed("update", name))
    }

    async fn write_volume_status(
        &self,
        volume: &PersistentVolume,
        status: Value,
    ) -> Result<PersistentVolume, ReconcileError> {
        let patch = Patch::Merge(resting_on(volume, json!({"status": status})));
        let volumes = self.context.api_all::<PersistentVolume>();
        let name = volume.name_any();
        let written = volumes.patch_status(&name, &PatchParams::default(), &patch).await;
        written.map_err(failed("update the status of", name))
    }

    async fn write_claim(
        &self,
        claim: &PersistentVolumeClaim,
        patch: Value,
    ) -> Result<PersistentVolumeClaim, ReconcileError> {
        let patch = Patch::Merge(resting_on(claim, patch));
        let key = Key::of(claim);
        let claims = self.context.api::<PersistentVolumeClaim>(&key.namespace);
        claims.patch(&key.name, &PatchParams::default(), &patch).await.map_err(failed("update", key))
    }

    async fn write_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        status: Value,
    ) -> Result<PersistentVolumeClaim, ReconcileError> {
        let patch = Patch::Merge(resting_on(claim, json!({"status": status})));
        let key = Key::of(claim);
        let claims = self.context.api::<PersistentVolumeClaim>(&key.namespace);
        let written = claims.patch_status(&key.name, &PatchParams::default(), &patch).await;
        written.map_err(failed("update the status of", key))
    }
}

fn resting_on(object: &impl ResourceExt, mut patch: Value) -> Value {
    patch["metadata"]["uid"] = json!(object.uid());
    patch["metadata"]["resourceVersion"] = json!(object.resource_version());
    patch
}
