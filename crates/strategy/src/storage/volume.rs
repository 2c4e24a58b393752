//! PersistentVolumes.

use serde_json::{Value, json};

use super::{SPEC, validate_access_modes, validate_class_name, validate_mode};
use crate::{
    Strategy, WriteContext,
    field_error::{FieldErrors, Path},
    metadata::IMMUTABLE,
    pod_spec, quantity,
    tree::{self, at, default_to, list, same, some, text},
};

/// PersistentVolumes.
pub(crate) struct Volume;

/// Fields of a volume's specification that are no source.
const VOLUME_FIELDS: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn sources(spec: &Value) -> Vec<(&String, &Value)> {
    spec.as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| !value.is_null() && !VOLUME_FIELDS.contains(&key.as_str()))
        .collect()
}

impl Strategy for Volume {
    fn default(&self, object: &mut Value) {
        let Some(spec) = tree::child_mut(object, "spec") else { return };
        default_to(spec, "persistentVolumeReclaimPolicy", "Retain");
        default_to(spec, "volumeMode", "Filesystem");
        if let Some(source) = spec.get_mut("hostPath").and_then(Value::as_object_mut) {
            source.entry("type").or_insert_with(|| "".into());
        }
    }

    fn prepare_new(&self, cx: &WriteContext<'_>, object: &mut Value) {
        if let Some(object) = object.as_object_mut() {
            let now = format!("{:.0}", cx.now);
            object.insert("status".to_owned(), json!({"phase": "Pending", "lastPhaseTransitionTime": now}));
        }
    }

    fn prepare_status(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        let before = tree::text_at(old, &["status", "phase"]);
        if tree::text_at(new, &["status", "phase"]) != before
            && let Some(status) = tree::map_mut(new, "status")
        {
            status.insert("lastPhaseTransitionTime".to_owned(), format!("{:.0}", cx.now).into());
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        validate_access_modes(spec, &SPEC, errors);
        validate_mode(spec, &SPEC, errors);
        let path = SPEC.child("capacity");
        match at(spec, &["capacity", "storage"]) {
            None => errors.required(&path, ""),
            Some(amount) => quantity::validate_positive(amount, &path.key("storage"), errors),
        }
        match sources(spec).as_slice() {
            [] => errors.required(&SPEC, "must specify a volume type"),
            [(kind, source), rest @ ..] => {
                validate_source(kind, source, errors);
                for (key, _) in rest {
                    errors.forbidden(&SPEC.child(key), "may not specify more than 1 volume type");
                }
            }
        }
        let policy = text(spec, "persistentVolumeReclaimPolicy");
        if !["Delete", "Recycle", "Retain"].contains(&policy) {
            let path = SPEC.child("persistentVolumeReclaimPolicy");
            errors.not_supported(&path, policy, &["Delete", "Recycle", "Retain"]);
        }
        validate_affinity(spec, errors);
        if policy == "Recycle"
            && tree::text_at(spec, &["hostPath", "path"]).trim_end_matches('/').is_empty()
            && some(spec, "hostPath").is_some()
        {
            let path = SPEC.child("persistentVolumeReclaimPolicy");
            errors.forbidden(&path, "may not be 'recycle' for a hostPath mount of '/'");
        }
        validate_class_name(spec, "storageClassName", &SPEC, errors);
        validate_class_name(spec, "volumeAttributesClassName", &SPEC, errors);
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let (new, old) = (new.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
        if sources(new) != sources(old) {
            errors.forbidden(
                &SPEC.child("persistentvolumesource"),
                "spec.persistentvolumesource is immutable after creation",
            );
        }
        if !same(new, old, "volumeMode") {
            errors.invalid(&Path::new("volumeMode"), text(new, "volumeMode"), IMMUTABLE);
        }
        // where a volume can be used may be learned once, not changed
        if some(old, "nodeAffinity").is_some() && !same(new, old, "nodeAffinity") {
            let value = new.get("nodeAffinity").cloned().unwrap_or_default();
            errors.invalid(&Path::new("nodeAffinity"), value, IMMUTABLE);
        }
    }
}

fn validate_source(kind: &str, source: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child(kind);
    if kind != "csi" {
        pod_spec::validate_legacy_source(kind, source, &path, errors);
        return;
    }
    pod_spec::validate_driver_name(text(source, "driver"), &path.child("driver"), errors);
    if text(source, "volumeHandle").is_empty() {
        errors.required(&path.child("volumeHandle"), "");
    }
    for key in SECRETS {
        let Some(reference) = some(source, key) else { continue };
        let path = path.child(key);
        for field in ["name", "namespace"] {
            if text(reference, field).is_empty() {
                errors.required(&path.child(field), "");
            }
        }
    }
}

/// Secrets that a CSI driver is given, each named with its namespace.
const SECRETS: [&str; 5] = [
    "controllerExpandSecretRef",
    "controllerPublishSecretRef",
    "nodeExpandSecretRef",
    "nodePublishSecretRef",
    "nodeStageSecretRef",
];

fn validate_affinity(spec: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("nodeAffinity");
    let Some(affinity) = some(spec, "nodeAffinity") else {
        if some(spec, "local").is_some() {
            errors.required(&path, "Local volume requires node affinity");
        }
        return;
    };
    let path = path.child("required");
    let Some(required) = some(affinity, "required") else {
        errors.required(&path, "must specify required node constraints");
        return;
    };
    let path = path.child("nodeSelectorTerms");
    let terms = list(required, "nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        pod_spec::validate_node_term(term, &path.index(index), errors);
    }
}
