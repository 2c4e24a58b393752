//! One object, several versions: what differs between the stored form and the version a client speaks.
//!
//! Most resources have one version. Events answer in two groups, autoscalers in two versions, and custom resources (with
//! conversion strategy `None`) differ in `apiVersion` only. What a webhook
//! converts is done before and after ([`crate::conversion`]): here nothing is left to do.

use kinds::Resource;
use serde_json::{Map, Value, json};

use crate::crd::{Definition, Version};

/// How a served version relates to the stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// They are the same.
    Stored,
    /// Only `apiVersion` differs.
    Relabelled,
    /// A webhook knows.
    Webhook,
    /// `events.k8s.io` over a stored core event.
    Event,
    /// `autoscaling/v1` over a stored `autoscaling/v2`.
    Autoscaler,
}

impl Form {
    /// Form, collection and stored `apiVersion` of a built-in resource.
    pub(crate) fn of_builtin(resource: &Resource) -> (Self, String, String) {
        match (resource.group.as_str(), resource.version.as_str(), resource.plural.as_str()) {
            ("events.k8s.io", _, "events") => (Self::Event, "core/events".into(), "v1".into()),
            ("autoscaling", "v1", "horizontalpodautoscalers") => {
                (Self::Autoscaler, resource.collection(), "autoscaling/v2".into())
            }
            _ => (Self::Stored, resource.collection(), resource.api_version()),
        }
    }

    /// Form of a version of a custom resource. Where older objects are still stored in another version, even the version
    /// that is stored now has to be looked at.
    pub(crate) fn of_custom(definition: &Definition, version: &Version) -> Self {
        if version.storage && definition.uniform {
            Self::Stored
        } else if definition.conversion.is_some() {
            Self::Webhook
        } else {
            Self::Relabelled
        }
    }

    /// Turns what a client sent into the stored form.
    pub(crate) fn to_stored(self, object: &mut Value, stored_api_version: &str) {
        match self {
            Self::Stored | Self::Webhook => return,
            Self::Relabelled => {}
            Self::Event => rename(object, EVENT_FIELDS.map(|(core, own)| (own, core))),
            Self::Autoscaler => autoscaler_to_v2(object),
        }
        object["apiVersion"] = stored_api_version.into();
    }

    /// Turns the stored form into the version served.
    pub(crate) fn to_served(self, object: &mut Value, api_version: &str) {
        match self {
            Self::Stored | Self::Webhook => return,
            Self::Relabelled => {}
            Self::Event => rename(object, EVENT_FIELDS),
            Self::Autoscaler => autoscaler_to_v1(object),
        }
        object["apiVersion"] = api_version.into();
    }
}

/// Fields of a core event and what `events.k8s.io` calls them.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename<const N: usize>(object: &mut Value, names: [(&str, &str); N]) {
    let Some(map) = object.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}

fn autoscaler_to_v2(object: &mut Value) {
    let target = object.get_mut("spec").and_then(Value::as_object_mut).and_then(|spec| {
        let target = spec.remove("targetCPUUtilizationPercentage")?;
        let resource = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}});
        spec.insert("metrics".into(), json!([{"type": "Resource", "resource": resource}]));
        Some(())
    });
    let current = object.get_mut("status").and_then(Value::as_object_mut).and_then(|status| {
        let current = status.remove("currentCPUUtilizationPercentage")?;
        let resource = json!({"name": "cpu", "current": {"averageUtilization": current, "averageValue": "0"}});
        status.insert("currentMetrics".into(), json!([{"type": "Resource", "resource": resource}]));
        Some(())
    });
    // both are optional; there is nothing to do where they are absent
    let _ = (target, current);
}

fn autoscaler_to_v1(object: &mut Value) {
    let cpu = |metrics: &Value, value: &str| {
        let cpu = metrics.as_array()?.iter().find(|metric| metric["resource"]["name"] == "cpu")?;
        cpu["resource"][value]["averageUtilization"].as_i64()
    };
    let part = |object: &mut Value, part: &str, list: &str, value: &str, name: &str| {
        let Some(map) = object.get_mut(part).and_then(Value::as_object_mut) else { return };
        let metrics = map.remove(list).unwrap_or_default();
        if let Some(percent) = cpu(&metrics, value) {
            map.insert(name.into(), percent.into());
        }
    };
    part(object, "spec", "metrics", "target", "targetCPUUtilizationPercentage");
    part(object, "status", "currentMetrics", "current", "currentCPUUtilizationPercentage");
    for (part, field) in [("spec", "behavior"), ("status", "conditions")] {
        object.get_mut(part).and_then(Value::as_object_mut).and_then(|map: &mut Map<String, Value>| map.remove(field));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_in_both_groups() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "a"}, "message": "m",
            "reportingComponent": "c", "reason": "r", "count": 2});
        let mut other = core.clone();
        Form::Event.to_served(&mut other, "events.k8s.io/v1");
        assert_eq!(other["regarding"]["name"], "a");
        assert_eq!(other["note"], "m");
        assert_eq!(other["apiVersion"], "events.k8s.io/v1");
        Form::Event.to_stored(&mut other, "v1");
        assert_eq!(other, core);
    }

    #[test]
    fn the_cpu_target_survives_the_older_version() {
        let mut object =
            json!({"apiVersion": "autoscaling/v1", "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}});
        let before = object.clone();
        Form::Autoscaler.to_stored(&mut object, "autoscaling/v2");
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        Form::Autoscaler.to_served(&mut object, "autoscaling/v1");
        assert_eq!(object, before);
    }
}
