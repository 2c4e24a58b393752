//! Binding a pod to a node.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use splice::Edit;
use store::{Encoded, Mutation, Precondition};
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
        let open = Bindable::find(&stored.bytes);
        let open = open.ok_or_else(|| ApiError::internal("a stored pod has no spec or metadata"))?;
        open.refuse(&binding, name)?;
        let bound = open.bound(&binding, node, call.now);
        let bound = bound.ok_or_else(|| ApiError::internal("a stored pod cannot be changed"))?;
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

/// Where in the bytes of a stored pod lies what a binding reads and changes. A binding touches little of a pod and happens to
/// every one: each byte is passed over twice at most, and copied once.
struct Bindable<'a> {
    pod: &'a [u8],
    metadata: Range<usize>,
    spec: Range<usize>,
    status: Option<Range<usize>>,
    version: Range<usize>,
    uid: Option<Range<usize>>,
    deletion: Option<Range<usize>>,
    generation: Option<Range<usize>>,
    added: [Option<Range<usize>>; 2],
    node: Option<Range<usize>>,
    gates: Option<Range<usize>>,
}

impl<'a> Bindable<'a> {
    fn find(pod: &'a [u8]) -> Option<Self> {
        let [metadata, spec, status] = splice::find_each(pod, 0..pod.len(), ["metadata", "spec", "status"]);
        let (metadata, spec) = (metadata?, spec?);
        let [annotations, labels] = ADDED;
        let wanted = ["resourceVersion", "uid", "deletionTimestamp", "generation", annotations, labels];
        let [version, uid, deletion, generation, annotations, labels] =
            splice::find_each(pod, metadata.clone(), wanted);
        let [node, gates] = splice::find_each(pod, spec.clone(), ["nodeName", "schedulingGates"]);
        let (version, added) = (version?, [annotations, labels]);
        Some(Self { pod, metadata, spec, status, version, uid, deletion, generation, added, node, gates })
    }

    /// The value at a place, `null` where there is none.
    fn value(&self, place: Option<&Range<usize>>) -> Value {
        place.and_then(|place| serde_json::from_slice(&self.pod[place.clone()]).ok()).unwrap_or_default()
    }

    /// Refuses what cannot be bound (any more), or is not what the binding means.
    fn refuse(&self, binding: &Value, name: &str) -> Result<(), ApiError> {
        let refused =
            |why: String| Err(ApiError::conflict(GroupResource { group: "", resource: "pods/binding" }, name, why));
        let identity = [("uid", "UID", self.uid.as_ref()), ("resourceVersion", "ResourceVersion", Some(&self.version))];
        for (field, what, place) in identity {
            let wanted = binding["metadata"][field].as_str().unwrap_or_default();
            if wanted.is_empty() {
                continue;
            }
            let live = self.value(place);
            let live = live.as_str().unwrap_or_default();
            if wanted != live {
                let why =
                    format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {live}");
                return refused(why);
            }
        }
        if self.value(self.deletion.as_ref()).is_string() {
            return refused(format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        if let Some(bound) = self.value(self.node.as_ref()).as_str().filter(|bound| !bound.is_empty()) {
            return refused(format!("pod {name} is already assigned to node {bound:?}"));
        }
        if self.value(self.gates.as_ref()).as_array().is_some_and(|gates| !gates.is_empty()) {
            return refused(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        Ok(())
    }

    /// The pod on its node, to be stored. As with upstream no field gets an owner and no generation counts: the scheduler
    /// only fills in what was left open.
    fn bound(&self, binding: &Value, node: &str, now: jiff::Timestamp) -> Option<Encoded> {
        let pod = self.pod;
        let mut edits = Vec::with_capacity(5);
        // what was the revision becomes the gap for the next one
        let gap = self.version.start + 1;
        edits.push(Edit { place: gap..self.version.end.checked_sub(1)?, bytes: Vec::new() });
        let mut set = |object: &Range<usize>, name: &str, place: Option<&Range<usize>>, value: &Value| {
            let bytes = value.to_string().into_bytes();
            edits.push(match place {
                Some(place) => Edit { place: place.clone(), bytes },
                None => Edit::adding(pod, object.clone(), name, &bytes)?,
            });
            Some(())
        };
        for (field, place) in ADDED.into_iter().zip(&self.added) {
            let Some(added) = binding["metadata"][field].as_object().filter(|added| !added.is_empty()) else {
                continue;
            };
            let mut all = self.value(place.as_ref());
            for (key, value) in added {
                all[key] = value.clone();
            }
            set(&self.metadata, field, place.as_ref(), &all)?;
        }
        set(&self.spec, "nodeName", self.node.as_ref(), &node.into())?;
        let status = scheduled(self.value(self.status.as_ref()), self.value(self.generation.as_ref()), now);
        set(&(0..pod.len()), "status", self.status.as_ref(), &status)?;
        edits.sort_by_key(|edit| edit.place.start);
        let before = edits.iter().take_while(|edit| edit.place.start < gap);
        let revision_at = before.fold(gap, |at, edit| at + edit.bytes.len() - edit.place.len());
        Some(Encoded { bytes: splice::edited(pod, &edits)?, revision_at: Some(revision_at) })
    }
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

    fn bound(pod: &Value, binding: &Value) -> Value {
        let pod = pod.to_string();
        let open = Bindable::find(pod.as_bytes()).unwrap();
        let mut bound = open.bound(binding, "n1", jiff::Timestamp::UNIX_EPOCH).unwrap();
        let gap = bound.revision_at.unwrap();
        bound.bytes.splice(gap..gap, *b"42");
        serde_json::from_slice(&bound.bytes).unwrap()
    }

    #[test]
    fn a_bound_pod_knows_its_node_and_is_scheduled() {
        let pod = json!({"apiVersion": "v1",
            "metadata": {"name": "a", "generation": 1, "resourceVersion": "7", "annotations": {"x": "z", "kept": "1"}},
            "spec": {"containers": [{"name": "c"}], "nodeName": ""},
            "status": {"nominatedNodeName": "n0", "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False"}, {"type": "Other"}]}});
        let binding = json!({"metadata": {"annotations": {"x": "y"}, "labels": {"zone": "z1"}}});
        let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "observedGeneration": 1,
            "lastTransitionTime": "1970-01-01T00:00:00Z"});
        assert_eq!(
            bound(&pod, &binding),
            json!({"apiVersion": "v1", "metadata": {"name": "a", "generation": 1, "resourceVersion": "42",
                    "annotations": {"x": "y", "kept": "1"}, "labels": {"zone": "z1"}},
                "spec": {"containers": [{"name": "c"}], "nodeName": "n1"},
                "status": {"phase": "Pending", "conditions": [scheduled, {"type": "Other"}]}})
        );
    }

    #[test]
    fn a_bound_pod_that_had_next_to_nothing_keeps_it() {
        let pod = json!({"metadata": {"resourceVersion": "1234567"}, "spec": {}});
        let bound = bound(&pod, &json!({}));
        assert_eq!(bound["metadata"], json!({"resourceVersion": "42"}));
        assert_eq!(bound["spec"], json!({"nodeName": "n1"}));
        assert_eq!(bound["status"]["conditions"][0]["status"], "True");
        assert!(Bindable::find(br#"{"metadata":{},"spec":{}}"#).is_none(), "it was never stored");
    }

    #[test]
    fn a_binding_of_another_pod_or_of_one_that_is_bound_is_refused() {
        let refused = |mut pod: Value, binding: Value| {
            if pod["metadata"].get("resourceVersion").is_none() {
                pod["metadata"]["resourceVersion"] = "1".into();
            }
            let pod = pod.to_string();
            let open = Bindable::find(pod.as_bytes()).unwrap();
            open.refuse(&binding, "a").err().map(|error| error.message).unwrap_or_default()
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
