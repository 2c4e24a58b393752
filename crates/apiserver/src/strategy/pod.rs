//! Pods.

use serde_json::{Value, json};

use super::{
    Strategy, WriteContext, pod_spec, quantity,
    tree::{self, at, flag, int, list, map, same, text, text_at},
};
use crate::field_error::{FieldErrors, Path};

const SPEC: Path<'static> = Path::new("spec");
const CHANGE_RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
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
        let class = qos_class(object.get("spec").unwrap_or(&Value::Null));
        if let Some(map) = object.as_object_mut() {
            map.insert("status".to_owned(), json!({"phase": "Pending", "qosClass": class}));
        }
    }

    fn prepare_status(&self, _cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        if let (Some(metadata), Some(before)) = (new.get_mut("metadata"), old.get("metadata")) {
            tree::keep(metadata, before, "ownerReferences");
        }
        if let (Some(status), Some(before)) = (new.get_mut("status"), old.get("status"))
            && text(status, "qosClass").is_empty()
        {
            tree::keep(status, before, "qosClass");
        }
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
        check_spec_change(cx.subresource, new, old, errors);
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let spec = |key: &str| text_at(object, &["spec", key]).to_owned();
        let status = |key: &str| text_at(object, &["status", key]).to_owned();
        vec![
            ("spec.nodeName", spec("nodeName")),
            ("spec.restartPolicy", spec("restartPolicy")),
            ("spec.schedulerName", spec("schedulerName")),
            ("spec.serviceAccountName", spec("serviceAccountName")),
            ("spec.hostNetwork", object.get("spec").is_some_and(|spec| flag(spec, "hostNetwork")).to_string()),
            ("status.phase", status("phase")),
            ("status.podIP", status("podIP")),
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

    fn warnings(&self, object: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        for (key, old, new) in [
            ("nodeSelector", "beta.kubernetes.io/arch", "kubernetes.io/arch"),
            ("nodeSelector", "beta.kubernetes.io/os", "kubernetes.io/os"),
        ] {
            if at(object, &["spec", key]).is_some_and(|selector| selector.get(old).is_some()) {
                warnings.push(format!("spec.{key}[{old}]: deprecated since v1.14; use {new:?} instead"));
            }
        }
        let spec = object.get("spec").unwrap_or(&Value::Null);
        for (index, container) in list(spec, "containers").iter().enumerate() {
            let env = list(container, "env");
            for (at, variable) in env.iter().enumerate() {
                let name = text(variable, "name");
                if let Some(first) = env[..at].iter().position(|other| text(other, "name") == name) {
                    warnings.push(format!(
                        "spec.containers[{index}].env[{at}]: hides previous definition of {name:?}, which may be dropped when using apply (first defined at spec.containers[{index}].env[{first}])"
                    ));
                }
            }
        }
        warnings
    }
}

/// How the node treats the pod when memory runs out.
pub(crate) fn qos_class(spec: &Value) -> &'static str {
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

fn check_spec_change(subresource: Option<&str>, new: &Value, old: &Value, errors: &mut FieldErrors) {
    let empty = serde_json::Map::new();
    let (new_map, old_map) = (new.as_object().unwrap_or(&empty), old.as_object().unwrap_or(&empty));
    let mut changed: Vec<&str> = Vec::new();
    let keys = new_map.keys().chain(old_map.keys().filter(|key| !new_map.contains_key(*key)));
    for key in keys.filter(|key| !same(new, old, key)) {
        let allowed = match key.as_str() {
            "containers" | "initContainers" => {
                let free: &[&str] =
                    if subresource == Some("resize") { &["resources", "resizePolicy"] } else { &["image"] };
                same_containers(list(new, key), list(old, key), free)
            }
            "activeDeadlineSeconds" => check_deadline(new, old, errors),
            "tolerations" => {
                let kept = list(new, key);
                list(old, key).iter().all(|toleration| kept.contains(toleration))
            }
            "terminationGracePeriodSeconds" => {
                int(old, key).is_some_and(|before| before < 0) && int(new, key) == Some(1)
            }
            "schedulingGates" => {
                let before = list(old, key);
                list(new, key).iter().all(|gate| before.contains(gate))
            }
            "nodeName" => subresource == Some("binding") && text(old, key).is_empty(),
            "nodeSelector" | "affinity" => !list(old, "schedulingGates").is_empty(),
            "ephemeralContainers" => subresource == Some("ephemeralcontainers"),
            _ => false,
        };
        if !allowed {
            changed.push(key);
        }
    }
    if !changed.is_empty() {
        changed.sort_unstable();
        errors.forbidden(&SPEC, format!("{CHANGE_RULE}\nchanged: {}", changed.join(", ")));
    }
}

/// The deadline may be set, and be brought forward.
fn check_deadline(new: &Value, old: &Value, errors: &mut FieldErrors) -> bool {
    let path = SPEC.child("activeDeadlineSeconds");
    match (int(new, "activeDeadlineSeconds"), int(old, "activeDeadlineSeconds")) {
        (Some(after), Some(before)) if after > before => {
            errors.invalid(&path, after, "must be less than or equal to previous value");
        }
        (None, Some(_)) => errors.invalid(&path, Value::Null, "must not update from a positive integer to nil value"),
        _ => {}
    }
    true
}

/// Whether the containers differ in `free` fields only.
fn same_containers(new: &[Value], old: &[Value], free: &[&str]) -> bool {
    new.len() == old.len()
        && new.iter().zip(old).all(|(new, old)| {
            let (Some(new_map), Some(old_map)) = (new.as_object(), old.as_object()) else { return new == old };
            new_map.keys().chain(old_map.keys()).all(|key| free.contains(&key.as_str()) || same(new, old, key))
        })
}

#[cfg(test)]
mod tests;
