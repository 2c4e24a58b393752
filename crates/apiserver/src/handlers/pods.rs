//! Binding a pod to a node.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use store::{Mutation, Precondition};

use super::{
    admit::Admission,
    receive,
    write::{self, ATTEMPTS_MAX, Committed},
};
use crate::{
    body::Body,
    codec,
    dispatch::Call,
    field_error::{FieldErrors, Path},
    meta, output,
    status::{ApiError, GroupResource},
    strategy::tree,
};

/// Answers a POST of a Binding, to a pod or to the collection `bindings`.
pub(super) async fn bind(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = write::options(call)?;
    let mut binding = receive::object(call, body, options.field_validation)?;
    receive::check_named(call, &mut binding)?;
    check_target(&binding)?;
    let admission = Admission::create(call, &options);
    let snapshot = admission.mutate(Some(&mut binding)).await?;
    admission.validate(&snapshot, Some(&binding)).await?;
    let name = if call.name.is_empty() { meta::name(&binding) } else { &call.name };
    let node = tree::text_at(&binding, &["target", "name"]);
    let pods = call.server.registry.find("", "v1", "pods").ok_or_else(ApiError::no_such_resource)?;
    let pod = call.about(&pods, &format!("{}/{name}", call.namespace));
    let path = pod.path();
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = call.server.snapshot();
        let Some(stored) = snapshot.get(&pods.collection, &path) else {
            return Err(ApiError::not_found(pod.group_resource(), name));
        };
        refuse(&stored.bytes, &binding, name)?;
        let bound = bound(&stored.bytes, &binding, node, call.now).and_then(|bytes| codec::again(&bytes));
        let bound = bound.ok_or_else(|| ApiError::internal("a stored pod has no spec or metadata"))?;
        let expected = Precondition::Revision(stored.revision);
        let done = options.dry_run
            || matches!(write::commit(&pod, &path, expected, Mutation::Put(bound)).await?, Committed::Done(_));
        if done {
            let success =
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            return output::encoded(call, &success, StatusCode::CREATED);
        }
    }
    Err(ApiError::modified(pod.group_resource(), name))
}

/// Refuses a binding to anything but a node.
fn check_target(binding: &Value) -> Result<(), ApiError> {
    let (target, mut errors) = (Path::new("target"), FieldErrors::default());
    let kind = tree::text_at(binding, &["target", "kind"]);
    if !matches!(kind, "" | "Node") {
        errors.not_supported(&target.child("kind"), kind, &["Node", "<empty>"]);
    }
    if tree::text_at(binding, &["target", "name"]).is_empty() {
        errors.required(&target.child("name"), "");
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("", "Binding", meta::name(binding), errors.as_causes()))
}

/// A value of a stored pod, `null` where there is none.
fn part(pod: &[u8], path: &[&str]) -> Value {
    splice::find(pod, path).and_then(|place| serde_json::from_slice(&pod[place]).ok()).unwrap_or_default()
}

/// Refuses what cannot be bound (any more), or is not what the binding means.
fn refuse(pod: &[u8], binding: &Value, name: &str) -> Result<(), ApiError> {
    let refused =
        |why: String| Err(ApiError::conflict(GroupResource { group: "", resource: "pods/binding" }, name, why));
    for (field, what) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let wanted = binding["metadata"][field].as_str().unwrap_or_default();
        let live = part(pod, &["metadata", field]);
        let live = live.as_str().unwrap_or_default();
        if !wanted.is_empty() && wanted != live {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {live}");
            return refused(why);
        }
    }
    if part(pod, &["metadata", "deletionTimestamp"]).is_string() {
        return refused(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(bound) = part(pod, &["spec", "nodeName"]).as_str().filter(|bound| !bound.is_empty()) {
        return refused(format!("pod {name} is already assigned to node {bound:?}"));
    }
    if part(pod, &["spec", "schedulingGates"]).as_array().is_some_and(|gates| !gates.is_empty()) {
        return refused(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    Ok(())
}

/// The stored pod on its node. A binding touches little of a pod and happens to every one, so only that little is decoded.
/// As with upstream no field gets an owner and no generation counts: the scheduler only fills in what was left open.
fn bound(pod: &[u8], binding: &Value, node: &str, now: jiff::Timestamp) -> Option<Vec<u8>> {
    let mut bound = splice::set(pod, &["spec", "nodeName"], Value::from(node).to_string().as_bytes())?;
    for field in ["annotations", "labels"] {
        let Some(added) = binding["metadata"][field].as_object().filter(|added| !added.is_empty()) else { continue };
        let mut all = part(&bound, &["metadata", field]);
        for (key, value) in added {
            all[key] = value.clone();
        }
        bound = splice::set(&bound, &["metadata", field], all.to_string().as_bytes())?;
    }
    let mut status = part(&bound, &["status"]);
    if let Some(status) = status.as_object_mut() {
        status.remove("nominatedNodeName");
    }
    meta::put_condition(
        &mut status,
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null}),
        &meta::time(now),
    );
    splice::set(&bound, &["status"], status.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_pod_knows_its_node_and_is_scheduled() {
        let pod = json!({"metadata": {"name": "a", "generation": 1, "annotations": {"x": "z", "kept": "1"}},
            "spec": {"containers": [{"name": "c"}], "nodeName": ""},
            "status": {"nominatedNodeName": "n0", "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False"}, {"type": "Other"}]}});
        let binding = json!({"metadata": {"annotations": {"x": "y"}, "labels": {"zone": "z1"}}});
        let bound = bound(pod.to_string().as_bytes(), &binding, "n1", jiff::Timestamp::UNIX_EPOCH).unwrap();
        let bound: Value = serde_json::from_slice(&bound).unwrap();
        let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": "1970-01-01T00:00:00Z"});
        assert_eq!(
            bound,
            json!({"metadata": {"name": "a", "generation": 1, "annotations": {"x": "y", "kept": "1"}, "labels": {"zone": "z1"}},
                "spec": {"containers": [{"name": "c"}], "nodeName": "n1"},
                "status": {"phase": "Pending", "conditions": [scheduled, {"type": "Other"}]}})
        );
    }

    #[test]
    fn a_binding_of_another_pod_or_of_one_that_is_bound_is_refused() {
        let refused = |pod: Value, binding: Value| {
            refuse(pod.to_string().as_bytes(), &binding, "a").err().map(|error| error.message).unwrap_or_default()
        };
        let pod = json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "spec": {}});
        assert_eq!(refused(pod.clone(), json!({"metadata": {"uid": "u", "resourceVersion": "7"}})), "");
        assert!(refused(pod.clone(), json!({"metadata": {"uid": "v"}})).contains("UID in precondition: v"));
        assert!(
            refused(pod, json!({"metadata": {"resourceVersion": "6"}})).contains("ResourceVersion in object meta: 7")
        );
        let none = json!({});
        let bound = json!({"metadata": {}, "spec": {"nodeName": "n1"}});
        assert!(refused(bound, none.clone()).contains("already assigned to node \"n1\""));
        let gated = json!({"metadata": {}, "spec": {"schedulingGates": [{"name": "g"}]}});
        assert!(refused(gated, none.clone()).contains("non-empty .spec.schedulingGates"));
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}});
        assert!(refused(going, none).contains("is being deleted"));
    }
}
