//! What rules refer to by `ExtensionRef`, and Backends.

use resilience::idempotency::{Duplicate, IdempotencyConfig};

use super::*;
use crate::routing::{HostChange, PathChange, Rule};

/// A filter by its specification, for rule `shop/route`.
fn with_filter(spec: Value) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.listen(http());
    let filter = json!({"group": "gateway.envoyproxy.io", "kind": "HTTPRouteFilter", "name": "f"});
    cluster.http_route(json!({"rules": [{"filters": [{"type": "ExtensionRef", "extensionRef": filter}],
        "backendRefs": [{"name": "web", "port": 80}]}]}));
    cluster.put("HTTPRouteFilter", "shop", "f", json!({"spec": spec}));
    cluster
}

fn message(core: &Core) -> String {
    let plan = core.route(RouteKind::Http, &Key::new("shop", "route")).unwrap();
    plan.parents[0].verdicts.iter().map(|verdict| &*verdict.message).collect::<Vec<_>>().join("|")
}

/// The rule that takes a request with these cookies, and what it does.
fn found(core: &Core, cookies: &str, look: impl FnOnce(&Rule)) -> bool {
    let mut headers = HeaderMap::new();
    headers.insert("cookie", cookies.parse().unwrap());
    let head = RequestHead { host: "h", method: &Method::GET, path: "/", query: None, headers: &headers };
    let table = core.table();
    let port = table.port(shared(80)).unwrap();
    match port.find(80, None, &head, 0).map(|found| found.decide(&head, None, 0)) {
        Ok(Decision::Forward(way)) => look(way.rule),
        Ok(Decision::Answer { rule, .. }) => look(rule),
        _ => return false,
    }
    true
}

#[test]
fn a_filter_that_is_not_there_has_the_rule_answered_with_500_until_it_is() {
    let mut cluster = with_filter(json!({"directResponse": {"statusCode": 418}}));
    let mut core = cluster.compile();
    assert_eq!(
        (reasons(&core, RouteKind::Http), taken(&core, 80, "h", "/")),
        (vec!["Accepted", "ResolvedRefs"], "answer 418".into())
    );
    cluster.remove("HTTPRouteFilter", "shop", "f");
    let gone = Dependency::Extension(ExtensionKind::RouteFilter, Key::new("shop", "f"));
    core.apply(core.dependents(&gone), &cluster);
    assert_eq!(reasons(&core, RouteKind::Http), ["Accepted", "UnsupportedValue"]);
    assert_eq!(message(&core), "|Unable to translate HTTPRouteFilter: shop/f");
    assert_eq!(taken(&core, 80, "h", "/"), "answer 500");
    cluster.put("HTTPRouteFilter", "shop", "f", json!({"spec": {}}));
    core.apply(core.dependents(&gone), &cluster);
    assert_eq!(taken(&core, 80, "h", "/"), "shop/web:80");
    let other = json!({"group": "example.com", "kind": "Wish", "name": "w"});
    cluster.http_route(json!({"rules": [{"filters": [{"type": "ExtensionRef", "extensionRef": other}]}]}));
    let core = cluster.compile();
    assert_eq!(reasons(&core, RouteKind::Http), ["Accepted", "UnsupportedValue"]);
    assert_eq!(message(&core), "|Reference shop/w not found for filter type: Wish");
    assert_eq!(taken(&core, 80, "h", "/"), "answer 500");
}

#[test]
fn a_direct_response_has_its_body_from_here_or_from_a_configmap() {
    let body = |kind: &str, more: Value| {
        let mut body = json!({"type": kind});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"directResponse": {"body": body}})
    };
    let reference = json!({"valueRef": {"group": "", "kind": "ConfigMap", "name": "texts"}});
    for (spec, map, expected) in [
        (body("Inline", json!({"inline": "here"})), json!({}), "200 text/plain here"),
        (
            body("ValueRef", reference.clone()),
            json!({"data": {"a": "first", "response.body": "named"}}),
            "200 text/plain named",
        ),
        (body("ValueRef", reference.clone()), json!({"data": {"a": "first"}}), "200 text/plain first"),
        (
            json!({"directResponse": {"statusCode": 503, "contentType": "application/json", "body": {"type": "Inline", "inline": "{}"}}}),
            json!({}),
            "503 application/json {}",
        ),
    ] {
        let mut cluster = with_filter(spec.clone());
        cluster.put("ConfigMap", "shop", "texts", map);
        let core = cluster.compile();
        let seen = found(&core, "", |rule| {
            let direct = rule.filters.direct.as_ref().unwrap();
            let (text, kind) = direct.body.as_ref().unwrap();
            let text = std::str::from_utf8(text).unwrap();
            assert_eq!(format!("{} {} {text}", direct.status.as_u16(), kind.to_str().unwrap()), expected);
        });
        assert!(seen, "{spec}");
    }
    for (spec, told) in [
        (body("ValueRef", reference), "can't find the key response.body in the referenced configmap texts"),
        (
            body("ValueRef", json!({"valueRef": {"group": "", "kind": "ConfigMap", "name": "none"}})),
            "can't find the referenced configmap none",
        ),
        (json!({"directResponse": {"statusCode": 100}}), "directResponse.statusCode: 100 is no status"),
        (
            json!({"urlRewrite": {"path": {"type": "ReplaceRegexMatch", "replaceRegexMatch": {"pattern": "(", "substitution": ""}}}}),
            "\"(\" by \"\"",
        ),
        (
            json!({"credentialInjection": {"credential": {"valueRef": {"name": "none"}}}}),
            "secret shop/none does not exist",
        ),
        (
            json!({"credentialInjection": {"credential": {"valueRef": {"name": "cert"}}}}),
            "credential key credential not found in secret shop/cert",
        ),
        (
            json!({"credentialInjection": {"credential": {"valueRef": {"name": "cert", "namespace": "other"}}}}),
            "no ReferenceGrant permits it",
        ),
    ] {
        let mut cluster = with_filter(spec.clone());
        cluster.put("ConfigMap", "shop", "texts", json!({}));
        let core = cluster.compile();
        assert_eq!(reasons(&core, RouteKind::Http), ["UnsupportedValue", "ResolvedRefs"], "{spec}");
        assert!(
            message(&core).starts_with("invalid filter HTTPRouteFilter: ") && message(&core).contains(told),
            "{}",
            message(&core)
        );
    }
}

#[test]
fn rewrites_of_a_filter_join_those_of_the_route_but_not_about_the_same_part() {
    let spec = json!({"urlRewrite": {"hostname": {"type": "Header", "header": "x-host"},
        "path": {"type": "ReplaceRegexMatch", "replaceRegexMatch": {"pattern": "a", "substitution": "b"}}}});
    let mut cluster = with_filter(spec);
    let core = cluster.compile();
    assert!(found(&core, "", |rule| {
        let rewrite = rule.filters.rewrite.as_ref().unwrap();
        assert_eq!(rewrite.host, Some(HostChange::Header("x-host".parse().unwrap())));
        assert!(matches!(&rewrite.path, Some(PathChange::Replaced(_))));
    }));
    let filter = json!({"group": "gateway.envoyproxy.io", "kind": "HTTPRouteFilter", "name": "f"});
    for (own, accepted) in [(json!({"hostname": "x.test"}), "UnsupportedValue"), (json!({}), "Accepted")] {
        cluster.http_route(json!({"rules": [{"filters": [{"type": "ExtensionRef", "extensionRef": filter},
            {"type": "URLRewrite", "urlRewrite": own}], "backendRefs": [{"name": "web", "port": 80}]}]}));
        assert_eq!(reasons(&cluster.compile(), RouteKind::Http)[0], accepted, "{own}");
    }
}

#[test]
fn conditions_on_cookies_add_to_those_of_the_rule() {
    let cluster = with_filter(json!({"matches": [
        {"cookies": [{"name": "beta", "value": "yes"}, {"name": "user", "type": "RegularExpression", "value": "u[0-9]+"}]},
        {"cookies": [{"name": "staff", "value": "1"}]},
    ]}));
    let core = cluster.compile();
    for (cookies, taken) in [
        ("beta=yes; user=u12", true),
        ("beta=yes", false),
        ("beta=yes; user=x12", false),
        ("staff=1", true),
        ("other=1", false),
    ] {
        assert_eq!(found(&core, cookies, |_| {}), taken, "{cookies}");
    }
}

#[test]
fn a_credential_comes_from_a_secret() {
    let spec = json!({"credentialInjection": {"header": "x-key", "overwrite": true, "credential": {"valueRef": {"name": "key"}}}});
    let mut cluster = with_filter(spec);
    // "secret" and the newline that editors end files with
    cluster.put("Secret", "shop", "key", json!({"data": {"credential": "c2VjcmV0Cg=="}}));
    assert!(found(&cluster.compile(), "", |rule| {
        let credential = rule.filters.credential.as_ref().unwrap();
        assert_eq!(
            (credential.header.as_str(), credential.value.to_str().unwrap(), credential.overwrite),
            ("x-key", "secret", true)
        );
    }));
}

/// An IdempotencyFilter by its specification, for rule `shop/route`.
fn with_idempotency(spec: Value) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.listen(http());
    let filter = json!({"group": "gateway.keelson.dev", "kind": "IdempotencyFilter", "name": "i"});
    cluster.http_route(json!({"rules": [{"filters": [{"type": "ExtensionRef", "extensionRef": filter}],
        "backendRefs": [{"name": "web", "port": 80}]}]}));
    cluster.put("IdempotencyFilter", "shop", "i", json!({"spec": spec}));
    cluster
}

#[test]
fn requests_are_done_once_as_a_filter_says() {
    let full = json!({"required": true, "methods": ["POST", "PUT"], "keepFor": "1h", "timeout": "5s",
        "concurrent": {"type": "Wait", "timeout": "3s"}, "callerHeaders": ["X-Tenant"],
        "maxRequestBytes": 10, "maxResponseBytes": 20});
    assert!(found(&with_idempotency(full).compile(), "", |rule| {
        let once = rule.filters.once.as_ref().unwrap();
        let config = once.keeper.config();
        assert_eq!((config.required, &*config.methods), (true, &[Method::POST, Method::PUT][..]));
        assert_eq!((config.keep, config.lease), (Duration::from_secs(3600), Duration::from_secs(5)));
        assert_eq!(config.duplicate, Duplicate::Wait(Duration::from_secs(3)));
        assert_eq!((config.request_bytes_max, config.answer_bytes_max), (10, 20));
        assert_eq!((&*once.owner.name, once.callers[0].as_str()), ("shop/route", "x-tenant"));
    }));
    assert!(found(&with_idempotency(json!({"concurrent": {"type": "Conflict"}})).compile(), "", |rule| {
        let once = rule.filters.once.as_ref().unwrap();
        let expected = IdempotencyConfig { duplicate: Duplicate::Conflict, ..IdempotencyConfig::default() };
        assert_eq!((once.keeper.config(), once.callers[0].as_str()), (&expected, "authorization"));
    }));
    let redis = |redis: Value| json!({"store": {"type": "Redis", "redis": redis}});
    for (spec, told) in [
        (redis(json!({"url": "redis://redis.example.com"})), ""),
        (redis(json!({"url": "http://x"})), "store.redis.url: must begin with redis:// or rediss://"),
        (redis(json!({"url": "redis://x", "credentials": {"name": "none"}})), "Secret shop/none not found"),
        (redis(json!({"url": "redis://x", "credentials": {"name": "cert"}})), "Secret shop/cert has no password"),
        (
            redis(
                json!({"url": "rediss://x", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "none"}]}),
            ),
            "ConfigMap shop/none: not found",
        ),
        (json!({"store": {"type": "Redis"}}), "redis must be set with type Redis, and only then"),
        (json!({"keepFor": "soon"}), "\"soon\" is no duration"),
        (json!({"keepFor": "10000h"}), "keep: "),
    ] {
        let core = with_idempotency(spec.clone()).compile();
        let accepted = if told.is_empty() { "Accepted" } else { "UnsupportedValue" };
        assert_eq!(reasons(&core, RouteKind::Http), [accepted, "ResolvedRefs"], "{spec}");
        assert!(message(&core).contains(told), "{spec}: {}", message(&core));
    }
    let mut cluster = with_idempotency(json!({}));
    let filter = json!({"group": "gateway.keelson.dev", "kind": "IdempotencyFilter", "name": "i"});
    let filter = json!([{"type": "ExtensionRef", "extensionRef": filter}]);
    cluster.put(
        "GRPCRoute",
        "shop",
        "route",
        json!({"spec": {"parentRefs": [{"name": "edge"}],
        "rules": [{"filters": filter, "backendRefs": [{"name": "web", "port": 80}]}]}}),
    );
    assert_eq!(reasons(&cluster.compile(), RouteKind::Grpc)[0], "UnsupportedValue");
    cluster.http_route(json!({"rules": [{"backendRefs": [{"name": "web", "port": 80, "filters": filter}]}]}));
    assert_eq!(reasons(&cluster.compile(), RouteKind::Http)[0], "UnsupportedValue");
}

fn with_backend(spec: Value) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.listen(http());
    let reference = json!({"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "b"});
    cluster.http_route(json!({"rules": [{"backendRefs": [reference]}]}));
    cluster.put("Backend", "shop", "b", json!({"spec": spec}));
    cluster
}

#[test]
fn a_route_leads_to_a_backend_of_its_own_kind() {
    let mut cluster = with_backend(json!({"endpoints": [{"ip": {"address": "10.1.2.3", "port": 8080}}],
        "appProtocols": ["gateway.envoyproxy.io/h2c"]}));
    let mut core = cluster.compile();
    assert_eq!(
        (reasons(&core, RouteKind::Http), taken(&core, 80, "h", "/")),
        (vec!["Accepted", "ResolvedRefs"], "shop/b".into())
    );
    let backend = cluster.declarations.backend(&Key::new("shop", "b"));
    assert_eq!((backend.endpoints().to_vec(), backend.wire().http2), (vec!["10.1.2.3:8080".parse().unwrap()], true));
    cluster.remove("Backend", "shop", "b");
    core.apply(vec![Item::Declared(Key::new("shop", "b"))], &cluster);
    core.apply(core.dependents(&Dependency::Declared(Key::new("shop", "b"))), &cluster);
    assert_eq!(
        (reasons(&core, RouteKind::Http), taken(&core, 80, "h", "/")),
        (vec!["Accepted", "BackendNotFound"], "500".into())
    );
    assert!(backend.endpoints().is_empty());
    let other = json!({"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "b", "namespace": "other"});
    cluster.http_route(json!({"rules": [{"backendRefs": [other]}]}));
    cluster.put("Backend", "other", "b", json!({"spec": {"endpoints": [{"ip": {"address": "10.1.2.3", "port": 1}}]}}));
    assert_eq!(reasons(&cluster.compile(), RouteKind::Http), ["Accepted", "RefNotPermitted"]);
    cluster.put(
        "ReferenceGrant",
        "other",
        "g",
        json!({"spec": {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}],
        "to": [{"group": "gateway.envoyproxy.io", "kind": "Backend"}]}}),
    );
    assert_eq!(reasons(&cluster.compile(), RouteKind::Http), ["Accepted", "ResolvedRefs"]);
}

#[test]
fn a_backend_says_whether_it_can_be_followed() {
    let ip = |tls: Value| json!({"endpoints": [{"ip": {"address": "10.1.2.3", "port": 443}}], "tls": tls});
    let roots = json!([{"group": "", "kind": "ConfigMap", "name": "roots"}]);
    for (spec, route, told) in [
        (json!({"endpoints": [{"fqdn": {"hostname": "api.example.com", "port": 443}}]}), "ResolvedRefs", ""),
        (json!({"endpoints": [{"unix": {"path": "/run/keelson/backends/app.sock"}}]}), "ResolvedRefs", ""),
        (json!({"type": "DynamicResolver"}), "InvalidBackendRef", "type DynamicResolver is not served"),
        (
            json!({"endpoints": [{"ip": {"address": "127.0.0.1", "port": 1}}]}),
            "InvalidAddress",
            "IP address 127.0.0.1 in the loopback range is not supported",
        ),
        (json!({"endpoints": [{"ip": {"address": "::ffff:127.0.0.1", "port": 1}}]}), "InvalidAddress", "loopback"),
        (json!({"endpoints": [{"ip": {"address": "169.254.169.254", "port": 80}}]}), "InvalidAddress", "link-local"),
        (json!({"endpoints": [{"ip": {"address": "0.0.0.0", "port": 80}}]}), "InvalidAddress", "unspecified"),
        (json!({"endpoints": [{"ip": {"address": "10.0.0.1", "port": 0}}]}), "InvalidAddress", "0 is no port"),
        (
            json!({"endpoints": [{"fqdn": {"hostname": "localhost", "port": 80}}]}),
            "InvalidAddress",
            "should be a domain with at least two segments",
        ),
        (json!({"endpoints": [{"fqdn": {"hostname": "127.0.0.1", "port": 80}}]}), "InvalidAddress", "is an IP address"),
        (
            json!({"endpoints": [{"unix": {"path": "/run/containerd.sock"}}]}),
            "InvalidAddress",
            "is not below /run/keelson/backends",
        ),
        (json!({"endpoints": [{"unix": {"path": "/run/keelson/backends/../x"}}]}), "InvalidAddress", "is not below"),
        (ip(json!({})), "ResolvedRefs", "must specify either CACertificateRefs or WellKnownCACertificates"),
        (ip(json!({"caCertificateRefs": roots})), "ResolvedRefs", ""),
        (
            ip(json!({"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "none"}]})),
            "ResolvedRefs",
            "caCertificateRef: ConfigMap shop/none: not found",
        ),
        (ip(json!({"insecureSkipVerify": true, "minVersion": "1.3"})), "ResolvedRefs", ""),
        (
            ip(json!({"insecureSkipVerify": true, "maxVersion": "1.1"})),
            "ResolvedRefs",
            "versions older than 1.2 are not served",
        ),
        (ip(json!({"insecureSkipVerify": true, "clientCertificateRef": {"name": "cert"}})), "ResolvedRefs", ""),
        (
            ip(json!({"insecureSkipVerify": true, "clientCertificateRef": {"name": "none"}})),
            "ResolvedRefs",
            "clientCertificateRef: Secret shop/none: not found",
        ),
    ] {
        let core = with_backend(spec.clone()).compile();
        assert_eq!(reasons(&core, RouteKind::Http)[1], route, "{spec}");
        let verdicts = core.declared(&Key::new("shop", "b")).unwrap().verdicts();
        let (holds, message) = (verdicts[0].holds, &verdicts[0].message);
        match told {
            "" => assert!(holds && message == "The Backend was accepted", "{spec}: {message}"),
            told => assert!(
                !holds && message.starts_with("The Backend was not accepted: ") && message.contains(told),
                "{spec}: {message}"
            ),
        }
        assert_eq!(verdicts.len(), 1, "{spec}");
    }
    let core = with_backend(ip(json!({"insecureSkipVerify": true, "ciphers": ["x"]}))).compile();
    let verdicts = core.declared(&Key::new("shop", "b")).unwrap().verdicts();
    assert_eq!((verdicts[1].type_, &*verdicts[1].message), ("Warning", "spec.tls.ciphers is not followed"));
}

/// An ApiVersionFilter for rule `shop/route` with backends `web` and `api`.
fn with_versions(spec: Value) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.listen(http());
    let filter = json!({"group": "gateway.keelson.dev", "kind": "ApiVersionFilter", "name": "v"});
    cluster.http_route(json!({"rules": [{"filters": [{"type": "ExtensionRef", "extensionRef": filter}],
        "backendRefs": [{"name": "web", "port": 80}, {"name": "api", "port": 80}]}]}));
    cluster.put("ApiVersionFilter", "shop", "v", json!({"spec": spec}));
    cluster
}

#[test]
fn versions_have_backends_and_dates() {
    let old = json!({"name": "v1", "aliases": ["1"], "backends": ["web"], "deprecatedAt": "2026-01-01T00:00:00Z",
        "sunsetAt": "2099-01-01T00:00:00Z", "afterSunset": "Gone",
        "links": [{"rel": "deprecation", "href": "https://shop.test/v1", "type": "text/html"}]});
    let gone = json!({"name": "v0", "sunsetAt": "2020-01-01T00:00:00Z", "afterSunset": "Gone"});
    let spec = json!({"locations": [{"type": "Path"}, {"type": "Header", "header": "Api-Version"}], "default": "v2",
        "versions": [old, {"name": "v2", "backends": ["api"]}, gone]});
    let core = with_versions(spec.clone()).compile();
    for (path, expected) in [
        ("/v1/orders", "shop/web:80"),
        ("/1/orders", "shop/web:80"),
        ("/orders", "shop/api:80"),
        ("/v0/orders", "answer 410"),
    ] {
        assert_eq!(taken(&core, 80, "h", path), expected, "{path}");
    }
    assert!(found(&core, "", |rule| {
        let headers = &rule.filters.versions.as_ref().unwrap().all[0].headers;
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(
            headers,
            [
                "deprecation: @1767225600",
                "sunset: Thu, 01 Jan 2099 00:00:00 GMT",
                "link: <https://shop.test/v1>; rel=\"deprecation\"; type=\"text/html\"",
            ]
        );
    }));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut spec = spec.clone();
        change(&mut spec);
        let core = with_versions(spec).compile();
        (reasons(&core, RouteKind::Http)[0], message(&core))
    };
    for (change, told) in [
        (
            &(|spec: &mut Value| spec["default"] = "v9".into()) as &dyn Fn(&mut Value),
            "\"v9\" is the name of no version",
        ),
        (&|spec| spec["versions"][1]["aliases"] = json!(["v1"]), "\"v1\" is the name of two"),
        (&|spec| spec["versions"][1]["backends"] = json!(["none"]), "the rule has no backendRef \"none\""),
        (&|spec| spec["versions"][0]["sunsetAt"] = "soon".into(), "\"soon\" is no time"),
        (
            &|spec| spec["locations"][0] = json!({"type": "MediaType", "mediaType": "a/b"}),
            "no media type with {version} in it",
        ),
        (&|spec| spec["locations"][0] = json!({"type": "Header"}), "lacks what belongs to it"),
    ] {
        let (reason, message) = with(change);
        assert!(reason == "UnsupportedValue" && message.contains(told), "{reason} {message}");
    }
}
