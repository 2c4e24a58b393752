//! How two sides become bound: one write after another, in an order that any of them may be the last before a crash.
//!
//! The volume names the claim first, so that of two claims that want it one wins; the claim is `Bound` last, when everything
//! that a pod needs is there.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::facts::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, capacity, claim_phase, claim_ref, has, is_for, volume_name, volume_phase,
};

/// A merge patch and what it is of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Volume(Value),
    VolumeStatus(Value),
    Claim(Value),
    ClaimStatus(Value),
}

/// What is to be written next until volume and claim are bound to each other; `None` when they are.
pub(super) fn bind(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<Change> {
    let names_claim = is_for(volume, claim);
    if !names_claim || claim_ref(volume).is_none_or(|claim_ref| claim_ref.uid != claim.metadata.uid) {
        let reference = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(), "name": claim.name_any(),
            "uid": claim.uid(), "resourceVersion": claim.resource_version(),
        });
        let mut patch = json!({"spec": {"claimRef": reference}});
        if !names_claim {
            // Who set the volume aside for the claim keeps it so; what we chose we may take back.
            patch["metadata"] = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
        }
        return Some(Change::Volume(patch));
    }
    if let Some(change) = phase(volume, "Bound", "") {
        return Some(change);
    }
    let named = volume_name(claim) == Some(&volume.name_any());
    if !named || !has(claim, BIND_COMPLETED) {
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        let mut patch = json!({});
        if !named {
            annotations[BOUND_BY_CONTROLLER] = "yes".into();
            patch["spec"] = json!({"volumeName": volume.name_any()});
        }
        patch["metadata"] = json!({"annotations": annotations});
        return Some(Change::Claim(patch));
    }
    claim_status(claim, "Bound", Some(volume))
}

/// The volume's phase, where it has another.
pub(super) fn phase(volume: &PersistentVolume, phase: &str, message: &str) -> Option<Change> {
    let message = if message.is_empty() { Value::Null } else { message.into() };
    (volume_phase(volume) != phase).then(|| Change::VolumeStatus(json!({"phase": phase, "message": message})))
}

/// The claim's phase and what it says of its volume, where they are different.
pub(super) fn claim_status(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Option<Change> {
    let status = claim.status.clone().unwrap_or_default();
    let mut change = Map::new();
    if claim_phase(claim) != phase {
        change.insert("phase".to_owned(), phase.into());
    }
    match volume.and_then(|volume| volume.spec.as_ref().map(|spec| (volume, spec))) {
        None => {
            if status.access_modes.is_some() {
                change.insert("accessModes".to_owned(), Value::Null);
            }
            if status.capacity.is_some() {
                change.insert("capacity".to_owned(), Value::Null);
            }
        }
        Some((volume, spec)) => {
            if status.access_modes != spec.access_modes {
                change.insert("accessModes".to_owned(), json!(spec.access_modes));
            }
            // Afterwards whoever resizes the volume says what of it can be used.
            if claim_phase(claim) != phase && capacity(volume) > 0 {
                change.insert("capacity".to_owned(), json!(spec.capacity));
            }
            if claim_phase(claim) != phase && spec.volume_attributes_class_name.is_some() {
                change.insert("currentVolumeAttributesClassName".to_owned(), json!(spec.volume_attributes_class_name));
            }
        }
    }
    (!change.is_empty()).then_some(Change::ClaimStatus(Value::Object(change)))
}

/// Takes back a binding: what we chose is free again, what a user set aside stays so.
pub(super) fn unbind(volume: &PersistentVolume) -> Change {
    if has(volume, BOUND_BY_CONTROLLER) {
        Change::Volume(json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: null}}, "spec": {"claimRef": null}}))
    } else {
        Change::Volume(json!({"spec": {"claimRef": {"uid": null}}}))
    }
}
