//! Connections to backends.
//!
//! A connection in HTTP/1.1 has no task of its own: whoever uses it polls it, so that a request costs no switch between
//! tasks. An idle one is looked at when it is taken out again, which is when a close by the backend is noticed. A
//! connection in HTTP/2 serves many requests at once and has a task.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, uri::Scheme};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::sign::SingleCertAndKey;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::debug;

use super::{
    Shared,
    body::RequestBody,
    connection::Tracked,
    visit::{Dial, Dialed},
};
use crate::routing::{Backend, Identity, Security, Wire};

/// How long a backend may take to accept a connection. Inside a cluster it takes microseconds; a lost packet is sent
/// again after one and three seconds.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);

/// The same where another endpoint can be tried instead: the address of a pod that is gone does not refuse, it is silent.
pub(crate) const CONNECT_ELSE: Duration = Duration::from_secs(1);

/// Idle connections kept per endpoint: enough for the concurrency of one busy endpoint.
const IDLE_PER_ENDPOINT: usize = 256;

/// Idle connections are closed after this time: below the keep-alive of the common servers, whose close could cross
/// with a request.
const IDLE: Duration = Duration::from_secs(30);

/// How often a silent backend is asked whether it is still there, on connections in HTTP/2.
const PING: Duration = Duration::from_secs(20);

/// Bytes that a backend may send ahead on one stream of HTTP/2: those of a fast network within a millisecond or two.
const STREAM_WINDOW: u32 = 1 << 20;

/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 4 << 20;

/// How to reach the endpoints of a backend for one request.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) wire: Arc<Wire>,
    pub(crate) http2: bool,
    pub(crate) identity: Option<Arc<Identity>>,
    /// Whether names of headers are written as the client wrote them.
    pub(crate) case: bool,
    /// Who opens the connections, where it is not this process for itself.
    pub(crate) dialer: Option<Arc<dyn Dial>>,
}

/// What connections must have in common to be used for the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    wire: u64,
    http2: bool,
    case: bool,
    identity: Option<u64>,
    dialer: Option<u64>,
}

impl Way {
    pub(crate) fn to(backend: &Backend, http2: bool, identity: Option<&Arc<Identity>>) -> Way {
        let wire = backend.wire();
        let http2 = http2 || wire.http2;
        Way { wire, http2, identity: identity.cloned(), case: false, dialer: None }
    }

    /// Whether nothing may be sent, because a policy asks for what cannot be done.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self.security(), Security::Broken)
    }

    /// How what is sent is encrypted. In the mesh the tunnel does it, and clients say themselves whether they speak TLS.
    fn security(&self) -> &Security {
        if self.dialer.is_some() { &Security::Plain } else { &self.wire.security }
    }

    /// What HTTP/2 calls the protocol.
    pub(crate) fn scheme(&self) -> Scheme {
        match self.security() {
            Security::Tls { .. } => Scheme::HTTPS,
            Security::Plain | Security::Broken => Scheme::HTTP,
        }
    }

    fn key(&self, address: SocketAddr) -> Key {
        let identity = match self.security() {
            Security::Tls { .. } => self.identity.as_ref().map(|identity| identity.id),
            Security::Plain | Security::Broken => None,
        };
        let dialer = self.dialer.as_ref().map(|dialer| dialer.id());
        Key { address, wire: self.wire.id, http2: self.http2, case: self.case, identity, dialer }
    }

    /// A connection on which nothing was sent; `http` says whether HTTP will be.
    pub(crate) async fn connect(&self, address: SocketAddr, limit: Duration, http: bool) -> io::Result<Io> {
        let connect = async {
            if let (Some(path), Security::Plain) = (self.wire.socket(address), &self.wire.security) {
                return Ok(Io::new(Stream::Unix(UnixStream::connect(path).await?)));
            }
            if let Some(dialer) = &self.dialer {
                return dialer.dial(address).await.map(|stream| Io::new(Stream::Dialed(stream)));
            }
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            match &self.wire.security {
                Security::Plain => Ok(Io::new(Stream::Plain(stream))),
                Security::Broken => Err(io::Error::other("the BackendTLSPolicy of the backend is not valid")),
                Security::Tls { name, config } => {
                    let mut config = rustls::ClientConfig::clone(config);
                    if http {
                        config.alpn_protocols = vec![if self.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
                    }
                    if let Some(identity) = &self.identity
                        && !config.client_auth_cert_resolver.has_certs()
                    {
                        let key = SingleCertAndKey::from(Arc::clone(&identity.key));
                        config.client_auth_cert_resolver = Arc::new(key);
                    }
                    let stream = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream).await?;
                    Ok(Io::new(Stream::Tls(Box::new(stream))))
                }
            }
        };
        tokio::time::timeout(limit, connect).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// A connection, encrypted or not.
pub(crate) struct Io {
    stream: Stream,
    /// The backend takes nothing any more. It may have answered before it closed, and what it said can still be read; who
    /// is told of a failed write would never look.
    deaf: bool,
}

enum Stream {
    Plain(TcpStream),
    /// In the file system.
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    Dialed(Dialed),
}

impl Io {
    fn new(stream: Stream) -> Self {
        Io { stream, deaf: false }
    }

    /// What becomes of an attempt to write so many bytes.
    fn written(&mut self, bytes: usize, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(error)) if is_closed(&error) => {
                self.deaf = true;
                Poll::Ready(Ok(bytes))
            }
            other => other,
        }
    }
}

/// Whether the other side has closed the connection.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Dialed(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let io = self.get_mut();
        if io.deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = match &mut io.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Dialed(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        io.written(bytes.len(), written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let io = self.get_mut();
        let bytes = || parts.iter().map(|part| part.len()).sum();
        if io.deaf {
            return Poll::Ready(Ok(bytes()));
        }
        let written = match &mut io.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Stream::Dialed(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        };
        io.written(bytes(), written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
            Stream::Dialed(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        let flushed = match &mut io.stream {
            _ if io.deaf => Poll::Ready(Ok(())),
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
            Stream::Dialed(stream) => Pin::new(stream).poll_flush(context),
        };
        match flushed {
            Poll::Ready(Err(error)) if is_closed(&error) => {
                io.deaf = true;
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Dialed(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// What a request is sent on.
pub(crate) enum Line {
    /// A connection of its own.
    One(Box<Connection>),
    /// A connection that it shares; whether it was used before.
    Many(http2::SendRequest<RequestBody>, bool),
}

impl Line {
    /// A line that is there already, unless only a `fresh` one will do; else a new one.
    pub(crate) async fn get(
        shared: &Arc<Shared>,
        way: &Way,
        address: SocketAddr,
        fresh: bool,
        limit: Duration,
    ) -> io::Result<Line> {
        let key = way.key(address);
        if !fresh && let Some(line) = shared.pool.take(&key).await {
            return Ok(line);
        }
        let io = TokioIo::new(way.connect(address, limit, true).await?);
        if !way.http2 {
            let builder = http1::Builder::new().preserve_header_case(way.case).handshake(io);
            let (sender, driver) = builder.await.map_err(io::Error::other)?;
            return Ok(Line::One(Box::new(Connection { key, sender, driver, ended: false, reused: false })));
        }
        let mut builder = http2::Builder::new(Tracked(shared.lines.clone()));
        builder.timer(TokioTimer::new()).keep_alive_interval(PING);
        builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let (sender, driver) = builder.handshake(io).await.map_err(io::Error::other)?;
        let kill = shared.kill.clone();
        shared.lines.spawn(async move {
            tokio::select! {
                () = kill.cancelled() => {}
                ended = driver => if let Err(error) = ended {
                    debug!(%error, %address, "a connection to a backend ended with an error");
                }
            }
        });
        shared.pool.share(key, &sender);
        Ok(Line::Many(sender, false))
    }

    /// Whether it already served a request: then a failure says nothing about the backend.
    pub(crate) fn reused(&self) -> bool {
        match self {
            Line::One(connection) => connection.reused,
            Line::Many(_, reused) => *reused,
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        match self {
            Line::One(connection) => connection.send(request).await,
            Line::Many(sender, _) => {
                if let Err(error) = sender.ready().await {
                    return Err(SendError { error, unsent: Some(request) });
                }
                sender.try_send_request(request).await.map_err(SendError::of)
            }
        }
    }
}

type Driver = http1::Connection<TokioIo<Io>, RequestBody>;

/// A connection to an endpoint in HTTP/1.1.
pub(crate) struct Connection {
    key: Key,
    sender: http1::SendRequest<RequestBody>,
    driver: Driver,
    /// The driver is done: the connection is closed, or was upgraded.
    ended: bool,
    /// Whether it already served a request.
    reused: bool,
}

/// Why no answer came.
pub(crate) struct SendError {
    pub(crate) error: hyper::Error,
    /// The request, when nothing of it was sent.
    pub(crate) unsent: Option<Request<RequestBody>>,
}

impl SendError {
    /// Whether the backend said that it has not looked at the request.
    pub(crate) fn is_refused(&self) -> bool {
        let reason =
            std::error::Error::source(&self.error).and_then(|source| source.downcast_ref::<h2::Error>()?.reason());
        reason == Some(h2::Reason::REFUSED_STREAM)
    }

    fn of(mut failed: TrySendError<Request<RequestBody>>) -> Self {
        let unsent = failed.take_message();
        SendError { error: failed.into_error(), unsent }
    }
}

impl Connection {
    /// Lets the connection read and write.
    pub(crate) fn drive(&mut self, context: &mut Context<'_>) {
        if !self.ended && self.driver.poll_without_shutdown(context).is_ready() {
            // An error reaches whoever waits for the answer or its body.
            self.ended = true;
        }
    }

    /// Whether the connection can take a request now.
    pub(crate) fn poll_reusable(&mut self, context: &mut Context<'_>) -> bool {
        self.drive(context);
        !self.ended && self.sender.is_ready()
    }

    async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let (driver, ended) = (&mut self.driver, &mut self.ended);
        let answer = poll_fn(|context| {
            if !*ended && driver.poll_without_shutdown(context).is_ready() {
                *ended = true;
            }
            answer.as_mut().poll(context)
        });
        answer.await.map_err(SendError::of)
    }

    /// The bare stream after an answer that switched protocols, and what was read of it already.
    pub(crate) async fn into_stream(mut self) -> (Io, Bytes) {
        poll_fn(|context| {
            self.drive(context);
            if self.ended { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let parts = self.driver.into_parts();
        (parts.io.into_inner(), parts.read_buf)
    }
}

/// Idle connections of an endpoint and since when they are idle, the most recent last.
type Idle = Vec<(Instant, Box<Connection>)>;

/// Connections by endpoint and way. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Pool {
    idle: Arc<Mutex<HashMap<Key, Idle>>>,
    shared: Arc<Mutex<HashMap<Key, Used>>>,
}

/// A connection in HTTP/2, and when it was last asked for.
type Used = (Instant, http2::SendRequest<RequestBody>);

impl Pool {
    /// A line that is still open, the most recently used first.
    async fn take(&self, key: &Key) -> Option<Line> {
        if key.http2 {
            let mut shared = self.shared.lock();
            let (used, sender) = shared.get_mut(key)?;
            if sender.is_closed() {
                shared.remove(key);
                return None;
            }
            *used = Instant::now();
            return Some(Line::Many(sender.clone(), true));
        }
        loop {
            let (since, mut connection) = self.idle.lock().get_mut(key)?.pop()?;
            let open = poll_fn(|context| Poll::Ready(connection.poll_reusable(context))).await;
            if open && since.elapsed() < IDLE {
                return Some(Line::One(connection));
            }
        }
    }

    fn share(&self, key: Key, sender: &http2::SendRequest<RequestBody>) {
        self.shared.lock().insert(key, (Instant::now(), sender.clone()));
    }

    pub(crate) fn put(&self, mut connection: Box<Connection>) {
        connection.reused = true;
        let mut idle = self.idle.lock();
        let connections = idle.entry(connection.key).or_default();
        if connections.len() < IDLE_PER_ENDPOINT {
            connections.push((Instant::now(), connection));
        }
    }

    /// Closes what was idle for too long.
    pub(crate) fn reap(&self) {
        let mut idle = self.idle.lock();
        for connections in idle.values_mut() {
            connections.retain(|(since, _)| since.elapsed() < IDLE);
        }
        idle.retain(|_, connections| !connections.is_empty());
        // What is under way on one holds it open.
        self.shared.lock().retain(|_, (used, sender)| used.elapsed() < IDLE && !sender.is_closed());
    }
}
