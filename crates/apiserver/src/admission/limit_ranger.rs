//! What the LimitRanges of a namespace give to containers, and forbid.
//!
//! [`complete`] fills in defaults, [`check`] judges the outcome. Every LimitRange is judged for itself: the first that is
//! broken is told of, with all that breaks it.

use std::{collections::BTreeMap, sync::Arc};

use schema::quantity::Quantity;
use serde_json::Value;
use strategy::{
    parse_quantity,
    tree::{self, list, map, text},
};

use super::{AdmissionError, AdmissionRequest, ObjectReader};

/// Says on the pod what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Amounts by resource.
type Amounts = BTreeMap<String, Quantity>;

/// Completes a new or resized pod.
pub(super) fn complete(reader: &dyn ObjectReader, request: &AdmissionRequest<'_>, pod: &mut Value) {
    for range in ranges(reader, request) {
        let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
        for limit in limits_of(&range).iter().filter(|limit| text(limit, "type") == "Container") {
            requests.extend(map(limit, "defaultRequest"));
            limits.extend(map(limit, "default"));
        }
        if requests.is_empty() && limits.is_empty() {
            continue;
        }
        let mut set = Vec::new();
        for (key, kind) in [("containers", "container"), ("initContainers", "init container")] {
            let Some(spec) = pod.get_mut("spec") else { continue };
            for container in tree::list_mut(spec, key) {
                fill(container, "requests", &requests, kind, "request", &mut set);
                fill(container, "limits", &limits, kind, "limit", &mut set);
            }
        }
        if !set.is_empty()
            && let Some(annotations) =
                pod.get_mut("metadata").and_then(|metadata| tree::map_mut(metadata, "annotations"))
        {
            annotations.insert(ANNOTATION.to_owned(), format!("LimitRanger plugin set: {}", set.join("; ")).into());
        }
    }
}

/// Checks a pod that is created or resized, or a claim that is created or changed.
pub(super) fn check(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    object: &Value,
) -> Result<(), AdmissionError> {
    if request.old.is_some_and(|old| tree::at(old, &["metadata", "deletionTimestamp"]).is_some()) {
        return Ok(());
    }
    let judge = match request.resource.plural.as_str() {
        "pods" => check_pod,
        _ => check_claim,
    };
    for range in ranges(reader, request) {
        let mut broken = Vec::new();
        for limit in limits_of(&range) {
            judge(limit, object, &mut broken);
        }
        match broken.as_slice() {
            [] => {}
            [one] => return Err(AdmissionError::forbidden(request, one.as_str())),
            several => return Err(AdmissionError::forbidden(request, format!("[{}]", several.join(", ")))),
        }
    }
    Ok(())
}

fn ranges(reader: &dyn ObjectReader, request: &AdmissionRequest<'_>) -> Vec<Arc<Value>> {
    reader.list("core/limitranges", &format!("{}/", request.namespace))
}

fn limits_of(range: &Value) -> &[Value] {
    range.get("spec").map_or(&[], |spec| list(spec, "limits"))
}

fn fill(
    container: &mut Value,
    target: &str,
    defaults: &BTreeMap<&String, &Value>,
    kind: &str,
    word: &str,
    set: &mut Vec<String>,
) {
    let name = text(container, "name").to_owned();
    if defaults.is_empty() || !container.is_object() {
        return;
    }
    let Some(amounts) = tree::child_mut(container, "resources").and_then(|resources| tree::map_mut(resources, target))
    else {
        return;
    };
    let mut filled = Vec::new();
    for (resource, amount) in defaults {
        if !amounts.contains_key(*resource) {
            amounts.insert((*resource).clone(), (*amount).clone());
            filled.push(resource.as_str());
        }
    }
    if !filled.is_empty() {
        set.push(format!("{} {word} for {kind} {name}", filled.join(", ")));
    }
}

fn amounts(resources: &Value, what: &str) -> Amounts {
    map(resources, what).iter().filter_map(|(name, value)| Some((name.clone(), parse_quantity(value)?))).collect()
}

fn check_pod(limit: &Value, pod: &Value, broken: &mut Vec<String>) {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    match text(limit, "type") {
        "Container" => {
            for container in list(spec, "containers").iter().chain(list(spec, "initContainers")) {
                let resources = container.get("resources").unwrap_or(&Value::Null);
                let (requests, limits) = (amounts(resources, "requests"), amounts(resources, "limits"));
                Judge { kind: "Container", requests: &requests, limits: &limits, broken }.all(limit);
            }
        }
        "Pod" => {
            let (requests, limits) = (total(spec, "requests"), total(spec, "limits"));
            Judge { kind: "Pod", requests: &requests, limits: &limits, broken }.all(limit);
        }
        _ => {}
    }
}

/// A claim has requests only.
fn check_claim(limit: &Value, claim: &Value, broken: &mut Vec<String>) {
    let kind = "PersistentVolumeClaim";
    if text(limit, "type") != kind {
        return;
    }
    let resources = tree::at(claim, &["spec", "resources"]).unwrap_or(&Value::Null);
    let requests = amounts(resources, "requests");
    let mut judge = Judge { kind, requests: &requests, limits: &Amounts::new(), broken };
    judge.min(limit);
    for (name, bound) in amounts(limit, "max") {
        let rule = format!("maximum {name} usage per {kind} is {bound}");
        match requests.get(&name) {
            None => judge.broken.push(format!("{rule}.  No request is specified")),
            Some(request) if *request > bound => judge.broken.push(format!("{rule}, but request is {request}")),
            Some(_) => {}
        }
    }
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.get(name).map_or(*amount, |own| own.plus(amount));
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let own = total.entry(name.clone()).or_insert(*amount);
        *own = (*own).max(*amount);
    }
}

/// What all containers need together: they and the sidecars run at once, other init containers one after the other
/// beside the sidecars started before. Amounts for the pod as a whole stand in for the sum.
fn total(spec: &Value, what: &str) -> Amounts {
    let of = |container: &Value| container.get("resources").map(|own| amounts(own, what)).unwrap_or_default();
    let (mut running, mut sidecars, mut starting) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in list(spec, "containers") {
        add(&mut running, &of(container));
    }
    for container in list(spec, "initContainers") {
        let mut own = of(container);
        if text(container, "restartPolicy") == "Always" {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            raise(&mut starting, &sidecars);
        } else {
            add(&mut own, &sidecars);
            raise(&mut starting, &own);
        }
    }
    raise(&mut running, &starting);
    running.extend(of(spec));
    running
}

/// One object's amounts under judgement.
struct Judge<'a> {
    kind: &'a str,
    requests: &'a Amounts,
    limits: &'a Amounts,
    broken: &'a mut Vec<String>,
}

impl Judge<'_> {
    fn all(&mut self, limit: &Value) {
        self.min(limit);
        self.max(limit);
        self.ratio(limit);
    }

    fn min(&mut self, limit: &Value) {
        for (name, bound) in amounts(limit, "min") {
            let rule = format!("minimum {name} usage per {} is {bound}", self.kind);
            let what = match (self.requests.get(&name), self.limits.get(&name)) {
                (None, _) => ".  No request is specified".to_owned(),
                (Some(request), _) if *request < bound => format!(", but request is {request}"),
                (Some(_), Some(limit)) if *limit < bound => format!(", but limit is {limit}"),
                (Some(_), _) => continue,
            };
            self.broken.push(rule + &what);
        }
    }

    fn max(&mut self, limit: &Value) {
        for (name, bound) in amounts(limit, "max") {
            let rule = format!("maximum {name} usage per {} is {bound}", self.kind);
            let what = match (self.limits.get(&name), self.requests.get(&name)) {
                (None, _) => ".  No limit is specified".to_owned(),
                (Some(limit), _) if *limit > bound => format!(", but limit is {limit}"),
                (Some(_), Some(request)) if *request > bound => format!(", but request is {request}"),
                (Some(_), _) => continue,
            };
            self.broken.push(rule + &what);
        }
    }

    fn ratio(&mut self, limit: &Value) {
        for (name, bound) in amounts(limit, "maxLimitRequestRatio") {
            let rule = format!("{name} max limit to request ratio per {} is {bound}", self.kind);
            let some = |amounts: &Amounts| amounts.get(&name).copied().filter(|amount| !amount.is_zero());
            let Some(request) = some(self.requests) else {
                self.broken.push(format!("{rule}, but no request is specified or request is 0"));
                continue;
            };
            let Some(limit) = some(self.limits) else {
                self.broken.push(format!("{rule}, but no limit is specified or limit is 0"));
                continue;
            };
            #[expect(clippy::cast_precision_loss, reason = "a ratio for a reader needs no more than fifty bits")]
            let (ratio, most) = (limit.millis() as f64 / request.millis() as f64, bound.millis() as f64 / 1000.0);
            if ratio > most {
                self.broken.push(format!("{rule}, but provided ratio is {ratio:.6}"));
            }
        }
    }
}
