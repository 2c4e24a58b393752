//! Which part of the objects a quota is about.

use serde_json::Value;

use crate::{Kind, list, pod, text};

/// What scopes ask about an object.
#[derive(Clone, Debug)]
pub(crate) enum Scopes {
    /// A pod.
    Pod {
        /// It has a deadline.
        terminating: bool,
        /// It asks for no CPU and no memory.
        best_effort: bool,
        /// Its priority class.
        class: Option<String>,
        /// Its affinity looks into other namespaces.
        cross_namespace: bool,
    },
    /// A claim, with the attribute classes it has or is about to get.
    Claim(Vec<String>),
    /// An object that is in no scope.
    None,
}

impl Scopes {
    pub(crate) fn of(kind: &Kind, object: &Value) -> Self {
        match kind {
            Kind::Pods => Self::Pod {
                terminating: object
                    .pointer("/spec/activeDeadlineSeconds")
                    .and_then(Value::as_i64)
                    .is_some_and(|s| s >= 0),
                best_effort: pod::is_best_effort(object),
                class: Some(text(object, "/spec/priorityClassName")).filter(|c| !c.is_empty()).map(str::to_owned),
                cross_namespace: looks_into_other_namespaces(object),
            },
            Kind::Claims => {
                let places = [
                    "/spec/volumeAttributesClassName",
                    "/status/currentVolumeAttributesClassName",
                    "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
                ];
                let names = places.iter().map(|place| text(object, place)).filter(|name| !name.is_empty());
                Self::Claim(names.map(str::to_owned).collect())
            }
            Kind::Services | Kind::Other(_) => Self::None,
        }
    }

    /// Whether the object is in all scopes that a quota's spec names.
    pub(crate) fn satisfy(&self, spec: &Value) -> bool {
        let plain =
            list(spec, "/scopes").iter().filter_map(Value::as_str).all(|scope| self.is_in(scope, "Exists", &[]));
        plain
            && list(spec, "/scopeSelector/matchExpressions").iter().all(|selector| {
                let values: Vec<&str> = list(selector, "/values").iter().filter_map(Value::as_str).collect();
                self.is_in(text(selector, "/scopeName"), text(selector, "/operator"), &values)
            })
    }

    fn is_in(&self, scope: &str, operator: &str, values: &[&str]) -> bool {
        match (self, scope) {
            (Self::Pod { terminating, .. }, "Terminating") => *terminating,
            (Self::Pod { terminating, .. }, "NotTerminating") => !terminating,
            (Self::Pod { best_effort, .. }, "BestEffort") => *best_effort,
            (Self::Pod { best_effort, .. }, "NotBestEffort") => !best_effort,
            (Self::Pod { class, .. }, "PriorityClass") => selects(operator, values, class.as_deref()),
            (Self::Pod { cross_namespace, .. }, "CrossNamespacePodAffinity") => *cross_namespace,
            (Self::Claim(classes), "VolumeAttributesClass") if classes.is_empty() => selects(operator, values, None),
            (Self::Claim(classes), "VolumeAttributesClass") => {
                classes.iter().any(|class| selects(operator, values, Some(class)))
            }
            _ => false,
        }
    }
}

/// What a label selector's operator says about a name that may be absent.
fn selects(operator: &str, values: &[&str], name: Option<&str>) -> bool {
    let listed = name.is_some_and(|name| values.contains(&name));
    match operator {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => name.is_some(),
        "DoesNotExist" => name.is_none(),
        _ => false,
    }
}

fn looks_into_other_namespaces(pod: &Value) -> bool {
    let elsewhere = |term: &Value| {
        !list(term, "/namespaces").is_empty() || term.get("namespaceSelector").is_some_and(|s| !s.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let Some(affinity) = pod.pointer(&format!("/spec/affinity/{kind}")) else { return false };
        let required = list(affinity, "/requiredDuringSchedulingIgnoredDuringExecution").iter().any(elsewhere);
        let preferred = list(affinity, "/preferredDuringSchedulingIgnoredDuringExecution").iter();
        required || preferred.filter_map(|term| term.get("podAffinityTerm")).any(elsewhere)
    })
}
