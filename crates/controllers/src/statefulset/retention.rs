//! Who owns the claims of a StatefulSet, and with whose end they end: persistentVolumeClaimRetentionPolicy.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::owners;

/// The pod a claim is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct User<'a> {
    pub(super) name: &'a str,
    /// Absent before the pod is created.
    pub(super) pod: Option<&'a Pod>,
    /// The set is to have a pod of this ordinal.
    pub(super) wanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    deleted_with_set: bool,
    deleted_with_pod: bool,
}

fn policy(set: &StatefulSet) -> Policy {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |when: Option<&String>| when.is_some_and(|what| what == "Delete");
    Policy {
        deleted_with_set: deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
        deleted_with_pod: deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
    }
}

fn is_pod(owner: &OwnerReference, name: &str) -> bool {
    owner.api_version == "v1" && owner.kind == "Pod" && owner.name == name
}

fn is_set(owner: &OwnerReference, set: &StatefulSet) -> bool {
    owner.api_version == "apps/v1" && owner.kind == "StatefulSet" && Some(&owner.name) == set.metadata.name.as_ref()
}

/// Owners of a claim that is being created for a pod the set is to have.
pub(super) fn initial_owners(set: &StatefulSet) -> Option<Vec<OwnerReference>> {
    policy(set).deleted_with_set.then(|| vec![owners::controller_reference(set)])
}

/// Whether the claim goes with an earlier pod of that name, so that no new one may be given it.
pub(super) fn goes_with_earlier_pod(set: &StatefulSet, claim: &PersistentVolumeClaim, pod_name: &str) -> bool {
    let owner = claim.metadata.owner_references.iter().flatten().find(|owner| is_pod(owner, pod_name));
    policy(set).deleted_with_pod && owner.is_some()
}

/// The owners the claim is to have instead of those it has; `None` when they stay. Claims that an earlier set or pod of the
/// same name owns are left to the garbage collector.
pub(super) fn corrected_owners(
    set: &StatefulSet,
    claim: &PersistentVolumeClaim,
    user: User<'_>,
) -> Option<Vec<OwnerReference>> {
    let current = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let set_uid = set.metadata.uid.as_deref().unwrap_or_default();
    let pod_uid = user.pod.and_then(|pod| pod.metadata.uid.as_deref()).unwrap_or_default();
    let stale = |owner: &OwnerReference| {
        is_set(owner, set) && owner.uid != set_uid || is_pod(owner, user.name) && owner.uid != pod_uid
    };
    if current.iter().any(stale) {
        return None;
    }
    let ours = |owner: &OwnerReference| is_set(owner, set) || is_pod(owner, user.name);
    let policy = policy(set);
    let deletes = policy.deleted_with_set || policy.deleted_with_pod;
    let foreign = deletes && current.iter().any(|owner| !ours(owner) && owner.controller == Some(true));
    let with_pod = policy.deleted_with_pod && !user.wanted;
    let mut wanted: Vec<OwnerReference> = current.iter().filter(|owner| !ours(owner)).cloned().collect();
    // A claim that somebody else controls gets no second controller.
    if with_pod && !foreign {
        wanted.extend(user.pod.map(owners::controller_reference));
    } else if policy.deleted_with_set && !foreign {
        wanted.push(owners::controller_reference(set));
    }
    let is_as_wanted = wanted.len() == current.len()
        && wanted.iter().all(|wanted| {
            current
                .iter()
                .any(|owner| owner.uid == wanted.uid && (!ours(owner) || owner.controller == wanted.controller))
        });
    (!is_as_wanted).then_some(wanted)
}
