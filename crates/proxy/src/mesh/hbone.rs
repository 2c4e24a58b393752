//! HBONE: connections of pods inside HTTP/2 CONNECT streams inside mutual TLS.
//!
//! Windows bound what either side holds of a stream whose reader is slow. A connection's window is as large as those of
//! all of its streams together, so that a stream that nobody reads stops no other.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) mod client;
pub(crate) mod server;

/// The port on which pods that take part are reached.
pub const PORT: u16 = 15008;
/// What is under way of one stream in one direction at most: enough for 10 Gbit/s at 200 µs.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
/// Streams of one connection; further ones take another connection.
pub(crate) const STREAMS: u32 = 100;
/// See above.
pub(crate) const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS;
/// Bytes of one frame at most: larger ones cost fewer wake-ups.
pub(crate) const FRAME: u32 = 64 << 10;
/// Bytes that wait in one stream to be sent at most.
pub(crate) const SEND_BUFFER: usize = 256 << 10;
/// Headers of a CONNECT: an address and a few identifiers.
pub(crate) const HEADERS: u32 = 8 << 10;

/// A stream of a tunnel as something to read from and write to.
pub(crate) struct Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Received and not read yet.
    rest: Bytes,
    ended: bool,
    #[expect(dead_code, reason = "it counts by being there")]
    counted: Option<client::Stream>,
}

impl Tunnel {
    pub(crate) fn new(send: SendStream<Bytes>, receive: RecvStream, counted: Option<client::Stream>) -> Self {
        Tunnel { send, receive, rest: Bytes::new(), ended: false, counted }
    }
}

fn failed(error: h2::Error) -> io::Error {
    match error.reason() {
        Some(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED) => io::ErrorKind::ConnectionReset.into(),
        _ if error.is_io() => error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        _ => io::Error::other(error),
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => this.rest = data.map_err(failed)?,
            }
        }
        let taken = this.rest.len().min(buffer.remaining());
        buffer.put_slice(&this.rest[..taken]);
        this.rest.advance(taken);
        this.receive.flow_control().release_capacity(taken).map_err(failed)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.send.reserve_capacity(buffer.len());
        let mut room = this.send.capacity();
        // told of a change that has been used up already, one looks again
        while room == 0 {
            room = match ready!(this.send.poll_capacity(cx)) {
                Some(room) => room.map_err(failed)?,
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            };
        }
        let taken = room.min(buffer.len());
        this.send.send_data(Bytes::copy_from_slice(&buffer[..taken]), false).map_err(failed)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ended {
            this.ended = true;
            this.send.send_data(Bytes::new(), true).map_err(failed)?;
        }
        Poll::Ready(Ok(()))
    }
}
