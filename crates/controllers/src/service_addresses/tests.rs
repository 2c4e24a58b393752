use serde_json::{Value, json};

use super::*;

fn address(parent: Value, labels: Value) -> IPAddress {
    serde_json::from_value(json!({"metadata": {"name": "10.0.0.1", "labels": labels}, "spec": {"parentRef": parent}}))
        .unwrap()
}

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec})).unwrap()
}

#[test]
fn an_address_is_right_when_it_says_whose_it_is_and_who_made_it() {
    let labels = json!({FAMILY: "IPv4", MANAGED_BY: MANAGER});
    let of = |name: &str| json!({"resource": "services", "namespace": "n", "name": name});
    let (own, other) = (address(of("s"), labels.clone()), address(of("t"), labels.clone()));
    let gateway = address(json!({"group": "g", "resource": "gateways", "name": "s", "namespace": "n"}), labels);
    let unmarked = address(of("s"), json!({FAMILY: "IPv4"}));
    let six = address(of("s"), json!({FAMILY: "IPv6", MANAGED_BY: MANAGER}));
    for (object, is_foreign, other_holds, finding) in [
        (Some(&own), false, false, Finding::Right),
        (Some(&own), true, false, Finding::Foreign),
        (None, false, false, Finding::Missing),
        (Some(&other), false, true, Finding::Taken),
        (Some(&other), false, false, Finding::Misread),
        (Some(&gateway), false, true, Finding::Misread),
        (Some(&unmarked), false, false, Finding::Unmarked),
        (Some(&six), false, false, Finding::Unmarked),
    ] {
        let found = find(&Key::new("n", "s"), "10.0.0.1".parse().unwrap(), object, is_foreign, |_| other_holds);
        assert_eq!(found, finding, "{object:?}");
    }
}

#[test]
fn what_a_service_holds_is_named_once() {
    let of = |spec: Value| held(&service(spec)).into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(of(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]})), ["10.0.0.1"]);
    assert_eq!(of(json!({"clusterIP": "10.0.0.1"})), ["10.0.0.1"]);
    assert!(of(json!({"clusterIP": "None", "clusterIPs": ["None"]})).is_empty());
    assert!(of(json!({"type": "ExternalName", "clusterIP": "10.0.0.1"})).is_empty());
    let ports = json!([{"port": 1, "nodePort": 30001, "protocol": "UDP"}, {"port": 1, "nodePort": 30001},
        {"port": 2, "nodePort": 0}]);
    assert_eq!(node_ports(&service(json!({"ports": ports, "healthCheckNodePort": 30000}))), [30000, 30001]);
}

#[test]
fn a_change_of_a_service_matters_where_it_holds_something_else() {
    let old = Arc::new(service(json!({"clusterIP": "10.0.0.1"})));
    let change = |spec: Value| Change::Applied { old: Some(Arc::clone(&old)), new: Arc::new(service(spec)) };
    assert!(affected_by_service(&change(json!({"clusterIP": "10.0.0.1", "selector": {"a": "b"}}))).is_empty());
    let left = Work::Address("10.0.0.1".into());
    let own = Work::Service(Key::new("n", "s"));
    assert_eq!(affected_by_service(&change(json!({"type": "ExternalName"}))), [left.clone(), own.clone()]);
    assert_eq!(affected_by_service(&Change::Applied { old: None, new: Arc::clone(&old) }), [own]);
    assert_eq!(affected_by_service(&Change::Deleted(old)), [left]);
}
