//! Hints, as they come out of plans for endpoints in zones.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::super::topology::{Share, ratios};
use super::*;

fn slice(name: &str, zones: &[&str]) -> EndpointSlice {
    let endpoints: Vec<Value> = zones
        .iter()
        .map(|zone| {
            // "a>b" is in a and meant for b, "!a" is not ready
            let (ready, zone) = zone.strip_prefix('!').map_or((true, *zone), |zone| (false, zone));
            let (zone, meant) = zone.split_once('>').map_or((zone, None), |(zone, meant)| (zone, Some(meant)));
            let hints = meant.map(|zone| json!({"forZones": [{"name": zone}]}));
            let zone = Some(zone).filter(|zone| !zone.is_empty());
            json!({"addresses": ["10.0.0.1"], "zone": zone, "conditions": {"ready": ready}, "hints": hints})
        })
        .collect();
    serde_json::from_value(json!({"metadata": {"name": name}, "addressType": "IPv4", "endpoints": endpoints})).unwrap()
}

fn meant(slice: &EndpointSlice) -> Vec<String> {
    let name = |endpoint: &Endpoint| {
        let zones = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref());
        zones.map_or("-".to_owned(), |zones| zones.iter().map(|zone| zone.name.as_str()).collect())
    };
    slice.endpoints.iter().flatten().map(name).collect()
}

fn node(zone: &str, cpu: &str, changes: Value) -> Share {
    let mut node = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]}});
    kube_merge(&mut node, &changes);
    Share::of(&serde_json::from_value::<Node>(node).unwrap())
}

fn kube_merge(into: &mut Value, changes: &Value) {
    for (key, value) in changes.as_object().into_iter().flatten() {
        match into.get_mut(key).filter(|old| old.is_object() && value.is_object()) {
            Some(old) => kube_merge(old, value),
            None => into[key] = value.clone(),
        }
    }
}

fn shares(zones: &[(&str, &str)]) -> Option<Ratios> {
    ratios(zones.iter().map(|(zone, cpu)| node(zone, cpu, json!({}))))
}

#[test]
fn shares_are_known_when_every_node_that_takes_part_says_its_own() {
    assert_eq!(
        shares(&[("a", "1"), ("a", "500m"), ("b", "4.5")]),
        Some([("a".into(), 0.25), ("b".into(), 0.75)].into())
    );
    assert_eq!(shares(&[("a", "1"), ("a", "1")]), None, "one zone only");
    assert_eq!(shares(&[("a", "1"), ("b", "1"), ("c", "0")]), None);
    assert_eq!(shares(&[("a", "1"), ("b", "1"), ("", "1")]), None);
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    let control = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
    for excluded in [unready, control] {
        let nodes = [node("a", "1", json!({})), node("b", "1", json!({})), node("", "0", excluded)];
        assert_eq!(ratios(nodes).map(|ratios| ratios.len()), Some(2));
    }
}

fn assigned(create: &[&str], unchanged: &[&[&str]], ratios: Option<&Ratios>) -> Result<(Vec<String>, usize), String> {
    let mut plan = Plan { create: vec![slice("", create)], ..Plan::default() };
    plan.unchanged = unchanged.iter().enumerate().map(|(at, zones)| Arc::new(slice(&at.to_string(), zones))).collect();
    proportional(&mut plan, ratios)?;
    Ok((meant(&plan.create[0]), plan.update.len()))
}

#[test]
fn endpoints_are_meant_for_zones_by_their_share() {
    let even = shares(&[("a", "2"), ("b", "2")]);
    let thirds = shares(&[("a", "1"), ("b", "1"), ("c", "1")]);
    let of = |create: &[&str], unchanged: &[&[&str]], ratios: &Option<Ratios>| {
        assigned(create, unchanged, ratios.as_ref()).map(|(meant, updates)| (meant.concat(), updates))
    };
    assert_eq!(of(&["a", "b", "a", "b"], &[], &even), Ok(("abab".into(), 0)));
    assert_eq!(of(&["a", "a", "a", "b"], &[], &even), Ok(("baab".into(), 0)), "one is given away");
    assert_eq!(of(&["a", "a", "!a", "b", "b"], &[], &even), Ok(("aa-bb".into(), 0)), "one that is not ready has none");
    assert_eq!(of(&["a", "a", "a", "b", "b", "c"], &[], &thirds), Ok(("caabbc".into(), 0)));
    assert_eq!(of(&["b", "b"], &[&["a>a", "a>a"]], &even), Ok(("bb".into(), 0)), "what is right stays unwritten");
    assert_eq!(of(&["b", "b"], &[&["a", "a>a"]], &even), Ok(("bb".into(), 1)), "one that is meant for nobody");
    assert_eq!(of(&["b", "b"], &[&["a>z", "a>a"]], &even), Ok(("bb".into(), 1)), "a zone that is no more");
    assert_eq!(of(&["a"], &[&["a>a", "a>a", "a>a"]], &even), Ok(("b".into(), 1)), "too much for one zone");
}

#[test]
fn what_cannot_be_had_is_said_in_upstreams_words() {
    let even = shares(&[("a", "2"), ("b", "2")]);
    let uneven = shares(&[("a", "1"), ("b", "9")]);
    let why = |create: &[&str], ratios: &Option<Ratios>| assigned(create, &[], ratios.as_ref()).unwrap_err();
    assert_eq!(
        why(&["a", "b"], &None),
        "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
    );
    assert_eq!(why(&["a"], &even), "Insufficient number of endpoints (1 endpoints, 2 zones)");
    assert_eq!(why(&["a", "!b"], &even), "Insufficient number of endpoints (1 endpoints, 2 zones)");
    let overload = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";
    assert_eq!(why(&["a", "b", "b"], &even), format!("{overload} (3 endpoints, 2 zones)"));
    assert_eq!(why(&["a", "b"], &uneven), format!("{overload} (2 endpoints, 2 zones)"));
    assert_eq!(why(&["a", "b", "a", ""], &even), "One or more endpoints do not have a zone specified");
}

#[test]
fn hints_go_and_come_without_writing_slices_that_are_right() {
    let plan = |zones: &[&str]| Plan { unchanged: vec![Arc::new(slice("s", zones))], ..Plan::default() };
    let written = |zones: &[&str], distribution: Distribution<'_>| {
        let mut plan = plan(zones);
        near(&mut plan, distribution);
        plan.update.first().map(meant)
    };
    let zone = Distribution::SameZone("PreferClose");
    assert_eq!(written(&["a>a", "b>b", "!a"], zone), None);
    assert_eq!(written(&["a>a", "b"], zone), Some(vec!["a".into(), "b".into()]));
    assert_eq!(written(&["a>b", "!b>b"], zone), Some(vec!["a".into(), "-".into()]));
    assert_eq!(written(&["a", "b"], Distribution::Everywhere), None);
    assert_eq!(written(&["a>a", "b"], Distribution::Everywhere), Some(vec!["-".into(), "-".into()]));
    assert_eq!(written(&["a>a"], Distribution::SameNode), None, "there is no node to name");
}

#[test]
fn the_annotation_goes_before_the_field_and_its_older_name_before_the_newer() {
    let of = |annotations: Value, field: Value| {
        let service = json!({"metadata": {"annotations": annotations}, "spec": {"trafficDistribution": field}});
        let service: Service = serde_json::from_value(service).unwrap();
        let found = Distribution::of(&service);
        format!("{found:?}")
    };
    let (old, new) = (MODES[0], MODES[1]);
    for (annotations, field, wanted) in [
        (json!({}), json!(null), "Everywhere"),
        (json!({}), json!("PreferClose"), "SameZone(\"PreferClose\")"),
        (json!({}), json!("PreferSameZone"), "SameZone(\"PreferSameZone\")"),
        (json!({}), json!("PreferSameNode"), "SameNode"),
        (json!({}), json!("Other"), "Everywhere"),
        (json!({new: "Auto"}), json!("PreferClose"), "Proportional"),
        (json!({new: "auto"}), json!(null), "Proportional"),
        (json!({new: "Disabled"}), json!("PreferClose"), "SameZone(\"PreferClose\")"),
        (json!({old: "Disabled", new: "Auto"}), json!(null), "Everywhere"),
        (json!({old: "Auto", new: "Disabled"}), json!(null), "Proportional"),
    ] {
        assert_eq!(of(annotations.clone(), field), wanted, "{annotations}");
    }
}
