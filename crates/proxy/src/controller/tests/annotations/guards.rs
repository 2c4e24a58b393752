//! Who is let in by annotations.

use ::http::{HeaderValue, Request};

use super::*;
use crate::routing::Entrant;

/// The status of a request from an address that every guard was asked about; 200 when it passes.
fn asked(core: &Core, client: &str, password: Option<&str>) -> u16 {
    let (headers, table) = (HeaderMap::new(), core.table());
    let head = RequestHead { host: "shop.test", method: &Method::GET, path: "/", query: None, headers: &headers };
    let found = table.port(shared(80)).unwrap().find(80, None, &head, 0).unwrap();
    let Some(guards) = found.guards(None) else { return 200 };
    let mut request = Request::builder().uri("/");
    if let Some(password) = password {
        request = request.header("authorization", password);
    }
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    let authority = HeaderValue::from_static("shop.test");
    let client = client.parse().unwrap();
    let mut entrant = Entrant {
        parts: &mut parts,
        host: "shop.test",
        authority: &authority,
        client,
        tls: false,
        tokens: Vec::new(),
        late: Vec::new(),
    };
    let refusal = guards.steps.iter().find_map(|step| step.ask(&mut entrant).unwrap().err());
    refusal.map_or(200, |refusal| refusal.status.as_u16())
}

/// ada:password
const RIGHT: Option<&str> = Some("Basic YWRhOnBhc3N3b3Jk");
const WRONG: Option<&str> = Some("Basic YWRhOndyb25n");

fn with_users(annotations: &[(&str, &str)]) -> Core {
    let mut cluster = cluster();
    let hashed = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";
    let bytes = |text: String| k8s_openapi::ByteString(text.into_bytes());
    cluster.put("Secret", "shop", "file", json!({"data": {"auth": bytes(format!("ada:{hashed}\n"))}}));
    cluster.put("Secret", "shop", "map", json!({"data": {"ada": bytes(format!("{hashed}\n"))}}));
    put(&mut cluster, "main", &[("/", "Prefix", "web")], annotations);
    cluster.compile()
}

#[test]
fn requests_come_from_where_they_may() {
    let allow = ("whitelist-source-range", "10.0.0.0/8,fd00::/8, 1.2.3.4");
    let deny = ("denylist-source-range", "10.1.0.0/16");
    for (annotations, client, expected) in [
        (vec![allow], "10.1.2.3", 200),
        (vec![allow], "::ffff:1.2.3.4", 200),
        (vec![allow], "1.2.3.5", 403),
        (vec![("allowlist-source-range", "10.0.0.0/8")], "11.0.0.1", 403),
        (vec![deny], "10.1.2.3", 403),
        (vec![deny], "10.2.2.3", 200),
        (vec![allow, deny], "10.1.2.3", 403),
        (vec![allow, deny], "10.2.2.3", 200),
        (vec![allow, deny], "11.2.2.3", 403),
    ] {
        let core = with_users(&annotations);
        assert_eq!(reports(&core, "main"), Vec::<String>::new());
        assert_eq!(asked(&core, client, None), expected, "{annotations:?} {client}");
    }
}

#[test]
fn names_and_passwords_are_those_of_the_secret() {
    let basic = ("auth-type", "basic");
    for annotations in [
        vec![basic, ("auth-secret", "file"), ("auth-realm", "the shop")],
        vec![basic, ("auth-secret", "shop/map"), ("auth-secret-type", "auth-map")],
    ] {
        let core = with_users(&annotations);
        assert_eq!(reports(&core, "main"), Vec::<String>::new());
        let statuses = [None, WRONG, RIGHT].map(|password| asked(&core, "1.1.1.1", password));
        assert_eq!(statuses, [401, 401, 200], "{annotations:?}");
    }
    let allow = ("allowlist-source-range", "10.0.0.0/8");
    for (satisfy, expected) in [("all", [403, 403, 401, 200]), ("any", [401, 200, 200, 200])] {
        let core = with_users(&[basic, ("auth-secret", "file"), allow, ("satisfy", satisfy)]);
        let asked = |client, password| asked(&core, client, password);
        let statuses =
            [asked("1.1.1.1", None), asked("1.1.1.1", RIGHT), asked("10.0.0.1", None), asked("10.0.0.1", RIGHT)];
        assert_eq!(statuses, expected, "{satisfy}");
    }
}

#[test]
fn nobody_comes_where_it_is_not_known_who_may() {
    let basic = ("auth-type", "basic");
    for (annotations, told) in [
        (vec![("auth-type", "digest")], "UnservedAnnotation: annotation nginx.ingress.kubernetes.io/auth-type: "),
        (vec![basic], "InvalidSecret: auth-type basic: auth-secret does not name who may come"),
        (vec![basic, ("auth-secret", "gone")], "InvalidSecret: auth-secret shop/gone: not found"),
        (vec![basic, ("auth-secret", "map")], "InvalidSecret: auth-secret shop/map: has no auth"),
        (vec![basic, ("auth-secret", "other/file")], "UnservedAnnotation: annotation nginx.ingress"),
        (vec![("whitelist-source-range", "10.0.0.0/99")], "InvalidAnnotation: annotation nginx.ingress"),
    ] {
        let core = with_users(&annotations);
        let told_now = reports(&core, "main");
        assert!(told_now.iter().any(|report| report.starts_with(told)), "{told_now:?}");
        assert_eq!(outcome(&core, ROOT), "503", "{annotations:?}");
    }
}

#[test]
fn a_service_is_asked_as_nginx_asks() {
    use crate::routing::{AuthProtocol, Guard, Reading};
    let external = |annotations: &[(&str, &str)]| {
        let core = with_users(annotations);
        assert_eq!(reports(&core, "main"), Vec::<String>::new());
        let (headers, table) = (HeaderMap::new(), core.table());
        let head = RequestHead { host: "shop.test", method: &Method::GET, path: "/", query: None, headers: &headers };
        let found = table.port(shared(80)).unwrap().find(80, None, &head, 0).unwrap();
        let guards = Arc::clone(found.guards(None).unwrap());
        let Some(Guard::External(external)) = guards.steps.last() else { panic!("{guards:?}") };
        Arc::clone(external)
    };
    let url = ("auth-url", "http://api.other.svc.cluster.local/oauth2/auth?from=$host");
    let asked = external(&[
        url,
        ("auth-signin", "https://login.test/start?x=1"),
        ("auth-response-headers", "X-User, X-Email"),
        ("allowlist-source-range", "10.0.0.0/8"),
    ]);
    let Target::Service { backend, .. } = &asked.shares[0].target else { panic!() };
    assert_eq!(backend.name(), "other/api:80");
    let AuthProtocol::Http(how) = &asked.protocol else { panic!() };
    assert_eq!((how.method.as_ref(), how.to_backend.len(), how.all_headers), (Some(&Method::GET), 2, true));
    assert_eq!(how.host.as_ref().unwrap(), "api.other.svc.cluster.local");
    let Reading::Nginx { sign_in: Some(to) } = &how.reading else { panic!() };
    let told = format!("{to:?}");
    assert!(told.contains("https://login.test/start?x=1&rd="), "{told}");
    for (annotations, told) in [
        (
            vec![("auth-url", "https://elsewhere.example.com/auth")],
            "is neither a Service of this cluster nor an address",
        ),
        (vec![("auth-url", "nowhere")], "is no URL"),
        (vec![url, ("satisfy", "any"), ("allowlist-source-range", "10.0.0.0/8")], "is asked in any case"),
    ] {
        let core = with_users(&annotations);
        let reports = reports(&core, "main");
        assert!(reports.iter().any(|report| report.contains(told)), "{reports:?}");
        assert_eq!(outcome(&core, ROOT), "503", "{annotations:?}");
    }
}

#[test]
fn a_browser_is_told_whether_it_may_before_it_says_who_it_is() {
    let core = with_users(&[("auth-type", "basic"), ("auth-secret", "file"), ("enable-cors", "true")]);
    let (headers, table) = (HeaderMap::new(), core.table());
    let head = RequestHead { host: "shop.test", method: &Method::GET, path: "/", query: None, headers: &headers };
    let found = table.port(shared(80)).unwrap().find(80, None, &head, 0).unwrap();
    assert!(found.guards(None).unwrap().cors.is_some());
    let Decision::Forward(way) = found.decide(&head, None, 0) else { panic!() };
    assert!(way.rule.filters.cors.is_none(), "it is said once");
}
