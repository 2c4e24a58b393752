//! Services as parents of routes: what their clients in the mesh get.

use super::*;
use crate::routing::Destination;

/// An HTTPRoute with one parent and one backend.
fn route(cluster: &mut Cluster, namespace: &str, name: &str, parent: Value, backend: Value) {
    let mut parent = parent;
    parent["group"] = "".into();
    parent["kind"] = "Service".into();
    let spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": [backend]}]});
    cluster.put("HTTPRoute", namespace, name, json!({"spec": spec}));
}

/// Name of the backend that takes a request of a client in a namespace to a Service, if a route says so.
fn sent(core: &Core, client: &str, service: &str, port: u16, path: &str) -> Option<String> {
    let (headers, method) = (HeaderMap::new(), Method::GET);
    let head = RequestHead { host: "any", method: &method, path, query: None, headers: &headers };
    let table = core.table();
    let port_table = table.service(&Destination::new(service, port, client))?;
    match port_table.route(port, None, &head, 0) {
        Decision::Forward(way) => Some(way.backend.name().to_owned()),
        Decision::NotFound => Some("404".to_owned()),
        other => Some(format!("{other:?}")),
    }
}

fn said(core: &Core, namespace: &str, name: &str) -> Vec<&'static str> {
    let plan = core.route(RouteKind::Http, &Key::new(namespace, name)).unwrap();
    assert!(plan.parents.iter().all(|parent| parent.controller == MESH_CONTROLLER_NAME));
    plan.parents.iter().flat_map(|parent| &parent.verdicts).map(|verdict| verdict.reason).collect()
}

#[test]
fn a_route_is_for_the_ports_that_it_names() {
    for (parent, ports, reason) in [
        (json!({"name": "web"}), vec![80, 81, 82], "Accepted"),
        (json!({"name": "web", "port": 81}), vec![81], "Accepted"),
        (json!({"name": "web", "sectionName": "http"}), vec![80], "Accepted"),
        (json!({"name": "web", "sectionName": "http", "port": 81}), vec![], "NoMatchingParent"),
        (json!({"name": "web", "port": 53}), vec![], "NoMatchingParent"),
        (json!({"name": "none"}), vec![], "NoMatchingParent"),
    ] {
        let mut cluster = Cluster::new();
        route(&mut cluster, "shop", "r", parent.clone(), json!({"name": "api", "port": 80}));
        let core = cluster.compile();
        for port in [53, 80, 81, 82] {
            let expected = ports.contains(&port).then(|| "shop/api:80".to_owned());
            assert_eq!(sent(&core, "else", "shop/web", port, "/"), expected, "{parent} {port}");
        }
        assert_eq!(said(&core, "shop", "r"), [reason, "ResolvedRefs"], "{parent}");
    }
}

#[test]
fn a_route_without_a_port_is_not_for_ports_that_carry_something_else() {
    let mut cluster = Cluster::new();
    let ports = json!([{"name": "tcp-db", "port": 1}, {"name": "https", "port": 2}, {"port": 3, "appProtocol": "tcp"},
        {"name": "tcp", "port": 4, "appProtocol": "http"}, {"name": "web", "port": 5}]);
    cluster.put("Service", "shop", "mixed", json!({"spec": {"ports": ports}}));
    route(&mut cluster, "shop", "r", json!({"name": "mixed"}), json!({"name": "api", "port": 80}));
    route(&mut cluster, "shop", "named", json!({"name": "mixed", "port": 3}), json!({"name": "api", "port": 80}));
    let core = cluster.compile();
    let routed: Vec<_> = (1..=5).filter(|port| sent(&core, "shop", "shop/mixed", *port, "/").is_some()).collect();
    assert_eq!(routed, [3, 4, 5]);
}

#[test]
fn a_consumers_route_is_for_its_namespace_and_counts_before_the_producers() {
    let mut cluster = Cluster::new();
    let parent = json!({"name": "web", "namespace": "shop", "port": 80});
    route(&mut cluster, "other", "consumer", parent.clone(), json!({"name": "api", "port": 80}));
    let mut core = cluster.compile();
    assert_eq!(sent(&core, "other", "shop/web", 80, "/").as_deref(), Some("other/api:80"));
    assert_eq!(sent(&core, "shop", "shop/web", 80, "/"), None);
    route(&mut cluster, "shop", "producer", parent, json!({"name": "api", "port": 80}));
    core.apply([Item::Route(RouteKind::Http, Key::new("shop", "producer"))], &cluster);
    assert_eq!(sent(&core, "other", "shop/web", 80, "/").as_deref(), Some("other/api:80"));
    assert_eq!(sent(&core, "third", "shop/web", 80, "/").as_deref(), Some("shop/api:80"));
    cluster.remove("HTTPRoute", "other", "consumer");
    core.apply([Item::Route(RouteKind::Http, Key::new("other", "consumer"))], &cluster);
    assert_eq!(sent(&core, "other", "shop/web", 80, "/").as_deref(), Some("shop/api:80"));
    cluster.remove("HTTPRoute", "shop", "producer");
    core.apply([Item::Route(RouteKind::Http, Key::new("shop", "producer"))], &cluster);
    assert_eq!(sent(&core, "other", "shop/web", 80, "/"), None, "nothing is left behind");
}

#[test]
fn only_the_service_itself_needs_no_grant_in_another_namespace() {
    let mut cluster = Cluster::new();
    let parent = json!({"name": "web", "namespace": "shop"});
    route(&mut cluster, "other", "itself", parent.clone(), json!({"name": "web", "namespace": "shop", "port": 80}));
    route(&mut cluster, "other", "more", parent, json!({"name": "api", "namespace": "shop", "port": 80}));
    let core = cluster.compile();
    assert_eq!(said(&core, "other", "itself"), ["Accepted", "ResolvedRefs"]);
    assert_eq!(said(&core, "other", "more"), ["Accepted", "RefNotPermitted"]);
}

#[test]
fn requests_that_no_rule_takes_are_not_found() {
    let mut cluster = Cluster::new();
    let rule = json!({"matches": [{"path": {"value": "/v2"}}], "backendRefs": [{"name": "api", "port": 80}]});
    let parents = json!([{"group": "", "kind": "Service", "name": "web", "port": 80}]);
    let spec = json!({"parentRefs": parents, "hostnames": ["ignored.example"], "rules": [rule]});
    cluster.put("HTTPRoute", "shop", "r", json!({"spec": spec}));
    let core = cluster.compile();
    assert_eq!(sent(&core, "shop", "shop/web", 80, "/v2/x").as_deref(), Some("shop/api:80"));
    assert_eq!(sent(&core, "shop", "shop/web", 80, "/").as_deref(), Some("404"));
}

#[test]
fn a_route_may_have_a_gateway_and_a_service_as_parents() {
    let mut cluster = Cluster::new();
    cluster.listen(http());
    let service = json!({"group": "", "kind": "Service", "name": "web", "port": 80});
    cluster.http_route(json!({"parentRefs": [{"name": "edge"}, service]}));
    let mut core = cluster.compile();
    assert_eq!(taken(&core, 80, "h", "/"), "shop/web:80");
    assert_eq!(sent(&core, "shop", "shop/web", 80, "/").as_deref(), Some("shop/web:80"));
    let plan = core.route(RouteKind::Http, &Key::new("shop", "route")).unwrap();
    let status = status::route(None, plan, Timestamp::now());
    let controllers: Vec<_> = status.parents.iter().map(|parent| &*parent.controller_name).collect();
    assert_eq!(controllers, [CONTROLLER_NAME, MESH_CONTROLLER_NAME]);
    // A parent that is no more has no entry left.
    cluster.http_route(json!({}));
    core.apply([Item::Route(RouteKind::Http, Key::new("shop", "route"))], &cluster);
    let plan = core.route(RouteKind::Http, &Key::new("shop", "route")).unwrap();
    assert_eq!(status::route(Some(&status), plan, Timestamp::now()).parents.len(), 1);
}

#[test]
fn a_service_that_gets_a_port_is_served_there() {
    let mut cluster = Cluster::new();
    route(&mut cluster, "shop", "r", json!({"name": "new"}), json!({"name": "api", "port": 80}));
    let mut core = cluster.compile();
    assert_eq!(said(&core, "shop", "r"), ["NoMatchingParent", "ResolvedRefs"]);
    cluster.put("Service", "shop", "new", json!({"spec": {"ports": [{"port": 8080}]}}));
    let again = core.dependents(&Dependency::Service(Key::new("shop", "new")));
    core.apply(again, &cluster);
    assert_eq!(sent(&core, "shop", "shop/new", 8080, "/").as_deref(), Some("shop/api:80"));
}

#[test]
fn connections_to_a_service_are_split_by_a_tcp_route() {
    let mut cluster = Cluster::new();
    let parents = json!([{"group": "", "kind": "Service", "name": "web", "port": 80}]);
    let rules = json!([{"backendRefs": [{"name": "api", "port": 80}]}]);
    cluster.put("TCPRoute", "shop", "r", json!({"spec": {"parentRefs": parents, "rules": rules}}));
    cluster.put("UDPRoute", "shop", "r", json!({"spec": {"parentRefs": parents, "rules": rules}}));
    let core = cluster.compile();
    let table = core.table();
    let listener = table.service(&Destination::new("shop/web", 80, "x")).unwrap().listener("").unwrap().clone();
    assert!(!listener.has_requests());
    let Target::Service { backend, .. } = &listener.stream("", 0).unwrap().target else { panic!("no backend") };
    assert_eq!(backend.name(), "shop/api:80");
    let plan = core.route(RouteKind::Udp, &Key::new("shop", "r")).unwrap();
    assert_eq!(plan.parents[0].verdicts[0].reason, "UnsupportedValue");
}
