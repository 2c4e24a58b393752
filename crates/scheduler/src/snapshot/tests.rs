use serde_json::json;

use super::counters::{Bond, Counted, Counter, CounterId, CounterKey, Eligibility};
use super::*;
use crate::shape::{PodSelection, PodTerm};
use crate::testing::{labelled, pod, pod_with};
use kinds::matching::Selector;

fn web(name: &str) -> PodInfo {
    pod_with(name, &json!({"app": "web"}), &json!({}))
}

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::new();
    for (name, zone) in [("a", "z1"), ("b", "z1"), ("c", "z2")] {
        snapshot.set_node(&labelled(name, &json!({"zone": zone})));
    }
    snapshot
}

/// Counts of pods with `app=web` by zone, over nodes a, b and c.
fn by_zone(snapshot: &mut Snapshot) -> [u32; 3] {
    let selection = PodSelection {
        namespaces: ["default".to_owned()].into(),
        namespace_selector: Selector::default(),
        selector: Selector::labels(&[("app".to_owned(), "web".to_owned())].into()),
    };
    let key = CounterKey {
        counted: Counted::Selected(vec![selection]),
        topology_key: "zone".into(),
        eligibility: Eligibility::default(),
    };
    let id = snapshot.counter(key);
    ["a", "b", "c"].map(|name| {
        let slot = snapshot.node(name).unwrap().slot;
        snapshot.count_of(id).unwrap().beside(slot)
    })
}

#[test]
fn counts_follow_pods_and_labels() {
    let mut snapshot = snapshot();
    snapshot.place(&web("1"), "a");
    assert_eq!(by_zone(&mut snapshot), [1, 1, 0], "counted when first asked");
    snapshot.place(&web("2"), "b");
    snapshot.place(&pod("3", &json!({})), "b");
    assert_eq!(by_zone(&mut snapshot), [2, 2, 0], "and kept current");
    snapshot.place(&web("1"), "c");
    assert_eq!(by_zone(&mut snapshot), [1, 1, 1], "a pod that moves");
    snapshot.set_node(&labelled("b", &json!({"zone": "z2"})));
    assert_eq!(by_zone(&mut snapshot), [0, 2, 2], "a node that moves");
    snapshot.set_node(&labelled("b", &json!({})));
    assert_eq!(by_zone(&mut snapshot), [0, 0, 1], "a node without a zone");
    snapshot.place(&pod("1", &json!({})), "c");
    assert_eq!(by_zone(&mut snapshot), [0, 0, 0], "a pod that loses its label");
    snapshot.set_node(&labelled("b", &json!({"zone": "z1"})));
    assert_eq!(by_zone(&mut snapshot), [1, 1, 0], "and the zone that comes back");
    snapshot.remove_pod("2");
    assert_eq!(by_zone(&mut snapshot), [0, 0, 0]);
}

#[test]
fn counts_made_in_a_trial_are_right_after_it() {
    let mut snapshot = snapshot();
    snapshot.place(&web("1"), "a");
    let number = snapshot.node("a").unwrap().pods[0];
    let guest = web("guest").shape;
    snapshot.lift(number);
    snapshot.guest(&guest, 2);
    assert_eq!(by_zone(&mut snapshot), [0, 0, 1]);
    snapshot.unguest(&guest, 2);
    snapshot.put_back(number);
    assert_eq!(by_zone(&mut snapshot), [1, 1, 0]);
}

#[test]
fn old_counters_make_way_and_needed_ones_stay() {
    let mut snapshot = snapshot();
    let away = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "rack"}]}}});
    snapshot.place(&pod_with("shy", &json!({}), &away), "a");
    snapshot.place(&web("1"), "a");
    for at in 0..2000 {
        let selector = Selector::labels(&[("n".to_owned(), at.to_string())].into());
        let selection = PodSelection { selector, ..PodSelection::default() };
        let counted = Counted::Selected(vec![selection]);
        snapshot.counter(CounterKey { counted, topology_key: "zone".into(), eligibility: Eligibility::default() });
    }
    assert!(snapshot.counters().all().count() < 1000);
    let bears = |(_, counter): (CounterId, &Counter)| matches!(&counter.key.counted, Counted::Bearing(Bond::Forbidden, PodTerm { topology_key, .. }) if topology_key == "rack");
    assert!(snapshot.counters().all().any(bears), "although no node has a rack");
    assert_eq!(by_zone(&mut snapshot), [1, 1, 0], "what was dropped is counted again");
    snapshot.remove_pod("1");
    snapshot.remove_pod("shy");
    assert_eq!(by_zone(&mut snapshot), [0, 0, 0]);
}

#[test]
fn pods_alike_share_their_shape_and_unused_shapes_go() {
    let mut snapshot = snapshot();
    let (one, two) = (snapshot.share(web("1")), snapshot.share(web("2")));
    assert!(Arc::ptr_eq(&one.shape, &two.shape));
    for at in 0..5000 {
        let pod = pod_with("p", &json!({"n": at.to_string()}), &json!({}));
        snapshot.place(&pod, "a");
        snapshot.remove_pod("p");
    }
    assert!(snapshot.shapes.known(&one.shape).is_some());
    let kept = (0..5000).filter(|at| {
        let pod = pod_with("p", &json!({"n": at.to_string()}), &json!({}));
        snapshot.shapes.known(&pod.shape).is_some()
    });
    assert!(kept.count() < 3000);
}

#[test]
fn seeing_what_was_assumed_changes_nothing() {
    let mut snapshot = snapshot();
    assert!(snapshot.place(&web("1"), "a"));
    let version = snapshot.version();
    assert!(!snapshot.place(&web("1"), "a"));
    assert_eq!(snapshot.version(), version);
}

/// What is found by a label must be what asking all shapes finds.
#[test]
fn counts_are_of_all_that_is_meant_whatever_names_it() {
    let mut snapshot = snapshot();
    for (name, namespace, app, node) in [
        ("1", "default", "web", "a"),
        ("2", "default", "db", "b"),
        ("3", "other", "web", "c"),
        ("4", "third", "web", "c"),
        ("5", "default", "web", "a"),
    ] {
        let labels = json!({"app": app, "tier": "x"});
        snapshot.place(&pod(name, &json!({"metadata": {"namespace": namespace, "labels": labels}})), node);
    }
    snapshot.set_namespace("third", [("team".to_owned(), "a".to_owned())].into());
    let selector = |value: serde_json::Value| Selector::of(serde_json::from_value(value).ok().as_ref());
    let app = |values: &[&str]| json!({"matchExpressions": [{"key": "app", "operator": "In", "values": values}]});
    for (namespaces, namespace_selector, pods, expected) in [
        (vec!["default"], Selector::default(), app(&["web"]), [2, 0, 0]),
        (vec!["default", "other"], Selector::default(), app(&["web", "db"]), [2, 1, 1]),
        (vec!["default", "other"], Selector::default(), json!({}), [2, 1, 1]),
        (
            vec!["default"],
            Selector::default(),
            json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]}),
            [2, 0, 0],
        ),
        (vec!["default"], selector(json!({"matchLabels": {"team": "a"}})), app(&["web"]), [2, 0, 1]),
        (vec![], Selector::default(), app(&["web"]), [0, 0, 0]),
        (vec!["default"], Selector::default(), json!({"matchLabels": {"app": "web", "tier": "y"}}), [0, 0, 0]),
    ] {
        let named = format!("{namespaces:?} {pods}");
        let namespaces = namespaces.into_iter().map(str::to_owned).collect();
        let selection = PodSelection { namespaces, namespace_selector, selector: selector(pods) };
        let (counted, eligibility) = (Counted::Selected(vec![selection]), Eligibility::default());
        let id = snapshot.counter(CounterKey { counted, topology_key: "zone".into(), eligibility });
        let found = |snapshot: &Snapshot| {
            let on = |name| snapshot.node(name).unwrap().slot;
            let per_node = ["a", "c"].map(|name| snapshot.count_of(id).unwrap().beside(on(name)));
            (per_node, snapshot.count_of(id).unwrap().total())
        };
        let [a, b, c] = expected;
        assert_eq!(found(&snapshot), ([a + b, c], u64::from(a + b + c)), "{named}");
        // a pod of a new shape is counted by those that are there
        let late = pod_with("late", &json!({"app": "web", "new": "yes"}), &json!({}));
        snapshot.place(&late, "a");
        let more = u32::from(a + c > 0);
        assert_eq!(found(&snapshot).0, [a + b + more, c], "{named}");
        snapshot.remove_pod("late");
    }
}

#[test]
fn counters_of_one_label_share_its_domains() {
    let mut snapshot = snapshot();
    let mut ids = Vec::new();
    for app in ["web", "db"] {
        let selection = PodSelection {
            namespaces: ["default".to_owned()].into(),
            namespace_selector: Selector::default(),
            selector: Selector::labels(&[("app".to_owned(), app.to_owned())].into()),
        };
        let (counted, eligibility) = (Counted::Staying(selection), Eligibility::default());
        ids.push(snapshot.counter(CounterKey { counted, topology_key: "zone".into(), eligibility }));
    }
    snapshot.place(&web("1"), "c");
    snapshot.set_node(&labelled("d", &json!({"zone": "z3"})));
    snapshot.place(&web("2"), "d");
    let counts = ids.iter().map(|id| snapshot.count_of(*id).unwrap());
    let found: Vec<_> = counts.map(|count| (count.smallest(), count.in_domain("z3"), count.total())).collect();
    assert_eq!(found, [((3, 0), 1, 2), ((3, 0), 0, 0)]);
}
