use http::{HeaderValue, Request};
use serde_json::json;

use super::*;

fn network(text: &str) -> Network {
    Network::parse(text).unwrap()
}

/// Whether a request from 10.0.0.7 with the header `x-who: ada` and the claims passes.
fn passes(authorization: &Authorization, method: &str, path: &str, claims: Option<Value>) -> bool {
    let request = Request::builder().method(method).uri(path).header("x-who", "ada");
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    let authority = HeaderValue::from_static("shop.test");
    let tokens = claims.map(|claims| ("idp".into(), claims.as_object().unwrap().clone()));
    let mut entrant = Entrant::new(&mut parts, ("shop.test", &authority), "10.0.0.7".parse().unwrap(), false);
    entrant.tokens.extend(tokens);
    authorization.ask(&entrant).is_ok()
}

fn rule(permission: Permission) -> AuthorizationRule {
    AuthorizationRule { permission, ..AuthorizationRule::default() }
}

#[test]
fn the_first_rule_that_holds_decides_and_else_the_default_does() {
    let inside = || vec![network("10.0.0.0/8")];
    let (allow, deny) = (Permission::Allow, Permission::Deny);
    for (rules, default, expected) in [
        (vec![], allow, true),
        (vec![], deny, false),
        (vec![AuthorizationRule { networks: inside(), ..rule(allow) }, rule(deny)], deny, true),
        (vec![AuthorizationRule { networks: inside(), ..rule(deny) }, rule(allow)], allow, false),
        (vec![AuthorizationRule { networks: vec![network("192.168.0.0/16")], ..rule(allow) }], deny, false),
    ] {
        assert_eq!(passes(&Authorization { rules, default }, "GET", "/", None), expected);
    }
    assert!(passes(&Authorization::only(inside()), "GET", "/", None));
    assert!(!passes(&Authorization::except(inside()), "GET", "/", None));
}

#[test]
fn all_that_a_rule_names_must_be_so() {
    let exact = |text: &str| ValueMatch::Exact(text.into());
    let who = HeaderName::from_static("x-who");
    let base = AuthorizationRule {
        methods: vec![Method::GET, Method::PUT],
        path: Some((PathMatch::prefix("/public"), false)),
        headers: vec![(who.clone(), vec![exact("bob"), exact("ada")])],
        ..rule(Permission::Allow)
    };
    let only = |rule| Authorization { rules: vec![rule], default: Permission::Deny };
    for (method, path, expected) in [
        ("GET", "/public/x?y", true),
        ("PUT", "/public", true),
        ("POST", "/public/x", false),
        ("GET", "/publicity", false),
        ("GET", "/public/../admin", false),
        ("GET", "/public/%2e%2e/admin", false),
        ("GET", "/public/..%2fadmin", false),
    ] {
        assert_eq!(passes(&only(base.clone()), method, path, None), expected, "{method} {path}");
    }
    let other = AuthorizationRule { headers: vec![(who, vec![exact("bob")])], ..base };
    assert!(!passes(&only(other), "GET", "/public", None));
}

#[test]
fn what_is_refused_is_so_however_it_is_written() {
    let admin =
        |invert| AuthorizationRule { path: Some((PathMatch::prefix("/admin"), invert)), ..rule(Permission::Deny) };
    let except = |rule| Authorization { rules: vec![rule], default: Permission::Allow };
    for (path, expected) in
        [("/x", true), ("/admin/x", false), ("/%61dmin", false), ("//admin", false), ("/x/../admin", false)]
    {
        assert_eq!(passes(&except(admin(false)), "GET", path, None), expected, "{path}");
    }
    assert!(passes(&except(admin(true)), "GET", "/admin", None));
    assert!(!passes(&except(admin(true)), "GET", "/admin/../x", None));
}

#[test]
fn tokens_are_asked_for_claims_and_scopes() {
    let texts = |texts: &[&str]| texts.iter().map(|text| Box::from(*text)).collect::<Vec<Box<str>>>();
    let claim = |path: &str, list, values: &[&str]| ClaimCondition {
        path: path.split('.').map(Into::into).collect(),
        list,
        values: texts(values),
    };
    let with = |claims: Vec<ClaimCondition>, scopes: &[&str]| {
        let token = TokenCondition { provider: "idp".into(), claims, scopes: texts(scopes) };
        let rule = AuthorizationRule { token: Some(token), ..rule(Permission::Allow) };
        Authorization { rules: vec![rule], default: Permission::Deny }
    };
    let token = || json!({"sub": "ada", "org": {"team": "core"}, "groups": ["a", "b"], "scope": "read write", "scp": ["x"], "n": 1});
    for (what, expected, authorization) in [
        ("a claim", true, with(vec![claim("sub", false, &["bob", "ada"])], &[])),
        ("a nested one", true, with(vec![claim("org.team", false, &["core"])], &[])),
        ("through no object", false, with(vec![claim("sub.team", false, &["core"])], &[])),
        ("an element", true, with(vec![claim("groups", true, &["b"])], &[])),
        ("a list as a text", false, with(vec![claim("groups", false, &["b"])], &[])),
        ("a text as a list", false, with(vec![claim("sub", true, &["ada"])], &[])),
        ("a number", false, with(vec![claim("n", false, &["1"])], &[])),
        ("both", false, with(vec![claim("sub", false, &["ada"]), claim("org.team", false, &["x"])], &[])),
        ("scopes", true, with(vec![], &["write", "x", "read"])),
        ("a missing scope", false, with(vec![], &["write", "admin"])),
    ] {
        assert_eq!(passes(&authorization, "GET", "/", Some(token())), expected, "{what}");
        assert!(!passes(&authorization, "GET", "/", None), "{what}");
    }
}

#[test]
fn connections_are_known_by_their_address_alone() {
    let client = "10.0.0.7".parse().unwrap();
    let inside = || vec![network("10.0.0.0/8")];
    assert!(Authorization::only(inside()).admits(client));
    assert!(!Authorization::except(inside()).admits(client));
    let posting = AuthorizationRule { networks: inside(), methods: vec![Method::POST], ..rule(Permission::Allow) };
    assert!(!Authorization { rules: vec![posting], default: Permission::Deny }.admits(client));
}
