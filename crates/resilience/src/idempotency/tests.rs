use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use tokio::{task::JoinSet, time::sleep};
use tower::{Service, ServiceBuilder, ServiceExt as _, service_fn};

use super::*;
use crate::retry::IDEMPOTENCY_KEY;

/// A body that ends as told.
struct Answered(Option<Result<Bytes, io::Error>>);

impl Body for Answered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.0.take().map(|bytes| bytes.map(Frame::data)))
    }
}

/// What the service does, by the body of a request: it waits for 100 ms and then answers with a status; and counts.
async fn serve(
    request: Request<Buffered<Full<Bytes>>>,
    calls: Arc<AtomicU32>,
) -> Result<Response<Answered>, Infallible> {
    let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
    sleep(Duration::from_millis(100)).await;
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&body).unwrap();
    let (status, answer) = match text {
        "broken" => (201, Err(io::Error::from(io::ErrorKind::ConnectionReset))),
        "large" => (201, Ok(Bytes::from(vec![b'x'; 5000]))),
        text => (text.parse().unwrap_or(201), Ok(Bytes::from(format!("call {call}")))),
    };
    let response = Response::builder().status(status).header("connection", "close").header("location", "/orders/7");
    Ok(response.body(Answered(Some(answer))).unwrap())
}

type Reply = (u16, bool, String);

/// A service of which the same key is done once, and the calls it had.
#[derive(Clone)]
struct Fixture<S> {
    service: S,
    calls: Arc<AtomicU32>,
}

fn fixture(
    config: IdempotencyConfig,
) -> Fixture<
    impl Service<Request<Full<Bytes>>, Response = Response<Buffered<Answered>>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static,
> {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let store = MemoryStore::new(MemoryConfig { records_max: 8, ..MemoryConfig::default() }).unwrap();
    let layer = IdempotencyLayer::new(config, store, ByAuthorization).unwrap();
    let service =
        ServiceBuilder::new().layer(layer).service(service_fn(move |request| serve(request, counted.clone())));
    Fixture { service, calls }
}

fn request(key: &str, body: &str) -> Request<Full<Bytes>> {
    let request = Request::post("http://orders/orders").header("authorization", "a");
    let request = if key.is_empty() { request } else { request.header(IDEMPOTENCY_KEY, key) };
    request.body(Full::from(body.to_owned())).unwrap()
}

impl<S> Fixture<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<Buffered<Answered>>, Error = Infallible> + Clone,
{
    async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        let response = self.service.clone().oneshot(request).await.unwrap();
        let replayed = response.headers().contains_key(REPLAYED);
        assert!(!replayed || response.headers()["location"] == "/orders/7");
        assert!(!replayed || !response.headers().contains_key("connection"));
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, replayed, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn statuses<const N: usize>(&self, requests: [(&str, &str); N]) -> [u16; N] {
        let mut statuses = [0; N];
        for (status, (key, body)) in statuses.iter_mut().zip(requests) {
            *status = self.send(request(key, body)).await.0;
        }
        statuses
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }
}

fn reply(status: u16, replayed: bool, call: u32) -> Reply {
    (status, replayed, format!("call {call}"))
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_is_the_answer() {
    let fixture = fixture(IdempotencyConfig::default());
    assert_eq!(fixture.send(request("\"a\"", "order")).await, reply(201, false, 1));
    assert_eq!(fixture.send(request("\"a\"", "order")).await, reply(201, true, 1));
    assert_eq!(fixture.send(request("a", "order")).await, reply(201, true, 1), "quotes are not part of a key");
    assert_eq!(fixture.send(request("b", "order")).await, reply(201, false, 2));
    assert_eq!(fixture.send(request("", "order")).await, reply(201, false, 3), "without a key nothing is kept");
    let mut somebody_else = request("a", "order");
    somebody_else.headers_mut().insert("authorization", "b".parse().unwrap());
    assert_eq!(fixture.send(somebody_else).await, reply(201, false, 4), "nobody sees the answers of others");
    let mut read = request("a", "order");
    *read.method_mut() = Method::GET;
    assert_eq!(fixture.send(read).await, reply(201, false, 5));
}

#[tokio::test(start_paused = true)]
async fn only_what_was_acknowledged_is_kept() {
    for body in ["500", "503", "broken", "404", "422"] {
        let fixture = fixture(IdempotencyConfig::default());
        let first = fixture.send(request("a", body)).await;
        let second = fixture.send(request("a", body)).await;
        assert_eq!((first.0, first.1, fixture.calls()), (second.0, second.1, 2), "{body}");
        assert_eq!(fixture.send(request("a", "201")).await, reply(201, false, 3), "the key is free");
        assert_eq!(fixture.send(request("a", "201")).await, reply(201, true, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn another_request_with_the_same_key_is_refused() {
    let fixture = fixture(IdempotencyConfig::default());
    assert_eq!(fixture.statuses([("a", "order"), ("a", "other"), ("a", "order")]).await, [201, 422, 201]);
    let mut elsewhere = request("a", "order");
    *elsewhere.uri_mut() = "http://orders/refunds".parse().unwrap();
    let (status, _, body) = fixture.send(elsewhere).await;
    assert_eq!(status, 422);
    assert!(body.contains(r#""detail":"idempotency-key: was used for another request""#), "{body}");
    assert_eq!(fixture.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn duplicates_at_the_same_time_wait_or_conflict() {
    let both = async |duplicate| {
        let fixture = fixture(IdempotencyConfig { duplicate, ..IdempotencyConfig::default() });
        let mut calls = JoinSet::new();
        for _ in 0..3 {
            let fixture = fixture.clone();
            calls.spawn(async move { fixture.send(request("a", "order")).await.0 });
        }
        let mut statuses = calls.join_all().await;
        statuses.sort_unstable();
        assert_eq!(fixture.calls(), 1);
        statuses
    };
    assert_eq!(both(Duplicate::Wait(Duration::from_secs(1))).await, [201, 201, 201]);
    assert_eq!(both(Duplicate::Conflict).await, [201, 409, 409]);
    assert_eq!(both(Duplicate::Wait(Duration::from_millis(50))).await, [201, 409, 409], "patience ends");
}

#[tokio::test(start_paused = true)]
async fn when_the_first_fails_the_next_who_waits_does_it() {
    let fixture = fixture(IdempotencyConfig::default());
    let (first, second) = (fixture.send(request("a", "503")), fixture.send(request("a", "503")));
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.0, second.0, fixture.calls()), (503, 503, 2));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_frees_its_key() {
    let fixture = fixture(IdempotencyConfig::default());
    let gone = fixture.send(request("a", "order"));
    tokio::time::timeout(Duration::from_millis(50), gone).await.unwrap_err();
    assert_eq!(fixture.send(request("a", "order")).await, reply(201, false, 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_not_done_or_not_done_again() {
    let small = IdempotencyConfig { request_bytes_max: 10, answer_bytes_max: 4000, ..IdempotencyConfig::default() };
    let fixture = fixture(small);
    assert_eq!(fixture.statuses([("a", "01234567890"), ("", "01234567890")]).await, [413, 201]);
    let (status, _, body) = fixture.send(request("b", "large")).await;
    assert_eq!((status, body.len()), (201, 5000), "it passes");
    assert_eq!(fixture.statuses([("b", "large")]).await, [409]);
    assert_eq!(fixture.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_must_be_readable_and_there_must_be_room() {
    let fixture = fixture(IdempotencyConfig { required: true, ..IdempotencyConfig::default() });
    assert_eq!(fixture.statuses([("", "order"), ("a b", "order"), ("\"a", "order")]).await, [400, 400, 400]);
    for n in 0..8 {
        assert_eq!(fixture.statuses([(&*n.to_string(), "order")]).await, [201]);
    }
    assert_eq!(fixture.statuses([("8", "order"), ("7", "order")]).await, [503, 201]);
    sleep(Duration::from_secs(24 * 60 * 60)).await;
    assert_eq!(fixture.statuses([("8", "order")]).await, [201]);
    assert_eq!(fixture.calls(), 9);
}

#[test]
fn senseless_configurations_are_refused() {
    let wrong = |config: IdempotencyConfig| config.validate().unwrap_err().to_string();
    let default = IdempotencyConfig::default;
    assert_eq!(wrong(IdempotencyConfig { methods: vec![], ..default() }), "methods: must be at least one, not none");
    assert_eq!(
        wrong(IdempotencyConfig { answer_bytes_max: 1 << 30, ..default() }),
        "answer_bytes_max: must be at most 67108864, not 1073741824"
    );
}
