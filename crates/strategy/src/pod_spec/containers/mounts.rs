//! The rules of what a container mounts, and of the paths it may name.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    field_error::{FieldErrors, Path},
    pod_spec::volumes::Volumes,
    tree::{flag, list, text},
};

/// Checks the mounts and block devices of a container against the pod's volumes.
pub(super) fn validate(container: &Value, volumes: &Volumes<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_devices(container, volumes, path, errors);
    let devices: HashSet<&str> =
        list(container, "volumeDevices").iter().map(|device| text(device, "devicePath")).collect();
    let mounts_path = path.child("volumeMounts");
    let mut seen = HashSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = mounts_path.index(index);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        if !volumes.contains_key(name) {
            errors.not_found(&path.child("name"), name);
        }
        if target.is_empty() {
            errors.required(&path.child("mountPath"), "");
        } else if !seen.insert(target) {
            errors.invalid(&path.child("mountPath"), target, "must be unique");
        }
        if devices.contains(target) {
            errors.invalid(&path.child("mountPath"), target, "must not already exist as a path in volumeDevices");
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub.is_empty() && !expression.is_empty() {
            errors.invalid(&path.child("subPathExpr"), expression, "subPathExpr and subPath are mutually exclusive");
        }
        validate_relative(sub, &path.child("subPath"), errors);
        validate_relative(expression, &path.child("subPathExpr"), errors);
        validate_recursive_read_only(mount, &path, errors);
        let propagation = text(mount, "mountPropagation");
        if !["", "None", "HostToContainer", "Bidirectional"].contains(&propagation) {
            errors.not_supported(
                &path.child("mountPropagation"),
                propagation,
                &["Bidirectional", "HostToContainer", "None"],
            );
        } else if propagation == "Bidirectional"
            && container.pointer("/securityContext/privileged").and_then(Value::as_bool) != Some(true)
        {
            errors.forbidden(
                &path.child("mountPropagation"),
                "Bidirectional mount propagation is available only to privileged containers",
            );
        }
    }
}

fn validate_recursive_read_only(mount: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("recursiveReadOnly");
    match text(mount, "recursiveReadOnly") {
        "" | "Disabled" => {}
        mode @ ("Enabled" | "IfPossible") => {
            if !flag(mount, "readOnly") {
                errors.forbidden(&path, "may only be specified when readOnly is true");
            }
            if !["", "None"].contains(&text(mount, "mountPropagation")) {
                errors.forbidden(
                    &path,
                    format!("may only be specified when mountPropagation is None or not specified: {mode}"),
                );
            }
        }
        mode => errors.not_supported(&path, mode, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn validate_devices(container: &Value, volumes: &Volumes<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mounts = list(container, "volumeMounts");
    let devices_path = path.child("volumeDevices");
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for (index, device) in list(container, "volumeDevices").iter().enumerate() {
        let path = devices_path.index(index);
        let (name, target) = (text(device, "name"), text(device, "devicePath"));
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        if !names.insert(name) {
            errors.invalid(&path.child("name"), name, "must be unique");
        }
        match volumes.get(name) {
            Some(&"persistentVolumeClaim" | &"ephemeral") => {}
            Some(_) => {
                let rule = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&path.child("name"), name, rule);
            }
            None => errors.not_found(&path.child("name"), name),
        }
        if target.is_empty() {
            errors.required(&path.child("devicePath"), "");
        } else if !paths.insert(target) {
            errors.invalid(&path.child("devicePath"), target, "must be unique");
        }
        if target.split('/').any(|part| part == "..") {
            errors.invalid(&path.child("devicePath"), target, "can not contain backsteps ('..')");
        }
        if mounts.iter().any(|mount| text(mount, "mountPath") == target) {
            errors.invalid(&path.child("devicePath"), target, "must not already exist as a path in volumeMounts");
        }
        if mounts.iter().any(|mount| text(mount, "name") == name) {
            errors.invalid(&path.child("name"), name, "must not already exist in volumeMounts");
        }
    }
}

/// A path that stays below where it is applied.
pub(in crate::pod_spec) fn validate_relative(target: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if target.starts_with('/') {
        errors.invalid(path, target, "must be a relative path");
    }
    validate_no_dots(target, path, errors);
}

/// A path without `..`.
pub(in crate::pod_spec) fn validate_no_dots(target: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if target.split('/').any(|part| part == "..") {
        errors.invalid(path, target, "must not contain '..'");
    }
}
