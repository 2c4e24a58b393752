//! Who a pod of a StatefulSet is: its ordinal, its names and labels, and its claims.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use kube::ResourceExt;

use crate::history::REVISION_HASH;
use crate::pods;

/// Label with the pod's name, so that a Service can select one pod.
pub(super) const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Label with the pod's ordinal.
pub(super) const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The ordinal of the pod that the set calls so; `None` for names it gives to no pod.
pub(super) fn ordinal(set_name: &str, pod_name: &str) -> Option<i32> {
    let digits = pod_name.strip_prefix(set_name)?.strip_prefix('-')?;
    let ordinal: i32 = digits.parse().ok()?;
    (ordinal >= 0 && ordinal.to_string() == digits).then_some(ordinal)
}

/// The pod's ordinal in the set.
pub(super) fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    ordinal(set.metadata.name.as_deref()?, pod.metadata.name.as_deref()?)
}

pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name_any())
}

/// The ordinals the set is to have pods of.
pub(super) fn ordinals(set: &StatefulSet) -> std::ops::Range<i32> {
    let spec = set.spec.as_ref();
    let start = spec.and_then(|spec| spec.ordinals.as_ref()?.start).unwrap_or(0);
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0);
    start..start.saturating_add(replicas)
}

/// Name of the revision the pod was made from.
pub(super) fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_HASH)).map_or("", String::as_str)
}

fn templates(set: &StatefulSet) -> impl Iterator<Item = &PersistentVolumeClaim> {
    set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten())
}

fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.name_any(), set.name_any())
}

/// Names of the claims of the pod with that ordinal.
pub(super) fn claim_names(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = String> {
    templates(set).map(move |template| claim_name(set, template, ordinal))
}

/// The claims of the pod with that ordinal, without owners.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = PersistentVolumeClaim> {
    templates(set).map(move |template| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace = set.namespace();
        let selected = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
        claim.metadata.labels.get_or_insert_default().extend(selected);
        claim.status = None;
        claim
    })
}

/// The templates and sets a claim of that name may be made by: both may have dashes in their names.
pub(super) fn makers_of_claim(name: &str) -> impl Iterator<Item = (&str, &str)> {
    let prefix = name.rsplit_once('-').filter(|(_, ordinal)| ordinal.parse::<u32>().is_ok()).map(|(prefix, _)| prefix);
    prefix.into_iter().flat_map(|prefix| prefix.match_indices('-').map(|(at, _)| (&prefix[..at], &prefix[at + 1..])))
}

/// Whether the set has a claim template of that name.
pub(super) fn has_template(set: &StatefulSet, name: &str) -> bool {
    templates(set).any(|template| template.metadata.name.as_deref() == Some(name))
}

/// The pod's volumes: a claim for every template, then what else there is under other names.
fn volumes(set: &StatefulSet, ordinal: i32, given: Option<&Vec<Volume>>) -> Option<Vec<Volume>> {
    let of_claims = templates(set).map(|template| Volume {
        name: template.name_any(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: None,
        }),
        ..Volume::default()
    });
    let replaced = |volume: &&Volume| templates(set).any(|template| template.name_any() == volume.name);
    let others = given.into_iter().flatten().filter(|volume| !replaced(volume)).cloned();
    let all: Vec<Volume> = of_claims.chain(others).collect();
    (!all.is_empty()).then_some(all)
}

/// The pod with that ordinal, of a revision.
pub(super) fn new_pod(set: &StatefulSet, template: PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pods::from_template(template, set);
    let name = pod_name(set, ordinal);
    pod.metadata.generate_name = None;
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    labels.insert(REVISION_HASH.into(), revision.into());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    spec.volumes = volumes(set, ordinal, spec.volumes.as_ref());
    pod.metadata.name = Some(name);
    pod
}

/// Whether the pod carries the label it is known by.
pub(super) fn is_labelled(pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_NAME)) == pod.metadata.name.as_ref()
}

/// The volumes an adopted pod would need; `None` when it has them.
pub(super) fn missing_volumes(set: &StatefulSet, pod: &Pod, ordinal: i32) -> Option<Vec<Volume>> {
    let given = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let claimed = |template: &PersistentVolumeClaim| {
        let name = template.name_any();
        let volume = given.into_iter().flatten().find(|volume| volume.name == name);
        let source = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
        source.is_some_and(|source| source.claim_name == claim_name(set, template, ordinal))
    };
    if templates(set).all(claimed) { None } else { volumes(set, ordinal, given) }
}
