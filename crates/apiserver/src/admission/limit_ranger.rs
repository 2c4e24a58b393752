//! What the LimitRanges of a namespace give to containers, and forbid.

use std::sync::Arc;

use schema::quantity::Quantity;
use serde_json::Value;

use super::{AdmissionError, AdmissionRequest, ObjectReader};
use crate::strategy::{
    parse_quantity,
    tree::{self, list, map, text},
};

/// Says on the pod what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Completes and checks a new pod.
pub(super) fn admit_pod(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    pod: &mut Value,
) -> Result<(), AdmissionError> {
    let ranges = reader.list("core/limitranges", &format!("{}/", request.namespace));
    if ranges.is_empty() {
        return Ok(());
    }
    let mut set = Vec::new();
    for limit in limits(&ranges).filter(|limit| text(limit, "type") == "Container") {
        for (key, kind) in [("containers", "container"), ("initContainers", "init container")] {
            let Some(spec) = pod.get_mut("spec") else { continue };
            for container in tree::list_mut(spec, key) {
                fill(container, kind, limit, &mut set);
            }
        }
    }
    if !set.is_empty()
        && let Some(annotations) = pod.get_mut("metadata").and_then(|metadata| tree::map_mut(metadata, "annotations"))
    {
        annotations.insert(ANNOTATION.to_owned(), format!("LimitRanger plugin set: {}", set.join("; ")).into());
    }
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut broken = Vec::new();
    for limit in limits(&ranges) {
        match text(limit, "type") {
            "Container" => {
                for container in list(spec, "containers").iter().chain(list(spec, "initContainers")) {
                    let resources = container.get("resources").unwrap_or(&Value::Null);
                    let amount = |list: &str, name: &str| map(resources, list).get(name).and_then(parse_quantity);
                    check(limit, "Container", amount, &mut broken);
                }
            }
            "Pod" => check(limit, "Pod", |list, name| pod_total(spec, list, name), &mut broken),
            _ => {}
        }
    }
    refuse(request, &broken)
}

/// Checks a new PersistentVolumeClaim.
pub(super) fn admit_claim(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    claim: &Value,
) -> Result<(), AdmissionError> {
    let ranges = reader.list("core/limitranges", &format!("{}/", request.namespace));
    let resources = tree::at(claim, &["spec", "resources"]).unwrap_or(&Value::Null);
    let mut broken = Vec::new();
    for limit in limits(&ranges).filter(|limit| text(limit, "type") == "PersistentVolumeClaim") {
        // A claim has requests only; they count as limits too.
        let amount = |_: &str, name: &str| map(resources, "requests").get(name).and_then(parse_quantity);
        check(limit, "PersistentVolumeClaim", amount, &mut broken);
    }
    refuse(request, &broken)
}

fn limits(ranges: &[Arc<Value>]) -> impl Iterator<Item = &Value> {
    ranges.iter().filter_map(|range| range.get("spec")).flat_map(|spec| list(spec, "limits"))
}

fn refuse(request: &AdmissionRequest<'_>, broken: &[String]) -> Result<(), AdmissionError> {
    match broken {
        [] => Ok(()),
        [one] => Err(AdmissionError::forbidden(request, one.as_str())),
        several => Err(AdmissionError::forbidden(request, format!("[{}]", several.join(", ")))),
    }
}

fn fill(container: &mut Value, kind: &str, limit: &Value, set: &mut Vec<String>) {
    let name = text(container, "name").to_owned();
    for (source, target, word) in [("defaultRequest", "requests", "request"), ("default", "limits", "limit")] {
        let defaults = map(limit, source);
        if defaults.is_empty() || !container.is_object() {
            continue;
        }
        let Some(amounts) =
            tree::child_mut(container, "resources").and_then(|resources| tree::map_mut(resources, target))
        else {
            continue;
        };
        for (resource, amount) in defaults {
            if !amounts.contains_key(resource) {
                amounts.insert(resource.clone(), amount.clone());
                set.push(format!("{resource} {word} for {kind} {name}"));
            }
        }
    }
}

/// What all containers need together: they run at once, init containers one after the other before them.
fn pod_total(spec: &Value, list_name: &str, resource: &str) -> Option<Quantity> {
    let amount = |container: &Value| map(container.get("resources")?, list_name).get(resource).and_then(parse_quantity);
    let main = list(spec, "containers").iter().filter_map(amount).reduce(|sum, next| sum.plus(&next));
    let init = list(spec, "initContainers").iter().filter_map(amount).max();
    main.max(init)
}

fn check(limit: &Value, kind: &str, amount: impl Fn(&str, &str) -> Option<Quantity>, broken: &mut Vec<String>) {
    for (name, bound) in map(limit, "min") {
        let Some(bound) = parse_quantity(bound) else { continue };
        let rule = format!("minimum {name} usage per {kind} is {bound}");
        match (amount("requests", name), amount("limits", name)) {
            (None, _) => broken.push(format!("{rule}.  No request is specified")),
            (Some(request), _) if request < bound => broken.push(format!("{rule}, but request is {request}")),
            (Some(_), Some(limit)) if limit < bound => broken.push(format!("{rule}, but limit is {limit}")),
            (Some(_), _) => {}
        }
    }
    for (name, bound) in map(limit, "max") {
        let Some(bound) = parse_quantity(bound) else { continue };
        let rule = format!("maximum {name} usage per {kind} is {bound}");
        match (amount("limits", name), amount("requests", name)) {
            (None, _) => broken.push(format!("{rule}.  No limit is specified")),
            (Some(limit), _) if limit > bound => broken.push(format!("{rule}, but limit is {limit}")),
            (Some(_), Some(request)) if request > bound => broken.push(format!("{rule}, but request is {request}")),
            (Some(_), _) => {}
        }
    }
    for (name, bound) in map(limit, "maxLimitRequestRatio") {
        let (Some(bound), Some(limit), Some(request)) =
            (parse_quantity(bound), amount("limits", name), amount("requests", name))
        else {
            continue;
        };
        if request.is_zero() {
            continue;
        }
        #[expect(clippy::cast_precision_loss, reason = "a ratio for a reader needs no more than fifty bits")]
        let (ratio, most) = (limit.millis() as f64 / request.millis() as f64, bound.millis() as f64 / 1000.0);
        if ratio > most {
            broken.push(format!(
                "{name} max limit to request ratio per {kind} is {bound}, but provided ratio is {ratio:.6}"
            ));
        }
    }
}
