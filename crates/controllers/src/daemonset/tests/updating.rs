//! Rollouts.

use super::*;

fn strategy(unavailable: Value, surge: Value) -> Value {
    json!({"updateStrategy": {"type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}})
}

const NODES: [&str; 4] = ["a", "b", "c", "d"];

#[test]
fn an_update_replaces_so_many_pods_as_may_be_unavailable() {
    let mut world = World::new(json!({}), &NODES[..3]);
    world.settle();
    world.hash = "h2".into();
    assert_eq!(world.step(), ["-a1"]);
    assert_eq!(world.step(), [""; 0], "a1 is still going");
    world.kubelet();
    assert_eq!(world.step(), ["+a"]);
    assert_eq!(world.step(), [""; 0], "the new pod is not ready yet");
    world.kubelet();
    assert_eq!(world.settle(), "-b2 +b -c3 +c");
    assert_eq!(world.counts(), [3, 3, 0, 3, 3, 3, 0]);

    for (unavailable, first) in [
        (json!(2), vec!["-a1", "-b2"]),
        (json!("50%"), vec!["-a1", "-b2"]),
        (json!("30%"), vec!["-a1", "-b2"]),
        (json!("25%"), vec!["-a1"]),
        (json!(0), vec!["-a1"]),
    ] {
        let mut world = World::new(strategy(unavailable.clone(), json!(0)), &NODES);
        world.settle();
        world.hash = "h2".into();
        assert_eq!(world.step(), first, "{unavailable}");
    }
}

#[test]
fn what_is_unavailable_anyway_is_replaced_at_once() {
    let mut world = World::new(json!({}), &NODES);
    world.hash = "broken".into();
    world.settle();
    world.hash = "h2".into();
    assert_eq!(world.step(), ["-a1", "-b2", "-c3", "-d4"]);
    world.kubelet();
    assert_eq!(world.settle(), "+a,+b,+c,+d");
    assert_eq!(world.counts(), [4, 4, 0, 4, 4, 4, 0]);
}

#[test]
fn a_broken_update_stops_and_can_be_undone() {
    let mut world = World::new(json!({}), &NODES);
    world.settle();
    world.hash = "broken".into();
    assert_eq!(world.settle(), "-a1 +a");
    assert_eq!(world.counts(), [4, 4, 0, 3, 1, 3, 1]);
    world.hash = "h1".into();
    assert_eq!(world.settle(), "-a5 +a", "only what was changed is changed back");
}

#[test]
fn on_delete_updates_only_what_somebody_deletes() {
    let mut world = World::new(json!({"updateStrategy": {"type": "OnDelete"}}), &["a", "b"]);
    world.settle();
    world.hash = "h2".into();
    assert_eq!(world.settle(), "");
    world.pods.remove("a1");
    assert_eq!(world.settle(), "+a");
    assert_eq!(world.counts(), [2, 2, 0, 2, 1, 2, 0]);
}

#[test]
fn a_surging_update_starts_the_new_pod_before_it_ends_the_old_one() {
    let mut world = World::new(strategy(json!(0), json!(1)), &["a", "b"]);
    world.settle();
    world.hash = "h2".into();
    assert_eq!(world.step(), ["+a"]);
    assert_eq!(world.step(), [""; 0], "the new pod is not available yet");
    world.kubelet();
    assert_eq!(world.step(), ["-a1"]);
    world.kubelet();
    assert_eq!(world.settle(), "+b -b2");
    assert_eq!(world.counts(), [2, 2, 0, 2, 2, 2, 0]);

    let mut world = World::new(strategy(json!(0), json!("50%")), &NODES);
    world.settle();
    world.hash = "h2".into();
    assert_eq!(world.step(), ["+a", "+b"]);
}

#[test]
fn a_surging_update_waits_at_a_broken_pod_and_drops_an_old_one_that_is_not_ready() {
    let mut world = World::new(strategy(json!(0), json!(1)), &["a", "b"]);
    world.settle();
    world.hash = "broken".into();
    assert_eq!(world.settle(), "+a");
    world.status_of("a1", "Running", "False");
    assert_eq!(world.step(), ["-a1"], "neither is ready: the new one is kept");
    world.status_of("b2", "Running", "False");
    world.kubelet();
    assert_eq!(world.step(), ["+b"], "the old one is unavailable anyway, so this is no surge");
}

#[test]
fn a_surging_set_lets_go_of_a_node_only_when_another_has_taken_over() {
    let mut world = World::new(strategy(json!(0), json!(1)), &["a"]);
    world.settle();
    world.change_node("b", json!({}));
    world.change_node("a", tainted("x", "NoSchedule"));
    world.hash = "h2".into();
    assert_eq!(world.step(), ["+b"]);
    assert_eq!(world.step(), [""; 0], "b is not available yet");
    world.kubelet();
    assert_eq!(world.step(), ["-a1"]);
    world.kubelet();
    assert_eq!((world.settle().as_str(), world.counts()), ("", [1, 1, 0, 1, 1, 1, 0]));
}

#[test]
fn a_surging_set_keeps_one_new_and_one_old_pod_of_many() {
    let mut world = World::new(strategy(json!(0), json!(1)), &["a"]);
    world.settle();
    world.clock += 1;
    world.create("a");
    world.hash = "h2".into();
    world.clock += 1;
    world.create("a");
    world.create("a");
    assert_eq!(world.step(), ["-a2", "-a4"]);
}
