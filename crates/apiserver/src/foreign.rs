//! What a kube-apiserver keeps in etcd: protobuf, in the version that its release stores.
//!
//! With it the etcd of a kube-apiserver can be taken over. Values are translated when they are read, and become our JSON
//! when they are next written, which a kube-apiserver reads as well.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use kinds::Resource;
use schema::protobuf;
use store::{Foreign, ForeignError};

use crate::{convert::Form, server::SERVICES};

/// Older versions that upstream stored kinds in, whose messages have the same fields under the same numbers.
const SAME_MESSAGES: &[(&str, &[&str])] = &[
    ("admissionregistration.k8s.io", &["v1beta1"]),
    ("apiextensions.k8s.io", &["v1beta1"]),
    ("apiregistration.k8s.io", &["v1beta1"]),
    ("batch", &["v1beta1"]),
    ("coordination.k8s.io", &["v1beta1"]),
    ("discovery.k8s.io", &["v1beta1"]),
    ("flowcontrol.apiserver.k8s.io", &["v1beta1", "v1beta2", "v1beta3"]),
    ("networking.k8s.io", &["v1beta1"]),
    ("node.k8s.io", &["v1beta1"]),
    ("policy", &["v1beta1"]),
    ("rbac.authorization.k8s.io", &["v1beta1"]),
    ("scheduling.k8s.io", &["v1beta1"]),
    ("storage.k8s.io", &["v1alpha1", "v1beta1"]),
];
/// Kinds of these groups whose form changed all the same.
const OTHER_MESSAGES: &[(&str, &str)] = &[
    ("apiextensions.k8s.io/v1beta1", "CustomResourceDefinition"),
    ("certificates.k8s.io/v1beta1", "CertificateSigningRequest"),
    ("networking.k8s.io/v1beta1", "Ingress"),
];

/// The versions of a resource, and the form of each.
type Versions = Vec<(Arc<Resource>, Form)>;

/// The versions of each collection's resource.
static COLLECTIONS: LazyLock<HashMap<String, Versions>> = LazyLock::new(|| {
    let mut collections: HashMap<String, Versions> = HashMap::new();
    for resource in kinds::builtin() {
        let (form, collection, _) = Form::of_builtin(resource);
        collections.entry(collection).or_default().push((resource.clone(), form));
    }
    collections
});

/// Translates the values of a kube-apiserver.
pub struct KubeApiserver;

impl Foreign for KubeApiserver {
    fn translate(&self, collection: &str, value: &Bytes) -> Result<Vec<u8>, ForeignError> {
        if !protobuf::is_encoded(value) {
            return Err(ForeignError("the value is neither a JSON object with metadata nor protobuf".to_owned()));
        }
        let versions = COLLECTIONS.get(collection).map_or(&[][..], Vec::as_slice);
        let served = |api_version: &str| versions.iter().find(|(resource, _)| resource.api_version() == api_version);
        let stored = versions.iter().find(|(_, form)| *form == Form::Stored).or_else(|| versions.first());
        let mut refused = None;
        let current = |api_version: &str, kind: &str| {
            if served(api_version).is_some() {
                return None;
            }
            match stored {
                Some((resource, _)) if has_same_message(resource, api_version, kind) => Some(resource.api_version()),
                _ => {
                    refused = Some(format!(
                        "{kind} in version {api_version:?} cannot be read: have its server write it in a newer one"
                    ));
                    None
                }
            }
        };
        let decoded = protobuf::decode_as(value, current);
        if let Some(why) = refused {
            return Err(ForeignError(why));
        }
        let mut object = decoded.map_err(|error| ForeignError(error.to_string()))?;
        let api_version = object["apiVersion"].as_str().unwrap_or_default();
        let Some((resource, form)) = served(api_version) else {
            return Err(ForeignError(format!("nothing in version {api_version:?} is kept in {collection}")));
        };
        let (_, _, stored_api_version) = Form::of_builtin(resource);
        form.to_stored(&mut object, &stored_api_version);
        // what newer versions default is not there yet, as upstream fills it in when it reads
        strategy::of(resource).default(&mut object);
        if collection == SERVICES
            && let Some(spec) = object.get_mut("spec")
        {
            strategy::complete_addresses(spec);
        }
        crate::meta::tidy(&mut object);
        serde_json::to_vec(&object).map_err(|error| ForeignError(error.to_string()))
    }
}

/// Whether an older version of a resource is on the wire what the stored one is.
fn has_same_message(resource: &Resource, api_version: &str, kind: &str) -> bool {
    let Some((group, version)) = api_version.split_once('/') else { return false };
    group == resource.group
        && kind == resource.kind
        && !OTHER_MESSAGES.contains(&(api_version, kind))
        && SAME_MESSAGES.iter().any(|(known, versions)| *known == group && versions.contains(&version))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A value as a kube-apiserver writes it: the object's message in an envelope that names this version.
    fn kept(object: &Value, api_version: &str) -> Bytes {
        let encoded = protobuf::encode(object).unwrap();
        let (from, to) = (object["apiVersion"].as_str().unwrap(), api_version);
        let meta = |version: &str| {
            let kind = object["kind"].as_str().unwrap();
            let inner = [&[10, version.len() as u8][..], version.as_bytes(), &[18, kind.len() as u8], kind.as_bytes()];
            let inner = inner.concat();
            [&[10, inner.len() as u8][..], &inner].concat()
        };
        let rest = encoded.strip_prefix(&[&b"k8s\0"[..], &meta(from)].concat()[..]).unwrap();
        [&b"k8s\0"[..], &meta(to), rest].concat().into()
    }

    fn read(collection: &str, value: &Bytes) -> Result<Value, String> {
        let json = KubeApiserver.translate(collection, value).map_err(|error| error.to_string())?;
        Ok(serde_json::from_slice(&json).unwrap())
    }

    #[test]
    fn values_of_a_kube_apiserver_become_the_stored_form() {
        let metadata = json!({"name": "a", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"});
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "b"}});
        assert_eq!(read("core/configmaps", &kept(&config, "v1")).unwrap(), config);

        let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata,
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
        let found = read("policy/poddisruptionbudgets", &kept(&budget, "policy/v1beta1")).unwrap();
        assert_eq!((&found["apiVersion"], &found["spec"]), (&budget["apiVersion"], &budget["spec"]));

        let scaler = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": metadata,
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}}});
        let found = read("autoscaling/horizontalpodautoscalers", &kept(&scaler, "autoscaling/v1")).unwrap();
        assert_eq!(found["apiVersion"], "autoscaling/v2");
        assert_eq!(found["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    }

    #[test]
    fn what_an_older_server_did_not_know_is_filled_in() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "n"},
            "spec": {"clusterIP": "10.0.0.7", "type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}});
        let found = read("core/services", &kept(&service, "v1")).unwrap();
        assert_eq!(found["spec"]["clusterIPs"], json!(["10.0.0.7"]));
        assert_eq!(found["spec"]["internalTrafficPolicy"], "Cluster");
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_reason() {
        let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "a"}});
        let error = read("networking.k8s.io/ingresses", &kept(&ingress, "networking.k8s.io/v1beta1")).unwrap_err();
        assert!(error.contains("Ingress in version \"networking.k8s.io/v1beta1\" cannot be read"), "{error}");
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        let error = read("core/secrets", &kept(&config, "v2")).unwrap_err();
        assert!(error.contains("cannot be read"), "{error}");
        for value in [&b"k8s\0"[..], b"k8s\0\xff", b"[]", b""] {
            assert!(KubeApiserver.translate("core/pods", &Bytes::copy_from_slice(value)).is_err(), "{value:?}");
        }
    }

    #[test]
    fn fixtures_of_upstream_are_read_where_they_would_lie() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/kubernetes-api-fixtures");
        let mut read_whole = 0;
        for resource in kinds::builtin() {
            let group = if resource.group.is_empty() { "core" } else { &resource.group };
            let path = format!("{folder}/{group}.{}.{}.pb", resource.version, resource.kind);
            let Ok(value) = std::fs::read(&path) else { continue };
            let (form, collection, stored) = Form::of_builtin(resource);
            if form == Form::Event {
                continue;
            }
            let found = read(&collection, &value.into()).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(found["apiVersion"], stored, "{path}");
            read_whole += 1;
        }
        assert!(read_whole > 40 || std::fs::metadata(folder).is_err(), "only {read_whole} kinds had a fixture");
    }
}
