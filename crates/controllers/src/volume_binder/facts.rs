//! What claims and volumes say, read from the API's types.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use quota::Amounts;
use reconcile::Key;
use serde_json::json;

/// Annotation of a claim that has found its volume.
pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Annotation of the side of a binding that this controller, not a user, wrote.
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Annotation of a volume that names who made it.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Annotation of a claim that names the node which the scheduler chose for its first pod.
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotations of a claim that name who is to make its volume; provisioners read the one or the other.
pub(super) const PROVISIONERS: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// Older form of a claim's and a volume's class, which wins over the field.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Annotations of the class of claims that name none.
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The claim that a volume names.
pub(super) fn claim_of(volume: &PersistentVolume) -> Option<Key> {
    let claim = claim_ref(volume)?;
    Some(Key::new(claim.namespace.clone()?, claim.name.clone()?))
}

pub(super) fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// The uid of the claim that a volume names, absent while it is only set aside for a name.
pub(super) fn claim_uid(volume: &PersistentVolume) -> Option<&str> {
    claim_ref(volume)?.uid.as_deref().filter(|uid| !uid.is_empty())
}

/// The volume that a claim names.
pub(super) fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether the volume is bound to, or set aside for, this very claim.
pub(super) fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_of(volume).is_some_and(|key| key == Key::of(claim))
        && claim_uid(volume).is_none_or(|uid| claim.metadata.uid.as_deref() == Some(uid))
}

pub(super) fn has(object: &impl ResourceExt, annotation: &str) -> bool {
    object.annotations().contains_key(annotation)
}

pub(super) fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(super) fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The class a claim asks for; `None` when it has said nothing at all, not even that it wants none.
pub(super) fn asked_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let field = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    claim.annotations().get(CLASS).map(String::as_str).or(field)
}

/// The class a claim asks for, empty for none.
pub(super) fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    asked_class(claim).unwrap_or_default()
}

pub(super) fn volume_class(volume: &PersistentVolume) -> &str {
    let field = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    volume.annotations().get(CLASS).map(String::as_str).or(field).unwrap_or_default()
}

pub(super) fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

pub(super) fn is_default(class: &StorageClass) -> bool {
    DEFAULT_CLASS.iter().any(|name| class.annotations().get(*name).is_some_and(|value| value == "true"))
}

/// Whether both want a file system or both a block device.
pub(super) fn same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    mode(volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()))
        == mode(claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()))
}

/// Bytes a volume has.
pub(super) fn capacity(volume: &PersistentVolume) -> i64 {
    volume.spec.as_ref().map_or(0, |spec| bytes(spec.capacity.as_ref()))
}

/// Bytes a claim asks for.
pub(super) fn request(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    bytes(resources.and_then(|resources| resources.requests.as_ref()))
}

fn bytes(amounts: Option<&BTreeMap<String, Quantity>>) -> i64 {
    let storage = amounts.and_then(|amounts| amounts.get("storage"));
    let amounts = storage.map(|storage| Amounts::read(Some(&json!({"storage": storage}))));
    amounts.and_then(|amounts| amounts.get("storage").map(|amount| amount.units())).unwrap_or(0)
}

/// The claims a pod names, those of its ephemeral volumes among them.
pub(crate) fn claims_of(pod: &Pod) -> impl Iterator<Item = Key> {
    let (namespace, pod_name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(move |volume| {
        let name = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => source.claim_name.clone(),
            (None, Some(_)) => format!("{pod_name}-{}", volume.name),
            (None, None) => return None,
        };
        Some(Key::new(namespace.clone(), name))
    })
}
