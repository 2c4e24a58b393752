//! Binds PersistentVolumeClaims to PersistentVolumes.
//!
//! A claim that waits takes the volume that a provisioner made for it, or the smallest available one that fits. Both
//! sides then name each other and are `Bound`. A volume whose claim is gone is `Released`; what happens to it then is
//! its provisioner's business. Volumes are not resized, and a claim of a class that waits for its first consumer is
//! bound as soon as its volume is there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::api::{Patch, PatchParams};
use reconcile::{Index, Informer, Key, Queue, feed, run_controller};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, run_with_feeds};

/// Claims handled at once: each is a few writes, and they are rare.
const WORKERS: usize = 4;
/// Annotation of a claim that has found its volume.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Annotation of what this controller bound itself.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// What must be written next; each is one request, and the change it makes leads to the next decision.
#[derive(Debug, PartialEq)]
enum Action {
    /// The volume names its claim.
    ClaimVolume { volume: String },
    /// The claim names its volume.
    NameVolume { volume: String },
    /// The claim's status shows its volume.
    ClaimStatus(Value),
    /// The volume's status shows its phase.
    VolumePhase { volume: String, phase: &'static str },
}

#[derive(Clone)]
struct Binder {
    context: Context,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    by_claim: Index<PersistentVolume>,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    let by_claim = volumes
        .index("claim", |volume: &PersistentVolume| claim_of(volume).map(|key| key.to_string()).into_iter().collect());
    let queue: Queue<Key> = Queue::new();
    let from_claims = feed(&claims, &queue, |change| [Key::of(&**change.object())]);
    let from_volumes = feed(&volumes, &queue, |change| match claim_of(change.object()) {
        Some(key) => vec![key],
        // A volume without a claim may fit any claim that waits.
        None => claims.list().iter().filter(|c| volume_name(c).is_none()).map(|c| Key::of(&**c)).collect(),
    });
    let binder = Binder { context, claims: claims.clone(), volumes: volumes.clone(), by_claim };
    let ready = binder.clone();
    let run = async {
        if ready.claims.synced().await && ready.volumes.synced().await {
            run_controller("persistentvolume-binder", queue.clone(), WORKERS, stop, |key| {
                let binder = binder.clone();
                async move { binder.reconcile(&key).await }
            })
            .await;
        }
    };
    run_with_feeds(run, futures::future::join(from_claims, from_volumes)).await;
}

fn claim_of(volume: &PersistentVolume) -> Option<Key> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::new(claim.namespace.clone()?, claim.name.clone()?))
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

fn belongs(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    reference.is_some_and(|r| r.uid.is_none() || r.uid == claim.metadata.uid)
}

/// What the claim and the volumes that name it, or that it could take, need next.
fn decide(
    claim: Option<&PersistentVolumeClaim>,
    named: &[Arc<PersistentVolume>],
    available: &[Arc<PersistentVolume>],
) -> Vec<Action> {
    let name_of = |volume: &PersistentVolume| volume.metadata.name.clone().unwrap_or_default();
    let phase_of = |volume: &PersistentVolume| volume.status.as_ref().and_then(|s| s.phase.clone());
    let mut actions = Vec::new();
    for volume in named {
        let ours = claim.is_some_and(|claim| belongs(volume, claim));
        let phase = if ours { "Bound" } else { "Released" };
        let was_bound = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).is_some_and(|r| r.uid.is_some());
        if (ours || was_bound) && phase_of(volume).as_deref() != Some(phase) {
            actions.push(Action::VolumePhase { volume: name_of(volume), phase });
        }
    }
    let Some(claim) = claim.filter(|c| c.metadata.deletion_timestamp.is_none()) else { return actions };
    let mine = named.iter().find(|volume| belongs(volume, claim));
    match (volume_name(claim), mine) {
        (Some(name), Some(volume)) if name_of(volume) == name => {
            let unnamed = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).is_some_and(|r| r.uid.is_none());
            if unnamed {
                actions.push(Action::ClaimVolume { volume: name_of(volume) });
            }
            let status = bound_status(volume);
            if serde_json::to_value(&claim.status).is_ok_and(|now| !contains(&now, &status)) {
                actions.push(Action::ClaimStatus(status));
            }
        }
        (None, Some(volume)) => actions.push(Action::NameVolume { volume: name_of(volume) }),
        (Some(name), None) => {
            let free = available.iter().find(|volume| name_of(volume) == name);
            actions.extend(free.map(|volume| Action::ClaimVolume { volume: name_of(volume) }));
        }
        (None, None) => {
            let fitting = available.iter().filter(|volume| fits(volume, claim)).min_by_key(|volume| capacity(volume));
            actions.extend(fitting.map(|volume| Action::ClaimVolume { volume: name_of(volume) }));
        }
        // The claim names a volume that another claim holds: nothing can be done until one of them changes.
        (Some(_), Some(_)) => {}
    }
    actions
}

fn bound_status(volume: &PersistentVolume) -> Value {
    let spec = volume.spec.as_ref();
    json!({
        "phase": "Bound",
        "accessModes": spec.and_then(|s| s.access_modes.clone()).unwrap_or_default(),
        "capacity": spec.and_then(|s| s.capacity.clone()).unwrap_or_default(),
    })
}

/// Whether every member of `part` is in `whole` as it is.
fn contains(whole: &Value, part: &Value) -> bool {
    part.as_object().is_some_and(|part| part.iter().all(|(key, value)| whole.get(key) == Some(value)))
}

fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(offer), Some(wish)) = (&volume.spec, &claim.spec) else { return false };
    let class = |class: &Option<String>| class.clone().unwrap_or_default();
    let modes = wish.access_modes.iter().flatten();
    let offered = offer.access_modes.clone().unwrap_or_default();
    let requested = wish.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(storage).unwrap_or_default();
    class(&offer.storage_class_name) == class(&wish.storage_class_name)
        && modes.into_iter().all(|mode| offered.contains(mode))
        && capacity(volume) >= requested
        && wish.selector.as_ref().is_none_or(|selector| {
            let labels = volume.metadata.labels.clone().unwrap_or_default();
            selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
                && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
        })
}

fn capacity(volume: &PersistentVolume) -> u128 {
    volume.spec.as_ref().and_then(|s| s.capacity.as_ref()).and_then(storage).unwrap_or_default()
}

fn storage(quantities: &BTreeMap<String, Quantity>) -> Option<u128> {
    bytes(&quantities.get("storage")?.0)
}

/// Bytes of a quantity of storage (`100Mi`, `5G`, `1024`).
fn bytes(quantity: &str) -> Option<u128> {
    const SUFFIXES: [(&str, u128); 12] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
    ];
    let scaled = SUFFIXES.iter().find_map(|(suffix, factor)| Some((quantity.strip_suffix(suffix)?, *factor)));
    let (digits, factor) = scaled.unwrap_or((quantity, 1));
    digits.parse::<u128>().ok()?.checked_mul(factor)
}

impl Binder {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let claim = self.claims.get(&key.namespace, &key.name);
        let named = self.by_claim.get(&key.to_string());
        let waits = claim.as_ref().is_some_and(|claim| !named.iter().any(|volume| belongs(volume, claim)));
        let available = if waits { self.available() } else { Vec::new() };
        for action in decide(claim.as_deref(), &named, &available) {
            self.write(key, claim.as_deref(), action).await?;
        }
        Ok(None)
    }

    fn available(&self) -> Vec<Arc<PersistentVolume>> {
        let free =
            |volume: &Arc<PersistentVolume>| volume.metadata.deletion_timestamp.is_none() && claim_of(volume).is_none();
        self.volumes.list().into_iter().filter(free).collect()
    }

    async fn write(
        &self,
        key: &Key,
        claim: Option<&PersistentVolumeClaim>,
        action: Action,
    ) -> Result<(), ReconcileError> {
        let volumes = self.context.api_all::<PersistentVolume>();
        let claims = self.context.api::<PersistentVolumeClaim>(&key.namespace);
        let parameters = PatchParams::default();
        match action {
            Action::ClaimVolume { volume } => {
                let version = self.volumes.get("", &volume).and_then(|v| v.metadata.resource_version.clone());
                // With the version, of two claims that want the volume one wins and the other decides anew.
                let metadata = json!({"resourceVersion": version, "annotations": {BOUND_BY_CONTROLLER: "yes"}});
                let patch = json!({"metadata": metadata, "spec": {"claimRef": reference(key, claim)}});
                gone_is_done(volumes.patch(&volume, &parameters, &Patch::Merge(patch)).await)
                    .map_err(failed("claim", &volume))
            }
            Action::NameVolume { volume } => {
                let annotations = json!({BIND_COMPLETED: "yes", BOUND_BY_CONTROLLER: "yes"});
                let patch = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": volume}});
                gone_is_done(claims.patch(&key.name, &parameters, &Patch::Merge(patch)).await)
                    .map_err(failed("bind", key))
            }
            Action::ClaimStatus(status) => {
                let patch = Patch::Merge(json!({"status": status}));
                gone_is_done(claims.patch_status(&key.name, &parameters, &patch).await)
                    .map_err(failed("update the status of", key))
            }
            Action::VolumePhase { volume, phase } => {
                let patch = Patch::Merge(json!({"status": {"phase": phase}}));
                gone_is_done(volumes.patch_status(&volume, &parameters, &patch).await)
                    .map_err(failed("update the status of", &volume))
            }
        }
    }
}

fn reference(key: &Key, claim: Option<&PersistentVolumeClaim>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: Some(key.namespace.clone()),
        name: Some(key.name.clone()),
        uid: claim.and_then(|claim| claim.metadata.uid.clone()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(spec: Value, status: Value) -> PersistentVolumeClaim {
        serde_json::from_value(
            json!({"metadata": {"name": "data", "namespace": "ns", "uid": "u1"}, "spec": spec, "status": status}),
        )
        .unwrap()
    }

    fn volume(name: &str, claim_ref: Value, size: &str) -> Arc<PersistentVolume> {
        let spec = json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "claimRef": claim_ref});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap())
    }

    fn wish() -> Value {
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}})
    }

    #[test]
    fn a_waiting_claim_takes_the_smallest_volume_that_fits() {
        let offers = [
            volume("large", Value::Null, "9Gi"),
            volume("small", Value::Null, "2Gi"),
            volume("tiny", Value::Null, "1Mi"),
        ];
        let actions = decide(Some(&claim(wish(), json!({}))), &[], &offers);
        assert_eq!(actions, [Action::ClaimVolume { volume: "small".to_owned() }]);
    }

    #[test]
    fn a_provisioned_volume_is_named_by_its_claim_and_both_become_bound() {
        let made = [volume("pv", json!({"namespace": "ns", "name": "data", "uid": "u1"}), "1Gi")];
        let phase = Action::VolumePhase { volume: "pv".to_owned(), phase: "Bound" };
        let actions = decide(Some(&claim(wish(), json!({}))), &made, &[]);
        assert_eq!(actions, [phase, Action::NameVolume { volume: "pv".to_owned() }]);
        let mut named = wish();
        named["volumeName"] = json!("pv");
        let actions = decide(Some(&claim(named.clone(), json!({"phase": "Pending"}))), &made, &[]);
        assert!(matches!(&actions[1], Action::ClaimStatus(status) if status["phase"] == "Bound"), "{actions:?}");
        let done = json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
        assert_eq!(decide(Some(&claim(named, done)), &made, &[]).len(), 1, "only the volume's phase is left");
    }

    #[test]
    fn a_volume_of_a_claim_that_is_gone_or_was_made_anew_is_released() {
        let held = [volume("pv", json!({"namespace": "ns", "name": "data", "uid": "old"}), "1Gi")];
        let released = Action::VolumePhase { volume: "pv".to_owned(), phase: "Released" };
        assert_eq!(decide(None, &held, &[]), [released]);
        assert!(
            decide(Some(&claim(wish(), json!({}))), &held, &[])
                .contains(&Action::VolumePhase { volume: "pv".to_owned(), phase: "Released" })
        );
    }

    #[test]
    fn sizes_are_compared_in_bytes() {
        assert_eq!(bytes("1Ki"), Some(1024));
        assert_eq!(bytes("1k"), Some(1000));
        assert_eq!(bytes("7"), Some(7));
        assert_eq!(bytes("x"), None);
    }
}
