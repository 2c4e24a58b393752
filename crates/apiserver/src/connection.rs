//! Connections: TLS, HTTP/1.1 and HTTP/2, limits on each, and an orderly end.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

mod answer;
mod gather;
mod multiplexed;
mod stall;
mod standing;
mod streams;
mod turn;

use self::{
    stall::{Patience, Timely},
    standing::Standing,
};
use crate::{
    authentication::Presented,
    body::{Body, BoxError},
    server::{ApiServer, Caller},
    tls::SharedTls,
};

/// Connections open at once on one listener; each costs two buffers and a task, so this bounds memory at some 100 MiB.
const CONNECTIONS_MAX: usize = 4096;
/// How long a client may take for the TLS handshake; upstream allows the same.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an HTTP/1.1 client may take to send a request's head, against clients that trickle bytes.
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// Size of a request's head at most; service-account tokens and long selectors fit many times.
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// Requests one HTTP/2 connection may have open; clients hold one watch per kind on a single connection.
const STREAMS_MAX: u32 = 1000;
/// HTTP/2 receive windows: a request of the largest size arrives without waiting for window updates.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes one HTTP/2 stream may have waiting for the socket: enough that a list's next chunk is ready when one is sent.
const SEND_BUFFER_BYTES: usize = 512 * 1024;
/// Silent HTTP/2 connections are asked whether they still live, and cut when they do not answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long open requests may take after the stop signal; watches end at once.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until `stop`, then drains them.
pub(crate) async fn serve(server: Arc<ApiServer>, listener: TcpListener, tls: SharedTls, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            permit = permits.clone().acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (server, stop, tls) = (server.clone(), stop.clone(), tls.clone());
                connections.spawn(async move {
                    connection(server, tls, stream, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!(open = connections.len(), "connections were cut after the drain timeout");
        connections.shutdown().await;
    }
    if let Some(auditor) = server.auditor.clone()
        && let Err(error) = tokio::task::spawn_blocking(move || auditor.flush()).await
    {
        tracing::warn!(%error, "the last audit events may be missing");
    }
}

async fn connection(server: Arc<ApiServer>, shared: SharedTls, stream: TcpStream, stop: CancellationToken) {
    // before what it counts the replacements of, so that none is missed
    let generation = shared.generation();
    let tls = shared.current();
    let acceptor = TlsAcceptor::from(tls.config.clone());
    let peer = stream.peer_addr().ok();
    // small frames (watch events, answers) must not wait for more data
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(?peer, %error, "setting TCP_NODELAY failed");
    }
    let patience = Patience::default();
    let stream = Timely::new(stream, patience.clone());
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
    if !matches!(handshake, Ok(Ok(_))) {
        server.metrics.handshake_errors.fetch_add(1, Relaxed);
    }
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(?peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(?peer, "TLS handshake timed out"),
    };
    // the verifier of the TLS configuration has checked the chain
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let Presented { user, until, is_front_proxy } = server.authenticator.presented(chain, tls.kinds.as_ref());
    let caller = Caller {
        user,
        until,
        is_front_proxy,
        peer: peer.map(|peer| peer.ip()),
        // of its own, so that the watches of all connections do not contend for one lock
        draining: stop.child_token(),
        is_component: false,
        tenure: None,
    };
    let standing = Standing::new(caller, chain, shared, generation);
    let gauge = Open::new(&server);
    let ended = if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        multiplexed::serve(stream, server.clone(), standing, &stop).await
    } else {
        let service = ConnectionService { server: server.clone(), standing, patience };
        let mut serving = std::pin::pin!(http1().serve_connection(TokioIo::new(stream), service).with_upgrades());
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        ended.map_err(BoxError::from)
    };
    drop(gauge);
    if let Err(error) = ended {
        tracing::debug!(?peer, error, "connection ended");
    }
}

/// How a connection of HTTP/1.1 is served.
fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX as usize * 2)
        .pipeline_flush(true);
    builder
}

/// Counts the connection while it lives.
struct Open<'a>(&'a ApiServer);

impl<'a> Open<'a> {
    fn new(server: &'a ApiServer) -> Self {
        server.metrics.connections.fetch_add(1, Relaxed);
        Self(server)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics.connections.fetch_sub(1, Relaxed);
    }
}

struct ConnectionService {
    server: Arc<ApiServer>,
    standing: Standing,
    patience: Patience,
}

impl hyper::service::Service<Request<Incoming>> for ConnectionService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (server, patience) = (self.server.clone(), self.patience.clone());
        let caller = self.standing.caller(&server.authenticator);
        let request = request.map(|body| body.map_err(|error| Box::new(error) as BoxError).boxed_unsync());
        Box::pin(async move {
            let response = server.handle(request, caller).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                patience.begin();
            }
            Ok(response)
        })
    }
}
