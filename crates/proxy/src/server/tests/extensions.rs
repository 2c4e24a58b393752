//! What filters of other APIs change, and backends that are no Services.

use super::*;
use crate::routing::{Backend, Credential, Direct, Security, Substitution, Version, VersionPlace, Versions, Wire};

fn answering(direct: Direct) -> Filters {
    Filters { direct: Some(Arc::new(direct)), ..Filters::default() }
}

#[tokio::test]
async fn a_route_answers_itself() {
    let edits = HeaderEdits { set: vec![("x-by".parse().unwrap(), value("route"))], ..HeaderEdits::default() };
    let body = Some((Bytes::from_static(b"{\"ok\":false}"), value("application/json")));
    let direct = Direct { status: StatusCode::SERVICE_UNAVAILABLE, body, edits };
    let gateway = Gateway::start(table(rule(Vec::new(), answering(direct)))).await;
    let mut client = gateway.connect().await;
    for method in [Method::GET, Method::POST] {
        let request = Request::builder().method(method).uri("/").header("host", "h").body(Full::from("body")).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (StatusCode::SERVICE_UNAVAILABLE, "{\"ok\":false}"));
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.headers["x-by"], "route");
    }
    let gateway = Gateway::start(table(rule(Vec::new(), answering(Direct::status(StatusCode::NO_CONTENT))))).await;
    assert_eq!(gateway.get("/").await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn backends_get_the_credential_and_the_host_that_filters_say() {
    let echo = echo().await;
    let credential = |overwrite| Credential { header: "x-key".parse().unwrap(), value: value("ours"), overwrite };
    let sent = async |filters: Filters, backend: &Arc<Backend>| {
        let gateway = Gateway::start(table(rule(vec![share(backend, 1)], filters))).await;
        let request =
            Request::get("/shop/a/a?q=a").header("host", "h").header("x-key", "theirs").header("x-to", "to.test");
        gateway.connect().await.send(request.body(Full::default()).unwrap()).await.unwrap().body
    };
    let plain = backend(&[echo.address]);
    for (overwrite, expected) in [(true, "x-key: ours\n"), (false, "x-key: theirs\n")] {
        let filters = Filters { credential: Some(credential(overwrite)), ..Filters::default() };
        assert!(sent(filters, &plain).await.contains(expected));
    }
    let hosted = backend(&[echo.address]);
    hosted.set_wire(Wire { host: Some(value("backend.test")), ..Wire::new(false, Security::Plain) });
    let regex = |from, to| Substitution::new(from, to).unwrap();
    for (host, backend, expected) in [
        (HostChange::Header("x-to".parse().unwrap()), &plain, "host: to.test\n"),
        (HostChange::Header("x-none".parse().unwrap()), &plain, "host: h\n"),
        (HostChange::Header("x-key".parse().unwrap()), &plain, "host: theirs\n"),
        (HostChange::Backend, &hosted, "host: backend.test\n"),
        (HostChange::Backend, &plain, "host: h\n"),
        (HostChange::Path(regex("^/([a-z]+)/.*$", "\\1.test")), &plain, "host: shop.test\n"),
        (HostChange::Path(regex("^/none", "x")), &plain, "host: h\n"),
    ] {
        let path = Some(PathChange::Replaced(regex("/a", "/b")));
        for conceals in [false, true] {
            let rewrite = Rewrite { host: Some(host.clone()), path: path.clone(), conceals };
            let filters = Filters { rewrite: Some(rewrite), ..Filters::default() };
            let body = sent(filters, backend).await;
            assert!(body.starts_with("GET /shop/b/b?q=a\n") && body.contains(expected), "{host:?}: {body}");
            assert_eq!(body.contains("x-forwarded-host: h\n"), !conceals, "{body}");
        }
    }
}

#[tokio::test]
async fn a_backend_may_be_a_socket_in_the_file_system() {
    let directory =
        std::env::temp_dir().join(format!("keelson-socket-{}-{:x}", std::process::id(), rand::random::<u64>()));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(async |_| {
                Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("socket")))
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    });
    let target = backend(&[Wire::stand_in(1)]);
    target.set_wire(Wire { sockets: [directory.join("none"), path].into(), ..Wire::new(false, Security::Plain) });
    let gateway = Gateway::start(table(forward(vec![share(&target, 1)]))).await;
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.body, "socket");
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_fallback_is_used_while_the_others_have_no_endpoint() {
    let (first, second) = (named("first").await, named("second").await);
    let (primary, fallback) = (backend(&[first.address]), backend(&[second.address]));
    fallback.set_fallback(true);
    let gateway = Gateway::start(table(forward(vec![share(&primary, 1), share(&fallback, 9)]))).await;
    let mut client = gateway.connect().await;
    for (endpoints, expected) in [(vec![first.address], "first"), (vec![], "second"), (vec![first.address], "first")] {
        primary.set_endpoints(endpoints);
        for _ in 0..5 {
            assert_eq!(client.get("/").await.body, expected);
        }
    }
    primary.set_endpoints(Vec::new());
    fallback.set_endpoints(Vec::new());
    assert_eq!(client.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_version_is_told_to_both_sides() {
    let echo = echo().await;
    let version = |name: &'static str| Version {
        names: vec![name.into()],
        told: value(name),
        shares: None,
        headers: vec![(http::header::LINK, value("<https://shop.test/next>; rel=\"successor-version\""))],
        gone: None,
    };
    let versions = Versions {
        places: vec![VersionPlace::Path("".into()), VersionPlace::Header(name("api-version"))],
        default: None,
        header: name("api-version"),
        all: vec![version("v1"), version("v2")],
        unknown: Arc::new(Direct::status(StatusCode::BAD_REQUEST)),
    };
    let filters = Filters { versions: Some(Arc::new(versions)), ..Filters::default() };
    let gateway = Gateway::start(table(rule(vec![share(&backend(&[echo.address]), 1)], filters))).await;
    let mut client = gateway.connect().await;
    for (target, sent, expected) in
        [("/v1/orders?q=1", "v2", "GET /orders?q=1\n"), ("/v1", "v2", "GET /\n"), ("/orders", "v1", "GET /orders\n")]
    {
        let request = Request::get(target).header("host", "h").header("api-version", sent);
        let answer = client.send(request.body(Full::default()).unwrap()).await.unwrap();
        assert!(answer.body.starts_with(expected) && answer.body.contains("api-version: v1\n"), "{}", answer.body);
        assert_eq!(answer.headers["vary"], "api-version");
        assert_eq!(answer.headers["link"], "<https://shop.test/next>; rel=\"successor-version\"");
    }
    assert_eq!(client.get("/orders").await.status, StatusCode::BAD_REQUEST);
}
