//! Lets deleted PersistentVolumeClaims and PersistentVolumes go once nothing uses them any more.
//!
//! Admission holds every claim and every volume by a finalizer, and this controller those that it has missed. A claim is used while a pod that names it is on a node,
//! finished or not; a volume is used while it is bound.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::{
    ResourceExt,
    api::{Api, ListParams, Patch, PatchParams},
};
use reconcile::{Change, Index, Informer, Key, Queue, feed, run_controller};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, run_with_feeds, synced};
use crate::pods;
use crate::volume_binder::claims_of;

/// Finalizer of claims.
const CLAIM: &str = "kubernetes.io/pvc-protection";
/// Finalizer of volumes.
const VOLUME: &str = "kubernetes.io/pv-protection";
/// Objects handled at once: each is a list and a write, and they are rare.
const WORKERS: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Claim(Key),
    Volume(String),
}

#[derive(Clone)]
struct Protection {
    context: Context,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    users: Index<Pod>,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    let all_pods = context.informers.of::<Pod>();
    let informers = async { claims.synced().await && volumes.synced().await && all_pods.synced().await };
    if !synced(&stop, informers).await {
        return;
    }
    let users = all_pods.index("claim", |pod| used_claims(pod).map(|key| key.to_string()).collect());
    let queue: Queue<Work> = Queue::new();
    let from_claims = feed(&claims, &queue, |change| {
        let claim = change.object();
        is_due(&**claim, CLAIM).then(|| Work::Claim(Key::of(&**claim)))
    });
    let from_volumes = feed(&volumes, &queue, |change| {
        let volume = change.object();
        is_due(&**volume, VOLUME).then(|| Work::Volume(volume.name_any()))
    });
    // A claim becomes free only by a pod that goes, or that its node is done with.
    let from_pods = feed(&all_pods, &queue, |change| match change {
        Change::Applied { new, .. } if !is_done(new) => Vec::new(),
        Change::Applied { new: pod, .. } | Change::Deleted(pod) => claims_of(pod).map(Work::Claim).collect(),
    });
    let protection = Protection { context, claims: claims.clone(), volumes: volumes.clone(), users };
    let run = run_controller("volume-protection", queue.clone(), WORKERS, stop, |work| {
        let protection = protection.clone();
        async move {
            match work {
                Work::Claim(key) => protection.tend_claim(&key).await,
                Work::Volume(name) => protection.tend_volume(&name).await,
            }
        }
    });
    run_with_feeds(run, futures::future::join3(from_claims, from_volumes, from_pods)).await;
}

/// Whether the object waits for `finalizer` to be taken off, or has yet to be held by it.
fn is_due(object: &impl ResourceExt, finalizer: &str) -> bool {
    let has = object.finalizers().iter().any(|held| held == finalizer);
    has == object.meta().deletion_timestamp.is_some()
}

/// Whether the object is being deleted and waits for `finalizer`.
fn is_held(object: &impl ResourceExt, finalizer: &str) -> bool {
    object.meta().deletion_timestamp.is_some() && object.finalizers().iter().any(|held| held == finalizer)
}

/// Whether its node is done with a pod that others still hold, or somebody did not wait for the node.
fn is_done(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// The claims a pod that is on a node uses, those of its ephemeral volumes among them. Of a pod that its node is done with
/// only the former: the claims it owns go with it, and may be what its own end waits for.
fn used_claims(pod: &Pod) -> impl Iterator<Item = Key> {
    let on_node = pods::node_name(pod).is_some();
    let done = is_done(pod);
    let named = |source: &Volume| source.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone());
    let kept: Vec<String> = if done {
        pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter_map(named).collect()
    } else {
        Vec::new()
    };
    claims_of(pod).filter(move |key| on_node && (!done || kept.contains(&key.name)))
}

/// Volumes are another account's business than claims, as upstream.
const VOLUMES_ACCOUNT: &str = "pv-protection-controller";

fn is_bound(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// The patch that takes `finalizer` off the object as it was read.
fn without(object: &impl ResourceExt, finalizer: &str) -> Patch<serde_json::Value> {
    with_finalizers(object, object.finalizers().iter().map(String::as_str).filter(|held| *held != finalizer).collect())
}

/// The patch that holds the object as it was read by `finalizer`.
fn with(object: &impl ResourceExt, finalizer: &str) -> Patch<serde_json::Value> {
    with_finalizers(object, object.finalizers().iter().map(String::as_str).chain([finalizer]).collect())
}

fn with_finalizers(object: &impl ResourceExt, finalizers: Vec<&str>) -> Patch<serde_json::Value> {
    Patch::Merge(json!({"metadata": {
        "uid": object.uid(), "resourceVersion": object.resource_version(), "finalizers": finalizers}}))
}

impl Protection {
    async fn tend_claim(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(None) };
        let claims = self.context.api::<PersistentVolumeClaim>(&key.namespace);
        if claim.metadata.deletion_timestamp.is_none() && is_due(&*claim, CLAIM) {
            let held = claims.patch(&key.name, &PatchParams::default(), &with(&*claim, CLAIM)).await;
            gone_is_done(held).map_err(failed("hold", key))?;
            return Ok(None);
        }
        if !is_held(&*claim, CLAIM) || self.users.count(&key.to_string()) > 0 {
            return Ok(None);
        }
        // The cache may not know yet a pod that has just come to a node; what would be lost is its data.
        let pods = self.context.api::<Pod>(&key.namespace).list(&ListParams::default()).await;
        let pods = pods.map_err(failed("list the pods that may use", key))?;
        if pods.items.iter().any(|pod| used_claims(pod).any(|used| used == *key)) {
            return Ok(None);
        }
        let freed = claims.patch(&key.name, &PatchParams::default(), &without(&*claim, CLAIM)).await;
        gone_is_done(freed).map_err(failed("free", key))?;
        Ok(None)
    }

    async fn tend_volume(&self, name: &str) -> Result<Option<Duration>, ReconcileError> {
        let Some(volume) = self.volumes.get("", name) else { return Ok(None) };
        let volumes: Api<PersistentVolume> = Api::all(self.context.client_of(VOLUMES_ACCOUNT));
        if volume.metadata.deletion_timestamp.is_none() && is_due(&*volume, VOLUME) {
            let held = volumes.patch(name, &PatchParams::default(), &with(&*volume, VOLUME)).await;
            gone_is_done(held).map_err(failed("hold", name))?;
            return Ok(None);
        }
        if !is_held(&*volume, VOLUME) || is_bound(&volume) {
            return Ok(None);
        }
        let freed = volumes.patch(name, &PatchParams::default(), &without(&*volume, VOLUME)).await;
        gone_is_done(freed).map_err(failed("free", name))?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_on_a_node_use_the_claims_they_name() {
        let pod = |node: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
            "nodeName": node, "containers": [], "volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "b", "ephemeral": {}},
                {"name": "c", "emptyDir": {}},
            ]}}))
            .unwrap()
        };
        let used: Vec<String> = used_claims(&pod("node")).map(|key| key.to_string()).collect();
        assert_eq!(used, ["n/data", "n/p-b"]);
        assert_eq!(used_claims(&pod("")).count(), 0, "not scheduled: its node will see that the claim is gone");
        let mut done = pod("node");
        done.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(used_claims(&done).count(), 2, "it has its grace");
        done.metadata.deletion_grace_period_seconds = Some(0);
        assert_eq!(used_claims(&done).map(|key| key.name).collect::<Vec<_>>(), ["data"], "its own claim goes with it");
    }

    #[test]
    fn only_what_is_being_deleted_waits_for_its_finalizer() {
        let claim = |metadata: serde_json::Value| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        assert!(!is_held(&claim(json!({"finalizers": [CLAIM]})), CLAIM));
        assert!(!is_due(&claim(json!({"finalizers": [CLAIM]})), CLAIM));
        assert!(is_due(&claim(json!({"finalizers": ["other"]})), CLAIM), "it is not held yet");
        assert!(!is_held(&claim(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})), CLAIM));
        let held = claim(json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b", CLAIM]}));
        assert!(is_held(&held, CLAIM));
        let Patch::Merge(patch) = without(&held, CLAIM) else { panic!("not a merge patch") };
        assert_eq!(patch["metadata"]["finalizers"], json!(["a/b"]));
    }
}
