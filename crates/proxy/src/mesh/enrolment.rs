//! Which pods take part in the mesh. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

/// The label of namespaces and pods, as Istio's ambient mode reads it.
pub(crate) const LABEL: &str = "istio.io/dataplane-mode";
const AMBIENT: &str = "ambient";
const NONE: &str = "none";

/// Whether a pod takes part: its own label says so, or its namespace's when it has none that counts.
pub(crate) fn takes_part(namespace: &BTreeMap<String, String>, pod: &Pod) -> bool {
    // the host's network is nobody's own
    if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
        return false;
    }
    match pod.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL)).map(String::as_str) {
        Some(AMBIENT) => true,
        Some(NONE) => false,
        _ => namespace.get(LABEL).is_some_and(|mode| mode == AMBIENT),
    }
}

/// Whether labels of a namespace enrol pods.
pub(crate) fn enrols(labels: Option<&BTreeMap<String, String>>) -> bool {
    labels.and_then(|labels| labels.get(LABEL)).is_some_and(|mode| mode == AMBIENT)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_own_label_goes_before_its_namespaces() {
        let labels = |mode: &str| match mode {
            "" => BTreeMap::new(),
            mode => BTreeMap::from([(LABEL.to_owned(), mode.to_owned())]),
        };
        for (namespace, pod, host_network, expected) in [
            ("", "", false, false),
            ("ambient", "", false, true),
            ("ambient", "none", false, false),
            ("", "ambient", false, true),
            ("none", "ambient", false, true),
            ("ambient", "sideways", false, true),
            ("sideways", "", false, false),
            ("ambient", "ambient", true, false),
        ] {
            let object =
                json!({"metadata": {"labels": labels(pod)}, "spec": {"hostNetwork": host_network, "containers": []}});
            let object: Pod = serde_json::from_value(object).unwrap();
            let found = takes_part(&labels(namespace), &object);
            assert_eq!(found, expected, "namespace {namespace:?}, pod {pod:?}, host network {host_network}");
        }
    }
}
