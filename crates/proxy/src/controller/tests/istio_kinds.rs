//! VirtualServices and DestinationRules: where requests of clients in the mesh go, and how endpoints are used.

use super::*;
use crate::routing::{Balance, Destination};

fn virtual_service(cluster: &mut Cluster, namespace: &str, name: &str, spec: Value) {
    cluster.put("VirtualService", namespace, name, json!({"spec": spec}));
}

fn head<'a>(method: &'a Method, path: &'a str, headers: &'a HeaderMap) -> RequestHead<'a> {
    RequestHead { host: "any", method, path, query: None, headers }
}

/// Where a request of a client in a namespace to `shop/web:80` goes; nothing where nobody says anything.
fn sent(core: &Core, client: &str, path: &str, headers: &HeaderMap) -> Option<String> {
    let table = core.table();
    let port_table = table.service(&Destination::new("shop/web", 80, client))?;
    Some(match port_table.route(80, None, &head(&Method::GET, path, headers), 0) {
        Decision::Forward(way) => way.backend.name().to_owned(),
        Decision::NotFound => "404".to_owned(),
        Decision::Fail(status) => status.as_u16().to_string(),
        Decision::Redirect { location, .. } => location,
        other => format!("{other:?}"),
    })
}

fn wrong(core: &Core, namespace: &str, name: &str) -> Vec<String> {
    core.virtual_service(&Key::new(namespace, name)).unwrap().wrong.clone()
}

#[test]
fn the_first_rule_that_matches_counts_however_specific_others_are() {
    let mut cluster = Cluster::new();
    let to = |service: &str| json!([{"destination": {"host": service, "port": {"number": 80}}}]);
    let mut headers = HeaderMap::new();
    headers.insert("x-canary", "yes".parse().unwrap());
    virtual_service(
        &mut cluster,
        "shop",
        "vs",
        json!({"hosts": ["web"], "http": [
            {"match": [{"uri": {"prefix": "/"}, "headers": {"x-canary": {"exact": "yes"}}}], "route": to("api")},
            {"match": [{"uri": {"prefix": "/a"}}], "redirect": {"uri": "/b"}},
            {"match": [{"uri": {"exact": "/a/exact"}}], "route": to("api")},
            {"route": to("web.shop.svc.cluster.local")},
        ]}),
    );
    let core = cluster.compile();
    assert_eq!(wrong(&core, "shop", "vs"), Vec::<String>::new());
    let none = HeaderMap::new();
    assert_eq!(sent(&core, "shop", "/a/exact", &headers).as_deref(), Some("shop/api:80"));
    assert_eq!(sent(&core, "shop", "/a/exact", &none).as_deref(), Some("http://any/b"));
    assert_eq!(sent(&core, "else", "/c", &none).as_deref(), Some("shop/web:80"));
}

#[test]
fn weights_are_those_that_progressive_delivery_writes() {
    let mut cluster = Cluster::new();
    let route = |weights: [i32; 2]| {
        json!({"hosts": ["web"], "gateways": ["mesh", "public"], "http": [{"name": "primary", "route": [
            {"destination": {"host": "web"}, "weight": weights[0]},
            {"destination": {"host": "api"}, "weight": weights[1]},
        ]}]})
    };
    virtual_service(&mut cluster, "shop", "vs", route([100, 0]));
    let mut core = cluster.compile();
    let told = wrong(&core, "shop", "vs");
    assert_eq!(told, ["gateway \"public\" is not followed: use an HTTPRoute, or Gateway API's Gateway"]);
    let shares = |core: &Core| {
        let (table, headers) = (core.table(), HeaderMap::new());
        let port_table = table.service(&Destination::new("shop/web", 80, "shop")).unwrap();
        let mut counts = BTreeMap::new();
        for random in 0..100 {
            let decision = port_table.route(80, None, &head(&Method::GET, "/", &headers), random);
            let Decision::Forward(way) = decision else { panic!("{decision:?}") };
            *counts.entry(way.backend.name().to_owned()).or_insert(0) += 1;
        }
        counts
    };
    assert_eq!(shares(&core), BTreeMap::from([("shop/web:80".to_owned(), 100)]));
    virtual_service(&mut cluster, "shop", "vs", route([95, 5]));
    core.apply([Item::Virtual(Key::new("shop", "vs"))], &cluster);
    assert_eq!(shares(&core), BTreeMap::from([("shop/web:80".to_owned(), 95), ("shop/api:80".to_owned(), 5)]));
    cluster.remove("VirtualService", "shop", "vs");
    core.apply([Item::Virtual(Key::new("shop", "vs"))], &cluster);
    assert_eq!(sent(&core, "shop", "/", &HeaderMap::new()), None, "nothing is left behind");
}

#[test]
fn a_virtual_service_of_another_namespace_is_for_that_namespaces_clients() {
    let mut cluster = Cluster::new();
    let rules = |to: &str| json!([{"route": [{"destination": {"host": to}}]}]);
    virtual_service(&mut cluster, "other", "vs", json!({"hosts": ["web.shop"], "http": rules("api")}));
    let spec = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
        "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
    cluster.put("HTTPRoute", "shop", "route", json!({"spec": spec}));
    let core = cluster.compile();
    let none = HeaderMap::new();
    assert_eq!(sent(&core, "other", "/", &none).as_deref(), Some("other/api:80"));
    assert_eq!(sent(&core, "shop", "/", &none).as_deref(), Some("shop/web:80"));
    assert_eq!(sent(&core, "third", "/", &none).as_deref(), Some("shop/web:80"));
}

#[test]
fn what_leads_nowhere_or_cannot_be_followed_is_told() {
    let mut cluster = Cluster::new();
    virtual_service(
        &mut cluster,
        "shop",
        "vs",
        json!({"hosts": ["web", "www.example.com", "none"], "tcp": [], "http": [
            {"match": [{"uri": {"exact": "/subset"}}], "route": [{"destination": {"host": "api", "subset": "v1"}}]},
            {"match": [{"sourceLabels": {"app": "a"}}], "route": [{"destination": {"host": "api"}}]},
            {"route": [{"destination": {"host": "gone"}}]},
        ]}),
    );
    let core = cluster.compile();
    assert_eq!(
        wrong(&core, "shop", "vs"),
        [
            "host \"none\": Service shop/none not found",
            "host \"www.example.com\" is no Service",
            "http[0].route: no DestinationRule of Service shop/api has a subset \"v1\"",
            "http[1].match: sourceLabels is not followed: it takes no request",
            "http[2].route: Service shop/gone not found",
            "tcp is not followed",
        ]
    );
    let none = HeaderMap::new();
    assert_eq!(sent(&core, "shop", "/subset", &none).as_deref(), Some("500"));
    assert_eq!(sent(&core, "shop", "/", &none).as_deref(), Some("500"), "the rule after the one that takes nothing");
}

#[test]
fn a_destination_rule_says_how_endpoints_are_used_with_and_without_routes() {
    let mut cluster = Cluster::new();
    let rule = |balance: &str| json!({"spec": {"host": "web", "trafficPolicy": {"loadBalancer": {"simple": balance}}}});
    cluster.put("DestinationRule", "shop", "dr", rule("RANDOM"));
    let mut core = cluster.compile();
    let none = HeaderMap::new();
    assert_eq!(sent(&core, "shop", "/", &none).as_deref(), Some("shop/web:80"), "requests are looked at");
    let backend = cluster.backend(&Key::new("shop", "web"), 80);
    let balance = || backend.upstream().map(|upstream| upstream.config.balance.clone());
    assert_eq!(balance(), Some(Balance::Random));
    let before = backend.upstream().unwrap();
    core.apply([Item::Destination(Key::new("shop", "dr"))], &cluster);
    assert!(Arc::ptr_eq(&before, &backend.upstream().unwrap()), "what is known of the endpoints stays");
    cluster.put("DestinationRule", "shop", "dr", rule("ROUND_ROBIN"));
    core.apply([Item::Destination(Key::new("shop", "dr"))], &cluster);
    assert_eq!(balance(), Some(Balance::Turns));
    virtual_service(&mut cluster, "shop", "vs", json!({"hosts": ["web"], "http": [{"redirect": {"uri": "/x"}}]}));
    core.apply([Item::Virtual(Key::new("shop", "vs"))], &cluster);
    assert_eq!(
        sent(&core, "shop", "/", &none).as_deref(),
        Some("http://any/x"),
        "what is said of requests comes first"
    );
    cluster.remove("VirtualService", "shop", "vs");
    cluster.remove("DestinationRule", "shop", "dr");
    core.apply([Item::Virtual(Key::new("shop", "vs")), Item::Destination(Key::new("shop", "dr"))], &cluster);
    assert_eq!((balance(), sent(&core, "shop", "/", &none)), (None, None));
}

#[test]
fn parts_of_a_service_are_those_of_its_destination_rule() {
    let mut cluster = Cluster::new();
    let rule = |labels: Value| {
        let subsets = json!([{"name": "v1", "labels": labels}, {"name": "any"}]);
        json!({"spec": {"host": "api", "subsets": subsets}})
    };
    let to = |subset: &str| json!([{"destination": {"host": "api", "subset": subset, "port": {"number": 80}}}]);
    virtual_service(
        &mut cluster,
        "shop",
        "vs",
        json!({"hosts": ["web"], "http": [
            {"match": [{"uri": {"prefix": "/v1"}}], "route": to("v1")},
            {"match": [{"uri": {"prefix": "/any"}}], "route": to("any")},
            {"route": to("v2")},
        ]}),
    );
    let mut core = cluster.compile();
    let none = HeaderMap::new();
    assert_eq!(sent(&core, "shop", "/v1", &none).as_deref(), Some("500"));
    assert_eq!(wrong(&core, "shop", "vs").len(), 3);
    cluster.put("DestinationRule", "shop", "dr", rule(json!({"version": "v1"})));
    core.apply([Item::Destination(Key::new("shop", "dr"))], &cluster);
    assert_eq!(sent(&core, "shop", "/v1", &none).as_deref(), Some("shop/api:80 subset v1"));
    assert_eq!(sent(&core, "shop", "/any", &none).as_deref(), Some("shop/api:80"));
    assert_eq!(
        wrong(&core, "shop", "vs"),
        ["http[2].route: no DestinationRule of Service shop/api has a subset \"v2\""]
    );
    assert_eq!(core.destination_rule(&Key::new("shop", "dr")).unwrap().wrong, Vec::<String>::new());
}
