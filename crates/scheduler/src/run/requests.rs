//! What the loop asks of the API: bindings, conditions, and the departure of victims. Each is a future of its own; what came
//! of it goes back to the loop.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use reconcile::Key;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::volumes::VolumeError;
use crate::pod::PodInfo;
use crate::preemption::Victim;
use crate::queue::Attempt;
use crate::snapshot::volumes::Provision;

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

/// Says on the pod that it has no node, and where room is made for it.
pub(super) async fn write_status(client: Client, key: Key, uid: Arc<str>, status: Value) -> Done {
    // The uid in the patch refuses a new pod of the same name.
    let patch = json!({"metadata": {"uid": uid}, "status": status});
    let api: Api<Pod> = Api::namespaced(client, &key.namespace);
    let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    Done::StatusWritten(result.map(drop))
}

/// The conditions that say a pod has no node.
pub(super) fn unscheduled(reason: &str, message: &str, generation: Option<i64>) -> Value {
    let mut condition = json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": now(),
    });
    if let Some(generation) = generation {
        condition["observedGeneration"] = generation.into();
    }
    json!([condition])
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Sends a victim away: says why on it, as of its `generation`, then deletes it, with the time it asks for to end.
pub(super) async fn send_away(
    client: Client,
    victim: Victim,
    generation: Option<i64>,
    by: Arc<PodInfo>,
    node: String,
) -> Done {
    let api: Api<Pod> = Api::namespaced(client, &victim.key.namespace);
    let scheduler = &by.shape.scheduler;
    let patch = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastProbeTime": null, "lastTransitionTime": now(), "observedGeneration": generation,
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
