//! Pods.

use serde_json::{Value, json};

use super::{
    Strategy, WriteContext, pod_spec, quantity,
    tree::{self, flag, int, list, map, text, text_at},
};
use crate::field_error::{FieldErrors, Path};

mod change;
mod status;

const SPEC: Path<'static> = Path::new("spec");
/// Seconds a pod may take to end when neither it nor the request says.
const GRACE_SECONDS: i64 = 30;

pub(super) struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = tree::child_mut(object, "spec") {
            pod_spec::default_spec(spec);
            pod_spec::default_pod(spec);
        }
    }

    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        pod_spec::merge_label_keys(object);
        let class = qos_class(object.get("spec").unwrap_or(&Value::Null));
        if let Some(map) = object.as_object_mut() {
            let mut status = json!({"phase": "Pending", "qosClass": class});
            if map.get("spec").is_some_and(|spec| !list(spec, "schedulingGates").is_empty()) {
                status["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates", "observedGeneration": 1,
                    "lastProbeTime": null, "lastTransitionTime": null}]);
            }
            map.insert("status".to_owned(), status);
        }
    }

    fn status_keeps(&self) -> &'static [&'static str] {
        &["ownerReferences"]
    }

    fn resets(&self, subresource: &str) -> &'static [&'static str] {
        match subresource {
            "status" => &["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"],
            _ => &["status"],
        }
    }

    fn accepts_only(&self, subresource: &str) -> &'static [&'static str] {
        match subresource {
            "ephemeralcontainers" => &["spec.ephemeralContainers"],
            "resize" => &[
                "spec.containers.*.resources",
                "spec.containers.*.resizePolicy",
                "spec.initContainers.*.resources",
                "spec.initContainers.*.resizePolicy",
            ],
            _ => &[],
        }
    }

    fn prepare_status(&self, _cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        let (Some(status), Some(before)) = (new.get_mut("status"), old.get("status")) else { return };
        if text(status, "qosClass").is_empty() {
            tree::keep(status, before, "qosClass");
        }
        status::keep_observed_generations(status, before);
    }

    fn check(&self, cx: &WriteContext<'_>, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        // What was accepted once stays acceptable while it does not change.
        if old.is_some_and(|old| old.get("spec") == object.get("spec")) {
            return;
        }
        let spec = object.get("spec").unwrap_or(&Value::Null);
        pod_spec::validate_spec(spec, &SPEC, errors);
        if old.is_none() && cx.subresource.is_none() && !list(spec, "ephemeralContainers").is_empty() {
            errors.forbidden(&SPEC.child("ephemeralContainers"), "cannot be set on create");
        }
    }

    fn check_change(&self, cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let (new, old) = (new.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
        change::check(cx.subresource, new, old, errors);
    }

    fn check_status(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        status::check_change(new, old, errors);
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let spec = |key: &str| text_at(object, &["spec", key]).to_owned();
        let status = |key: &str| text_at(object, &["status", key]).to_owned();
        vec![
            ("spec.nodeName", spec("nodeName")),
            // what the field was once called
            ("spec.host", spec("nodeName")),
            ("spec.restartPolicy", spec("restartPolicy")),
            ("spec.schedulerName", spec("schedulerName")),
            ("spec.serviceAccountName", spec("serviceAccountName")),
            ("spec.hostNetwork", object.get("spec").is_some_and(|spec| flag(spec, "hostNetwork")).to_string()),
            ("status.phase", status("phase")),
            ("status.podIP", status("podIP")),
            // may be named, but has no value
            ("status.podIPs", String::new()),
            ("status.nominatedNodeName", status("nominatedNodeName")),
        ]
    }

    fn grace_period_seconds(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let spec = object.get("spec")?;
        // Nothing runs yet, or nothing runs any more.
        if text(spec, "nodeName").is_empty() || matches!(text_at(object, &["status", "phase"]), "Succeeded" | "Failed")
        {
            return None;
        }
        let seconds = requested.or_else(|| int(spec, "terminationGracePeriodSeconds")).unwrap_or(GRACE_SECONDS);
        match seconds {
            0 => None,
            // A negative period means the shortest one there is.
            seconds => Some(seconds.max(1)),
        }
    }

    fn name_becomes(&self) -> Option<&'static str> {
        Some("the Pod's hostname")
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        static NOTHING: Value = Value::Null;
        let metadata = object.get("metadata").unwrap_or(&NOTHING);
        let spec = object.get("spec").unwrap_or(&NOTHING);
        pod_spec::warnings(spec, &SPEC, map(metadata, "annotations"), "metadata")
    }
}

/// How the node treats the pod when memory runs out.
pub fn qos_class(spec: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for key in ["containers", "initContainers"] {
        for container in list(spec, key) {
            let resources = container.get("resources").unwrap_or(&Value::Null);
            let (requests, limits) = (map(resources, "requests"), map(resources, "limits"));
            for name in ["cpu", "memory"] {
                let amount = |list: &serde_json::Map<String, Value>| {
                    list.get(name).and_then(quantity::parse).filter(|amount| !amount.is_zero())
                };
                let (request, limit) = (amount(requests), amount(limits));
                any |= request.is_some() || limit.is_some();
                guaranteed &= limit.is_some() && (request.is_none() || request == limit);
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests;
