//! One connection that speaks HTTP, from its first byte to its end.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    rt::Executor,
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use super::{
    Shared,
    account::Account,
    body::{BodyError, ResponseBody},
    forward,
    hello::{self, Http, Rewound},
    pace::{self, Active, Over, Pace, Paced},
    visit::Visit,
};
use crate::routing::{Client, PortTable, RouteTable, Site};

/// Bytes of the longest head of a request in HTTP/1.1: what the common servers take, several times over. It is what one
/// connection can make the gateway keep.
const HEAD_BYTES: usize = 64 << 10;

/// How long a client may take for the head of a request, and to say which HTTP it speaks.
pub(crate) const HEAD: Duration = Duration::from_secs(30);

/// How long an idle connection stays open once its listener goes. A request that is already on its way when the client
/// cannot know yet is answered, and the answer says that the connection ends; only then is silence taken for the end.
const LAST_REQUESTS: Duration = Duration::from_millis(500);

/// How often a silent client is asked whether it is still there, on connections in HTTP/2, which may be idle for long.
const PING: Duration = Duration::from_secs(60);

/// The smallest buffer that the HTTP/1.1 library works with.
pub(crate) const BUFFER_MIN: usize = 8 << 10;

/// Where a connection came in, and from whom.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) shared: Arc<Shared>,
    /// Who the client is, as far as the connection tells.
    pub(crate) address: SocketAddr,
    /// Where it came in.
    pub(crate) local: SocketAddr,
    /// The port in the table.
    pub(crate) site: Site,
    pub(crate) tls: bool,
    /// With TLS, the hostname pattern of the listener that answered the handshake.
    pub(crate) listener: Option<Box<str>>,
    /// How its listener treats clients, as long as it is not known which listener a request is for.
    pub(crate) client: Option<Arc<Client>>,
    /// The certificate that the client has shown, where its listener tells of it.
    pub(crate) certificate: Option<Arc<HeaderValue>>,
    /// In the mesh, where it goes and for whom.
    pub(crate) visit: Option<Visit>,
}

impl Peer {
    /// A client in the mesh.
    pub(crate) fn visiting(shared: &Arc<Shared>, address: SocketAddr, site: Site, visit: Visit) -> Self {
        let (shared, visit) = (Arc::clone(shared), Some(visit));
        // Which Service it wanted is known, but not by a socket of its own.
        let local = SocketAddr::new(address.ip(), site.port);
        Peer { shared, address, local, site, tls: false, listener: None, client: None, certificate: None, visit }
    }

    /// What counts for a request of the connection.
    pub(crate) fn port<'a>(&'a self, table: &'a RouteTable) -> Option<&'a Arc<PortTable>> {
        match &self.visit {
            None => table.port(self.site),
            Some(visit) => Some(visit.port(table)),
        }
    }

    /// The hostname pattern of the listener that the connection is bound to by its handshake.
    pub(crate) fn through(&self) -> Option<Option<&str>> {
        self.tls.then_some(self.listener.as_deref())
    }
}

/// Serves requests until one side is done; `leaving` says that the listener is gone.
pub(crate) async fn serve<S>(stream: S, peer: Peer, leaving: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let address = peer.address;
    let times = peer.client.as_ref().map(|client| &client.times);
    let limit = times.and_then(|times| times.inspection.or(times.idle)).unwrap_or(HEAD);
    let known = tokio::select! {
        known = tokio::time::timeout(limit, hello::version(stream)) => known,
        // Who has said nothing so far is not waited for.
        () = left(leaving) => return,
    };
    let result = match known {
        Ok(Ok((http, stream))) => speak(http, stream, peer, leaving).await,
        // Nobody has asked for anything.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Ok(Err(error)) => return debug!(%error, %address, "connection ended with an error"),
        Err(_) => return debug!(%address, "a client was silent for too long"),
    };
    if let Err(error) = result {
        debug!(%error, %address, "connection ended with an error");
    }
}

/// Waits until the listener is gone, and then for what is on its way.
async fn left(leaving: &CancellationToken) {
    leaving.cancelled().await;
    tokio::time::sleep(LAST_REQUESTS).await;
}

async fn speak<S>(http: Http, stream: Rewound<S>, peer: Peer, leaving: &CancellationToken) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pace = peer.client.as_ref().map(|client| Pace::new(client, http, HEAD));
    let io = TokioIo::new(Paced::new(stream, pace.clone()));
    let (client, tasks, visiting) = (peer.client.clone(), peer.shared.tasks.clone(), peer.visit.is_some());
    let service = service(Arc::new(peer), pace.clone(), leaving.clone());
    let client = client.as_deref();
    match http {
        Http::One => {
            let mut builder = one(client);
            // In the mesh nobody is meant to notice the proxy, so a client may say that it has said everything.
            builder.half_close(visiting);
            let connection = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
            until_end(connection, pace.as_ref(), leaving).await
        }
        Http::Two => {
            let connection = std::pin::pin!(two(client, tasks).serve_connection(io, service));
            until_end(connection, pace.as_ref(), leaving).await
        }
    }
}

/// Answers requests.
fn service(
    peer: Arc<Peer>,
    pace: Option<Arc<Pace>>,
    leaving: CancellationToken,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Counted>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Counted>, Infallible>> + Send,
> {
    service_fn(move |request: Request<Incoming>| {
        let (peer, leaving) = (Arc::clone(&peer), leaving.clone());
        let counted = pace.as_ref().map(|pace| (Arc::clone(pace), pace.request()));
        async move {
            let persistent = request.version() == Version::HTTP_11;
            let observer = peer.visit.as_ref().and_then(Visit::observer);
            let mut account = observer.map(|observer| Account::of(observer, &request));
            let mut answer = forward::handle(&peer, request).await;
            if let Some(account) = &mut account {
                account.answered(&mut answer);
            }
            let last = || leaving.is_cancelled() || counted.as_ref().is_some_and(|(pace, _)| pace.is_last());
            if persistent && !answer.status().is_informational() && last() {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            let active = counted.map(|(_, active)| active);
            Ok::<_, Infallible>(answer.map(|body| Counted { body, _active: active, account }))
        }
    })
}

fn one(client: Option<&Client>) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    let Some(client) = client else {
        builder.header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
        return builder;
    };
    let head = client.http1.head_bytes.unwrap_or(HEAD_BYTES);
    // Its pace is watched, which tells silence between requests from a head that does not end.
    builder.header_read_timeout(None).preserve_header_case(client.http1.case);
    builder.max_header_size(head).max_buf_size(client.connections.buffer.unwrap_or(0).max(head).max(BUFFER_MIN));
    builder
}

fn two(client: Option<&Client>, tasks: TaskTracker) -> http2::Builder<Tracked> {
    let mut builder = http2::Builder::new(Tracked(tasks));
    builder.timer(TokioTimer::new()).keep_alive_interval(PING);
    let Some(client) = client else { return builder };
    let terms = &client.http2;
    if let Some((interval, timeout)) = terms.ping {
        builder.keep_alive_interval(interval);
        if let Some(timeout) = timeout {
            builder.keep_alive_timeout(timeout);
        }
    }
    if terms.stream_window.is_some() {
        builder.initial_stream_window_size(terms.stream_window);
    }
    if terms.connection_window.is_some() {
        builder.initial_connection_window_size(terms.connection_window);
    }
    if terms.streams.is_some() {
        builder.max_concurrent_streams(terms.streams);
    }
    if let Some(bytes) = client.http1.head_bytes {
        builder.max_header_list_size(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
    if let Some(bytes) = client.connections.buffer {
        builder.max_send_buf_size(bytes);
    }
    builder
}

/// A connection that can be asked to end.
trait Graceful: Future<Output = hyper::Result<()>> {
    fn end(self: Pin<&mut Self>);
}

impl<I, B, S> Graceful for http1::UpgradeableConnection<I, S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BodyError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: Body + 'static,
    B::Error: Into<BodyError>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, B, S> Graceful for http2::Connection<I, S, Tracked>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BodyError>,
    S::Future: Send + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BodyError>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

async fn until_end<C: Graceful>(
    mut connection: Pin<&mut C>,
    pace: Option<&Arc<Pace>>,
    leaving: &CancellationToken,
) -> hyper::Result<()> {
    tokio::select! {
        result = connection.as_mut() => return result,
        () = leaving.cancelled() => {
            if let Ok(result) = tokio::time::timeout(LAST_REQUESTS, connection.as_mut()).await {
                return result;
            }
        }
        over = pace::over(pace) => match over {
            Over::Now => return Ok(()),
            Over::Politely => {}
        },
    }
    connection.as_mut().end();
    connection.await
}

/// The body of an answer, which counts its request until it has left.
pub(crate) struct Counted {
    body: ResponseBody,
    _active: Option<Active>,
    /// In the mesh, what is told of it.
    account: Option<Box<Account>>,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let Counted { body, account, .. } = &mut *self;
        if let Some(account) = account {
            account.sent(&frame, body.is_end_stream());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs parts of HTTP/2 connections where the server can wait for them.
#[derive(Clone)]
pub(crate) struct Tracked(pub(crate) TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
