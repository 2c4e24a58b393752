use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn pod(uid: &str, changes: Value) -> Arc<Pod> {
    let mut pod = json!({"metadata": {"name": uid, "uid": uid, "labels": {"app": "web"},
            "creationTimestamp": "2026-01-01T11:00:00Z"},
        "spec": {"nodeName": "a", "containers": []},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T11:30:00Z"}]}});
    for (path, value) in changes.as_object().unwrap() {
        *pod.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value.clone();
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn facts(pods: &[Arc<Pod>]) -> Vec<Fact> {
    let mut facts: Vec<Fact> = Vec::new();
    for pod in pods {
        let fact = Fact::of(pod, facts.first());
        assert_eq!(fact, Fact::of(pod, None), "whatever is shared");
        facts.push(fact);
    }
    facts
}

fn set(replicas: i32, min_ready_seconds: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web-abc", "namespace": "default", "uid": "set", "generation": 3},
        "spec": {"replicas": replicas, "minReadySeconds": min_ready_seconds,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}}}))
    .unwrap()
}

#[test]
fn the_difference_is_created_or_deleted_up_to_a_burst() {
    assert_eq!(decide(2, 2), Scale::Keep);
    assert_eq!(decide(5, 2), Scale::Create(3));
    assert_eq!(decide(5000, 2), Scale::Create(500));
    assert_eq!(decide(0, 2), Scale::Delete(2));
    assert_eq!(decide(-1, 5000), Scale::Delete(500));
}

#[test]
fn what_would_be_missed_least_is_deleted_first() {
    let cost = |cost: &str| json!({"controller.kubernetes.io/pod-deletion-cost": cost});
    let with = |uid: &str, annotations: Value| {
        let mut pod = Pod::clone(&pod(uid, json!({})));
        pod.metadata.annotations = serde_json::from_value(annotations).unwrap();
        Arc::new(pod)
    };
    let active = vec![
        with("dear", cost("10")),
        pod("plain", json!({})),
        with("cheap", cost("-5")),
        pod("unready", json!({"/status/conditions/0/status": "False"})),
        pod("pending", json!({"/status/phase": "Pending"})),
        pod("unassigned", json!({"/spec/nodeName": ""})),
        pod("fresh", json!({"/status/conditions/0/lastTransitionTime": "2026-01-01T11:59:58Z"})),
        pod("crowded", json!({})),
    ];
    let related = vec![1, 1, 1, 1, 1, 1, 1, 3];
    let order = choose(&active, &related, active.len(), now());
    let names: Vec<String> = order.into_iter().map(|at| active[at].name_any()).collect();
    assert_eq!(names, ["unassigned", "pending", "unready", "cheap", "crowded", "fresh", "plain", "dear"]);
}

#[test]
fn ages_of_chosen_pods_are_told_in_those_of_the_youngest() {
    let born = |uid: &str, at: &str, ready: &str| {
        pod(uid, json!({"/metadata/creationTimestamp": at, "/status/conditions/0/status": ready}))
    };
    let active = [
        born("old", "2026-01-01T11:58:00Z", "True"),
        born("young", "2026-01-01T11:59:30Z", "True"),
        born("unready", "2026-01-01T11:59:59Z", "False"),
    ];
    assert_eq!(rank::age_ratios(&active, &[0, 2], now()), [4.0]);
    assert_eq!(rank::age_ratios(&active[2..], &[0], now()), [0.0; 0]);
}

#[test]
fn status_counts_active_pods_and_names_when_it_changes_by_itself() {
    let owned = [
        pod("old", json!({})),
        pod("young", json!({"/status/conditions/0/lastTransitionTime": "2026-01-01T11:59:50Z"})),
        pod("unready", json!({"/status/conditions/0/status": "False"})),
        pod("failed", json!({"/status/phase": "Failed"})),
        {
            let mut leaving = Pod::clone(&pod("leaving", json!({})));
            leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
            Arc::new(leaving)
        },
    ];
    let (status, next) = status::compute(&set(3, 30), &facts(&owned), None, now());
    assert_eq!(status.replicas, 3);
    assert_eq!((status.ready_replicas, status.available_replicas), (Some(2), Some(1)));
    assert_eq!((status.terminating_replicas, status.observed_generation), (Some(1), Some(3)));
    assert_eq!(next, Some(Duration::from_secs(20)));
}

#[test]
fn a_failure_is_a_condition_until_it_is_over() {
    let mut set = set(1, 0);
    let failure = Some((Failure::Create, "quota exceeded".to_owned()));
    let (status, _) = status::compute(&set, &[], failure, now());
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("ReplicaFailure", Some("FailedCreate")));
    set.status = Some(status);
    let (status, _) = status::compute(&set, &[], None, now());
    assert!(status.conditions.is_none());
    assert_eq!(status::patch(&set, &status)["status"].get("conditions"), Some(&Value::Null));
}

#[test]
fn pods_carry_the_template_and_their_controller() {
    let pod = pods::from_template(set(1, 0).template(), &set(1, 0));
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-abc-"));
    let owner = &pod.metadata.owner_references.unwrap()[0];
    assert_eq!((owner.uid.as_str(), owner.controller, owner.block_owner_deletion), ("set", Some(true), Some(true)));
}

#[test]
fn a_replication_controller_selects_by_labels_and_makes_pods_of_its_own() {
    let mut set: ReplicationController = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "rc", "generation": 1},
        "spec": {"replicas": 2, "selector": {"app": "web"},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}}}))
    .unwrap();
    assert!(set.selects(&pod("1", json!({}))));
    assert!(!set.selects(&pod("2", json!({"/metadata/labels/app": "other"}))));
    let owner = &pods::from_template(set.template(), &set).metadata.owner_references.unwrap()[0];
    assert_eq!((owner.api_version.as_str(), owner.kind.as_str()), ("v1", "ReplicationController"));
    let (status, _) =
        status::compute(&set, &facts(&[pod("1", json!({}))]), Some((Failure::Create, "no".into())), now());
    assert_eq!((status.replicas, status.terminating_replicas), (1, None));
    let patch = status::patch(&set, &status);
    assert!(patch["status"].get("terminatingReplicas").is_none());
    set.status = serde_json::from_value(patch["status"].clone()).unwrap();
    assert_eq!(set.status(), Some(status));
    set.spec.as_mut().unwrap().selector = None;
    assert!(!set.selects(&pod("1", json!({}))), "without a selector it selects nothing");
}

#[test]
fn a_set_is_told_of_pods_that_count_otherwise() {
    let old = pod("1", json!({}));
    for (changes, expected) in [
        (json!({}), true),
        (json!({"/spec/nodeName": "b"}), true),
        (json!({"/status/phase": "Pending"}), true),
        (json!({"/status/phase": "Failed"}), false),
        (json!({"/status/conditions/0/status": "False"}), false),
        (json!({"/status/conditions/0/lastTransitionTime": "2026-01-01T11:31:00Z"}), false),
        (json!({"/metadata/labels/app": "other"}), false),
    ] {
        assert_eq!(alike(&old, &pod("1", changes.clone())), expected, "{changes}");
    }
    let with = |meta: Value| {
        let mut pod = serde_json::to_value(old.as_ref()).unwrap();
        pod["metadata"].as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        serde_json::from_value::<Pod>(pod).unwrap()
    };
    assert!(alike(&old, &with(json!({"annotations": {"a": "b"}}))));
    assert!(!alike(&old, &with(json!({"deletionTimestamp": "2026-01-01T11:31:00Z"}))));
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "x"});
    assert!(!alike(&old, &with(json!({"ownerReferences": [owner]}))));
}

#[test]
fn a_status_is_urgent_when_somebody_acts_upon_it() {
    let counts = |replicas: i32, ready: i32| ReplicaSetStatus {
        replicas,
        ready_replicas: Some(ready),
        available_replicas: Some(ready),
        ..ReplicaSetStatus::default()
    };
    for (before, now, wanted, expected) in [
        ((0, 0), (3, 0), 3, false),
        ((3, 0), (3, 1), 3, true),
        ((3, 3), (2, 2), 2, true),
        ((3, 3), (4, 3), 3, false),
        ((1000, 500), (1000, 510), 1000, false),
        ((1000, 500), (1000, 550), 1000, true),
        ((1000, 999), (1000, 1000), 1000, true),
        ((1000, 1000), (1000, 999), 1000, true),
        ((1000, 1000), (990, 990), 0, false),
        ((10, 10), (0, 0), 0, true),
    ] {
        let urgent = status::is_urgent(Some(&counts(before.0, before.1)), &counts(now.0, now.1), wanted);
        assert_eq!(urgent, expected, "{before:?} {now:?} of {wanted}");
    }
    let terminating = ReplicaSetStatus { terminating_replicas: Some(1), observed_generation: Some(2), ..counts(3, 3) };
    assert!(!status::is_urgent(Some(&counts(3, 3)), &terminating, 3));
    let failed = serde_json::from_value(json!([{"type": "ReplicaFailure", "status": "True"}])).unwrap();
    assert!(status::is_urgent(Some(&counts(3, 3)), &ReplicaSetStatus { conditions: failed, ..counts(3, 3) }, 3));
    assert!(!status::is_urgent(None, &counts(0, 0), 3));
}
