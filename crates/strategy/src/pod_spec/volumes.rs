//! The rules of a pod's volumes.

use std::collections::HashMap;

use serde_json::Value;

use super::containers::{validate_no_dots, validate_relative};
use crate::{
    field_error::{FieldErrors, Path},
    names, quantity, storage,
    tree::{int, list, map, some, text},
};

mod legacy;
mod projected;

pub(crate) use legacy::validate as validate_legacy_source;

/// The pod's volumes: the kind of source by name.
pub(super) type Volumes<'a> = HashMap<&'a str, &'a str>;

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const MODE_RULE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
/// Longest name of a CSI driver.
const DRIVER_BYTES_MAX: usize = 63;

/// Checks all volumes; gives their names and kinds for the mounts.
pub(super) fn validate<'a>(volumes: &'a [Value], path: &Path<'_>, errors: &mut FieldErrors) -> Volumes<'a> {
    let mut seen = HashMap::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let name = text(volume, "name");
        let mut sources = volume.as_object().into_iter().flatten().filter(|(key, value)| {
            // pruning has removed what is no field, so that every other key is a source
            *key != "name" && !value.is_null()
        });
        let first = sources.next();
        match first {
            None => errors.required(&path, "must specify a volume type"),
            Some((kind, source)) => validate_source(kind, source, &path.child(kind), errors),
        }
        for (kind, _) in sources {
            errors.forbidden(&path.child(kind), "may not specify more than 1 volume type");
        }
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if let Some(message) = names::label(name) {
            errors.invalid(&path.child("name"), name, message);
        } else if seen.insert(name, first.map_or("", |(kind, _)| kind.as_str())).is_some() {
            errors.duplicate(&path.child("name"), name);
        }
    }
    seen
}

fn validate_source(kind: &str, source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match kind {
        "hostPath" => validate_host_path(source, path, errors),
        "emptyDir" => {
            if let Some(limit) = some(source, "sizeLimit")
                && quantity::parse(limit).is_none_or(|limit| limit.is_negative())
            {
                errors.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
        }
        "secret" => {
            require(source, "secretName", path, errors);
            validate_files(source, path, errors);
        }
        "configMap" => {
            require(source, "name", path, errors);
            validate_files(source, path, errors);
        }
        "downwardAPI" => projected::validate_downward(source, path, errors),
        "projected" => projected::validate(source, path, errors),
        "persistentVolumeClaim" => require(source, "claimName", path, errors),
        "csi" => {
            validate_driver_name(text(source, "driver"), &path.child("driver"), errors);
            validate_secret_reference(source, "nodePublishSecretRef", path, errors);
        }
        "ephemeral" => {
            let template = map(source, "volumeClaimTemplate");
            let path = path.child("volumeClaimTemplate");
            if template.is_empty() {
                errors.required(&path, "");
            } else {
                let spec = template.get("spec").unwrap_or(&Value::Null);
                storage::validate_claim_spec(spec, &path.child("spec"), errors);
            }
        }
        "image" => {
            // an empty reference lets a template's owner fill it in, but a policy must be known
            let policy = text(source, "pullPolicy");
            let known = ["Always", "IfNotPresent", "Never"];
            if !policy.is_empty() && !known.contains(&policy) {
                errors.not_supported(&path.child("pullPolicy"), policy, &known);
            }
            if text(source, "reference").is_empty() {
                errors.required(&path.child("reference"), "");
            }
        }
        kind => legacy::validate(kind, source, path, errors),
    }
}

/// Checks a path on the node.
pub(crate) fn validate_host_path(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    require(source, "path", path, errors);
    validate_no_dots(text(source, "path"), &path.child("path"), errors);
    let kind = text(source, "type");
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, &HOST_PATH_TYPES);
    }
}

/// Checks the name of a CSI driver.
pub(crate) fn validate_driver_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > DRIVER_BYTES_MAX {
        errors.too_long(path, DRIVER_BYTES_MAX);
    }
    if let Some(message) = names::subdomain(&name.to_lowercase()) {
        errors.invalid(path, name, message);
    }
}

/// Checks an optional reference to a Secret of the same namespace.
fn validate_secret_reference(source: &Value, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(reference) = some(source, key) else { return };
    let path = path.child(key);
    let name = text(reference, "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else if let Some(message) = names::subdomain(name) {
        errors.invalid(&path.child("name"), name, message);
    }
}

/// Reports `key` when it is empty.
fn require(source: &Value, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if text(source, key).is_empty() {
        errors.required(&path.child(key), "");
    }
}

fn validate_mode(holder: &Value, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(mode) = int(holder, key)
        && !(0..=0o777).contains(&mode)
    {
        errors.invalid(&path.child(key), mode, MODE_RULE);
    }
}

/// Checks the mode and the `items` of a ConfigMap or Secret.
fn validate_files(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_mode(source, "defaultMode", path, errors);
    let items = path.child("items");
    for (index, item) in list(source, "items").iter().enumerate() {
        let path = items.index(index);
        require(item, "key", &path, errors);
        validate_file_path(text(item, "path"), &path.child("path"), errors);
        validate_mode(item, "mode", &path, errors);
    }
}

/// Checks where below the volume a file goes.
fn validate_file_path(target: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if target.is_empty() {
        errors.required(path, "");
    }
    validate_relative(target, path, errors);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.invalid(path, target, "must not start with '..'");
    }
}
