//! TLSRoutes, TCPRoutes and UDPRoutes.

use super::*;

fn route(hostnames: Value, backends: Value) -> Value {
    let mut spec = json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": backends}]});
    if !hostnames.is_null() {
        spec["hostnames"] = hostnames;
    }
    json!({"spec": spec})
}

#[test]
fn tls_is_passed_through_or_ended_by_server_name() {
    let mut cluster = Cluster::new();
    cluster.listen(json!([
        {"name": "pass", "port": 443, "protocol": "TLS", "hostname": "*.pass.test", "tls": {"mode": "Passthrough"}},
        {"name": "end", "port": 443, "protocol": "TLS", "hostname": "end.test",
            "tls": {"mode": "Terminate", "certificateRefs": [{"name": "cert"}]}},
        {"name": "http", "port": 80, "protocol": "HTTP"},
    ]));
    let backends = json!([{"name": "web", "port": 80}]);
    cluster.put("TLSRoute", "shop", "route", route(json!(["a.pass.test", "end.test"]), backends));
    let mut core = cluster.compile();
    assert_eq!(reasons(&core, RouteKind::Tls), ["Accepted", "ResolvedRefs"]);
    for (name, expected) in [("a.pass.test", true), ("b.pass.test", false), ("end.test", true), ("x.test", false)] {
        assert_eq!(carried(&core, shared(443), name), expected.then(|| "shop/web:80".to_owned()), "{name}");
    }
    assert_eq!(["pass", "end", "http"].map(|name| attached(&core, name)), [1, 1, 0]);
    cluster.remove("TLSRoute", "shop", "route");
    core.apply([Item::Route(RouteKind::Tls, Key::new("shop", "route"))], &cluster);
    assert_eq!((carried(&core, shared(443), "end.test"), attached(&core, "end")), (None, 0));
}

#[test]
fn a_tls_route_needs_a_tls_listener() {
    for (listener, reason) in [
        (json!({"name": "l", "port": 80, "protocol": "HTTP"}), "NotAllowedByListeners"),
        (
            json!({"name": "l", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "cert"}]}}),
            "NotAllowedByListeners",
        ),
        (
            json!({"name": "l", "port": 443, "protocol": "TLS", "hostname": "b.test", "tls": {"mode": "Passthrough"}}),
            "NoMatchingListenerHostname",
        ),
        (json!({"name": "l", "port": 443, "protocol": "TLS", "tls": {"mode": "Passthrough"}}), "Accepted"),
    ] {
        let mut cluster = Cluster::new();
        cluster.listen(json!([listener.clone()]));
        cluster.put("TLSRoute", "shop", "route", route(json!(["a.test"]), json!([{"name": "web", "port": 80}])));
        let core = cluster.compile();
        assert_eq!(reasons(&core, RouteKind::Tls)[0], reason, "{listener}");
    }
}

#[test]
fn references_of_stream_routes_follow_the_same_rules() {
    for (backend, reason) in [
        (json!({"name": "web", "port": 80}), "ResolvedRefs"),
        (json!({"name": "missing", "port": 80}), "BackendNotFound"),
        (json!({"name": "web", "port": 80, "kind": "Pod"}), "InvalidKind"),
        (json!({"name": "web", "port": 80, "namespace": "other"}), "RefNotPermitted"),
        (json!({"name": "web", "port": 53}), "BackendNotFound"),
    ] {
        let mut cluster = Cluster::new();
        cluster.listen(json!([{"name": "raw", "port": 9000, "protocol": "TCP"}]));
        cluster.put("TCPRoute", "shop", "route", route(Value::Null, json!([backend.clone()])));
        let core = cluster.compile();
        assert_eq!(reasons(&core, RouteKind::Tcp), ["Accepted", reason], "{backend}");
        let carried = carried(&core, shared(9000), "");
        assert_eq!(carried.is_some(), reason == "ResolvedRefs", "{backend}");
    }
}

#[test]
fn the_oldest_of_several_routes_has_the_port_and_the_next_follows_it() {
    let mut cluster = Cluster::new();
    cluster.listen(json!([{"name": "raw", "port": 9000, "protocol": "TCP"}]));
    let made = |created: &str, backend: &str| {
        let mut route = route(Value::Null, json!([{"name": backend, "port": 80}]));
        route["metadata"]["creationTimestamp"] = created.into();
        route
    };
    cluster.put("TCPRoute", "shop", "a", made("2026-01-02T00:00:00Z", "api"));
    cluster.put("TCPRoute", "shop", "b", made("2026-01-01T00:00:00Z", "web"));
    let mut core = cluster.compile();
    assert_eq!((carried(&core, shared(9000), "").as_deref(), attached(&core, "raw")), (Some("shop/web:80"), 2));
    cluster.remove("TCPRoute", "shop", "b");
    core.apply([Item::Route(RouteKind::Tcp, Key::new("shop", "b"))], &cluster);
    assert_eq!(carried(&core, shared(9000), "").as_deref(), Some("shop/api:80"));
}

#[test]
fn datagrams_have_ports_of_their_own() {
    let mut cluster = Cluster::new();
    cluster.listen(json!([
        {"name": "dns", "port": 5300, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 5300, "protocol": "TCP"},
    ]));
    cluster.put("UDPRoute", "shop", "route", route(Value::Null, json!([{"name": "web", "port": 53}])));
    let core = cluster.compile();
    assert_eq!(reasons(&core, RouteKind::Udp), ["Accepted", "ResolvedRefs"]);
    let udp = Site { transport: Transport::Udp, ..shared(5300) };
    assert_eq!(carried(&core, udp, "").as_deref(), Some("shop/web:53"));
    assert_eq!((attached(&core, "dns"), attached(&core, "dns-tcp")), (1, 0));
}
