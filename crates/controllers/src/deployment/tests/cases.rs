//! The cases of upstream's own tests of scaling, rolling, clean-up, rollback and progress.

use super::plan::{Member, Sets};
use super::*;

/// A set of a size, made at a minute, sized for a deployment of `desired` replicas and at most `most` pods.
fn sized(name: &str, size: i32, minute: i64, desired: i32, most: i32) -> Member {
    let created = now() + Duration::from_secs(minute.unsigned_abs() * 60);
    let set = json!({
        "metadata": {"name": name, "uid": name, "creationTimestamp": created.to_string(),
            "annotations": {history::DESIRED_REPLICAS: desired.to_string(), history::MAX_REPLICAS: most.to_string()}},
        "spec": {"replicas": size, "selector": {}}});
    Member { set: Arc::new(serde_json::from_value(set).unwrap()), replicas: size, planned: false }
}

#[test]
fn scaling_is_shared_in_proportion() {
    // From (replicas, surge) to (replicas, surge), size of the new set, sizes of old ones, newest first.
    type Case = (&'static str, (i32, i32), (i32, i32), (Option<i32>, &'static [i32]), (Option<i32>, &'static [i32]));
    let cases: [Case; 16] = [
        ("10 -> 12", (10, 0), (12, 0), (Some(10), &[]), (Some(12), &[])),
        ("10 -> 5", (10, 0), (5, 0), (Some(10), &[]), (Some(5), &[])),
        ("5 -> 10", (5, 0), (10, 0), (Some(2), &[3]), (Some(4), &[6])),
        ("5 -> 3", (5, 0), (3, 0), (Some(2), &[3]), (Some(1), &[2])),
        ("9 -> 4", (9, 0), (4, 0), (Some(8), &[1]), (Some(4), &[0])),
        ("7 -> 10", (7, 0), (10, 0), (Some(2), &[3, 2]), (Some(3), &[4, 3])),
        ("13 -> 8", (13, 0), (8, 0), (Some(2), &[8, 3]), (Some(1), &[5, 2])),
        ("leftover 3 -> 4", (3, 0), (4, 0), (Some(1), &[1, 1]), (Some(2), &[1, 1])),
        ("leftover 3 -> 2", (3, 0), (2, 0), (Some(1), &[1, 1]), (Some(1), &[1, 0])),
        ("no new set 4 -> 5", (4, 0), (5, 0), (None, &[2, 2]), (None, &[3, 2])),
        ("6 -> 0", (6, 0), (0, 0), (Some(3), &[2, 1]), (Some(0), &[0, 0])),
        ("0 -> 6", (6, 0), (6, 0), (Some(0), &[0, 0]), (Some(6), &[0, 0])),
        ("an update failed before", (5, 0), (5, 0), (Some(2), &[1, 1]), (Some(3), &[1, 1])),
        ("with surge", (10, 2), (20, 2), (Some(6), &[6]), (Some(11), &[11])),
        ("surge and size", (10, 3), (50, 6), (Some(5), &[8]), (Some(22), &[34])),
        ("size and template", (10, 0), (14, 0), (None, &[7, 3]), (None, &[10, 4])),
    ];
    for (name, before, after, (new, old), expected) in cases {
        let sized = |name: &str, size, minute| sized(name, size, minute, before.0, before.0 + before.1);
        let mut old: Vec<Member> =
            (0i64..).zip(old).map(|(at, size)| sized(&format!("v{at}"), *size, 60 - at)).collect();
        old.reverse();
        let mut sets = Sets { new: new.map(|size| sized("new", size, 90)), old };
        let mut scaled = deployment(after.0, json!({}));
        scaled.status = Some(DeploymentStatus { replicas: Some(before.0), ..DeploymentStatus::default() });
        let bounds = plan::Bounds { replicas: after.0, max_surge: after.1, max_unavailable: 0 };
        rollout::scale(&mut sets, bounds, false, &scaled);
        let sizes: Vec<i32> = sets.old.iter().rev().map(|member| member.replicas).collect();
        assert_eq!((sets.new.map(|member| member.replicas), sizes.as_slice()), expected, "{name}");
    }
}

#[test]
fn a_saturated_but_broken_set_takes_nothing_from_old_ones() {
    let mut sets = Sets { new: Some(sized("new", 2, 2, 2, 3)), old: vec![sized("old", 1, 1, 2, 3)] };
    let bounds = plan::Bounds { replicas: 2, max_surge: 1, max_unavailable: 1 };
    rollout::scale(&mut sets, bounds, false, &deployment(2, json!({})));
    assert_eq!(sets.all().map(|member| member.replicas).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_step_of_a_rolling_update_keeps_both_bounds() {
    // replicas, surge, unavailable; sizes of old and new; available of old and new; sizes after.
    for (bounds, (old, new), (old_available, new_available), expected) in [
        // the new set
        ((10, 0, 0), (10, 0), (0, 0), (10, 0)),
        ((10, 2, 0), (10, 0), (0, 0), (10, 2)),
        ((10, 2, 0), (5, 0), (0, 0), (5, 7)),
        ((10, 2, 0), (10, 2), (0, 0), (10, 2)),
        ((10, 2, 0), (2, 11), (0, 0), (2, 10)),
        // old sets
        ((10, 0, 2), (10, 0), (10, 0), (8, 0)),
        ((10, 0, 2), (10, 0), (8, 0), (8, 0)),
        ((10, 0, 2), (10, 0), (9, 0), (8, 0)),
        ((10, 0, 2), (8, 2), (8, 0), (8, 2)),
        ((10, 0, 2), (10, 0), (1, 0), (8, 0)),
    ] {
        let (replicas, max_surge, max_unavailable) = bounds;
        let member = |name: &str, size: i32, available: i32| {
            let mut member = sized(name, size, 1, replicas, replicas + max_surge);
            let status = json!({"replicas": size, "availableReplicas": available});
            Arc::make_mut(&mut member.set).status = serde_json::from_value(status).unwrap();
            member
        };
        let mut sets =
            Sets { new: Some(member("new", new, new_available)), old: vec![member("old", old, old_available)] };
        rollout::roll(&mut sets, plan::Bounds { replicas, max_surge, max_unavailable });
        let sizes = (sets.old[0].replicas, sets.new.unwrap().replicas);
        assert_eq!(sizes, expected, "{bounds:?} {old} {new} {old_available} {new_available}");
    }
}

#[test]
fn only_sets_that_are_and_were_empty_are_cleaned_up() {
    // size in spec and in status of each old set, limit, deletions
    for (sizes, limit, expected) in [
        (vec![(0, 0), (0, 0), (0, 0)], 1, 2),
        (vec![(0, 0), (0, 1), (1, 0), (1, 1)], 0, 1),
        (vec![(0, 0), (0, 0)], 0, 2),
        (vec![(1, 1), (1, 1)], 0, 0),
        (vec![(0, 0), (0, 0)], 2, 0),
    ] {
        let old = sizes.iter().map(|(size, counted)| {
            let mut member = sized("old", *size, 1, 1, 2);
            Arc::make_mut(&mut member.set).status = serde_json::from_value(json!({"replicas": counted})).unwrap();
            member
        });
        let mut sets = Sets { new: None, old: old.collect() };
        assert_eq!(plan::beyond_history(&sets, limit).len(), expected, "{sizes:?} {limit}");
        for member in &mut sets.old {
            Arc::make_mut(&mut member.set).metadata.deletion_timestamp = Some(Time(now()));
        }
        assert_eq!(plan::beyond_history(&sets, limit).len(), 0, "they are being deleted already");
    }
}

#[test]
fn an_annotation_asks_for_an_earlier_revision() {
    let mut world = World::new(deployment(1, rolling(json!(1), json!(0))));
    for at in 1..=3 {
        world.image(&format!("web:{at}"));
        world.deployment.annotations_mut().insert("kubernetes.io/change-cause".into(), format!("to {at}"));
        world.settle(0, 2);
    }
    for (asked, image, reason, message) in [
        ("1", Some("web:1"), "DeploymentRollback", "Rolled back deployment \"web\" to revision 1"),
        ("0", Some("web:2"), "DeploymentRollback", "Rolled back deployment \"web\" to revision 2"),
        ("7", None, "DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to."),
        (
            "3",
            None,
            "DeploymentRollbackTemplateUnchanged",
            "The rollback revision contains the same template as current deployment \"web\"",
        ),
    ] {
        let mut asking = world.deployment.clone();
        asking.annotations_mut().insert(history::ROLLBACK_TO.into(), asked.into());
        let sets: Vec<Arc<ReplicaSet>> = world.sets.iter().cloned().map(Arc::new).collect();
        let plan = plan::decide(&asking, &sets, &|_| Vec::new(), now());
        let [Action::RollBack(rollback)] = &plan.actions[..] else { panic!("{:?}", plan.actions) };
        assert_eq!((rollback.event.1, rollback.event.2.as_str()), (reason, message));
        let template = &rollback.patch["spec"]["template"];
        assert_eq!(template["spec"]["containers"][0]["image"].as_str(), image);
        assert_eq!(template["metadata"]["labels"].get("pod-template-hash"), None);
        let annotations = &rollback.patch["metadata"]["annotations"];
        assert_eq!(annotations[history::ROLLBACK_TO], Value::Null);
        let cause = image.map(|image| image.replace("web:", "to "));
        assert_eq!(annotations.get("kubernetes.io/change-cause").and_then(Value::as_str), cause.as_deref());
        assert_eq!(Some(plan.status), asking.status, "the status waits for what comes of it");
    }
    world.deployment.annotations_mut().insert(history::ROLLBACK_TO.into(), "x".into());
    assert!(!world.step(), "what is no number asks for nothing");
}

#[test]
fn an_existing_set_is_progress_found_and_without_a_deadline_there_is_none() {
    let mut world = World::new(deployment(2, rolling(json!(1), json!(0))));
    world.step();
    world.deployment.status = None;
    world.step();
    assert_eq!(world.condition("Progressing"), pair("True", "FoundNewReplicaSet"));

    world.deployment.spec.as_mut().unwrap().progress_deadline_seconds = Some(i32::MAX);
    world.step();
    let conditions = world.deployment.status.as_ref().unwrap().conditions.clone().unwrap();
    assert!(conditions.iter().all(|condition| condition.type_ != "Progressing"));
}

#[test]
fn terminating_pods_are_counted_when_all_sets_have_counted_them() {
    let mut world = World::new(deployment(2, rolling(json!(1), json!(0))));
    world.settle(0, 3);
    world.image("web:2");
    world.step();
    let count = |world: &mut World, first: Value, second: Value| {
        for (at, terminating) in [first, second].into_iter().enumerate() {
            let status = json!({"replicas": 1, "terminatingReplicas": terminating});
            world.sets[at].status = serde_json::from_value(status).unwrap();
        }
        world.step();
        world.deployment.status.as_ref().unwrap().terminating_replicas
    };
    assert_eq!(count(&mut world, json!(2), Value::Null), None);
    assert_eq!(count(&mut world, json!(2), json!(1)), Some(3));
    assert_eq!(count(&mut world, json!(0), json!(0)), Some(0));
}

#[test]
fn recreate_waits_for_pods_that_are_only_counted() {
    let mut world = World::new(deployment(2, json!({"type": "Recreate"})));
    world.settle(0, 2);
    world.image("web:2");
    world.step();
    world.step();
    assert_eq!(world.sizes(), [0], "the status of the old set still has pods");
    world.settle(0, 2);
    assert_eq!(world.sizes(), [0, 2]);
}

#[test]
fn what_old_sets_give_the_new_one_takes_when_they_have_given_it() {
    let mut world = World::new(deployment(10, rolling(json!(3), json!(2))));
    world.settle(0, 13);
    world.image("web:2");
    world.step();
    assert_eq!(world.sizes(), [10, 3], "the new set is to be there first");
    world.step();
    assert_eq!(world.sizes(), [8, 3]);
    world.sets[0].metadata.generation = Some(2);
    world.step();
    assert_eq!(world.sizes(), [8, 3], "two pods may still be there");
    world.sets[0].status.as_mut().unwrap().observed_generation = Some(2);
    world.step();
    assert_eq!(world.sizes(), [8, 5]);
}

#[test]
fn a_status_is_urgent_when_somebody_waits_for_it() {
    let mut world = World::new(deployment(3, rolling(json!(1), json!(0))));
    world.settle(0, 4);
    let is_urgent = |change: fn(&mut DeploymentStatus)| {
        let mut status = world.deployment.status.clone().unwrap();
        change(&mut status);
        status::is_urgent(&world.deployment, &status)
    };
    assert!(!is_urgent(|status| status.terminating_replicas = Some(1)));
    assert!(!is_urgent(|status| (status.ready_replicas, status.available_replicas) = (Some(2), Some(2))));
    assert!(!is_urgent(|status| {
        status.conditions.as_mut().unwrap()[0].last_update_time = Some(Time(now() + Duration::from_secs(9)));
    }));
    assert!(is_urgent(|status| status.observed_generation = Some(9)));
    assert!(is_urgent(|status| status.collision_count = Some(1)));
    assert!(is_urgent(|status| status.conditions.as_mut().unwrap()[0].reason = Some("Other".into())));
    let complete = world.deployment.status.clone().unwrap();
    world.deployment.status.as_mut().unwrap().available_replicas = Some(2);
    assert!(status::is_urgent(&world.deployment, &complete));
}
