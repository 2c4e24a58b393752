use serde_json::{Value, json};

use super::slices::{ADDRESSES_MAX, Plan, decide};
use super::*;

fn endpoints(subsets: Value) -> Endpoints {
    serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "n", "uid": "e", "labels": {"a": "b"},
        "annotations": {"x": "y", "kubectl.kubernetes.io/last-applied-configuration": "{}"}}, "subsets": subsets}))
    .unwrap()
}

fn subset(ready: &[&str], unready: &[&str], port: i32) -> Value {
    let list = |addresses: &[&str]| addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
    json!({"addresses": list(ready), "notReadyAddresses": list(unready),
        "ports": [{"name": "sql", "port": port, "protocol": "TCP"}]})
}

/// The slices after a plan was carried out on `before`.
fn applied(plan: Plan, before: &[Arc<EndpointSlice>]) -> Vec<Arc<EndpointSlice>> {
    let mut slices = before.to_vec();
    for write in plan.writes {
        match write {
            Write::Create(mut slice) => {
                slice.metadata.name = Some(format!("s{}", slices.len()));
                slices.push(Arc::new(*slice));
            }
            Write::Update(slice) => {
                for known in slices.iter_mut().filter(|known| known.name_any() == slice.name_any()) {
                    *known = Arc::new(EndpointSlice::clone(&slice));
                }
            }
            Write::Delete(gone) => slices.retain(|slice| slice.name_any() != gone.name_any()),
        }
    }
    slices
}

fn addresses(slice: &EndpointSlice) -> Vec<(&str, bool)> {
    let of = |endpoint: &'_ k8s_openapi::api::discovery::v1::Endpoint| endpoint.conditions.as_ref()?.ready;
    slice.endpoints.iter().flatten().map(|e| (e.addresses[0].as_str(), of(e).unwrap())).collect()
}

#[test]
fn each_family_and_set_of_ports_has_one_slice() {
    let source = endpoints(json!([
        subset(&["10.0.0.1", "fd00::1"], &["10.0.0.2"], 1),
        subset(&["10.0.0.3"], &[], 2),
        subset(&["10.0.0.4"], &[], 1)
    ]));
    let slices = applied(decide(&source, &[]), &[]);
    let found: Vec<_> = slices.iter().map(|slice| (slice.address_type.as_str(), addresses(slice))).collect();
    assert_eq!(
        found,
        [
            ("IPv4", vec![("10.0.0.1", true), ("10.0.0.2", false), ("10.0.0.4", true)]),
            ("IPv4", vec![("10.0.0.3", true)]),
            ("IPv6", vec![("fd00::1", true)]),
        ]
    );
    let slice = &slices[0];
    assert_eq!(slice.metadata.generate_name.as_deref(), Some("db-"));
    assert_eq!(source_of(slice), Some(Key::new("n", "db")));
    assert_eq!((slice.labels()["a"].as_str(), slice.annotations().len()), ("b", 1));
    let owner = &slice.owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("Endpoints", "e", Some(true)));
    assert!(decide(&source, &slices).writes.is_empty(), "nothing is left to do");
}

#[test]
fn a_change_is_made_in_place_and_what_is_gone_is_deleted() {
    let before = endpoints(json!([subset(&["10.0.0.1", "10.0.0.2"], &[], 1), subset(&["10.0.0.3"], &[], 2)]));
    let slices = applied(decide(&before, &[]), &[]);
    let after = endpoints(json!([subset(&["10.0.0.0", "10.0.0.2"], &["10.0.0.1"], 1)]));
    let plan = decide(&after, &slices);
    assert!(matches!(&plan.writes[..], [Write::Update(_), Write::Delete(_)]), "{:?}", plan.writes);
    let slices = applied(plan, &slices);
    assert_eq!(addresses(&slices[0]), [("10.0.0.1", false), ("10.0.0.2", true), ("10.0.0.0", true)]);
    let mut relabelled = after.clone();
    relabelled.metadata.labels = None;
    let slices = applied(decide(&relabelled, &slices), &slices);
    assert!(!slices[0].labels().contains_key("a"));
    assert!(applied(decide(&endpoints(json!([])), &slices), &slices).is_empty());
}

#[test]
fn a_slice_with_other_ports_takes_the_place_of_one_that_is_needed_no_more() {
    let before = endpoints(json!([subset(&["10.0.0.1"], &[], 1), subset(&["fd00::1"], &[], 1)]));
    let slices = applied(decide(&before, &[]), &[]);
    let after = endpoints(json!([subset(&["10.0.0.1"], &[], 2)]));
    let plan = decide(&after, &slices);
    assert!(matches!(&plan.writes[..], [Write::Update(_), Write::Delete(_)]), "{:?}", plan.writes);
    let after = applied(plan, &slices);
    assert_eq!((after.len(), after[0].name_any()), (1, slices[0].name_any()));
    assert_eq!(after[0].ports.as_ref().unwrap()[0].port, Some(2));
}

#[test]
fn what_cannot_be_mirrored_is_counted() {
    let many: Vec<String> = (0..ADDRESSES_MAX + 5).map(|at| format!("10.1.{}.{}", at / 250, at % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let plan = decide(&endpoints(json!([subset(&many, &[], 1), subset(&["example.com"], &[], 2)])), &[]);
    assert_eq!((plan.invalid, plan.beyond, plan.writes.len()), (1, 5, 1));
    let slices = applied(plan, &[]);
    assert_eq!(addresses(&slices[0]).len(), ADDRESSES_MAX);
}

#[test]
fn locks_and_those_that_ask_not_to_be_are_not_mirrored() {
    let with = |field: &str, name: &str, value: &str| -> Endpoints {
        serde_json::from_value(json!({"metadata": {field: {name: value}}})).unwrap()
    };
    assert!(is_mirrored(&with("labels", SKIP, "false")));
    assert!(!is_mirrored(&with("labels", SKIP, "true")));
    assert!(!is_mirrored(&with("annotations", LEADER, "{}")));
}
