//! Binding a pod to a node.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{
    admit::{Admission, Gate},
    create::Ownership,
    receive,
    update::{self, Change},
    write,
};
use crate::{
    body::Body,
    dispatch::Call,
    meta, output,
    status::{ApiError, GroupResource},
};

/// Answers a POST of a Binding, to a pod or to the collection `bindings`.
pub(super) async fn bind(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = write::options(call)?;
    let mut binding = receive::decode(call, body)?.value;
    let admission = Admission::create(call, &options);
    let snapshot = admission.mutate(Some(&mut binding)).await?;
    admission.validate(&snapshot, Some(&binding)).await?;
    let name = if call.name.is_empty() { meta::name(&binding) } else { &call.name };
    let target = &binding["target"];
    let node = target["name"].as_str().unwrap_or_default();
    if !matches!(target["kind"].as_str(), None | Some("" | "Node")) || node.is_empty() {
        return Err(ApiError::bad_request(format!("a pod is bound to a Node, not to {target}")));
    }
    let pods = call.server.registry.find("", "v1", "pods").ok_or_else(ApiError::no_such_resource)?;
    let pod_call = call.about(&pods, &format!("{}/{name}", call.namespace));
    let change = |old: &Value| {
        let refused =
            |why: String| ApiError::conflict(GroupResource { group: "", resource: "pods/binding" }, name, why);
        if meta::is_terminating(old) {
            return Err(refused(format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        if let Some(bound) = old["spec"]["nodeName"].as_str().filter(|bound| !bound.is_empty()) {
            return Err(refused(format!("pod {name} is already assigned to node {bound:?}")));
        }
        if old["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            return Err(refused(format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        if !meta::uid(&binding).is_empty() && meta::uid(&binding) != meta::uid(old) {
            return Err(refused(format!("pod {name} has another UID than {}", meta::uid(&binding))));
        }
        Ok(Change { object: bound(old, &binding, node, call.now), ownership: Ownership::Track })
    };
    let mut pod_call = pod_call;
    pod_call.subresource = "binding".into();
    update::change_object(&pod_call, &options, Gate::Open, change).await?;
    let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    output::encoded(call, &success, StatusCode::CREATED)
}

fn bound(pod: &Value, binding: &Value, node: &str, now: jiff::Timestamp) -> Value {
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = node.into();
    meta::of(&mut pod).remove("resourceVersion");
    for part in ["annotations", "labels"] {
        let Some(added) = binding["metadata"][part].as_object().filter(|added| !added.is_empty()) else { continue };
        for (key, value) in added {
            pod["metadata"][part][key] = value.clone();
        }
    }
    let condition =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": meta::time(now)});
    let conditions = &mut pod["status"]["conditions"];
    match conditions.as_array_mut() {
        Some(conditions) => {
            conditions.retain(|condition| condition["type"] != "PodScheduled");
            conditions.push(condition);
        }
        None => *conditions = json!([condition]),
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_pod_knows_its_node_and_is_scheduled() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {}, "status": {"conditions":
            [{"type": "PodScheduled", "status": "False"}]}});
        let binding = json!({"metadata": {"annotations": {"x": "y"}}});
        let bound = bound(&pod, &binding, "n1", jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(bound["spec"]["nodeName"], "n1");
        assert_eq!(bound["metadata"]["annotations"]["x"], "y");
        assert_eq!(bound["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(bound["status"]["conditions"][0]["status"], "True");
    }
}
