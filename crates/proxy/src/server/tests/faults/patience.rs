//! Clients that take their time, take back what they asked for, or ask for more than anybody needs.

use super::{frames::*, *};

const ENHANCE_YOUR_CALM: u32 = 11;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_the_connection() {
    let upstream = upstream(|_| std::future::pending()).await;
    let gateway = Gateway::start(to(&upstream)).await;
    let mut wire = Wire::connect(&gateway).await;
    let mut rejected = false;
    for stream in (1..).step_by(2).take(20_000) {
        let bytes = [get(stream).bytes(), frame(RST_STREAM, 0, stream, CANCEL).bytes()].concat();
        if !wire.send(&bytes).await {
            rejected = true;
            break;
        }
    }
    let outcome = wire.outcome().await;
    assert!(outcome == Outcome::Gone(ENHANCE_YOUR_CALM) || rejected && outcome == Outcome::Closed, "{outcome:?}");
    nothing_is_left(gateway).await;
}

#[tokio::test]
async fn heads_without_end_end_the_connection() {
    let upstream = named("ok").await;
    let gateway = Gateway::start(to(&upstream)).await;
    for piece in [&[][..], &block(&[("x", "some value")])] {
        let mut wire = Wire::connect(&gateway).await;
        wire.put(&frame(HEADERS, 0, 1, block(&GET))).await;
        let more = frame(CONTINUATION, 0, 1, piece).bytes().repeat(64);
        let mut sent = 0_usize;
        while sent < 16 << 20 && wire.send(&more).await {
            sent += more.len();
        }
        assert!(sent < 16 << 20, "{sent} bytes of a head were taken");
        let outcome = wire.outcome().await;
        assert!(matches!(outcome, Outcome::Gone(_) | Outcome::Closed), "{outcome:?}");
    }
    nothing_is_left(gateway).await;
}

#[tokio::test]
async fn questions_whose_answers_nobody_reads_are_not_kept() {
    let upstream = named("ok").await;
    let gateway = Gateway::start(to(&upstream)).await;
    for question in [frame(PING, 0, 0, [0; 8]), frame(SETTINGS, 0, 0, [])] {
        let mut wire = Wire::connect(&gateway).await;
        let many = question.bytes().repeat(4096);
        // Nothing is read here: once the kernel's buffers are full the gateway reads no more either.
        let mut sent = 0_usize;
        while let Ok(true) = tokio::time::timeout(Duration::from_millis(500), wire.send(&many)).await {
            sent += many.len();
            assert!(sent < 64 << 20, "the gateway takes questions without end");
        }
    }
    drop(gateway);
}

#[tokio::test]
async fn more_streams_than_agreed_are_refused() {
    const REFUSED_STREAM: u32 = 7;
    let upstream = upstream(|_| std::future::pending()).await;
    let gateway = Gateway::start(to(&upstream)).await;
    let mut wire = Wire::connect(&gateway).await;
    for stream in (1..).step_by(2).take(300) {
        wire.put(&get(stream)).await;
    }
    assert_eq!(wire.outcome().await, Outcome::Reset(REFUSED_STREAM));
    drop(wire);
    nothing_is_left(gateway).await;
}

#[tokio::test]
async fn a_body_is_taken_no_faster_than_the_backend_takes_it() {
    let held = upstream(|request: Request<Incoming>| async move {
        let _body = request.into_body();
        std::future::pending().await
    })
    .await;
    let gateway = Gateway::start(to(&held)).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1073741824\r\n\r\n").await.unwrap();
    let (piece, mut sent) = (vec![0; 1 << 20], 0_usize);
    while let Ok(Ok(())) = tokio::time::timeout(Duration::from_millis(500), stream.write_all(&piece)).await {
        sent += piece.len();
        assert!(sent < 64 << 20, "the gateway keeps what nobody takes");
    }
    drop((stream, gateway));
}
