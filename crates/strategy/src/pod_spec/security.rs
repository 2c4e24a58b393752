//! The rules of security contexts and of what a pod shares with its node.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    field_error::{FieldErrors, Path},
    names,
    tree::{at, flag, int, list, some, text},
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
    let policy = text(context, "supplementalGroupsPolicy");
    if !["", "Merge", "Strict"].contains(&policy) {
        errors.not_supported(&path.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    let policy = text(context, "seLinuxChangePolicy");
    if !["", "MountOption", "Recursive"].contains(&policy) {
        errors.not_supported(&path.child("seLinuxChangePolicy"), policy, &["MountOption", "Recursive"]);
    }
    validate_sysctls(spec, context, &path.child("sysctls"), errors);
}

fn validate_sysctls(spec: &Value, context: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, sysctl) in list(context, "sysctls").iter().enumerate() {
        let path = path.index(index);
        let path = path.child("name");
        let name = text(sysctl, "name");
        if name.is_empty() {
            errors.required(&path, "");
        } else if let Some(message) = names::sysctl(name) {
            errors.invalid(&path, name, message);
        } else if !seen.insert(name.replace('/', ".")) {
            errors.duplicate(&path, name);
        }
        if name.starts_with("net.") && flag(spec, "hostNetwork") {
            errors.invalid(&path, name, "may not be specified when 'hostNetwork' is true");
        }
        if ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix))
            && flag(spec, "hostIPC")
        {
            errors.invalid(&path, name, "may not be specified when 'hostIPC' is true");
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
    validate_windows(context, path, errors);
}

fn validate_id(context: &Value, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(id) = int(context, key)
        && !(0..=i64::from(i32::MAX)).contains(&id)
    {
        errors.invalid(&path.child(key), id, ID_RULE);
    }
}

fn validate_profile_path(file: &str, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if key == "seccompProfile" {
        super::containers::validate_relative(file, path, errors);
    } else if file.trim() != file {
        errors.invalid(path, file, "must not be padded with whitespace");
    } else if file.trim().is_empty() {
        errors.required(path, "must be set when type is Localhost");
    }
}

/// Longest user name and credential of a Windows container.
const WINDOWS_CREDENTIAL_BYTES_MAX: usize = 64 << 10;

fn validate_windows(context: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(options) = some(context, "windowsOptions") else { return };
    let path = path.child("windowsOptions");
    let name = text(options, "gmsaCredentialSpecName");
    if !name.is_empty()
        && let Some(message) = names::subdomain(name)
    {
        errors.invalid(&path.child("gmsaCredentialSpecName"), name, message);
    }
    if let Some(spec) = some(options, "gmsaCredentialSpec").and_then(Value::as_str) {
        let path = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(&path, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > WINDOWS_CREDENTIAL_BYTES_MAX {
            errors.invalid(&path, spec, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(user) = some(options, "runAsUserName").and_then(Value::as_str) {
        let path = path.child("runAsUserName");
        if user.is_empty() {
            errors.invalid(&path, user, "runAsUserName cannot be an empty string");
        } else if user.chars().any(char::is_control) {
            errors.invalid(&path, user, "runAsUserName cannot contain control characters");
        } else if user.split('\\').count() > 2 {
            errors.invalid(&path, user, "runAsUserName cannot contain more than one backslash");
        }
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
        "Localhost" => validate_profile_path(file, key, &path.child("localhostProfile"), errors),
        "RuntimeDefault" | "Unconfined" if file.is_empty() => {}
        "RuntimeDefault" | "Unconfined" => {
            errors.invalid(&path.child("localhostProfile"), file, "can only be set when type is Localhost");
        }
        "" => errors.required(&path.child("type"), "type is required when a profile is set"),
        kind => errors.not_supported(&path.child("type"), kind, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}
