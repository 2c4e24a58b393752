//! Requests with an idempotency key.

use std::path::Path;

use resilience::idempotency::{Duplicate, IdempotencyConfig, Keeper};

use super::*;
use crate::{
    answers::Stores,
    routing::{Once, Owner},
};

/// A directory that goes away with its test.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new() -> Self {
        let name = format!("keelson-once-{}-{:x}", std::process::id(), rand::random::<u64>());
        Directory(std::env::temp_dir().join(name))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A table that sends everything to one backend, once.
fn once(directory: &Path, upstream: &Upstream, config: IdempotencyConfig) -> RouteTable {
    let once = Once {
        keeper: Keeper::new(config, Stores::new(directory.to_owned()).embedded()).unwrap(),
        owner: Owner { kind: "HTTPRoute", name: "ns/route".into() },
        callers: vec![http::header::AUTHORIZATION],
    };
    let edits = HeaderEdits { set: vec![(name("x-edited"), value("yes"))], ..HeaderEdits::default() };
    let filters = Filters { once: Some(Arc::new(once)), response: edits, ..Filters::default() };
    table(rule(vec![share(&backend(&[upstream.address]), 1)], filters))
}

/// A backend that does what the body says, after `gate` lets it, and counts its calls.
async fn payments(gate: Arc<Semaphore>) -> (Upstream, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let upstream = upstream(move |request: Request<Incoming>| {
        let (call, gate) = (counted.fetch_add(1, Ordering::SeqCst) + 1, Arc::clone(&gate));
        async move {
            let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
            gate.acquire().await.unwrap().forget();
            let text = std::str::from_utf8(&body).unwrap();
            let mut response = Response::new(Full::from(match text {
                "large" => "x".repeat(100 << 10),
                _ => format!("call {call}"),
            }));
            *response.status_mut() = text.parse().unwrap_or(StatusCode::CREATED);
            response.headers_mut().insert("location", value("/payments/7"));
            response
        }
    })
    .await;
    (upstream, calls)
}

fn open() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1000))
}

fn pay(key: Option<&str>, body: &str) -> Request<Full<Bytes>> {
    let request = Request::post("/payments").header("host", "h").header("authorization", "alice");
    let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
    request.body(Full::from(body.to_owned())).unwrap()
}

async fn send(gateway: &Gateway, key: Option<&str>, body: &str) -> (u16, bool, String) {
    let answer = gateway.connect().await.send(pay(key, body)).await.unwrap();
    assert!(answer.status == StatusCode::CREATED || !answer.headers.contains_key("idempotent-replayed"));
    assert_eq!(answer.headers["x-edited"], "yes", "whoever answers");
    (answer.status.as_u16(), answer.headers.contains_key("idempotent-replayed"), answer.body)
}

fn call(number: usize, replayed: bool) -> (u16, bool, String) {
    (201, replayed, format!("call {number}"))
}

#[tokio::test]
async fn the_first_answer_is_given_again_also_by_the_gateway_that_comes_after() {
    let directory = Directory::new();
    let (upstream, calls) = payments(open()).await;
    let gateway = Gateway::start(once(&directory.0, &upstream, IdempotencyConfig::default())).await;
    assert_eq!(send(&gateway, Some("a"), "pay").await, call(1, false));
    assert_eq!(send(&gateway, Some("a"), "pay").await, call(1, true));
    assert_eq!(send(&gateway, None, "pay").await, call(2, false));
    assert_eq!(send(&gateway, Some("b"), "pay").await, call(3, false));
    let answer = gateway.connect().await.send(pay(Some("a"), "more")).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.headers["content-type"]), (422, &value("application/problem+json")));
    assert!(answer.body.contains("was used for another request"), "{}", answer.body);
    gateway.stop.cancel();
    let mut tasks = gateway.tasks;
    drop(gateway.server);
    while tasks.join_next().await.is_some() {}
    let gateway = Gateway::start(once(&directory.0, &upstream, IdempotencyConfig::default())).await;
    assert_eq!(send(&gateway, Some("a"), "pay").await, call(1, true));
    let mut other = pay(Some("a"), "pay");
    other.headers_mut().insert("authorization", value("bob"));
    assert_eq!(gateway.connect().await.send(other).await.unwrap().body, "call 4", "keys belong to callers");
    assert_eq!(calls.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn those_who_come_at_once_wait_or_are_told() {
    for (duplicate, expected) in [
        (Duplicate::Wait(Duration::from_secs(10)), [201, 201]),
        (Duplicate::Conflict, [409, 201]),
        (Duplicate::Wait(Duration::from_millis(20)), [409, 201]),
    ] {
        let (directory, gate) = (Directory::new(), Arc::new(Semaphore::new(0)));
        let (upstream, calls) = payments(Arc::clone(&gate)).await;
        let gateway = Gateway::start(once(
            &directory.0,
            &upstream,
            IdempotencyConfig { duplicate, ..IdempotencyConfig::default() },
        ));
        let gateway = gateway.await;
        let (mut one, mut other) = (gateway.connect().await, gateway.connect().await);
        let first = one.send(pay(Some("a"), "pay"));
        let second = async {
            while calls.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            let answer = other.send(pay(Some("a"), "pay"));
            let release = async {
                if matches!(duplicate, Duplicate::Wait(patience) if patience.as_secs() > 0) {
                    gate.add_permits(1);
                }
            };
            let (answer, ()) = tokio::join!(answer, release);
            gate.add_permits(1);
            answer.unwrap().status.as_u16()
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!([second, first.unwrap().status.as_u16()], expected, "{duplicate:?}");
        assert_eq!(calls.load(Ordering::SeqCst), 1, "{duplicate:?}");
    }
}

#[tokio::test]
async fn what_the_backend_has_not_done_is_done_again() {
    let directory = Directory::new();
    let (upstream, calls) = payments(open()).await;
    let config = IdempotencyConfig { required: true, answer_bytes_max: 1000, ..IdempotencyConfig::default() };
    let gateway = Gateway::start(once(&directory.0, &upstream, config)).await;
    for status in ["500", "503", "402"] {
        for _ in 0..2 {
            assert_eq!(send(&gateway, Some("a"), status).await.0, status.parse::<u16>().unwrap());
        }
    }
    assert_eq!(calls.load(Ordering::SeqCst), 6);
    let missing = gateway.connect().await.send(pay(None, "pay")).await.unwrap();
    assert_eq!((missing.status.as_u16(), &missing.headers["content-type"]), (400, &value("application/problem+json")));
    assert_eq!(send(&gateway, Some("a,b"), "pay").await.0, 400);
    let large = send(&gateway, Some("l"), "large").await;
    assert_eq!((large.0, large.2.len()), (201, 100 << 10), "what is not kept is passed on");
    assert_eq!(send(&gateway, Some("l"), "large").await.0, 409);
    assert_eq!(calls.load(Ordering::SeqCst), 7);
    assert_eq!(gateway.get("/").await.body, "call 8", "other methods pass through");
}

#[tokio::test]
async fn a_client_that_leaves_has_its_request_done_once() {
    let (directory, gate) = (Directory::new(), Arc::new(Semaphore::new(0)));
    let (upstream, calls) = payments(Arc::clone(&gate)).await;
    let gateway = Gateway::start(once(&directory.0, &upstream, IdempotencyConfig::default())).await;
    let mut client = gateway.connect().await;
    tokio::select! {
        _ = client.send(pay(Some("a"), "pay")) => panic!("nothing was answered yet"),
        () = async {
            while calls.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    drop(client);
    gate.add_permits(1);
    assert_eq!(send(&gateway, Some("a"), "pay").await, call(1, true));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_kept_and_no_request_is_sent_twice() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let upstream = accepting(move |mut stream| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let answer: &[u8] = match call {
                // nothing at all
                0 => b"",
                // the beginning
                1 => b"HTTP/1.1 201 Created\r\ncontent-length: 10\r\n\r\nhalf",
                _ => b"HTTP/1.1 201 Created\r\ncontent-length: 5\r\n\r\nwhole",
            };
            let _ = stream.write_all(answer).await;
        }
    })
    .await;
    let directory = Directory::new();
    let gateway = Gateway::start(once(&directory.0, &upstream, IdempotencyConfig::default())).await;
    for (status, sent) in [(502, 1), (502, 2), (201, 3), (201, 3)] {
        assert_eq!(send(&gateway, Some("a"), "pay").await.0, status);
        assert_eq!(calls.load(Ordering::SeqCst), sent);
    }
}
