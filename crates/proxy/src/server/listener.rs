//! One bound address: accepting, PROXY headers, TLS; what is inside is handed on.

use std::{
    io,
    net::{self, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Bind, DRAIN, Shared,
    connection::{self, Peer},
    hello::{self, Rewound},
    proxied, stream, told,
    workers::Workers,
};
use crate::routing::{Client, ConnectionTerms, Mode, PortTable, Protocol, Site, Transport};

/// Connections of one bound address. Each may cost two descriptors and some 50 KiB.
const CONNECTIONS: usize = 16 << 10;

/// Pause after `accept` failed, typically for lack of file descriptors: nothing tells when there are some again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A handshake that takes longer is an attack or a dead peer.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A bound address; cancelling `stop` closes it, and its idle connections.
pub(crate) struct Binding {
    pub(crate) local: SocketAddr,
    pub(crate) stop: CancellationToken,
}

/// Binds and starts to accept.
pub(crate) fn bind(
    shared: &Arc<Shared>,
    workers: &Arc<Workers>,
    bind: Bind,
    tasks: &mut JoinSet<()>,
    stop: CancellationToken,
) -> io::Result<Binding> {
    let listener = shared.config.sockets.listener(bind, shared.config.at(bind))?;
    let local = listener.local_addr()?;
    let open = AtomicU64::new(0);
    let server = Arc::new(Accepted { shared: Arc::clone(shared), port: bind.1, stop: stop.clone(), open });
    tasks.spawn(accept(listener, server, Arc::clone(workers)));
    Ok(Binding { local, stop })
}

struct Accepted {
    shared: Arc<Shared>,
    port: u16,
    stop: CancellationToken,
    /// Connections that are open.
    open: AtomicU64,
}

/// A connection that is counted; it is not any more when this is dropped.
struct Open(Arc<Accepted>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, server: Arc<Accepted>, workers: Arc<Workers>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = server.stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                // It belongs to the reactor of the thread that serves it.
                Ok((stream, peer)) => if let Ok(stream) = stream.into_std() {
                    workers.spawn(&mut connections, Arc::clone(&server).serve(stream, peer));
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
    async fn serve(self: Arc<Self>, stream: net::TcpStream, address: SocketAddr) {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let _open = Open(Arc::clone(&self));
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "cannot disable delayed sending");
        }
        let Ok(local) = stream.local_addr() else { return };
        let table = self.shared.table.load_full();
        let Some((site, port)) = table.find(local.ip(), self.port, Transport::Tcp) else { return };
        let (port, client) = (Arc::clone(port), port.client().cloned());
        // A connection outlives many tables, and keeps none of them.
        drop(table);
        let served = match client {
            None => self.speak(Rewound::new(stream), (address, local), (site, port), None).await,
            Some(client) => self.treated(stream, (address, local), (site, port), (client, before)).await,
        };
        if let Err(error) = served {
            debug!(%error, %address, "connection ended with an error");
        }
    }

    /// Does what a policy wants before anything is read of what the connection is for; `before` counts the connections
    /// that were there.
    async fn treated(
        &self,
        stream: TcpStream,
        (mut address, local): (SocketAddr, SocketAddr),
        at: (Site, Arc<PortTable>),
        (client, before): (Arc<Client>, u64),
    ) -> io::Result<()> {
        let terms = &client.connections;
        if terms.most.is_some_and(|most| before >= most) {
            tokio::time::sleep(terms.close_delay).await;
            return Err(io::Error::other("there are as many connections as there may be"));
        }
        set_options(&stream, terms)?;
        let mut stream = Rewound::new(stream);
        if let Some(proxied) = client.proxied {
            let source;
            let limit = client.times.inspection.unwrap_or(HANDSHAKE);
            (source, stream) = within(limit, proxied::read(stream, proxied)).await?;
            address = source.unwrap_or(address);
        }
        self.speak(stream, (address, local), at, Some(client)).await
    }

    async fn speak(
        &self,
        stream: Rewound,
        (address, local): (SocketAddr, SocketAddr),
        (site, port): (Site, Arc<PortTable>),
        client: Option<Arc<Client>>,
    ) -> io::Result<()> {
        match port.protocol() {
            Protocol::Http => {
                drop(port);
                let peer = self.peer((address, local), site, client);
                connection::serve(stream, peer, &self.stop).await;
                Ok(())
            }
            Protocol::Tls => self.tls(stream, (address, local), site, port).await,
            Protocol::Tcp => match port.listener("") {
                Some(listener) => stream::carry(&self.shared, stream, (listener, ""), address).await,
                None => Ok(()),
            },
            Protocol::Udp => Ok(()),
        }
    }

    fn peer(&self, (address, local): (SocketAddr, SocketAddr), site: Site, client: Option<Arc<Client>>) -> Peer {
        let shared = Arc::clone(&self.shared);
        Peer { shared, address, local, site, tls: false, listener: None, client, certificate: None, visit: None }
    }

    /// The listener for the server name decides what becomes of a connection.
    async fn tls(
        &self,
        stream: Rewound,
        (address, local): (SocketAddr, SocketAddr),
        site: Site,
        port: Arc<PortTable>,
    ) -> io::Result<()> {
        let inspection = port.client().and_then(|client| client.times.inspection).unwrap_or(HANDSHAKE);
        let (name, stream) = within(inspection, hello::read(stream)).await?;
        let Some(listener) = port.listener(&name).cloned() else {
            return Err(io::Error::other(format!("no listener for the server name {name:?}")));
        };
        drop(port);
        let client = listener.config.client.clone();
        let limit = client.as_ref().and_then(|client| client.times.handshake).unwrap_or(HANDSHAKE);
        match &listener.config.mode {
            Mode::Passthrough | Mode::Stream(None) => {
                stream::carry(&self.shared, stream, (&listener, &name), address).await
            }
            Mode::Stream(Some(config)) => {
                let stream = within(limit, TlsAcceptor::from(Arc::clone(config)).accept(stream)).await?;
                stream::carry(&self.shared, stream, (&listener, &name), address).await
            }
            Mode::Http(Some(config)) => {
                let (accepting, hostname) =
                    (TlsAcceptor::from(Arc::clone(config)).accept(stream), listener.config.hostname.clone());
                drop(listener);
                let stream = within(limit, accepting).await?;
                let certificate = client.as_ref().and_then(|client| told_certificate(&stream, client));
                let peer =
                    Peer { tls: true, listener: hostname, certificate, ..self.peer((address, local), site, client) };
                connection::serve(stream, peer, &self.stop).await;
                Ok(())
            }
            Mode::Http(None) => Err(io::Error::other("the listener has no certificate")),
        }
    }
}

/// What is told to backends of the certificate that a client has shown.
fn told_certificate<S>(stream: &TlsStream<S>, client: &Client) -> Option<Arc<HeaderValue>> {
    let shown = stream.get_ref().1.peer_certificates().filter(|shown| !shown.is_empty())?;
    Some(Arc::new(told::element(shown, &client.certificates.details)))
}

fn set_options(stream: &TcpStream, terms: &ConnectionTerms) -> io::Result<()> {
    let socket = SockRef::from(stream);
    if let Some(keepalive) = terms.keepalive {
        socket.set_tcp_keepalive(&keepalive_of(keepalive))?;
    }
    if let Some(bytes) = terms.socket_buffer {
        socket.set_recv_buffer_size(bytes)?;
        socket.set_send_buffer_size(bytes)?;
    }
    Ok(())
}

/// What the kernel is told; what is left open is the machine's.
pub(crate) fn keepalive_of(keepalive: crate::routing::Keepalive) -> TcpKeepalive {
    let mut options = TcpKeepalive::new();
    if let Some(idle) = keepalive.idle {
        options = options.with_time(idle);
    }
    if let Some(interval) = keepalive.interval {
        options = options.with_interval(interval);
    }
    match keepalive.probes {
        Some(probes) => options.with_retries(probes),
        None => options,
    }
}

async fn within<T>(limit: Duration, done: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, done).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
