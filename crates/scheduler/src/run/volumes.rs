//! Gets the claims of a pod that has a node bound to volumes there, before the pod is bound.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use reconcile::Informer;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::requests::{Binding, Done};
use crate::snapshot::volumes::{Claim, Provision, SELECTED_NODE};

/// Tells the binder that no user set the volume aside for its claim, so that it may free it again.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// Why a pod's volumes are not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum VolumeError {
    #[error("cannot ask for the volume of claim {claim}: {source}")]
    Write {
        claim: String,
        #[source]
        source: kube::Error,
    },
    #[error("persistentvolumeclaim \"{0}\" not found")]
    NoClaim(String),
    #[error("provisioning failed for PVC \"{0}\"")]
    Rejected(String),
    #[error("pod does not exist any more")]
    PodGone,
    #[error("context deadline exceeded")]
    Timeout,
    #[error("the informer of claims has stopped")]
    Stopped,
}

/// A pod, its node, and what its claims need there.
pub(super) struct VolumeWork {
    pub(super) client: Client,
    pub(super) claims: Informer<PersistentVolumeClaim>,
    pub(super) volumes: Informer<PersistentVolume>,
    pub(super) binding: Binding,
    pub(super) plan: Vec<Provision>,
}

impl VolumeWork {
    /// Does it, then says so; gives up after a while, or when the pod is gone.
    pub(super) async fn run(self, wait_max: Duration, gone: CancellationToken) -> Done {
        let work = async {
            for step in &self.plan {
                self.ask(step).await?;
            }
            self.wait_until_bound().await
        };
        let result = tokio::select! {
            result = tokio::time::timeout(wait_max, work) => result.unwrap_or(Err(VolumeError::Timeout)),
            () = gone.cancelled() => Err(VolumeError::PodGone),
        };
        let Self { binding, plan, .. } = self;
        Done::Volumes { binding, plan, result }
    }

    async fn ask(&self, step: &Provision) -> Result<(), VolumeError> {
        let namespace = &self.binding.attempt.pod.key.namespace;
        let (Provision::Take { claim: name, .. } | Provision::Make { claim: name }) = step;
        let claim = self.claims.get(namespace, name).ok_or_else(|| VolumeError::NoClaim(name.clone()))?;
        let parameters = PatchParams::default();
        let result = match step {
            Provision::Take { volume, .. } => {
                let known = self.volumes.get("", volume);
                let set_aside = known.as_ref().is_some_and(|volume| is_claimed(volume));
                let by_us = if set_aside { json!({}) } else { json!({BOUND_BY_CONTROLLER: "yes"}) };
                // With the version, a claim that was faster keeps the volume.
                let version = known.as_ref().and_then(|volume| volume.resource_version());
                let patch = json!({"metadata": {"resourceVersion": version, "annotations": by_us}, "spec": {"claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name,
                    "uid": claim.uid()}}});
                let api: Api<PersistentVolume> = Api::all(self.client.clone());
                api.patch(volume, &parameters, &Patch::Merge(patch)).await.map(drop)
            }
            Provision::Make { .. } => {
                let annotations = json!({SELECTED_NODE: self.binding.node});
                let patch = json!({"metadata": {"uid": claim.uid(), "annotations": annotations}});
                let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
                api.patch(name, &parameters, &Patch::Merge(patch)).await.map(drop)
            }
        };
        result.map_err(|source| VolumeError::Write { claim: name.clone(), source })
    }

    async fn wait_until_bound(&self) -> Result<(), VolumeError> {
        let mut changes = self.claims.subscribe();
        let mut asked = vec![false; self.plan.len()];
        loop {
            let mut bound = true;
            for (step, asked) in self.plan.iter().zip(&mut asked) {
                let (Provision::Take { claim: name, .. } | Provision::Make { claim: name }) = step;
                let claim = self.claims.get(&self.binding.attempt.pod.key.namespace, name);
                let claim = claim.ok_or_else(|| VolumeError::NoClaim(name.clone()))?;
                let claim = Claim::of(&claim);
                if claim.is_bound() {
                    continue;
                }
                bound = false;
                let mine = claim.selected_node.as_deref() == Some(&self.binding.node);
                // A provisioner that cannot serve the node takes its name away again.
                if *asked && !mine {
                    return Err(VolumeError::Rejected(name.clone()));
                }
                *asked |= mine;
            }
            if bound {
                return Ok(());
            }
            if changes.next().await.is_none() {
                return Err(VolumeError::Stopped);
            }
        }
    }
}

fn is_claimed(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some())
}
