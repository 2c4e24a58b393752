//! Gateways and their listeners: conflicts, certificates, ListenerSets, addresses, status.

use super::*;

fn listener(name: &str, port: u16, protocol: &str, more: Value) -> Value {
    let mut listener = json!({"name": name, "port": port, "protocol": protocol});
    for (key, value) in more.as_object().unwrap() {
        listener[key] = value.clone();
    }
    listener
}

fn tls(reference: Value) -> Value {
    json!({"tls": {"certificateRefs": [reference]}})
}

fn at(host: &str, mut more: Value) -> Value {
    more["hostname"] = host.into();
    more
}

#[test]
fn listeners_say_what_is_wrong_with_them() {
    let cert = || tls(json!({"name": "cert"}));
    let pass = || json!({"tls": {"mode": "Passthrough"}});
    let mut cluster = Cluster::new();
    cluster.put("Secret", "shop", "empty", json!({}));
    cluster.listen(json!([
        listener("plain", 80, "HTTP", json!({})),
        listener("named", 80, "HTTP", json!({"hostname": "a.test"})),
        listener("twice", 82, "HTTP", json!({})),
        listener("again", 82, "HTTP", json!({"hostname": ""})),
        listener("once", 82, "HTTP", json!({"hostname": "a.test"})),
        listener("clear", 83, "HTTP", json!({"hostname": "a.test"})),
        listener("mixed", 83, "HTTPS", cert()),
        listener("secure", 443, "HTTPS", at("a.test", cert())),
        listener("through", 443, "TLS", at("b.test", pass())),
        listener("https", 444, "HTTPS", cert()),
        listener("pass", 444, "TLS", pass()),
        listener("lost", 8443, "HTTPS", at("a.test", tls(json!({"name": "missing"})))),
        listener("bare", 8443, "HTTPS", at("b.test", json!({}))),
        listener("abroad", 8443, "HTTPS", at("c.test", tls(json!({"name": "cert", "namespace": "other"})))),
        listener("empty", 8443, "HTTPS", at("d.test", tls(json!({"name": "empty"})))),
        listener("kind", 8443, "HTTPS", at("e.test", tls(json!({"name": "cert", "kind": "ConfigMap"})))),
        listener("raw", 9000, "TCP", json!({})),
        listener("datagrams", 9000, "UDP", json!({})),
        listener("odd", 9001, "example.com/odd", json!({})),
        listener("kinds", 81, "HTTP", json!({"allowedRoutes": {"kinds": [{"kind": "TCPRoute"}]}})),
    ]));
    let core = cluster.compile();
    for (name, accepted, conflicted, references, programmed) in [
        ("plain", "Accepted", "NoConflicts", "ResolvedRefs", "Programmed"),
        ("named", "Accepted", "NoConflicts", "ResolvedRefs", "Programmed"),
        ("twice", "Invalid", "HostnameConflict", "ResolvedRefs", "Invalid"),
        ("again", "Invalid", "HostnameConflict", "ResolvedRefs", "Invalid"),
        ("once", "Accepted", "NoConflicts", "ResolvedRefs", "Programmed"),
        ("clear", "Invalid", "ProtocolConflict", "ResolvedRefs", "Invalid"),
        ("mixed", "Invalid", "ProtocolConflict", "ResolvedRefs", "Invalid"),
        ("secure", "Accepted", "NoConflicts", "ResolvedRefs", "Programmed"),
        ("through", "Accepted", "NoConflicts", "ResolvedRefs", "Programmed"),
        ("https", "Invalid", "ProtocolConflict", "ResolvedRefs", "Invalid"),
        ("pass", "Invalid", "ProtocolConflict", "ResolvedRefs", "Invalid"),
        ("lost", "Accepted", "NoConflicts", "InvalidCertificateRef", "Invalid"),
        ("bare", "Accepted", "NoConflicts", "InvalidCertificateRef", "Invalid"),
        ("abroad", "Accepted", "NoConflicts", "RefNotPermitted", "Invalid"),
        ("empty", "Accepted", "NoConflicts", "InvalidCertificateRef", "Invalid"),
        ("kind", "Accepted", "NoConflicts", "InvalidCertificateRef", "Invalid"),
        ("raw", "Accepted", "NoConflicts", "ResolvedRefs", "Programmed"),
        ("datagrams", "Accepted", "NoConflicts", "ResolvedRefs", "Programmed"),
        ("odd", "UnsupportedProtocol", "NoConflicts", "ResolvedRefs", "Invalid"),
        ("kinds", "Accepted", "NoConflicts", "InvalidRouteKinds", "Programmed"),
    ] {
        let truth = |holds: bool| if holds { "True" } else { "False" };
        let expected = vec![
            format!("Accepted={} {accepted}", truth(accepted == "Accepted")),
            format!("Programmed={} {programmed}", truth(programmed == "Programmed")),
            format!("Conflicted={} {conflicted}", truth(conflicted != "NoConflicts")),
            format!("ResolvedRefs={} {references}", truth(references == "ResolvedRefs")),
        ];
        assert_eq!(brief_listener(&core, name), expected, "{name}");
    }
    let told = told(&core, &open(&core), Timestamp::now());
    assert_eq!(brief(&told.status.conditions)[0], "Accepted=True ListenersNotValid");
    let kinds = |name: &str| {
        let listener = told.status.listeners.iter().find(|listener| listener.name == name).unwrap();
        listener.supported_kinds.iter().map(|kind| kind.kind.clone()).collect::<Vec<_>>()
    };
    assert_eq!(kinds("secure"), ["HTTPRoute", "GRPCRoute"]);
    assert_eq!((kinds("through"), kinds("raw")), (vec!["TLSRoute".to_owned()], vec!["TCPRoute".to_owned()]));
    assert_eq!((kinds("datagrams"), kinds("odd").len(), kinds("kinds").len()), (vec!["UDPRoute".to_owned()], 0, 0));
}

#[test]
fn a_gateway_without_a_valid_listener_is_not_accepted() {
    let mut cluster = Cluster::new();
    cluster.listen(json!([listener("odd", 9001, "example.com/odd", json!({}))]));
    let core = cluster.compile();
    let told = told(&core, &open(&core), Timestamp::now());
    assert_eq!(brief(&told.status.conditions), ["Accepted=False ListenersNotValid", "Programmed=False Invalid"]);
}

#[test]
fn hostnames_in_common_are_told_where_tls_ends() {
    let cert = |host: &str| at(host, tls(json!({"name": "cert"})));
    let mut cluster = Cluster::new();
    cluster.listen(json!([
        listener("foo", 443, "HTTPS", cert("foo.a.test")),
        listener("wildcard", 443, "HTTPS", cert("*.a.test")),
        listener("apart", 443, "HTTPS", cert("b.test")),
        listener("elsewhere", 8443, "HTTPS", cert("foo.a.test")),
    ]));
    let core = cluster.compile();
    let overlapping =
        |name: &str| brief_listener(&core, name).contains(&"OverlappingTLSConfig=True OverlappingHostnames".to_owned());
    assert_eq!(["foo", "wildcard", "apart", "elsewhere"].map(overlapping), [true, true, false, false]);
}

#[test]
fn a_secret_in_another_namespace_needs_a_grant() {
    let mut cluster = Cluster::new();
    cluster.put("Secret", "other", "cert", json!({}));
    let reference = json!({"name": "cert", "namespace": "other"});
    cluster.listen(json!([listener("https", 443, "HTTPS", tls(reference))]));
    let mut core = cluster.compile();
    assert_eq!(brief_listener(&core, "https")[3], "ResolvedRefs=False RefNotPermitted");
    for (kind, namespace, name, expected) in [
        ("HTTPRoute", "shop", None, "ResolvedRefs=False RefNotPermitted"),
        ("Gateway", "other", None, "ResolvedRefs=False RefNotPermitted"),
        ("Gateway", "shop", Some("else"), "ResolvedRefs=False RefNotPermitted"),
        ("Gateway", "shop", Some("cert"), "ResolvedRefs=True ResolvedRefs"),
        ("Gateway", "shop", None, "ResolvedRefs=True ResolvedRefs"),
    ] {
        let from = json!([{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": namespace}]);
        let mut to = json!({"group": "", "kind": "Secret"});
        if let Some(name) = name {
            to["name"] = name.into();
        }
        cluster.put("ReferenceGrant", "other", "g", json!({"spec": {"from": from, "to": [to]}}));
        core.apply(core.dependents(&Dependency::Grants("other".to_owned())), &cluster);
        assert_eq!(brief_listener(&core, "https")[3], expected, "{kind} of {namespace} to {name:?}");
    }
}

#[test]
fn clients_are_asked_for_certificates_by_port() {
    let cert = || tls(json!({"name": "cert"}));
    let reference = |name: &str| json!({"group": "", "kind": "ConfigMap", "name": name});
    let validation = |name: &str| json!({"validation": {"caCertificateRefs": [reference(name)]}});
    for (frontend, accepted, references) in [
        (json!({"default": validation("roots")}), "Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"),
        (
            json!({"default": validation("missing")}),
            "Accepted=False NoValidCACertificate",
            "ResolvedRefs=False InvalidCACertificateRef",
        ),
        (
            json!({"default": {"validation": {"caCertificateRefs": [{"group": "", "kind": "Pod", "name": "x"}]}}}),
            "Accepted=False NoValidCACertificate",
            "ResolvedRefs=False InvalidCACertificateKind",
        ),
        (
            json!({"default": {"validation": {"caCertificateRefs": [reference("roots"), reference("missing")]}}}),
            "Accepted=True Accepted",
            "ResolvedRefs=False InvalidCACertificateRef",
        ),
        (
            json!({"default": validation("missing"), "perPort": [{"port": 443, "tls": validation("roots")}]}),
            "Accepted=True Accepted",
            "ResolvedRefs=True ResolvedRefs",
        ),
    ] {
        let mut cluster = Cluster::new();
        let listeners = json!([listener("http", 80, "HTTP", json!({})), listener("https", 443, "HTTPS", cert())]);
        let spec = json!({"gatewayClassName": "keelson", "listeners": listeners, "tls": {"frontend": frontend}});
        cluster.put("Gateway", "shop", "edge", json!({"spec": spec}));
        let core = cluster.compile();
        let https = brief_listener(&core, "https");
        assert_eq!((https[0].as_str(), https[3].as_str()), (accepted, references), "{frontend}");
        assert_eq!(brief_listener(&core, "http")[1], "Programmed=True Programmed", "clear HTTP is not concerned");
    }
}

#[test]
fn serving_clients_without_a_valid_certificate_is_told() {
    let mut cluster = Cluster::new();
    let reference = json!({"group": "", "kind": "ConfigMap", "name": "roots"});
    let validation = json!({"caCertificateRefs": [reference], "mode": "AllowInsecureFallback"});
    let listeners = json!([listener("https", 443, "HTTPS", tls(json!({"name": "cert"})))]);
    let tls = json!({"frontend": {"default": {"validation": validation}}});
    let spec = json!({"gatewayClassName": "keelson", "listeners": listeners, "tls": tls});
    cluster.put("Gateway", "shop", "edge", json!({"spec": spec}));
    let core = cluster.compile();
    let told = told(&core, &open(&core), Timestamp::now());
    assert_eq!(brief(&told.status.conditions)[2], "InsecureFrontendValidationMode=True ConfigurationChanged");
}

#[test]
fn certificate_towards_backends_is_resolved_for_the_whole_gateway() {
    for (reference, expected) in [
        (json!({"name": "cert"}), "ResolvedRefs=True ResolvedRefs"),
        (json!({"name": "missing"}), "ResolvedRefs=False InvalidClientCertificateRef"),
        (json!({"name": "cert", "kind": "Pod"}), "ResolvedRefs=False InvalidClientCertificateRef"),
        (json!({"name": "cert", "namespace": "other"}), "ResolvedRefs=False RefNotPermitted"),
    ] {
        let mut cluster = Cluster::new();
        let tls = json!({"backend": {"clientCertificateRef": reference}});
        let spec = json!({"gatewayClassName": "keelson", "listeners": http(), "tls": tls});
        cluster.put("Gateway", "shop", "edge", json!({"spec": spec}));
        let core = cluster.compile();
        let told = told(&core, &open(&core), Timestamp::now());
        assert_eq!(brief(&told.status.conditions)[2], expected, "{reference}");
    }
}

#[test]
fn parameters_that_are_not_known_are_refused() {
    let mut cluster = Cluster::new();
    let parameters = json!({"group": "example.com", "kind": "Config", "name": "x"});
    let infrastructure = json!({"parametersRef": parameters.clone()});
    let spec = json!({"gatewayClassName": "keelson", "listeners": http(), "infrastructure": infrastructure});
    cluster.put("Gateway", "shop", "edge", json!({"spec": spec}));
    let class = json!({"spec": {"controllerName": CONTROLLER_NAME, "parametersRef": parameters}});
    cluster.put("GatewayClass", "", "odd", class);
    let core = cluster.compile();
    let told = told(&core, &open(&core), Timestamp::now());
    assert_eq!(brief(&told.status.conditions), ["Accepted=False InvalidParameters", "Programmed=False Invalid"]);
    assert_eq!(core.class("odd").unwrap().reason, "InvalidParameters");
    assert!(core.class("keelson").unwrap().holds && core.class("foreign").is_none());
}

#[test]
fn gateways_of_others_are_left_alone_until_their_class_is_ours() {
    let mut cluster = Cluster::new();
    cluster.put("Gateway", "shop", "edge", json!({"spec": {"gatewayClassName": "late", "listeners": http()}}));
    cluster.http_route(json!({}));
    let mut core = cluster.compile();
    assert!(core.gateway(&edge()).is_none() && core.table().sites().count() == 0);
    assert_eq!(reasons(&core, RouteKind::Http).len(), 0);
    cluster.put("GatewayClass", "", "late", json!({"spec": {"controllerName": CONTROLLER_NAME}}));
    core.apply([Item::Class("late".to_owned())], &cluster);
    core.apply(core.dependents(&Dependency::Class("late".to_owned())), &cluster);
    core.apply([Item::Gateway(edge())], &cluster);
    assert_eq!(taken(&core, 80, "h", "/"), "shop/web:80");
    cluster.remove("Gateway", "shop", "edge");
    core.apply([Item::Gateway(edge())], &cluster);
    assert_eq!((taken(&core, 80, "h", "/"), reasons(&core, RouteKind::Http).len()), ("closed".to_owned(), 0));
}

#[test]
fn gateways_share_ports_by_hostname_and_have_addresses_of_their_own() {
    let mut cluster = Cluster::new();
    let spec = |listeners: Value| json!({"spec": {"gatewayClassName": "keelson", "listeners": listeners}});
    let mut old = spec(json!([listener("http", 80, "HTTP", json!({}))]));
    old["metadata"] = json!({"creationTimestamp": "2026-01-01T00:00:00Z"});
    cluster.put("Gateway", "shop", "old", old);
    let listeners =
        json!([listener("http", 80, "HTTP", json!({"hostname": "new.test"})), listener("raw", 8080, "TCP", json!({}))]);
    let mut new = spec(listeners);
    new["metadata"] = json!({"creationTimestamp": "2026-01-02T00:00:00Z"});
    cluster.put("Gateway", "shop", "new", new);
    let route = |to: &str, backend: &str| json!({"spec": {"parentRefs": [{"name": to}], "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]}});
    cluster.put("HTTPRoute", "shop", "old", route("old", "web"));
    cluster.put("HTTPRoute", "shop", "new", route("new", "api"));
    let pool = Pool { network: [10, 0, 9, 0].into(), prefix: 28 };
    let mut core = Core::new(Addresses::new(vec![LOCAL], Some(pool)));
    core.apply(cluster.items(), &cluster);
    assert_eq!(taken(&core, 80, "any.test", "/"), "shop/web:80");
    assert_eq!(taken(&core, 80, "new.test", "/"), "shop/api:80");
    let own = |core: &Core, name: &str| {
        let plan = core.gateway(&Key::new("shop", name)).unwrap();
        Site { place: plan.located.places[0], ..shared(80) }
    };
    let (old_site, new_site) = (own(&core, "old"), own(&core, "new"));
    assert_ne!(old_site, new_site);
    assert_eq!(taken_at(&core, old_site, "new.test", "/"), "shop/web:80", "a Gateway's own address knows no other");
    assert_eq!(taken_at(&core, new_site, "any.test", "/"), "404");
    // The older one takes the port of the younger one at the shared addresses, not at its own.
    let more = json!([listener("http", 80, "HTTP", json!({})), listener("also", 8080, "HTTP", json!({}))]);
    let mut old = spec(more);
    old["metadata"] = json!({"creationTimestamp": "2026-01-01T00:00:00Z"});
    cluster.put("Gateway", "shop", "old", old);
    core.apply([Item::Gateway(Key::new("shop", "old"))], &cluster);
    assert_eq!(taken(&core, 8080, "h", "/"), "shop/web:80");
    let served = core.served(&Key::new("shop", "new"), &listeners::Source::Gateway, "raw");
    assert_eq!(served, [Site { port: 8080, ..new_site }]);
}

#[test]
fn port_taken_on_one_address_is_told_and_on_all_is_fatal_for_the_listener() {
    let bound = |results: &[(&str, bool)]| -> Bindings {
        let entry = |(ip, open): &(&str, bool)| {
            let ip: IpAddr = ip.parse().unwrap();
            let result = if *open { Ok((ip, 80).into()) } else { Err("Address already in use".into()) };
            ((ip, 80, Transport::Tcp), result)
        };
        results.iter().map(entry).collect()
    };
    let mut cluster = Cluster::new();
    cluster.listen(http());
    let core = cluster.compile();
    let bridge: IpAddr = "10.160.0.1".parse().unwrap();
    let told = |results: &[(&str, bool)]| {
        let (bindings, now) = (bound(results), Timestamp::now());
        let scene = status::Scene { core: &core, shared: &[LOCAL, bridge], bindings: &bindings, now };
        status::gateway(scene, &edge(), &Default::default(), &|_| ListenerSetStatus::default())
    };
    let fine = told(&[("127.0.0.1", true), ("10.160.0.1", true)]).unwrap();
    assert_eq!(fine.warnings, Vec::<String>::new());
    assert_eq!(brief(&fine.status.conditions), ["Accepted=True Accepted", "Programmed=True Programmed"]);
    assert_eq!(fine.status.addresses[0].value, "127.0.0.1");
    let partly = told(&[("127.0.0.1", false), ("10.160.0.1", true)]).unwrap();
    assert_eq!(partly.warnings, ["listener http: cannot listen on 127.0.0.1:80: Address already in use"]);
    assert_eq!(partly.status.addresses.iter().map(|a| a.value.as_str()).collect::<Vec<_>>(), ["10.160.0.1"]);
    assert!(partly.status.listeners[0].conditions[1].message.contains("127.0.0.1:80: Address already in use"));
    let none = told(&[("127.0.0.1", false), ("10.160.0.1", false)]).unwrap();
    assert_eq!(
        brief(&none.status.listeners[0].conditions)[..2],
        ["Accepted=False PortUnavailable", "Programmed=False Invalid"]
    );
    assert!(told(&[("127.0.0.1", true)]).is_none(), "nothing is told before every port was tried");
}

fn set(name: &str, created: u8, listeners: Value) -> Value {
    let created = format!("2026-01-0{created}T00:00:00Z");
    json!({"metadata": {"creationTimestamp": created, "name": name},
        "spec": {"parentRef": {"name": "edge", "namespace": "shop"}, "listeners": listeners}})
}

fn told_set(core: &Core, name: &str) -> ListenerSetStatus {
    let told = told(core, &open(core), Timestamp::now());
    told.sets.into_iter().find(|(key, _)| key.name == name).unwrap().1
}

#[test]
fn listener_sets_add_listeners_where_the_gateway_lets_them() {
    let none = json!({});
    for (allowed, namespace, attached) in [
        (none, "shop", false),
        (json!({"namespaces": {"from": "None"}}), "shop", false),
        (json!({"namespaces": {"from": "Same"}}), "shop", true),
        (json!({"namespaces": {"from": "Same"}}), "other", false),
        (json!({"namespaces": {"from": "All"}}), "other", true),
        (json!({"namespaces": {"from": "Selector", "selector": {"matchLabels": {"name": "other"}}}}), "other", true),
    ] {
        let mut cluster = Cluster::new();
        let mut spec = json!({"gatewayClassName": "keelson", "listeners": http()});
        if allowed.as_object().is_some_and(|allowed| !allowed.is_empty()) {
            spec["allowedListeners"] = allowed.clone();
        }
        cluster.put("Gateway", "shop", "edge", json!({"spec": spec}));
        let listeners = json!([listener("more", 8080, "HTTP", json!({"hostname": "set.test"}))]);
        cluster.put("ListenerSet", namespace, "set", set("set", 1, listeners));
        let parents = json!([{"kind": "ListenerSet", "name": "set"}]);
        let rules = json!([{"backendRefs": [{"name": "web", "port": 80}]}]);
        cluster.put("HTTPRoute", namespace, "route", json!({"spec": {"parentRefs": parents, "rules": rules}}));
        cluster.http_route(json!({}));
        let core = cluster.compile();
        let status = told_set(&core, "set");
        let expected = if attached {
            ["Accepted=True Accepted", "Programmed=True Programmed"]
        } else {
            ["Accepted=False NotAllowed", "Programmed=False NotAllowed"]
        };
        assert_eq!(brief(&status.conditions), expected, "{allowed} for {namespace}");
        let gateway = told(&core, &open(&core), Timestamp::now()).status;
        assert_eq!(gateway.attached_listener_sets, attached.then_some(1));
        if namespace == "other" {
            let taken = taken(&core, 8080, "set.test", "/");
            assert_eq!(taken, if attached { "other/web:80" } else { "closed" }, "{allowed} for {namespace}");
            assert_eq!(super::attached(&core, "http"), 1, "routes of the Gateway stay with the Gateway's listeners");
        }
    }
}

#[test]
fn older_listeners_win_and_those_in_their_way_are_told() {
    let mut cluster = Cluster::new();
    let allowed = json!({"namespaces": {"from": "Same"}});
    let listeners = json!([listener("own", 80, "HTTP", json!({"hostname": "own.test"}))]);
    let spec = json!({"gatewayClassName": "keelson", "listeners": listeners, "allowedListeners": allowed});
    cluster.put("Gateway", "shop", "edge", json!({"spec": spec}));
    let host = |name: &str, host: &str| listener(name, 80, "HTTP", json!({"hostname": host}));
    cluster.put("ListenerSet", "shop", "b-old", set("b-old", 1, json!([host("x", "own.test"), host("y", "set.test")])));
    cluster.put("ListenerSet", "shop", "a-new", set("a-new", 2, json!([host("y", "set.test")])));
    cluster.put("ListenerSet", "shop", "raw", set("raw", 3, json!([listener("z", 80, "TCP", json!({}))])));
    let core = cluster.compile();
    let told = told(&core, &open(&core), Timestamp::now());
    assert_eq!(brief(&told.status.conditions)[0], "Accepted=True Accepted");
    assert_eq!(told.status.attached_listener_sets, Some(1));
    let old = told_set(&core, "b-old");
    assert_eq!(brief(&old.conditions), ["Accepted=True ListenersNotValid", "Programmed=True Programmed"]);
    let conflict = |status: &ListenerSetStatus, at: usize| brief(&status.listeners[at].conditions)[2].clone();
    assert_eq!(
        (conflict(&old, 0), conflict(&old, 1)),
        ("Conflicted=True HostnameConflict".into(), "Conflicted=False NoConflicts".into())
    );
    let new = told_set(&core, "a-new");
    assert_eq!(brief(&new.conditions), ["Accepted=False ListenersNotValid", "Programmed=False ListenersNotValid"]);
    assert_eq!(conflict(&told_set(&core, "raw"), 0), "Conflicted=True ProtocolConflict");
    assert_eq!(brief(&new.listeners[0].conditions)[0], "Accepted=False Conflicted");
}

#[test]
fn a_gateway_has_a_name_in_the_cluster_with_the_labels_it_asks_for() {
    let mut cluster = Cluster::new();
    let infrastructure = json!({"labels": {"team": "shop"}, "annotations": {"note": "x"}});
    let listeners = json!([
        listener("a", 80, "HTTP", json!({})),
        listener("b", 80, "HTTP", json!({"hostname": "b.test"})),
        listener("c", 80, "UDP", json!({})),
        listener("odd", 81, "example.com/odd", json!({}))
    ]);
    let spec = json!({"gatewayClassName": "keelson", "listeners": listeners, "infrastructure": infrastructure});
    cluster.put("Gateway", "shop", "edge", json!({"metadata": {"uid": "u"}, "spec": spec}));
    assert!(infrastructure::made(cluster.compile().gateway(&edge()).unwrap()).is_none(), "no address of its own");
    let pool = Pool { network: [10, 0, 9, 0].into(), prefix: 30 };
    let mut core = Core::new(Addresses::new(vec![LOCAL], Some(pool)));
    core.apply(cluster.items(), &cluster);
    let made = infrastructure::made(core.gateway(&edge()).unwrap()).unwrap();
    assert_eq!(made.name, "edge-keelson");
    let labels = json!({"team": "shop", "gateway.networking.k8s.io/gateway-name": "edge"});
    assert_eq!(
        (&made.service["metadata"]["labels"], &made.service["metadata"]["annotations"]),
        (&labels, &json!({"note": "x"}))
    );
    assert_eq!(made.service["metadata"]["ownerReferences"][0]["uid"], "u");
    let ports =
        json!([{"name": "tcp-80", "port": 80, "protocol": "TCP"}, {"name": "udp-80", "port": 80, "protocol": "UDP"}]);
    assert_eq!((&made.service["spec"]["ports"], &made.slice["ports"]), (&ports, &ports));
    assert!(made.slice["endpoints"][0]["addresses"][0].as_str().unwrap().starts_with("10.0.9."));
}

#[test]
fn a_set_of_a_gateway_that_is_not_accepted_is_not_accepted_either() {
    let mut cluster = Cluster::new();
    let parameters = json!({"group": "example.com", "kind": "Config", "name": "x"});
    let spec = json!({"gatewayClassName": "keelson", "listeners": http(), "infrastructure": {"parametersRef": parameters},
        "allowedListeners": {"namespaces": {"from": "Same"}}});
    cluster.put("Gateway", "shop", "edge", json!({"spec": spec}));
    cluster.put("ListenerSet", "shop", "set", set("set", 1, json!([listener("more", 8080, "HTTP", json!({}))])));
    let core = cluster.compile();
    let expected = ["Accepted=False ParentNotAccepted", "Programmed=False ParentNotProgrammed"];
    assert_eq!(brief(&told_set(&core, "set").conditions), expected);
}

#[test]
fn grants_for_a_gateway_are_none_for_its_sets_and_the_other_way_round() {
    let mut cluster = Cluster::new();
    cluster.put("Secret", "other", "cert", json!({}));
    let abroad = || tls(json!({"name": "cert", "namespace": "other"}));
    let spec = json!({"gatewayClassName": "keelson", "listeners": [listener("own", 443, "HTTPS", at("own.test", abroad()))],
        "allowedListeners": {"namespaces": {"from": "Same"}}});
    cluster.put("Gateway", "shop", "edge", json!({"spec": spec}));
    cluster.put(
        "ListenerSet",
        "shop",
        "set",
        set("set", 1, json!([listener("more", 443, "HTTPS", at("set.test", abroad()))])),
    );
    for (kind, own, sets, accepted) in [
        ("Gateway", "True ResolvedRefs", "False RefNotPermitted", "False ListenersNotValid"),
        ("ListenerSet", "False RefNotPermitted", "True ResolvedRefs", "True Accepted"),
    ] {
        let from = json!([{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": "shop"}]);
        let to = json!([{"group": "", "kind": "Secret"}]);
        cluster.put("ReferenceGrant", "other", "g", json!({"spec": {"from": from, "to": to}}));
        let core = cluster.compile();
        assert_eq!(brief_listener(&core, "own")[3], format!("ResolvedRefs={own}"), "{kind}");
        let set = told_set(&core, "set");
        assert_eq!(brief(&set.listeners[0].conditions)[3], format!("ResolvedRefs={sets}"), "{kind}");
        assert_eq!(brief(&set.conditions)[0], format!("Accepted={accepted}"), "{kind}");
    }
}

#[test]
fn a_hostname_that_changes_attaches_the_routes_it_now_fits() {
    let mut cluster = Cluster::new();
    let allowed = json!({"namespaces": {"from": "Same"}});
    let spec = json!({"gatewayClassName": "keelson", "listeners": http(), "allowedListeners": allowed});
    cluster.put("Gateway", "shop", "edge", json!({"spec": spec}));
    let host = |host: &str| set("set", 1, json!([listener("more", 8080, "HTTP", json!({"hostname": host}))]));
    cluster.put("ListenerSet", "shop", "set", host("old.test"));
    cluster.http_route(json!({"hostnames": ["new.test"], "parentRefs": [{"kind": "ListenerSet", "name": "set"}]}));
    let mut core = cluster.compile();
    assert_eq!(reasons(&core, RouteKind::Http)[0], "NoMatchingListenerHostname");
    cluster.put("ListenerSet", "shop", "set", host("new.test"));
    core.apply(core.dependents(&Dependency::Sets(edge())), &cluster);
    assert_eq!(
        (reasons(&core, RouteKind::Http)[0], taken(&core, 8080, "new.test", "/")),
        ("Accepted", "shop/web:80".into())
    );
    assert_eq!(taken(&core, 8080, "old.test", "/"), "404");
}
