//! Connections that are forwarded as bytes: TCP, and TLS, decrypted or not.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::{
    Shared,
    silence::{Heard, silent},
    upstream::{CONNECT, CONNECT_ELSE, Io, Way},
};
use crate::routing::{Backend, Identity, Listener, Target};

/// Bytes that are held back in each direction: what `copy_bidirectional` would take.
const BUFFER: usize = 8 << 10;

/// The same, whatever a policy says: each connection costs twice as much.
const BUFFER_MAX: usize = 1 << 20;

/// Endpoints that one connection is tried on.
const ATTEMPTS: usize = 3;

/// Carries bytes both ways between a client and an endpoint of the backend that a route of the listener names, until one
/// of them is done, if the client may connect. A change of the routes is for connections that come later.
pub(crate) async fn carry(
    shared: &Arc<Shared>,
    client: impl AsyncRead + AsyncWrite + Unpin,
    (listener, server_name): (&Arc<Listener>, &str),
    address: SocketAddr,
) -> io::Result<()> {
    if !listener.admits(server_name, address.ip()) {
        return Err(io::Error::other("the client may not connect, or no route takes the connection"));
    }
    let Some(share) = listener.stream(server_name, rand::random()) else {
        return Err(io::Error::other("no route takes the connection"));
    };
    let Target::Service { backend, .. } = &share.target else { return Ok(()) };
    let mut endpoint = connect(backend, listener.config.identity.as_ref()).await?;
    let terms = listener.config.client.as_ref();
    let buffer = terms.and_then(|client| client.connections.buffer).unwrap_or(BUFFER).clamp(1, BUFFER_MAX);
    let silence = terms.and_then(|client| client.times.silence);
    let mut client = Heard::new(client, silence);
    let last = Arc::clone(&client.last);
    tokio::select! {
        () = shared.kill.cancelled() => Ok(()),
        () = silent(&last, silence) => Err(io::ErrorKind::TimedOut.into()),
        carried = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut endpoint, buffer, buffer) => {
            carried.map(|_| ())
        }
    }
}

/// The first endpoint that accepts a connection.
async fn connect(backend: &Backend, identity: Option<&Arc<Identity>>) -> io::Result<Io> {
    let way = Way::to(backend, false, identity);
    let mut avoid = Vec::new();
    let mut last = io::Error::other(format!("{} has no endpoint", backend.name()));
    for _ in 0..ATTEMPTS {
        let Some(address) = backend.pick(&avoid) else { break };
        let limit = if backend.endpoints().len() > 1 { CONNECT_ELSE } else { CONNECT };
        match way.connect(address, limit, false).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                debug!(backend = backend.name(), %address, %error, "cannot connect to an endpoint");
                avoid.push(address);
                last = error;
            }
        }
    }
    Err(last)
}
