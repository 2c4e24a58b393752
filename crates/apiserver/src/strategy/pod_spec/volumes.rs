//! The rules of a pod's volumes.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    containers::{validate_no_dots, validate_relative},
    env::validate_field,
};
use crate::{
    field_error::{FieldErrors, Path},
    strategy::{
        names, quantity,
        tree::{int, list, map, some, text},
    },
};

/// Names of the pod's volumes.
pub(super) type Volumes<'a> = HashSet<&'a str>;

/// Fields of the pod that a file can show.
const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const MODE_RULE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Checks all volumes; gives their names for the mounts.
pub(super) fn validate<'a>(volumes: &'a [Value], path: &Path<'_>, errors: &mut FieldErrors) -> Volumes<'a> {
    let mut seen = HashSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let name = text(volume, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if let Some(message) = names::label(name) {
            errors.invalid(&path.child("name"), name, message);
        } else if !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        let mut count = 0;
        for (kind, source) in volume.as_object().into_iter().flatten() {
            if kind == "name" || source.is_null() {
                continue;
            }
            let path = path.child(kind);
            count += 1;
            if count > 1 {
                errors.forbidden(&path, "may not specify more than 1 volume type");
            } else {
                validate_source(kind, source, &path, errors);
            }
        }
        if count == 0 {
            errors.required(&path, "must specify a volume type");
        }
    }
    seen
}

fn validate_source(kind: &str, source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match kind {
        "hostPath" => {
            require(source, "path", path, errors);
            validate_no_dots(text(source, "path"), &path.child("path"), errors);
            let kind = text(source, "type");
            if !HOST_PATH_TYPES.contains(&kind) {
                errors.not_supported(&path.child("type"), kind, &HOST_PATH_TYPES);
            }
        }
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
        "downwardAPI" => validate_downward(source, path, errors),
        "projected" => validate_projected(source, path, errors),
        "persistentVolumeClaim" => require(source, "claimName", path, errors),
        "nfs" => {
            require(source, "server", path, errors);
            require(source, "path", path, errors);
            let target = text(source, "path");
            if !target.is_empty() && !target.starts_with('/') {
                errors.invalid(&path.child("path"), target, "must be an absolute path");
            }
        }
        "csi" => require(source, "driver", path, errors),
        "ephemeral" if map(source, "volumeClaimTemplate").is_empty() => {
            errors.required(&path.child("volumeClaimTemplate"), "");
        }
        _ => {}
    }
}

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
        validate_file_path(item, &path, errors);
        validate_mode(item, "mode", &path, errors);
    }
}

fn validate_file_path(item: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let target = text(item, "path");
    if target.is_empty() {
        errors.required(&path.child("path"), "");
    }
    validate_relative(target, &path.child("path"), errors);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.invalid(&path.child("path"), target, "must not start with '..'");
    }
}

fn validate_downward(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_mode(source, "defaultMode", path, errors);
    let items = path.child("items");
    for (index, item) in list(source, "items").iter().enumerate() {
        let path = items.index(index);
        validate_file_path(item, &path, errors);
        validate_mode(item, "mode", &path, errors);
        match (some(item, "fieldRef"), some(item, "resourceFieldRef")) {
            (Some(field), None) => validate_field(field, &FILE_FIELDS, &path.child("fieldRef"), errors),
            (None, Some(_)) => {}
            (Some(_), Some(_)) => {
                errors.invalid(&path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
            (None, None) => errors.required(&path, "one of fieldRef and resourceFieldRef is required"),
        }
    }
}

/// Shortest life of a projected token; shorter ones could not be renewed in time.
const TOKEN_SECONDS_MIN: i64 = 600;

fn validate_projected(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_mode(source, "defaultMode", path, errors);
    let sources = path.child("sources");
    for (index, source) in list(source, "sources").iter().enumerate() {
        let path = sources.index(index);
        let mut count = 0;
        for (kind, inner) in source.as_object().into_iter().flatten().filter(|(_, inner)| !inner.is_null()) {
            let path = path.child(kind);
            count += 1;
            if count > 1 {
                errors.forbidden(&path, "may not specify more than 1 volume type");
                continue;
            }
            match kind.as_str() {
                "secret" | "configMap" => {
                    require(inner, "name", &path, errors);
                    validate_files(inner, &path, errors);
                }
                "downwardAPI" => validate_downward(inner, &path, errors),
                "serviceAccountToken" => {
                    let seconds = int(inner, "expirationSeconds").unwrap_or(TOKEN_SECONDS_MIN);
                    if seconds < TOKEN_SECONDS_MIN {
                        errors.invalid(
                            &path.child("expirationSeconds"),
                            seconds,
                            "may not specify a duration less than 10 minutes",
                        );
                    } else if seconds > 1 << 32 {
                        errors.invalid(
                            &path.child("expirationSeconds"),
                            seconds,
                            "may not specify a duration larger than 2^32 seconds",
                        );
                    }
                    require(inner, "path", &path, errors);
                }
                _ => {}
            }
        }
        if count == 0 {
            errors.required(&path, "must specify a volume type");
        }
    }
}
