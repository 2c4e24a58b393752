//! Upstream's defaults of a pod specification.

use serde_json::{Map, Value, json};

use crate::tree::{child_mut, default_to, default_zero_to, flag, list_mut, map_mut, text};

/// Mode of files from ConfigMaps, Secrets and the like: 0644.
const FILE_MODE: i64 = 0o644;
/// Life of a projected service-account token.
const TOKEN_SECONDS: i64 = 3600;

/// The list fields that hold containers.
pub(super) const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Defaults of a pod specification, in a Pod or a template.
pub(crate) fn default_spec(spec: &mut Value) {
    default_to(spec, "dnsPolicy", "ClusterFirst");
    default_to(spec, "restartPolicy", "Always");
    default_to(spec, "schedulerName", "default-scheduler");
    default_to(spec, "securityContext", Map::new());
    default_to(spec, "terminationGracePeriodSeconds", 30);
    mirror_service_account(spec);
    if flag(spec, "hostNetwork") {
        default_host_ports(spec);
    }
    for key in CONTAINER_LISTS {
        list_mut(spec, key).iter_mut().for_each(default_container);
    }
    list_mut(spec, "volumes").iter_mut().for_each(default_volume);
}

/// Defaults that a Pod has beyond those of a template.
pub(crate) fn default_pod(spec: &mut Value) {
    default_to(spec, "enableServiceLinks", true);
    for key in ["containers", "initContainers"] {
        for container in list_mut(spec, key) {
            default_requests(container);
        }
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are kept the same.
fn mirror_service_account(spec: &mut Value) {
    let Some(spec) = spec.as_object_mut() else { return };
    let get = |key: &str| spec.get(key).and_then(Value::as_str).unwrap_or_default();
    let (name, old) = (get("serviceAccountName"), get("serviceAccount"));
    if name == old {
        return;
    }
    let name = if name.is_empty() { old.to_owned() } else { name.to_owned() };
    spec.insert("serviceAccount".to_owned(), name.as_str().into());
    spec.insert("serviceAccountName".to_owned(), name.into());
}

fn default_host_ports(spec: &mut Value) {
    for key in ["containers", "initContainers"] {
        for container in list_mut(spec, key) {
            for port in list_mut(container, "ports") {
                let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or_default();
                default_zero_to(port, "hostPort", number);
            }
        }
    }
}

fn default_container(container: &mut Value) {
    if text(container, "imagePullPolicy").is_empty() {
        let policy = if is_latest(text(container, "image")) { "Always" } else { "IfNotPresent" };
        default_to(container, "imagePullPolicy", policy);
    }
    default_to(container, "terminationMessagePath", "/dev/termination-log");
    default_to(container, "terminationMessagePolicy", "File");
    default_to(container, "resources", Map::new());
    for port in list_mut(container, "ports") {
        default_to(port, "protocol", "TCP");
    }
    for variable in list_mut(container, "env") {
        if let Some(source) = variable.get_mut("valueFrom") {
            default_field_source(source);
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(key).filter(|probe| probe.is_object()) {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = container.get_mut("lifecycle") {
        for key in ["postStart", "preStop"] {
            if let Some(handler) = lifecycle.get_mut(key) {
                default_http_get(handler);
            }
        }
    }
}

/// Whether the image names the tag `latest`, or no tag and no digest, which means the same.
fn is_latest(image: &str) -> bool {
    if image.is_empty() || image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => true,
    }
}

fn default_probe(probe: &mut Value) {
    default_zero_to(probe, "timeoutSeconds", 1);
    default_zero_to(probe, "periodSeconds", 10);
    default_zero_to(probe, "successThreshold", 1);
    default_zero_to(probe, "failureThreshold", 3);
    default_http_get(probe);
    if let Some(grpc) = probe.get_mut("grpc") {
        default_to(grpc, "service", "");
    }
}

fn default_http_get(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet") {
        default_to(get, "path", "/");
        default_to(get, "scheme", "HTTP");
    }
}

fn default_field_source(source: &mut Value) {
    if let Some(field) = source.get_mut("fieldRef") {
        default_to(field, "apiVersion", "v1");
    }
    if let Some(field) = source.get_mut("resourceFieldRef") {
        default_to(field, "divisor", "0");
    }
}

/// A limit without a request requests as much.
fn default_requests(container: &mut Value) {
    let limits = match container.pointer("/resources/limits").and_then(Value::as_object) {
        Some(limits) if !limits.is_empty() => limits.clone(),
        _ => return,
    };
    let Some(resources) = child_mut(container, "resources") else { return };
    let Some(requests) = map_mut(resources, "requests") else { return };
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// Keys of a volume that are no source.
const VOLUME_NAME: &str = "name";

fn default_volume(volume: &mut Value) {
    let Some(map) = volume.as_object_mut() else { return };
    if !map.iter().any(|(key, value)| key != VOLUME_NAME && !value.is_null()) {
        map.insert("emptyDir".to_owned(), json!({}));
        return;
    }
    for key in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(key).filter(|source| source.is_object()) {
            default_to(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(source) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        source.entry("type").or_insert_with(|| "".into());
    }
    if let Some(source) = volume.get_mut("image").filter(|source| source.is_object()) {
        let policy = if is_latest(text(source, "reference")) { "Always" } else { "IfNotPresent" };
        default_to(source, "pullPolicy", policy);
    }
    if let Some(source) = volume.get_mut("iscsi") {
        default_to(source, "iscsiInterface", "default");
    }
    if let Some(source) = volume.get_mut("downwardAPI") {
        list_mut(source, "items").iter_mut().for_each(default_field_source);
    }
    if let Some(source) = volume.get_mut("projected") {
        for source in list_mut(source, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken").filter(|token| token.is_object()) {
                default_to(token, "expirationSeconds", TOKEN_SECONDS);
            }
            if let Some(downward) = source.get_mut("downwardAPI") {
                list_mut(downward, "items").iter_mut().for_each(default_field_source);
            }
        }
    }
    if let Some(spec) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        default_to(spec, "volumeMode", "Filesystem");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_the_pull_policy() {
        for (image, latest) in [
            ("web", true),
            ("web:latest", true),
            ("localhost:5000/web", true),
            ("localhost:5000/web:1", false),
            ("web:1", false),
            ("web@sha256:00", false),
            ("web:latest@sha256:00", false),
            ("", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
