//! Laws that hold for every configuration.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{T0, T1, manager, owners};
use crate::apply::{Manager, Operation, apply, of_new, track_update};
use crate::builtin;

fn pod(spec: Value, labels: &[String]) -> Value {
    let labels: Map<String, Value> = labels.iter().map(|name| (name.clone(), json!("x"))).collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels}, "spec": spec})
}

/// Configurations of a pod: containers and tolerations, a map, an atomic map, a set-like list, scalars.
fn configs() -> impl Strategy<Value = Value> {
    let names = || proptest::collection::btree_set("[a-c]", 1..4);
    let env = proptest::collection::btree_map("[A-C]", "[0-1]", 0..3);
    let containers =
        proptest::collection::btree_map("[a-c]", (0..2_u8, proptest::option::of(env), any::<bool>()), 1..4);
    (containers, proptest::option::of(names()), proptest::option::of(0..2_u8), names()).prop_map(
        |(containers, selector, grace, labels)| {
            let containers: Vec<Value> = containers
                .into_iter()
                .map(|(name, (image, env, port))| {
                    let mut container = json!({"name": name, "image": format!("i{image}")});
                    if let Some(env) = env {
                        container["env"] =
                            env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
                    }
                    if port {
                        container["ports"] = json!([{"containerPort": 80, "protocol": "TCP"}]);
                    }
                    container
                })
                .collect();
            let mut spec = json!({"containers": containers});
            if let Some(names) = selector {
                spec["nodeSelector"] = names.into_iter().map(|name| (name, json!("y"))).collect::<Map<_, _>>().into();
            }
            if let Some(grace) = grace {
                spec["terminationGracePeriodSeconds"] = json!(grace);
            }
            pod(spec, &labels.into_iter().collect::<Vec<_>>())
        },
    )
}

/// The object without its managed fields, with every list of named elements in the order of names: after a merge the
/// order may be another one than the configuration's.
fn content(mut object: Value) -> Value {
    fn sort(value: &mut Value) {
        match value {
            Value::Object(map) => map.values_mut().for_each(sort),
            Value::Array(items) => {
                items.iter_mut().for_each(sort);
                items.sort_by_key(ToString::to_string);
            }
            _ => {}
        }
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    sort(&mut object);
    object
}

proptest! {
    #[test]
    fn an_only_applier_gets_exactly_its_configuration(first in configs(), second in configs()) {
        let schema = builtin().get("io.k8s.api.core.v1.Pod").unwrap();
        let me = |time| manager("me", Operation::Apply, time);
        let live = apply(&schema, None, &first, &me(T0), false).unwrap().object;
        prop_assert_eq!(content(live.clone()), content(first));
        let next = apply(&schema, Some(&live), &second, &me(T1), false).unwrap().object;
        prop_assert_eq!(content(next.clone()), content(second.clone()));
        let again = apply(&schema, Some(&next), &second, &me("2026-01-01T00:00:02Z"), false).unwrap();
        prop_assert!(!again.changed);
        prop_assert_eq!(again.object, next);
    }

    #[test]
    fn what_another_manager_set_survives_an_applier(first in configs(), second in configs(), own in configs()) {
        let schema = builtin().get("io.k8s.api.core.v1.Pod").unwrap();
        let live = apply(&schema, None, &own, &manager("other", Operation::Apply, T0), false).unwrap().object;
        // Forced where they disagree: then the field is no longer the other manager's.
        let me = manager("me", Operation::Apply, T1);
        let one = apply(&schema, Some(&live), &first, &me, true).unwrap().object;
        let two = apply(&schema, Some(&one), &second, &me, true).unwrap().object;
        for name in own["metadata"]["labels"].as_object().unwrap().keys() {
            prop_assert!(two["metadata"]["labels"].get(name).is_some());
        }
        for container in own["spec"]["containers"].as_array().unwrap() {
            let containers = two["spec"]["containers"].as_array().unwrap();
            prop_assert!(containers.iter().any(|kept| kept["name"] == container["name"]));
        }
    }

    #[test]
    fn of_a_new_object_the_text_says_what_the_sets_say(config in configs(), any in anything(), status in any::<bool>()) {
        for (object, kind) in [(config, "core.v1.Pod"), (any.clone(), "core.v1.Pod"), (any, "core.v1.ConfigMap")] {
            // what a create makes of anything else first
            if !object.get("metadata").is_some_and(Value::is_object) {
                continue;
            }
            let schema = builtin().get(&format!("io.k8s.api.{kind}")).unwrap();
            let reset: &[&str] = if status { &["status", "metadata.labels"] } else { &[] };
            let me = Manager { reset, ..manager("a \"quoted\" name", Operation::Update, T0) };
            let mut tracked = object.clone();
            track_update(&schema, None, &mut tracked, &me).unwrap();
            let Some(text) = of_new(&schema, &object, &me) else { continue };
            let sets = &tracked["metadata"]["managedFields"];
            let sets = if sets.is_null() { String::new() } else { sets.to_string() };
            prop_assert_eq!(String::from_utf8(text).unwrap(), sets);
        }
    }

    #[test]
    fn every_field_of_a_tracked_object_has_one_updater(first in configs(), second in configs()) {
        let schema = builtin().get("io.k8s.api.core.v1.Pod").unwrap();
        let mut live = first;
        track_update(&schema, None, &mut live, &manager("a", Operation::Update, T0)).unwrap();
        let mut next = second;
        track_update(&schema, Some(&live), &mut next, &manager("b", Operation::Update, T1)).unwrap();
        let mut fresh = next.clone();
        fresh["metadata"].as_object_mut().unwrap().remove("managedFields");
        track_update(&schema, None, &mut fresh, &manager("a", Operation::Update, T0)).unwrap();
        let paths = |object: &Value| {
            let sets = owners(object).into_iter().map(|(_, set)| crate::apply::FieldSet::parse(&set).unwrap());
            let mut paths: Vec<String> = sets.flat_map(|set| set.paths()).collect();
            paths.sort();
            paths
        };
        prop_assert_eq!(paths(&next), paths(&fresh));
    }
}

/// Anything JSON, under names that types and directives give a meaning to.
fn anything() -> impl Strategy<Value = Value> {
    const NAMES: [&str; 16] = [
        "metadata",
        "labels",
        "finalizers",
        "managedFields",
        "fieldsV1",
        "spec",
        "containers",
        "name",
        "env",
        "ports",
        "containerPort",
        "nodeSelector",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        Just(json!("delete")),
        Just(json!("replace")),
        Just(json!("a")),
        Just(json!(80)),
        Just(json!(true)),
        Just(json!([])),
        Just(json!({})),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        let name = proptest::sample::select(&NAMES[..]).prop_map(str::to_owned);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::btree_map(name, inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_values_are_handled(object in anything(), change in anything()) {
        let schema = builtin().get("io.k8s.api.core.v1.Pod").unwrap();
        let mut patched = object.clone();
        let _ = crate::patch::strategic(&schema, &mut patched, &change);
        let _ = track_update(&schema, Some(&object), &mut patched, &manager("a", Operation::Update, T0));
        let _ = apply(&schema, Some(&object), &change, &manager("b", Operation::Apply, T1), true);
        let mut pruned = change;
        let _ = crate::prune(&schema, &mut pruned);
        let _ = crate::protobuf::encode(&json!({"apiVersion": "v1", "kind": "Pod", "spec": pruned}));
        let _ = crate::patch::json(&mut patched, &pruned);
        let _ = crate::Schema::from_crd(Some(&object));
    }
}
