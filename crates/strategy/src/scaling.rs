//! HorizontalPodAutoscalers and PodDisruptionBudgets.

use serde_json::{Value, json};

use super::{
    Strategy, WriteContext, names,
    pod_spec::validate_label_selector,
    tree::{self, default_to, int, list, some, text},
};
use crate::field_error::{FieldErrors, Path};

mod metrics;

const SPEC: Path<'static> = Path::new("spec");
/// Processor use, in percent of the request, that an autoscaler without metrics keeps.
const CPU_PERCENT: i64 = 80;

/// HorizontalPodAutoscalers.
pub(super) struct Autoscaler;

impl Strategy for Autoscaler {
    fn default(&self, object: &mut Value) {
        let second = text(object, "apiVersion") == "autoscaling/v2";
        let Some(spec) = tree::child_mut(object, "spec") else { return };
        default_to(spec, "minReplicas", 1);
        if second && list(spec, "metrics").is_empty() {
            tree::remove(spec, "metrics");
            let target = json!({"type": "Utilization", "averageUtilization": CPU_PERCENT});
            default_to(spec, "metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
        }
        default_behavior(spec);
    }

    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), json!({"currentReplicas": 0, "desiredReplicas": 0}));
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let (least, most) = (int(spec, "minReplicas").unwrap_or(1), int(spec, "maxReplicas").unwrap_or(0));
        if least < 1 {
            errors.invalid(&SPEC.child("minReplicas"), least, "must be greater than or equal to 1");
        }
        if most < 1 {
            errors.invalid(&SPEC.child("maxReplicas"), most, "must be greater than 0");
        }
        if most < least {
            errors.invalid(&SPEC.child("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
        }
        let target = spec.get("scaleTargetRef").unwrap_or(&Value::Null);
        validate_reference(target, &SPEC.child("scaleTargetRef"), errors);
        metrics::validate(spec, &SPEC, errors);
        metrics::validate_behavior(spec, &SPEC, errors);
    }
}

/// Checks a reference to an object of the same namespace.
fn validate_reference(target: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for key in ["kind", "name"] {
        let value = text(target, key);
        if value.is_empty() {
            errors.required(&path.child(key), "");
        } else if let Some(message) = names::path_segment(value, false) {
            errors.invalid(&path.child(key), value, message);
        }
    }
    let version = text(target, "apiVersion");
    if version.split('/').count() > 2 {
        errors.invalid(&path.child("apiVersion"), version, format!("unexpected GroupVersion string: {version}"));
    }
}

/// What an autoscaler whose behaviour is given in part does in the rest: up at once, by four pods or double, whichever is
/// more; down to any size.
fn default_behavior(spec: &mut Value) {
    let Some(behavior) = spec.get_mut("behavior").filter(|behavior| behavior.is_object()) else { return };
    let up = json!([
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ]);
    let down = json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]);
    for (direction, policies) in [("scaleUp", up), ("scaleDown", down)] {
        let Some(rules) = tree::child_mut(behavior, direction) else { continue };
        default_to(rules, "selectPolicy", "Max");
        if direction == "scaleUp" {
            default_to(rules, "stabilizationWindowSeconds", 0);
        }
        if list(rules, "policies").is_empty() {
            tree::remove(rules, "policies");
            default_to(rules, "policies", policies);
        }
    }
}

/// PodDisruptionBudgets.
pub(super) struct DisruptionBudget;

impl Strategy for DisruptionBudget {
    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        let status = json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), status);
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        if some(spec, "minAvailable").is_some() && some(spec, "maxUnavailable").is_some() {
            errors.invalid(&SPEC, spec.clone(), "minAvailable and maxUnavailable cannot be both set");
        }
        for key in ["minAvailable", "maxUnavailable"] {
            let Some(value) = some(spec, key) else { continue };
            let path = SPEC.child(key);
            if let Some(number) = value.as_i64() {
                if number < 0 {
                    errors.invalid(&path, number, "must be greater than or equal to 0");
                }
                continue;
            }
            let share =
                value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|text| text.parse::<u32>().ok());
            match share {
                None => errors.invalid(
                    &path,
                    value.clone(),
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                ),
                Some(share) if share > 100 => errors.invalid(&path, value.clone(), "must not be greater than 100%"),
                Some(_) => {}
            }
        }
        if let Some(selector) = some(spec, "selector") {
            validate_label_selector(selector, &SPEC.child("selector"), errors);
        }
        let policy = text(spec, "unhealthyPodEvictionPolicy");
        if !["", "AlwaysAllow", "IfHealthyBudget"].contains(&policy) {
            let path = SPEC.child("unhealthyPodEvictionPolicy");
            errors.not_supported(&path, policy, &["AlwaysAllow", "IfHealthyBudget"]);
        }
    }
}
