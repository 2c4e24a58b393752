//! Policies: which counts where, what is said about the others, and what a change of one compiles.

use super::*;
use crate::controller::attachment::PolicyId;

/// A policy that lets nothing pass: what it asks for is not known.
fn closing(created: u8, targets: Value) -> Value {
    policy(created, targets, json!({"oidc": {}}))
}

/// A policy that lets everything pass.
fn opening(created: u8, targets: Value) -> Value {
    policy(created, targets, json!({"cors": {"allowOrigins": ["*"]}}))
}

fn policy(created: u8, targets: Value, more: Value) -> Value {
    let mut spec = more;
    for (name, value) in targets.as_object().unwrap() {
        spec[name] = value.clone();
    }
    json!({"metadata": {"creationTimestamp": format!("2026-01-0{created}T00:00:00Z")}, "spec": spec})
}

fn refs(kind: &str, name: &str, section: Option<&str>) -> Value {
    json!({"targetRefs": [reference(kind, name, section)]})
}

fn reference(kind: &str, name: &str, section: Option<&str>) -> Value {
    let mut reference = json!({"group": "gateway.networking.k8s.io", "kind": kind, "name": name});
    if let Some(section) = section {
        reference["sectionName"] = section.into();
    }
    reference
}

fn id(name: &str) -> PolicyId {
    PolicyId { kind: "SecurityPolicy", key: Key::new("shop", name) }
}

/// The conditions of a policy, ancestor by ancestor.
fn told_of(core: &Core, name: &str) -> Vec<String> {
    let status = core.attached_status(&id(name), Timestamp::now()).unwrap();
    let ancestors = status.ancestors.iter().map(|ancestor| {
        let (reference, conditions) = (&ancestor.ancestor_ref, brief(&ancestor.conditions).join(", "));
        assert_eq!(ancestor.controller_name, CONTROLLER_NAME);
        assert!(ancestor.conditions.iter().all(|condition| condition.observed_generation == Some(1)));
        let section = reference.section_name.as_deref().map(|name| format!("/{name}")).unwrap_or_default();
        format!("{}{section}: {conditions}", reference.name)
    });
    ancestors.collect()
}

fn messages(core: &Core, name: &str) -> Vec<String> {
    let status = core.attached_status(&id(name), Timestamp::now()).unwrap();
    status.ancestors.iter().flat_map(|a| &a.conditions).map(|condition| condition.message.clone()).collect()
}

/// Route `shop/route` with rules `a` and `b` for their paths, and `shop/other` for `/other`, at listener `http` of `edge`.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.listen(
        json!([{"name": "http", "port": 80, "protocol": "HTTP"}, {"name": "more", "port": 81, "protocol": "HTTP"}]),
    );
    let rule = |name: &str| {
        json!({"name": name, "matches": [{"path": {"value": format!("/{name}")}}],
            "backendRefs": [{"name": "web", "port": 80}]})
    };
    cluster.http_route(json!({"rules": [rule("a"), rule("b")]}));
    let other = json!({"metadata": {"labels": {"tier": "back"}}, "spec": {"parentRefs": [{"name": "edge"}], "rules": [rule("other")]}});
    cluster.put("HTTPRoute", "shop", "other", other);
    cluster
}

fn put(cluster: &mut Cluster, name: &str, policy: Value) {
    cluster.put("SecurityPolicy", "shop", name, policy);
}

/// Whether requests to `/a`, `/b`, `/other` and, through the other listener, `/a` pass.
fn passing(core: &Core) -> [bool; 4] {
    [(80, "/a"), (80, "/b"), (80, "/other"), (81, "/a")].map(|(port, path)| {
        match taken(core, port, "h", path).as_str() {
            "shop/web:80" => true,
            "500" => false,
            other => panic!("{other}"),
        }
    })
}

#[test]
fn the_most_specific_policy_counts() {
    let gateway = || refs("Gateway", "edge", None);
    for (what, policies, expected) in [
        ("none", vec![], [true, true, true, true]),
        ("a Gateway's", vec![closing(1, gateway())], [false, false, false, false]),
        ("a listener's", vec![closing(1, refs("Gateway", "edge", Some("more")))], [true, true, true, false]),
        (
            "a listener's over its Gateway's",
            vec![closing(1, gateway()), opening(2, refs("Gateway", "edge", Some("more")))],
            [false, false, false, true],
        ),
        ("a route's", vec![closing(1, refs("HTTPRoute", "route", None))], [false, false, true, false]),
        (
            "a route's over its listener's",
            vec![closing(1, refs("Gateway", "edge", Some("http"))), opening(2, refs("HTTPRoute", "route", None))],
            [true, true, false, true],
        ),
        ("a rule's", vec![closing(1, refs("HTTPRoute", "route", Some("b")))], [true, false, true, true]),
        (
            "a rule's over its route's",
            vec![closing(1, refs("HTTPRoute", "route", None)), opening(2, refs("HTTPRoute", "route", Some("b")))],
            [false, true, true, false],
        ),
        (
            "the older of two",
            vec![opening(2, refs("HTTPRoute", "route", None)), closing(1, refs("HTTPRoute", "route", None))],
            [false, false, true, false],
        ),
        (
            "labels",
            vec![closing(1, json!({"targetSelectors": [{"kind": "HTTPRoute", "matchLabels": {"tier": "back"}}]}))],
            [true, true, false, true],
        ),
    ] {
        let mut cluster = cluster();
        for (number, policy) in policies.iter().enumerate() {
            put(&mut cluster, &format!("p{number}"), policy.clone());
        }
        let core = cluster.compile();
        assert_eq!(passing(&core), expected, "{what}");
    }
}

#[test]
fn policies_are_told_what_became_of_them() {
    let mut cluster = cluster();
    put(&mut cluster, "older", opening(1, refs("HTTPRoute", "route", None)));
    put(&mut cluster, "younger", opening(2, refs("HTTPRoute", "route", None)));
    put(&mut cluster, "rule", opening(3, refs("HTTPRoute", "route", Some("a"))));
    put(&mut cluster, "lost", opening(4, refs("HTTPRoute", "route", Some("z"))));
    put(&mut cluster, "gateway", opening(5, refs("Gateway", "edge", None)));
    put(&mut cluster, "listener", opening(6, refs("Gateway", "edge", Some("more"))));
    put(&mut cluster, "broken", closing(7, refs("HTTPRoute", "other", None)));
    put(&mut cluster, "nowhere", opening(8, refs("HTTPRoute", "missing", None)));
    put(&mut cluster, "udp", opening(9, json!({"targetRef": reference("Gateway", "edge", Some("http"))})));
    let core = cluster.compile();
    let accepted = "Accepted=True Accepted";
    let overridden = "Overridden=True Overridden";
    for (name, expected) in [
        ("older", vec![format!("edge: {accepted}, {overridden}")]),
        ("younger", vec!["edge: Accepted=False Conflicted".to_owned()]),
        ("rule", vec![format!("edge: {accepted}")]),
        ("lost", vec!["edge: Accepted=False TargetNotFound".to_owned()]),
        ("gateway", vec![format!("edge: {accepted}, {overridden}")]),
        ("listener", vec![format!("edge/more: {accepted}, {overridden}")]),
        ("broken", vec!["edge: Accepted=False Invalid".to_owned()]),
        ("nowhere", vec![]),
        ("udp", vec![format!("edge/http: {accepted}, {overridden}, Warning=True DeprecatedField")]),
    ] {
        assert_eq!(told_of(&core, name), expected, "{name}");
    }
    for (name, expected) in [
        ("younger", "Unable to target HTTPRoute route, another SecurityPolicy has already attached to it"),
        ("older", "This policy is being overridden by other securityPolicies for these route rules: [a]"),
        ("lost", "No section name z found for HTTPRoute shop/route"),
        (
            "gateway",
            "This policy is being overridden by other securityPolicies for these listeners: [http more] and these routes: \
             [shop/other shop/route]",
        ),
        (
            "listener",
            "This policy is being overridden by other securityPolicies for these routes: [shop/other shop/route]",
        ),
        ("broken", "spec.oidc is not supported"),
    ] {
        assert!(messages(&core, name).contains(&expected.to_owned()), "{name}: {:?}", messages(&core, name));
    }
}

#[test]
fn a_policy_that_goes_makes_room_for_the_next() {
    let mut cluster = cluster();
    put(&mut cluster, "older", closing(1, refs("HTTPRoute", "route", None)));
    put(&mut cluster, "younger", opening(2, refs("HTTPRoute", "route", None)));
    let mut core = cluster.compile();
    assert_eq!(passing(&core), [false, false, true, false]);
    core.take_told();
    cluster.remove("SecurityPolicy", "shop", "older");
    core.apply([Item::Attached(id("older"))], &cluster);
    assert_eq!(passing(&core), [true, true, true, true]);
    assert_eq!(told_of(&core, "younger"), ["edge: Accepted=True Accepted"]);
    assert!(core.take_told().contains(&Item::Attached(id("younger"))), "it is told anew");
    assert_eq!(core.attached_status(&id("older"), Timestamp::now()), None);
}

#[test]
fn a_gateways_policy_compiles_no_route() {
    let mut cluster = cluster();
    let mut core = cluster.compile();
    core.take_told();
    put(&mut cluster, "gateway", closing(1, refs("Gateway", "edge", None)));
    core.apply([Item::Attached(id("gateway"))], &cluster);
    assert_eq!(passing(&core), [false; 4]);
    let told = core.take_told();
    assert!(told.iter().all(|item| !matches!(item, Item::Route(..))), "{told:?}");
    cluster.remove("SecurityPolicy", "shop", "gateway");
    core.apply([Item::Attached(id("gateway"))], &cluster);
    assert_eq!(passing(&core), [true; 4]);
}

#[test]
fn a_route_that_comes_later_finds_its_policy() {
    let mut cluster = cluster();
    put(&mut cluster, "early", closing(1, json!({"targetRefs": [reference("HTTPRoute", "late", None)]})));
    put(
        &mut cluster,
        "labels",
        opening(2, json!({"targetSelectors": [{"kind": "HTTPRoute", "matchLabels": {"tier": "back"}}]})),
    );
    let mut core = cluster.compile();
    assert_eq!(told_of(&core, "early"), [""; 0]);
    let late = json!({"spec": {"parentRefs": [{"name": "edge"}], "rules": [
        {"matches": [{"path": {"value": "/late"}}], "backendRefs": [{"name": "web", "port": 80}]}]}});
    cluster.put("HTTPRoute", "shop", "late", late);
    core.apply([Item::Route(RouteKind::Http, Key::new("shop", "late"))], &cluster);
    assert_eq!(taken(&core, 80, "h", "/late"), "500");
    assert_eq!(told_of(&core, "early"), ["edge: Accepted=False Invalid"]);
    assert_eq!(told_of(&core, "labels"), ["edge: Accepted=True Accepted"]);
    cluster.remove("HTTPRoute", "shop", "late");
    core.apply([Item::Route(RouteKind::Http, Key::new("shop", "late"))], &cluster);
    assert_eq!(told_of(&core, "early"), [""; 0]);
}

#[test]
fn other_namespaces_have_to_let_a_policy_in() {
    let mut cluster = cluster();
    let selector = json!({"kind": "HTTPRoute", "matchLabels": {"tier": "back"}, "namespaces": {"from": "All"}});
    cluster.put("SecurityPolicy", "other", "p", closing(1, json!({"targetSelectors": [selector]})));
    let mut core = cluster.compile();
    assert_eq!(passing(&core), [true; 4]);
    let grant = json!({"spec": {
        "from": [{"group": "gateway.envoyproxy.io", "kind": "SecurityPolicy", "namespace": "other"}],
        "to": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}]}});
    cluster.put("ReferenceGrant", "shop", "g", grant);
    let about = core.dependents(&Dependency::Grants("shop".to_owned()));
    assert_eq!(about, [Item::Route(RouteKind::Http, Key::new("shop", "other"))]);
    core.apply(about, &cluster);
    assert_eq!(passing(&core), [true, true, false, true]);
}

#[test]
fn a_merging_policy_keeps_what_its_parent_says() {
    let mut cluster = cluster();
    let mut merging = opening(2, refs("HTTPRoute", "route", None));
    merging["spec"]["mergeType"] = "JSONMerge".into();
    put(&mut cluster, "route", merging);
    put(&mut cluster, "gateway", closing(1, refs("Gateway", "edge", Some("more"))));
    let mut core = cluster.compile();
    assert_eq!(passing(&core), [true, true, true, false], "only one of the listeners has a policy to keep");
    assert_eq!(told_of(&core, "route"), ["edge: Accepted=True Accepted, Merged=True Merged"]);
    assert!(messages(&core, "route").contains(&"Merged with policy shop/gateway".to_owned()));
    cluster.remove("SecurityPolicy", "shop", "gateway");
    core.apply([Item::Attached(id("gateway"))], &cluster);
    assert_eq!(passing(&core), [true; 4]);
    assert_eq!(told_of(&core, "route"), ["edge: Accepted=True Accepted"]);
}
