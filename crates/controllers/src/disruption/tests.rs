use serde_json::{Value, json};

use super::status::{Outcome, compute, disruption_left, fail_safe, needs_scale};
use super::*;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
    let mut whole = json!({"selector": {"matchLabels": {"app": "web"}}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": "b", "namespace": "n", "generation": 7}, "spec": whole,
        "status": status}))
    .unwrap()
}

fn pod(name: &str, ready: &str, leaving: bool) -> Arc<Pod> {
    let deleted = leaving.then_some("2026-01-01T11:59:00Z");
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "deletionTimestamp": deleted},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap(),
    )
}

fn ready(count: usize) -> Vec<Arc<Pod>> {
    (0..count).map(|at| pod(&format!("p{at}"), "True", false)).collect()
}

fn outcome(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], wanted: i32) -> Outcome {
    compute(budget, budget.spec.as_ref().unwrap(), pods, wanted, now())
}

/// Healthy, desired, expected and allowed.
fn numbers(status: &PodDisruptionBudgetStatus) -> [i32; 4] {
    [status.current_healthy, status.desired_healthy, status.expected_pods, status.disruptions_allowed]
        .map(Option::unwrap)
}

#[test]
fn what_is_allowed_is_what_is_healthy_above_the_desired() {
    for (spec, pods, wanted, expected) in [
        (json!({"minAvailable": 2}), 3, 0, [3, 2, 3, 1]),
        (json!({"minAvailable": 3}), 2, 0, [2, 3, 2, 0]),
        (json!({"minAvailable": 0}), 0, 0, [0, 0, 0, 0]),
        (json!({"minAvailable": "28%"}), 10, 10, [10, 3, 10, 7]),
        (json!({"minAvailable": "100%"}), 3, 3, [3, 3, 3, 0]),
        (json!({"maxUnavailable": 1}), 3, 3, [3, 2, 3, 1]),
        (json!({"maxUnavailable": "30%"}), 10, 10, [10, 7, 10, 3]),
        (json!({"maxUnavailable": "34%"}), 3, 3, [3, 1, 3, 2]),
        (json!({"maxUnavailable": 9}), 3, 3, [3, 0, 3, 3]),
        (json!({"maxUnavailable": 1}), 2, 5, [2, 4, 5, 0]),
    ] {
        let found = outcome(&budget(spec.clone(), json!({})), &ready(pods), wanted);
        assert_eq!(numbers(&found.status), expected, "{spec} {pods} {wanted}");
        let condition = &found.status.conditions.as_ref().unwrap()[0];
        let (status, reason) = if expected[3] > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), (status, reason));
        assert_eq!((condition.observed_generation, found.status.observed_generation), (Some(7), Some(7)));
    }
}

#[test]
fn only_ready_pods_that_stay_are_healthy() {
    let pods = [pod("a", "True", false), pod("b", "False", false), pod("c", "True", true)];
    let found = outcome(&budget(json!({"minAvailable": 0}), json!({})), &pods, 0);
    assert_eq!(numbers(&found.status), [1, 0, 3, 1]);
}

#[test]
fn an_evicted_pod_is_not_healthy_until_its_deletion_is_overdue() {
    let disrupted = json!({"disruptedPods": {"p0": "2026-01-01T11:59:00Z", "p1": "2026-01-01T11:58:00Z",
        "gone": "2026-01-01T11:59:59Z"}});
    let found = outcome(&budget(json!({"minAvailable": 1}), disrupted), &ready(3), 0);
    assert_eq!(numbers(&found.status), [2, 1, 3, 1]);
    let left: Vec<String> = found.status.disrupted_pods.unwrap().into_keys().collect();
    assert_eq!((left, found.wake), (vec!["p0".to_owned()], Some(Duration::from_secs(60))));
    assert_eq!(found.not_deleted.iter().map(|pod| pod.name_any()).collect::<Vec<_>>(), ["p1"]);
    let leaving = json!({"disruptedPods": {"p": "2026-01-01T11:59:30Z"}});
    let found = outcome(&budget(json!({"minAvailable": 1}), leaving), &[pod("p", "True", true)], 0);
    assert_eq!((found.status.disrupted_pods, found.wake), (None, None), "the eviction has done its work");
}

#[test]
fn what_cannot_be_computed_allows_nothing() {
    let known = json!({"disruptionsAllowed": 3, "currentHealthy": 4, "desiredHealthy": 1, "expectedPods": 4,
        "observedGeneration": 6, "conditions": [{"type": "DisruptionAllowed", "status": "True",
            "reason": "SufficientPods", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let status = fail_safe(&budget(json!({"maxUnavailable": 1}), known), "why", now());
    assert_eq!(numbers(&status), [4, 1, 4, 0]);
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!((condition.reason.as_str(), condition.message.as_str()), ("SyncFailed", "why"));
    assert_eq!((condition.last_transition_time.0, status.observed_generation), (now(), Some(6)));
}

#[test]
fn only_shares_and_unavailability_need_the_controllers() {
    for (spec, expected) in [
        (json!({"minAvailable": 1}), false),
        (json!({"minAvailable": "10%"}), true),
        (json!({"maxUnavailable": 1}), true),
        (json!({}), false),
    ] {
        assert_eq!(needs_scale(budget(spec, json!({})).spec.as_ref().unwrap()), expected);
    }
}

#[test]
fn an_announced_disruption_that_does_not_come_is_taken_back() {
    let target = |status: &str, at: &str, leaving: bool| -> Pod {
        let deleted = leaving.then_some("2026-01-01T11:59:00Z");
        serde_json::from_value(json!({"metadata": {"deletionTimestamp": deleted}, "status": {"conditions": [
            {"type": "DisruptionTarget", "status": status, "lastTransitionTime": at}]}}))
        .unwrap()
    };
    for (pod, expected) in [
        (target("True", "2026-01-01T11:59:00Z", false), Some(60)),
        (target("True", "2026-01-01T11:00:00Z", false), Some(0)),
        (target("True", "2026-01-01T11:00:00Z", true), None),
        (target("False", "2026-01-01T11:00:00Z", false), None),
    ] {
        assert_eq!(disruption_left(&pod, now()).map(|left| left.as_secs()), expected);
    }
}

#[test]
fn a_budget_without_a_selector_selects_nothing_and_an_empty_one_everything() {
    let of = |selector: Value| {
        let budget = serde_json::from_value(json!({"spec": {"selector": selector}})).unwrap();
        selects(&budget, &pod("a", "True", false))
    };
    assert_eq!([json!(null), json!({}), json!({"matchLabels": {"a": "b"}})].map(of), [false, true, false]);
    assert!(!alike(&pod("a", "True", false), &pod("a", "False", false)));
    assert!(alike(&pod("a", "True", false), &pod("a", "True", false)));
}
