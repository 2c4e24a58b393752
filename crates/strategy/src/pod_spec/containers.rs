//! The rules of containers, init containers and ephemeral containers.

use std::collections::HashSet;

use serde_json::Value;

use super::{env, handlers, resources, security, validation::validate_choice, volumes::Volumes};
use crate::{
    field_error::{FieldErrors, Path},
    names,
    tree::{flag, int, is_empty, list, some, text},
};

mod mounts;

pub(super) use mounts::{validate_no_dots, validate_relative};

/// What all containers of a pod share while they are checked.
struct Pod<'a> {
    volumes: &'a Volumes<'a>,
    names: HashSet<&'a str>,
    host_ports: HashSet<(&'a str, &'a str, i64)>,
    host_network: bool,
    /// Names of the pod's resource claims.
    claims: HashSet<&'a str>,
    restart_policy: &'a str,
    /// The operating system the pod says it is for, empty when it does not say.
    os: &'a str,
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
    let mut pod = Pod {
        volumes,
        names: HashSet::new(),
        host_ports: HashSet::new(),
        host_network: flag(spec, "hostNetwork"),
        claims: list(spec, "resourceClaims").iter().map(|claim| text(claim, "name")).collect(),
        restart_policy: text(spec, "restartPolicy"),
        os: crate::tree::text_at(spec, &["os", "name"]),
    };
    if list(spec, "containers").is_empty() {
        errors.required(&path.child("containers"), "");
    }
    for (key, role) in
        [("containers", Role::Main), ("initContainers", Role::Init), ("ephemeralContainers", Role::Ephemeral)]
    {
        let path = path.child(key);
        for (index, container) in list(spec, key).iter().enumerate() {
            let path = path.index(index);
            if role == Role::Ephemeral {
                validate_ephemeral(container, &pod, &path, errors);
            }
            validate_container(container, role, &mut pod, &path, errors);
        }
    }
}

/// What an ephemeral container may set; the rest needs resources or a life cycle that it has not.
const EPHEMERAL_FIELDS: [&str; 15] = [
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
];

fn validate_ephemeral(container: &Value, pod: &Pod<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let target = text(container, "targetContainerName");
    if !target.is_empty() && !pod.names.contains(target) {
        errors.not_found(&path.child("targetContainerName"), target);
    }
    for (key, value) in container.as_object().into_iter().flatten() {
        // a probe, hook or restart policy is refused with words of its own
        let told = ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "restartPolicy"];
        let allowed = ["tty", "targetContainerName"].contains(&key.as_str())
            || EPHEMERAL_FIELDS.contains(&key.as_str())
            || told.contains(&key.as_str());
        if !allowed && !is_empty(value) {
            errors.forbidden(&path.child(key), "cannot be set for an Ephemeral Container");
        }
    }
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        for key in ["subPath", "subPathExpr"] {
            if !text(mount, key).is_empty() {
                let mounts = path.child("volumeMounts");
                let path = mounts.index(index);
                errors.forbidden(&path.child(key), "cannot be set for an Ephemeral Container");
            }
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
    mounts::validate(container, pod.volumes, path, errors);
    let wanted = container.get("resources").unwrap_or(&Value::Null);
    resources::validate(wanted, &path.child("resources"), errors);
    validate_claims(wanted, pod, &path.child("resources"), errors);
    validate_resize_policy(container, pod, path, errors);
    security::validate_container(
        container.get("securityContext").unwrap_or(&Value::Null),
        &path.child("securityContext"),
        errors,
    );
    validate_restart(container, role, path, errors);
    handlers::validate_stop_signal(container, pod.os, path, errors);
}

fn validate_claims(resources: &Value, pod: &Pod<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("claims");
    let mut seen = HashSet::new();
    for (index, claim) in list(resources, "claims").iter().enumerate() {
        let path = path.index(index);
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            errors.required(&path, "");
            continue;
        }
        if !seen.insert((name, request)) {
            errors.duplicate(&path, if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") });
        }
        if !pod.claims.contains(name) {
            errors.not_found(&path, name);
        }
    }
}

fn validate_resize_policy(container: &Value, pod: &Pod<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("resizePolicy");
    let mut seen = HashSet::new();
    for (index, policy) in list(container, "resizePolicy").iter().enumerate() {
        let path = path.index(index);
        let (resource, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !seen.insert(resource) {
            errors.duplicate(&path, resource);
        }
        match resource {
            "cpu" | "memory" => {}
            "" => errors.required(&path.child("resourceName"), ""),
            resource => errors.not_supported(&path.child("resourceName"), resource, &["cpu", "memory"]),
        }
        match restart {
            "NotRequired" => {}
            "RestartContainer" if pod.restart_policy == "Never" => {
                errors.invalid(
                    &path.child("restartPolicy"),
                    restart,
                    "must be 'NotRequired' when `restartPolicy` is 'Never'",
                );
            }
            "RestartContainer" => {}
            "" => errors.required(&path.child("restartPolicy"), ""),
            restart => {
                errors.not_supported(&path.child("restartPolicy"), restart, &["NotRequired", "RestartContainer"]);
            }
        }
    }
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
        let address = text(port, "hostIP");
        if !address.is_empty() {
            super::validation::validate_ip(address, &path.child("hostIP"), errors);
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
