//! Answers on their way, to a client of the HTTP/2 library.

use std::future::poll_fn;

use futures::{StreamExt as _, channel::mpsc, stream};
use http::Request;
use http_body_util::{BodyExt as _, StreamBody};

use super::*;
use crate::body;

/// A stream whose answer has this body, and what its client gets. The client's window for each stream is `window`.
async fn stream(window: u32, response: Response<Body>) -> (Stream, h2::client::ResponseFuture) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut greeting = h2::client::Builder::new();
    greeting.initial_window_size(window).initial_connection_window_size(1 << 24);
    let (client, server) =
        tokio::join!(greeting.handshake::<_, Bytes>(far), h2::server::Builder::new().handshake::<_, Owed>(near));
    let ((mut requests, client), mut server) = (client.unwrap(), server.unwrap());
    tokio::spawn(client);
    let (answer, _) = requests.send_request(Request::get("https://server/").body(()).unwrap(), true).unwrap();
    let (_, reply) = server.accept().await.unwrap().unwrap();
    tokio::spawn(async move { poll_fn(|cx| server.poll_closed(cx)).await });
    (Stream::Handling { handling: Box::pin(std::future::ready(response)), reply }, answer)
}

/// A body of frames that are sent to it, and how to send.
fn fed() -> (mpsc::UnboundedSender<Result<&'static [u8], BoxError>>, Response<Body>) {
    let (frames, fed) = mpsc::unbounded();
    let body =
        StreamBody::new(fed.map(|data: Result<_, BoxError>| data.map(|data| Frame::data(Bytes::from_static(data)))));
    (frames, Response::new(body.boxed_unsync()))
}

async fn poll_once(stream: &mut Stream) -> Poll<()> {
    poll_fn(|cx| Poll::Ready(stream.poll(cx))).await
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_reset_when_its_client_takes_nothing_and_not_when_there_is_nothing() {
    let (frames, response) = fed();
    let (mut stream, answer) = stream(1, response).await;
    frames.unbounded_send(Ok(b"x")).unwrap();
    let silent = tokio::time::timeout(100 * STALL_MAX, poll_fn(|cx| stream.poll(cx)));
    assert!(silent.await.is_err() && stream.is_quiet());
    frames.unbounded_send(Ok(b"y")).unwrap();
    assert!(poll_once(&mut stream).await.is_pending());
    let begun = tokio::time::Instant::now();
    poll_fn(|cx| stream.poll(cx)).await;
    assert_eq!(begun.elapsed().as_secs(), STALL_MAX.as_secs());
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "x");
    let error = body.data().await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_waited_for() {
    let (frames, response) = fed();
    let (mut stream, answer) = stream(100, response).await;
    for _ in 0..5 {
        frames.unbounded_send(Ok(&[0; 100])).unwrap();
    }
    drop(frames);
    let reading = async {
        let mut body = answer.await.unwrap().into_body();
        let mut read = 0;
        while let Some(data) = body.data().await {
            let len = data.unwrap().len();
            read += len;
            tokio::time::sleep(STALL_MAX / 2).await;
            body.flow_control().release_capacity(len).unwrap();
        }
        read
    };
    let ((), read) = tokio::join!(poll_fn(|cx| stream.poll(cx)), reading);
    assert_eq!(read, 500);
}

#[tokio::test]
async fn who_opens_no_window_has_one_piece_kept_for_it() {
    let pieces = Arc::<AtomicUsize>::default();
    let counted = pieces.clone();
    let body = stream::repeat_with(move || {
        counted.fetch_add(1, Relaxed);
        Ok::<_, BoxError>(Frame::data(Bytes::from(vec![0; FREE_BYTES])))
    });
    let (mut stream, _answer) = stream(0, Response::new(StreamBody::new(body).boxed_unsync())).await;
    for _ in 0..10 {
        assert!(poll_once(&mut stream).await.is_pending() && !stream.is_quiet());
        tokio::task::yield_now().await;
    }
    assert_eq!(pieces.load(Relaxed), 1);
}

#[tokio::test]
async fn a_long_answer_rests_now_and_then_and_arrives_whole() {
    const PIECES: usize = 10;
    let pieces =
        (0..PIECES).map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![piece as u8; TURN_BYTES / 2]))));
    let body = StreamBody::new(stream::iter(pieces)).boxed_unsync();
    let (mut stream, answer) = stream(1 << 20, Response::new(body)).await;
    let mut turns = 0;
    let giving = poll_fn(|cx| {
        turns += 1;
        let polled = stream.poll(cx);
        assert!(polled.is_ready() || !stream.is_quiet());
        polled
    });
    let reading = async {
        let mut body = answer.await.unwrap().into_body();
        let mut read = Vec::new();
        while let Some(data) = body.data().await.transpose().unwrap() {
            body.flow_control().release_capacity(data.len()).unwrap();
            read.extend_from_slice(&data);
        }
        read
    };
    let ((), read) = tokio::join!(giving, reading);
    let expected: Vec<u8> = (0..PIECES).flat_map(|piece| vec![piece as u8; TURN_BYTES / 2]).collect();
    assert!(read == expected);
    assert!(turns > PIECES / 2, "{turns}");
}

#[tokio::test]
async fn heads_say_when_and_how_long_and_nothing_about_the_connection() {
    let mut response = Response::new(body::full("twelve bytes"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    let (mut stream, answer) = stream(100, response).await;
    assert!(poll_once(&mut stream).await.is_ready());
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers()[header::CONTENT_LENGTH], "12");
    assert!(httpdate::parse_http_date(answer.headers()[header::DATE].to_str().unwrap()).is_ok());
    assert!(!answer.headers().contains_key(header::CONNECTION));
    assert_eq!(answer.into_body().data().await.unwrap().unwrap(), "twelve bytes");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_reset_and_trailers_arrive() {
    let (frames, response) = fed();
    let (mut stream_, answer) = stream(100, response).await;
    frames.unbounded_send(Ok(b"x")).unwrap();
    let reading = async {
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "x");
        frames.unbounded_send(Err("gone".into())).unwrap();
        body.data().await.unwrap().unwrap_err().reason()
    };
    let ((), reason) = tokio::join!(poll_fn(|cx| stream_.poll(cx)), reading);
    assert_eq!(reason, Some(Reason::INTERNAL_ERROR));

    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Frame::data(Bytes::from_static(b"x")), Frame::trailers(trailers.clone())];
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, BoxError>))).boxed_unsync();
    let (mut stream_, answer) = stream(100, Response::new(body)).await;
    poll_fn(|cx| stream_.poll(cx)).await;
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "x");
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap(), Some(trailers));
}

#[tokio::test]
async fn a_request_whose_client_lost_interest_is_dropped() {
    let (mut stream, answer) = stream(100, Response::new(body::empty())).await;
    let (dropped, is_dropped) = tokio::sync::oneshot::channel::<()>();
    let Stream::Handling { handling, .. } = &mut stream else { unreachable!() };
    *handling = Box::pin(async move {
        let _held = dropped;
        std::future::pending().await
    });
    drop(answer);
    poll_fn(|cx| stream.poll(cx)).await;
    drop(stream);
    assert!(is_dropped.await.is_err());
}
