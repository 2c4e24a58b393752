//! What Ingresses are in Gateway API answers as they do.

use super::*;
use crate::translate;

/// The Ingresses of a cluster, translated, in a cluster that is otherwise the same.
fn translated(cluster: &Cluster) -> Cluster {
    let objects: Vec<Value> = cluster
        .objects
        .iter()
        .map(|((kind, _), object)| {
            let mut object = object.clone();
            object["kind"] = kind.as_str().into();
            object
        })
        .collect();
    let translation = translate(&objects, "keelson");
    let mut other = Cluster::new();
    for ((kind, key), object) in &cluster.objects {
        if ["Service", "ConfigMap", "Secret"].contains(&kind.as_str()) {
            other.put(kind, &key.namespace, &key.name, object.clone());
        }
    }
    for object in translation.objects {
        let (kind, name) = (object["kind"].as_str().unwrap().to_owned(), object["metadata"]["name"].clone());
        other.put(&kind, "shop", name.as_str().unwrap(), object);
    }
    other
}

/// Like [`outcome`], but a rewrite of a prefix and redirects of routes are told too.
fn answer(core: &Core, asked: Asked<'_>, random: u64) -> String {
    let (mut headers, method) = (HeaderMap::new(), Method::GET);
    for (name, value) in asked.headers {
        headers.append(*name, value.parse().unwrap());
    }
    let (path, query) = asked.target.split_once('?').map_or((asked.target, None), |(path, query)| (path, Some(query)));
    let head = RequestHead { host: asked.host, method: &method, path, query, headers: &headers };
    let table = core.table();
    let Some(port) = table.port(shared(asked.port)) else { return "closed".to_owned() };
    match port.route(asked.port, None, &head, random) {
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

#[test]
fn translating_and_serving_gives_the_answers_of_the_ingress() {
    let prefix = ("/", "Prefix", "web");
    let canary = |annotations: &'static [(&'static str, &'static str)]| [&[("canary", "true")], annotations].concat();
    let secure = |target: &'static str| Asked { port: 443, ..at(target) };
    let with = |headers: &'static [(&'static str, &'static str)]| Asked { headers, ..ROOT };
    let www = Asked { host: "www.shop.test", ..at("/a?b=c") };
    let alias = Asked { host: "alias.test", ..ROOT };
    let draws: Vec<u64> = (0..100).collect();
    for (paths, annotations, other, asked) in [
        (
            vec![prefix, ("/a", "Exact", "api"), ("/b", "Prefix", "api")],
            vec![],
            vec![],
            vec![ROOT, at("/a"), at("/a/"), at("/b/c"), at("/bc")],
        ),
        (vec![prefix], vec![("server-alias", "alias.test")], vec![], vec![ROOT, alias, www]),
        (vec![prefix], vec![("from-to-www-redirect", "true")], vec![], vec![www, ROOT]),
        (vec![prefix], vec![("app-root", "/app")], vec![], vec![ROOT, at("/x")]),
        (vec![prefix], vec![("permanent-redirect", "https://new.test$request_uri")], vec![], vec![ROOT, at("/a?b=c")]),
        (
            vec![prefix],
            vec![("temporal-redirect", "http://new.test:81/b"), ("temporal-redirect-code", "307")],
            vec![],
            vec![at("/a")],
        ),
        (
            vec![("/foo", "Prefix", "web")],
            vec![("rewrite-target", "/")],
            vec![],
            vec![at("/foo/bar"), at("/foo"), ROOT],
        ),
        (
            vec![("/x(/|$)(.*)", ANY.0, "web")],
            vec![("rewrite-target", "/$2")],
            vec![],
            vec![at("/x"), at("/x/"), at("/x/a/b"), at("/xa")],
        ),
        (vec![("/x(/|$)(.*)", ANY.0, "web")], vec![("rewrite-target", "/api/$2")], vec![], vec![at("/x/a"), at("/x/")]),
        (
            vec![("/item/[0-9]+", ANY.0, "web"), ("/other", "Exact", "api")],
            vec![("use-regex", "true")],
            vec![],
            vec![at("/item/7"), at("/ITEM/7/x"), at("/item/x"), at("/other")],
        ),
        (
            vec![prefix],
            vec![],
            canary(&[("canary-by-header", "x-canary")]),
            vec![ROOT, with(&[("x-canary", "always")]), with(&[("x-canary", "never")]), with(&[("x-canary", "x")])],
        ),
        (
            vec![prefix],
            vec![],
            canary(&[("canary-by-header", "x-canary"), ("canary-by-header-pattern", "d.*e")]),
            vec![ROOT, with(&[("x-canary", "a-dxe")]), with(&[("x-canary", "e")])],
        ),
        (
            vec![prefix],
            vec![],
            canary(&[("canary-by-cookie", "c")]),
            vec![
                ROOT,
                with(&[("cookie", "a=b; c=always; d=e")]),
                with(&[("cookie", "c=never")]),
                with(&[("cookie", "cc=always")]),
            ],
        ),
        (vec![prefix], vec![("ssl-redirect", "false")], vec![], vec![ROOT, secure("/a")]),
        (vec![prefix], vec![("secure", "")], vec![], vec![at("/a?b"), secure("/a")]),
    ] {
        let mut cluster = cluster();
        let tls = annotations.iter().any(|(name, _)| ["secure", "ssl-redirect"].contains(name));
        let tls = if tls { json!([{"hosts": ["shop.test"], "secretName": "cert"}]) } else { json!([]) };
        let annotations: Vec<_> = annotations.into_iter().filter(|(name, _)| *name != "secure").collect();
        let spec = json!({"rules": [rule("shop.test", &paths)], "tls": tls});
        put_spec(&mut cluster, "main", spec, &annotations);
        if !other.is_empty() {
            put(&mut cluster, "other", &[("/", "Prefix", "api")], &other);
        }
        let (before, after) = (cluster.compile(), translated(&cluster).compile());
        for asked in asked {
            let (expected, found) = (answer(&before, asked, asked.draw << 32), answer(&after, asked, asked.draw));
            assert_eq!(found, expected, "{paths:?} {annotations:?} {other:?} {asked:?}");
        }
    }
    let mut cluster = cluster();
    put(&mut cluster, "main", &[prefix], &[]);
    put(&mut cluster, "other", &[("/", "Prefix", "api")], &[("canary", "true"), ("canary-weight", "30")]);
    let (before, after) = (cluster.compile(), translated(&cluster).compile());
    // A canary is drawn by the upper half of the number, a backend by all of it.
    let share = |core: &Core, shift: u32| {
        let taken = draws.iter().filter(|draw| answer(core, ROOT, **draw << shift).starts_with("shop/api"));
        taken.count()
    };
    assert_eq!((share(&before, 32), share(&after, 0)), (30, 30));
}
