//! What requests are refused for and backends waited for, as annotations of Ingresses have it.

use http::header;

use super::{traffic::with, *};
use crate::routing::{Crowd, Distinct, RateRule, Rates, Retry, Traffic, Trigger};

/// A backend that says how long the body was.
async fn measuring() -> Upstream {
    upstream(|request: Request<Incoming>| async move {
        let length = http_body_util::BodyExt::collect(request.into_body()).await.map_or(0, |b| b.to_bytes().len());
        Response::new(Full::from(length.to_string()))
    })
    .await
}

/// The head of the answer to a request that is sent as these pieces, with pauses in between.
async fn told(gateway: &Gateway, pieces: &[&str], pause: Duration) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 {
            tokio::time::sleep(pause).await;
        }
        stream.write_all(piece.as_bytes()).await.unwrap();
    }
    let mut answer = Vec::new();
    // Whoever refuses a request may cut the connection behind its answer.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn bodies_are_no_longer_than_they_may_be_whether_they_say_so_or_not() {
    let upstream = measuring().await;
    let traffic = Traffic { body_max: Some(10), ..Traffic::default() };
    let gateway = Gateway::start(with(&[upstream.address], traffic)).await;
    let (post, end) = ("POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n", "\r\n\r\n");
    let chunks = |text: &str| format!("{post}transfer-encoding: chunked{end}{text}");
    for (request, status, body) in [
        (format!("{post}content-length: 10{end}0123456789"), "200", "10"),
        (format!("{post}content-length: 11{end}0123456789a"), "413", "Payload Too Large"),
        (chunks("5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"), "200", "10"),
        (chunks("5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n"), "413", "Payload Too Large"),
    ] {
        let answer = told(&gateway, &[&request], Duration::ZERO).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with(body), "{request}: {answer}");
    }
}

#[tokio::test]
async fn a_client_has_so_many_requests_at_once_until_they_are_answered() {
    let slow = Held::start().await;
    let crowd = Crowd::new(1, Vec::new(), StatusCode::SERVICE_UNAVAILABLE);
    let traffic = Traffic { crowd: Some(Arc::clone(&crowd)), ..Traffic::default() };
    let gateway = Gateway::start(with(&[slow.upstream.address], traffic)).await;
    let idle = Arc::strong_count(&crowd);
    for _ in 0..2 {
        let mut first = gateway.connect().await;
        let mut pending = JoinSet::new();
        pending.spawn(async move { first.get("/").await });
        slow.entered().await;
        assert_eq!(gateway.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE);
        slow.release();
        assert_eq!(pending.join_next().await.unwrap().unwrap().body, "slow");
        // The client may know the end of the answer before the gateway has put it away.
        while Arc::strong_count(&crowd) > idle {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn too_many_requests_are_answered_with_the_status_that_is_asked_for() {
    let upstream = named("in").await;
    let hour = Duration::from_secs(3600);
    let rule = RateRule::with_burst(1, hour, 3, Vec::new(), vec![Distinct::Source]).unwrap();
    let mut rates = Rates::new(vec![rule], false);
    rates.status = StatusCode::SERVICE_UNAVAILABLE;
    let traffic = Traffic { rates: vec![Arc::new(rates)], ..Traffic::default() };
    let gateway = Gateway::start(with(&[upstream.address], traffic)).await;
    let mut client = gateway.connect().await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(client.get("/").await.status.as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 503], "the burst, and no more");
}

#[tokio::test]
async fn a_backend_may_be_silent_only_for_so_long_but_a_client_takes_its_time() {
    let silence = Some(Duration::from_millis(300));
    let upstream = measuring().await;
    let traffic = || Traffic { silence, ..Traffic::default() };
    let gateway = Gateway::start(with(&[upstream.address], traffic())).await;
    let head = "POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 6\r\n\r\n";
    let pieces = [head, "a", "b", "c", "d", "e", "f"];
    let answer = told(&gateway, &pieces, Duration::from_millis(100)).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with('6'), "{answer}");
    let silent = harness::upstream(|_| std::future::pending::<Response<Full<Bytes>>>()).await;
    gateway.server.install(with(&[silent.address], traffic()));
    assert_eq!(gateway.get("/").await.status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn who_is_careful_repeats_only_what_may_be_repeated() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let upstream = upstream(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut answer = Response::new(Full::default());
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            answer
        }
    })
    .await;
    let at_once = Duration::from_nanos(1);
    let retry = |careful, within| Retry {
        triggers: vec![Trigger::Broken],
        statuses: vec![StatusCode::BAD_GATEWAY],
        config: Retry::config(2, at_once, at_once),
        pause: Duration::ZERO,
        attempt: None,
        careful,
        within,
    };
    for (careful, within, method, expected) in [
        (true, None, Method::GET, 3),
        (true, None, Method::POST, 1),
        (false, None, Method::POST, 3),
        (true, Some(at_once), Method::GET, 1),
    ] {
        count.store(0, Ordering::SeqCst);
        let retry = Some(Arc::new(retry(careful, within)));
        let gateway = Gateway::start(with(&[upstream.address], Traffic { retry, ..Traffic::default() })).await;
        let request = Request::builder().method(method.clone()).uri("/").header(header::HOST, "h");
        let answer = gateway.connect().await.send(request.body(Full::from("body")).unwrap()).await.unwrap();
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        assert_eq!(count.load(Ordering::SeqCst), expected, "{careful} {within:?} {method}");
    }
}
