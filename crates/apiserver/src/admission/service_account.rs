//! Every pod runs as a service account of its namespace, and finds that account's token in its containers.

use std::sync::Arc;

use serde_json::{Value, json};
use strategy::{
    generate_name,
    tree::{self, list, text, text_at},
};

use super::{
    AdmissionError, AdmissionRequest, ObjectReader,
    references::{self, Kind},
};

/// Where containers find token, certificate authority and namespace.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Life of the token; seven seconds more than an hour tell this volume from one that a user wrote.
const TOKEN_SECONDS: i64 = 3607;
const DEFAULT_ACCOUNT: &str = "default";
/// Marks a pod that a node runs from its own files; such a pod has no account.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// On an account: its pods may use only the secrets it lists.
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

/// Completes a new pod.
pub(super) fn complete(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    pod: &mut Value,
) -> Result<(), AdmissionError> {
    if is_mirror(pod) {
        return Ok(());
    }
    let seed = seed(text_at(pod, &["metadata", "uid"]), tree::name(pod));
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return Ok(()) };
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

fn is_mirror(pod: &Value) -> bool {
    tree::at(pod, &["metadata", "annotations", MIRROR]).is_some()
}

/// The pod's account.
fn account(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    spec: &Value,
) -> Result<Arc<Value>, AdmissionError> {
    let name = text(spec, "serviceAccountName");
    let path = format!("{}/{name}", request.namespace);
    reader.get("core/serviceaccounts", &path).ok_or_else(|| AdmissionError::Forbidden {
        group_resource: request.resource.group_resource(),
        name: request.known_name().to_owned(),
        reason: format!("error looking up service account {path}: serviceaccount {name:?} not found"),
        causes: Vec::new(),
        // the account of a young namespace is about to be made
        transient: name == DEFAULT_ACCOUNT,
    })
}

/// Checks what a new pod refers to.
pub(super) fn check(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    pod: &Value,
) -> Result<(), AdmissionError> {
    let Some(spec) = pod.get("spec") else { return Ok(()) };
    let refuse = |why: &str| Err(AdmissionError::forbidden(request, why));
    if is_mirror(pod) {
        if !text(spec, "serviceAccountName").is_empty() {
            return refuse("a mirror pod may not reference service accounts");
        }
        if references::of(spec).any(|reference| reference.kind == Kind::Secret) {
            return refuse("a mirror pod may not reference secrets");
        }
        let sources = list(spec, "volumes").iter().filter_map(|volume| volume.get("projected"));
        let mut sources = sources.flat_map(|projected| list(projected, "sources"));
        if sources.any(|source| tree::some(source, "serviceAccountToken").is_some()) {
            return refuse("a mirror pod may not use ServiceAccountToken volume projections");
        }
        return Ok(());
    }
    let account = account(reader, request, spec)?;
    match tree::at(&account, &["metadata", "annotations", ENFORCE_MOUNTABLE]).and_then(Value::as_str) {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => match beyond_mountable(&account, spec) {
            Some(why) => refuse(&why),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Which secret the pod uses that its account does not list.
fn beyond_mountable(account: &Value, spec: &Value) -> Option<String> {
    let lists = |key: &str, name: &str| list(account, key).iter().any(|listed| text(listed, "name") == name);
    let (end, own) = ("does not reference that secret", tree::name(account));
    for volume in list(spec, "volumes") {
        let Some(secret) = tree::some(volume, "secret").map(|secret| text(secret, "secretName")) else { continue };
        if !lists("secrets", secret) {
            return Some(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {own} {end}"
            ));
        }
    }
    for (key, kind) in [
        ("initContainers", "init container"),
        ("containers", "container"),
        ("ephemeralContainers", "ephemeral container"),
    ] {
        for container in list(spec, key) {
            for variable in list(container, "env") {
                let Some(secret) = tree::at(variable, &["valueFrom", "secretKeyRef"]) else { continue };
                let secret = text(secret, "name");
                if !lists("secrets", secret) {
                    return Some(format!(
                        "{kind} {} with envVar {} referencing secret.secretName=\"{secret}\" is not allowed because service account {own} {end}",
                        text(container, "name"),
                        text(variable, "name"),
                    ));
                }
            }
        }
    }
    let mut pulls = list(spec, "imagePullSecrets").iter().map(|secret| text(secret, "name")).enumerate();
    pulls.find(|(_, name)| !lists("imagePullSecrets", name)).map(|(index, name)| {
        format!(
            "imagePullSecrets[{index}].name=\"{name}\" is not allowed because service account {own} does not reference that imagePullSecret"
        )
    })
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
