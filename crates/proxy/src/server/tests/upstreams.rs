//! What policies say of endpoints, of connections to them, and of what comes back.

use std::io::Read as _;

use crate::routing::{
    Balance, Check, Compression, Elsewhere, Instead, LineTerms, ProxyVersion, Question, Rule, TextMatch, Traffic,
    Upstream, UpstreamConfig, Whose,
};

use super::*;

fn with(upstreams: &[SocketAddr], traffic: Traffic) -> RouteTable {
    table(Rule { traffic: Some(Arc::new(traffic)), ..forward(vec![share(&backend(upstreams), 1)]) })
}

fn using(config: UpstreamConfig) -> Traffic {
    Traffic { upstream: Some(Upstream::new(config).unwrap()), ..Traffic::default() }
}

fn over(line: LineTerms) -> Traffic {
    using(UpstreamConfig { line, ..UpstreamConfig::default() })
}

fn ask(path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::get(path).header("host", "h");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

#[tokio::test]
async fn answers_are_compressed_for_who_takes_them_so() {
    let page = "all work and no play ".repeat(500);
    let sent = page.clone();
    let upstream = upstream(move |request: Request<Incoming>| {
        let text = if request.uri().path() == "/short" { "short".to_owned() } else { sent.clone() };
        async move {
            let mut response = Response::new(Full::from(text));
            response.headers_mut().insert("content-type", value("text/html"));
            response.headers_mut().insert("etag", value("\"1\""));
            response
        }
    })
    .await;
    let traffic = Traffic { compression: Some(Compression { bytes_min: 30 }), ..Traffic::default() };
    let gateway = Gateway::start(with(&[upstream.address], traffic)).await;
    let mut client = gateway.connect().await;
    let plain = client.send(ask("/", &[])).await.unwrap();
    assert_eq!(
        (&plain.body, &plain.headers["vary"], &plain.headers["etag"]),
        (&page, &value("accept-encoding"), &value("\"1\""))
    );
    let short = client.send(ask("/short", &[("accept-encoding", "gzip")])).await.unwrap();
    assert_eq!((&*short.body, short.headers.get("content-encoding")), ("short", None));
    let response = client.raw(ask("/", &[("accept-encoding", "br, gzip")])).await;
    assert_eq!(response.headers()["content-encoding"], value("gzip"));
    assert_eq!(response.headers()["etag"], value("W/\"1\""));
    assert!(!response.headers().contains_key("content-length"));
    let packed = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
    assert!(text == page && packed.len() < page.len() / 10);
}

#[tokio::test]
async fn answers_are_replaced_by_their_headers_and_by_redirects() {
    let upstream = upstream(|request: Request<Incoming>| async move {
        let mut response = Response::new(Full::from("down"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        if request.uri().path() == "/planned" {
            response.headers_mut().insert("x-maintenance", value("yes"));
        }
        response
    })
    .await;
    let instead = Instead {
        whose: Whose::Backends,
        statuses: vec![503..=503],
        headers: vec![(name("x-maintenance"), TextMatch::Exact("yes".into()))],
        status: None,
        body: None,
        kind: None,
        edits: HeaderEdits::default(),
        elsewhere: Some(Elsewhere {
            status: StatusCode::FOUND,
            scheme: Some("https".into()),
            host: Some("status.test".into()),
            port: None,
            path: None,
        }),
    };
    let traffic = Traffic { instead: vec![instead], ..Traffic::default() };
    let gateway = Gateway::start(with(&[upstream.address], traffic)).await;
    assert_eq!(gateway.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let sent = gateway.get("/planned?x=1").await;
    assert_eq!(
        (sent.status, &sent.headers["location"]),
        (StatusCode::FOUND, &value("https://status.test/planned?x=1"))
    );
}

#[tokio::test]
async fn requests_are_sent_when_all_of_them_is_there_unless_they_are_too_long() {
    let upstream = echo().await;
    let traffic = Traffic { buffer: Some(5), ..Traffic::default() };
    let gateway = Gateway::start(with(&[upstream.address], traffic)).await;
    for (chunks, expected) in
        [("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "200"), ("3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", "413")]
    {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all([head, chunks].concat().as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{answer}");
        assert_eq!(answer.contains("content-length: 5\n"), expected == "200", "its length is told: {answer}");
    }
}

#[tokio::test]
async fn only_protocols_that_are_named_are_switched_to() {
    let upstream = echo().await;
    let traffic = Traffic { upgrades: Some(vec!["websocket".into()]), ..Traffic::default() };
    let gateway = Gateway::start(with(&[upstream.address], traffic)).await;
    for (protocol, status) in [("WebSocket", StatusCode::OK), ("spdy/3.1", StatusCode::FORBIDDEN)] {
        let request = ask("/", &[("connection", "upgrade"), ("upgrade", protocol)]);
        assert_eq!(gateway.connect().await.send(request).await.unwrap().status, status, "{protocol}");
    }
}

#[tokio::test]
async fn a_connection_carries_as_many_requests_as_it_may() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let upstream = accepting(move |stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let service = hyper::service::service_fn(|_: Request<Incoming>| async {
                Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("ok")))
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
    let line = LineTerms { requests: Some(2), ..LineTerms::default() };
    let gateway = Gateway::start(with(&[upstream.address], over(line))).await;
    let mut client = gateway.connect().await;
    for _ in 0..6 {
        assert_eq!(client.get("/").await.body, "ok");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_endpoint_is_told_who_the_client_is_on_a_connection_of_its_own() {
    let upstream = accepting(|mut stream| async move {
        let mut bytes = vec![0; 4096];
        let mut read = 0;
        while !bytes[..read].ends_with(b"\r\n\r\n") {
            read += stream.read(&mut bytes[read..]).await.unwrap();
        }
        let line = String::from_utf8_lossy(&bytes[..read]).lines().next().unwrap_or("").to_owned();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read(&mut bytes).await;
    })
    .await;
    let line = LineTerms { proxy: Some(ProxyVersion::One), ..LineTerms::default() };
    let gateway = Gateway::start(with(&[upstream.address], over(line))).await;
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        let told = client.get("/").await.body;
        assert!(
            told.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ")
                && told.ends_with(&format!(" {}", gateway.address.port())),
            "{told}"
        );
    }
}

fn check(question: Question) -> Traffic {
    let check = Check {
        question,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        jitter: Duration::ZERO,
        unhealthy: 1,
        healthy: 1,
        port: None,
    };
    using(UpstreamConfig { check: Some(check), balance: Balance::Turns, panic_percent: 0, ..UpstreamConfig::default() })
}

#[tokio::test]
async fn endpoints_that_say_they_are_not_well_get_no_requests_until_they_are() {
    let well = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&well);
    let moody = upstream(move |request: Request<Incoming>| {
        let ok = request.uri().path() != "/healthz" || asked.load(Ordering::SeqCst);
        async move {
            let mut response = Response::new(Full::from("moody"));
            if !ok {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            response
        }
    })
    .await;
    let steady = named("steady").await;
    let question = Question::Http {
        method: Method::GET,
        path: "/healthz".into(),
        host: None,
        statuses: vec![200],
        retriable: Vec::new(),
        text: None,
    };
    let gateway = Gateway::start(with(&[moody.address, steady.address], check(question))).await;
    let mut client = gateway.connect().await;
    let both = async |client: &mut Client| [client.get("/").await.body, client.get("/").await.body];
    let limit = Duration::from_secs(20);
    let left_alone = async { while both(&mut client).await != ["steady", "steady"] {} };
    tokio::time::timeout(limit, left_alone).await.expect("it is left alone");
    well.store(true, Ordering::SeqCst);
    let back = async { while both(&mut client).await.iter().all(|body| body == "steady") {} };
    tokio::time::timeout(limit, back).await.expect("it is used again");
    let Gateway { stop, mut tasks, .. } = gateway;
    drop(client);
    stop.cancel();
    tokio::time::timeout(limit, tasks.join_next()).await.expect("nobody goes on asking").unwrap().unwrap();
}

#[tokio::test]
async fn a_port_that_does_not_answer_as_expected_is_not_used() {
    let answering = accepting(|mut stream| async move {
        let mut bytes = [0; 64];
        let read = stream.read(&mut bytes).await.unwrap_or(0);
        let http = bytes[..read].starts_with(b"GET");
        let answer: &[u8] =
            if http { b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok" } else { b"PONG" };
        let _ = stream.write_all(answer).await;
    })
    .await;
    let deaf = accepting(|stream| async move {
        drop(stream);
    })
    .await;
    let question = Question::Tcp { send: Some(Bytes::from_static(b"PING")), receive: Some(Bytes::from_static(b"ON")) };
    let gateway = Gateway::start(with(&[answering.address, deaf.address], check(question))).await;
    let mut well = 0;
    let used = async {
        while well < 8 {
            well = if gateway.get("/").await.status == StatusCode::OK { well + 1 } else { 0 };
        }
    };
    tokio::time::timeout(Duration::from_secs(20), used).await.expect("only the one that answers is used");
}
