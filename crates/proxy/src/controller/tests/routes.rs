//! Routes: attaching, references, hostnames, rules.

use super::*;

#[test]
fn route_says_why_it_is_not_attached() {
    let parent = |parent: Value| json!({"parentRefs": [parent]});
    let rule = |rule: Value| json!({"rules": [rule]});
    let regex = rule(json!({"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}));
    let extension = rule(json!({"filters": [{"type": "ExtensionRef"}]}));
    let both = rule(json!({"filters": [{"type": "RequestRedirect"}, {"type": "URLRewrite"}]}));
    for (more, namespace, accepted) in [
        (json!({}), "shop", "Accepted"),
        (json!({"hostnames": ["a.example.com"]}), "shop", "Accepted"),
        (json!({"hostnames": ["example.org"]}), "shop", "NoMatchingListenerHostname"),
        (parent(json!({"name": "edge", "sectionName": "http"})), "shop", "Accepted"),
        (parent(json!({"name": "edge", "sectionName": "other"})), "shop", "NoMatchingParent"),
        (parent(json!({"name": "edge", "port": 80})), "shop", "Accepted"),
        (parent(json!({"name": "edge", "port": 81})), "shop", "NoMatchingParent"),
        (parent(json!({"name": "edge", "namespace": "shop"})), "other", "NotAllowedByListeners"),
        (regex, "shop", "UnsupportedValue"),
        (extension, "shop", "Accepted"),
        (both, "shop", "IncompatibleFilters"),
    ] {
        let mut cluster = Cluster::new();
        cluster.listen(json!([{"name": "http", "port": 80, "protocol": "HTTP", "hostname": "*.example.com"}]));
        cluster.http_route(more.clone());
        if namespace != "shop" {
            let route = cluster.objects.remove(&("HTTPRoute".to_owned(), Key::new("shop", "route"))).unwrap();
            cluster.put("HTTPRoute", namespace, "route", route);
        }
        let core = cluster.compile();
        let plan = core.route(RouteKind::Http, &Key::new(namespace, "route")).unwrap();
        assert_eq!(plan.parents[0].verdicts[0].reason, accepted, "{more}");
        assert_eq!(attached(&core, "http"), usize::from(accepted == "Accepted"), "{more}");
    }
}

#[test]
fn the_more_specific_hostname_of_its_own_goes_before_the_older_route() {
    for (listener, older, newer) in [
        ("abc.example.com", json!(["*.example.com"]), json!(["abc.example.com"])),
        ("*.example.com", json!(["*.com"]), json!(["*.example.com"])),
        ("abc.example.com", json!([]), json!(["*.com"])),
    ] {
        for (kind, protocol, port) in [("HTTPRoute", "HTTP", 80), ("TLSRoute", "TLS", 443)] {
            let mut cluster = Cluster::new();
            let tls = (kind == "TLSRoute").then(|| json!({"mode": "Passthrough"}));
            cluster
                .listen(json!([{"name": "l", "port": port, "protocol": protocol, "hostname": listener, "tls": tls}]));
            for (name, created, hosts, backend) in [("older", 1, &older, "web"), ("newer", 2, &newer, "api")] {
                let spec = json!({"parentRefs": [{"name": "edge"}], "hostnames": hosts,
                    "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]});
                let created = format!("2026-01-01T00:00:0{created}Z");
                cluster.put(kind, "shop", name, json!({"metadata": {"creationTimestamp": created}, "spec": spec}));
            }
            let core = cluster.compile();
            let (taken, attached) = match kind {
                "HTTPRoute" => (taken(&core, port, "abc.example.com", "/"), attached(&core, "l")),
                _ => (carried(&core, shared(port), "abc.example.com").unwrap(), attached(&core, "l")),
            };
            assert_eq!((taken.as_str(), attached), ("shop/api:80", 2), "{kind}: {older} and {newer} at {listener}");
        }
    }
}

#[test]
fn listener_admits_namespaces_as_it_says() {
    let labels = |name: &str| json!({"from": "Selector", "selector": {"matchLabels": {"name": name}}});
    let one_of = json!({"matchExpressions": [{"key": "name", "operator": "In", "values": ["other", "third"]}]});
    for (from, admitted) in [
        (json!({"from": "All"}), true),
        (json!({"from": "Same"}), false),
        (labels("other"), true),
        (labels("shop"), false),
        (json!({"from": "Selector", "selector": one_of}), true),
    ] {
        let mut cluster = Cluster::new();
        let allowed = json!({"namespaces": from});
        cluster.listen(json!([{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": allowed}]));
        let rules = json!([{"backendRefs": [{"name": "web", "port": 80}]}]);
        let parents = json!([{"name": "edge", "namespace": "shop"}]);
        cluster.put("HTTPRoute", "other", "route", json!({"spec": {"parentRefs": parents, "rules": rules}}));
        let mut core = cluster.compile();
        let expected = if admitted { "other/web:80" } else { "404" };
        assert_eq!(taken(&core, 80, "h", "/"), expected, "{from}");
        // Labels change.
        cluster.put("Namespace", "", "other", json!({"metadata": {"labels": {"name": "shop"}}}));
        core.apply(core.dependents(&Dependency::Namespace("other".to_owned())), &cluster);
        let by_label = from["selector"]["matchLabels"]["name"] == "shop";
        assert_eq!(taken(&core, 80, "h", "/") != "404", from["from"] == "All" || by_label, "{from}");
    }
}

#[test]
fn reference_that_leads_nowhere_is_named_and_answered_with_500() {
    let foreign = || json!({"name": "web", "namespace": "other", "port": 80});
    for (backend, grant, reason) in [
        (json!({"name": "web", "port": 80}), None, "ResolvedRefs"),
        (json!({"name": "web", "port": 81}), None, "ResolvedRefs"),
        (json!({"name": "missing", "port": 80}), None, "BackendNotFound"),
        (json!({"name": "web", "port": 99}), None, "BackendNotFound"),
        (json!({"name": "web", "port": 53}), None, "BackendNotFound"),
        (json!({"name": "web", "kind": "Pod", "port": 80}), None, "InvalidKind"),
        (foreign(), None, "RefNotPermitted"),
        (foreign(), Some(json!({"group": "", "kind": "Secret"})), "RefNotPermitted"),
        (foreign(), Some(json!({"group": "", "kind": "Service", "name": "api"})), "RefNotPermitted"),
        (foreign(), Some(json!({"group": "", "kind": "Service", "name": "web"})), "ResolvedRefs"),
        (foreign(), Some(json!({"group": "", "kind": "Service"})), "ResolvedRefs"),
    ] {
        let mut cluster = Cluster::new();
        cluster.listen(http());
        cluster.http_route(json!({"rules": [{"backendRefs": [backend.clone()]}]}));
        let mut core = cluster.compile();
        if let Some(to) = grant {
            assert_eq!(reasons(&core, RouteKind::Http)[1], "RefNotPermitted");
            let from = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}]);
            cluster.put("ReferenceGrant", "other", "g", json!({"spec": {"from": from, "to": [to]}}));
            core.apply(core.dependents(&Dependency::Grants("other".to_owned())), &cluster);
        }
        assert_eq!(reasons(&core, RouteKind::Http), ["Accepted", reason], "{backend}");
        let answered = taken(&core, 80, "h", "/");
        assert_eq!(answered == "500", reason != "ResolvedRefs", "{backend}: {answered}");
    }
}

#[test]
fn a_service_that_comes_and_goes_takes_its_routes_with_it() {
    let mut cluster = Cluster::new();
    cluster.listen(http());
    cluster.http_route(json!({"rules": [{"backendRefs": [{"name": "late", "port": 80}]}]}));
    let mut core = cluster.compile();
    assert_eq!(taken(&core, 80, "h", "/"), "500");
    cluster.put("Service", "shop", "late", json!({"spec": {"ports": [{"port": 80}]}}));
    let changed = Dependency::Service(Key::new("shop", "late"));
    core.apply(core.dependents(&changed), &cluster);
    assert_eq!(
        (taken(&core, 80, "h", "/"), reasons(&core, RouteKind::Http)[1]),
        ("shop/late:80".into(), "ResolvedRefs")
    );
    cluster.remove("Service", "shop", "late");
    core.apply(core.dependents(&changed), &cluster);
    assert_eq!((taken(&core, 80, "h", "/"), reasons(&core, RouteKind::Http)[1]), ("500".into(), "BackendNotFound"));
}

#[test]
fn invalid_rule_is_answered_with_an_error_and_the_others_are_served() {
    let mut cluster = Cluster::new();
    cluster.listen(http());
    let prefix = |path: &str| json!([{"path": {"type": "PathPrefix", "value": path}}]);
    let header = json!({"set": [{"name": "no name", "value": "x"}]});
    let bad = json!({"matches": prefix("/bad"),
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": header}],
        "backendRefs": [{"name": "web", "port": 80}]});
    cluster.http_route(
        json!({"rules": [bad, {"matches": prefix("/good"), "backendRefs": [{"name": "web", "port": 80}]}]}),
    );
    let core = cluster.compile();
    assert_eq!((taken(&core, 80, "h", "/bad"), taken(&core, 80, "h", "/good")), ("500".into(), "shop/web:80".into()));
    let plan = core.route(RouteKind::Http, &Key::new("shop", "route")).unwrap();
    let verdicts: Vec<_> = plan.parents[0].verdicts.iter().map(|v| (v.type_, v.holds, v.reason)).collect();
    let partially = ("PartiallyInvalid", true, "UnsupportedValue");
    assert_eq!(verdicts, [("Accepted", true, "Accepted"), ("ResolvedRefs", true, "ResolvedRefs"), partially]);
}

#[test]
fn routes_of_several_gateways_have_a_status_for_each() {
    let mut cluster = Cluster::new();
    cluster.listen(
        json!([{"name": "a", "port": 80, "protocol": "HTTP"}, {"name": "b", "port": 8080, "protocol": "HTTP"}]),
    );
    let second = json!({"gatewayClassName": "keelson", "listeners": [{"name": "c", "port": 8081, "protocol": "HTTP"}]});
    cluster.put("Gateway", "shop", "second", json!({"spec": second}));
    let foreign = json!({"gatewayClassName": "foreign", "listeners": http()});
    cluster.put("Gateway", "shop", "theirs", json!({"spec": foreign}));
    let parents =
        json!([{"name": "edge", "sectionName": "b"}, {"name": "second"}, {"name": "theirs"}, {"name": "none"}]);
    cluster.http_route(json!({"parentRefs": parents}));
    let core = cluster.compile();
    assert_eq!(reasons(&core, RouteKind::Http), ["Accepted", "ResolvedRefs", "Accepted", "ResolvedRefs"]);
    let answers = [80, 8080, 8081].map(|port| taken(&core, port, "h", "/"));
    assert_eq!(answers, ["404", "shop/web:80", "shop/web:80"]);
}

#[test]
fn calls_are_routed_by_service_and_method_over_http_2() {
    let mut cluster = Cluster::new();
    cluster.listen(http());
    let rules = json!([
        {"matches": [{"method": {"service": "shop.Cart", "method": "Add"}}], "backendRefs": [{"name": "web", "port": 80}]},
        {"matches": [{"method": {"service": "shop.Cart"}}], "backendRefs": [{"name": "api", "port": 80}]},
        {"matches": [{"method": {"service": "shop.Chat"}}], "backendRefs": [{"name": "api", "port": 82}]},
    ]);
    let spec = json!({"parentRefs": [{"name": "edge"}], "rules": rules});
    cluster.put("GRPCRoute", "shop", "route", json!({"spec": spec}));
    let core = cluster.compile();
    assert_eq!(reasons(&core, RouteKind::Grpc), ["Accepted", "UnsupportedProtocol"]);
    for (path, expected) in [
        ("/shop.Cart/Add", "shop/web:80"),
        ("/shop.Cart/List", "shop/api:80"),
        ("/shop.Chat/Say", "500"),
        ("/shop.Other/Get", "404"),
    ] {
        assert_eq!(taken(&core, 80, "h", path), expected, "{path}");
    }
    assert_eq!(attached(&core, "http"), 1);
}

#[test]
fn kinds_that_a_listener_does_not_list_may_not_attach() {
    let mut cluster = Cluster::new();
    let kinds = json!({"kinds": [{"kind": "GRPCRoute"}]});
    cluster.listen(json!([{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": kinds}]));
    cluster.http_route(json!({}));
    let core = cluster.compile();
    assert_eq!(reasons(&core, RouteKind::Http), ["NotAllowedByListeners", "ResolvedRefs"]);
    assert_eq!((attached(&core, "http"), taken(&core, 80, "h", "/")), (0, "404".to_owned()));
}

#[test]
fn status_settles_and_keeps_what_others_wrote() {
    let first: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let later: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
    let mut cluster = Cluster::new();
    cluster.listen(http());
    cluster.http_route(json!({}));
    let core = cluster.compile();
    let plan = core.route(RouteKind::Http, &Key::new("shop", "route")).unwrap();
    let foreign = json!({"parentRef": {"name": "edge"}, "controllerName": "example.com/gateway", "conditions": []});
    let ours = json!({"parentRef": {"name": "gone"}, "controllerName": CONTROLLER_NAME, "conditions": []});
    let known = serde_json::from_value(json!({"parents": [foreign, ours]})).unwrap();
    let written = status::route(Some(&known), plan, first);
    let names: Vec<_> =
        written.parents.iter().map(|p| (p.parent_ref.name.as_str(), p.controller_name.as_str())).collect();
    assert_eq!(names, [("edge", "example.com/gateway"), ("edge", CONTROLLER_NAME)]);
    assert_eq!(status::route(Some(&written), plan, later), written, "the same verdicts a day later are no change");
}

#[test]
fn hostname_belongs_to_the_kind_of_the_older_route() {
    let mut cluster = Cluster::new();
    cluster.listen(http());
    let route = |created: u8, host: &str, backend: &str| {
        let rules = json!([{"backendRefs": [{"name": backend, "port": 80}]}]);
        json!({"metadata": {"creationTimestamp": format!("2026-01-0{created}T00:00:00Z")},
            "spec": {"parentRefs": [{"name": "edge", "sectionName": "http"}], "hostnames": [host], "rules": rules}})
    };
    cluster.put("HTTPRoute", "shop", "old", route(1, "*.test", "web"));
    cluster.put("GRPCRoute", "shop", "middle", route(2, "a.test", "api"));
    cluster.put("HTTPRoute", "shop", "young", route(3, "a.test", "web"));
    cluster.put("GRPCRoute", "shop", "apart", route(4, "b.org", "api"));
    let mut core = cluster.compile();
    let accepted = |core: &Core, kind: RouteKind, name: &str| {
        core.route(kind, &Key::new("shop", name)).unwrap().parents[0].verdicts[0].reason
    };
    let all = |core: &Core| {
        [(RouteKind::Http, "young"), (RouteKind::Grpc, "middle"), (RouteKind::Grpc, "apart")]
            .map(|(kind, name)| accepted(core, kind, name) == "Accepted")
    };
    assert_eq!(all(&core), [true, false, true]);
    assert_eq!((taken(&core, 80, "a.test", "/x"), attached(&core, "http")), ("shop/web:80".into(), 3));
    // The oldest goes: the next in age has the hostname, and the youngest has lost it.
    cluster.remove("HTTPRoute", "shop", "old");
    core.apply([Item::Route(RouteKind::Http, Key::new("shop", "old"))], &cluster);
    assert_eq!(all(&core), [false, true, true]);
    assert_eq!((taken(&core, 80, "a.test", "/x"), attached(&core, "http")), ("shop/api:80".into(), 2));
    cluster.put("HTTPRoute", "shop", "old", route(1, "*.test", "web"));
    core.apply([Item::Route(RouteKind::Http, Key::new("shop", "old"))], &cluster);
    assert_eq!(all(&core), [true, false, true]);
}
