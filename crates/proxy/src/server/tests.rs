//! The data path over real sockets.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use self::harness::*;
use super::*;
use crate::routing::{
    Certificate, Filters, HeaderEdits, HostChange, Mode, PathChange, Protocol, Redirect, Rewrite, RouteTable, Timeouts,
};

mod clients;
mod encrypted;
mod extensions;
mod faults;
mod filters;
mod guards;
mod harness;
mod limits;
mod once;
mod pages;
mod protocols;
mod traffic;
mod upstreams;
mod visits;

fn name(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

fn value(value: &'static str) -> HeaderValue {
    HeaderValue::from_static(value)
}

fn rewriting(host: &'static str, path: Option<PathChange>) -> Rewrite {
    Rewrite { host: Some(HostChange::Fixed(value(host))), path, conceals: false }
}

#[tokio::test]
async fn backends_get_their_share_of_the_requests() {
    let (a, b) = (named("a").await, named("b").await);
    let shares = vec![share(&backend(&[a.address]), 3), share(&backend(&[b.address]), 1)];
    let gateway = Gateway::start(table(forward(shares))).await;
    let mut client = gateway.connect().await;
    let mut to_a = 0;
    for _ in 0..400 {
        to_a += usize::from(client.get("/").await.body == "a");
    }
    // Six standard deviations around 300.
    assert!((248..=352).contains(&to_a), "{to_a} of 400");
}

#[tokio::test]
async fn request_arrives_changed_only_as_a_proxy_and_its_rule_should() {
    let upstream = echo().await;
    let mut share = share(&backend(&[upstream.address]), 1);
    share.filters.request.set.push((name("x-share"), value("1")));
    let mut rule = forward(vec![share]);
    rule.filters.request = HeaderEdits {
        remove: vec![name("x-secret")],
        set: vec![(name("x-set"), value("new"))],
        add: vec![(name("x-add"), value("two"))],
    };
    rule.filters.response.set.push((name("x-backend"), value("changed")));
    let gateway = Gateway::start(table(rule)).await;
    let request = Request::post("/path?q=1")
        .header("host", "Shop.example.com:8080")
        .header("connection", "x-hop, close")
        .header("x-hop", "1")
        .header("te", "trailers")
        .header("x-secret", "1")
        .header("x-set", "old")
        .header("x-add", "one")
        .header("x-forwarded-for", "1.2.3.4")
        .header("x-forwarded-proto", "https");
    let request = request.body(Full::from("content")).unwrap();
    let answer = gateway.connect().await.send(request).await.unwrap();
    assert!(answer.body.starts_with("POST /path?q=1\n") && answer.body.ends_with("\n\ncontent"), "{}", answer.body);
    for line in [
        "host: Shop.example.com:8080",
        "x-set: new",
        "x-add: one,two",
        "x-share: 1",
        "x-forwarded-for: 1.2.3.4, 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: Shop.example.com:8080",
        "content-length: 7",
    ] {
        assert!(answer.body.contains(&format!("\n{line}\n")), "{line} is missing in {}", answer.body);
    }
    for gone in ["\nx-hop:", "\nconnection:", "\nx-secret:", "\nte:"] {
        assert!(!answer.body.contains(gone), "{gone} in {}", answer.body);
    }
    assert!(answer.body.contains("\nx-request-id: "));
    assert_eq!((&answer.headers["x-backend"], answer.headers.get("keep-alive")), (&value("changed"), None));
}

#[tokio::test]
async fn path_and_host_are_rewritten() {
    let upstream = echo().await;
    let rewrite = rewriting("inner.example.com", Some(PathChange::Prefix("/v2".into())));
    let filters = Filters { rewrite: Some(rewrite), ..Filters::default() };
    let mut table = listening(Protocol::Http, vec![config(None, Mode::Http(None))]);
    insert(&mut table, None, "/api", rule(vec![share(&backend(&[upstream.address]), 1)], filters));
    let gateway = Gateway::start(table).await;
    let answer = gateway.get("/api/orders?q=1").await;
    assert!(answer.body.starts_with("GET /v2/orders?q=1\n"), "{}", answer.body);
    assert!(answer.body.contains("\nhost: inner.example.com\n") && answer.body.contains("\nx-forwarded-host: h\n"));
    assert_eq!(gateway.get("/other").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn one_backend_of_several_may_have_its_own_rewrite_or_redirect() {
    let upstream = echo().await;
    let target = backend(&[upstream.address]);
    let rewrite = rewriting("inner.test", Some(PathChange::Full("/inner".into())));
    let mut own = share(&target, 1);
    own.filters.rewrite = Some(rewrite);
    let outer = rewriting("outer.test", None);
    let filters = Filters { rewrite: Some(outer), ..Filters::default() };
    let gateway = Gateway::start(table(rule(vec![own], filters))).await;
    let answer = gateway.get("/a?q=1").await;
    assert!(
        answer.body.starts_with("GET /inner?q=1\n") && answer.body.contains("\nhost: inner.test\n"),
        "{}",
        answer.body
    );
    let mut elsewhere = share(&target, 1);
    let redirect =
        Redirect { status: StatusCode::FOUND, scheme: None, host: Some("new.test".into()), port: None, path: None };
    elsewhere.filters.redirect = Some(redirect);
    gateway.server.install(table(forward(vec![elsewhere])));
    assert_eq!(gateway.get("/a").await.headers["location"], "http://new.test/a");
}

#[tokio::test]
async fn redirect_is_answered_by_the_gateway() {
    let redirect = Redirect {
        status: StatusCode::MOVED_PERMANENTLY,
        scheme: Some("https".into()),
        host: None,
        port: None,
        path: None,
    };
    let filters = Filters { redirect: Some(redirect), ..Filters::default() };
    let gateway = Gateway::start(table(rule(Vec::new(), filters))).await;
    let answer = gateway.get("/a?b=c").await;
    assert_eq!(
        (answer.status, &answer.headers["location"]),
        (StatusCode::MOVED_PERMANENTLY, &value("https://h/a?b=c"))
    );
}

#[tokio::test]
async fn dead_endpoints_are_passed_over_and_none_left_is_said_plainly() {
    let alive = named("alive").await;
    let dead = {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        listener.local_addr().unwrap()
    };
    let both = backend(&[alive.address, dead]);
    let gateway = Gateway::start(table(forward(vec![share(&both, 1)]))).await;
    for _ in 0..6 {
        assert_eq!(gateway.get("/").await.body, "alive");
    }
    both.set_endpoints(vec![dead]);
    assert_eq!(gateway.get("/").await.status, StatusCode::BAD_GATEWAY);
    both.set_endpoints(Vec::new());
    assert_eq!(gateway.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

/// A backend that closes each connection after one answer, without saying so.
async fn closing() -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn backend_that_closes_idle_connections_loses_no_request() {
    let (address, _tasks) = closing().await;
    let gateway = Gateway::start(table(forward(vec![share(&backend(&[address]), 1)]))).await;
    let mut client = gateway.connect().await;
    for round in 0..200 {
        let answer = client.get("/").await;
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "ok"), "round {round}");
    }
}

/// A backend that reads each request and then closes the connection without a word; counts what it read.
async fn silent() -> (SocketAddr, Arc<AtomicUsize>, JoinSet<()>) {
    let received = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    let count = Arc::clone(&received);
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, received, tasks)
}

#[tokio::test]
async fn only_a_repeatable_request_is_sent_again() {
    let alive = echo().await;
    let (silent, received, _tasks) = silent().await;
    for (method, key, repeated) in [
        (Method::POST, false, false),
        (Method::POST, true, true),
        (Method::PUT, false, true),
        (Method::GET, false, true),
    ] {
        let target = backend(&[silent, alive.address]);
        let gateway = Gateway::start(table(forward(vec![share(&target, 1)]))).await;
        let before = received.load(Ordering::SeqCst);
        let mut client = gateway.connect().await;
        let mut failed = 0;
        // One of two turns meets the silent backend first.
        for _ in 0..2 {
            let mut request = Request::builder().method(&method).uri("/").header("host", "h");
            if key {
                request = request.header("idempotency-key", "1");
            }
            let answer = client.send(request.body(Full::from("pay")).unwrap()).await.unwrap();
            assert!(answer.status == StatusCode::BAD_GATEWAY || answer.body.ends_with("pay"), "{}", answer.body);
            failed += usize::from(answer.status == StatusCode::BAD_GATEWAY);
        }
        assert_eq!(failed == 0, repeated, "{method}");
        assert_eq!(received.load(Ordering::SeqCst) - before, 1, "{method} is sent to a backend once");
    }
}

#[tokio::test]
async fn swapping_the_table_under_load_fails_no_request() {
    let (a, b) = (named("a").await, named("b").await);
    let gateway = Gateway::start(to(&a)).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let (mut client, done) = (gateway.connect().await, Arc::clone(&done));
        clients.spawn(async move {
            let mut seen = [0, 0];
            while !done.load(Ordering::Relaxed) {
                let answer = client.get("/").await;
                assert_eq!(answer.status, StatusCode::OK);
                seen[usize::from(answer.body == "b")] += 1;
            }
            seen
        });
    }
    for round in 0..200 {
        gateway.server.install(to(if round % 2 == 0 { &b } else { &a }));
        assert_eq!(gateway.get("/").await.body, if round % 2 == 0 { "b" } else { "a" });
    }
    done.store(true, Ordering::Relaxed);
    let seen = clients.join_all().await;
    assert!(seen.iter().all(|[a, b]| *a > 0 && *b > 0), "{seen:?}");
}

#[tokio::test]
async fn stop_and_removed_listeners_let_requests_under_way_end() {
    let slow = Held::start().await;
    for remove in [true, false] {
        let mut gateway = Gateway::start(to(&slow.upstream)).await;
        let mut client = gateway.connect().await;
        let mut pending = JoinSet::new();
        pending.spawn(async move { client.get("/").await });
        slow.entered().await;
        let mut bindings = gateway.server.bindings();
        if remove {
            gateway.server.install(RouteTable::default());
            bindings.wait_for(|b| b.is_empty()).await.unwrap();
        } else {
            gateway.stop.cancel();
        }
        // The port is given up while the request is still under way.
        while TcpStream::connect(gateway.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        slow.release();
        assert_eq!(pending.join_next().await.unwrap().unwrap().body, "slow");
        gateway.stop.cancel();
        gateway.tasks.join_next().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_request_that_crosses_the_stop_is_answered_and_told_to_go() {
    let upstream = named("a").await;
    let gateway = Gateway::start(to(&upstream)).await;
    let mut client = gateway.connect().await;
    assert_eq!(client.get("/").await.headers.get("connection"), None);
    gateway.stop.cancel();
    while TcpStream::connect(gateway.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let last = client.get("/").await;
    assert_eq!((last.body.as_str(), &last.headers["connection"]), ("a", &value("close")));
}

#[tokio::test]
async fn timeouts_of_the_rule_are_answered_with_504() {
    let silent = upstream(|_| std::future::pending()).await;
    for (request, backend) in [(Some(Duration::from_millis(50)), None), (None, Some(Duration::from_millis(50)))] {
        let mut rule = forward(vec![share(&harness::backend(&[silent.address]), 1)]);
        rule.timeouts = Timeouts { request, backend };
        let gateway = Gateway::start(table(rule)).await;
        assert_eq!(gateway.get("/").await.status, StatusCode::GATEWAY_TIMEOUT);
    }
}

#[tokio::test]
async fn upgraded_connection_carries_bytes_both_ways() {
    let upstream = upstream(|mut request: Request<Incoming>| async move {
        assert_eq!(request.headers()["upgrade"], "echo");
        let upgrade = hyper::upgrade::on(&mut request);
        // The test's backend; its task ends with the connection.
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
            writer.write_all(b"hello ").await.unwrap();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", value("Upgrade"));
        response.headers_mut().insert("upgrade", value("echo"));
        response
    })
    .await;
    let gateway = Gateway::start(to(&upstream)).await;
    let mut client = gateway.connect().await;
    let request =
        Request::get("/").header("host", "h").header("connection", "keep-alive, Upgrade").header("upgrade", "echo");
    let response = client.raw(request.body(Full::default()).unwrap()).await;
    assert_eq!((response.status(), &response.headers()["upgrade"]), (StatusCode::SWITCHING_PROTOCOLS, &value("echo")));
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"world").await.unwrap();
    let mut text = [0; 11];
    stream.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"hello world");
}

#[tokio::test]
async fn large_bodies_stream_through_in_both_directions() {
    let upstream = echo().await;
    let gateway = Gateway::start(to(&upstream)).await;
    let content = "0123456789abcdef".repeat(256 << 10);
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        let request = Request::put("/").header("host", "h").body(Full::from(content.clone())).unwrap();
        let answer = client.send(request).await.unwrap();
        assert!(answer.body.ends_with(&content), "{} bytes came back", answer.body.len());
    }
}

fn issue(host: &str) -> (Certificate, rustls::pki_types::CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    let certified = certificate(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap();
    (certified, made.cert.der().clone())
}

async fn tls_get(
    gateway: &Gateway,
    host: &'static str,
    root: &rustls::pki_types::CertificateDer<'static>,
) -> Result<Answer, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector =
        tokio_rustls::TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let stream = connector.connect(ServerName::try_from(host).unwrap(), stream).await.map_err(|e| e.to_string())?;
    let request = Request::get("/").header("host", host).body(Full::<Bytes>::default()).unwrap();
    Client::over(stream).await.send(request).await.map_err(|e| e.to_string())
}

#[tokio::test]
async fn certificates_follow_the_server_name_and_the_table() {
    let upstream = echo().await;
    let target = backend(&[upstream.address]);
    let secure = |certificates: &[(&str, &Certificate)]| {
        let listener = |(host, certificate): &(&str, &Certificate)| {
            let mode = termination(vec![Arc::clone(certificate)], &Clients::Anybody, true).unwrap();
            config(Some(host), Mode::Http(Some(mode)))
        };
        let mut table = listening(Protocol::Tls, certificates.iter().map(listener).collect());
        for (host, _) in certificates {
            insert(&mut table, Some(host), "/", forward(vec![share(&target, 1)]));
        }
        table
    };
    let ((a, a_root), (b, b_root), (newer, newer_root)) = (issue("a.test"), issue("b.test"), issue("a.test"));
    let gateway = Gateway::start(secure(&[("a.test", &a), ("b.test", &b)])).await;
    let answer = tls_get(&gateway, "a.test", &a_root).await.unwrap();
    assert!(answer.body.contains("\nx-forwarded-proto: https\n"), "{}", answer.body);
    tls_get(&gateway, "b.test", &b_root).await.unwrap();
    tls_get(&gateway, "c.test", &b_root).await.unwrap_err();
    gateway.server.install(secure(&[("a.test", &newer)]));
    tls_get(&gateway, "a.test", &a_root).await.unwrap_err();
    tls_get(&gateway, "a.test", &newer_root).await.unwrap();
}

#[tokio::test]
async fn taken_port_is_reported_and_opened_once_it_is_free() {
    let holder = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = holder.local_addr().unwrap().port();
    let other: IpAddr = [127, 0, 0, 2].into();
    let server = Server::new(ServerConfig {
        addresses: vec![LOCAL, other],
        ephemeral: false,
        sockets: Sockets::default(),
        threads: 0,
    });
    let mut table = RouteTable::default();
    let site = Site { place: Place::Shared, port, transport: Transport::Tcp };
    table.listen(site, Protocol::Http, vec![config(None, Mode::Http(None))]);
    server.install(table);
    let (mut bindings, stop) = (server.bindings(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    let (running, stopped) = (server.clone(), stop.clone());
    tasks.spawn(async move { running.run(stopped).await });
    let bound = bindings.wait_for(|b| b.len() == 2).await.unwrap().clone();
    assert!(bound[&(LOCAL, port, Transport::Tcp)].is_err(), "{bound:?}");
    assert!(bound[&(other, port, Transport::Tcp)].is_ok(), "the other address works: {bound:?}");
    drop(holder);
    bindings.wait_for(|b| b.values().all(Result::is_ok)).await.unwrap();
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn every_address_of_the_machine_serves_those_of_single_gateways_too() {
    let (common, single) = (named("common").await, named("single").await);
    let any: IpAddr = [0, 0, 0, 0].into();
    let own: IpAddr = [127, 0, 0, 9].into();
    let server = Server::new(ServerConfig {
        addresses: vec![any, LOCAL],
        ephemeral: true,
        sockets: Sockets::default(),
        threads: 0,
    });
    let mut table = to(&common);
    let site = Site { place: Place::Own(own), ..SITE };
    table.listen(site, Protocol::Http, vec![config(None, Mode::Http(None))]);
    let condition = crate::routing::RequestMatch::prefix("/");
    let rule = Arc::new(forward(vec![share(&backend(&[single.address]), 1)]));
    let entry = crate::routing::Entry::new(condition, crate::routing::Rank::default(), rule);
    table.insert(&crate::routing::Spot { site, ..spot(None) }, Arc::new(entry));
    server.install(table);
    let (mut bindings, stop) = (server.bindings(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    let (running, stopped) = (server.clone(), stop.clone());
    tasks.spawn(async move { running.run(stopped).await });
    let bound = bindings.wait_for(|b| !b.is_empty()).await.unwrap().clone();
    assert_eq!(bound.len(), 3, "one socket, told of at each address: {bound:?}");
    let port = bound[&(any, PORT, Transport::Tcp)].clone().unwrap().port();
    for (address, expected) in [(LOCAL, "common"), (own, "single")] {
        let stream = TcpStream::connect((address, port)).await.unwrap();
        assert_eq!(Client::over(stream).await.get("/").await.body, expected);
    }
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn request_without_a_host_is_refused_and_methods_pass() {
    let upstream = echo().await;
    let gateway = Gateway::start(to(&upstream)).await;
    let mut client = gateway.connect().await;
    let request = Request::get("/").body(Full::default()).unwrap();
    assert_eq!(client.send(request).await.unwrap().status, StatusCode::BAD_REQUEST);
    let request =
        Request::builder().method(Method::DELETE).uri("/x").header("host", "h").body(Full::default()).unwrap();
    assert!(client.send(request).await.unwrap().body.starts_with("DELETE /x\n"));
}

#[tokio::test]
async fn answer_to_head_keeps_its_length_and_connect_is_refused() {
    let upstream = named("backend").await;
    let gateway = Gateway::start(to(&upstream)).await;
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        let request = Request::head("/").header("host", "h").body(Full::default()).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!((answer.headers.get("content-length"), &*answer.body), (Some(&value("7")), ""));
    }
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\n\r\n").await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 405");
}

#[tokio::test]
async fn http_2_clients_share_one_connection() {
    let upstream = echo().await;
    let gateway = Gateway::start(to(&upstream)).await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _ = connection.await;
    });
    let mut requests = JoinSet::new();
    for number in 0..50 {
        let mut sender = sender.clone();
        requests.spawn(async move {
            let request =
                Request::post(format!("http://shop.test/{number}")).body(Full::<Bytes>::from("content")).unwrap();
            let body = sender.send_request(request).await.unwrap().into_body();
            let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            assert!(text.starts_with(&format!("POST /{number}\n")) && text.contains("\nhost: shop.test\n"), "{text}");
            assert!(text.ends_with("content"));
        });
    }
    requests.join_all().await;
}
