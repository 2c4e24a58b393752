//! Clients that stop reading: what is written to them has to make progress, or they are dropped.
//!
//! There are two places to get stuck. A connection whose socket takes no more bytes is cut by [`Timely`]. An HTTP/2
//! stream whose window stays shut, on a connection that is otherwise alive, is reset after the same time
//! ([`super::answer`]).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// How long a client may take nothing of what is ready for it; as long as a request may take in all.
pub(super) const STALL_MAX: Duration = Duration::from_secs(60);

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

#[cfg(test)]
mod tests {
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
}
