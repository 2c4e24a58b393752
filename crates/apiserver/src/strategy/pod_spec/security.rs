//! The rules of security contexts and of what a pod shares with its node.

use serde_json::Value;

use crate::{
    field_error::{FieldErrors, Path},
    strategy::tree::{at, flag, int, list, some, text},
};

/// Upstream's words for a user or group id out of range.
const ID_RULE: &str = "must be between 0 and 2147483647, inclusive";

/// Checks the pod's own security context and its use of the node's namespaces.
pub(super) fn validate_pod(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if flag(spec, "hostPID") && flag(spec, "shareProcessNamespace") {
        errors.invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    let Some(context) = some(spec, "securityContext") else { return };
    let path = path.child("securityContext");
    validate_identity(context, &path, errors);
    validate_id(context, "fsGroup", &path, errors);
    let groups = path.child("supplementalGroups");
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        if group.as_i64().is_none_or(|group| !(0..=i64::from(i32::MAX)).contains(&group)) {
            errors.invalid(&groups.index(index), group.clone(), ID_RULE);
        }
    }
    let policy = text(context, "fsGroupChangePolicy");
    if !["", "Always", "OnRootMismatch"].contains(&policy) {
        errors.not_supported(&path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    let sysctls = path.child("sysctls");
    for (index, sysctl) in list(context, "sysctls").iter().enumerate() {
        if text(sysctl, "name").is_empty() {
            errors.required(&sysctls.index(index).child("name"), "");
        }
    }
}

/// Checks a container's security context.
pub(super) fn validate_container(context: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !context.is_object() {
        return;
    }
    validate_identity(context, path, errors);
    let mount = text(context, "procMount");
    if !["", "Default", "Unmasked"].contains(&mount) {
        errors.not_supported(&path.child("procMount"), mount, &["Default", "Unmasked"]);
    }
    if context.get("allowPrivilegeEscalation").and_then(Value::as_bool) != Some(false) {
        return;
    }
    if flag(context, "privileged") {
        errors.invalid(
            path,
            context.clone(),
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        );
    }
    let added = at(context, &["capabilities", "add"]).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if added.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
        errors.invalid(
            path,
            context.clone(),
            "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
        );
    }
}

fn validate_identity(context: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_id(context, "runAsUser", path, errors);
    validate_id(context, "runAsGroup", path, errors);
    validate_profile(context, "seccompProfile", path, errors);
    validate_profile(context, "appArmorProfile", path, errors);
}

fn validate_id(context: &Value, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(id) = int(context, key)
        && !(0..=i64::from(i32::MAX)).contains(&id)
    {
        errors.invalid(&path.child(key), id, ID_RULE);
    }
}

fn validate_profile(context: &Value, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(profile) = some(context, key) else { return };
    let path = path.child(key);
    let (kind, file) = (text(profile, "type"), text(profile, "localhostProfile"));
    match kind {
        "Localhost" if file.is_empty() => {
            errors.required(&path.child("localhostProfile"), "must be set when type is Localhost");
        }
        "Localhost" => {}
        "RuntimeDefault" | "Unconfined" if file.is_empty() => {}
        "RuntimeDefault" | "Unconfined" => {
            errors.invalid(&path.child("localhostProfile"), file, "can only be set when type is Localhost");
        }
        "" => errors.required(&path.child("type"), "type is required when a profile is set"),
        kind => errors.not_supported(&path.child("type"), kind, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}
