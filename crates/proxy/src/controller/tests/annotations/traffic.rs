//! How requests are forwarded by annotations.

use super::*;
use crate::routing::{Balance, Carrier, Rule, Session, Traffic};

/// The rule for the root of `shop.test`.
pub(super) fn rule_of(core: &Core, asked: Asked<'_>) -> Rule {
    let headers = HeaderMap::new();
    let head =
        RequestHead { host: asked.host, method: &Method::GET, path: asked.target, query: None, headers: &headers };
    let table = core.table();
    match table.port(shared(80)).unwrap().route(80, None, &head, 0) {
        Decision::Forward(way) => Rule::clone(way.rule),
        other => panic!("{other:?}"),
    }
}

fn traffic(annotations: &[(&str, &str)]) -> Arc<Traffic> {
    let mut cluster = cluster();
    put(&mut cluster, "main", &[("/", "Prefix", "web")], annotations);
    let core = cluster.compile();
    assert_eq!(reports(&core, "main"), Vec::<String>::new(), "{annotations:?}");
    rule_of(&core, ROOT).traffic.unwrap()
}

#[test]
fn without_annotations_requests_are_forwarded_as_ingress_nginx_does() {
    let plain = traffic(&[]);
    assert_eq!((plain.silence, plain.body_max), (Some(Duration::from_secs(60)), Some(1 << 20)));
    assert!(plain.upstream.is_none() && plain.retry.is_none() && plain.rates.is_empty() && plain.crowd.is_none());
    let open = traffic(&[("proxy-body-size", "0"), ("proxy-read-timeout", "0"), ("proxy-connect-timeout", "3")]);
    assert_eq!((open.silence, open.body_max, open.connect), (None, None, Some(Duration::from_secs(3))));
}

#[test]
fn endpoints_are_chosen_as_annotations_say() {
    let key = "$request_uri$host";
    for (annotations, expected) in [
        (vec![("load-balance", "ewma")], "Fastest"),
        (vec![("load-balance", "round_robin")], "none"),
        (vec![("upstream-hash-by", key), ("load-balance", "ewma")], "Hash"),
        (vec![("upstream-hash-by", key), ("upstream-hash-by-subset", "true")], "3"),
        (
            vec![("upstream-hash-by", key), ("upstream-hash-by-subset", "true"), ("upstream-hash-by-subset-size", "2")],
            "2",
        ),
    ] {
        let traffic = traffic(&annotations);
        let balance = traffic.upstream.as_ref().map(|upstream| &upstream.config.balance);
        let found = match balance {
            None => "none".to_owned(),
            Some(Balance::Fastest) => "Fastest".to_owned(),
            Some(Balance::Hash(_)) => "Hash".to_owned(),
            Some(Balance::Few(_, count)) => count.to_string(),
            Some(other) => panic!("{other:?}"),
        };
        assert_eq!(found, expected, "{annotations:?}");
    }
}

#[test]
fn other_endpoints_are_tried_for_what_is_named() {
    use crate::routing::{Failed, Trigger};
    let status = |code| Failed::Status(::http::StatusCode::from_u16(code).unwrap());
    let retry = |annotations: &[_]| Arc::clone(traffic(annotations).retry.as_ref().unwrap());
    let named = retry(&[("proxy-next-upstream", "error http_502 non_idempotent"), ("proxy-next-upstream-tries", "2")]);
    assert!(named.takes(status(502)) && named.takes(Failed::Reset { sent: true }) && !named.takes(Failed::Timeout));
    assert_eq!((named.careful, named.config.tries_max, named.within), (false, 2, None));
    let default = retry(&[("proxy-next-upstream-timeout", "7")]);
    assert_eq!(default.triggers, [Trigger::Broken, Trigger::Timeout]);
    assert_eq!((default.careful, default.config.tries_max, default.within), (true, 3, Some(Duration::from_secs(7))));
    let off = retry(&[("proxy-next-upstream", "off")]);
    assert!(!off.takes(Failed::Timeout) && !off.takes(Failed::Reset { sent: true }));
}

#[test]
fn limits_are_counted_on_when_something_else_of_the_ingress_changes() {
    let limited = traffic(&[("limit-rps", "5"), ("limit-rpm", "9"), ("limit-connections", "2")]);
    assert_eq!((limited.rates.len(), limited.crowd.is_some()), (1, true));
    let mut cluster = cluster();
    let main = Item::Ingress(Key::new("shop", "main"));
    put(&mut cluster, "main", &[("/", "Prefix", "web")], &[("limit-rps", "5")]);
    let mut core = cluster.compile();
    let before = rule_of(&core, ROOT).traffic.unwrap();
    put(&mut cluster, "main", &[("/", "Prefix", "api")], &[("limit-rps", "5")]);
    core.apply([main.clone()], &cluster);
    assert!(Arc::ptr_eq(&before, &rule_of(&core, ROOT).traffic.unwrap()));
    put(&mut cluster, "main", &[("/", "Prefix", "api")], &[("limit-rps", "6")]);
    core.apply([main], &cluster);
    assert!(!Arc::ptr_eq(&before, &rule_of(&core, ROOT).traffic.unwrap()));
}

#[test]
fn clients_keep_their_endpoint_by_the_cookie_that_is_asked_for() {
    let session = |paths: &[(&str, &str, &str)], annotations: &[(&str, &str)]| -> Option<Arc<Session>> {
        let mut cluster = cluster();
        put(&mut cluster, "main", paths, annotations);
        let core = cluster.compile();
        assert_eq!(reports(&core, "main"), Vec::<String>::new(), "{annotations:?}");
        rule_of(&core, at("/a/b")).session
    };
    let cookie = |session: &Session, tls| session.tell(None, 7, 0, tls).unwrap().1.to_str().unwrap().to_owned();
    assert!(session(&[("/", "Prefix", "web")], &[]).is_none());
    let plain =
        session(&[("/a", "Prefix", "web")], &[("affinity", "cookie"), ("affinity-mode", "persistent")]).unwrap();
    assert!(plain.keeps && matches!(plain.carrier, Carrier::Cookie { .. }));
    assert_eq!(cookie(&plain, false), "INGRESSCOOKIE=7-0-0; Path=/a; HttpOnly");
    assert_eq!(cookie(&plain, true), "INGRESSCOOKIE=7-0-0; Path=/a; HttpOnly; Secure");
    let full = session(
        &[("/a/(.*)", ANY.0, "web")],
        &[
            ("use-regex", "true"),
            ("affinity", "cookie"),
            ("session-cookie-name", "route"),
            ("session-cookie-max-age", "60"),
            ("session-cookie-domain", ".shop.test"),
            ("session-cookie-samesite", "None"),
            ("session-cookie-secure", "true"),
            ("session-cookie-partitioned", "true"),
            ("session-cookie-change-on-failure", "true"),
        ],
    )
    .unwrap();
    assert!(!full.keeps);
    assert_eq!(
        cookie(&full, true),
        "route=7-0-0; Path=/; HttpOnly; Max-Age=60; Domain=shop.test; SameSite=None; Secure; Partitioned"
    );
}

#[test]
fn values_that_make_no_sense_are_told() {
    for (annotation, told) in [
        (("affinity", "ip"), "InvalidAnnotation: annotation affinity: \"ip\" is not \"cookie\""),
        (
            ("load-balance", "least_conn"),
            "InvalidAnnotation: annotation load-balance: \"least_conn\" is none of round_robin, ewma",
        ),
        (
            ("proxy-body-size", "8mb"),
            "InvalidAnnotation: annotation proxy-body-size: \"8mb\" is no size such as 8m, 512k or 1000",
        ),
        (
            ("proxy-next-upstream", "http_501"),
            "InvalidAnnotation: annotation proxy-next-upstream: \"http_501\" is no reason for another try",
        ),
        (
            ("proxy-next-upstream-tries", "99"),
            "InvalidAnnotation: annotation proxy-next-upstream-tries: 99 is more than 20",
        ),
        (
            ("limit-whitelist", "10.0.0.0/33"),
            "InvalidAnnotation: annotation limit-whitelist: \"10.0.0.0/33\" is neither an address nor a network",
        ),
        (
            ("upstream-hash-by", "$nothing"),
            "InvalidAnnotation: annotation upstream-hash-by: \"$nothing\": variable $nothing is not known",
        ),
        (
            ("backend-protocol", "FCGI"),
            "UnservedAnnotation: annotation backend-protocol: backends are spoken to in HTTP and gRPC only",
        ),
        (
            ("permanent-redirect", "http://a.test/$remote_addr"),
            "UnservedAnnotation: annotation permanent-redirect: the address of a client is not for others to be told",
        ),
    ] {
        let mut cluster = cluster();
        put(&mut cluster, "main", &[("/", "Prefix", "web")], &[annotation]);
        let reports = reports(&cluster.compile(), "main");
        assert_eq!(reports, [told.replacen("annotation ", "annotation nginx.ingress.kubernetes.io/", 1)]);
    }
}
