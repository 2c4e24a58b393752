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
    pin::pin,
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
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::{
    Shared,
    body::RequestBody,
    connection::{BUFFER_MIN, Tracked},
    listener::keepalive_of,
    proxied,
    visit::Dial,
    workers::{MOST, place},
};
use crate::routing::{Backend, Identity, LineTerms, Security, Upstream, Wire};

mod connected;

pub(crate) use connected::Io;
use connected::Stream;

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
    /// How connections are made and used, where a policy says it.
    pub(crate) terms: Option<Arc<Upstream>>,
    /// Who the endpoint is told the client is, before anything else, and where that came in.
    pub(crate) proxied: Option<(SocketAddr, SocketAddr)>,
}

/// What connections must have in common to be used for the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    wire: u64,
    http2: bool,
    case: bool,
    terms: u64,
    identity: Option<u64>,
    dialer: Option<u64>,
}

impl Way {
    pub(crate) fn to(backend: &Backend, http2: bool, identity: Option<&Arc<Identity>>) -> Way {
        let wire = backend.wire();
        let http2 = http2 || wire.http2;
        Way { wire, http2, identity: identity.cloned(), case: false, dialer: None, terms: None, proxied: None }
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
        let terms = self.terms.as_ref().map_or(0, |terms| terms.id);
        Key { address, wire: self.wire.id, http2: self.http2, case: self.case, terms, identity, dialer }
    }

    fn line(&self) -> Option<&LineTerms> {
        self.terms.as_ref().map(|terms| &terms.config.line)
    }

    /// Whether another request may use a connection after the one that it was made for.
    fn is_shared(&self) -> bool {
        // An endpoint that is told who the client is takes all that follows for that client's.
        self.proxied.is_none()
    }

    /// A connection on which nothing of a request was sent; `http` says whether HTTP will be.
    pub(crate) async fn connect(&self, address: SocketAddr, limit: Duration, http: bool) -> io::Result<Io> {
        let connect = async {
            if let (Some(path), Security::Plain) = (self.wire.socket(address), &self.wire.security) {
                return Ok(Io::new(Stream::Unix(UnixStream::connect(path).await?)));
            }
            if let Some(dialer) = &self.dialer {
                return dialer.dial(address).await.map(|stream| Io::new(Stream::Dialed(stream)));
            }
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            if let Some(line) = self.line() {
                set_options(&stream, line)?;
            }
            if let (Some((client, local)), Some(version)) = (self.proxied, self.line().and_then(|line| line.proxy)) {
                stream.write_all(&proxied::header(version, client, local)).await?;
            }
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

fn set_options(stream: &TcpStream, line: &LineTerms) -> io::Result<()> {
    let socket = SockRef::from(stream);
    if let Some(keepalive) = line.keepalive {
        socket.set_tcp_keepalive(&keepalive_of(keepalive))?;
    }
    if let Some(bytes) = line.socket_buffer {
        socket.set_recv_buffer_size(bytes)?;
        socket.set_send_buffer_size(bytes)?;
    }
    Ok(())
}

fn set_http2(builder: &mut http2::Builder<Tracked>, line: &LineTerms) {
    if let Some(window) = line.stream_window {
        builder.initial_stream_window_size(window);
    }
    if let Some(window) = line.connection_window {
        builder.initial_connection_window_size(window);
    }
    if let Some(buffer) = line.buffer {
        builder.max_send_buf_size(buffer);
    }
    if let Some((interval, timeout)) = line.ping {
        builder.keep_alive_interval(interval);
        if let Some(timeout) = timeout {
            builder.keep_alive_timeout(timeout);
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
        if !fresh
            && way.is_shared()
            && let Some(line) = shared.pool.take(&key).await
        {
            return Ok(line);
        }
        Line::make(shared, way, address, limit, way.is_shared()).await
    }

    async fn make(
        shared: &Arc<Shared>,
        way: &Way,
        address: SocketAddr,
        limit: Duration,
        share: bool,
    ) -> io::Result<Line> {
        let key = way.key(address);
        let io = TokioIo::new(way.connect(address, limit, true).await?);
        if !way.http2 {
            let mut builder = http1::Builder::new();
            builder.preserve_header_case(way.case);
            if let Some(buffer) = way.line().and_then(|line| line.buffer) {
                builder.max_buf_size(buffer.max(BUFFER_MIN));
            }
            let (sender, driver) = builder.handshake(io).await.map_err(io::Error::other)?;
            let mut use_up = Use::new(way);
            use_up.take();
            return Ok(Line::One(Box::new(Connection { key, sender, driver, ended: false, reused: false, use_up })));
        }
        let mut builder = http2::Builder::new(Tracked(shared.lines.clone()));
        builder.timer(TokioTimer::new()).keep_alive_interval(PING);
        builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        if let Some(line) = way.line() {
            set_http2(&mut builder, line);
        }
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
        if share {
            shared.pool.share(key, &sender, Use::new(way));
        }
        Ok(Line::Many(sender, false))
    }

    /// A new line that nobody else uses.
    pub(crate) async fn single(shared: &Arc<Shared>, way: &Way, at: SocketAddr, limit: Duration) -> io::Result<Line> {
        Line::make(shared, way, at, limit, false).await
    }

    /// Lets the connection read and write, where nobody else does.
    pub(crate) fn drive(&mut self, context: &mut Context<'_>) {
        if let Line::One(connection) = self {
            connection.drive(context);
        }
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
    /// What is left of it.
    use_up: Use,
}

/// How much longer a connection may be used.
#[derive(Clone, Copy, Debug)]
struct Use {
    /// Requests that it may still carry.
    requests: u32,
    /// How long it may be idle.
    idle: Duration,
    until: Option<Instant>,
    shared: bool,
}

impl Use {
    fn new(way: &Way) -> Self {
        let line = way.line();
        Use {
            requests: line.and_then(|line| line.requests).unwrap_or(u32::MAX),
            idle: line.and_then(|line| line.idle).unwrap_or(IDLE),
            until: line.and_then(|line| line.lifetime).map(|lifetime| Instant::now() + lifetime),
            shared: way.is_shared(),
        }
    }

    /// Takes one more request, if it may have one.
    fn take(&mut self) -> bool {
        if !self.has_room() {
            return false;
        }
        self.requests = self.requests.saturating_sub(u32::from(self.requests < u32::MAX));
        true
    }

    fn has_room(&self) -> bool {
        self.shared && self.requests > 0 && self.until.is_none_or(|until| Instant::now() < until)
    }
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
///
/// Each thread that serves has its own: a connection that another one had opened would wake that one for every byte.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<[Shelf; MOST + 1]>);

/// Those of one thread. Only what is too old is taken from it by another.
#[derive(Default)]
struct Shelf {
    idle: Mutex<HashMap<Key, Idle>>,
    shared: Mutex<HashMap<Key, Used>>,
}

/// A connection in HTTP/2, and when it was last asked for.
type Used = (Instant, http2::SendRequest<RequestBody>, Use);

impl Pool {
    fn shelf(&self) -> &Shelf {
        &self.0[place()]
    }

    /// A line that is still open, the most recently used first.
    async fn take(&self, key: &Key) -> Option<Line> {
        if key.http2 {
            let mut shared = self.shelf().shared.lock();
            let (used, sender, left) = shared.get_mut(key)?;
            // What is under way on one that may take no more ends in its own time.
            if sender.is_closed() || !left.take() {
                shared.remove(key);
                return None;
            }
            *used = Instant::now();
            return Some(Line::Many(sender.clone(), true));
        }
        loop {
            let (since, mut connection) = self.shelf().idle.lock().get_mut(key)?.pop()?;
            let open = poll_fn(|context| Poll::Ready(connection.poll_reusable(context))).await;
            if open && since.elapsed() < connection.use_up.idle && connection.use_up.take() {
                return Some(Line::One(connection));
            }
        }
    }

    fn share(&self, key: Key, sender: &http2::SendRequest<RequestBody>, mut left: Use) {
        left.take();
        self.shelf().shared.lock().insert(key, (Instant::now(), sender.clone(), left));
    }

    pub(crate) fn put(&self, mut connection: Box<Connection>) {
        if !connection.use_up.has_room() {
            return;
        }
        connection.reused = true;
        let mut idle = self.shelf().idle.lock();
        let connections = idle.entry(connection.key).or_default();
        if connections.len() < IDLE_PER_ENDPOINT {
            connections.push((Instant::now(), connection));
        }
    }

    /// Closes what was idle for too long.
    pub(crate) fn reap(&self) {
        for Shelf { idle, shared } in &*self.0 {
            let mut idle = idle.lock();
            for connections in idle.values_mut() {
                connections.retain(|(since, connection)| since.elapsed() < connection.use_up.idle);
            }
            idle.retain(|_, connections| !connections.is_empty());
            // What is under way on one holds it open.
            shared.lock().retain(|_, (used, sender, left)| used.elapsed() < left.idle && !sender.is_closed());
        }
    }
}
