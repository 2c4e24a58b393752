//! Revisions, template hashes and the annotations by which deployments and ReplicaSets speak to each other.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;

use crate::history::hash_text;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub(super) const TEMPLATE_HASH: &str = "pod-template-hash";
/// Longest history kept in the annotation, upstream's value.
const HISTORY_BYTES_MAX: usize = 2000;
/// Asks for an earlier revision.
pub(super) const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
/// Annotations of the deployment that are not copied to its sets.
pub(super) const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    ROLLBACK_TO,
];

/// The revision number of an object; 0 when it has none.
pub(super) fn revision<K: ResourceExt>(object: &K) -> i64 {
    object.annotations().get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A number annotated on the set.
pub(super) fn annotated(set: &ReplicaSet, name: &str) -> Option<i32> {
    set.annotations().get(name)?.parse().ok()
}

/// The annotations the set of the current template should have in addition to its own.
pub(super) fn wanted_annotations(
    deployment: &Deployment,
    existing: Option<&ReplicaSet>,
    new_revision: i64,
) -> BTreeMap<String, String> {
    let mut wanted: BTreeMap<String, String> = deployment
        .annotations()
        .iter()
        .filter(|(name, _)| !NOT_COPIED.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let old = existing.map_or(0, revision);
    if old < new_revision {
        wanted.insert(REVISION.into(), new_revision.to_string());
        if old > 0 {
            let history = existing.and_then(|set| set.annotations().get(REVISION_HISTORY)).cloned().unwrap_or_default();
            wanted.insert(REVISION_HISTORY.into(), extended(&history, old));
        }
    }
    wanted
}

fn extended(history: &str, revision: i64) -> String {
    let mut all: Vec<String> = history.split(',').filter(|part| !part.is_empty()).map(String::from).collect();
    all.push(revision.to_string());
    while all.len() > 1 && all.iter().map(|part| part.len() + 1).sum::<usize>() > HISTORY_BYTES_MAX {
        all.remove(0);
    }
    all.join(",")
}

/// Name suffix and label value of a template, by its JSON and the collision count.
pub(super) fn template_hash(template: &PodTemplateSpec, collision_count: Option<i32>) -> String {
    let json = serde_json::to_vec(template).unwrap_or_default();
    let count = collision_count.map(i32::to_le_bytes);
    hash_text(json.into_iter().chain(count.into_iter().flatten()))
}
