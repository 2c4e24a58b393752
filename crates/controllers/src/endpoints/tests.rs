use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Service {
    let metadata = json!({"name": "web", "namespace": "default", "labels": {"a": "b"}});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn with_port() -> Service {
    service(json!({"clusterIP": "10.0.0.1", "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]}))
}

fn group(count: usize, ready: impl Fn(usize) -> (bool, bool)) -> Group {
    let endpoints = (0..count).map(|at| {
        let (ready, terminating) = ready(at);
        serde_json::from_value(json!({"addresses": [format!("10.0.{}.{}", at / 250, at % 250)],
            "conditions": {"ready": ready, "serving": ready, "terminating": terminating}}))
        .unwrap()
    });
    let ports = serde_json::from_value(json!([{"name": "", "port": 8080, "protocol": "TCP"}])).unwrap();
    Group { address_type: "IPv4".into(), ports, endpoints: endpoints.collect() }
}

fn counts(subset: &EndpointSubset) -> (usize, usize) {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    (count(&subset.addresses), count(&subset.not_ready_addresses))
}

#[test]
fn addresses_are_parted_by_readiness_and_leaving_pods_left_out() {
    let headless = service(json!({"clusterIP": "None"}));
    let endpoints = wanted(&headless, vec![group(3, |at| (at == 0, at == 2))]);
    let subset = &endpoints.subsets[0];
    assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "10.0.0.0");
    assert_eq!(subset.not_ready_addresses.as_ref().unwrap()[0].ip, "10.0.0.1");
    assert_eq!((counts(subset), subset.ports.as_ref().unwrap()[0].port), ((1, 1), 8080));
    assert!(endpoints.labels.contains_key(HEADLESS) && endpoints.labels["a"] == "b");
    assert!(wanted(&headless, Vec::new()).subsets.is_empty());
}

#[test]
fn too_many_addresses_are_cut_and_it_is_said() {
    let cut = |groups: Vec<Group>| {
        let wanted = wanted(&with_port(), groups);
        (wanted.subsets.iter().map(counts).collect::<Vec<_>>(), wanted.is_truncated)
    };
    let ready = |_: usize| (true, false);
    let unready = |_: usize| (false, false);
    assert_eq!(cut(vec![group(1000, ready)]), (vec![(1000, 0)], false));
    assert_eq!(cut(vec![group(1001, ready)]), (vec![(1000, 0)], true));
    assert_eq!(cut(vec![group(1500, |at| (at >= 600, false))]), (vec![(900, 100)], true), "the ready ones first");
    // upstream's table of what is cut where there are several subsets
    let mixed = |ready: usize, unready: usize| group(ready + unready, move |at| (at < ready, false));
    assert_eq!(cut(vec![mixed(500, 500), mixed(500, 500)]), (vec![(500, 0), (500, 0)], true));
    assert_eq!(cut(vec![mixed(600, 0), mixed(600, 600)]), (vec![(500, 0), (500, 0)], true));
    assert_eq!(cut(vec![mixed(300, 200), mixed(200, 800)]), (vec![(300, 100), (200, 400)], true));
    assert_eq!(cut(vec![group(900, unready), group(900, ready)]), (vec![(0, 100), (900, 0)], true));
}

#[test]
fn a_pod_that_knows_no_port_of_the_service_is_no_endpoint() {
    let without = |service: &Service| {
        let mut group = group(1, |_| (true, false));
        group.ports.clear();
        wanted(service, vec![group]).subsets.len()
    };
    assert_eq!(without(&with_port()), 0);
    assert_eq!(without(&service(json!({"clusterIP": "None"}))), 1, "a headless service may have no ports");
    assert_eq!(without(&service(json!({"clusterIP": "10.0.0.1"}))), 0);
}

#[test]
fn addresses_are_in_order() {
    let mut group = group(3, |_| (true, false));
    group.endpoints.reverse();
    let subsets = wanted(&with_port(), vec![group]).subsets;
    let addresses: Vec<_> = subsets[0].addresses.iter().flatten().map(|address| address.ip.as_str()).collect();
    assert_eq!(addresses, ["10.0.0.0", "10.0.0.1", "10.0.0.2"]);
}

#[test]
fn only_a_difference_is_written_and_others_annotations_stay() {
    let service = with_port();
    let say = |count: usize, current: Option<&Endpoints>, trigger: Option<&str>| {
        wanted(&service, vec![group(count, |_| (true, false))]).applied(&service, current, trigger)
    };
    let mut first = say(1001, None, Some("2026-01-01T00:00:00Z")).unwrap();
    assert_eq!(first.annotations()[OVER_CAPACITY], "truncated");
    assert_eq!(first.annotations()[endpointslice::TRIGGER_TIME], "2026-01-01T00:00:00Z");
    assert_eq!(first.labels()[MANAGED_BY], MANAGER);
    assert!(say(1001, Some(&first), Some("2026-01-02T00:00:00Z")).is_none(), "nothing is different");
    first.metadata.annotations.get_or_insert_default().insert("own".into(), "kept".into());
    first.metadata.resource_version = Some("7".into());
    let second = say(3, Some(&first), None).unwrap();
    assert_eq!(second.annotations().iter().collect::<Vec<_>>(), [(&"own".to_owned(), &"kept".to_owned())]);
    assert_eq!(second.metadata.resource_version.as_deref(), Some("7"));
    let mut foreign = second.clone();
    foreign.metadata.labels = None;
    assert!(say(3, Some(&foreign), None).is_some(), "a label was taken away");
    let mut marked = second.clone();
    marked.metadata.annotations.get_or_insert_default().insert(OVER_CAPACITY.into(), "truncated".into());
    assert!(say(3, Some(&marked), None).is_some(), "it is not truncated any more");
}
