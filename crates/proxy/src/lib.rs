//! The proxy, in two positions: as gateway for client traffic from outside to the endpoints of Services, and as [`mesh`]
//! for connections between pods.
//!
//! [`routing`] decides and is pure; [`server`] moves bytes; its controller compiles Gateway API and Ingress objects into
//! a [`routing::RouteTable`], installs it, and writes what became of the objects into their status. [`run`] wires the
//! three together. Requests are routed (HTTP, gRPC), connections and datagrams forwarded (TLS, TCP, UDP).
//!
//! Invariants: a request is served by one table from start to end; installing a table drops no connection and no
//! request; no more is read from one side than the other takes; a request is sent again only where that is safe.

use std::{net::IpAddr, num::NonZero, path::PathBuf};

use reconcile::Informers;
use tokio_util::sync::CancellationToken;

mod answers;
mod controller;
pub mod mesh;
pub mod routing;
pub mod server;

use controller::Controller;
pub use controller::{Pool, Translation, translate};
pub use routing::Transport;
pub use server::{Beginning, Bind, DRAIN, Routes, Sockets, beginning};
use server::{Server, ServerConfig};

/// How a gateway is set up.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Local addresses on which the listeners of all Gateways are opened.
    pub addresses: Vec<IpAddr>,
    /// Addresses of this machine of which each Gateway gets one of its own.
    pub pool: Option<Pool>,
    /// Where answers by idempotency key are kept on the disk.
    pub answers: PathBuf,
    /// What is listened on, kept across restarts and given to the process that comes after this one.
    pub sockets: Sockets,
    /// The table that is made, by which the mesh serves too.
    pub routes: Routes,
}

/// Serves the Gateways and Ingresses of the cluster that `informers` watch, until `stop`; then lets requests under way
/// end. From `settled` on changes are no longer followed: a process that hands over still serves when its informers have
/// ended. Somebody else runs the informers.
pub async fn run(informers: &Informers, config: GatewayConfig, settled: CancellationToken, stop: CancellationToken) {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let serving = ServerConfig { addresses: config.addresses, ephemeral: false, sockets: config.sockets, threads };
    let server = Server::by(serving, config.routes);
    let controller = Controller::new(informers, server.clone(), config.pool, config.answers);
    tokio::join!(server.run(stop), controller.run(settled));
}
