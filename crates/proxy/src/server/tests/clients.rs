//! How listeners treat their clients, by policy and without one.

use std::io::ErrorKind;

use super::*;
use crate::routing::{
    AddressBy, Client as Policy, ClientEdits, ConnectionTerms, Distinct, Http1Terms, ListenerConfig, Network, Owner,
    Paths, Proxied, Rank, RateRule, Rates, Rule, Slashes, StreamRule, TextMatch, Times, Traffic, Underscores,
};

/// A table of one clear listener with a policy, with this rule for everything.
fn treated(policy: Policy, rule: Rule) -> RouteTable {
    let config = ListenerConfig { client: Some(Arc::new(policy)), ..config(None, Mode::Http(None)) };
    let mut table = listening(Protocol::Http, vec![config]);
    insert(&mut table, None, "/", rule);
    table
}

fn to_one(upstream: &Upstream) -> Rule {
    forward(vec![share(&backend(&[upstream.address]), 1)])
}

async fn start(policy: Policy) -> (Gateway, Upstream) {
    let upstream = echo().await;
    (Gateway::start(treated(policy, to_one(&upstream))).await, upstream)
}

/// Sends bytes; all that comes back until the gateway closes.
async fn exchange(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut read = Vec::new();
    match stream.read_to_end(&mut read).await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    String::from_utf8_lossy(&read).into_owned()
}

fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

#[tokio::test]
async fn headers_are_changed_before_requests_are_routed_and_when_all_else_is_done() {
    let edits = |set, missing| ClientEdits {
        edits: HeaderEdits { set: vec![set], ..HeaderEdits::default() },
        missing: vec![missing],
        unwanted: vec![TextMatch::Prefix("x-internal-".into())],
    };
    let policy = Policy {
        early: edits(pair("x-early", "1"), pair("x-tenant", "nobody")),
        late: edits(pair("x-late", "1"), pair("x-backend", "none")),
        telling: true,
        ..Policy::default()
    };
    let (gateway, _upstream) = start(policy).await;
    let request = Request::get("/").header("host", "h").header("x-internal-key", "1").header("x-tenant", "a");
    let answer = gateway.connect().await.send(request.body(Full::default()).unwrap()).await.unwrap();
    assert!(answer.body.contains("x-early: 1\n") && answer.body.contains("x-tenant: a\n"), "{}", answer.body);
    assert!(!answer.body.contains("x-internal-key"), "{}", answer.body);
    assert_eq!(
        (&answer.headers["x-late"], &answer.headers["x-backend"]),
        (&"1".parse().unwrap(), &"echo".parse().unwrap())
    );
    assert!(answer.headers.contains_key("x-envoy-upstream-service-time"));
}

#[tokio::test]
async fn nobody_pretends_to_have_shown_a_certificate() {
    for policy in [None, Some(Policy::default())] {
        let upstream = echo().await;
        let table = match policy {
            Some(policy) => treated(policy, to_one(&upstream)),
            None => to(&upstream),
        };
        let gateway = Gateway::start(table).await;
        let request =
            Request::get("/").header("host", "h").header("x-forwarded-client-cert", "Hash=1;Subject=\"root\"");
        let answer = gateway.connect().await.send(request.body(Full::default()).unwrap()).await.unwrap();
        assert!(!answer.body.contains("x-forwarded-client-cert"), "{}", answer.body);
    }
}

#[tokio::test]
async fn limits_are_held_against_the_client_that_a_proxy_tells_of() {
    let upstream = echo().await;
    let limit = RateRule::new(1, Duration::from_secs(3600), Vec::new(), vec![Distinct::Source]).unwrap();
    let traffic = Traffic { rates: vec![Arc::new(Rates::new(vec![limit], false))], ..Traffic::default() };
    let rule = Rule { traffic: Some(Arc::new(traffic)), ..to_one(&upstream) };
    let proxies = vec![Network::parse("127.0.0.0/8").unwrap()];
    let policy = Policy { address: AddressBy::Proxies(proxies), ..Policy::default() };
    let gateway = Gateway::start(treated(policy, rule)).await;
    let mut statuses = Vec::new();
    for client in ["1.1.1.1", "1.1.1.1", "2.2.2.2"] {
        let request = Request::get("/").header("host", "h").header("x-forwarded-for", client);
        let request = request.header("x-forwarded-proto", "https").body(Full::default()).unwrap();
        let answer = gateway.connect().await.send(request).await.unwrap();
        statuses.push(answer.status.as_u16());
        if answer.status == StatusCode::OK {
            let told = format!("x-forwarded-for: {client}, 127.0.0.1\n");
            assert!(
                answer.body.contains(&told) && answer.body.contains("x-forwarded-proto: https\n"),
                "{}",
                answer.body
            );
        }
    }
    assert_eq!(statuses, [200, 429, 200]);
    let policy = Policy { address: AddressBy::Header(pair("x-real", "").0, true), ..Policy::default() };
    let (gateway, _upstream) = start(policy).await;
    assert_eq!(gateway.get("/").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_proxy_header_tells_the_client_and_others_are_closed_unless_it_is_optional() {
    let v2 = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(), &[192, 0, 2, 7, 10, 0, 0, 1, 0, 9, 0, 80]].concat();
    let get = b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n".as_slice();
    for proxied in [Proxied::Always, Proxied::Maybe] {
        let (gateway, _upstream) = start(Policy { proxied: Some(proxied), ..Policy::default() }).await;
        for header in [b"PROXY TCP4 192.0.2.7 10.0.0.1 9 80\r\n".as_slice(), &v2] {
            let answer = exchange(&gateway, &[header, get].concat()).await;
            assert!(answer.contains("x-forwarded-for: 192.0.2.7\n"), "{answer}");
        }
        let answer = exchange(&gateway, get).await;
        match proxied {
            Proxied::Always => assert_eq!(answer, ""),
            Proxied::Maybe => assert!(answer.contains("x-forwarded-for: 127.0.0.1\n"), "{answer}"),
        }
        assert_eq!(exchange(&gateway, b"PROXY TCP4 nobody\r\n").await, "");
    }
}

#[tokio::test]
async fn paths_are_made_uniform_before_they_are_routed() {
    let paths = Some(Paths { escaped: Slashes::Redirect, merge: true });
    let (gateway, _upstream) = start(Policy { paths, health: Some("/up".into()), ..Policy::default() }).await;
    assert!(gateway.get("/a//b?x=//").await.body.starts_with("GET /a/b?x=//\n"));
    let redirected = gateway.get("/%2fevil.test?q").await;
    assert_eq!(redirected.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(redirected.headers["location"], "http://h/evil.test?q");
    let up = gateway.get("/up").await;
    assert_eq!((up.status, &*up.body), (StatusCode::OK, ""));
    let paths = Some(Paths { escaped: Slashes::Refuse, merge: false });
    let (gateway, _upstream) = start(Policy { paths, ..Policy::default() }).await;
    assert_eq!(gateway.get("/a%5Cb").await.status, StatusCode::BAD_REQUEST);
    assert!(gateway.get("/a//b").await.body.starts_with("GET /a//b\n"));
}

#[tokio::test]
async fn names_with_underscores_are_kept_dropped_or_refused() {
    for (action, status, passed) in [
        (Underscores::Keep, StatusCode::OK, true),
        (Underscores::Drop, StatusCode::OK, false),
        (Underscores::Refuse, StatusCode::BAD_REQUEST, false),
    ] {
        let (gateway, _upstream) = start(Policy { underscores: action, ..Policy::default() }).await;
        let request = Request::get("/").header("host", "h").header("x_user", "1").body(Full::default()).unwrap();
        let answer = gateway.connect().await.send(request).await.unwrap();
        assert_eq!((answer.status, answer.body.contains("x_user: 1")), (status, passed), "{action:?}");
    }
}

#[tokio::test]
async fn http_1_is_spoken_as_the_policy_says() {
    let http1 = Http1Terms {
        default_host: Some("shop.test".parse().unwrap()),
        ignored: vec![TextMatch::Prefix("TLS/".into())],
        head_bytes: Some(1024),
        case: true,
        ..Http1Terms::default()
    };
    let seen = accepting(|mut stream| async move {
        let mut bytes = vec![0; 4096];
        let read = stream.read(&mut bytes).await.unwrap();
        let body = String::from_utf8_lossy(&bytes[..read]).into_owned();
        let answer = format!("HTTP/1.1 200 OK\r\nX-ODD-Case: 1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let gateway = Gateway::start(treated(Policy { http1, undotted: true, ..Policy::default() }, to_one(&seen))).await;
    let answer = exchange(&gateway, b"GET / HTTP/1.0\r\nX-MiXed: 1\r\n\r\n").await;
    assert!(answer.contains("\r\nX-MiXed: 1\r\n") && answer.contains("\r\nX-ODD-Case: 1\r\n"), "{answer}");
    assert!(answer.to_lowercase().contains("host: shop.test\r\n"), "{answer}");
    let upgrade = b"GET / HTTP/1.1\r\nhost: h.:80\r\nupgrade: TLS/1.0\r\nconnection: upgrade, close\r\n\r\n";
    let answer = exchange(&gateway, upgrade).await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("upgrade:"), "{answer}");
    assert!(answer.to_lowercase().contains("host: h:80\r\n"), "{answer}");
    let long = format!("GET / HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", "y".repeat(2000));
    assert!(exchange(&gateway, long.as_bytes()).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn connections_are_limited_in_number_and_in_requests() {
    let connections = ConnectionTerms { most: Some(1), requests: Some(2), ..ConnectionTerms::default() };
    let (gateway, _upstream) = start(Policy { connections, ..Policy::default() }).await;
    let mut first = gateway.connect().await;
    assert!(!first.get("/").await.headers.contains_key("connection"));
    assert_eq!(exchange(&gateway, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await, "", "one more is closed");
    assert_eq!(first.get("/").await.headers["connection"], "close", "the last request of the connection");
    let again = async {
        while !exchange(&gateway, b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.contains("200") {}
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("there is room again");
}

#[tokio::test]
async fn silence_ends_connections_as_soon_as_the_policy_says() {
    let short = Some(Duration::from_millis(50));
    let times = Times { idle: short, head: short, inspection: short, ..Times::default() };
    let (gateway, _upstream) = start(Policy { times, ..Policy::default() }).await;
    for begun in ["", "P", "PRI * HTTP/2.0\r\n\r\n", "GET / HTTP/1.1\r\nho"] {
        assert_eq!(exchange(&gateway, begun.as_bytes()).await, "", "{begun:?}");
    }
    let answer = exchange(&gateway, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "and then it is closed: {answer}");
}

#[tokio::test]
async fn a_lifetime_that_is_over_is_told_with_the_next_answer() {
    let connections = ConnectionTerms { lifetime: Some(Duration::from_millis(1)), ..ConnectionTerms::default() };
    let (gateway, _upstream) = start(Policy { connections, ..Policy::default() }).await;
    let mut client = gateway.connect().await;
    while !client.get("/").await.headers.contains_key("connection") {}
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_body_is_told_so() {
    let slow = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nabc";
    for times in [
        Times { received: Some(Duration::from_millis(50)), ..Times::default() },
        Times { stream_idle: Some(Duration::from_millis(50)), ..Times::default() },
    ] {
        let (gateway, _upstream) = start(Policy { times, ..Policy::default() }).await;
        let answer = exchange(&gateway, slow).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
}

#[tokio::test]
async fn a_backend_that_is_silent_for_too_long_is_given_up() {
    let silent = upstream(|_| std::future::pending()).await;
    let stream_idle = Some(Duration::from_millis(50));
    let policy = Policy { times: Times { stream_idle, ..Times::default() }, ..Policy::default() };
    let gateway = Gateway::start(treated(policy, to_one(&silent))).await;
    assert_eq!(gateway.get("/").await.status, StatusCode::GATEWAY_TIMEOUT);
    let half = accepting(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let policy = Policy { times: Times { stream_idle, ..Times::default() }, ..Policy::default() };
    let gateway = Gateway::start(treated(policy, to_one(&half))).await;
    let answer = exchange(&gateway, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("abc"), "it breaks off: {answer}");
}

#[tokio::test]
async fn a_request_lasts_no_longer_than_the_listener_lets_it() {
    let silent = upstream(|_| std::future::pending()).await;
    let connections = ConnectionTerms { stream: Some(Duration::from_millis(50)), ..ConnectionTerms::default() };
    let gateway = Gateway::start(treated(Policy { connections, ..Policy::default() }, to_one(&silent))).await;
    assert_eq!(gateway.get("/").await.status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn bytes_end_after_silence_too() {
    let quiet = accepting(|stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let times = Times { silence: Some(Duration::from_millis(50)), ..Times::default() };
    let policy = Arc::new(Policy { times, ..Policy::default() });
    let config = ListenerConfig { client: Some(policy), ..config(None, Mode::Stream(None)) };
    let mut table = listening(Protocol::Tcp, vec![config]);
    let owner = Owner { kind: "TCPRoute", name: "ns/route".into() };
    let rule = StreamRule::new(owner, vec![share(&backend(&[quiet.address]), 1)]);
    table.insert_stream(&spot(None), Rank::default(), Arc::new(rule));
    let gateway = Gateway::start(table).await;
    assert_eq!(exchange(&gateway, b"hello").await, "");
}

#[tokio::test]
async fn an_answer_before_the_end_of_a_large_body_is_passed_on() {
    // It reads the head, answers, and closes with most of the body unread, which resets the connection.
    let hasty = accepting(|mut stream| async move {
        let _ = stream.read(&mut [0; 64]).await;
        let answer = b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
        let _ = stream.write_all(answer).await;
    })
    .await;
    let gateway = Gateway::start(to(&hasty)).await;
    for _ in 0..20 {
        let body = Full::from(vec![b'x'; 4 << 20]);
        let request = Request::post("/").header("host", "h").body(body).unwrap();
        match gateway.connect().await.send(request).await {
            Ok(answer) => assert_eq!((answer.status, &*answer.body), (StatusCode::PAYLOAD_TOO_LARGE, "no")),
            // The client's own writing may be cut off as well.
            Err(error) => assert!(!error.is_parse(), "{error}"),
        }
    }
}

#[tokio::test]
async fn who_has_said_nothing_does_not_hold_up_the_end() {
    let upstream = named("ok").await;
    for policy in [None, Some(Policy::default())] {
        let table = match policy {
            Some(policy) => treated(policy, to_one(&upstream)),
            None => to(&upstream),
        };
        let gateway = Gateway::start(table).await;
        let mut silent =
            [TcpStream::connect(gateway.address).await.unwrap(), TcpStream::connect(gateway.address).await.unwrap()];
        silent[1].write_all(b"PRI * HT").await.unwrap();
        // Both are accepted by the time that a later one is answered.
        assert_eq!(gateway.get("/").await.body, "ok");
        let Gateway { stop, mut tasks, .. } = gateway;
        stop.cancel();
        let ended = tokio::time::timeout(DRAIN / 3, tasks.join_next()).await;
        ended.expect("it ends at once").unwrap().unwrap();
    }
}
