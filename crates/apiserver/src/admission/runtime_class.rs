//! A pod's runtime class says what it costs to run it so, and where that is possible.

use std::sync::Arc;

use serde_json::Value;
use strategy::{
    parse_quantity,
    tree::{self, at, int, list, map, some, text},
};

use super::{AdmissionError, AdmissionRequest, ObjectReader};

/// Completes a new pod with its class's overhead, node selector and tolerations.
pub(super) fn complete(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    pod: &mut Value,
) -> Result<(), AdmissionError> {
    let Some(class) = class(reader, request, pod)? else { return Ok(()) };
    let Some(spec) = pod.get_mut("spec") else { return Ok(()) };
    if let Some(overhead) = at(&class, &["overhead", "podFixed"]) {
        if some(spec, "overhead").is_some_and(|own| !same_amounts(own, overhead)) {
            return Err(AdmissionError::forbidden(request, MISMATCH));
        }
        spec["overhead"] = overhead.clone();
    }
    let Some(scheduling) = some(&class, "scheduling") else { return Ok(()) };
    for (key, value) in map(scheduling, "nodeSelector") {
        let wanted = value.as_str().unwrap_or_default();
        if let Some(own) = map(spec, "nodeSelector").get(key).and_then(Value::as_str)
            && own != wanted
        {
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {own}"
            );
            return Err(AdmissionError::forbidden(request, why));
        }
        if let Some(selector) = tree::map_mut(spec, "nodeSelector") {
            selector.insert(key.clone(), value.clone());
        }
    }
    if !list(scheduling, "tolerations").is_empty() {
        spec["tolerations"] = merged(list(spec, "tolerations"), list(scheduling, "tolerations")).into();
    }
    Ok(())
}

/// A pod says its class's overhead, and no other.
pub(super) fn check(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    pod: &Value,
) -> Result<(), AdmissionError> {
    let class = class(reader, request, pod)?;
    let own = at(pod, &["spec", "overhead"]);
    match class.as_ref().and_then(|class| at(class, &["overhead", "podFixed"])) {
        Some(overhead) if own.is_some_and(|own| same_amounts(own, overhead)) => Ok(()),
        Some(_) => Err(AdmissionError::forbidden(request, MISMATCH)),
        None if own.is_some_and(|own| !tree::is_empty(own)) => Err(AdmissionError::forbidden(
            request,
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        )),
        None => Ok(()),
    }
}

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

fn class(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    pod: &Value,
) -> Result<Option<Arc<Value>>, AdmissionError> {
    let name = tree::text_at(pod, &["spec", "runtimeClassName"]);
    if name.is_empty() {
        return Ok(None);
    }
    let class = reader.get("node.k8s.io/runtimeclasses", name);
    let missing = || AdmissionError::forbidden(request, format!("pod rejected: RuntimeClass {name:?} not found"));
    class.ok_or_else(missing).map(Some)
}

fn same_amounts(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else { return one == other };
    one.len() == other.len()
        && one.iter().all(|(name, amount)| parse_quantity(amount) == other.get(name).and_then(parse_quantity))
}

/// Both lists, without what another toleration covers.
fn merged(own: &[Value], of_class: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = own.iter().chain(of_class).collect();
    let mut kept: Vec<Value> = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let before = kept.iter().any(|other| covers(other, toleration));
        let later = all[index + 1..].iter().any(|other| other != toleration && covers(other, toleration));
        if !before && !later {
            kept.push((*toleration).clone());
        }
    }
    kept
}

/// Whether `wide` tolerates all that `narrow` does.
fn covers(wide: &Value, narrow: &Value) -> bool {
    if wide == narrow {
        return true;
    }
    let differs = |key: &str| text(wide, key) != text(narrow, key);
    let exists = text(wide, "operator") == "Exists";
    if differs("key") && !(text(wide, "key").is_empty() && exists) {
        return false;
    }
    if differs("effect") && !text(wide, "effect").is_empty() {
        return false;
    }
    if text(wide, "effect") == "NoExecute"
        && let Some(seconds) = int(wide, "tolerationSeconds")
        && int(narrow, "tolerationSeconds").is_none_or(|own| own > seconds)
    {
        return false;
    }
    exists || (text(narrow, "operator") != "Exists" && !differs("value"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::tests::Cluster;
    use strategy::User;

    use crate::testing::resource;

    fn complete_and_check(class: Value, spec: Value) -> Result<Value, String> {
        let cluster = Cluster::default().with("node.k8s.io/runtimeclasses", "vm", class);
        let (pods, user) = (resource("", "pods"), User::new("u", &[]));
        let request = AdmissionRequest { name: "p", ..crate::admission::tests::request(&pods, &user) };
        let mut pod = json!({"spec": spec});
        complete(&cluster, &request, &mut pod).map_err(|error| error.to_string())?;
        check(&cluster, &request, &pod).map_err(|error| error.to_string())?;
        Ok(pod["spec"].take())
    }

    #[test]
    fn a_class_brings_overhead_selector_and_tolerations() {
        let class = json!({"overhead": {"podFixed": {"cpu": "250m"}}, "scheduling": {"nodeSelector": {"vm": "yes"},
            "tolerations": [{"key": "vm", "operator": "Exists"}, {"key": "a", "value": "b"}]}});
        let spec = complete_and_check(
            class.clone(),
            json!({"runtimeClassName": "vm", "tolerations": [{"key": "vm", "value": "x"}], "nodeSelector": {"z": "1"}}),
        )
        .unwrap();
        assert_eq!(spec["overhead"], json!({"cpu": "250m"}));
        assert_eq!(spec["nodeSelector"], json!({"vm": "yes", "z": "1"}));
        assert_eq!(spec["tolerations"], json!([{"key": "vm", "operator": "Exists"}, {"key": "a", "value": "b"}]));
        let same = json!({"runtimeClassName": "vm", "overhead": {"cpu": "0.25"}});
        assert!(complete_and_check(class.clone(), same).is_ok());
        for (spec, why) in [
            (json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}), MISMATCH),
            (
                json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
                "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
            ),
            (json!({"runtimeClassName": "none"}), "pod rejected: RuntimeClass \"none\" not found"),
            (
                json!({"overhead": {"cpu": "1"}}),
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ),
        ] {
            assert_eq!(complete_and_check(class.clone(), spec).unwrap_err(), format!("pods \"p\" is forbidden: {why}"));
        }
    }

    #[test]
    fn the_wider_toleration_stays() {
        let wide = json!({"operator": "Exists"});
        let narrow = json!({"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"});
        assert!(covers(&wide, &narrow) && !covers(&narrow, &wide));
        let brief = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let long = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9});
        assert!(covers(&long, &brief) && !covers(&brief, &long));
    }
}
