//! What a client is warned about in a pod: fields that do nothing any more, and values that mean something else than
//! they seem to.

use std::collections::HashMap;

use serde_json::Value;

use super::defaults::CONTAINER_LISTS;
use crate::{
    field_error::Path,
    quantity,
    tree::{at, int, list, map, some, text},
};

/// Node labels that have a successor, and since when.
const LABELS: [(&str, &str, &str); 5] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
];
/// Volume sources of the past.
const SOURCES: [(&str, &str); 14] = [
    ("awsElasticBlockStore", "deprecated in v1.17, non-functional in v1.27+"),
    ("azureDisk", "deprecated in v1.19, non-functional in v1.27+"),
    ("azureFile", "deprecated in v1.21, non-functional in v1.30+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("cinder", "deprecated in v1.11, non-functional in v1.26+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("gcePersistentDisk", "deprecated in v1.17, non-functional in v1.28+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
];

/// The warnings for `spec` at `path`; `annotations` are those of its pod or template, at `metadata_path`.
pub(crate) fn warnings(
    spec: &Value,
    path: &Path<'_>,
    annotations: &serde_json::Map<String, Value>,
    metadata_path: &str,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for (old, since, new) in LABELS {
        if map(spec, "nodeSelector").contains_key(old) {
            warnings.push(format!("{path}.nodeSelector[{old}]: deprecated since {since}; use {new:?} instead"));
        }
        let spreads = list(spec, "topologySpreadConstraints").iter().enumerate();
        for (index, _) in spreads.filter(|(_, spread)| text(spread, "topologyKey") == old) {
            let field = format!("{path}.topologySpreadConstraints[{index}].topologyKey");
            warnings.push(format!("{field}: {old} is deprecated since {since}; use {new:?} instead"));
        }
    }
    annotated(annotations, metadata_path, &mut warnings);
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        for (kind, why) in SOURCES.iter().filter(|(kind, _)| some(volume, kind).is_some()) {
            warnings.push(format!("{path}.volumes[{index}].{kind}: {why}"));
        }
    }
    for (index, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            warnings.push(format!("{path}.imagePullSecrets[{index}].name: invalid empty name \"\""));
        }
    }
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        warnings.push(format!(
            "{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    for key in CONTAINER_LISTS {
        for (index, container) in list(spec, key).iter().enumerate() {
            of_container(container, &format!("{path}.{key}[{index}]"), &mut warnings);
        }
    }
    duplicate_ports(spec, path, &mut warnings);
    warnings
}

fn annotated(annotations: &serde_json::Map<String, Value>, path: &str, warnings: &mut Vec<String>) {
    for key in annotations.keys() {
        let why = if key.starts_with("container.apparmor.security.beta.kubernetes.io/") {
            "deprecated since v1.30; use the \"appArmorProfile\" field instead"
        } else if key == "seccomp.security.alpha.kubernetes.io/pod"
            || key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        {
            "non-functional in v1.27+; use the \"seccompProfile\" field instead"
        } else {
            match key.as_str() {
                "scheduler.alpha.kubernetes.io/critical-pod" => {
                    "non-functional in v1.16+; use the \"priorityClassName\" field instead"
                }
                "security.alpha.kubernetes.io/sysctls" | "security.alpha.kubernetes.io/unsafe-sysctls" => {
                    "non-functional in v1.11+; use the \"sysctls\" field instead"
                }
                _ => continue,
            }
        };
        warnings.push(format!("{path}.annotations[{key}]: {why}"));
    }
}

fn of_container(container: &Value, path: &str, warnings: &mut Vec<String>) {
    for list_key in ["limits", "requests"] {
        let wanted = at(container, &["resources", list_key]).and_then(Value::as_object);
        for (name, amount) in wanted.into_iter().flatten() {
            let bytes = name == "memory" || name == "ephemeral-storage" || name.starts_with("hugepages-");
            if bytes && quantity::parse(amount).is_some_and(|amount| !quantity::is_whole(&amount)) {
                warnings.push(format!(
                    "{path}.resources.{list_key}[{name}]: fractional byte value {amount} is invalid, must be an integer"
                ));
            }
        }
    }
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (index, variable) in list(container, "env").iter().enumerate() {
        let name = text(variable, "name");
        match first.get(name) {
            // a later value that builds on the earlier one hides nothing
            Some(earlier) if !text(variable, "value").contains(&format!("$({name})")) => warnings.push(format!(
                "{path}.env[{index}]: hides previous definition of {name:?}, which may be dropped when using apply (first defined at {path}.env[{earlier}])"
            )),
            Some(_) => {}
            None => {
                first.insert(name, index);
            }
        }
    }
}

/// Two containers cannot listen on one port of the pod.
fn duplicate_ports(spec: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    let mut seen: HashMap<(&str, i64), (usize, usize)> = HashMap::new();
    for (index, container) in list(spec, "containers").iter().enumerate() {
        for (port_index, port) in list(container, "ports").iter().enumerate() {
            let number = int(port, "containerPort").unwrap_or(0);
            let key = (text(port, "protocol"), number);
            match seen.get(&key) {
                Some((container, first)) => warnings.push(format!(
                    "{path}.containers[{index}].ports[{port_index}]: duplicate port definition with {path}.containers[{container}].ports[{first}]"
                )),
                None => {
                    seen.insert(key, (index, port_index));
                }
            }
        }
    }
}
