//! One bound address: accepting, TLS, and HTTP connections; connections that are not HTTP are handed on.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

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
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    Bind, DRAIN, Shared, forward,
    hello::{self, Rewound},
    stream,
};
use crate::routing::{Mode, PortTable, Protocol, Site, Transport};

/// Connections of one bound address. Each may cost two descriptors and some 50 KiB.
const CONNECTIONS: usize = 16 << 10;

/// Pause after `accept` failed, typically for lack of file descriptors: nothing tells when there are some again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A handshake that takes longer is an attack or a dead peer.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Bytes of the longest head of a request in HTTP/1.1: what the common servers take, several times over. It is what one
/// connection can make the gateway keep.
const HEAD_BYTES: usize = 64 << 10;

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
    /// The port in the table.
    pub(crate) site: Site,
    pub(crate) tls: bool,
    /// With TLS, the hostname pattern of the listener that answered the handshake.
    listener: Option<Box<str>>,
}

impl Peer {
    /// The hostname pattern of the listener that the connection is bound to by its handshake.
    pub(crate) fn through(&self) -> Option<Option<&str>> {
        self.tls.then_some(self.listener.as_deref())
    }
}

/// Binds and starts to accept.
pub(crate) fn bind(
    shared: &Arc<Shared>,
    bind: Bind,
    tasks: &mut JoinSet<()>,
    stop: CancellationToken,
) -> io::Result<Binding> {
    let listener = shared.config.sockets.listener(bind, shared.config.at(bind))?;
    let local = listener.local_addr()?;
    let server = Arc::new(Accepted { shared: Arc::clone(shared), port: bind.1, stop: stop.clone() });
    tasks.spawn(accept(listener, server));
    Ok(Binding { local, stop })
}

struct Accepted {
    shared: Arc<Shared>,
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
        let Ok(local) = stream.local_addr() else { return };
        let table = self.shared.table.load_full();
        let Some((site, port)) = table.find(local.ip(), self.port, Transport::Tcp) else { return };
        let served = match port.protocol() {
            Protocol::Http => {
                let peer = Peer { shared: Arc::clone(&self.shared), address, site, tls: false, listener: None };
                self.http(stream, peer).await;
                Ok(())
            }
            Protocol::Tls => self.tls(stream, address, site, port).await,
            Protocol::Tcp => match port.listener("") {
                Some(listener) => stream::carry(&self.shared, Rewound::new(stream), (listener, ""), address).await,
                None => Ok(()),
            },
            Protocol::Udp => Ok(()),
        };
        if let Err(error) = served {
            debug!(%error, %address, "connection ended with an error");
        }
    }

    /// The listener for the server name decides what becomes of a connection.
    async fn tls(&self, stream: TcpStream, address: SocketAddr, site: Site, port: &PortTable) -> io::Result<()> {
        let hello = tokio::time::timeout(HANDSHAKE, hello::read(stream)).await;
        let (name, stream) = hello.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let Some(listener) = port.listener(&name) else {
            return Err(io::Error::other(format!("no listener for the server name {name:?}")));
        };
        match &listener.config.mode {
            Mode::Passthrough | Mode::Stream(None) => {
                stream::carry(&self.shared, stream, (listener, &name), address).await
            }
            Mode::Stream(Some(config)) => {
                let stream = handshake(stream, config).await?;
                stream::carry(&self.shared, stream, (listener, &name), address).await
            }
            Mode::Http(Some(config)) => {
                let stream = handshake(stream, config).await?;
                let hostname = listener.config.hostname.clone();
                let peer = Peer { shared: Arc::clone(&self.shared), address, site, tls: true, listener: hostname };
                self.http(stream, peer).await;
                Ok(())
            }
            Mode::Http(None) => Err(io::Error::other("the listener has no certificate")),
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
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
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

async fn handshake(stream: Rewound, config: &Arc<rustls::ServerConfig>) -> io::Result<TlsStream<Rewound>> {
    let accepted = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(Arc::clone(config)).accept(stream)).await;
    accepted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
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
