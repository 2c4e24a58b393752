//! Which volume a claim takes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::facts::{capacity, claim_class, is_for, request, same_mode, volume_class, volume_phase};
use crate::selector;

/// The volume set aside for the claim, else the one that gives the least more than was asked for: the fewest access modes,
/// then the smallest. Only the former when the scheduler chooses among the others.
pub(super) fn best(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    scheduler_chooses: bool,
) -> Option<Arc<PersistentVolume>> {
    let usable = || volumes.iter().filter(|volume| is_usable(volume, claim));
    if let Some(ours) = usable().find(|volume| is_for(volume, claim)) {
        return Some(Arc::clone(ours));
    }
    if scheduler_chooses {
        return None;
    }
    let free = usable().filter(|volume| is_offered(volume, claim));
    let rank = |volume: &&Arc<PersistentVolume>| {
        let modes = volume.spec.as_ref().map_or(0, |spec| spec.access_modes.iter().flatten().count());
        (modes, capacity(volume), volume.metadata.name.clone())
    };
    free.min_by_key(rank).map(Arc::clone)
}

/// Whether a volume could serve the claim, whoever it is for.
fn is_usable(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    volume.metadata.deletion_timestamp.is_none()
        && capacity(volume) >= request(claim)
        && same_mode(volume, claim)
        && offers_modes(volume, claim)
}

/// Whether a volume is for anybody like the claim.
fn is_offered(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(offer), Some(wish)) = (&volume.spec, &claim.spec) else { return false };
    offer.claim_ref.is_none()
        && volume_phase(volume) == "Available"
        && volume_class(volume) == claim_class(claim)
        && same_attributes(volume, claim)
        && wish.selector.as_ref().is_none_or(|wanted| selector::matches(wanted, volume.metadata.labels.as_ref()))
}

fn offers_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).all(|mode| offered.contains(mode))
}

fn same_attributes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let class = |name: Option<&String>| name.cloned().unwrap_or_default();
    class(volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref()))
        == class(claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref()))
}

/// Why a volume that the claim names cannot be bound to it.
pub(super) fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    if volume.metadata.deletion_timestamp.is_some() {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        return Some(format!("the volume is marked for deletion {name:?}"));
    }
    let why = if capacity(volume) < request(claim) {
        "requested PV is too small"
    } else if volume_class(volume) != claim_class(claim) {
        "storageClassName does not match"
    } else if !same_attributes(volume, claim) {
        "volumeAttributesClassName does not match"
    } else if !same_mode(volume, claim) {
        "incompatible volumeMode"
    } else if !offers_modes(volume, claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(why.to_owned())
}
