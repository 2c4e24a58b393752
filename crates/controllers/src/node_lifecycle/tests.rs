use serde_json::Value;

use super::decision::{Permit, labels, silenced, taints};
use super::zones::{Disruption, Health, Next, Turn, Zones, disruption, health, zone_of};
use super::*;
use crate::context::EvictionRates;

const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn node(ready: &str, spec: Value) -> Node {
    serde_json::from_value(json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T10:00:00Z"}, "spec": spec,
        "status": {"conditions": [
            {"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T11:00:00Z"},
            {"type": "MemoryPressure", "status": "False"}]}}))
    .unwrap()
}

fn tainted(with: &[(&str, &str)]) -> Value {
    let taints: Vec<Value> = with.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
    json!({"taints": taints})
}

#[test]
fn a_silent_node_is_unknown_in_all_that_it_vouches_for() {
    let told = |node: &Node| -> Vec<(String, String, Option<String>)> {
        let conditions = silenced(node, now()).into_iter();
        let heartbeat =
            |c: &k8s_openapi::api::core::v1::NodeCondition| c.last_heartbeat_time.as_ref().map(|t| t.0.to_string());
        conditions.map(|c| (c.type_.clone(), c.reason.clone().unwrap(), heartbeat(&c))).collect()
    };
    let created = Some("2026-01-01T10:00:00Z".to_owned());
    let row = |type_: &str, reason: &str, at: Option<String>| (type_.to_owned(), reason.to_owned(), at);
    assert_eq!(
        told(&node("True", json!({}))),
        [
            row("Ready", "NodeStatusUnknown", Some("2026-01-01T11:00:00Z".into())),
            row("MemoryPressure", "NodeStatusUnknown", None),
            row("DiskPressure", "NodeStatusNeverUpdated", created.clone()),
            row("PIDPressure", "NodeStatusNeverUpdated", created),
        ]
    );
    let mut known = node("Unknown", json!({}));
    let all = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
    let all: Vec<Value> = all.iter().map(|type_| json!({"type": type_, "status": "Unknown"})).collect();
    known.status = serde_json::from_value(json!({"conditions": all})).unwrap();
    assert!(told(&known).is_empty(), "written once");
}

#[test]
fn taints_follow_conditions_and_wait_for_their_turn_to_drive_out() {
    let both = |key| [(key, NO_SCHEDULE), (key, NO_EXECUTE)];
    let dedicated = ("dedicated", NO_EXECUTE);
    type Pairs = Vec<(&'static str, &'static str)>;
    type Row = (&'static str, &'static str, Value, Permit, Option<Pairs>, bool);
    let rows: Vec<Row> = vec![
        ("a ready node stays as it is", "True", json!({}), Permit::Pending, None, false),
        (
            "a ready node loses what it registered with and keeps what others gave",
            "True",
            tainted(&[(NOT_READY, NO_SCHEDULE), dedicated, (UNREACHABLE, NO_EXECUTE)]),
            Permit::Pending,
            Some(vec![dedicated]),
            false,
        ),
        ("an unready node waits", "False", json!({}), Permit::Pending, Some(vec![(NOT_READY, NO_SCHEDULE)]), true),
        ("its turn", "False", json!({}), Permit::Granted, Some(both(NOT_READY).to_vec()), false),
        ("once", "False", tainted(&both(NOT_READY)), Permit::Pending, None, false),
        ("a silent node waits", "Unknown", json!({}), Permit::Pending, Some(vec![(UNREACHABLE, NO_SCHEDULE)]), true),
        (
            "one whose pods are driven out changes the reason at once",
            "Unknown",
            tainted(&both(NOT_READY)),
            Permit::Pending,
            Some(both(UNREACHABLE).to_vec()),
            false,
        ),
        ("and back", "False", tainted(&both(UNREACHABLE)), Permit::Pending, Some(both(NOT_READY).to_vec()), false),
        (
            "while all are lost nobody is driven out",
            "Unknown",
            tainted(&both(UNREACHABLE)),
            Permit::Halted,
            Some(vec![(UNREACHABLE, NO_SCHEDULE)]),
            true,
        ),
        (
            "a cordoned node",
            "True",
            json!({"unschedulable": true}),
            Permit::Pending,
            Some(vec![("node.kubernetes.io/unschedulable", NO_SCHEDULE)]),
            false,
        ),
        (
            "an uncordoned node",
            "True",
            tainted(&[("node.kubernetes.io/unschedulable", NO_SCHEDULE)]),
            Permit::Pending,
            Some(vec![]),
            false,
        ),
        (
            "what somebody else gave of the same key with another effect stays",
            "True",
            tainted(&[("node.kubernetes.io/disk-pressure", "PreferNoSchedule")]),
            Permit::Pending,
            None,
            false,
        ),
    ];
    for (what, ready, spec, permit, expected, waits) in rows {
        let decided = taints(&node(ready, spec), permit, now());
        let pairs = decided
            .changed
            .as_ref()
            .map(|list| list.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect::<Vec<_>>());
        assert_eq!((pairs, decided.waits), (expected, waits), "{what}");
    }
}

#[test]
fn pressure_is_a_taint_with_the_time_it_began() {
    let mut pressed = node("True", json!({}));
    let conditions =
        [("MemoryPressure", "True"), ("DiskPressure", "True"), ("PIDPressure", "True"), ("NetworkUnavailable", "True")];
    let conditions: Vec<Value> =
        conditions.iter().map(|(type_, status)| json!({"type": type_, "status": status})).collect();
    pressed.status = serde_json::from_value(json!({"conditions": conditions})).unwrap();
    let given = taints(&pressed, Permit::Pending, now()).changed.unwrap();
    let keys: Vec<&str> = given.iter().map(|taint| taint.key.as_str()).collect();
    let of = |name: &str| format!("node.kubernetes.io/{name}");
    let expected = ["memory-pressure", "disk-pressure", "pid-pressure", "network-unavailable"].map(of);
    assert_eq!(keys, expected);
    assert!(given.iter().all(|taint| taint.effect == NO_SCHEDULE && taint.time_added == Some(Time(now()))));
}

#[test]
fn a_node_that_has_not_said_anything_keeps_what_it_registered_with() {
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "a"},
        "spec": tainted(&[(NOT_READY, NO_SCHEDULE)])}))
    .unwrap();
    let decided = taints(&node, Permit::Pending, now());
    assert_eq!((decided.changed, decided.waits), (None, false));
    assert_eq!(silenced(&node, now()).len(), 4);
}

#[test]
fn older_labels_say_what_the_newer_ones_do() {
    for (given, expected) in [
        (json!({}), json!({})),
        (json!({"beta.kubernetes.io/os": "plan9"}), json!({})),
        (json!({"kubernetes.io/os": "linux"}), json!({"beta.kubernetes.io/os": "linux"})),
        (
            json!({"kubernetes.io/os": "linux", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64",
                "beta.kubernetes.io/arch": "amd64"}),
            json!({"beta.kubernetes.io/arch": "arm64"}),
        ),
    ] {
        let node: Node = serde_json::from_value(json!({"metadata": {"labels": given}})).unwrap();
        assert_eq!(json!(labels(&node)), expected);
    }
}

#[test]
fn a_change_that_asks_for_nothing_is_known_as_such() {
    let old = node("True", json!({}));
    let mut new = old.clone();
    let conditions = new.status.as_mut().unwrap().conditions.as_mut().unwrap();
    conditions[0].last_heartbeat_time = Some(Time(now()));
    assert!(alike(&old, &new), "a heartbeat");
    for other in [node("False", json!({})), node("True", json!({"unschedulable": true}))] {
        assert!(!alike(&old, &other));
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewed_lease_moves_the_time_at_which_a_node_is_missed() {
    let start = Instant::now();
    let mut sign = SignOfLife { lease: None, heartbeat: None, seen: start, grace: secs(50) };
    sign.renewed(now(), start + secs(40));
    assert_eq!(sign.left(start + secs(45)), secs(45));
    sign.renewed(now(), start + secs(80));
    assert_eq!(sign.left(start + secs(80)), secs(10), "the same lease seen again is no sign of life");
    assert_eq!(sign.left(start + secs(95)), Duration::ZERO);
}

#[test]
fn a_zone_is_region_and_zone() {
    let of = |labels: Value| -> Node { serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap() };
    for (labels, expected) in [
        (json!({}), ""),
        (json!({"topology.kubernetes.io/zone": "z"}), ":\0:z"),
        (json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"}), "r:\0:z"),
        (json!({"topology.kubernetes.io/zone": "z", "failure-domain.beta.kubernetes.io/zone": "old"}), ":\0:old"),
    ] {
        assert_eq!(zone_of(&of(labels)), expected);
    }
    let excluded = of(json!({"node.kubernetes.io/exclude-disruption": ""}));
    assert_eq!((health(&excluded, true), health(&Node::default(), false)), (Health::Excluded, Health::Unready));
}

#[test]
fn zones_are_disrupted_by_share_and_number() {
    let rates = EvictionRates::default();
    for (unready, size, expected) in [
        (0, 0, Disruption::Normal),
        (0, 3, Disruption::Normal),
        (1, 1, Disruption::Full),
        (2, 3, Disruption::Normal),
        (3, 3, Disruption::Full),
        (3, 5, Disruption::Partial),
        (11, 20, Disruption::Partial),
        (10, 20, Disruption::Normal),
    ] {
        assert_eq!(disruption(unready, size, &rates), expected, "{unready} of {size}");
    }
}

/// Zones with nodes `ZONE-0`… of which the first are unready and wait.
fn zones_of(shape: &[(&str, usize, usize)], now: Instant) -> Zones {
    let mut zones = Zones::new(EvictionRates::default());
    for (zone, size, _) in shape {
        for at in 0..*size {
            zones.place(&format!("{zone}-{at}"), zone, Health::Ready, now);
        }
    }
    for (zone, _, unready) in shape {
        for at in 0..*unready {
            zones.place(&format!("{zone}-{at}"), zone, Health::Unready, now);
            zones.wait(&format!("{zone}-{at}"));
        }
    }
    zones
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn nodes_of_a_zone_are_emptied_one_after_the_other() {
    let start = Instant::now();
    let mut zones = zones_of(&[("a", 10, 2), ("b", 10, 1)], start);
    zones.wait("a-0");
    assert_eq!(zones.next("a", start), Next::Taint("a-0".into()));
    assert_eq!(zones.next("a", start), Next::In(secs(10)));
    assert_eq!(zones.next("b", start), Next::Taint("b-0".into()), "each zone for itself");
    assert_eq!(zones.next("a", start + secs(4)), Next::In(secs(6)));
    assert!(zones.leave("a-1") && !zones.leave("a-1"));
    assert_eq!(zones.next("a", start + secs(10)), Next::Nothing, "it is well again");
    assert_eq!(zones.next("nowhere", start), Next::Nothing);
}

#[tokio::test(start_paused = true)]
async fn most_of_a_small_zone_is_left_alone_and_of_a_large_one_emptied_slowly() {
    let start = Instant::now();
    let mut small = zones_of(&[("a", 10, 6), ("b", 1, 0)], start);
    assert_eq!(small.next("a", start), Next::Nothing);
    small.place("a-5", "a", Health::Ready, start);
    assert_eq!(small.next("a", start), Next::In(secs(10)), "a limiter that said no goes on with a pause");
    assert_eq!(small.next("a", start + secs(10)), Next::Taint("a-0".into()));

    let mut large = zones_of(&[("a", 60, 40), ("b", 1, 0)], start);
    assert_eq!(large.next("a", start), Next::Taint("a-0".into()));
    assert_eq!(large.next("a", start), Next::In(secs(100)));
    let mut gone = zones_of(&[("a", 3, 3), ("b", 1, 0)], start);
    assert_eq!(gone.next("a", start), Next::Taint("a-0".into()), "a zone that is lost as a whole is emptied");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_driven_out_while_no_node_is_ready() {
    let start = Instant::now();
    let mut zones = zones_of(&[("a", 2, 1), ("b", 1, 0)], start);
    assert_eq!(zones.place("b-0", "b", Health::Unready, start), Turn::None);
    assert_eq!(zones.place("a-1", "a", Health::Unready, start), Turn::Halted);
    assert!(zones.halted());
    zones.wait("b-0");
    assert_eq!((zones.next("a", start), zones.next("b", start)), (Next::Nothing, Next::Nothing));
    assert_eq!(zones.place("c-0", "c", Health::Excluded, start), Turn::None, "one that does not count changes nothing");
    assert_eq!(zones.remove("b-0", start), Turn::None);
    assert_eq!(zones.place("a-1", "a", Health::Ready, start), Turn::Resumed);
    assert_eq!(zones.next("a", start + secs(10)), Next::Taint("a-0".into()));
    assert_eq!((zones.census("a"), zones.census("b")), ((2, 1), (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_moves_keeps_waiting_in_its_new_zone() {
    let start = Instant::now();
    let mut zones = zones_of(&[("a", 10, 1)], start);
    assert_eq!(zones.place("a-0", "b", Health::Unready, start), Turn::None);
    assert_eq!(zones.next("a", start), Next::Nothing);
    assert_eq!(zones.next("b", start), Next::Taint("a-0".into()));
    assert_eq!((zones.census("a"), zones.census("b")), ((9, 0), (1, 1)));
    assert_eq!(zones.remove("a-0", start), Turn::None);
    assert_eq!(zones.names(), ["a"]);
}
