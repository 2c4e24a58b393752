//! Rollouts.

use super::*;

#[test]
fn an_update_goes_from_the_top_and_waits_for_each_pod() {
    let mut world = World::new(json!({}));
    world.settle();
    world.image("web:2");
    assert_eq!(world.step(), ["-web-2"]);
    let status = world.set.status.clone().unwrap();
    assert_eq!((status.current_revision.as_deref(), status.update_revision.as_deref()), (Some("web-1"), Some("web-2")));
    assert_eq!(world.counts(), [3, 3, 3, 2, 0]);
    assert_eq!(world.step(), [""; 0]);
    world.kubelet();
    assert_eq!(world.settle(), "+web-2 -web-1 +web-1 -web-0 +web-0");
    assert_eq!((world.revisions_of_pods().as_str(), world.counts()), ("web-2 web-2 web-2", [3, 3, 3, 3, 3]));
    assert_eq!(world.set.status.as_ref().unwrap().current_revision.as_deref(), Some("web-2"));

    world.image("web:1");
    world.settle();
    assert_eq!(world.revisions_of_pods(), "web-1 web-1 web-1", "rolled back");
}

#[test]
fn what_bounds_an_update_is_told_while_one_may_go_on() {
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "67%"}});
    let mut world = World::new(json!({"updateStrategy": rolling, "podManagementPolicy": "Parallel"}));
    let judged = |max_unavailable, unavailable| Some(plan::Judged { max_unavailable, unavailable });
    world.settle();
    assert_eq!(world.judged, judged(2, 0));
    world.image("broken");
    world.step();
    world.kubelet();
    world.step();
    assert_eq!(world.judged, judged(2, 2));
    let mut on_delete = World::new(json!({"updateStrategy": {"type": "OnDelete"}}));
    on_delete.settle();
    assert_eq!(on_delete.judged, None);
}

#[test]
fn a_partition_holds_an_update_back() {
    let mut world = World::new(json!({}));
    world.settle();
    let partition = |world: &mut World, partition: i32| {
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition}});
        world.spec().update_strategy = serde_json::from_value(strategy).unwrap();
    };
    partition(&mut world, 3);
    world.image("web:2");
    assert_eq!(world.settle(), "", "staged");
    partition(&mut world, 2);
    world.settle();
    assert_eq!(world.revisions_of_pods(), "web-1 web-1 web-2", "canary");
    assert_eq!(world.counts(), [3, 3, 3, 2, 1]);
    for name in ["web-0", "web-2"] {
        world.pods.remove(name);
    }
    assert_eq!(world.settle(), "+web-0 +web-2");
    assert_eq!(world.revisions_of_pods(), "web-1 web-1 web-2", "each comes back as it was");
    partition(&mut world, 0);
    world.settle();
    assert_eq!(world.revisions_of_pods(), "web-2 web-2 web-2");
    assert_eq!(world.set.status.as_ref().unwrap().current_revision.as_deref(), Some("web-2"));
}

#[test]
fn on_delete_updates_only_what_somebody_deletes() {
    let mut world = World::new(json!({"updateStrategy": {"type": "OnDelete"}}));
    world.settle();
    world.image("web:2");
    assert_eq!(world.settle(), "");
    world.pods.remove("web-1");
    world.settle();
    assert_eq!(world.revisions_of_pods(), "web-1 web-2 web-1");
    let current = world.set.status.as_ref().unwrap().current_revision.clone();
    assert_eq!(current.as_deref(), Some("web-1"), "an update nobody asked for is not completed");
}

#[test]
fn an_undone_update_is_stuck_until_its_broken_pod_is_deleted() {
    let mut world = World::new(json!({}));
    world.settle();
    world.image("broken");
    assert_eq!(world.settle(), "-web-2 +web-2");
    world.image("web:1");
    assert_eq!(world.settle(), "", "the order is kept: web-2 has to become ready first");
    world.pods.remove("web-2");
    assert_eq!(world.settle(), "+web-2");
    assert_eq!((world.revisions_of_pods().as_str(), world.counts()), ("web-1 web-1 web-1", [3, 3, 3, 3, 3]));
}

#[test]
fn so_many_pods_are_updated_at_once_as_may_be_unavailable() {
    let rolling = |bound: Value| {
        json!({"replicas": 5, "updateStrategy":
            {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": bound}}})
    };
    for (bound, first) in [
        (json!(2), vec!["-web-4", "-web-3"]),
        (json!("50%"), vec!["-web-4", "-web-3"]),
        (json!("10%"), vec!["-web-4"]),
        (json!(9), vec!["-web-4", "-web-3", "-web-2", "-web-1", "-web-0"]),
    ] {
        for policy in ["OrderedReady", "Parallel"] {
            let mut world = World::new(rolling(bound.clone()));
            world.spec().pod_management_policy = Some(policy.into());
            world.settle();
            world.image("web:2");
            assert_eq!(world.step(), first, "{bound} {policy}");
            world.settle();
            assert_eq!(world.counts(), [5; 5]);
        }
    }
}

#[test]
fn a_parallel_update_begins_with_what_is_broken_and_keeps_to_the_bound() {
    let mut world = World::new(json!({"replicas": 4, "podManagementPolicy": "Parallel"}));
    world.settle();
    world.status_of("web-0", "Running", "False");
    world.image("web:2");
    assert_eq!(world.step(), ["-web-0"], "one may be unavailable, and one is");
    assert_eq!(world.step(), [""; 0]);
    world.kubelet();
    assert_eq!(world.step(), ["+web-0"]);
    assert_eq!(world.step(), [""; 0], "web-0 is not available yet");
    world.kubelet();
    assert_eq!(world.step(), ["-web-3"]);

    let mut world = World::new(json!({"replicas": 1, "podManagementPolicy": "Parallel"}));
    world.image("broken");
    world.settle();
    world.image("web:2");
    world.settle();
    assert_eq!(world.counts(), [1; 5], "a first revision that never worked is replaced");
}

#[test]
fn without_a_rolling_update_given_pods_come_back_by_the_number_of_current_ones() {
    let mut world = World::new(json!({"updateStrategy": {"type": "RollingUpdate"}}));
    world.settle();
    world.image("web:2");
    assert_eq!(world.step(), ["-web-2"]);
    world.kubelet();
    assert_eq!(world.step(), ["+web-2"]);
    world.pods.remove("web-0");
    assert_eq!(world.step(), ["+web-0"]);
    assert_eq!(world.revisions_of_pods(), "web-1 web-1 web-2");
}
