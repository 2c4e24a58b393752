//! The rules of what a pod asks of the platform under it: operating system, overhead, claims, gates of readiness.

use std::collections::HashSet;

use serde_json::Value;

use super::resources;
use crate::{
    field_error::{FieldErrors, Path},
    names,
    tree::{at, flag, list, map, some, text},
};

/// Checks a pod specification.
pub(super) fn validate(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let gates = path.child("readinessGates");
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        if let Some(message) = names::qualified(kind) {
            errors.invalid(&gates.index(index).child("conditionType"), kind, message);
        }
    }
    let policy = text(spec, "preemptionPolicy");
    if !["", "Never", "PreemptLowerPriority"].contains(&policy) {
        errors.not_supported(&path.child("preemptionPolicy"), policy, &["Never", "PreemptLowerPriority"]);
    }
    if some(spec, "overhead").is_some() {
        resources::validate_list(spec, "overhead", path, errors);
    }
    if let Some(wanted) = some(spec, "resources") {
        validate_pod_resources(wanted, &path.child("resources"), errors);
    }
    validate_claims(spec, path, errors);
    validate_os(spec, path, errors);
    validate_host_users(spec, path, errors);
}

/// Checks the requests and limits of the pod as a whole: what all its containers share.
fn validate_pod_resources(wanted: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    resources::validate(wanted, path, errors);
    for key in ["requests", "limits"] {
        let path = path.child(key);
        for name in map(wanted, key).keys() {
            if !["cpu", "memory"].contains(&name.as_str()) && !name.starts_with("hugepages-") {
                errors.not_supported(&path.key(name), name.as_str(), &["cpu", "hugepages-", "memory"]);
            }
        }
    }
    if !list(wanted, "claims").is_empty() {
        errors.forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level");
    }
}

fn validate_claims(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("resourceClaims");
    let mut seen = HashSet::new();
    for (index, claim) in list(spec, "resourceClaims").iter().enumerate() {
        let path = path.index(index);
        let name = text(claim, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        } else if let Some(message) = names::label(name) {
            errors.invalid(&path.child("name"), name, message);
        }
        match (some(claim, "resourceClaimName"), some(claim, "resourceClaimTemplateName")) {
            (None, None) => {
                let rule = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.invalid(&path, claim.clone(), rule);
            }
            (Some(_), Some(_)) => {
                let rule = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.invalid(&path, claim.clone(), rule);
            }
            _ => {}
        }
    }
}

/// Fields of a security context that only Linux knows.
const LINUX_ONLY: [&str; 11] = [
    "appArmorProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "runAsGroup",
    "runAsUser",
    "seLinuxChangePolicy",
    "seLinuxOptions",
    "seccompProfile",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "sysctls",
];
/// Fields of a container's security context that only Linux knows.
const LINUX_ONLY_CONTAINER: [&str; 10] = [
    "allowPrivilegeEscalation",
    "appArmorProfile",
    "capabilities",
    "privileged",
    "procMount",
    "readOnlyRootFilesystem",
    "runAsGroup",
    "runAsUser",
    "seLinuxOptions",
    "seccompProfile",
];

/// Checks that a pod for one operating system sets nothing that only the other knows.
fn validate_os(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(os) = some(spec, "os") else { return };
    let name = text(os, "name");
    let os_path = path.child("os");
    match name {
        "linux" | "windows" => {}
        "" => errors.required(&os_path.child("name"), "cannot be empty"),
        name => errors.not_supported(&os_path.child("name"), name, &["linux", "windows"]),
    }
    let security = path.child("securityContext");
    let forbid = |context: &Value, keys: &[&str], path: &Path<'_>, errors: &mut FieldErrors| {
        for key in keys.iter().filter(|key| some(context, key).is_some()) {
            errors.forbidden(&path.child(key), format!("cannot be set for a {name} pod"));
        }
    };
    let empty = Value::Null;
    let context = some(spec, "securityContext").unwrap_or(&empty);
    let (pod_keys, container_keys): (&[&str], &[&str]) = match name {
        "windows" => {
            for key in ["hostPID", "hostIPC", "shareProcessNamespace"] {
                if flag(spec, key) {
                    errors.forbidden(&path.child(key), "cannot be set for a windows pod");
                }
            }
            (&LINUX_ONLY, &LINUX_ONLY_CONTAINER)
        }
        "linux" => (&["windowsOptions"], &["windowsOptions"]),
        _ => return,
    };
    forbid(context, pod_keys, &security, errors);
    for list_key in ["containers", "initContainers"] {
        let path = path.child(list_key);
        for (index, container) in list(spec, list_key).iter().enumerate() {
            let path = path.index(index);
            let context = some(container, "securityContext").unwrap_or(&empty);
            forbid(context, container_keys, &path.child("securityContext"), errors);
        }
    }
}

/// A pod with users of its own shares no other namespace with its node.
fn validate_host_users(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if at(spec, &["hostUsers"]).and_then(Value::as_bool) != Some(false) {
        return;
    }
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        if flag(spec, key) {
            errors.forbidden(&path.child(key), "when `hostUsers` is false");
        }
    }
    let containers = path.child("containers");
    for (index, container) in list(spec, "containers").iter().enumerate() {
        if !list(container, "volumeDevices").is_empty() {
            let path = containers.index(index);
            errors.forbidden(&path.child("volumeDevices"), "when `hostUsers` is false");
        }
    }
}
