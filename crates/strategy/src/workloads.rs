//! Deployments, ReplicaSets, StatefulSets, DaemonSets and ReplicationControllers: what keeps pods of a template running.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::{
    Propagation, Strategy, WriteContext, metadata, pod_spec,
    pod_spec::NON_NEGATIVE,
    tree::{self, default_to, int, list, map, same, some, text, text_at},
};
use crate::field_error::{FieldErrors, Path};

mod template_generation;
#[cfg(test)]
mod tests;

const SPEC: Path<'static> = Path::new("spec");
/// What the name of a controller of pods becomes.
/// What is counted in the status of workloads.
const COUNTS: [&str; 13] = [
    "replicas",
    "readyReplicas",
    "availableReplicas",
    "updatedReplicas",
    "fullyLabeledReplicas",
    "terminatingReplicas",
    "currentNumberScheduled",
    "desiredNumberScheduled",
    "numberMisscheduled",
    "numberReady",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
];
pub(super) const NAMES_OF_PODS: &str = "Pod names and hostnames";

/// Which of the workload kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    Deployment,
    ReplicaSet,
    StatefulSet,
    DaemonSet,
    ReplicationController,
}

impl Strategy for Workload {
    fn default(&self, object: &mut Value) {
        if *self == Self::ReplicationController {
            default_from_template(object);
        }
        if *self == Self::DaemonSet {
            template_generation::default(object);
        }
        let Some(spec) = tree::child_mut(object, "spec") else { return };
        if *self != Self::DaemonSet {
            default_to(spec, "replicas", 1);
        }
        if let Some(template) = spec.get_mut("template").filter(|template| template.is_object()) {
            tree::child_mut(template, "metadata");
            if let Some(pod) = tree::child_mut(template, "spec") {
                pod_spec::default_spec(pod);
            }
        }
        match self {
            Self::Deployment => default_deployment(spec),
            Self::StatefulSet => default_stateful_set(spec),
            Self::DaemonSet => {
                default_to(spec, "revisionHistoryLimit", 10);
                default_rolling_update(spec, "updateStrategy", &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))]);
            }
            Self::ReplicaSet | Self::ReplicationController => {}
        }
    }

    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn status_keeps(&self) -> &'static [&'static str] {
        match self {
            Self::Deployment => &["labels"],
            _ => &[],
        }
    }

    fn resets(&self, subresource: &str) -> &'static [&'static str] {
        match (self, subresource) {
            (Self::Deployment, "status") => &["spec", "metadata.labels"],
            (_, "status") => &["spec"],
            _ => &["status"],
        }
    }

    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        let status = match self {
            Self::Deployment => json!({}),
            Self::ReplicaSet | Self::ReplicationController => json!({"replicas": 0}),
            Self::StatefulSet => json!({"replicas": 0, "availableReplicas": 0}),
            Self::DaemonSet => json!({
                "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0
            }),
        };
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), status);
        }
        if *self == Self::DaemonSet {
            template_generation::begin(object);
        }
    }

    fn prepare_changed(&self, _cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        if *self == Self::DaemonSet {
            template_generation::carry_over(new, old);
        }
    }

    fn prepare_status(&self, _cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        if *self == Self::DaemonSet {
            template_generation::carry_over(new, old);
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        validate_number(spec, "replicas", &SPEC, errors);
        validate_number(spec, "minReadySeconds", &SPEC, errors);
        validate_number(spec, "revisionHistoryLimit", &SPEC, errors);
        match self {
            Self::ReplicationController => validate_plain_selector(spec, errors),
            Self::Deployment => validate_selector("deployment", spec, errors),
            Self::ReplicaSet => validate_selector("replica set", spec, errors),
            Self::DaemonSet => validate_selector("daemonset", spec, errors),
            Self::StatefulSet => validate_selector("statefulset", spec, errors),
        }
        let template = spec.get("template").unwrap_or(&Value::Null);
        let path = SPEC.child("template");
        if template.is_null() {
            errors.required(&path, "");
        } else if old.and_then(|old| old.pointer("/spec/template")) != Some(template) {
            let template = with_claimed_volumes(template, list(spec, "volumeClaimTemplates"));
            pod_spec::validate_template(&template, &path, errors);
            validate_restart_policy(&template, &path, errors);
        }
        match self {
            Self::Deployment => validate_deployment(spec, errors),
            Self::StatefulSet => validate_stateful_set(spec, errors),
            Self::DaemonSet => validate_rolling(spec, "updateStrategy", &["RollingUpdate", "OnDelete"], errors),
            Self::ReplicaSet | Self::ReplicationController => {}
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let (new, old) = (new.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
        if *self == Self::StatefulSet {
            return check_stateful_set_change(new, old, errors);
        }
        if *self != Self::ReplicationController && !same(new, old, "selector") {
            let value = new.get("selector").cloned().unwrap_or_default();
            errors.invalid(&SPEC.child("selector"), value, metadata::IMMUTABLE);
        }
    }

    fn check_status(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let status = new.get("status").unwrap_or(&Value::Null);
        for key in COUNTS {
            validate_number(status, key, &Path::new("status"), errors);
        }
        let replicas = int(status, "replicas").unwrap_or(0);
        if let Some(ready) = int(status, "readyReplicas")
            && let Some(available) = int(status, "availableReplicas").filter(|available| *available > ready)
            && *self != Self::DaemonSet
        {
            let path = Path::new("status");
            errors.invalid(&path.child("availableReplicas"), available, "cannot be greater than readyReplicas");
        }
        if let Some(before) = old.get("status").and_then(|status| int(status, "collisionCount")) {
            let count = int(status, "collisionCount");
            if count.is_none_or(|count| count < before) {
                let path = Path::new("status");
                errors.invalid(&path.child("collisionCount"), count.unwrap_or(0), "cannot be decremented");
            }
        }
        for key in ["readyReplicas", "availableReplicas"] {
            if let Some(count) = int(status, key).filter(|count| *count > replicas && *self != Self::DaemonSet) {
                let path = Path::new("status");
                errors.invalid(&path.child(key), count, "cannot be greater than status.replicas");
            }
        }
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        match self {
            Self::ReplicationController => {
                let replicas = tree::at(object, &["status", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
                vec![("status.replicas", replicas.to_string())]
            }
            Self::ReplicaSet | Self::Deployment | Self::StatefulSet | Self::DaemonSet => Vec::new(),
        }
    }

    fn name_becomes(&self) -> Option<&'static str> {
        let names_pods = matches!(self, Self::Deployment | Self::ReplicaSet | Self::ReplicationController);
        names_pods.then_some(NAMES_OF_PODS)
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object, &["spec", "template"])
    }

    fn default_propagation(&self) -> Propagation {
        match self {
            Self::ReplicationController => Propagation::Orphan,
            _ => Propagation::Background,
        }
    }
}

/// What a client is warned about in the pod template at the end of `keys`.
pub(super) fn template_warnings(object: &Value, keys: &[&str]) -> Vec<String> {
    let Some(template) = tree::at(object, keys) else { return Vec::new() };
    let place = keys.join(".");
    let (spec, metadata) = (format!("{place}.spec"), format!("{place}.metadata"));
    let annotations = map(template.get("metadata").unwrap_or(&Value::Null), "annotations");
    pod_spec::warnings(template.get("spec").unwrap_or(&Value::Null), &Path::new(&spec), annotations, &metadata)
}

/// A ReplicationController selects its template's labels when it names none, and carries them itself.
fn default_from_template(object: &mut Value) {
    let Some(labels) = object.pointer("/spec/template/metadata/labels").filter(|labels| labels.is_object()).cloned()
    else {
        return;
    };
    if let Some(spec) = object.get_mut("spec")
        && map(spec, "selector").is_empty()
        && let Some(spec) = spec.as_object_mut()
    {
        spec.insert("selector".to_owned(), labels.clone());
    }
    if let Some(metadata) = tree::child_mut(object, "metadata") {
        default_to(metadata, "labels", labels);
    }
}

fn default_rolling_update(spec: &mut Value, key: &str, parameters: &[(&str, Value)]) {
    let Some(strategy) = tree::child_mut(spec, key) else { return };
    default_to(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate"
        && let Some(rolling) = tree::child_mut(strategy, "rollingUpdate")
    {
        for (name, value) in parameters {
            default_to(rolling, name, value.clone());
        }
    }
}

fn default_deployment(spec: &mut Value) {
    default_to(spec, "revisionHistoryLimit", 10);
    default_to(spec, "progressDeadlineSeconds", 600);
    default_rolling_update(spec, "strategy", &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))]);
}

fn default_stateful_set(spec: &mut Value) {
    default_to(spec, "podManagementPolicy", "OrderedReady");
    default_to(spec, "revisionHistoryLimit", 10);
    default_rolling_update(spec, "updateStrategy", &[("partition", json!(0))]);
    if let Some(policy) = tree::child_mut(spec, "persistentVolumeClaimRetentionPolicy") {
        default_to(policy, "whenDeleted", "Retain");
        default_to(policy, "whenScaled", "Retain");
    }
    for claim in tree::list_mut(spec, "volumeClaimTemplates") {
        default_to(claim, "apiVersion", "v1");
        default_to(claim, "kind", "PersistentVolumeClaim");
        if let Some(spec) = tree::child_mut(claim, "spec") {
            default_to(spec, "volumeMode", "Filesystem");
        }
        if let Some(status) = tree::child_mut(claim, "status") {
            default_to(status, "phase", "Pending");
        }
    }
}

pub(super) fn validate_number(holder: &Value, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(number) = int(holder, key)
        && number < 0
    {
        errors.invalid(&path.child(key), number, NON_NEGATIVE);
    }
}

/// Whether a label selector without unknown operators matches `labels`.
pub fn selects(selector: &Value, labels: &Map<String, Value>) -> bool {
    map(selector, "matchLabels").iter().all(|(key, value)| labels.get(key) == Some(value))
        && list(selector, "matchExpressions").iter().all(|expression| {
            let found = labels.get(text(expression, "key"));
            let listed = found.is_some_and(|value| list(expression, "values").contains(value));
            match text(expression, "operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

fn is_empty_selector(selector: &Value) -> bool {
    map(selector, "matchLabels").is_empty() && list(selector, "matchExpressions").is_empty()
}

fn validate_selector(kind: &str, spec: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("selector");
    let Some(selector) = some(spec, "selector") else {
        errors.required(&path, "");
        return;
    };
    if is_empty_selector(selector) {
        errors.invalid(&path, selector.clone(), format!("empty selector is invalid for {kind}"));
        return;
    }
    pod_spec::validate_label_selector(selector, &path, errors);
    validate_selected(|labels| selects(selector, labels), spec, errors);
}

fn validate_plain_selector(spec: &Value, errors: &mut FieldErrors) {
    let selector = map(spec, "selector");
    if selector.is_empty() {
        errors.required(&SPEC.child("selector"), "");
        return;
    }
    validate_selected(|labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value)), spec, errors);
}

fn validate_selected(selects: impl Fn(&Map<String, Value>) -> bool, spec: &Value, errors: &mut FieldErrors) {
    static NONE: Value = Value::Null;
    let metadata = tree::at(spec, &["template", "metadata"]).unwrap_or(&NONE);
    let labels = map(metadata, "labels");
    if !selects(labels) {
        let template = SPEC.child("template");
        let metadata = template.child("metadata");
        errors.invalid(
            &metadata.child("labels"),
            Value::Object(labels.clone()),
            "`selector` does not match template `labels`",
        );
    }
}

fn validate_restart_policy(template: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let policy = text_at(template, &["spec", "restartPolicy"]);
    let path = path.child("spec");
    if !policy.is_empty() && policy != "Always" {
        errors.not_supported(&path.child("restartPolicy"), policy, &["Always"]);
    }
    if tree::at(template, &["spec", "activeDeadlineSeconds"]).is_some() {
        errors.forbidden(
            &path.child("activeDeadlineSeconds"),
            "activeDeadlineSeconds in a pod template is not supported",
        );
    }
}

/// An integer, or a percentage such as `25%`.
enum Share {
    Number(i64),
    Percent(i64),
}

fn share(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) -> Option<Share> {
    if let Some(number) = value.as_i64() {
        if number < 0 {
            errors.invalid(path, number, NON_NEGATIVE);
        }
        return Some(Share::Number(number));
    }
    let text = value.as_str().unwrap_or_default();
    match text.strip_suffix('%').and_then(|digits| digits.parse::<u32>().ok()) {
        Some(percent) => Some(Share::Percent(percent.into())),
        None => {
            errors.invalid(
                path,
                text,
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            );
            None
        }
    }
}

fn validate_rolling(spec: &Value, key: &str, types: &[&str], errors: &mut FieldErrors) {
    let path = SPEC.child(key);
    let strategy = spec.get(key).unwrap_or(&Value::Null);
    let kind = text(strategy, "type");
    if !types.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, types);
        return;
    }
    let rolling = some(strategy, "rollingUpdate");
    let path = path.child("rollingUpdate");
    if kind != "RollingUpdate" {
        if rolling.is_some() && kind == "Recreate" {
            errors.forbidden(&path, "may not be specified when strategy `type` is 'Recreate'");
        }
        return;
    }
    let Some(rolling) = rolling else { return };
    validate_number(rolling, "partition", &path, errors);
    let mut zero = [false; 2];
    for (index, key) in ["maxUnavailable", "maxSurge"].into_iter().enumerate() {
        let Some(value) = some(rolling, key) else { continue };
        let path = path.child(key);
        match share(value, &path, errors) {
            Some(Share::Number(0)) => zero[index] = true,
            Some(Share::Percent(percent)) => {
                zero[index] = percent == 0;
                if percent > 100 && key == "maxUnavailable" {
                    errors.invalid(&path, value.clone(), "must not be greater than 100%");
                }
            }
            Some(Share::Number(_)) | None => {}
        }
    }
    if zero == [true, true] {
        let value = rolling.get("maxUnavailable").cloned().unwrap_or_default();
        errors.invalid(&path.child("maxUnavailable"), value, "may not be 0 when `maxSurge` is 0");
    }
}

fn validate_deployment(spec: &Value, errors: &mut FieldErrors) {
    validate_rolling(spec, "strategy", &["Recreate", "RollingUpdate"], errors);
    validate_number(spec, "progressDeadlineSeconds", &SPEC, errors);
    let ready = int(spec, "minReadySeconds").unwrap_or(0);
    if let Some(deadline) = int(spec, "progressDeadlineSeconds")
        && deadline <= ready
    {
        errors.invalid(&SPEC.child("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
    }
}

fn validate_stateful_set(spec: &Value, errors: &mut FieldErrors) {
    validate_rolling(spec, "updateStrategy", &["RollingUpdate", "OnDelete"], errors);
    let policy = text(spec, "podManagementPolicy");
    if !["OrderedReady", "Parallel"].contains(&policy) {
        errors.invalid(&SPEC.child("podManagementPolicy"), policy, "must be 'OrderedReady' or 'Parallel'");
    }
    if let Some(retention) = some(spec, "persistentVolumeClaimRetentionPolicy") {
        let path = SPEC.child("persistentVolumeClaimRetentionPolicy");
        for key in ["whenDeleted", "whenScaled"] {
            let policy = text(retention, key);
            if !["Delete", "Retain"].contains(&policy) {
                errors.not_supported(&path.child(key), policy, &["Delete", "Retain"]);
            }
        }
    }
    if let Some(ordinals) = some(spec, "ordinals") {
        validate_number(ordinals, "start", &SPEC.child("ordinals"), errors);
    }
}

/// The template as its pods will be: each claim of a StatefulSet is a volume, in the place of one of the same name.
fn with_claimed_volumes<'a>(template: &'a Value, claims: &[Value]) -> Cow<'a, Value> {
    if claims.is_empty() || !tree::at(template, &["spec"]).is_some_and(Value::is_object) {
        return Cow::Borrowed(template);
    }
    let mut template = template.clone();
    let mut volumes = tree::at(&template, &["spec", "volumes"]).and_then(Value::as_array).cloned().unwrap_or_default();
    for name in claims.iter().map(tree::name).filter(|name| !name.is_empty()) {
        let volume = json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
        match volumes.iter_mut().find(|volume| text(volume, "name") == name) {
            Some(same) => *same = volume,
            None => volumes.push(volume),
        }
    }
    template["spec"]["volumes"] = Value::Array(volumes);
    Cow::Owned(template)
}

/// The fields of a StatefulSet's specification that may change.
const STATEFUL_SET_FREE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn check_stateful_set_change(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (Some(new_map), Some(old_map)) = (new.as_object(), old.as_object()) else { return };
    let changed = new_map
        .keys()
        .chain(old_map.keys())
        .any(|key| !STATEFUL_SET_FREE.contains(&key.as_str()) && !same(new, old, key));
    if changed {
        errors.forbidden(
            &SPEC,
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

/// PodTemplates.
pub(super) struct PodTemplate;

impl Strategy for PodTemplate {
    fn default(&self, object: &mut Value) {
        if let Some(pod) = object.pointer_mut("/template/spec").filter(|spec| spec.is_object()) {
            pod_spec::default_spec(pod);
        }
    }

    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        pod_spec::validate_template(object.get("template").unwrap_or(&Value::Null), &Path::new("template"), errors);
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object, &["template"])
    }
}

/// ControllerRevisions: what a controller's template was.
pub(super) struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        if let Some(revision) = int(object, "revision").filter(|revision| *revision < 0) {
            errors.invalid(&Path::new("revision"), revision, NON_NEGATIVE);
        }
        if some(object, "data").is_none() {
            errors.required(&Path::new("data"), "data is mandatory");
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if !same(new, old, "data") {
            errors.invalid(&Path::new("data"), new.get("data").cloned().unwrap_or_default(), metadata::IMMUTABLE);
        }
    }
}
