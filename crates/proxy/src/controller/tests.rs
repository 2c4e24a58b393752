//! What the specification says about attaching, references, conflicts and status, as tables.

use std::net::IpAddr;

use http::{HeaderMap, Method};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::routing::{Decision, RequestHead, RouteTable};

mod live;

/// A cluster with Services `web` and `api` (port 80) in `shop` and `other`, and one certificate in `shop/cert`.
struct Cluster;

impl Lookup for Cluster {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        let known = ["shop", "other"].contains(&namespace) && ["web", "api"].contains(&name);
        let service = json!({"metadata": {"name": name, "namespace": namespace},
            "spec": {"ports": [{"name": "http", "port": 80}, {"name": "h2", "port": 81, "appProtocol": "kubernetes.io/h2c"}]}});
        known.then(|| Arc::new(of(service)))
    }

    fn certificate(&self, namespace: &str, name: &str) -> Result<Certificate, String> {
        if (namespace, name) != ("shop", "cert") {
            return Err("not found".to_owned());
        }
        let made = rcgen::generate_simple_self_signed(["shop.test".to_owned()]).unwrap();
        Ok(certificate(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap())
    }

    fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("name".to_owned(), name.to_owned())])
    }

    fn backend(&self, namespace: &str, service: &str, port: i32) -> Arc<Backend> {
        Backend::new(format!("{namespace}/{service}:{port}"))
    }
}

fn of<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

fn class(name: &str, controller: &str) -> Arc<GatewayClass> {
    Arc::new(of(json!({"metadata": {"name": name}, "spec": {"controllerName": controller}})))
}

/// Gateway `shop/edge`.
fn gateway(listeners: Value) -> Arc<Gateway> {
    Arc::new(of(json!({"metadata": {"name": "edge", "namespace": "shop", "generation": 3},
        "spec": {"gatewayClassName": "keelson", "listeners": listeners}})))
}

fn route(namespace: &str, spec: Value) -> Arc<HTTPRoute> {
    Arc::new(of(json!({"metadata": {"name": "route", "namespace": namespace, "generation": 2}, "spec": spec})))
}

/// A route of `shop` to `shop/edge` with this backend and these fields besides.
fn to_backend(backend: Value, more: Value) -> Arc<HTTPRoute> {
    let mut spec = json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [backend]}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    route("shop", spec)
}

fn http() -> Value {
    json!([{"name": "http", "port": 80, "protocol": "HTTP"}])
}

fn world(listeners: Value, routes: Vec<Arc<HTTPRoute>>) -> World {
    let classes = vec![class("keelson", "keelson.dev/gateway"), class("foreign", "example.com/gateway")];
    World { classes, gateways: vec![gateway(listeners)], routes, ..World::default() }
}

/// Name of the backend that takes the request, or the status.
fn taken(table: &RouteTable, port: u16, host: &str, path: &str) -> String {
    let (headers, method) = (HeaderMap::new(), Method::GET);
    let head = RequestHead { host, method: &method, path, query: None, headers: &headers };
    match table.route(port, &head, 0) {
        Decision::Forward { backend, .. } => backend.name().to_owned(),
        Decision::Redirect { location, .. } => location,
        Decision::Fail(status) => status.as_u16().to_string(),
    }
}

/// `Accepted` and `ResolvedRefs` of the first parent of the first route, as reasons.
fn reasons(plan: &Plan) -> [&'static str; 2] {
    let verdicts = &plan.routes[0].parents[0].verdicts;
    for verdict in verdicts {
        assert_eq!(verdict.holds, ["Accepted", "ResolvedRefs"].contains(&verdict.reason), "{verdict:?}");
    }
    [verdicts[0].reason, verdicts[1].reason]
}

#[test]
fn route_says_why_it_is_not_attached() {
    let web = || json!({"name": "web", "port": 80});
    let parent = |parent: Value| json!({"parentRefs": [parent]});
    let regex = json!({"rules": [{"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}]});
    let mirror = json!({"rules": [{"filters": [{"type": "RequestMirror"}]}]});
    for (more, namespace, accepted) in [
        (json!({}), "shop", "Accepted"),
        (json!({"hostnames": ["a.example.com"]}), "shop", "Accepted"),
        (json!({"hostnames": ["example.org"]}), "shop", "NoMatchingListenerHostname"),
        (parent(json!({"name": "edge", "sectionName": "http"})), "shop", "Accepted"),
        (parent(json!({"name": "edge", "sectionName": "other"})), "shop", "NoMatchingParent"),
        (parent(json!({"name": "edge", "port": 81})), "shop", "NoMatchingParent"),
        (parent(json!({"name": "edge", "namespace": "shop"})), "other", "NotAllowedByListeners"),
        (regex, "shop", "UnsupportedValue"),
        (mirror, "shop", "UnsupportedValue"),
    ] {
        let mut route = HTTPRoute::clone(&to_backend(web(), more.clone()));
        route.metadata.namespace = Some(namespace.to_owned());
        let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP", "hostname": "*.example.com"}]);
        let plan = compile(world(listeners, vec![Arc::new(route)]), &Cluster);
        assert_eq!(reasons(&plan)[0], accepted, "{more}");
        assert_eq!(plan.gateways[0].listeners[0].attached, i32::from(accepted == "Accepted"), "{more}");
    }
}

#[test]
fn listener_admits_namespaces_as_it_says() {
    for (from, admitted) in [
        (json!({"from": "All"}), true),
        (json!({"from": "Same"}), false),
        (json!({"from": "Selector", "selector": {"matchLabels": {"name": "other"}}}), true),
        (json!({"from": "Selector", "selector": {"matchLabels": {"name": "shop"}}}), false),
        (
            json!({"from": "Selector", "selector": {"matchExpressions": [
            {"key": "name", "operator": "In", "values": ["other", "third"]}]}}),
            true,
        ),
    ] {
        let listeners =
            json!([{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": from}}]);
        let spec = json!({"parentRefs": [{"name": "edge", "namespace": "shop"}],
            "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
        let plan = compile(world(listeners, vec![route("other", spec)]), &Cluster);
        assert_eq!(reasons(&plan)[0] == "Accepted", admitted, "{from}");
        let expected = if admitted { "other/web:80" } else { "404" };
        assert_eq!(taken(&plan.table, 80, "h", "/"), expected);
    }
}

#[test]
fn reference_that_leads_nowhere_is_named_and_answered_with_500() {
    let grant = |to: Value| -> Arc<ReferenceGrant> {
        Arc::new(of(json!({"metadata": {"name": "g", "namespace": "other"}, "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}], "to": [to]}})))
    };
    let foreign = || json!({"name": "web", "namespace": "other", "port": 80});
    for (backend, grants, reason) in [
        (json!({"name": "web", "port": 80}), vec![], "ResolvedRefs"),
        (json!({"name": "missing", "port": 80}), vec![], "BackendNotFound"),
        (json!({"name": "web", "port": 99}), vec![], "BackendNotFound"),
        (json!({"name": "web", "port": 81}), vec![], "UnsupportedProtocol"),
        (json!({"name": "web", "kind": "Pod", "port": 80}), vec![], "InvalidKind"),
        (foreign(), vec![], "RefNotPermitted"),
        (foreign(), vec![grant(json!({"group": "", "kind": "Secret"}))], "RefNotPermitted"),
        (foreign(), vec![grant(json!({"group": "", "kind": "Service", "name": "api"}))], "RefNotPermitted"),
        (foreign(), vec![grant(json!({"group": "", "kind": "Service", "name": "web"}))], "ResolvedRefs"),
        (foreign(), vec![grant(json!({"group": "", "kind": "Service"}))], "ResolvedRefs"),
    ] {
        let world = World { grants, ..world(http(), vec![to_backend(backend.clone(), json!({}))]) };
        let plan = compile(world, &Cluster);
        assert_eq!(reasons(&plan), ["Accepted", reason], "{backend}");
        let answered = taken(&plan.table, 80, "h", "/");
        assert_eq!(answered == "500", reason != "ResolvedRefs", "{backend}: {answered}");
    }
}

#[test]
fn listeners_say_what_is_wrong_with_them() {
    let listener = |name: &str, port: u16, protocol: &str, more: Value| {
        let mut listener = json!({"name": name, "port": port, "protocol": protocol});
        for (key, value) in more.as_object().unwrap() {
            listener[key] = value.clone();
        }
        listener
    };
    let tls = |reference: Value| json!({"tls": {"certificateRefs": [reference]}});
    let listeners = json!([
        listener("plain", 80, "HTTP", json!({})),
        listener("named", 80, "HTTP", json!({"hostname": "a.test"})),
        listener("twice", 82, "HTTP", json!({})),
        listener("again", 82, "HTTP", json!({"hostname": ""})),
        listener("once", 82, "HTTP", json!({"hostname": "a.test"})),
        listener("clear", 83, "HTTP", json!({"hostname": "a.test"})),
        listener("mixed", 83, "HTTPS", tls(json!({"name": "cert"}))),
        listener("secure", 443, "HTTPS", tls(json!({"name": "cert"}))),
        listener("lost", 8443, "HTTPS", tls(json!({"name": "missing"}))),
        listener("bare", 8443, "HTTPS", json!({"hostname": "b.test"})),
        listener("abroad", 8443, "HTTPS", tls(json!({"name": "cert", "namespace": "other"}))),
        listener("raw", 9000, "TCP", json!({})),
        listener("kinds", 81, "HTTP", json!({"allowedRoutes": {"kinds": [{"kind": "TCPRoute"}]}})),
    ]);
    let plan = compile(world(listeners, vec![]), &Cluster);
    let found: Vec<_> = plan.gateways[0]
        .listeners
        .iter()
        .map(|l| {
            let reason = |r: &Result<(), verdict::Fault>| r.as_ref().err().map_or("", |f| f.reason);
            (l.listener.name.as_str(), reason(&l.accepted), reason(&l.distinct), reason(&l.references), l.served)
        })
        .collect();
    assert_eq!(
        found,
        [
            ("plain", "", "", "", true),
            ("named", "", "", "", true),
            ("twice", "", "HostnameConflict", "", false),
            ("again", "", "HostnameConflict", "", false),
            ("once", "", "", "", true),
            ("clear", "", "ProtocolConflict", "", false),
            ("mixed", "", "ProtocolConflict", "", false),
            ("secure", "", "", "", true),
            ("lost", "", "HostnameConflict", "InvalidCertificateRef", false),
            ("bare", "", "", "InvalidCertificateRef", false),
            ("abroad", "", "HostnameConflict", "RefNotPermitted", false),
            ("raw", "UnsupportedProtocol", "", "", false),
            ("kinds", "", "", "InvalidRouteKinds", true),
        ]
    );
    assert_eq!(plan.table.ports().collect::<Vec<_>>(), [(80, false), (81, false), (82, false), (443, true)]);
    assert!(plan.table.certificate(443, "any.test").is_some());
}

#[test]
fn gateways_and_routes_of_others_are_left_alone() {
    let mut foreign = Gateway::clone(&gateway(http()));
    foreign.spec.gateway_class_name = "foreign".to_owned();
    let mut world = world(http(), vec![to_backend(json!({"name": "web", "port": 80}), json!({}))]);
    world.gateways = vec![Arc::new(foreign)];
    let plan = compile(world, &Cluster);
    assert_eq!((plan.gateways.len(), plan.routes[0].parents.len(), plan.table.ports().count()), (0, 0, 0));
    assert_eq!(plan.classes.len(), 1);
}

#[test]
fn ingress_shares_the_table() {
    let class = |name: &str, controller: &str, default: bool| -> Arc<IngressClass> {
        let annotation = json!({"ingressclass.kubernetes.io/is-default-class": default.to_string()});
        Arc::new(of(json!({"metadata": {"name": name, "annotations": annotation}, "spec": {"controller": controller}})))
    };
    let backend = |name: &str, port: Value| json!({"service": {"name": name, "port": port}});
    let ingress = |name: &str, spec: Value| -> Arc<Ingress> {
        Arc::new(of(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec})))
    };
    let paths = json!({"paths": [
        {"path": "/api", "pathType": "Prefix", "backend": backend("api", json!({"number": 80}))},
        {"path": "/api", "pathType": "Exact", "backend": backend("web", json!({"name": "http"}))},
        {"path": "/gone", "pathType": "Prefix", "backend": backend("gone", json!({"number": 80}))},
    ]});
    let main = ingress(
        "main",
        json!({
            "rules": [{"host": "shop.test", "http": paths}, {"host": "*.shop.test", "http": paths}],
            "defaultBackend": backend("web", json!({"number": 80})),
            "tls": [{"hosts": ["shop.test"], "secretName": "cert"}],
        }),
    );
    let other =
        ingress("other", json!({"ingressClassName": "nginx", "defaultBackend": backend("api", json!({"number": 80}))}));
    let world = World {
        ingresses: vec![main, other],
        ingress_classes: vec![class("keelson", "keelson.dev/ingress", true), class("nginx", "k8s.io/nginx", false)],
        ..World::default()
    };
    let plan = compile(world, &Cluster);
    assert_eq!(plan.ingresses.len(), 1);
    for (port, host, path, expected) in [
        (80, "shop.test", "/api", "shop/web:80"),
        (80, "shop.test", "/api/x", "shop/api:80"),
        (80, "a.shop.test", "/api/x", "shop/api:80"),
        (80, "b.a.shop.test", "/api/x", "shop/web:80"),
        (80, "shop.test", "/other", "shop/web:80"),
        (80, "shop.test", "/gone", "shop/gone:80"),
        (80, "unknown.test", "/", "shop/web:80"),
        (443, "shop.test", "/api/x", "shop/api:80"),
        (443, "a.shop.test", "/api/x", "404"),
    ] {
        assert_eq!(taken(&plan.table, port, host, path), expected, "{port} {host}{path}");
    }
    assert!(plan.table.certificate(443, "shop.test").is_some() && plan.table.certificate(443, "a.shop.test").is_none());
}

fn bound(results: &[(&str, u16, bool)]) -> Bindings {
    let entry = |(ip, port, open): &(&str, u16, bool)| {
        let ip: IpAddr = ip.parse().unwrap();
        let result = if *open { Ok((ip, *port).into()) } else { Err("Address already in use".into()) };
        ((ip, *port), result)
    };
    results.iter().map(entry).collect()
}

/// Type, status and reason of each condition.
fn brief(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]) -> Vec<String> {
    conditions.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect()
}

#[test]
fn port_taken_on_one_address_is_told_and_on_all_is_fatal_for_the_listener() {
    let plan = compile(world(http(), vec![]), &Cluster);
    let now = Timestamp::now();
    let (fine, warnings) = status::gateway(&plan.gateways[0], &bound(&[("127.0.0.1", 80, true)]), now);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(brief(&fine.conditions), ["Accepted=True Accepted", "Programmed=True Programmed"]);
    assert_eq!(fine.addresses[0].value, "127.0.0.1");
    let some = bound(&[("127.0.0.1", 80, false), ("10.160.0.1", 80, true)]);
    let (partly, warnings) = status::gateway(&plan.gateways[0], &some, now);
    assert_eq!(warnings, ["listener http: cannot listen on 127.0.0.1:80: Address already in use"]);
    assert_eq!(partly.addresses.iter().map(|a| a.value.as_str()).collect::<Vec<_>>(), ["10.160.0.1"]);
    assert_eq!(brief(&partly.listeners[0].conditions)[..2], ["Accepted=True Accepted", "Programmed=True Programmed"]);
    assert!(partly.listeners[0].conditions[1].message.contains("127.0.0.1:80: Address already in use"));
    let (none, _) = status::gateway(&plan.gateways[0], &bound(&[("127.0.0.1", 80, false)]), now);
    assert_eq!(
        brief(&none.listeners[0].conditions)[..2],
        ["Accepted=False PortUnavailable", "Programmed=False Invalid"]
    );
    assert_eq!(brief(&none.conditions)[1], "Programmed=False Invalid");
}

#[test]
fn status_settles_and_keeps_what_others_wrote() {
    let first: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let later: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
    let open = bound(&[("127.0.0.1", 80, true)]);
    let mut route = HTTPRoute::clone(&to_backend(json!({"name": "web", "port": 80}), json!({})));
    let foreign = json!({"parentRef": {"name": "edge"}, "controllerName": "example.com/gateway", "conditions": []});
    let ours = json!({"parentRef": {"name": "gone"}, "controllerName": "keelson.dev/gateway", "conditions": []});
    route.status = Some(of(json!({"parents": [foreign, ours]})));
    let plan = compile(world(http(), vec![Arc::new(route.clone())]), &Cluster);
    let written = status::route(&plan.routes[0], first);
    let names: Vec<_> =
        written.parents.iter().map(|p| (p.parent_ref.name.as_str(), p.controller_name.as_str())).collect();
    assert_eq!(names, [("edge", "example.com/gateway"), ("edge", "keelson.dev/gateway")]);
    let (gateway_status, _) = status::gateway(&plan.gateways[0], &open, first);
    // The same verdicts a day later are no change.
    route.status = Some(written.clone());
    let mut again = world(http(), vec![Arc::new(route)]);
    let mut gateway = Gateway::clone(&again.gateways[0]);
    gateway.status = Some(gateway_status.clone());
    again.gateways = vec![Arc::new(gateway)];
    let plan = compile(again, &Cluster);
    assert_eq!(status::route(&plan.routes[0], later), written);
    assert_eq!(status::gateway(&plan.gateways[0], &open, later).0, gateway_status);
    assert_eq!(gateway_status.listeners[0].attached_routes, 1);
}
