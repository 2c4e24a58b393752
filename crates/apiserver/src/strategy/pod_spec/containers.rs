//! The rules of containers, init containers and ephemeral containers.

use std::collections::HashSet;

use serde_json::Value;

use super::{env, handlers, resources, security, validation::validate_choice, volumes::Volumes};
use crate::{
    field_error::{FieldErrors, Path},
    strategy::{
        names,
        tree::{flag, int, list, some, text},
    },
};

/// What all containers of a pod share while they are checked.
struct Pod<'a> {
    volumes: &'a Volumes<'a>,
    names: HashSet<&'a str>,
    host_ports: HashSet<(&'a str, &'a str, i64)>,
    host_network: bool,
}

/// Which list a container stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Main,
    Init,
    Ephemeral,
}

/// Checks all containers of `spec`.
pub(super) fn validate(spec: &Value, volumes: &Volumes<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut pod =
        Pod { volumes, names: HashSet::new(), host_ports: HashSet::new(), host_network: flag(spec, "hostNetwork") };
    if list(spec, "containers").is_empty() {
        errors.required(&path.child("containers"), "");
    }
    for (key, role) in
        [("containers", Role::Main), ("initContainers", Role::Init), ("ephemeralContainers", Role::Ephemeral)]
    {
        let path = path.child(key);
        for (index, container) in list(spec, key).iter().enumerate() {
            validate_container(container, role, &mut pod, &path.index(index), errors);
        }
    }
}

fn validate_container<'a>(
    container: &'a Value,
    role: Role,
    pod: &mut Pod<'a>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else if let Some(message) = names::label(name) {
        errors.invalid(&path.child("name"), name, message);
    } else if !pod.names.insert(name) {
        errors.duplicate(&path.child("name"), name);
    }
    let image = text(container, "image");
    if image.is_empty() {
        errors.required(&path.child("image"), "");
    } else if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
    validate_choice(container, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], path, errors);
    validate_choice(container, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], path, errors);
    validate_ports(list(container, "ports"), role, pod, &path.child("ports"), errors);
    env::validate(container, path, errors);
    validate_mounts(container, pod.volumes, path, errors);
    resources::validate(container.get("resources").unwrap_or(&Value::Null), &path.child("resources"), errors);
    security::validate_container(
        container.get("securityContext").unwrap_or(&Value::Null),
        &path.child("securityContext"),
        errors,
    );
    validate_restart(container, role, path, errors);
}

fn validate_restart(container: &Value, role: Role, path: &Path<'_>, errors: &mut FieldErrors) {
    let policy = text(container, "restartPolicy");
    let sidecar = role == Role::Init && policy == "Always";
    if !policy.is_empty() {
        match role {
            Role::Ephemeral => {
                errors.forbidden(&path.child("restartPolicy"), "cannot be set for an Ephemeral Container");
            }
            Role::Main | Role::Init if !["Always", "OnFailure", "Never"].contains(&policy) => {
                errors.not_supported(&path.child("restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
            }
            Role::Main | Role::Init => {}
        }
    }
    for (key, probes) in
        [("lifecycle", false), ("livenessProbe", true), ("readinessProbe", true), ("startupProbe", true)]
    {
        let Some(value) = some(container, key) else { continue };
        let path = path.child(key);
        match role {
            Role::Ephemeral => {
                errors.forbidden(&path, "cannot be set for an Ephemeral Container");
            }
            Role::Init if !sidecar => {
                errors.forbidden(&path, "may not be set for init containers without restartPolicy=Always");
            }
            Role::Main | Role::Init if probes => handlers::validate_probe(value, key, &path, errors),
            Role::Main | Role::Init => handlers::validate_lifecycle(value, &path, errors),
        }
    }
}

fn validate_ports<'a>(ports: &'a [Value], role: Role, pod: &mut Pod<'a>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            if let Some(message) = names::port_name(name) {
                errors.invalid(&path.child("name"), name, message);
            } else if !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        let number = int(port, "containerPort").unwrap_or(0);
        if number == 0 {
            errors.required(&path.child("containerPort"), "");
        } else if let Some(message) = names::port_number(number) {
            errors.invalid(&path.child("containerPort"), number, message);
        }
        validate_choice(port, "protocol", &["SCTP", "TCP", "UDP"], &path, errors);
        let host_port = int(port, "hostPort").unwrap_or(0);
        if host_port == 0 {
            continue;
        }
        if let Some(message) = names::port_number(host_port) {
            errors.invalid(&path.child("hostPort"), host_port, message);
        }
        if pod.host_network && host_port != number {
            errors.invalid(&path.child("containerPort"), number, "must match `hostPort` when `hostNetwork` is true");
        }
        let key = (text(port, "protocol"), text(port, "hostIP"), host_port);
        if role == Role::Main && !pod.host_ports.insert(key) {
            errors.duplicate(&path.child("hostPort"), format!("{}/{}/{host_port}", key.0, key.1));
        }
    }
}

fn validate_mounts(container: &Value, volumes: &Volumes<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mounts_path = path.child("volumeMounts");
    let mut seen = HashSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = mounts_path.index(index);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        if !volumes.contains(name) {
            errors.not_found(&path.child("name"), name);
        }
        if target.is_empty() {
            errors.required(&path.child("mountPath"), "");
        } else if !seen.insert(target) {
            errors.invalid(&path.child("mountPath"), target, "must be unique");
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub.is_empty() && !expression.is_empty() {
            errors.invalid(&path.child("subPathExpr"), expression, "subPathExpr and subPath are mutually exclusive");
        }
        validate_relative(sub, &path.child("subPath"), errors);
        validate_relative(expression, &path.child("subPathExpr"), errors);
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

/// A path that stays below where it is applied.
pub(super) fn validate_relative(target: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if target.starts_with('/') {
        errors.invalid(path, target, "must be a relative path");
    }
    validate_no_dots(target, path, errors);
}

/// A path without `..`.
pub(super) fn validate_no_dots(target: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if target.split('/').any(|part| part == "..") {
        errors.invalid(path, target, "must not contain '..'");
    }
}
