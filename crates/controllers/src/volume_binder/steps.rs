//! What a claim or a volume needs next: pure decisions.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use super::facts::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONED_BY, PROVISIONERS, SELECTED_NODE, asked_class, claim_class,
    claim_ref, claim_uid, has, is_for, same_mode, volume_name, waits_for_consumer,
};
use super::matching;

/// Begins the names of what was once built into Kubernetes, none of which is here.
const BUILT_IN: &str = "kubernetes.io/";

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Telling {
    pub(super) is_warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Telling {
    pub(super) fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { is_warning: false, reason, message: message.into() }
    }

    pub(super) fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { is_warning: true, reason, message: message.into() }
    }
}

/// What a claim needs.
#[derive(Debug)]
pub(super) enum ClaimStep {
    /// It is bound to this volume, or to be.
    Bind(Arc<PersistentVolume>),
    /// It is `Pending`, and an event says why.
    Wait(Option<Telling>),
    /// It named no class, and there is a default one now.
    TakeClass(String),
    /// Somebody else is to make its volume.
    Provision {
        /// Who.
        by: String,
        /// Whether the claim does not say so yet.
        announce: bool,
    },
    /// Its volume is gone.
    Lose(Telling),
    /// Somebody has broken the binding; nothing can be repaired.
    Broken(Telling),
    /// Nothing.
    Rest,
}

/// What is known around a claim.
pub(super) struct Surroundings<'a> {
    /// The volume it names.
    pub(super) named: Option<Arc<PersistentVolume>>,
    /// Volumes it might take.
    pub(super) offers: &'a [Arc<PersistentVolume>],
    /// Its class, if that exists.
    pub(super) class: Option<Arc<StorageClass>>,
    /// The class of claims that say nothing.
    pub(super) default_class: Option<String>,
    /// Pods that name the claim and have no node.
    pub(super) unscheduled: &'a [String],
}

/// Decides about a claim.
pub(super) fn of_claim(claim: &PersistentVolumeClaim, around: Surroundings<'_>) -> ClaimStep {
    if has(claim, BIND_COMPLETED) {
        return of_bound(claim, around.named);
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return ClaimStep::Rest;
    }
    match volume_name(claim) {
        Some(name) => of_prebound(claim, name, around.named),
        None => of_unbound(claim, &around),
    }
}

fn of_unbound(claim: &PersistentVolumeClaim, around: &Surroundings<'_>) -> ClaimStep {
    let waits = around.class.as_ref().is_some_and(|class| waits_for_consumer(class));
    if let Some(volume) = matching::best(claim, around.offers, waits) {
        return ClaimStep::Bind(volume);
    }
    if asked_class(claim).is_none()
        && let Some(class) = &around.default_class
    {
        return ClaimStep::TakeClass(class.clone());
    }
    if waits && !has(claim, SELECTED_NODE) {
        return ClaimStep::Wait(Some(match around.unscheduled {
            [] => Telling::normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
            [pod] => Telling::normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => {
                Telling::normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(",")))
            }
        }));
    }
    match (claim_class(claim), &around.class) {
        ("", _) => {
            let text = "no persistent volumes available for this claim and no storage class is set";
            ClaimStep::Wait(Some(Telling::normal("FailedBinding", text)))
        }
        (name, None) => {
            let text = format!("storageclass.storage.k8s.io {name:?} not found");
            ClaimStep::Wait(Some(Telling::warning("ProvisioningFailed", text)))
        }
        (_, Some(class)) if class.provisioner.starts_with(BUILT_IN) => {
            let text = format!("no volume plugin matched name: {}", class.provisioner);
            ClaimStep::Wait(Some(Telling::warning("ProvisioningFailed", text)))
        }
        (_, Some(class)) => {
            let by = class.provisioner.clone();
            let announce = PROVISIONERS.iter().any(|name| claim.annotations().get(*name) != Some(&by));
            ClaimStep::Provision { by, announce }
        }
    }
}

/// What is told of a claim whose volume somebody else makes.
pub(super) fn awaiting(provisioner: &str) -> Telling {
    Telling::normal(
        "ExternalProvisioning",
        format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
             system administrator. If volume creation is delayed, please verify that the provisioner is running and \
             correctly registered."
        ),
    )
}

fn of_prebound(claim: &PersistentVolumeClaim, name: &str, named: Option<Arc<PersistentVolume>>) -> ClaimStep {
    let Some(volume) = named else { return ClaimStep::Wait(None) };
    if claim_ref(&volume).is_none() {
        return match matching::mismatch(&volume, claim) {
            None => ClaimStep::Bind(volume),
            Some(why) => {
                let text = format!("Cannot bind to requested volume {name:?}: {why}");
                ClaimStep::Wait(Some(Telling::warning("VolumeMismatch", text)))
            }
        };
    }
    if is_for(&volume, claim) {
        return ClaimStep::Bind(volume);
    }
    let telling = Telling::warning("FailedBinding", format!("volume {name:?} already bound to a different claim."));
    if has(claim, BOUND_BY_CONTROLLER) { ClaimStep::Broken(telling) } else { ClaimStep::Wait(Some(telling)) }
}

fn of_bound(claim: &PersistentVolumeClaim, named: Option<Arc<PersistentVolume>>) -> ClaimStep {
    let lost = |text: &str| ClaimStep::Lose(Telling::warning("ClaimLost", text));
    if volume_name(claim).is_none() {
        return lost("Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    let Some(volume) = named else {
        return lost("Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    if claim_ref(&volume).is_none() || claim_uid(&volume) == claim.metadata.uid.as_deref() {
        return ClaimStep::Bind(volume);
    }
    let text = "Two claims are bound to the same volume, this one is bound incorrectly";
    ClaimStep::Lose(Telling::warning("ClaimMisbound", text))
}

/// What a volume needs.
#[derive(Debug, PartialEq)]
pub(super) enum VolumeStep {
    /// It is in this phase.
    Phase(&'static str),
    /// Nothing: its claim will bind it.
    Rest,
    /// It cannot be bound to its claim: the texts are for itself and for the claim.
    Mismatch(Telling, Telling),
    /// Its claim is gone; what happens then is its reclaim policy.
    Release(Reclaim),
    /// Its claim is bound to another volume.
    Unbind,
}

/// What becomes of a volume without claim.
#[derive(Debug, PartialEq)]
pub(super) enum Reclaim {
    /// It stays as it is, or whoever made it removes it.
    Leave,
    /// It should be removed or emptied, and nobody can.
    Fail(Telling),
}

/// Decides about a volume. `claim` is what its reference names, whatever its uid.
pub(super) fn of_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumeStep {
    // Where it is set aside for a name, the claim of that name will bind it.
    let Some(uid) = claim_uid(volume) else { return VolumeStep::Phase("Available") };
    let Some(claim) = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(uid)) else {
        return VolumeStep::Release(reclaim(volume));
    };
    match volume_name(claim) {
        None if !same_mode(volume, claim) => {
            let (name, claim_name) = (volume.name_any(), claim.name_any());
            VolumeStep::Mismatch(
                Telling::warning(
                    "VolumeMismatch",
                    format!(
                        "Cannot bind PersistentVolume to requested PersistentVolumeClaim {claim_name:?} due to \
                         incompatible volumeMode."
                    ),
                ),
                Telling::warning(
                    "VolumeMismatch",
                    format!(
                        "Cannot bind PersistentVolume {name:?} to requested PersistentVolumeClaim due to incompatible \
                         volumeMode."
                    ),
                ),
            )
        }
        None => VolumeStep::Rest,
        Some(name) if name == volume.name_any() => VolumeStep::Phase("Bound"),
        Some(_) if has(volume, PROVISIONED_BY) && policy(volume) == "Delete" => VolumeStep::Release(reclaim(volume)),
        Some(_) => VolumeStep::Unbind,
    }
}

fn policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or_default()
}

fn reclaim(volume: &PersistentVolume) -> Reclaim {
    let failed = |reason, text: String| Reclaim::Fail(Telling::warning(reason, text));
    match policy(volume) {
        "Retain" => Reclaim::Leave,
        "Recycle" => failed("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
        "Delete" if volume.metadata.deletion_timestamp.is_some() => Reclaim::Leave,
        "Delete" => match volume.annotations().get(PROVISIONED_BY).map(String::as_str) {
            None | Some("") => {
                let name = volume.name_any();
                let why = "no deletable volume plugin matched";
                failed("VolumeFailedDelete", format!("error getting deleter volume plugin for volume {name:?}: {why}"))
            }
            Some(by) if by.starts_with(BUILT_IN) => {
                failed("VolumeFailedDelete", format!("no volume plugin matched name: {by}"))
            }
            Some(_) => Reclaim::Leave,
        },
        _ => failed("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned()),
    }
}
