//! A pod's priority comes from its class.

use std::sync::Arc;

use serde_json::Value;
use strategy::{
    cluster::SYSTEM_PRIORITY_CLASSES,
    tree::{self, flag, int, list, name, text},
};

use super::{AdmissionError, AdmissionRequest, ObjectReader, Operation};

const COLLECTION: &str = "scheduling.k8s.io/priorityclasses";
const PREEMPT: &str = "PreemptLowerPriority";

/// Completes a pod.
pub(super) fn admit_pod(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    pod: &mut Value,
) -> Result<(), AdmissionError> {
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return Ok(()) };
    if let (Operation::Update, Some(old)) = (request.operation, request.old) {
        let before = old.get("spec").unwrap_or(&Value::Null);
        for key in ["priority", "preemptionPolicy"] {
            if tree::some(spec, key).is_none() {
                tree::keep(spec, before, key);
            }
        }
        return Ok(());
    }
    let (value, policy) = resolve(reader, request, spec)?;
    match int(spec, "priority") {
        Some(given) if given != value => {
            return Err(AdmissionError::forbidden(
                request,
                format!(
                    "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
                ),
            ));
        }
        _ => tree::default_to(spec, "priority", value),
    }
    match text(spec, "preemptionPolicy") {
        "" => tree::default_to(spec, "preemptionPolicy", policy),
        given if given == policy => {}
        given => {
            return Err(AdmissionError::forbidden(
                request,
                format!(
                    "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
                ),
            ));
        }
    }
    Ok(())
}

/// Value and preemption policy of the pod's class; a pod without one gets the default class, when there is one.
fn resolve(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    spec: &mut Value,
) -> Result<(i64, String), AdmissionError> {
    let wanted = text(spec, "priorityClassName").to_owned();
    let class = if wanted.is_empty() {
        let Some(class) = default_class(reader) else { return Ok((0, PREEMPT.to_owned())) };
        tree::remove(spec, "priorityClassName");
        tree::default_to(spec, "priorityClassName", name(&class));
        class
    } else if let Some(class) = reader.get(COLLECTION, &wanted) {
        class
    } else if let Some((_, value, _)) = SYSTEM_PRIORITY_CLASSES.iter().find(|class| class.0 == wanted) {
        return Ok((*value, PREEMPT.to_owned()));
    } else {
        return Err(AdmissionError::forbidden(request, format!("no PriorityClass with name {wanted} was found")));
    };
    let policy = text(&class, "preemptionPolicy");
    Ok((int(&class, "value").unwrap_or(0), if policy.is_empty() { PREEMPT } else { policy }.to_owned()))
}

/// The default class; of several the one with the lowest value.
fn default_class(reader: &dyn ObjectReader) -> Option<Arc<Value>> {
    reader
        .list(COLLECTION, "")
        .into_iter()
        .filter(|class| flag(class, "globalDefault"))
        .min_by_key(|class| int(class, "value").unwrap_or(0))
}

/// Only one class can be the default.
pub(super) fn admit_class(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    class: &Value,
) -> Result<(), AdmissionError> {
    if !flag(class, "globalDefault") {
        return Ok(());
    }
    match default_class(reader) {
        Some(other) if name(&other) != name(class) => Err(AdmissionError::forbidden(
            request,
            format!("PriorityClass {} is already marked as default. Only one default can exist", name(&other)),
        )),
        _ => Ok(()),
    }
}

/// Seconds for which a pod stays on a node that is not ready or cannot be reached.
const TOLERATION_SECONDS: i64 = 300;
const NODE_TROUBLES: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Lets a pod stay for a while on a node in trouble, unless it says itself what it tolerates.
pub(super) fn tolerate_node_troubles(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    for key in NODE_TROUBLES {
        let tolerated = list(spec, "tolerations").iter().any(|toleration| {
            let (own, effect) = (text(toleration, "key"), text(toleration, "effect"));
            (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if tolerated {
            continue;
        }
        let toleration = serde_json::json!({
            "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS
        });
        match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
            Some(tolerations) => tolerations.push(toleration),
            None => spec["tolerations"] = vec![toleration].into(),
        }
    }
}
