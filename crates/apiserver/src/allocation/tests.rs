use super::*;

fn allocator() -> Arc<ServiceAllocator> {
    ServiceAllocator::new(Block { network: Ipv4Addr::new(10, 0, 128, 0), prefix: 17 }, 30000..=30099)
}

fn node_port(port: i64, node_port: i64) -> Value {
    json!({"spec": {"type": "NodePort", "ports": [{"port": port, "protocol": "TCP", "nodePort": node_port}]}})
}

#[test]
fn a_service_gets_an_address_above_the_static_band_and_node_ports() {
    let allocator = allocator();
    let mut service = json!({"spec": {"type": "NodePort", "ports": [
        {"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 80}, {"port": 81, "nodePort": 30005}
    ]}});
    allocator.allocate(&mut service, None, &|_| false).unwrap().confirm();
    assert_eq!(service["spec"]["clusterIP"], "10.0.129.1");
    assert_eq!(service["spec"]["clusterIPs"], json!(["10.0.129.1"]));
    let ports: Vec<_> = service["spec"]["ports"].as_array().unwrap().iter().map(|port| &port["nodePort"]).collect();
    assert_eq!(ports, [30016, 30016, 30017, 30005]);
}

#[test]
fn taken_and_foreign_values_are_refused_in_upstreams_words() {
    let allocator = allocator();
    allocator
        .load([&json!({"spec": {"type": "NodePort", "clusterIP": "10.0.128.10", "ports": [{"nodePort": 30001}]}})]);
    for (spec, message) in [
        (
            json!({"clusterIP": "10.0.128.10"}),
            r#"spec.clusterIPs: Invalid value: ["10.0.128.10"]: failed to allocate IP 10.0.128.10: provided IP is already allocated"#,
        ),
        (
            json!({"clusterIP": "10.1.0.1"}),
            r#"spec.clusterIPs: Invalid value: ["10.1.0.1"]: failed to allocate IP 10.1.0.1: the provided network does not match the current range"#,
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 1}, {"port": 2, "nodePort": 30001}]}),
            "spec.ports[1].nodePort: Invalid value: 30001: provided port is already allocated",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 2, "nodePort": 80}]}),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-30099",
        ),
    ] {
        let errors = allocator.allocate(&mut json!({ "spec": spec }), None, &|_| false).unwrap_err();
        assert_eq!(errors.to_string(), message);
    }
}

#[test]
fn a_failed_write_gives_everything_back() {
    let allocator = allocator();
    let mut service = node_port(80, 30050);
    drop(allocator.allocate(&mut service, None, &|_| false).unwrap());
    allocator.allocate(&mut node_port(80, 30050), None, &|_| false).unwrap().confirm();
    assert!(allocator.allocate(&mut node_port(80, 30050), None, &|_| false).is_err());
}

#[test]
fn an_update_keeps_what_it_had_and_frees_what_it_gives_up() {
    let allocator = allocator();
    let mut old = node_port(80, 30050);
    allocator.allocate(&mut old, None, &|_| false).unwrap().confirm();
    let mut new = old.clone();
    new["spec"]["ports"][0]["nodePort"] = 30051.into();
    drop(allocator.allocate(&mut new.clone(), Some(&old), &|_| false).unwrap());
    assert!(allocator.allocate(&mut node_port(1, 30050), None, &|_| false).is_err(), "an undone update frees nothing");
    allocator.allocate(&mut new, Some(&old), &|_| false).unwrap().confirm();
    allocator.allocate(&mut node_port(1, 30050), None, &|_| false).unwrap().confirm();
    allocator.release(&new);
    allocator.allocate(&mut node_port(1, 30051), None, &|_| false).unwrap().confirm();
    let mut same_address = json!({"spec": {"clusterIP": new["spec"]["clusterIP"]}});
    allocator.allocate(&mut same_address, None, &|_| false).unwrap().confirm();
}

#[test]
fn headless_and_external_services_take_nothing() {
    let allocator = allocator();
    for mut service in [json!({"spec": {"clusterIP": "None"}}), json!({"spec": {"type": "ExternalName"}})] {
        let before = service.clone();
        allocator.allocate(&mut service, None, &|_| false).unwrap().confirm();
        assert_eq!(service, before);
    }
}

#[test]
fn a_balancer_that_wants_no_node_ports_still_has_those_it_names_to_itself() {
    let allocator = allocator();
    let balanced = |ports: Value, allocate: bool| json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": allocate, "ports": ports}});
    let mut service = balanced(json!([{"port": 80}, {"port": 81, "nodePort": 30081}]), false);
    allocator.allocate(&mut service, None, &|_| false).unwrap().confirm();
    assert!(service["spec"]["ports"][0].get("nodePort").is_none());
    let refusal = allocator.allocate(&mut node_port(1, 30081), None, &|_| false).unwrap_err();
    assert!(refusal.to_string().ends_with("provided port is already allocated"));
    let mut named = service.clone();
    named["spec"]["ports"] = json!([{"port": 80}, {"port": 81}]);
    allocator.allocate(&mut named, Some(&service), &|_| false).unwrap().confirm();
    allocator.allocate(&mut node_port(1, 30081), None, &|_| false).unwrap().confirm();
}

#[test]
fn what_is_used_up_is_nobodys_wrong_field() {
    let block = Block { network: Ipv4Addr::new(10, 0, 0, 0), prefix: 29 };
    let allocator = ServiceAllocator::new(block, 30000..=30001);
    let refused = |mut service: Value| match allocator.allocate(&mut service, None, &|_| false) {
        Err(Refusal::Failed(message)) => message,
        other => panic!("{other:?}"),
    };
    let local = |port: i64| {
        json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port,
            "ports": [{"port": 80}]}})
    };
    allocator.allocate(&mut node_port(80, 30000), None, &|_| false).unwrap().confirm();
    assert_eq!(
        refused(local(30000)),
        "failed to allocate requested HealthCheck NodePort 30000: provided port is already allocated"
    );
    assert_eq!(refused(local(0)), "failed to allocate a HealthCheck NodePort 0: range is full");
    allocator.allocate(&mut node_port(80, 30001), None, &|_| false).unwrap().confirm();
    assert_eq!(refused(node_port(80, 0)), "failed to allocate a nodePort: range is full");
    let mut plain = || allocator.allocate(&mut json!({"spec": {}}), None, &|_| false).map(Claim::confirm);
    let last = std::iter::repeat_with(&mut plain).take(10).find_map(Result::err).unwrap();
    assert_eq!(last.to_string(), "failed to allocate a serviceIP: range is full");
}
