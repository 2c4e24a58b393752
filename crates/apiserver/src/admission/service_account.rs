//! Every pod runs as a service account of its namespace, and finds that account's token in its containers.

use serde_json::{Value, json};

use super::{AdmissionError, AdmissionRequest, ObjectReader};
use crate::strategy::{
    generate_name,
    tree::{self, list, text, text_at},
};

/// Where containers find token, certificate authority and namespace.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Life of the token; seven seconds more than an hour tell this volume from one that a user wrote.
const TOKEN_SECONDS: i64 = 3607;
const DEFAULT_ACCOUNT: &str = "default";
/// Marks a pod that a node runs from its own files; such a pod has no account.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Completes a new pod.
pub(super) fn admit(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    pod: &mut Value,
) -> Result<(), AdmissionError> {
    let mirror = tree::at(pod, &["metadata", "annotations", MIRROR]).is_some();
    let seed = seed(text_at(pod, &["metadata", "uid"]), tree::name(pod));
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return Ok(()) };
    if mirror {
        if !text(spec, "serviceAccountName").is_empty() {
            return Err(AdmissionError::forbidden(request, "a mirror pod may not reference service accounts"));
        }
        return Ok(());
    }
    for key in ["serviceAccountName", "serviceAccount"] {
        tree::default_to(spec, key, DEFAULT_ACCOUNT);
    }
    let name = text(spec, "serviceAccountName").to_owned();
    let path = format!("{}/{name}", request.namespace);
    let Some(account) = reader.get("core/serviceaccounts", &path) else {
        // The account of a young namespace is about to be made.
        return Err(AdmissionError::Forbidden {
            group_resource: request.resource.group_resource(),
            name: request.name.to_owned(),
            reason: format!("error looking up service account {path}: serviceaccount {name:?} not found"),
            causes: Vec::new(),
            transient: name == DEFAULT_ACCOUNT,
        });
    };
    let mounts = [&*spec, &*account]
        .iter()
        .find_map(|holder| holder.get("automountServiceAccountToken").and_then(Value::as_bool))
        .unwrap_or(true);
    if mounts {
        mount_token(spec, seed);
    }
    if list(spec, "imagePullSecrets").is_empty() && !list(&account, "imagePullSecrets").is_empty() {
        tree::remove(spec, "imagePullSecrets");
        tree::default_to(spec, "imagePullSecrets", account["imagePullSecrets"].clone());
    }
    Ok(())
}

/// A number that differs from pod to pod: the uid is random, so no further source of randomness is needed.
fn seed(uid: &str, name: &str) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    uid.bytes().chain(name.bytes()).fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

fn mount_token(spec: &mut Value, mut seed: u64) {
    let lacks_mount =
        |container: &Value| !list(container, "volumeMounts").iter().any(|mount| text(mount, "mountPath") == MOUNT_PATH);
    let needed = ["containers", "initContainers"].iter().any(|key| list(spec, key).iter().any(lacks_mount));
    if !needed {
        return;
    }
    let present =
        list(spec, "volumes").iter().map(|volume| text(volume, "name")).find(|name| name.starts_with(VOLUME_PREFIX));
    let (name, new) = match present {
        Some(name) => (name.to_owned(), false),
        None => {
            let random = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                seed.to_be_bytes()[0]
            };
            (generate_name(VOLUME_PREFIX, random), true)
        }
    };
    for key in ["containers", "initContainers"] {
        for container in tree::list_mut(spec, key).iter_mut().filter(|container| lacks_mount(container)) {
            push(container, "volumeMounts", json!({"mountPath": MOUNT_PATH, "name": name, "readOnly": true}));
        }
    }
    if new {
        push(spec, "volumes", token_volume(&name));
    }
}

fn push(holder: &mut Value, key: &str, item: Value) {
    match holder.get_mut(key).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => holder[key] = json!([item]),
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
        ]}},
    ]}})
}
