//! BackendTLSPolicies: validity, conflicts, effect on backends.

use super::*;
use crate::routing::Security;

fn policy(created: u8, target: Value, validation: Value) -> Value {
    let mut target = target;
    (target["group"], target["kind"]) = ("".into(), "Service".into());
    json!({"metadata": {"creationTimestamp": format!("2026-01-0{created}T00:00:00Z")},
        "spec": {"targetRefs": [target], "validation": validation}})
}

fn valid(hostname: &str) -> Value {
    json!({"hostname": hostname, "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "roots"}]})
}

/// What `shop/edge` is told about a policy.
fn told_policy(core: &Core, name: &str) -> Vec<String> {
    let plan = core.policy(&Key::new("shop", name)).unwrap();
    let status = status::policy(None, plan, Timestamp::now());
    assert_eq!(status.ancestors.len(), 1, "one Gateway leads to the Service");
    assert_eq!(status.ancestors[0].ancestor_ref.name, "edge");
    brief(&status.ancestors[0].conditions)
}

/// The server name that backends of `shop/web` are asked for, `clear` or `broken`.
fn spoken(cluster: &Cluster, port: i32) -> String {
    let wire = cluster.backend(&Key::new("shop", "web"), port).wire();
    match &wire.security {
        Security::Plain => "clear".to_owned(),
        Security::Broken => "broken".to_owned(),
        Security::Tls { name, .. } => name.to_str().into_owned(),
    }
}

fn with_routes() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.listen(http());
    cluster.http_route(json!({"rules": [{"backendRefs": [{"name": "web", "port": 80}, {"name": "web", "port": 81}]}]}));
    cluster
}

#[test]
fn policy_says_what_is_wrong_with_it_and_nothing_is_sent_in_clear() {
    let reference = |kind: &str, name: &str| json!({"group": "", "kind": kind, "name": name});
    let with = |references: Value| json!({"hostname": "web.test", "caCertificateRefs": references});
    for (validation, accepted, references, expected) in [
        (valid("web.test"), "Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs", "web.test"),
        (
            with(json!([reference("ConfigMap", "missing")])),
            "Accepted=False NoValidCACertificate",
            "ResolvedRefs=False InvalidCACertificateRef",
            "broken",
        ),
        (
            with(json!([reference("Secret", "cert")])),
            "Accepted=False NoValidCACertificate",
            "ResolvedRefs=False InvalidKind",
            "broken",
        ),
        (
            with(json!([reference("ConfigMap", "roots"), reference("ConfigMap", "missing")])),
            "Accepted=True Accepted",
            "ResolvedRefs=False InvalidCACertificateRef",
            "web.test",
        ),
        (
            json!({"hostname": "web.test", "wellKnownCACertificates": "System"}),
            "Accepted=True Accepted",
            "ResolvedRefs=True ResolvedRefs",
            "web.test",
        ),
        (
            json!({"hostname": "web.test", "wellKnownCACertificates": "Mars"}),
            "Accepted=False Invalid",
            "ResolvedRefs=True ResolvedRefs",
            "broken",
        ),
    ] {
        let mut cluster = with_routes();
        cluster.put("BackendTLSPolicy", "shop", "p", policy(1, json!({"name": "web"}), validation.clone()));
        let core = cluster.compile();
        assert_eq!(told_policy(&core, "p"), [accepted, references], "{validation}");
        assert_eq!(spoken(&cluster, 80), expected, "{validation}");
    }
}

#[test]
fn older_policy_wins_and_one_for_a_port_goes_before_one_for_all() {
    let mut cluster = with_routes();
    let web = || json!({"name": "web"});
    let port = || json!({"name": "web", "sectionName": "h2"});
    cluster.put("BackendTLSPolicy", "shop", "b", policy(1, web(), valid("old.test")));
    cluster.put("BackendTLSPolicy", "shop", "a", policy(2, web(), valid("new.test")));
    cluster.put("BackendTLSPolicy", "shop", "c", policy(3, port(), valid("port.test")));
    let mut core = cluster.compile();
    assert_eq!((spoken(&cluster, 80), spoken(&cluster, 81)), ("old.test".to_owned(), "port.test".to_owned()));
    assert_eq!(told_policy(&core, "b")[0], "Accepted=True Accepted");
    assert_eq!(told_policy(&core, "a")[0], "Accepted=False Conflicted");
    assert_eq!(told_policy(&core, "c")[0], "Accepted=True Accepted");
    cluster.remove("BackendTLSPolicy", "shop", "b");
    let gone = Item::Policy(Key::new("shop", "b"));
    let about = core.dependents(&Dependency::Policies(Key::new("shop", "web")));
    core.apply(about.into_iter().chain([gone]), &cluster);
    assert_eq!((spoken(&cluster, 80), spoken(&cluster, 81)), ("new.test".to_owned(), "port.test".to_owned()));
    assert_eq!(told_policy(&core, "a")[0], "Accepted=True Accepted");
}

#[test]
fn policy_without_a_route_to_its_service_is_told_to_nobody() {
    let mut cluster = with_routes();
    cluster.put("BackendTLSPolicy", "shop", "p", policy(1, json!({"name": "web"}), valid("web.test")));
    let mut core = cluster.compile();
    assert_eq!(told_policy(&core, "p").len(), 2);
    cluster.remove("HTTPRoute", "shop", "route");
    core.apply([Item::Route(RouteKind::Http, Key::new("shop", "route"))], &cluster);
    let foreign = json!({"ancestorRef": {"name": "x"}, "controllerName": "example.com/gateway", "conditions": []});
    let known = serde_json::from_value(json!({"ancestors": [foreign]})).unwrap();
    let plan = core.policy(&Key::new("shop", "p")).unwrap();
    assert_eq!(status::policy(Some(&known), plan, Timestamp::now()), known, "what others wrote stays");
}

#[test]
fn ports_are_spoken_to_as_they_say() {
    let cluster = with_routes();
    cluster.compile();
    let http2 = |port| cluster.backend(&Key::new("shop", "web"), port).wire().http2;
    assert_eq!((http2(80), http2(81)), (false, true));
}
