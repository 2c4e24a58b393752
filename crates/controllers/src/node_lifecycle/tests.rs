use serde_json::Value;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn node(ready: &str, spec: Value) -> Node {
    serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec, "status": {"conditions": [
        {"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T11:00:00Z"},
        {"type": "MemoryPressure", "status": "False"}]}}))
    .unwrap()
}

fn taints(decision: &Decision) -> Vec<(&str, &str)> {
    decision.taints.iter().flatten().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect()
}

#[test]
fn a_ready_node_loses_the_taints_it_registered_with_and_keeps_others() {
    let spec =
        json!({"taints": [{"key": NOT_READY, "effect": "NoSchedule"}, {"key": "dedicated", "effect": "NoSchedule"}]});
    let decision = decide(&node("True", spec), false, now());
    assert_eq!(taints(&decision), [("dedicated", "NoSchedule")]);
    assert!(!decision.became_unready && decision.conditions.is_empty());
    assert_eq!(decide(&node("True", json!({})), false, now()), Decision::default());
}

#[test]
fn a_silent_node_becomes_unknown_and_unreachable() {
    let decision = decide(&node("True", json!({})), true, now());
    let conditions: Vec<_> =
        decision.conditions.iter().map(|c| (c.type_.as_str(), c.reason.as_deref().unwrap())).collect();
    assert_eq!(
        conditions,
        [
            ("Ready", "NodeStatusUnknown"),
            ("MemoryPressure", "NodeStatusUnknown"),
            ("DiskPressure", "NodeStatusNeverUpdated"),
            ("PIDPressure", "NodeStatusNeverUpdated")
        ]
    );
    assert_eq!(taints(&decision), [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]);
    assert!(decision.became_unready);
}

#[test]
fn an_unready_node_is_tainted_once_and_keeps_the_time() {
    let first = decide(&node("False", json!({})), false, now());
    assert_eq!(taints(&first), [(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]);
    let again = decide(&node("False", json!({"taints": first.taints})), false, now());
    assert_eq!((again.taints, again.became_unready), (None, false));
}

#[test]
fn pressure_and_cordon_are_taints() {
    let mut cordoned = node("True", json!({"unschedulable": true}));
    cordoned.status.as_mut().unwrap().conditions.as_mut().unwrap()[1].status = "True".into();
    let decision = decide(&cordoned, false, now());
    let expected = [("node.kubernetes.io/memory-pressure", "NoSchedule"), (UNSCHEDULABLE, "NoSchedule")];
    assert_eq!(taints(&decision), expected);
}

#[test]
fn a_node_that_has_not_said_anything_keeps_what_it_registered_with() {
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "a"},
        "spec": {"taints": [{"key": NOT_READY, "effect": "NoSchedule"}]}}))
    .unwrap();
    assert_eq!(decide(&node, false, now()), Decision::default());
    let silent = decide(&node, true, now());
    assert_eq!(taints(&silent), [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]);
    assert_eq!(silent.conditions[0].reason.as_deref(), Some("NodeStatusNeverUpdated"));
}
