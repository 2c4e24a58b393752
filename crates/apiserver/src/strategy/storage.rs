//! PersistentVolumes, PersistentVolumeClaims and StorageClasses.

use serde_json::{Value, json};

use super::{
    Strategy, WriteContext, quantity,
    tree::{self, at, default_to, list, same, some, text},
};
use crate::field_error::{FieldErrors, Path};

const SPEC: Path<'static> = Path::new("spec");
const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn validate_access_modes(spec: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("accessModes");
    let modes = list(spec, "accessModes");
    if modes.is_empty() {
        errors.required(&path, "at least 1 access mode is required");
    }
    for mode in modes.iter().filter_map(Value::as_str).filter(|mode| !ACCESS_MODES.contains(mode)) {
        errors.not_supported(&path, mode, &ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn validate_mode(spec: &Value, errors: &mut FieldErrors) {
    let mode = text(spec, "volumeMode");
    if !["", "Block", "Filesystem"].contains(&mode) {
        errors.not_supported(&SPEC.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
}

/// PersistentVolumes.
pub(super) struct Volume;

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
        validate_access_modes(spec, errors);
        validate_mode(spec, errors);
        let path = SPEC.child("capacity");
        match at(spec, &["capacity", "storage"]) {
            None => errors.required(&path, ""),
            Some(amount) => quantity::validate_positive(amount, &path.key("storage"), errors),
        }
        match sources(spec).as_slice() {
            [] => errors.required(&SPEC, "must specify a volume type"),
            [_] => {}
            [_, rest @ ..] => {
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
        let local = at(spec, &["local"]).is_some();
        if local && at(spec, &["nodeAffinity", "required"]).is_none() {
            errors.required(&SPEC.child("nodeAffinity"), "Local volume requires node affinity");
        }
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
            errors.invalid(&SPEC.child("volumeMode"), text(new, "volumeMode"), "field is immutable");
        }
    }
}

/// PersistentVolumeClaims.
pub(super) struct Claim;

impl Strategy for Claim {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = tree::child_mut(object, "spec") {
            default_to(spec, "volumeMode", "Filesystem");
        }
    }

    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), json!({"phase": "Pending"}));
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        validate_access_modes(spec, errors);
        validate_mode(spec, errors);
        let resources = SPEC.child("resources");
        let path = resources.key("storage");
        match at(spec, &["resources", "requests", "storage"]) {
            None => errors.required(&path, ""),
            Some(amount) => quantity::validate_positive(amount, &path, errors),
        }
        if let Some(selector) = some(spec, "selector") {
            super::pod_spec::validate_label_selector(selector, &SPEC.child("selector"), errors);
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let (new, old) = (new.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
        let (Some(new_map), Some(old_map)) = (new.as_object(), old.as_object()) else { return };
        let free = |key: &str| match key {
            "resources" | "volumeAttributesClassName" => true,
            // The binder and the default class fill these in once.
            "volumeName" | "storageClassName" => text(old, key).is_empty(),
            _ => false,
        };
        if new_map.keys().chain(old_map.keys()).any(|key| !free(key) && !same(new, old, key)) {
            errors.forbidden(
                &SPEC,
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
            );
        }
        let request = |spec: &Value| at(spec, &["resources", "requests", "storage"]).and_then(quantity::parse);
        if let (Some(after), Some(before)) = (request(new), request(old))
            && after < before
        {
            let resources = SPEC.child("resources");
            let requests = resources.child("requests");
            errors.forbidden(&requests.child("storage"), "field can not be less than status.capacity");
        }
    }
}

/// StorageClasses.
pub(super) struct Class;

impl Strategy for Class {
    fn default(&self, object: &mut Value) {
        default_to(object, "reclaimPolicy", "Delete");
        default_to(object, "volumeBindingMode", "Immediate");
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        if text(object, "provisioner").is_empty() {
            errors.required(&Path::new("provisioner"), "");
        }
        for (key, supported) in
            [("reclaimPolicy", ["Delete", "Retain"]), ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"])]
        {
            let value = text(object, key);
            if !supported.contains(&value) {
                errors.not_supported(&Path::new(key), value, &supported);
            }
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        for key in ["parameters", "provisioner", "reclaimPolicy"] {
            if !same(new, old, key) {
                errors.forbidden(&Path::new(key), format!("updates to {key} are forbidden."));
            }
        }
        if !same(new, old, "volumeBindingMode") {
            let value = text(new, "volumeBindingMode");
            errors.invalid(&Path::new("volumeBindingMode"), value, "field is immutable");
        }
    }
}
