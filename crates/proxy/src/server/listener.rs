//! One bound address: accepting, TLS, and HTTP connections.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Version, header};
use hyper::{body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{DRAIN, Shared, forward, tls};

/// Connections of one bound address. Each may cost two descriptors and some 50 KiB.
const CONNECTIONS: usize = 16 << 10;

/// Pause after `accept` failed, typically for lack of file descriptors: nothing tells when there are some again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A handshake that takes longer is an attack or a dead peer.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a client may take for the head of a request.
const HEAD: Duration = Duration::from_secs(30);

/// How long an idle connection stays open once its listener goes. A request that is already on its way when the client
/// cannot know yet is answered, and the answer says that the connection ends; only then is silence taken for the end.
const LAST_REQUESTS: Duration = Duration::from_millis(500);

/// A bound address; cancelling `stop` closes it, and its idle connections.
pub(crate) struct Binding {
    pub(crate) local: SocketAddr,
    pub(crate) stop: CancellationToken,
}

/// Where a connection came in, and from whom.
pub(crate) struct Peer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
    /// The listener's port in the table.
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

/// Binds and starts to accept.
pub(crate) async fn bind(
    shared: &Arc<Shared>,
    (address, port): (IpAddr, u16),
    tasks: &mut JoinSet<()>,
    stop: CancellationToken,
) -> io::Result<Binding> {
    let listener = TcpListener::bind((address, if shared.config.ephemeral { 0 } else { port })).await?;
    let local = listener.local_addr()?;
    let acceptor = tls::acceptor(shared, port).map_err(io::Error::other)?;
    let server = Arc::new(Accepted { shared: Arc::clone(shared), acceptor, port, stop: stop.clone() });
    tasks.spawn(accept(listener, server));
    Ok(Binding { local, stop })
}

struct Accepted {
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    port: u16,
    stop: CancellationToken,
}

async fn accept(listener: TcpListener, server: Arc<Accepted>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = server.stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(Arc::clone(&server).serve(stream, peer));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // The port is free from here on; what was accepted may end in its own time.
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, ended).await.is_err() {
        connections.shutdown().await;
    }
}

impl Accepted {
    async fn serve(self: Arc<Self>, stream: TcpStream, address: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "cannot disable delayed sending");
        }
        let tls = self.shared.table.load().ports().any(|(port, tls)| port == self.port && tls);
        let peer = Peer { shared: Arc::clone(&self.shared), address, port: self.port, tls };
        if !tls {
            return self.http(stream, peer).await;
        }
        match tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.http(stream, peer).await,
            Ok(Err(error)) => debug!(%error, %address, "TLS handshake failed"),
            Err(_) => debug!(%address, "TLS handshake took too long"),
        }
    }

    async fn http(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer) {
        let peer = Arc::new(peer);
        let address = peer.address;
        let leaving = self.stop.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let (peer, leaving) = (Arc::clone(&peer), leaving.clone());
            async move {
                let persistent = request.version() == Version::HTTP_11;
                let mut answer = forward::handle(&peer, request).await;
                if persistent && leaving.is_cancelled() && !answer.status().is_informational() {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let mut builder = auto::Builder::new(Tracked(self.shared.tasks.clone()));
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
        builder.http2().timer(TokioTimer::new());
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.stop.cancelled() => {
                match tokio::time::timeout(LAST_REQUESTS, connection.as_mut()).await {
                    Ok(result) => result,
                    Err(_) => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }
        };
        if let Err(error) = result {
            debug!(%error, %address, "connection ended with an error");
        }
    }
}

/// Runs the streams of HTTP/2 connections where the server can wait for them.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
