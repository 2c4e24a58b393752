use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use kinds::istio::{AuthorizationPolicy, PeerAuthentication};
use reconcile::Key;
use serde_json::{Value, json};

use super::*;
use crate::routing::Rank;

fn judge() -> Arc<Judge> {
    Judge::new(ROOT_NAMESPACE)
}

fn workload(namespace: &str, app: &str) -> Workload {
    let labels = BTreeMap::from([("app".to_owned(), app.to_owned())]);
    Workload { namespace: namespace.to_owned(), labels, services: [app.to_owned()].into() }
}

fn guard(judge: &Judge, namespace: &str, app: &str) -> Arc<Guard> {
    judge.workload(&Key::new(namespace, app), workload(namespace, app))
}

fn authorize(judge: &Judge, namespace: &str, name: &str, spec: &Value) -> Vec<String> {
    let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
    let object: AuthorizationPolicy = serde_json::from_value(object).unwrap();
    judge.authorize(&Key::new(namespace, name), Some(&object))
}

fn authenticate(judge: &Judge, namespace: &str, name: &str, created: i64, spec: &Value) -> Vec<String> {
    let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
    let object: PeerAuthentication = serde_json::from_value(object).unwrap();
    judge.authenticate(&Key::new(namespace, name), Rank { created, ..Rank::default() }, Some(&object))
}

/// A request out of `{"method", "path", "host", "headers", "claims", "peer", "ip", "port", "sni"}`, each with a default.
struct Case {
    method: Method,
    path: String,
    host: String,
    headers: HeaderMap,
    claims: Option<Map<String, Value>>,
    peer: Option<Peer>,
    source: IpAddr,
    port: u16,
    sni: Option<String>,
}

impl Case {
    fn of(case: &Value) -> Self {
        let text = |name: &str, default: &str| case[name].as_str().unwrap_or(default).to_owned();
        let mut headers = HeaderMap::new();
        for (name, value) in case["headers"].as_object().into_iter().flatten() {
            let name = HeaderName::try_from(name.as_str()).unwrap();
            headers.insert(name, HeaderValue::from_str(value.as_str().unwrap()).unwrap());
        }
        let peer = case["peer"].as_str().map(|peer| peer.split_once('/').unwrap());
        Case {
            method: text("method", "GET").parse().unwrap(),
            path: text("path", "/"),
            host: text("host", "web"),
            headers,
            claims: case["claims"].as_object().cloned(),
            peer: peer.map(|(namespace, account)| Peer::new("cluster.local", namespace, account)),
            source: text("ip", "10.0.0.7").parse().unwrap(),
            port: u16::try_from(case["port"].as_u64().unwrap_or(8080)).unwrap(),
            sni: case["sni"].as_str().map(str::to_owned),
        }
    }

    fn connection(&self) -> Connection<'_> {
        Connection {
            peer: self.peer.as_ref(),
            source: self.source,
            destination: SocketAddr::from(([10, 0, 0, 9], self.port)),
            sni: self.sni.as_deref(),
        }
    }

    fn request(&self, guard: &Guard) -> Judgement {
        let host = self.host.split(':').next().unwrap().to_ascii_lowercase();
        let head =
            RequestHead { host: &host, method: &self.method, path: &self.path, query: None, headers: &self.headers };
        let token = self.claims.as_ref().map_or(Token::None, Token::Good);
        guard.request(&self.connection(), &Request { head, authority: &self.host, token })
    }
}

fn allowed(guard: &Guard, case: &Value) -> bool {
    Case::of(case).request(guard).verdict.is_allowed()
}

#[test]
fn the_narrowest_peer_authentication_counts() {
    let (strict, permissive, unset) =
        (json!({"mode": "STRICT"}), json!({"mode": "PERMISSIVE"}), json!({"mode": "UNSET"}));
    let selector = json!({"matchLabels": {"app": "web"}});
    for (mesh, own, pods, expected) in [
        (Value::Null, Value::Null, Value::Null, [Mode::Permissive; 2]),
        (json!({"mtls": strict}), Value::Null, Value::Null, [Mode::Strict; 2]),
        (json!({"mtls": strict}), json!({"mtls": unset}), Value::Null, [Mode::Strict; 2]),
        (json!({"mtls": strict}), json!({"mtls": permissive}), Value::Null, [Mode::Permissive; 2]),
        (json!({"mtls": strict}), json!({"mtls": {"mode": "DISABLE"}}), Value::Null, [Mode::Permissive; 2]),
        (Value::Null, json!({"mtls": strict}), json!({"mtls": permissive}), [Mode::Permissive; 2]),
        (Value::Null, json!({"mtls": strict}), json!({}), [Mode::Strict; 2]),
        (
            Value::Null,
            json!({"mtls": strict}),
            json!({"portLevelMtls": {"8080": permissive, "9090": unset}}),
            [Mode::Permissive, Mode::Strict],
        ),
        (Value::Null, Value::Null, json!({"portLevelMtls": {"9090": strict}}), [Mode::Permissive, Mode::Strict]),
    ] {
        let judge = judge();
        let guards = [guard(&judge, "shop", "web"), guard(&judge, "shop", "other"), guard(&judge, "else", "web")];
        let mut pods = pods;
        if pods.is_object() {
            pods["selector"] = selector.clone();
        }
        for (namespace, spec) in [(ROOT_NAMESPACE, &mesh), ("shop", &own)] {
            if spec.is_object() {
                authenticate(&judge, namespace, "default", 0, spec);
            }
        }
        if pods.is_object() {
            authenticate(&judge, "shop", "web", 0, &pods);
        }
        assert_eq!([guards[0].mode(8080), guards[0].mode(9090)], expected, "{mesh} {own} {pods}");
        let mesh = if mesh.is_object() { Mode::Strict } else { Mode::Permissive };
        assert_eq!(guards[2].mode(8080), mesh, "another namespace");
    }
}

#[test]
fn of_peer_authentications_of_one_scope_the_oldest_counts() {
    let judge = judge();
    let guard = guard(&judge, "shop", "web");
    authenticate(&judge, "shop", "a", 20, &json!({"mtls": {"mode": "STRICT"}}));
    assert_eq!(guard.mode(1), Mode::Strict);
    authenticate(&judge, "shop", "b", 10, &json!({"mtls": {"mode": "PERMISSIVE"}}));
    assert_eq!(guard.mode(1), Mode::Permissive);
    judge.authenticate(&Key::new("shop", "b"), Rank::default(), None);
    assert_eq!(guard.mode(1), Mode::Strict);
    let plain = Case::of(&json!({}));
    assert_eq!(guard.connection(&plain.connection()).verdict, Verdict::Denied(Denial::Unauthenticated));
    assert!(guard.admits(&Case::of(&json!({"peer": "shop/a"})).connection()).is_allowed());
}

#[test]
fn a_selector_does_not_count_in_the_root_namespace() {
    let judge = judge();
    let guard = guard(&judge, ROOT_NAMESPACE, "web");
    let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "STRICT"}});
    assert_eq!(authenticate(&judge, ROOT_NAMESPACE, "a", 0, &spec).len(), 1);
    assert_eq!(guard.mode(1), Mode::Permissive);
}

#[test]
fn deny_comes_before_allow_and_custom_before_both() {
    let everything = json!([{}]);
    for (policies, expected) in [
        (vec![], Verdict::Allowed(None)),
        (vec![("ALLOW", json!([]))], Verdict::Denied(Denial::NoneAllows)),
        (vec![("ALLOW", everything.clone())], Verdict::Allowed(Some("shop/0".into()))),
        (vec![("DENY", json!([]))], Verdict::Allowed(None)),
        (
            vec![("ALLOW", everything.clone()), ("DENY", everything.clone())],
            Verdict::Denied(Denial::By("shop/1".into())),
        ),
        (
            vec![("DENY", everything.clone()), ("CUSTOM", everything.clone())],
            Verdict::Denied(Denial::NoProvider("shop/1".into())),
        ),
        (vec![("AUDIT", everything.clone())], Verdict::Allowed(None)),
    ] {
        let judge = judge();
        let guard = guard(&judge, "shop", "web");
        for (number, (action, rules)) in policies.iter().enumerate() {
            authorize(&judge, "shop", &number.to_string(), &json!({"action": action, "rules": rules}));
        }
        let judgement = Case::of(&json!({})).request(&guard);
        assert_eq!(judgement.verdict, expected, "{policies:?}");
        assert_eq!(judgement.audit.is_some(), policies.first().is_some_and(|(action, _)| *action == "AUDIT"));
    }
}

#[test]
fn rules_match_by_source_operation_and_conditions() {
    let source = |source: Value| json!({"from": [{"source": source}]});
    let operation = |operation: Value| json!({"to": [{"operation": operation}]});
    let when = |key: &str, values: Value| json!({"when": [{"key": key, "values": values}]});
    let claims = json!({"iss": "https://i", "sub": "joe", "aud": ["a", "b"], "azp": "p", "scope": "read write",
        "realm": {"roles": ["admin"]}, "level": 3, "on": true});
    let with = |claims: &Value| json!({"claims": claims});
    for (rule, case, expected) in [
        (source(json!({"principals": ["cluster.local/ns/shop/sa/a"]})), json!({"peer": "shop/a"}), true),
        (source(json!({"principals": ["spiffe://cluster.local/ns/shop/sa/a"]})), json!({"peer": "shop/a"}), true),
        (source(json!({"principals": ["*/ns/shop/sa/a"]})), json!({"peer": "shop/b"}), false),
        (source(json!({"principals": ["*"]})), json!({}), false),
        (source(json!({"notPrincipals": ["*"]})), json!({}), true),
        (source(json!({"namespaces": ["sh*"]})), json!({"peer": "shop/a"}), true),
        (source(json!({"namespaces": ["sh*"], "notNamespaces": ["shop"]})), json!({"peer": "shop/a"}), false),
        (source(json!({"serviceAccounts": ["a"]})), json!({"peer": "shop/a"}), true),
        (source(json!({"serviceAccounts": ["a"]})), json!({"peer": "else/a"}), false),
        (source(json!({"serviceAccounts": ["else/a"]})), json!({"peer": "else/a"}), true),
        (source(json!({"notServiceAccounts": ["else/a"]})), json!({"peer": "else/a"}), false),
        (source(json!({"trustDomains": ["cluster.local"]})), json!({"peer": "else/a"}), true),
        (source(json!({"ipBlocks": ["10.0.0.0/24"]})), json!({}), true),
        (source(json!({"notIpBlocks": ["10.0.0.7"]})), json!({}), false),
        (source(json!({"remoteIpBlocks": ["1.2.3.4"]})), json!({"headers": {"x-forwarded-for": "1.2.3.4"}}), false),
        (
            source(json!({"remoteIpBlocks": ["1.2.3.4"]})),
            json!({"peer": "shop/gateway", "headers": {"x-forwarded-for": "9.9.9.9, 1.2.3.4"}}),
            true,
        ),
        (source(json!({"requestPrincipals": ["https://i/joe"]})), with(&claims), true),
        (source(json!({"requestPrincipals": ["*"]})), json!({}), false),
        (source(json!({"notRequestPrincipals": ["*"]})), json!({}), true),
        (source(json!({"principals": ["*"], "ipBlocks": ["10.0.0.8"]})), json!({"peer": "shop/a"}), false),
        (operation(json!({"hosts": ["WEB.example.com"]})), json!({"host": "web.Example.com:8080"}), true),
        (operation(json!({"hosts": ["*.example.com"]})), json!({"host": "web.example.org"}), false),
        (operation(json!({"hosts": ["web:*"]})), json!({"host": "web:80"}), true),
        (operation(json!({"ports": ["8080"]})), json!({}), true),
        (operation(json!({"notPorts": ["8080"]})), json!({}), false),
        (operation(json!({"methods": ["GET", "HEAD"]})), json!({"method": "HEAD"}), true),
        (operation(json!({"methods": ["GET"]})), json!({"method": "POST"}), false),
        (operation(json!({"paths": ["/a/*"], "notPaths": ["*.txt"]})), json!({"path": "/a/b"}), true),
        (operation(json!({"paths": ["/a/*"], "notPaths": ["*.txt"]})), json!({"path": "/a/b.txt"}), false),
        (operation(json!({"paths": ["/a/{*}/c"]})), json!({"path": "/a/b/c"}), true),
        (when("request.headers[X-Role]", json!(["admin"])), json!({"headers": {"x-role": "admin"}}), true),
        (when("request.headers[X-Role]", json!(["*"])), json!({}), false),
        (when("source.ip", json!(["10.0.0.7"])), json!({}), true),
        (when("source.namespace", json!(["shop"])), json!({"peer": "shop/a"}), true),
        (when("source.principal", json!(["cluster.local/*"])), json!({"peer": "shop/a"}), true),
        (when("destination.ip", json!(["10.0.0.9"])), json!({}), true),
        (when("destination.port", json!(["80"])), json!({}), false),
        (when("connection.sni", json!(["a.b"])), json!({"sni": "a.b"}), true),
        (when("request.auth.principal", json!(["https://i/*"])), with(&claims), true),
        (when("request.auth.audiences", json!(["b"])), with(&claims), true),
        (when("request.auth.presenter", json!(["p"])), with(&claims), true),
        (when("request.auth.claims[realm][roles]", json!(["admin"])), with(&claims), true),
        (when("request.auth.claims[scope]", json!(["write"])), with(&claims), true),
        (when("request.auth.claims[sub]", json!(["write"])), with(&claims), false),
        (when("request.auth.claims[level]", json!(["3"])), with(&claims), true),
        (when("request.auth.claims[on]", json!(["true"])), with(&claims), true),
        (when("request.auth.claims[none]", json!(["*"])), with(&claims), false),
    ] {
        let judge = judge();
        let guard = guard(&judge, "shop", "web");
        let wrong = authorize(&judge, "shop", "p", &json!({"rules": [rule]}));
        assert_eq!(wrong, Vec::<String>::new(), "{rule}");
        assert_eq!(allowed(&guard, &case), expected, "ALLOW {rule} of {case}");
        authorize(&judge, "shop", "p", &json!({"action": "DENY", "rules": [rule]}));
        assert_eq!(allowed(&guard, &case), !expected, "DENY {rule} of {case}");
    }
}

#[test]
fn a_path_is_judged_in_every_form() {
    let judge = judge();
    let guard = guard(&judge, "shop", "web");
    let rules = |paths: Value| json!([{"to": [{"operation": {"paths": paths}}]}]);
    let disguised = [
        "/admin",
        "//admin",
        "/a/../admin",
        "/%61dmin",
        "/a/%2e%2e/admin",
        "/a%2f..%2Fadmin",
        "/a/..%5cadmin",
        "/./admin",
    ];
    authorize(&judge, "shop", "p", &json!({"action": "DENY", "rules": rules(json!(["/admin"]))}));
    for path in disguised {
        assert!(!allowed(&guard, &json!({"path": path})), "DENY /admin of {path}");
    }
    authorize(&judge, "shop", "p", &json!({"action": "ALLOW", "rules": rules(json!(["/a/*"]))}));
    assert!(allowed(&guard, &json!({"path": "/a/b"})));
    for path in disguised {
        assert!(!allowed(&guard, &json!({"path": path})), "ALLOW /a/* of {path}");
    }
}

#[test]
fn what_cannot_be_known_lets_nothing_through() {
    let http = json!([{"to": [{"operation": {"methods": ["GET"], "ports": ["8080"]}}]}]);
    let absent = json!([{"when": [{"key": "experimental.x", "values": ["a"]}]}]);
    for (action, rules, port, expected) in [
        ("ALLOW", &http, 8080, false),
        ("DENY", &http, 8080, false),
        ("DENY", &http, 9090, true),
        ("ALLOW", &absent, 8080, false),
        ("DENY", &absent, 8080, false),
    ] {
        let judge = judge();
        let guard = guard(&judge, "shop", "web");
        let wrong = authorize(&judge, "shop", "p", &json!({"action": action, "rules": rules}));
        assert_eq!(wrong.is_empty(), rules == &http);
        let case = Case::of(&json!({"port": port}));
        assert_eq!(guard.connection(&case.connection()).verdict.is_allowed(), expected, "{action} {rules} at {port}");
        assert_eq!(guard.needs_http(port), rules == &http && port == 8080, "{action} {rules} at {port}");
    }
}

#[test]
fn what_is_wrong_with_a_policy_is_told() {
    let judge = judge();
    for (spec, expected) in [
        (json!({"rules": [{"from": [{"source": {"ipBlocks": ["a"]}}]}]}), "\"a\" is no address and no block of them"),
        (json!({"rules": [{"from": [{"source": {}}]}]}), "a rule has an empty source"),
        (json!({"rules": [{"to": [{"operation": {"ports": ["http"]}}]}]}), "\"http\" is no port"),
        (json!({"rules": [{"when": [{"key": "a", "values": ["b"]}]}]}), "key \"a\" is not supported"),
        (json!({"rules": [{"when": [{"key": "source.ip"}]}]}), "condition on \"source.ip\" has no values"),
        (
            json!({"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"}]}),
            "targetRef Gateway g: only a Service can be a target",
        ),
        (
            json!({"action": "CUSTOM", "provider": {"name": "opa"}}),
            "provider \"opa\" is not there: what the rules match is denied",
        ),
    ] {
        assert_eq!(authorize(&judge, "shop", "p", &spec), [expected]);
    }
}

#[test]
fn policies_on_trial_decide_nothing() {
    let judge = judge();
    let guard = guard(&judge, "shop", "web");
    let object = json!({
        "metadata": {"namespace": "shop", "name": "p", "annotations": {"istio.io/dry-run": "true"}},
        "spec": {"action": "DENY", "rules": [{}]},
    });
    judge.authorize(&Key::new("shop", "p"), Some(&serde_json::from_value(object).unwrap()));
    let judgement = Case::of(&json!({})).request(&guard);
    assert_eq!(judgement.verdict, Verdict::Allowed(None));
    assert_eq!(judgement.trial, Some(Verdict::Denied(Denial::By("shop/p".into()))));
}

#[test]
fn policies_are_about_the_workloads_that_they_select() {
    for (namespace, scope, expected) in [
        ("shop", json!({}), [true, true, false]),
        (ROOT_NAMESPACE, json!({}), [true, true, true]),
        ("shop", json!({"selector": {"matchLabels": {"app": "web"}}}), [true, false, false]),
        (ROOT_NAMESPACE, json!({"selector": {"matchLabels": {"app": "web"}}}), [true, false, true]),
        ("shop", json!({"targetRefs": [{"kind": "Service", "name": "web"}]}), [true, false, false]),
        ("shop", json!({"targetRef": {"kind": "Service", "group": "", "name": "db"}}), [false, true, false]),
        ("shop", json!({"targetRefs": [{"group": "a", "kind": "Gateway", "name": "web"}]}), [false; 3]),
    ] {
        let judge = judge();
        let guards = [guard(&judge, "shop", "web"), guard(&judge, "shop", "db"), guard(&judge, "else", "web")];
        let denied = || guards.each_ref().map(|guard| !allowed(guard, &json!({})));
        authorize(&judge, namespace, "p", &scope);
        assert_eq!(denied(), expected, "{namespace} {scope}");
        let late = guard(&judge, "shop", "late");
        assert_eq!(!allowed(&late, &json!({})), scope == json!({}), "{namespace} {scope}");
        judge.authorize(&Key::new(namespace, "p"), None);
        assert_eq!(denied(), [false; 3], "{namespace} {scope}");
    }
}

#[test]
fn a_change_concerns_only_the_workloads_that_it_selects() {
    let judge = judge();
    let (web, db) = (guard(&judge, "shop", "web"), guard(&judge, "shop", "db"));
    let before = [web.posture.load_full(), db.posture.load_full()];
    authorize(&judge, "shop", "p", &json!({"selector": {"matchLabels": {"app": "web"}}}));
    assert!(!Arc::ptr_eq(&before[0], &web.posture.load_full()));
    assert!(Arc::ptr_eq(&before[1], &db.posture.load_full()));
    // A workload that changed its labels gets another guard; one that did not keeps its own.
    assert!(Arc::ptr_eq(&web, &guard(&judge, "shop", "web")));
    let moved = judge.workload(&Key::new("shop", "web"), workload("shop", "moved"));
    assert!(allowed(&moved, &json!({})) && !allowed(&web, &json!({})));
}

#[test]
fn the_parts_of_a_peer_are_found() {
    let peer = Peer::new("cluster.local", "shop", "web");
    assert_eq!(peer.principal(), "cluster.local/ns/shop/sa/web");
    assert_eq!((peer.trust_domain(), peer.namespace(), peer.service_account()), ("cluster.local", "shop", "web"));
}

#[test]
fn tokens_that_nobody_has_looked_at_let_nothing_through() {
    let by_claim = json!([{"when": [{"key": "request.auth.claims[sub]", "values": ["joe"]}]}]);
    let by_principal = json!([{"from": [{"source": {"requestPrincipals": ["*"]}}]}]);
    let case = Case::of(&json!({}));
    let head = RequestHead { host: "web", method: &case.method, path: "/", query: None, headers: &case.headers };
    for rules in [by_claim, by_principal] {
        for (action, token, expected) in [
            ("ALLOW", Token::Unverified, false),
            ("DENY", Token::Unverified, false),
            ("ALLOW", Token::None, false),
            ("DENY", Token::None, true),
        ] {
            let judge = judge();
            let guard = guard(&judge, "shop", "web");
            authorize(&judge, "shop", "p", &json!({"action": action, "rules": rules}));
            let request = Request { head, authority: "web", token };
            let judgement = guard.request(&case.connection(), &request);
            assert_eq!(judgement.verdict.is_allowed(), expected, "{action} {rules} with {token:?}");
        }
    }
}
