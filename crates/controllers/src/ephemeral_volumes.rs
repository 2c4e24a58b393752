//! Makes the claims of pods' ephemeral volumes.
//!
//! Each is called after pod and volume, and the pod owns it, so that the garbage collector removes it with the pod. A claim of
//! that name that is not the pod's is left alone, and the pod waits: its data is somebody else's.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;
use kube::api::PostParams;
use reconcile::{Change, EventType, Informer, Key, Queue, Recorder, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, is_already_exists, run_with_feeds, synced};
use crate::owners;

/// Pods handled at once: each is a few writes.
const WORKERS: usize = 4;

#[derive(Clone)]
struct Ephemeral {
    context: Context,
    recorder: Recorder,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let pods = context.informers.of::<Pod>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let informers = async { pods.synced().await && claims.synced().await };
    if !synced(&stop, informers).await {
        return;
    }
    let queue: Queue<Key> = Queue::new();
    // The claims a pod needs are known when it is created and never change.
    let from_pods = feed(&pods, &queue, |change| match change {
        Change::Applied { old: None, new } if ephemeral(new).next().is_some() => Some(Key::of(&**new)),
        _ => None,
    });
    let from_claims = feed(&claims, &queue, |change| match change {
        Change::Deleted(claim) => owner(claim).map(|pod| Key::new(claim.namespace().unwrap_or_default(), &pod.name)),
        Change::Applied { .. } => None,
    });
    let recorder = Recorder::new(context.client.clone(), "ephemeral_volume");
    let controller = Ephemeral { context, recorder, pods: pods.clone(), claims: claims.clone() };
    let run = run_controller("ephemeral-volume", queue.clone(), WORKERS, stop, |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
    run_with_feeds(run, futures::future::join(from_pods, from_claims)).await;
}

/// Names of a pod's ephemeral volumes and what their claims are like.
fn ephemeral(pod: &Pod) -> impl Iterator<Item = (&Volume, &PersistentVolumeClaimTemplate)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some((volume, volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?)))
}

/// The pod that owns a claim.
fn owner(claim: &PersistentVolumeClaim) -> Option<&OwnerReference> {
    let owner = owners::controller_of(&claim.metadata)?;
    (owner.kind == "Pod" && owner.api_version == "v1").then_some(owner)
}

fn claim_for(pod: &Pod, volume: &Volume, template: &PersistentVolumeClaimTemplate) -> PersistentVolumeClaim {
    let metadata = template.metadata.clone().unwrap_or_default();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", pod.name_any(), volume.name)),
            namespace: pod.namespace(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            owner_references: Some(vec![owners::controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    }
}

/// Says why a claim that has the name is not the pod's.
fn conflict(pod: &Pod, claim: &PersistentVolumeClaim) -> Option<String> {
    let ours = owner(claim).is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref());
    let (claim, pod) = (Key::of(claim), Key::of(pod));
    (!ours).then(|| format!("PVC {claim} was not created for pod {pod} (pod is not owner)"))
}

impl Ephemeral {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(None) };
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        for (volume, template) in ephemeral(&pod) {
            if let Err(error) = self.provide(&pod, volume, template).await {
                let text = format!("ephemeral volume {}: {}", volume.name, error.cause());
                self.recorder.about(&*pod, EventType::Warning, "FailedBinding", text);
                return Err(error);
            }
        }
        Ok(None)
    }

    async fn provide(
        &self,
        pod: &Pod,
        volume: &Volume,
        template: &PersistentVolumeClaimTemplate,
    ) -> Result<(), ReconcileError> {
        let claim = claim_for(pod, volume, template);
        let key = Key::of(&claim);
        if let Some(found) = self.claims.get(&key.namespace, &key.name) {
            return conflict(pod, &found).map_or(Ok(()), |why| Err(ReconcileError::Blocked(why)));
        }
        let claims = self.context.api::<PersistentVolumeClaim>(&key.namespace);
        match claims.create(&PostParams::default(), &claim).await {
            Err(error) if is_already_exists(&error) => {
                // The cache does not know it yet.
                let found = claims.get_opt(&key.name).await.map_err(failed("read", &key))?;
                let why = found.and_then(|found| conflict(pod, &found));
                why.map_or(Ok(()), |why| Err(ReconcileError::Blocked(why)))
            }
            created => created.map(drop).map_err(failed("create", key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_made_from_the_template_and_owned_by_its_pod() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "containers": [], "volumes": [{"name": "none", "emptyDir": {}}, {"name": "v", "ephemeral": {
                "volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}}}]}}))
        .unwrap();
        let claims: Vec<_> = ephemeral(&pod).map(|(volume, template)| claim_for(&pod, volume, template)).collect();
        let [claim] = &claims[..] else { panic!("{claims:?}") };
        assert_eq!((claim.name_any().as_str(), claim.labels()["a"].as_str()), ("p-v", "b"));
        assert_eq!(conflict(&pod, claim), None);
        let mut foreign = claim.clone();
        foreign.metadata.owner_references = None;
        let why = "PVC n/p-v was not created for pod n/p (pod is not owner)";
        assert_eq!(conflict(&pod, &foreign).as_deref(), Some(why));
    }
}
