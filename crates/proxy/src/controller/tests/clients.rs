//! ClientTrafficPolicies: what they change at listeners, and what they leave alone.

use super::*;
use crate::{
    controller::attachment::PolicyId,
    routing::{Client, Mode},
};

fn id(name: &str) -> PolicyId {
    PolicyId { kind: "ClientTrafficPolicy", key: Key::new("shop", name) }
}

fn policy(section: Option<&str>, more: Value) -> Value {
    let mut spec = more;
    spec["targetRefs"] = json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}]);
    if let Some(section) = section {
        spec["targetRefs"][0]["sectionName"] = section.into();
    }
    json!({"spec": spec})
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.listen(json!([
        {"name": "http", "port": 80, "protocol": "HTTP", "hostname": "a.test"},
        {"name": "more", "port": 80, "protocol": "HTTP", "hostname": "b.test"},
        {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "cert"}]}},
    ]));
    cluster.http_route(json!({}));
    cluster
}

fn client(core: &Core, port: u16, host: &str) -> Option<Arc<Client>> {
    core.table().port(shared(port))?.listener(host)?.config.client.clone()
}

fn told_of(core: &Core, name: &str) -> Vec<String> {
    let status = core.attached_status(&id(name), Timestamp::now()).unwrap();
    status.ancestors.iter().flat_map(|ancestor| brief(&ancestor.conditions)).collect()
}

#[test]
fn a_policy_changes_its_listeners_and_compiles_no_route() {
    let mut cluster = cluster();
    let mut core = cluster.compile();
    assert!(client(&core, 80, "a.test").is_none() && core.table().port(shared(80)).unwrap().client().is_none());
    core.take_told();
    cluster.put("ClientTrafficPolicy", "shop", "all", policy(None, json!({"healthCheck": {"path": "/up"}})));
    let own = policy(Some("more"), json!({"http1": {"http10": {"useDefaultHost": true}}}));
    cluster.put("ClientTrafficPolicy", "shop", "own", own);
    core.apply([Item::Attached(id("all")), Item::Attached(id("own"))], &cluster);
    let told = core.take_told();
    assert!(!told.iter().any(|item| matches!(item, Item::Route(..))), "{told:?}");
    assert_eq!(client(&core, 80, "a.test").unwrap().health.as_deref(), Some("/up"));
    assert_eq!(client(&core, 443, "any").unwrap().health.as_deref(), Some("/up"));
    let more = client(&core, 80, "b.test").unwrap();
    assert_eq!((more.health.as_deref(), more.http1.default_host.as_ref().unwrap().as_bytes()), (None, &b"b.test"[..]));
    assert_eq!(taken(&core, 80, "a.test", "/"), "shop/web:80");
    assert_eq!(told_of(&core, "all"), ["Accepted=True Accepted", "Overridden=True Overridden"]);
    cluster.remove("ClientTrafficPolicy", "shop", "all");
    core.apply([Item::Attached(id("all"))], &cluster);
    assert!(client(&core, 80, "a.test").is_none() && client(&core, 443, "any").is_none());
}

#[test]
fn who_cannot_be_verified_as_asked_is_not_served_in_tls() {
    let validation = |kind: &str, name: &str| json!({"tls": {"clientValidation": {"caCertificateRefs": [{"kind": kind, "name": name}]}}});
    let served = |core: &Core| {
        let table = core.table();
        let listener = table.port(shared(443)).unwrap().listener("any").unwrap();
        matches!(listener.config.mode, Mode::Http(Some(_)))
    };
    let mut cluster = cluster();
    for (policy_of, accepted) in [
        (validation("ConfigMap", "roots"), true),
        (validation("Secret", "none"), false),
        (json!({"tls": {"clientValidation": {"mode": "RequireAndVerify"}}}), false),
        (json!({"tls": {"clientValidation": {"mode": "RequireAny", "crl": {}}}}), false),
        (json!({"tls": {"clientValidation": {"mode": "RequireAny"}, "minVersion": "1.3"}}), true),
        (json!({"tls": {"ciphers": ["RC4"]}}), false),
        (json!({"tls": {"ciphers": ["RC4", "ECDHE-RSA-AES128-GCM-SHA256"], "ecdhCurves": ["P-256"]}}), true),
    ] {
        cluster.put("ClientTrafficPolicy", "shop", "all", policy(None, policy_of.clone()));
        let core = cluster.compile();
        assert_eq!(served(&core), accepted, "{policy_of}");
        let expected = if accepted { "Accepted=True Accepted" } else { "Accepted=False Invalid" };
        assert_eq!(told_of(&core, "all")[0], expected, "{policy_of}");
        assert_eq!(taken(&core, 80, "a.test", "/"), "shop/web:80", "what is not TLS goes on");
    }
}

#[test]
fn a_policy_about_a_route_is_told_that_it_cannot_be() {
    let mut cluster = cluster();
    let spec = json!({"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "route"}]});
    cluster.put("ClientTrafficPolicy", "shop", "route", json!({"spec": spec}));
    assert_eq!(told_of(&cluster.compile(), "route"), ["Accepted=False Invalid"]);
}
