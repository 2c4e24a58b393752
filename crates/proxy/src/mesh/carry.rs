//! Carrying bytes both ways, counted.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{hbone::Tunnel, sockets};
use crate::server::hello::Rewound;

/// What is under way in one direction inside this process: a pod's MTU a few times over, so that a bulk transfer costs
/// few system calls, and 32 KiB a connection.
const BUFFER: usize = 16 << 10;

/// How much was carried.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// From the client.
    pub(crate) received: AtomicU64,
    /// To the client.
    pub(crate) sent: AtomicU64,
}

/// One of two sides.
pub(crate) trait Side: AsyncRead + AsyncWrite + Unpin {
    /// Has the peer see that the connection broke, rather than ended.
    fn break_off(&self);
}

impl Side for TcpStream {
    fn break_off(&self) {
        sockets::reset(self);
    }
}

impl<S: Side> Side for Rewound<S> {
    fn break_off(&self) {
        self.stream().break_off();
    }
}

impl Side for Tunnel {
    // a stream that is dropped before its end is reset
    fn break_off(&self) {}
}

struct Counted<'a, S> {
    client: &'a mut S,
    carried: &'a Carried,
}

impl<S: Side> AsyncRead for Counted<'_, S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut *this.client).poll_read(cx, buffer);
        this.carried.received.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl<S: Side> AsyncWrite for Counted<'_, S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut *this.client).poll_write(cx, buffer);
        if let Poll::Ready(Ok(written)) = &polled {
            this.carried.sent.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().client).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().client).poll_shutdown(cx)
    }
}

/// Carries bytes both ways until both sides are done; what one side says last, the other one hears. A side that breaks off
/// breaks off the other.
pub(crate) async fn carry(mut client: impl Side, mut other: impl Side, carried: &Carried) -> io::Result<()> {
    let mut counted = Counted { client: &mut client, carried };
    let result = tokio::io::copy_bidirectional_with_sizes(&mut counted, &mut other, BUFFER, BUFFER).await;
    if result.is_err() {
        client.break_off();
        other.break_off();
    }
    result.map(|_| ())
}
