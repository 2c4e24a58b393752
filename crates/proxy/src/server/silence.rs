//! Connections on which nothing happens for too long.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use resilience::{Moment, now};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that remembers when something last came or went.
pub(crate) struct Heard<S> {
    stream: S,
    /// Nanoseconds of the [`Moment`].
    pub(crate) last: Arc<AtomicU64>,
    /// Whether anybody asks: the clock is not free.
    asked: bool,
}

impl<S> Heard<S> {
    /// Remembers only where there is a limit.
    pub(crate) fn new(stream: S, limit: Option<Duration>) -> Self {
        Heard { stream, last: Arc::new(AtomicU64::new(now().as_nanos())), asked: limit.is_some() }
    }

    fn heard(&self) {
        if self.asked {
            self.last.store(now().as_nanos(), Ordering::Relaxed);
        }
    }
}

/// Waits until nothing has happened for so long; forever without a limit.
pub(crate) async fn silent(last: &AtomicU64, limit: Option<Duration>) {
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        let silence = now().since(Moment::from_nanos(last.load(Ordering::Relaxed)));
        if silence >= limit {
            return;
        }
        tokio::time::sleep(limit - silence).await;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            self.heard();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if polled.is_ready() {
            self.heard();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
