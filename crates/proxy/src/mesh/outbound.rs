//! What a pod opens: to whom it was going, and how it gets there.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpStream;
use tracing::debug;

use super::{
    INBOUND_PORT, OUTBOUND_PORT, Pod, Shared,
    carry::carry,
    directory::ServiceEntry,
    hbone::{self, client::Stream},
    observe::{Ends, Reporter},
    sockets,
};
use crate::routing::Backend;

/// Endpoints that one connection is tried on.
const ATTEMPTS: usize = 3;
/// How long a connection to a destination outside the mesh may take: longer than most applications wait.
const CONNECT: Duration = Duration::from_secs(10);

/// The way to a destination.
struct Way {
    link: Link,
    /// The endpoint.
    to: SocketAddr,
    /// Who takes part behind it.
    other: Option<Arc<Pod>>,
}

/// How bytes get there.
enum Link {
    /// In a tunnel to a pod that takes part.
    Tunnel(hbone::Tunnel, Stream),
    /// As it is.
    Plain(TcpStream),
}

/// Carries a connection that a pod opened.
pub(crate) async fn serve(shared: &Arc<Shared>, pod: &Arc<Pod>, client: TcpStream) -> io::Result<()> {
    sockets::prepare(&client)?;
    let to = sockets::original_destination(&client)?;
    if is_own(pod, to) {
        sockets::reset(&client);
        return Err(io::Error::other("the mesh's own ports are nobody's destination"));
    }
    let service = shared.directory.service(to.ip());
    let way = match reach(shared, pod, to, service.as_deref()).await {
        Ok(way) => way,
        Err(error) => {
            sockets::reset(&client);
            return Err(error);
        }
    };
    let record = shared.telemetry.open(Ends {
        reporter: Reporter::Source,
        source: Some(pod.workload()),
        source_principal: Some(pod.identity.id.principal()),
        destination: way.other.as_ref().map(|other| other.workload()).or_else(|| shared.directory.pod(way.to.ip())),
        destination_principal: way.other.as_ref().map(|other| other.identity.id.principal()),
        service: service.map(|service| service.key.clone()),
        secured: matches!(way.link, Link::Tunnel(..)),
    });
    let outcome = match way.link {
        Link::Tunnel(tunnel, _stream) => carry(client, tunnel, &record.carried).await,
        Link::Plain(stream) => carry(client, stream, &record.carried).await,
    };
    record.close(&outcome);
    outcome
}

/// Whether somebody asks for the proxy instead of a pod.
fn is_own(pod: &Pod, to: SocketAddr) -> bool {
    let here = to.ip() == pod.place.address || to.ip().is_loopback();
    here && matches!(to.port(), OUTBOUND_PORT | INBOUND_PORT | hbone::PORT)
}

async fn reach(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    to: SocketAddr,
    service: Option<&ServiceEntry>,
) -> io::Result<Way> {
    let Some(service) = service else { return endpoint(shared, pod, to).await };
    let backend = shared.endpoints.backend(&service.key, i32::from(to.port()));
    let mut avoid = Vec::new();
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let Some(address) = choose(&backend, service, pod.place.address, &avoid) else { break };
        match endpoint(shared, pod, address).await {
            Ok(way) => return Ok(way),
            Err(error) => {
                debug!(pod = %pod.place.name, service = %service.key, %address, %error, "cannot connect to an endpoint");
                avoid.push(address);
                last = Some(error);
            }
        }
    }
    match last {
        Some(error) => Err(error),
        // no endpoint that we know: the node's own rules say what becomes of it
        None => plain(pod, to).await,
    }
}

/// An endpoint: in turn, or for one client always the same as long as it is there.
fn choose(backend: &Backend, service: &ServiceEntry, client: IpAddr, avoid: &[SocketAddr]) -> Option<SocketAddr> {
    if !service.sticky {
        return backend.pick(avoid);
    }
    let weight = |endpoint: &SocketAddr| {
        let mut hasher = DefaultHasher::new();
        (client, endpoint).hash(&mut hasher);
        hasher.finish()
    };
    backend.endpoints().iter().filter(|endpoint| !avoid.contains(endpoint)).max_by_key(|e| weight(e)).copied()
}

/// To a pod that takes part in a tunnel, and nowhere else than to itself; to everybody else as it is.
async fn endpoint(shared: &Arc<Shared>, pod: &Arc<Pod>, to: SocketAddr) -> io::Result<Way> {
    let Some(other) = shared.captured(to.ip()) else { return plain(pod, to).await };
    let (tunnel, stream) = pod.tunnels.open(to, &other.identity.id).await.map_err(io::Error::other)?;
    Ok(Way { link: Link::Tunnel(tunnel, stream), to, other: Some(other) })
}

async fn plain(pod: &Pod, to: SocketAddr) -> io::Result<Way> {
    let stream = sockets::connect(&pod.netns, None, to, CONNECT).await?;
    sockets::prepare(&stream)?;
    Ok(Way { link: Link::Plain(stream), to, other: None })
}

#[cfg(test)]
mod tests {
    use reconcile::Key;

    use super::*;

    #[test]
    fn a_sticky_client_keeps_its_endpoint_while_others_come_and_go() {
        let backend = Backend::new("a");
        let at = |n: u8| SocketAddr::from(([10, 0, 0, n], 80));
        let entry = |sticky| ServiceEntry { key: Key::new("a", "b"), sticky };
        let client = IpAddr::from([10, 1, 0, 1]);
        backend.set_endpoints((1..=8).map(at).collect());
        let chosen = choose(&backend, &entry(true), client, &[]).unwrap();
        let others: Vec<_> = (1..=8).map(at).filter(|other| *other != chosen).collect();
        backend.set_endpoints(others[..4].iter().copied().chain([chosen]).collect());
        assert_eq!(choose(&backend, &entry(true), client, &[]), Some(chosen));
        let next = choose(&backend, &entry(true), client, &[chosen]).unwrap();
        assert!(others.contains(&next));
        let turns: Vec<_> = (0..5).filter_map(|_| choose(&backend, &entry(false), client, &[])).collect();
        assert!((1..5).all(|n| turns[n] != turns[0]));
    }
}
