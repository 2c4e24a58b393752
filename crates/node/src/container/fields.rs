//! The downward API: fields of the pod and resources of its containers as text.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};

use kinds::quantity::milli;

/// What the downward API can tell besides the pod itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodFacts {
    pub(crate) pod_ips: Vec<String>,
    pub(crate) host_ip: String,
    /// What a container without a limit may use.
    pub(crate) allocatable_cpu: String,
    pub(crate) allocatable_memory: String,
}

/// A reference that cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
    #[error("container {0} not found")]
    Container(String),
    #[error("invalid divisor {0}")]
    Divisor(String),
}

fn key_of<'a>(path: &'a str, map: &str) -> Option<&'a str> {
    path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")
}

/// The value of `fieldRef.fieldPath`.
pub(crate) fn field(pod: &Pod, facts: &PodFacts, path: &str) -> Result<String, FieldError> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let entry = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some(key) = key_of(path, "metadata.labels") {
        return Ok(entry(&metadata.labels, key));
    }
    if let Some(key) = key_of(path, "metadata.annotations") {
        return Ok(entry(&metadata.annotations, key));
    }
    let value = match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "metadata.labels" => Some(format_map(metadata.labels.as_ref())),
        "metadata.annotations" => Some(format_map(metadata.annotations.as_ref())),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.hostIP" | "status.hostIPs" => Some(facts.host_ip.clone()),
        "status.podIP" => facts.pod_ips.first().cloned(),
        "status.podIPs" => Some(facts.pod_ips.join(",")),
        other => return Err(FieldError::Path(other.to_owned())),
    };
    Ok(value.unwrap_or_default())
}

/// Labels and annotations as a downward volume shows them: `key="value"` lines.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef`.
pub(crate) fn resource(
    pod: &Pod,
    facts: &PodFacts,
    own_container: Option<&str>,
    selector: &ResourceFieldSelector,
) -> Result<String, FieldError> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty()).or(own_container).unwrap_or_default();
    let container = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
        .find(|container| container.name == name)
        .ok_or_else(|| FieldError::Container(name.to_owned()))?;
    let unsupported = || FieldError::Resource(selector.resource.clone());
    let (side, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let amounts = container.resources.as_ref().and_then(|resources| match side {
        "limits" => resources.limits.as_ref(),
        "requests" => resources.requests.as_ref(),
        _ => None,
    });
    let text = amounts.and_then(|amounts| amounts.get(resource)).map(|quantity| quantity.0.as_str());
    let text = match (side, resource, text) {
        ("limits" | "requests", _, Some(text)) => text,
        ("limits", "cpu", None) => &facts.allocatable_cpu,
        ("limits", "memory", None) => &facts.allocatable_memory,
        ("limits" | "requests", "cpu" | "memory" | "ephemeral-storage", None) => "0",
        _ => return Err(unsupported()),
    };
    let divisor = selector.divisor.as_ref().map_or("1", |divisor| divisor.0.as_str());
    let thousandths = |text: &str| milli(text).map(i128::from);
    let divisor = thousandths(divisor).map(|divisor| if divisor == 0 { 1000 } else { divisor });
    match (thousandths(text), divisor) {
        (Some(amount), Some(divisor)) if divisor > 0 => Ok(((amount + divisor - 1) / divisor).to_string()),
        _ => Err(FieldError::Divisor(selector.divisor.as_ref().map_or(String::new(), |divisor| divisor.0.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_and_resources_resolve_or_name_what_is_wrong() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "1", "b": "x\"y"}},
            "spec": {"nodeName": "node", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "64Mi"}}}]},
        }))
        .unwrap();
        let facts = PodFacts {
            pod_ips: vec!["10.0.0.1".into()],
            host_ip: "1.1.1.1".into(),
            allocatable_cpu: "4".into(),
            allocatable_memory: "1Gi".into(),
        };
        let fields = [
            ("metadata.name", "p"),
            ("metadata.labels['a']", "1"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "a=\"1\"\nb=\"x\\\"y\""),
            ("spec.nodeName", "node"),
            ("status.podIP", "10.0.0.1"),
            ("status.hostIP", "1.1.1.1"),
        ];
        for (path, expected) in fields {
            assert_eq!(field(&pod, &facts, path).as_deref(), Ok(expected), "{path}");
        }
        assert_eq!(field(&pod, &facts, "status.phase"), Err(FieldError::Path("status.phase".into())));
        let resources = [
            ("limits.cpu", None, "2"),
            ("limits.cpu", Some("1m"), "1500"),
            ("requests.memory", Some("1Mi"), "64"),
            ("limits.memory", None, "1073741824"),
            ("requests.cpu", None, "0"),
        ];
        for (name, divisor, expected) in resources {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"resource": name, "divisor": divisor})).unwrap();
            assert_eq!(resource(&pod, &facts, Some("c"), &selector).as_deref(), Ok(expected), "{name}");
        }
    }
}
