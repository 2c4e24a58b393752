//! Requests of clients in the mesh to Services: served by the rules of the Service, sent on behalf of the client.

use std::{fmt::Debug, io, net::SocketAddr, pin::Pin, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{
    REAP_INTERVAL, Server,
    account::Observer,
    connection::{self, Peer},
};
use crate::routing::{
    Backend, Destination, Listener, Place, PortTable, RequestHead, RouteTable, Site, Transport, plain,
};

/// Opens connections to endpoints on behalf of a client.
pub trait Dial: Debug + Send + Sync {
    /// Different for each client, so that connections are not shared between two.
    fn id(&self) -> u64;

    /// A connection to an endpoint. Who asks limits the time that it may take.
    fn dial(&self, endpoint: SocketAddr) -> Dialing<'_>;
}

/// A connection that is being opened.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<Dialed>> + Send + 'a>>;

/// A connection that a client's dialer opened.
pub type Dialed = Box<dyn Connection>;

/// Bytes both ways.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Lets requests pass or not, before anything else is decided about them.
pub trait Gate: Debug + Send + Sync {
    /// Whether a request may pass; `authority` is its host as it was sent.
    fn admits(&self, head: &RequestHead<'_>, authority: &str) -> bool;
}

/// A client's connection in the mesh.
#[derive(Clone, Debug)]
pub struct Visit {
    port: u16,
    /// The Service that it is for.
    destination: Option<Destination>,
    /// What counts while no route says anything.
    otherwise: Arc<PortTable>,
    dialer: Arc<dyn Dial>,
    gate: Option<Arc<dyn Gate>>,
    observer: Option<Arc<dyn Observer>>,
}

impl Visit {
    /// A connection to the Service whose port has this backend.
    pub fn new(destination: Destination, backend: Arc<Backend>, dialer: Arc<dyn Dial>) -> Self {
        let port = destination.port;
        Visit { port, destination: Some(destination), otherwise: plain(backend), dialer, gate: None, observer: None }
    }

    /// A connection to a port past all routes, for requests that the gate lets pass.
    pub fn direct(port: u16, table: Arc<PortTable>, dialer: Arc<dyn Dial>, gate: Arc<dyn Gate>) -> Self {
        Visit { port, destination: None, otherwise: table, dialer, gate: Some(gate), observer: None }
    }

    /// The same, of whose requests somebody is told.
    pub fn observed(self, observer: Arc<dyn Observer>) -> Self {
        Visit { observer: Some(observer), ..self }
    }

    /// Who is told of its requests.
    pub(crate) fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.observer.as_ref()
    }

    /// Whether a request may go on.
    pub(crate) fn admits(&self, head: &RequestHead<'_>, authority: &[u8]) -> bool {
        self.gate.as_ref().is_none_or(|gate| gate.admits(head, &String::from_utf8_lossy(authority)))
    }

    /// What counts for a request of the connection.
    pub(crate) fn port<'a>(&'a self, table: &'a RouteTable) -> &'a Arc<PortTable> {
        let said = self.destination.as_ref().and_then(|destination| table.service(destination));
        said.unwrap_or(&self.otherwise)
    }

    /// Who opens connections for it.
    pub(crate) fn dialer(&self) -> &Arc<dyn Dial> {
        &self.dialer
    }
}

impl Server {
    /// What routes say of a Service to a client that wants to go there; `None` where they say nothing. Where nothing is
    /// said of any Service, nobody asks where it wants to go.
    pub fn service(&self, destination: impl FnOnce() -> Destination) -> Option<Arc<Listener>> {
        let table = self.shared.table.load();
        if !table.has_services() {
            return None;
        }
        table.service(&destination())?.listener("").cloned()
    }

    /// Closes connections to endpoints that were idle for too long, until `stop`; then ends what is left at once. For a
    /// server that listens nowhere.
    pub async fn tend(&self, stop: CancellationToken) {
        let mut reap = tokio::time::interval(REAP_INTERVAL);
        reap.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = reap.tick() => self.shared.pool.reap(),
            }
        }
        self.end().await;
    }

    /// Serves requests that come on a connection, by the rules that the Service has at the time of each, until the client is
    /// done or, once `stop` is cancelled, the requests under way are.
    pub async fn visit(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        client: SocketAddr,
        visit: Visit,
        stop: CancellationToken,
    ) {
        let port = visit.port;
        let site = Site { place: Place::Shared, port, transport: Transport::Tcp };
        connection::serve(stream, Peer::visiting(&self.shared, client, site, visit), &stop).await;
    }
}
