use serde_json::{Value, json};

use super::*;
use crate::resources::Resources;
use crate::schedule::Placement;
use crate::testing::{Cluster, labelled, node, pod_of};

/// A pod of that priority that asks for so much CPU and began so many seconds ago.
fn prioritised(name: &str, cpu: &str, priority: i32, started: i64) -> PodInfo {
    let labels =
        json!({"metadata": {"labels": {"app": name.split('-').next().unwrap()}}, "spec": {"priority": priority}});
    PodInfo { started, ..pod_of(name, cpu, &labels) }
}

fn plan_for(cluster: &mut Cluster, pod: &PodInfo) -> Option<Preemption> {
    match cluster.decide(pod) {
        Placement::Node { name, .. } => panic!("placed on {name}"),
        Placement::Unschedulable(why) => why.preemption().cloned(),
    }
}

fn victims(plan: &Preemption) -> Vec<&str> {
    plan.victims.iter().map(|victim| victim.key.name.as_str()).collect()
}

/// Nodes of 4 CPUs with these pods: (node, name, CPU, priority, start).
fn cluster(pods: &[(&str, &str, &str, i32, i64)]) -> Cluster {
    let mut names: Vec<&str> = pods.iter().map(|(node, ..)| *node).collect();
    names.dedup();
    let nodes: Vec<_> = names.iter().map(|name| node(name, &json!({}))).collect();
    let mut cluster = Cluster::of(&nodes);
    for (node, name, cpu, priority, started) in pods {
        cluster.place(&prioritised(name, cpu, *priority, *started), node);
    }
    cluster
}

#[test]
fn as_few_and_as_unimportant_pods_leave_as_possible() {
    for (what, pods, expected_node, expected) in [
        ("what is needed and no more", vec![("a", "x", "2", 1, 0), ("a", "y", "2", 2, 0)], "a", vec!["x"]),
        (
            "the higher priority is spared first",
            vec![("a", "x", "1", 1, 0), ("a", "y", "2", 2, 0), ("a", "z", "1", 3, 0)],
            "a",
            vec!["y"],
        ),
        (
            "the node whose highest victim is lowest",
            vec![("a", "x", "4", 5, 0), ("b", "y", "4", 2, 0), ("c", "z", "4", 3, 0)],
            "b",
            vec!["y"],
        ),
        (
            "then the smallest sum of priorities",
            vec![("a", "x", "1", 2, 0), ("a", "w", "3", 2, 0), ("b", "y", "1", 2, 0), ("b", "z", "3", 1, 0)],
            "b",
            vec!["z"],
        ),
        (
            "then the fewest pods",
            vec![("a", "w", "2", 0, 0), ("a", "x", "2", 0, 0), ("b", "y", "4", 0, 0)],
            "b",
            vec!["y"],
        ),
        (
            "then those that began last",
            vec![("a", "x", "4", 2, 100), ("b", "y", "4", 2, 300), ("c", "z", "4", 2, 200)],
            "b",
            vec!["y"],
        ),
    ] {
        // Three CPUs where several must leave, else two.
        let wanted = if what.contains("fewest") || what.contains("sum") { "3" } else { "2" };
        let plan = plan_for(&mut cluster(&pods), &prioritised("p", wanted, 10, 0)).expect(what);
        assert_eq!((plan.node.as_str(), victims(&plan)), (expected_node, expected), "{what}");
    }
}

#[test]
fn of_equal_pods_the_one_that_began_last_leaves() {
    let mut cluster = cluster(&[("a", "old", "2", 1, 100), ("a", "new", "2", 1, 200)]);
    let plan = plan_for(&mut cluster, &prioritised("p", "2", 10, 0)).unwrap();
    assert_eq!(victims(&plan), ["new"]);
}

#[test]
fn pods_of_the_same_or_higher_priority_never_leave() {
    let mut cluster = cluster(&[("a", "x", "2", 10, 0), ("a", "y", "2", 20, 0)]);
    assert_eq!(
        cluster.refusal(&prioritised("p", "2", 10, 0)),
        "0/1 nodes are available: 1 Insufficient cpu. \
         preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    assert_eq!(
        cluster.refusal(&prioritised("q", "4", 15, 0)),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Insufficient cpu.",
        "the lower one's leaving is not enough"
    );
}

#[test]
fn a_trial_leaves_the_snapshot_as_it_was() {
    let mut cluster = cluster(&[("a", "x", "2", 1, 0), ("a", "y", "2", 2, 0), ("b", "z", "4", 3, 0)]);
    let before: Vec<Resources> = cluster.snapshot.nodes().iter().map(|node| node.requested.clone()).collect();
    let first = plan_for(&mut cluster, &prioritised("p", "3", 10, 0));
    let after: Vec<Resources> = cluster.snapshot.nodes().iter().map(|node| node.requested.clone()).collect();
    assert_eq!(before, after);
    assert_eq!(first, plan_for(&mut cluster, &prioritised("p", "3", 10, 0)), "and decides the same again");
}

#[test]
fn budgets_are_kept_where_that_is_possible() {
    let budget = |app: &str, allowed: i32| {
        let budget = json!({"metadata": {"name": app, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": app}}},
            "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
        Budget::of(&serde_json::from_value(budget).unwrap())
    };
    let mut two = cluster(&[("a", "guarded-1", "4", 0, 0), ("b", "free-1", "4", 5, 0)]);
    two.snapshot.set_budget(Key::new("default", "guarded"), Some(budget("guarded", 0)));
    let plan = plan_for(&mut two, &prioritised("p", "2", 10, 0)).unwrap();
    assert_eq!((plan.node.as_str(), victims(&plan)), ("b", vec!["free-1"]), "priority counts less than a budget");
    two.snapshot.set_budget(Key::new("default", "guarded"), Some(budget("guarded", 1)));
    assert_eq!(plan_for(&mut two, &prioritised("p", "2", 10, 0)).unwrap().node, "a", "one may be disrupted");

    let mut one = cluster(&[("a", "guarded-1", "2", 0, 0), ("a", "free-1", "2", 5, 0)]);
    one.snapshot.set_budget(Key::new("default", "guarded"), Some(budget("guarded", 0)));
    let plan = plan_for(&mut one, &prioritised("p", "2", 10, 0)).unwrap();
    assert_eq!(victims(&plan), ["free-1"], "the guarded pod is spared although less important");
    let plan = plan_for(&mut one, &prioritised("p", "4", 10, 0)).unwrap();
    assert_eq!(victims(&plan), ["free-1", "guarded-1"], "where there is no other way the budget gives in");
}

#[test]
fn rules_that_leaving_pods_cannot_change_are_not_tried() {
    let mut cluster = Cluster::of(&[labelled("a", &json!({"zone": "east"})), labelled("b", &json!({"zone": "west"}))]);
    for node in ["a", "b"] {
        cluster.place(&prioritised(&format!("x-{node}"), "4", 0, 0), node);
    }
    let choosy = json!({"spec": {"priority": 10, "nodeSelector": {"zone": "west"}}});
    assert_eq!(plan_for(&mut cluster, &pod_of("p", "2", &choosy)).unwrap().node, "b");
}

#[test]
fn pods_driven_out_by_anti_affinity_and_spread_leave_too() {
    let away = |name: &str, priority: i32| {
        pod_of(
            name,
            "100m",
            &json!({"metadata": {"labels": {"app": "shy"}}, "spec": {"priority": priority,
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"app": "shy"}}, "topologyKey": "kubernetes.io/hostname"}]}}}}),
        )
    };
    let mut cluster = Cluster::of(&[node("a", &json!({}))]);
    cluster.place(&away("first", 0), "a");
    cluster.place(&prioritised("other", "100m", 0, 0), "a");
    assert_eq!(victims(&plan_for(&mut cluster, &away("second", 10)).unwrap()), ["first"]);
}

#[test]
fn who_has_made_room_waits_for_the_pods_that_leave() {
    let mut cluster = cluster(&[("a", "x", "4", 0, 0)]);
    let waiting = prioritised("p", "2", 10, 0);
    let plan = plan_for(&mut cluster, &waiting).unwrap();
    cluster.snapshot.nominate(&waiting, &plan.node);
    let leaving: Value = json!({"metadata": {"labels": {"app": "x"}, "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}});
    cluster.place(&pod_of("x", "4", &leaving), "a");
    assert_eq!(
        cluster.refusal(&waiting),
        "0/1 nodes are available: 1 Insufficient cpu. \
         preemption: not eligible due to a terminating pod on the nominated node."
    );
    cluster.snapshot.remove_pod("x");
    assert_eq!(cluster.node_for(&waiting), "a");
}

#[test]
fn pods_of_lower_priority_that_waited_for_the_node_look_for_another() {
    let mut cluster = cluster(&[("a", "x", "4", 0, 0)]);
    cluster.snapshot.nominate(&prioritised("lower", "2", 5, 0), "a");
    let plan = plan_for(&mut cluster, &prioritised("p", "4", 10, 0)).unwrap();
    assert_eq!(plan.displaced.iter().map(|pod| pod.key.name.as_str()).collect::<Vec<_>>(), ["lower"]);
}
