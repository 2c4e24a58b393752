//! What annotations of Ingresses do to requests.

use super::*;

mod classes;
mod guards;
mod traffic;
mod translated;

/// A cluster with our IngressClass as the default one.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    let annotations = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
    let class = json!({"metadata": {"annotations": annotations}, "spec": {"controller": "keelson.dev/ingress"}});
    cluster.put("IngressClass", "", "keelson", class);
    cluster
}

/// Ingress `shop/NAME` for `shop.test` with these paths (path, type, Service) and annotations.
fn put(cluster: &mut Cluster, name: &str, paths: &[(&str, &str, &str)], annotations: &[(&str, &str)]) {
    let rules = json!([rule("shop.test", paths)]);
    put_spec(cluster, name, json!({"rules": rules}), annotations);
}

fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let paths = paths.iter().map(|(path, kind, service)| {
        let backend = json!({"service": {"name": service, "port": {"number": 80}}});
        json!({"path": path, "pathType": kind, "backend": backend})
    });
    json!({"host": host, "http": {"paths": paths.collect::<Vec<_>>()}})
}

fn put_spec(cluster: &mut Cluster, name: &str, spec: Value, annotations: &[(&str, &str)]) {
    let named = annotations.iter().map(|(name, value)| (format!("nginx.ingress.kubernetes.io/{name}"), json!(value)));
    let annotations: serde_json::Map<String, Value> = named.collect();
    cluster.put("Ingress", "shop", name, json!({"metadata": {"annotations": annotations}, "spec": spec}));
}

const ANY: (&str, &str) = ("ImplementationSpecific", "web");

/// A request.
#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    port: u16,
    host: &'a str,
    target: &'a str,
    headers: &'a [(&'static str, &'static str)],
    /// What is drawn for a canary, of a hundred.
    draw: u64,
}

const ROOT: Asked<'_> = Asked { port: 80, host: "shop.test", target: "/", headers: &[], draw: 99 };

fn at(target: &str) -> Asked<'_> {
    Asked { target, ..ROOT }
}

/// The backend and the path that a request has there, or the status, or where it is sent.
fn outcome(core: &Core, asked: Asked<'_>) -> String {
    let mut headers = HeaderMap::new();
    for (name, value) in asked.headers {
        headers.append(*name, value.parse().unwrap());
    }
    let (path, query) = asked.target.split_once('?').map_or((asked.target, None), |(path, query)| (path, Some(query)));
    let head = RequestHead { host: asked.host, method: &Method::GET, path, query, headers: &headers };
    let table = core.table();
    let Some(port) = table.port(shared(asked.port)) else { return "closed".to_owned() };
    match port.route(asked.port, None, &head, asked.draw << 32) {
        Decision::Forward(way) => {
            let change = way.rule.filters.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
            let path = change.map_or(path.to_owned(), |change| change.apply(path, way.matched));
            format!("{} {path}", way.backend.name())
        }
        Decision::Redirect { status, location, .. } => format!("{} {location}", status.as_u16()),
        Decision::Fail(status) => status.as_u16().to_string(),
        Decision::NotFound => "404".to_owned(),
        other => panic!("{other:?}"),
    }
}

fn reports(core: &Core, name: &str) -> Vec<String> {
    let plan = core.ingress(&Key::new("shop", name)).unwrap();
    plan.reports.iter().map(|report| format!("{}: {}", report.reason, report.message)).collect()
}

#[test]
fn paths_are_patterns_where_that_is_asked_for_and_the_longest_comes_first() {
    let mut cluster = cluster();
    let paths = [("/item/[0-9]+", ANY.0, "web"), ("/(.*)", "Prefix", "api"), ("/item/new", "Exact", "new")];
    put(&mut cluster, "main", &paths, &[("use-regex", "true")]);
    put(&mut cluster, "other", &[("/items/all", "Prefix", "all"), ("/it", "Prefix", "it")], &[]);
    let core = cluster.compile();
    for (target, expected) in [
        ("/item/7", "shop/web:80 /item/7"),
        ("/ITEM/7/x", "shop/web:80 /ITEM/7/x"),
        ("/item/x", "shop/api:80 /item/x"),
        ("/item/new", "shop/new:80 /item/new"),
        ("/items/all/x", "shop/all:80 /items/all/x"),
        ("/it/x", "shop/api:80 /it/x"),
        ("/", "shop/api:80 /"),
    ] {
        assert_eq!(outcome(&core, at(target)), expected, "{target}");
    }
    put(&mut cluster, "main", &[("/a(", ANY.0, "web"), ("/b", ANY.0, "web")], &[("use-regex", "true")]);
    let core = cluster.compile();
    assert!(reports(&core, "main")[0].starts_with("InvalidPath: path \"/a(\""), "{:?}", reports(&core, "main"));
    assert_eq!(outcome(&core, at("/b")), "shop/web:80 /b", "the others are served");
    put(&mut cluster, "main", &[("/a(b)", ANY.0, "web")], &[]);
    assert_eq!(outcome(&cluster.compile(), at("/a(b)")), "shop/web:80 /a(b)", "no pattern unless that is asked for");
}

#[test]
fn rewrites_put_what_was_caught_into_the_target() {
    for (path, kind, target, asked, expected) in [
        ("/something(/|$)(.*)", ANY.0, "/$2", "/something/new?q=1", "/new"),
        ("/something(/|$)(.*)", ANY.0, "/$2", "/something", "/"),
        ("/something(/|$)(.*)", "Prefix", "/api/$2", "/Something/a/b", "/api/a/b"),
        ("/foo", "Prefix", "/", "/foo/bar", "/"),
        ("/foo", "Exact", "/bar", "/foo", "/bar"),
        ("/(v[0-9]+)/(.*)", ANY.0, "/$2?version=$1", "/v2/x", "/x?version=v2"),
        ("/a/(.*)", ANY.0, "/$1$9", "/a/b", "/b"),
    ] {
        let mut cluster = cluster();
        put(&mut cluster, "main", &[(path, kind, "web")], &[("rewrite-target", target)]);
        assert_eq!(
            outcome(&cluster.compile(), at(asked)),
            format!("shop/web:80 {expected}"),
            "{path} {target} {asked}"
        );
    }
}

#[test]
fn redirects_answer_in_place_of_backends() {
    let secure = Asked { port: 443, ..ROOT };
    let offloaded = Asked { headers: &[("x-forwarded-proto", "https")], ..ROOT };
    for (annotations, tls, asked, expected) in [
        (vec![], true, at("/a/?q=1"), "308 https://shop.test/a/?q=1"),
        (vec![], true, secure, "shop/web:80 /"),
        (vec![("ssl-redirect", "false")], true, ROOT, "shop/web:80 /"),
        (vec![], false, ROOT, "shop/web:80 /"),
        (vec![("force-ssl-redirect", "true")], false, ROOT, "308 https://shop.test/"),
        (vec![("force-ssl-redirect", "true")], false, offloaded, "shop/web:80 /"),
        (vec![("app-root", "/app")], false, ROOT, "302 http://shop.test/app"),
        (vec![("app-root", "/app")], false, at("/x"), "shop/web:80 /x"),
        (vec![("permanent-redirect", "https://new.test")], false, at("/a?q=1"), "301 https://new.test"),
        (
            vec![("permanent-redirect", "https://new.test$request_uri"), ("permanent-redirect-code", "308")],
            false,
            at("/a?q=1"),
            "308 https://new.test/a?q=1",
        ),
        (vec![("temporal-redirect", "https://$host/b")], true, secure, "302 https://shop.test/b"),
        (vec![("permanent-redirect", "/a"), ("temporal-redirect", "/b")], false, ROOT, "302 /b"),
        (
            vec![("from-to-www-redirect", "true")],
            false,
            Asked { host: "www.shop.test", target: "/a", ..ROOT },
            "308 http://shop.test/a",
        ),
    ] {
        let mut cluster = cluster();
        let tls = if tls { json!([{"hosts": ["shop.test"], "secretName": "cert"}]) } else { json!([]) };
        let spec = json!({"rules": [rule("shop.test", &[("/", "Prefix", "web")])], "tls": tls});
        put_spec(&mut cluster, "main", spec, &annotations);
        let core = cluster.compile();
        assert_eq!(outcome(&core, asked), expected, "{annotations:?} {}", asked.target);
        assert!(reports(&core, "main").is_empty(), "{:?}", reports(&core, "main"));
    }
}

#[test]
fn aliases_are_hosts_of_the_first_rule_unless_somebody_has_rules_for_them() {
    let mut cluster = cluster();
    put(&mut cluster, "main", &[("/", "Prefix", "web")], &[("server-alias", "a.test, shop.test,b.test")]);
    let own = json!({"rules": [rule("b.test", &[("/", "Prefix", "api")])]});
    put_spec(&mut cluster, "other", own, &[]);
    let core = cluster.compile();
    for (host, expected) in [("a.test", "shop/web:80 /"), ("b.test", "shop/api:80 /"), ("c.test", "404")] {
        assert_eq!(outcome(&core, Asked { host, ..ROOT }), expected, "{host}");
    }
}

#[test]
fn canaries_take_their_requests_of_the_rule_beside_and_leave_the_rest() {
    let mut cluster = cluster();
    put(&mut cluster, "main", &[("/a(/|$)(.*)", ANY.0, "web"), ("/b", "Prefix", "web")], &[("rewrite-target", "/$2")]);
    let canary =
        [("canary", "true"), ("canary-by-header", "x-canary"), ("canary-by-cookie", "c"), ("canary-weight", "30")];
    put(&mut cluster, "canary", &[("/a(/|$)(.*)", ANY.0, "api"), ("/c", "Prefix", "api")], &canary);
    let core = cluster.compile();
    let path = at("/a/x");
    for (asked, expected) in [
        (path, "shop/web:80 /x"),
        (Asked { draw: 29, ..path }, "shop/api:80 /x"),
        (Asked { draw: 30, ..path }, "shop/web:80 /x"),
        (Asked { headers: &[("x-canary", "always")], ..path }, "shop/api:80 /x"),
        (Asked { headers: &[("x-canary", "never")], draw: 0, ..path }, "shop/web:80 /x"),
        (Asked { headers: &[("cookie", "c=always")], ..path }, "shop/api:80 /x"),
        (Asked { draw: 0, ..at("/b") }, "shop/web:80 /"),
        (Asked { draw: 0, ..at("/c") }, "404"),
    ] {
        assert_eq!(outcome(&core, asked), expected, "{} {:?} {}", asked.target, asked.headers, asked.draw);
    }
    let told = reports(&core, "canary");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("NoMainIngress: canary of \"shop.test/c\""), "{told:?}");
}

#[test]
fn what_a_canary_is_of_is_compiled_again_when_it_changes() {
    let mut cluster = cluster();
    put(&mut cluster, "main", &[("/", "Prefix", "web")], &[]);
    put(&mut cluster, "elsewhere", &[("/x", "Prefix", "web")], &[]);
    put(&mut cluster, "canary", &[("/", "Prefix", "api")], &[("canary", "true"), ("canary-weight", "100")]);
    let get = |cluster: &Cluster, name: &str| cluster.ingress(&Key::new("shop", name)).unwrap();
    let related = |cluster: &Cluster, name: &str| {
        let ingress = get(cluster, name);
        let keys = ingresses::related([&*ingress].into_iter(), |place| cluster.ingresses_at(place));
        keys.into_iter().map(|key| key.name).collect::<Vec<_>>()
    };
    assert_eq!(related(&cluster, "canary"), ["main"]);
    assert_eq!(related(&cluster, "main"), ["canary"]);
    assert!(related(&cluster, "elsewhere").is_empty());
    let mut core = cluster.compile();
    assert_eq!(outcome(&core, ROOT), "shop/api:80 /");
    cluster.remove("Ingress", "shop", "canary");
    core.apply(["canary", "main"].map(|name| Item::Ingress(Key::new("shop", name))), &cluster);
    assert_eq!(outcome(&core, ROOT), "shop/web:80 /");
}

#[test]
fn backends_are_spoken_to_as_annotations_say() {
    for (annotations, http2, tls, name) in [
        (vec![], false, false, "shop/web:80"),
        (vec![("backend-protocol", "GRPC")], true, false, "shop/web:80"),
        (vec![("backend-protocol", "HTTPS")], false, true, "shop/web:80 "),
        (vec![("backend-protocol", "grpcs")], true, true, "shop/web:80 "),
        (vec![("service-upstream", "true")], false, false, "shop/web:80 itself"),
    ] {
        let mut cluster = cluster();
        put(&mut cluster, "main", &[("/", "Prefix", "web")], &annotations);
        let core = cluster.compile();
        let (headers, table) = (HeaderMap::new(), core.table());
        let head = RequestHead { host: "shop.test", method: &Method::GET, path: "/", query: None, headers: &headers };
        let Decision::Forward(way) = table.port(shared(80)).unwrap().route(80, None, &head, 0) else { panic!() };
        let spoken = matches!(way.backend.wire().security, crate::routing::Security::Tls { .. });
        assert_eq!((way.http2, spoken, way.backend.name()), (http2, tls, name), "{annotations:?}");
    }
    let mut cluster = cluster();
    let verify = [("backend-protocol", "HTTPS"), ("proxy-ssl-secret", "shop/none"), ("proxy-ssl-verify", "on")];
    put(&mut cluster, "main", &[("/", "Prefix", "web")], &verify);
    let told = reports(&cluster.compile(), "main");
    assert_eq!(told, ["InvalidCertificate: proxy-ssl-secret: Secret shop/none not found"]);
}

#[test]
fn who_must_be_kept_out_is_kept_out_when_that_cannot_be_served() {
    let mut cluster = cluster();
    put(&mut cluster, "main", &[("/", "Prefix", "web")], &[("auth-type", "digest")]);
    assert_eq!(outcome(&cluster.compile(), ROOT), "503");
    put(&mut cluster, "main", &[("/", "Prefix", "web")], &[("auth-tls-secret", "none")]);
    let core = cluster.compile();
    assert_eq!((outcome(&core, ROOT), reports(&core, "main").len()), ("503".to_owned(), 1));
}

#[test]
fn clients_are_verified_behind_ones_own_listener_only_and_never_in_the_clear() {
    let mut cluster = cluster();
    let root = rcgen::generate_simple_self_signed(["root.test".to_owned()]).unwrap();
    let pem = k8s_openapi::ByteString(root.cert.pem().into_bytes());
    cluster.put("Secret", "shop", "ca", json!({"data": {"ca.crt": pem}}));
    let tls = json!([{"hosts": ["shop.test"], "secretName": "cert"}]);
    let spec = |service: &str| json!({"rules": [rule("shop.test", &[("/", "Prefix", service)])], "tls": tls});
    put_spec(&mut cluster, "b", spec("web"), &[("auth-tls-secret", "shop/ca"), ("ssl-redirect", "false")]);
    let secure = Asked { port: 443, ..ROOT };
    let core = cluster.compile();
    assert_eq!(outcome(&core, secure), "shop/web:80 /");
    assert_eq!(outcome(&core, ROOT), "308 https://shop.test/");
    put_spec(&mut cluster, "a", json!({"rules": [], "tls": tls}), &[]);
    assert_eq!(outcome(&cluster.compile(), secure), "404", "an older listener would let everybody in");
}

#[test]
fn what_is_changed_on_the_way_is_in_the_filters() {
    let mut cluster = cluster();
    cluster.put("ConfigMap", "shop", "headers", json!({"data": {"X-Frame-Options": "DENY", "b d": "x"}}));
    let annotations = [
        ("x-forwarded-prefix", "/a"),
        ("upstream-vhost", "$service_name.$namespace.svc.cluster.local"),
        ("custom-headers", "shop/headers"),
        ("enable-cors", "true"),
        ("mirror-target", "http://api.shop.svc$request_uri"),
        ("proxy-read-timeout", "7"),
    ];
    put(&mut cluster, "main", &[("/", "Prefix", "web")], &annotations);
    let core = cluster.compile();
    let (headers, table) = (HeaderMap::new(), core.table());
    let head = RequestHead { host: "shop.test", method: &Method::GET, path: "/", query: None, headers: &headers };
    let Decision::Forward(way) = table.port(shared(80)).unwrap().route(80, None, &head, 0) else { panic!() };
    let filters = &way.rule.filters;
    assert_eq!(filters.request.set[0].1, "/a");
    assert_eq!(filters.response.set[0].1, "DENY");
    assert_eq!(
        filters.rewrite.as_ref().unwrap().host,
        Some(crate::routing::HostChange::Fixed("web.shop.svc.cluster.local".parse().unwrap()))
    );
    assert_eq!(filters.mirrors[0].backend.name(), "shop/api:80");
    assert!(filters.cors.is_some());
    assert_eq!(way.rule.traffic.as_ref().unwrap().silence, Some(Duration::from_secs(7)));
    assert_eq!(reports(&core, "main").len(), 1, "{:?}", reports(&core, "main"));
}

#[test]
fn tls_is_passed_on_by_server_name() {
    let mut cluster = cluster();
    put(&mut cluster, "main", &[("/", "Prefix", "web")], &[("ssl-passthrough", "true")]);
    let core = cluster.compile();
    assert_eq!(carried(&core, shared(443), "shop.test").as_deref(), Some("shop/web:80"));
    assert_eq!((carried(&core, shared(443), "other.test"), outcome(&core, ROOT)), (None, "closed".to_owned()));
}
