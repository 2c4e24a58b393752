//! Clients that stop reading: what is written to them has to make progress, or they are dropped.
//!
//! There are two places to get stuck. A connection whose socket takes no more bytes is cut by [`Timely`]. An HTTP/2
//! stream whose window stays shut, on a connection that is otherwise alive, ends as an [`Attended`] one: [`Metered`]
//! bodies tell it whether the stream waits for the client or for news to send, for a watch may well be silent for an hour.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::body::{Body, BoxError};

/// What one stream gives before the others have their turn: a list goes on for as long as its client takes more.
const TURN_BYTES: usize = 256 * 1024;
const TURN_FRAMES: usize = 4;

/// How long a client may take nothing of what is ready for it; as long as a request may take in all.
const STALL_MAX: Duration = Duration::from_secs(60);

/// A stream whose writes must make progress.
pub(super) struct Timely<S> {
    stream: S,
    stalled: Option<Pin<Box<Sleep>>>,
    patient: Patience,
}

/// Says that a connection has become somebody's session, who may pause as long as they like.
#[derive(Clone, Default)]
pub(super) struct Patience(Arc<AtomicBool>);

impl Patience {
    pub(super) fn begin(&self) {
        self.0.store(true, Relaxed);
    }
}

impl<S> Timely<S> {
    pub(super) fn new(stream: S, patient: Patience) -> Self {
        Self { stream, stalled: None, patient }
    }

    fn check<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let sleep = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL_MAX)));
        match sleep.as_mut().poll(cx) {
            Poll::Ready(()) if !self.patient.0.load(Relaxed) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")))
            }
            _ => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timely<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timely<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.check(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.check(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.check(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What the body of a stream has done.
#[derive(Clone, Copy, Default)]
struct Given {
    /// How often it gave something.
    count: u64,
    /// The same for this turn of its stream, and how much that was.
    frames: usize,
    bytes: usize,
    last: Last,
}

/// How it answered when it was last asked.
#[derive(Clone, Copy, Default, PartialEq)]
enum Last {
    /// There is no body yet.
    #[default]
    Unasked,
    Gave,
    /// It had nothing for now.
    Silent,
    /// It has given enough for one turn.
    Resting,
}

thread_local! {
    /// Of the stream that is being polled; `None` where no stream is, as with HTTP/1.1.
    static GIVEN: Cell<Option<Given>> = const { Cell::new(None) };
}

/// A body that tells its stream what it does.
pub(super) struct Metered(pub(super) Body);

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Some(mut given) = GIVEN.get() else { return Pin::new(&mut self.0).poll_frame(cx) };
        if given.frames >= TURN_FRAMES || given.bytes >= TURN_BYTES {
            GIVEN.set(Some(Given { last: Last::Resting, ..given }));
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.0).poll_frame(cx);
        given.last = Last::Silent;
        if let Poll::Ready(Some(frame)) = &polled {
            given.count += 1;
            given.frames += 1;
            given.bytes += frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
            given.last = Last::Gave;
        }
        GIVEN.set(Some(given));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A stream that is over when its client has taken nothing for too long of what its body gave.
pub(super) struct Attended {
    stream: BoxFuture<'static, ()>,
    given: Given,
    /// Since the body gave for the so manieth time.
    stalled: Option<(u64, Pin<Box<Sleep>>)>,
}

impl Attended {
    pub(super) fn new(stream: BoxFuture<'static, ()>) -> Self {
        Self { stream, given: Given::default(), stalled: None }
    }

    /// Whether it waits for its body, which has nothing for now.
    pub(super) fn is_quiet(&self) -> bool {
        self.given.last == Last::Silent
    }
}

impl Future for Attended {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let me = &mut *self;
        GIVEN.set(Some(Given { frames: 0, bytes: 0, ..me.given }));
        let polled = me.stream.as_mut().poll(cx);
        me.given = GIVEN.take().unwrap_or_default();
        if polled.is_ready() {
            return Poll::Ready(());
        }
        let Given { count, last: Last::Gave, .. } = me.given else {
            me.stalled = None;
            return Poll::Pending;
        };
        if me.stalled.as_ref().is_none_or(|(since, _)| *since != count) {
            me.stalled = Some((count, Box::pin(tokio::time::sleep(STALL_MAX))));
        }
        let over = me.stalled.as_mut().map_or(Poll::Pending, |(_, sleep)| sleep.as_mut().poll(cx));
        if over.is_ready() {
            tracing::debug!("a stream was reset whose client stopped reading");
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_nobody_reads_from_is_cut_and_a_session_is_not() {
        let (near, far) = tokio::io::duplex(16);
        let mut stream = Timely::new(near, Patience::default());
        let error = stream.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(far);
        let (near, _far) = tokio::io::duplex(16);
        let patience = Patience::default();
        patience.begin();
        let mut stream = Timely::new(near, patience);
        let writing = tokio::time::timeout(10 * STALL_MAX, stream.write_all(&[0; 100]));
        assert!(writing.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_waited_for() {
        use tokio::io::AsyncReadExt as _;
        let (near, mut far) = tokio::io::duplex(16);
        let mut stream = Timely::new(near, Patience::default());
        let reading = async {
            for _ in 0..5 {
                tokio::time::sleep(STALL_MAX / 2).await;
                far.read_exact(&mut [0; 16]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(stream.write_all(&[0; 80]), reading);
        written.unwrap();
    }

    /// A stream that gives `frames` of its body and then waits for its client for ever.
    fn stuck(frames: usize, then_silent: bool) -> Attended {
        assert!(frames < TURN_FRAMES);
        let some = futures::stream::iter((0..frames).map(|_| Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"x")))));
        let body = StreamBody::new(futures::StreamExt::chain(some, futures::stream::pending())).boxed_unsync();
        let mut body = Metered(body);
        Attended::new(Box::pin(async move {
            for _ in 0..frames {
                body.frame().await;
            }
            if then_silent {
                body.frame().await;
            }
            std::future::pending::<()>().await;
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_reset_when_its_client_takes_nothing_and_not_when_there_is_nothing() {
        let begun = tokio::time::Instant::now();
        stuck(3, false).await;
        assert_eq!(begun.elapsed().as_secs(), STALL_MAX.as_secs());
        let silent = tokio::time::timeout(100 * STALL_MAX, stuck(3, true));
        assert!(silent.await.is_err());
        let handling = tokio::time::timeout(100 * STALL_MAX, Attended::new(Box::pin(std::future::pending())));
        assert!(handling.await.is_err());
    }

    #[tokio::test]
    async fn a_stream_with_much_to_give_rests_now_and_then_and_is_neither_quiet_nor_stalled() {
        let frames = (0..10).map(|_| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![0; TURN_BYTES / 2]))));
        let mut body = Metered(StreamBody::new(futures::stream::iter(frames)).boxed_unsync());
        let mut stream = Attended::new(Box::pin(async move { while body.frame().await.is_some() {} }));
        let mut turns = 0;
        std::future::poll_fn(|cx| {
            turns += 1;
            let polled = Pin::new(&mut stream).poll(cx);
            assert!(polled.is_ready() || (!stream.is_quiet() && stream.stalled.is_none()));
            polled
        })
        .await;
        assert_eq!(turns, 6);
    }
}
