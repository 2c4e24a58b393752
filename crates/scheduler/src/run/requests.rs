//! What the loop asks of the API: bindings, conditions, and the departure of victims. Each is a future of its own; what came
//! of it goes back to the loop.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use reconcile::{Informer, Key};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::pod::PodInfo;
use crate::preemption::Victim;
use crate::queue::Attempt;
use crate::snapshot::volumes::{Claim, Provision, SELECTED_NODE};

/// A pod on its way to a node.
pub(super) struct Binding {
    pub(super) attempt: Attempt,
    pub(super) node: String,
    /// When the attempt began, and this part of it.
    pub(super) began: Instant,
    pub(super) step_began: Instant,
}

/// What a request was, and what came of it.
pub(super) enum Done {
    Volumes { binding: Binding, plan: Vec<Provision>, result: Result<(), VolumeError> },
    Bound { binding: Binding, result: Result<(), kube::Error> },
    Left { victim: Victim, by: Arc<PodInfo>, node: String, result: Result<(), kube::Error> },
    StatusWritten(Result<(), kube::Error>),
}

/// Why a pod's volumes are not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum VolumeError {
    #[error("cannot ask for the volume of claim {claim}")]
    Write {
        claim: String,
        #[source]
        source: kube::Error,
    },
    #[error("the claim was given another node")]
    Rejected,
    #[error("timed out waiting for the volumes to be bound")]
    Timeout,
    #[error("the informer of claims has stopped")]
    Stopped,
}

pub(super) async fn bind(client: Client, attempt: Attempt, began: Instant, node: String) -> Done {
    let step_began = Instant::now();
    let pod = &attempt.pod;
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"namespace": pod.key.namespace, "name": pod.key.name, "uid": pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let api: Api<Pod> = Api::namespaced(client, &pod.key.namespace);
    let result: Result<Status, _> =
        api.create_subresource("binding", &pod.key.name, &PostParams::default(), &binding).await;
    Done::Bound { binding: Binding { attempt, node, began, step_began }, result: result.map(drop) }
}

/// Gets the claims of a pod bound, then says so.
pub(super) async fn bind_volumes(
    client: Client,
    claims: Informer<PersistentVolumeClaim>,
    attempt: Attempt,
    began: Instant,
    node: String,
    plan: Vec<Provision>,
    wait_max: Duration,
) -> Done {
    let step_began = Instant::now();
    let namespace = &attempt.pod.key.namespace;
    let work = async {
        for step in &plan {
            ask(&client, &claims, namespace, &node, step).await?;
        }
        wait_until_bound(&claims, namespace, &node, &plan).await
    };
    let result = tokio::time::timeout(wait_max, work).await.unwrap_or(Err(VolumeError::Timeout));
    Done::Volumes { binding: Binding { attempt, node, began, step_began }, plan, result }
}

async fn ask(
    client: &Client,
    claims: &Informer<PersistentVolumeClaim>,
    namespace: &str,
    node: &str,
    step: &Provision,
) -> Result<(), VolumeError> {
    let parameters = PatchParams::default();
    let (claim, result) = match step {
        Provision::Take { claim, volume } => {
            let uid = claims.get(namespace, claim).and_then(|claim| claim.metadata.uid.clone());
            let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": namespace, "name": claim, "uid": uid});
            let patch = json!({"spec": {"claimRef": reference}});
            let api: Api<PersistentVolume> = Api::all(client.clone());
            (claim, api.patch(volume, &parameters, &Patch::Merge(patch)).await.map(drop))
        }
        Provision::Make { claim } => {
            let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
            let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
            (claim, api.patch(claim, &parameters, &Patch::Merge(patch)).await.map(drop))
        }
    };
    result.map_err(|source| VolumeError::Write { claim: claim.clone(), source })
}

async fn wait_until_bound(
    claims: &Informer<PersistentVolumeClaim>,
    namespace: &str,
    node: &str,
    plan: &[Provision],
) -> Result<(), VolumeError> {
    let mut changes = claims.subscribe();
    let mut asked = false;
    loop {
        let mut bound = true;
        for step in plan {
            let (Provision::Take { claim: name, .. } | Provision::Make { claim: name }) = step;
            let claim = claims.get(namespace, name).map(|claim| Claim::of(&claim));
            bound &= claim.as_ref().is_some_and(Claim::is_bound);
            let selected = claim.and_then(|claim| claim.selected_node);
            // A provisioner that cannot serve the node takes its name away again.
            let mine = selected.as_deref() == Some(node);
            if matches!(step, Provision::Make { .. }) && asked && !mine && !bound {
                return Err(VolumeError::Rejected);
            }
            asked |= mine;
        }
        if bound {
            return Ok(());
        }
        if changes.next().await.is_none() {
            return Err(VolumeError::Stopped);
        }
    }
}

/// Says on the pod that it has no node, and where room is made for it.
pub(super) async fn write_status(client: Client, key: Key, uid: Arc<str>, status: Value) -> Done {
    // The uid in the patch refuses a new pod of the same name.
    let patch = json!({"metadata": {"uid": uid}, "status": status});
    let api: Api<Pod> = Api::namespaced(client, &key.namespace);
    let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    Done::StatusWritten(result.map(drop))
}

/// The part of a status that says a pod has no node.
pub(super) fn unscheduled(reason: &str, message: &str, generation: Option<i64>) -> Value {
    let mut condition = json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": now(),
    });
    if let Some(generation) = generation {
        condition["observedGeneration"] = generation.into();
    }
    json!({"conditions": [condition]})
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Sends a victim away: says why on it, then deletes it, with the time it asks for to end.
pub(super) async fn send_away(client: Client, victim: Victim, by: Arc<PodInfo>, node: String) -> Done {
    let api: Api<Pod> = Api::namespaced(client, &victim.key.namespace);
    let scheduler = &by.shape.scheduler;
    let patch = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastProbeTime": null, "lastTransitionTime": now(),
    }]}});
    let name = &victim.key.name;
    let delete = async {
        api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        let uid = Some(victim.uid.to_string());
        let preconditions = Some(Preconditions { uid, resource_version: None });
        api.delete(name, &DeleteParams { preconditions, ..DeleteParams::default() }).await.map(drop)
    };
    let result = match delete.await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result,
    };
    Done::Left { victim, by, node, result }
}
