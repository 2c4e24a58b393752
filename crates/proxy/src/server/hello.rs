//! What a client sends first, read before it is decided who answers it: the first message of TLS, or which HTTP it is.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes, BytesMut};
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The first message may be no longer: TLS allows 16 KiB in one record, and no client sends more than two.
const LIMIT: usize = 32 << 10;

/// What connections in HTTP/2 begin with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that was read from already, and gives that out again first.
pub(crate) struct Rewound<S = TcpStream> {
    early: Bytes,
    stream: S,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

/// Reads a client's first message: the server name in it in lower case, empty when there is none, and the stream as if
/// nothing had been read.
pub(crate) async fn read(mut stream: Rewound) -> io::Result<(String, Rewound)> {
    let mut acceptor = Acceptor::default();
    let mut read = BytesMut::with_capacity(2 << 10);
    loop {
        let before = read.len();
        if read.len() >= LIMIT {
            return Err(io::Error::other("the first TLS message is too long"));
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut new = &read[before..];
        while !new.is_empty() {
            acceptor.read_tls(&mut new)?;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().unwrap_or("").to_ascii_lowercase();
                return Ok((name, stream.put_back(read)));
            }
            Err((error, _)) => return Err(io::Error::other(error)),
        }
    }
}

/// Reads as much as it takes to know which HTTP is spoken; the stream is as if nothing had been read.
pub(crate) async fn version<S: AsyncRead + Unpin>(stream: S) -> io::Result<(Http, Rewound<S>)> {
    let mut stream = Rewound::new(stream);
    let mut read = BytesMut::with_capacity(2 << 10);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let known = read.len().min(PREFACE.len());
        if read[..known] != PREFACE[..known] {
            return Ok((Http::One, stream.put_back(read)));
        }
        if known == PREFACE.len() {
            return Ok((Http::Two, stream.put_back(read)));
        }
    }
}

impl<S> Rewound<S> {
    /// A stream of which nothing was read.
    pub(crate) fn new(stream: S) -> Self {
        Rewound { early: Bytes::new(), stream }
    }

    /// The stream itself.
    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    /// Gives this out before anything else.
    pub(crate) fn put_back(mut self, mut read: BytesMut) -> Self {
        read.extend_from_slice(&self.early);
        self.early = read.freeze();
        self
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.has_remaining() {
            let count = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
