//! ClusterRole aggregation: a role with an aggregation rule has the rules of all roles that its selectors match.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use reconcile::{Informer, Queue, feed, run_controller};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, run_with_feeds, synced};
use crate::selector;

/// Aggregating roles are few and rarely change.
const WORKERS: usize = 1;

/// The rules the role should have; `None` when it does not aggregate or has them already.
fn decide(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    // `all` is in the order of names, so the result does not depend on the order of events.
    for other in all.iter().filter(|other| other.metadata.name != role.metadata.name) {
        if selectors.iter().any(|selector| selector::matches(selector, other.metadata.labels.as_ref())) {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let roles = context.informers.of::<ClusterRole>();
    if !synced(&stop, roles.synced()).await {
        return;
    }
    let aggregating = roles.index("aggregating", |role| role.aggregation_rule.iter().map(|_| "yes".into()).collect());
    let queue: Queue<String> = Queue::new();
    let feeds = feed(&roles, &queue, |_| aggregating.get("yes").into_iter().map(|role| role.name_any()));
    let reconcile = |name: String| aggregate(context.clone(), roles.clone(), name);
    run_with_feeds(run_controller("clusterrole-aggregation", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

async fn aggregate(
    context: Context,
    roles: Informer<ClusterRole>,
    name: String,
) -> Result<Option<std::time::Duration>, ReconcileError> {
    let Some(role) = roles.get("", &name) else { return Ok(None) };
    let Some(rules) = decide(&role, &roles.list()) else { return Ok(None) };
    let patch = json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules});
    let api = context.api_all::<ClusterRole>();
    let result = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    gone_is_done(result).map_err(failed("aggregate clusterrole", &name))?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_matching_roles_are_united_once() {
        let role = |name: &str, label: &str, verb: &str| {
            Arc::new(
                serde_json::from_value::<ClusterRole>(json!({
                    "metadata": {"name": name, "labels": {"to": label}},
                    "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]}))
                .unwrap(),
            )
        };
        let mut admin: ClusterRole = serde_json::from_value(json!({"metadata": {"name": "admin"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "admin"}}]}}))
        .unwrap();
        let all =
            [role("a", "admin", "get"), role("b", "admin", "get"), role("c", "admin", "list"), role("d", "x", "*")];
        let rules = decide(&admin, &all).unwrap();
        assert_eq!(rules.iter().map(|rule| rule.verbs[0].as_str()).collect::<Vec<_>>(), ["get", "list"]);
        admin.rules = Some(rules);
        assert!(decide(&admin, &all).is_none());
    }
}
