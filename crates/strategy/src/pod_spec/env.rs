//! The rules of environment variables and of references to fields.

use serde_json::Value;

use crate::{
    field_error::{FieldErrors, Path},
    names,
    tree::{list, some, text},
};

/// Fields of the pod that an environment variable can show.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Checks `env` and `envFrom` of a container.
pub(super) fn validate(container: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let env = path.child("env");
    for (index, variable) in list(container, "env").iter().enumerate() {
        validate_variable(variable, &env.index(index), errors);
    }
    let env_from = path.child("envFrom");
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        let path = env_from.index(index);
        let prefix = text(source, "prefix");
        if !prefix.is_empty()
            && let Some(message) = names::env_var(prefix)
        {
            errors.invalid(&path.child("prefix"), prefix, message);
        }
        let (map, secret) = (some(source, "configMapRef"), some(source, "secretRef"));
        match (map, secret) {
            (None, None) => {
                errors.invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`");
            }
            (Some(_), Some(_)) => errors.invalid(&path, "", "may not have more than one field specified at a time"),
            (Some(_), None) | (None, Some(_)) => {}
        }
        for (key, reference) in [("configMapRef", map), ("secretRef", secret)] {
            if reference.is_some_and(|reference| text(reference, "name").is_empty()) {
                let path = path.child(key);
                errors.required(&path.child("name"), "");
            }
        }
    }
}

fn validate_variable(variable: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = text(variable, "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else if let Some(message) = names::env_var(name) {
        errors.invalid(&path.child("name"), name, message);
    }
    let Some(source) = some(variable, "valueFrom") else { return };
    let path = path.child("valueFrom");
    let mut sources = 0;
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(reference) = some(source, key) {
            sources += 1;
            validate_key_reference(reference, &path.child(key), errors);
        }
    }
    if let Some(field) = some(source, "fieldRef") {
        sources += 1;
        validate_field(field, &ENV_FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(field) = some(source, "resourceFieldRef") {
        sources += 1;
        validate_resource_field(field, false, &path.child("resourceFieldRef"), errors);
    }
    if let Some(file) = some(source, "fileKeyRef") {
        sources += 1;
        for key in ["volumeName", "path", "key"] {
            if text(file, key).is_empty() {
                errors.required(&path.child("fileKeyRef").child(key), "");
            }
        }
    }
    if sources == 0 {
        errors.invalid(
            &path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        );
    } else if !text(variable, "value").is_empty() {
        errors.invalid(&path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errors.invalid(&path, "", "may not have more than one field specified at a time");
    }
}

fn validate_key_reference(reference: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if text(reference, "name").is_empty() {
        errors.required(&path.child("name"), "");
    }
    let key = text(reference, "key");
    if key.is_empty() {
        errors.required(&path.child("key"), "");
    } else if let Some(message) = names::config_key(key) {
        errors.invalid(&path.child("key"), key, message);
    }
}

/// Checks a reference to one of `supported`, a label or an annotation.
pub(super) fn validate_field(field: &Value, supported: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    let target = text(field, "fieldPath");
    if text(field, "apiVersion").is_empty() {
        errors.required(&path.child("apiVersion"), "");
    } else if target.is_empty() {
        errors.required(&path.child("fieldPath"), "");
    } else if let Some(key) = subscript(target, "metadata.labels").or_else(|| subscript(target, "metadata.annotations"))
    {
        if let Some(message) = names::qualified(&key.to_ascii_lowercase()) {
            errors.invalid(&path.child("fieldPath"), target, message);
        }
    } else if !supported.contains(&target) {
        errors.not_supported(&path.child("fieldPath"), target, supported);
    }
}

/// What a reference may show of a container's requests and limits, and the divisors each allows.
const RESOURCE_FIELDS: [(&str, &[&str]); 6] = [
    ("limits.cpu", &["0", "1m", "1"]),
    ("limits.ephemeral-storage", SIZE_DIVISORS),
    ("limits.memory", SIZE_DIVISORS),
    ("requests.cpu", &["0", "1m", "1"]),
    ("requests.ephemeral-storage", SIZE_DIVISORS),
    ("requests.memory", SIZE_DIVISORS),
];
const SIZE_DIVISORS: &[&str] =
    &["0", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Checks a reference to a container's requests or limits; a volume has to `name_container`.
pub(super) fn validate_resource_field(field: &Value, name_container: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let resource = text(field, "resource");
    if name_container && text(field, "containerName").is_empty() {
        errors.required(&path.child("containerName"), "");
        return;
    }
    if resource.is_empty() {
        errors.required(&path.child("resource"), "");
        return;
    }
    let huge = resource.strip_prefix("limits.").or_else(|| resource.strip_prefix("requests."));
    let divisors = match RESOURCE_FIELDS.iter().find(|(known, _)| *known == resource) {
        Some((_, divisors)) => divisors,
        None if huge.is_some_and(|name| name.starts_with("hugepages-")) => SIZE_DIVISORS,
        None => {
            errors.not_supported(&path.child("resource"), resource, &RESOURCE_FIELDS.map(|(known, _)| known));
            return;
        }
    };
    let divisor = text(field, "divisor");
    if !divisor.is_empty() && !divisors.contains(&divisor) {
        let rule = if resource.ends_with(".cpu") {
            "only divisor's values 1m and 1 are supported with the cpu resource"
        } else {
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource"
        };
        errors.invalid(&path.child("divisor"), divisor, rule);
    }
}

/// The key in `base['key']`.
fn subscript<'a>(target: &'a str, base: &str) -> Option<&'a str> {
    target.strip_prefix(base)?.strip_prefix("['")?.strip_suffix("']")
}
