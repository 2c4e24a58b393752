//! Going back to an earlier revision by annotation, which is what `spec.rollbackTo` of the first versions became.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::ResourceExt;
use reconcile::EventType;
use serde_json::{Value, json};

use super::history::{self, NOT_COPIED, ROLLBACK_TO};
use super::plan;

/// What becomes of a deployment that is asked to go back.
#[derive(Debug)]
pub(super) struct Rollback {
    /// Strategic merge patch of the deployment; in any case the annotation goes.
    pub(super) patch: Value,
    /// Kind, reason and message of the event.
    pub(super) event: (EventType, &'static str, String),
}

/// The answer to the annotation, if it is there and names a revision; 0 is the one before the newest.
pub(super) fn decide(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Rollback> {
    let asked: i64 = deployment.annotations().get(ROLLBACK_TO)?.parse().ok()?;
    let not_found = |message: &str| (EventType::Warning, "DeploymentRollbackRevisionNotFound", message.to_owned());
    let name = deployment.name_any();
    // A version that has moved on means that the annotation is answered already, or the template has changed.
    let metadata = json!({"resourceVersion": deployment.metadata.resource_version, "uid": deployment.metadata.uid});
    let mut patch = json!({"metadata": metadata});
    patch["metadata"]["annotations"] = json!({ROLLBACK_TO: null});
    let revision = if asked == 0 { last_but_one(sets) } else { asked };
    let set = sets.iter().find(|set| history::revision(set.as_ref()) == revision);
    let event = match set {
        _ if revision == 0 => not_found("Unable to find last revision."),
        None => not_found("Unable to find the revision to rollback to."),
        Some(set) if plan::same_template(set, deployment) => {
            let message = format!("The rollback revision contains the same template as current deployment \"{name}\"");
            (EventType::Warning, "DeploymentRollbackTemplateUnchanged", message)
        }
        Some(set) => {
            patch["spec"] = crate::history::data_of(&plan::template_without_hash(set))["spec"].take();
            patch["metadata"]["annotations"] = json!(annotations(deployment, set));
            let message = format!("Rolled back deployment \"{name}\" to revision {revision}");
            (EventType::Normal, "DeploymentRollback", message)
        }
    };
    Some(Rollback { patch, event })
}

fn last_but_one(sets: &[Arc<ReplicaSet>]) -> i64 {
    let mut revisions: Vec<i64> = sets.iter().map(|set| history::revision(set.as_ref())).collect();
    revisions.sort_unstable();
    revisions.iter().rev().nth(1).copied().unwrap_or(0)
}

/// The changes that give the deployment the annotations that the set was made with: else the old set would get those of
/// the revision that is left.
fn annotations(deployment: &Deployment, set: &ReplicaSet) -> BTreeMap<String, Value> {
    let copied = |name: &&String| !NOT_COPIED.contains(&name.as_str());
    let gone = deployment.annotations().keys().filter(copied).map(|name| (name.clone(), Value::Null));
    let back =
        set.annotations().iter().filter(|(name, _)| copied(name)).map(|(name, value)| (name.clone(), json!(value)));
    gone.chain(back).chain([(ROLLBACK_TO.to_owned(), Value::Null)]).collect()
}
