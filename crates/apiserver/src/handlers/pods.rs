//! Binding a pod to a node.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use splice::Edit;
use store::{Mutation, Precondition};
use strategy::{
    field_error::{FieldErrors, Path},
    tree,
};

use super::{
    admit::Admission,
    receive,
    write::{self, ATTEMPTS_MAX, Committed},
};
use crate::{
    body::Body,
    codec,
    dispatch::Call,
    meta, output,
    status::{ApiError, GroupResource, causes_of},
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
    Err(ApiError::invalid("", "Binding", meta::name(binding), causes_of(&errors)))
}

/// The value at a place in a stored pod, `null` where there is none.
fn value(pod: &[u8], place: Option<Range<usize>>) -> Value {
    place.and_then(|place| serde_json::from_slice(&pod[place]).ok()).unwrap_or_default()
}

/// Values of some members of a member of a stored pod.
fn values<const N: usize>(pod: &[u8], of: Option<Range<usize>>, names: [&str; N]) -> [Value; N] {
    splice::find_each(pod, of.unwrap_or_default(), names).map(|place| value(pod, place))
}

/// Refuses what cannot be bound (any more), or is not what the binding means.
fn refuse(pod: &[u8], binding: &Value, name: &str) -> Result<(), ApiError> {
    let refused =
        |why: String| Err(ApiError::conflict(GroupResource { group: "", resource: "pods/binding" }, name, why));
    let [metadata, spec] = splice::find_each(pod, 0..pod.len(), ["metadata", "spec"]);
    let [version, uid, deletion] = values(pod, metadata, ["resourceVersion", "uid", "deletionTimestamp"]);
    for (field, what, live) in [("uid", "UID", uid), ("resourceVersion", "ResourceVersion", version)] {
        let wanted = binding["metadata"][field].as_str().unwrap_or_default();
        let live = live.as_str().unwrap_or_default();
        if !wanted.is_empty() && wanted != live {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {live}");
            return refused(why);
        }
    }
    if deletion.is_string() {
        return refused(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let [node, gates] = values(pod, spec, ["nodeName", "schedulingGates"]);
    if let Some(bound) = node.as_str().filter(|bound| !bound.is_empty()) {
        return refused(format!("pod {name} is already assigned to node {bound:?}"));
    }
    if gates.as_array().is_some_and(|gates| !gates.is_empty()) {
        return refused(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    Ok(())
}

/// The stored pod on its node. A binding touches little of a pod and happens to every one, so only that little is decoded,
/// and the bytes are copied once. As with upstream no field gets an owner and no generation counts: the scheduler only fills
/// in what was left open.
fn bound(pod: &[u8], binding: &Value, node: &str, now: jiff::Timestamp) -> Option<Vec<u8>> {
    let whole = 0..pod.len();
    let [metadata, spec, status] = splice::find_each(pod, whole.clone(), ["metadata", "spec", "status"]);
    let mut edits = Vec::with_capacity(4);
    let mut set = |object: &Range<usize>, name: &str, place: Option<Range<usize>>, value: Value| {
        let bytes = value.to_string().into_bytes();
        edits.push(match place {
            Some(place) => Edit { place, bytes },
            None => Edit::adding(pod, object.clone(), name, &bytes)?,
        });
        Some(())
    };
    let metadata = metadata?;
    let places = splice::find_each(pod, metadata.clone(), ADDED);
    for (field, place) in ADDED.into_iter().zip(places) {
        let Some(added) = binding["metadata"][field].as_object().filter(|added| !added.is_empty()) else { continue };
        let mut all = value(pod, place.clone());
        for (key, value) in added {
            all[key] = value.clone();
        }
        set(&metadata, field, place, all)?;
    }
    let spec = spec?;
    let [place] = splice::find_each(pod, spec.clone(), ["nodeName"]);
    set(&spec, "nodeName", place, node.into())?;
    let [generation] = values(pod, Some(metadata), ["generation"]);
    set(&whole, "status", status.clone(), scheduled(value(pod, status), generation, now))?;
    edits.sort_by_key(|edit| edit.place.start);
    splice::edited(pod, &edits)
}

/// Members of a pod's metadata to which a binding may add.
const ADDED: [&str; 2] = ["annotations", "labels"];

/// The status of a pod that has found its node.
fn scheduled(mut status: Value, generation: Value, now: jiff::Timestamp) -> Value {
    if let Some(status) = status.as_object_mut() {
        status.remove("nominatedNodeName");
    }
    let mut condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null});
    if generation.is_number() {
        condition["observedGeneration"] = generation;
    }
    meta::put_condition(&mut status, condition, &meta::time(now));
    status
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
        let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "observedGeneration": 1,
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
