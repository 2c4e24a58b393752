//! SecurityPolicies: what their fields amount to, and what is said about those that cannot be followed.

use ::http::{HeaderValue, Request};

use super::*;
use crate::{controller::attachment::PolicyId, routing::Entrant};

fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.listen(http());
    cluster.http_route(json!({}));
    let htpasswd = "YWRhOntTSEF9VzZwaDVNbTVQejhHZ2lVTGJQZ3pHMzdtajlnPQo=";
    cluster.put("Secret", "shop", "users", json!({"data": {".htpasswd": htpasswd}}));
    cluster.put("Secret", "other", "users", json!({"data": {".htpasswd": htpasswd}}));
    cluster.put("Secret", "shop", "keys", json!({"data": {"ada": "a2V5LTE=", "bob": "a2V5LTI="}}));
    cluster.put("Secret", "shop", "more", json!({"data": {"ada": "a2V5LTM="}}));
    let set = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}]}"#;
    cluster.put("ConfigMap", "shop", "set", json!({"data": {"a": "-", "jwks": set}}));
    cluster.put("Secret", "shop", "same", json!({"data": {"eve": "a2V5LTE="}}));
    cluster
}

fn put(cluster: &mut Cluster, kind: &str, mut spec: Value) {
    let target = json!({"group": "gateway.networking.k8s.io", "kind": kind, "name": "route"});
    spec["targetRefs"] = json!([target]);
    cluster.put("SecurityPolicy", "shop", "policy", json!({"spec": spec}));
}

/// `None` where the policy is accepted; else reason and message.
fn fault(core: &Core) -> Option<(String, String)> {
    let id = PolicyId { kind: "SecurityPolicy", key: Key::new("shop", "policy") };
    let status = core.attached_status(&id, Timestamp::now()).unwrap();
    let accepted = status.ancestors[0].conditions.iter().find(|condition| condition.type_ == "Accepted").unwrap();
    (accepted.status == "False").then(|| (accepted.reason.clone(), accepted.message.clone()))
}

/// The status of a request with these headers, by what its rule has as guards; 200 where it passes, 0 where somebody else
/// is asked.
fn status(core: &Core, target: &str, headers: &[(&str, &str)]) -> u16 {
    let mut request = Request::get(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    let table = core.table();
    let port = table.port(shared(80)).unwrap();
    let (host, authority) = ("h", HeaderValue::from_static("h"));
    let head = RequestHead { host, method: &parts.method, path: "/", query: None, headers: &parts.headers };
    let found = port.find(80, None, &head, 0).map_err(|_| "a rule").unwrap();
    let guards = Arc::clone(found.guards(None).unwrap());
    let client = "10.0.0.7".parse().unwrap();
    let mut entrant = Entrant::new(&mut parts, (host, &authority), client, false);
    for step in &guards.steps {
        match step.ask(&mut entrant) {
            Some(Ok(())) => {}
            Some(Err(refusal)) => return refusal.status.as_u16(),
            None => return 0,
        }
    }
    200
}

#[test]
fn what_is_asked_for_is_asked_and_what_cannot_be_is_refused() {
    let basic = |users: Value| json!({"basicAuth": {"users": users}});
    let keys = |names: &[&str]| {
        let refs: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"apiKeyAuth": {"credentialRefs": refs, "extractFrom": [{"headers": ["x-key"]}]}})
    };
    let rules = |rules: Value| json!({"authorization": {"rules": rules}});
    let inside = |range: &str| json!([{"action": "Allow", "principal": {"clientCIDRs": [range]}}]);
    let set = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}]}"#;
    let set_ref = |name: &str| json!({"group": "", "kind": "ConfigMap", "name": name});
    let jwt = |more: Value| {
        let mut provider = json!({"name": "idp"});
        for (key, value) in more.as_object().unwrap() {
            provider[key] = value.clone();
        }
        provider
    };
    let password = [("authorization", "Basic YWRhOnBhc3N3b3Jk")];
    for (spec, headers, expected) in [
        (basic(json!({"name": "users"})), &[][..], 401),
        (basic(json!({"name": "users"})), &password, 200),
        (keys(&["keys", "more"]), &[("x-key", "key-2")], 200),
        (keys(&["keys", "more"]), &[("x-key", "key-3")], 401),
        (rules(inside("10.0.0.0/8")), &[], 200),
        (rules(inside("192.168.0.0/16")), &[], 403),
        (rules(json!([])), &[], 403),
        (json!({"authorization": {"defaultAction": "Allow"}}), &[], 200),
        (json!({"csrf": {}}), &[], 200),
        (json!({"jwt": {"providers": [jwt(json!({"localJWKS": {"inline": set}}))]}}), &[], 0),
        (
            json!({"jwt": {"providers": [jwt(json!({"localJWKS": {"type": "ValueRef", "valueRef": set_ref("set")}}))]}}),
            &[],
            0,
        ),
        (json!({"jwt": {"providers": [jwt(json!({"remoteJWKS": {"uri": "https://idp.test/jwks"}}))]}}), &[], 0),
        (
            json!({"jwt": {"providers": [jwt(json!({"remoteJWKS": {"uri": "http://idp.test/jwks",
                "backendRefs": [{"name": "web", "port": 80}]}}))]}}),
            &[],
            0,
        ),
    ] {
        let mut cluster = cluster();
        put(&mut cluster, "HTTPRoute", spec.clone());
        let core = cluster.compile();
        assert_eq!((fault(&core), status(&core, "/", headers)), (None, expected), "{spec} {headers:?}");
    }
    for (spec, message) in [
        (basic(json!({"name": "missing"})), "BasicAuth: secret shop/missing does not exist"),
        (
            basic(json!({"name": "users", "namespace": "other"})),
            "BasicAuth: secret other/users is not permitted by any ReferenceGrant",
        ),
        (basic(json!({"name": "keys"})), "BasicAuth: users secret not found in secret shop/keys: it has no .htpasswd"),
        (keys(&["keys", "same"]), "APIKeyAuth: duplicated API key"),
        (rules(inside("10.0.0.0/33")), "Authorization: rule 0: invalid ClientCIDR \"10.0.0.0/33\""),
        (rules(json!([{"action": "Allow", "cel": "true"}])), "Authorization: rule 0: cel is not supported"),
        (json!({"oidc": {}}), "spec.oidc is not supported"),
        (
            json!({"jwt": {"providers": [jwt(json!({}))]}}),
            "JWT: either remoteJWKS or localJWKS must be specified for jwt provider: idp",
        ),
        (
            json!({"jwt": {"providers": [jwt(json!({"localJWKS": {"inline": set}})), jwt(json!({"localJWKS": {"inline": set}}))]}}),
            "JWT: provider name idp must be unique",
        ),
        (
            json!({"jwt": {"providers": [jwt(json!({"localJWKS": {"inline": "{}"}}))]}}),
            "JWT: local JWKS of provider idp has no key that could be used",
        ),
        (
            json!({"jwt": {"providers": [jwt(json!({"localJWKS": {"type": "ValueRef", "valueRef": set_ref("none")}}))]}}),
            "JWT: local JWKS ConfigMap shop/none not found",
        ),
        (
            json!({"jwt": {"providers": [jwt(json!({"remoteJWKS": {"uri": "ftp://a/jwks"}}))]}}),
            "JWT: invalid remote JWKS URI \"ftp://a/jwks\": its scheme is neither http nor https",
        ),
        (
            json!({"jwt": {"providers": [jwt(json!({"remoteJWKS": {"uri": "http://a/", "backendRefs": [{"name": "none", "port": 1}]}}))]}}),
            "JWT: Service shop/none not found",
        ),
    ] {
        let mut cluster = cluster();
        put(&mut cluster, "HTTPRoute", spec.clone());
        let core = cluster.compile();
        assert_eq!(fault(&core), Some(("Invalid".to_owned(), message.to_owned())), "{spec}");
        assert_eq!(status(&core, "/", &password), 500, "{spec}");
    }
}

#[test]
fn a_secret_is_followed_and_one_of_another_namespace_needs_a_grant() {
    let mut cluster = cluster();
    let users = json!({"name": "users", "namespace": "other"});
    put(&mut cluster, "HTTPRoute", json!({"basicAuth": {"users": users}}));
    let mut core = cluster.compile();
    assert_eq!(status(&core, "/", &[]), 500);
    let grant = json!({"spec": {
        "from": [{"group": "gateway.envoyproxy.io", "kind": "SecurityPolicy", "namespace": "shop"}],
        "to": [{"group": "", "kind": "Secret"}],
    }});
    cluster.put("ReferenceGrant", "other", "grant", grant);
    core.apply(core.dependents(&Dependency::Grants("other".to_owned())), &cluster);
    let password = [("authorization", "Basic YWRhOnBhc3N3b3Jk")];
    assert_eq!((fault(&core), status(&core, "/", &password)), (None, 200));
    cluster.put(
        "Secret",
        "other",
        "users",
        json!({"data": {".htpasswd": "ZXZlOntTSEF9VzZwaDVNbTVQejhHZ2lVTGJQZ3pHMzdtajlnPQo="}}),
    );
    core.apply(core.dependents(&Dependency::Secret(Key::new("other", "users"))), &cluster);
    assert_eq!((fault(&core), status(&core, "/", &password)), (None, 401));
    cluster.remove("Secret", "other", "users");
    core.apply(core.dependents(&Dependency::Secret(Key::new("other", "users"))), &cluster);
    assert_eq!(status(&core, "/", &password), 500);
}

#[test]
fn of_connections_only_the_address_is_asked() {
    let rule = |more: Value| {
        let mut rule = json!({"action": "Allow", "principal": {"clientCIDRs": ["10.0.0.0/8"]}});
        for (key, value) in more.as_object().unwrap() {
            rule[key] = value.clone();
        }
        json!({"authorization": {"rules": [rule]}})
    };
    for (spec, message) in [
        (rule(json!({})), None),
        (rule(json!({"operation": {"methods": ["GET"]}})), Some("rule 0: operation not supported for TCP")),
        (
            rule(json!({"principal": {"headers": [{"name": "a", "values": ["b"]}]}})),
            Some("rule 0: headers not supported for TCP"),
        ),
        (
            json!({"basicAuth": {"users": {"name": "users"}}}),
            Some("only authorization is supported for TCP (routes/listeners)"),
        ),
    ] {
        let mut cluster = cluster();
        cluster.listen(json!([{"name": "raw", "port": 9000, "protocol": "TCP"}]));
        let backends = json!([{"backendRefs": [{"name": "web", "port": 80}]}]);
        cluster.put(
            "TCPRoute",
            "shop",
            "route",
            json!({"spec": {"parentRefs": [{"name": "edge"}], "rules": backends}}),
        );
        put(&mut cluster, "TCPRoute", spec.clone());
        let core = cluster.compile();
        assert_eq!(fault(&core).map(|(_, message)| message).as_deref(), message, "{spec}");
        let table = core.table();
        let listener = table.port(shared(9000)).unwrap().listener("").unwrap();
        let admits = ["10.1.2.3", "192.168.1.1"].map(|client| listener.admits("", client.parse().unwrap()));
        if message.is_none() {
            assert_eq!(admits, [true, false], "{spec}");
        }
    }
}
