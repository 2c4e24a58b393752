//! An HTTP/2 connection: its requests, its streams and what they write, driven by one task.
//!
//! The HTTP/2 library is asked directly, because what lies between it and a server usually polls every stream that sends
//! twice and takes the connection's lock eight times for each frame.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::future::poll_fn;
use h2::{
    Ping, PingPong, RecvStream,
    server::{Connection, SendResponse},
};
use http::Request;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::coop,
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    CONNECTION_WINDOW_BYTES, HANDSHAKE_TIMEOUT, HEADER_BYTES_MAX, KEEP_ALIVE, SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES,
    STREAMS_MAX,
    answer::{Owed, Received, Stream},
    gather::{self, Gathered, Gathering},
    standing::Standing,
    streams::Streams,
    turn::Bell,
};
use crate::{body::BoxError, server::ApiServer};

/// How often the connection and its streams, which hand each other work, are polled in one turn: a request is read,
/// answered and its answer written in two. What goes on beyond that waits for the next turn.
const ROUNDS_MAX: usize = 4;

/// Serves a connection until its client goes, or until `stop` and its open requests are answered.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    server: Arc<ApiServer>,
    standing: Standing,
    stop: &CancellationToken,
) -> Result<(), BoxError> {
    let (stream, gathered) = gather::gather(stream);
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX);
    let mut greeting = pin!(builder.handshake(stream));
    let greeted = poll_fn(|cx| match greeting.as_mut().poll(cx) {
        Poll::Ready(greeted) => Poll::Ready(greeted.map_err(BoxError::from)),
        Poll::Pending => gathered.lock().poll_turn(cx, None).map(|error| Err(error.into())),
    });
    let connection = tokio::select! {
        greeted = tokio::time::timeout(HANDSHAKE_TIMEOUT, greeted) => greeted??,
        () = stop.cancelled() => return Ok(()),
    };
    let mut serving = Serving::new(connection, gathered, server, standing);
    tokio::select! {
        ended = serving.run() => return ended,
        () = stop.cancelled() => {}
    }
    serving.connection.graceful_shutdown();
    serving.run().await
}

struct Serving<S> {
    connection: Connection<Gathering<S>, Owed>,
    gathered: Arc<Mutex<Gathered<S>>>,
    streams: Streams<Stream>,
    keep_alive: Option<KeepAlive>,
    bell: Arc<Bell>,
    waker: Waker,
    server: Arc<ApiServer>,
    standing: Standing,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Serving<S> {
    fn new(
        mut connection: Connection<Gathering<S>, Owed>,
        gathered: Arc<Mutex<Gathered<S>>>,
        server: Arc<ApiServer>,
        standing: Standing,
    ) -> Self {
        let bell = Arc::<Bell>::default();
        let streams = Streams::new(bell.clone(), STREAMS_MAX);
        let keep_alive = connection.ping_pong().map(KeepAlive::new);
        Self { connection, gathered, streams, keep_alive, waker: bell.clone().into(), bell, server, standing }
    }

    async fn run(&mut self) -> Result<(), BoxError> {
        poll_fn(|task| {
            self.bell.begin(task.waker());
            let polled = self.poll_turn(task.waker());
            self.bell.end();
            polled
        })
        .await
    }

    fn poll_turn(&mut self, task: &Waker) -> Poll<Result<(), BoxError>> {
        let waker = self.waker.clone();
        let mut cx = Context::from_waker(&waker);
        for _ in 0..ROUNDS_MAX {
            // the connection takes what they have to send in the same round; their number, and not what each of them
            // asks of the runtime, is the bound of a round
            let streams = poll_fn(|cx| {
                self.streams.poll(cx);
                Poll::Ready(())
            });
            let _done = pin!(coop::unconstrained(streams)).poll(&mut cx);
            self.bell.has_rung();
            if let Poll::Ready(ended) = self.poll_connection(&mut cx) {
                return Poll::Ready(ended);
            }
            if !self.streams.are_ready() {
                break;
            }
        }
        if self.streams.are_ready() {
            task.wake_by_ref();
        }
        let mut gathered = self.gathered.lock();
        if let Some(keep_alive) = &mut self.keep_alive
            && keep_alive.poll(&mut cx, gathered.has_heard()).is_ready()
        {
            return Poll::Ready(Err("the client does not answer".into()));
        }
        let others = self.streams.are_abroad().then_some(task);
        gathered.poll_turn(&mut cx, others).map(|error| Err(error.into()))
    }

    /// Reads and writes; begins the streams of new requests.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut alone = None;
        loop {
            match self.connection.poll_accept(cx)? {
                Poll::Ready(Some((request, reply))) => {
                    let stream = self.stream(request, reply);
                    if let Some(before) = alone.replace(stream) {
                        self.streams.send_abroad(before);
                    }
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        if let Some(stream) = alone {
            self.streams.add(stream);
        }
        Poll::Pending
    }

    fn stream(&self, request: Request<RecvStream>, reply: SendResponse<Owed>) -> Stream {
        let (head, body) = request.into_parts();
        let body = Received::new(body, &head.headers).boxed_unsync();
        let handling = self
            .server
            .clone()
            .handle(Request::from_parts(head, body), self.standing.caller(&self.server.authenticator));
        Stream::Handling { handling: Box::pin(handling), reply }
    }
}

/// Asks a client that has been silent whether it still lives.
struct KeepAlive {
    pings: PingPong,
    /// Until it is asked, or until it has to have answered.
    sleep: Pin<Box<Sleep>>,
    is_asked: bool,
    has_spoken: bool,
}

impl KeepAlive {
    fn new(pings: PingPong) -> Self {
        Self { pings, sleep: Box::pin(tokio::time::sleep(KEEP_ALIVE)), is_asked: false, has_spoken: false }
    }

    /// Ready when the client is gone; told whether it said something since the last poll.
    fn poll(&mut self, cx: &mut Context<'_>, has_spoken: bool) -> Poll<()> {
        self.has_spoken |= has_spoken;
        if self.is_asked && self.pings.poll_pong(cx).is_ready() {
            (self.is_asked, self.has_spoken) = (false, true);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.has_spoken) {
                if self.is_asked {
                    return Poll::Ready(());
                }
                // refused only while an earlier one is on its way
                self.is_asked = self.pings.send_ping(Ping::opaque()).is_ok();
            }
            self.sleep.as_mut().reset(Instant::now() + KEEP_ALIVE);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
