//! What the loop asks of the API: bindings, conditions, and the departure of victims. Each is a future of its own; what came
//! of it goes back to the loop.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Client, Resource};
use reconcile::Key;
use serde::Serialize;
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

/// A Binding, which needs no tree to be written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Meta<'a>,
    target: Target<'a>,
}

#[derive(Serialize)]
struct Meta<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Target<'a> {
    api_version: &'static str,
    kind: &'static str,
    name: &'a str,
}

pub(super) async fn bind(client: Client, attempt: Attempt, began: Instant, node: String) -> Done {
    let step_began = Instant::now();
    let result = post_binding(&client, &attempt.pod, &node).await;
    Done::Bound { binding: Binding { attempt, node, began, step_began }, result }
}

/// What the server says of a success is not read: that it is one says all.
async fn post_binding(client: &Client, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
    let Key { namespace, name } = &pod.key;
    let body = Body {
        api_version: "v1",
        kind: "Binding",
        metadata: Meta { namespace, name, uid: &pod.uid },
        target: Target { api_version: "v1", kind: "Node", name: node },
    };
    let body = serde_json::to_vec(&body).map_err(kube::Error::SerdeError)?;
    let request = Request::new(Pod::url_path(&(), Some(namespace)));
    let request = request.create_subresource("binding", name, &PostParams::default(), body);
    let request = request.map_err(kube::Error::BuildRequest)?;
    client.request_text(request).await.map(drop)
}

/// Says on the pod that it has no node, and where room is made for it.
pub(super) async fn write_status(client: Client, key: Key, uid: Arc<str>, status: Value) -> Done {
    // The uid in the patch refuses a new pod of the same name.
    let patch = json!({"metadata": {"uid": uid}, "status": status});
    Done::StatusWritten(patch_status(&client, &key, patch).await)
}

/// The pod that the server answers with arrives by the informer as well, and is not decoded for this.
async fn patch_status(client: &Client, key: &Key, patch: Value) -> Result<(), kube::Error> {
    let request = Request::new(Pod::url_path(&(), Some(&key.namespace)));
    let patch = Patch::Strategic(patch);
    let request = request.patch_subresource("status", &key.name, &PatchParams::default(), &patch);
    client.request_text(request.map_err(kube::Error::BuildRequest)?).await.map(drop)
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
    let api: Api<Pod> = Api::namespaced(client.clone(), &victim.key.namespace);
    let scheduler = &by.shape.scheduler;
    let patch = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastProbeTime": null, "lastTransitionTime": now(), "observedGeneration": generation,
    }]}});
    let name = &victim.key.name;
    let delete = async {
        patch_status(&client, &victim.key, patch).await?;
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
