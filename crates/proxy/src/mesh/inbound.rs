//! What is opened to a pod: out of a tunnel, or as it is.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use identity::SpiffeId;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{
    INBOUND_PORT, OUTBOUND_PORT, Pod, Shared,
    carry::carry,
    hbone::{
        self,
        server::{Accepted, Wanted},
    },
    observe::{Ends, Reporter},
    policy::{Connection, Denial, Peer, Verdict},
    sockets,
};

/// How long the pod itself may take to accept a connection: it is on this machine.
const CONNECT: Duration = Duration::from_secs(5);

/// Serves the streams of a tunnel until the client is done, or `stop`; then those there are may end.
pub(crate) async fn tunnel(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    stream: TcpStream,
    stop: &CancellationToken,
) -> io::Result<()> {
    sockets::prepare(&stream)?;
    let client = stream.peer_addr()?;
    let mut accepted = Accepted::new(stream, &pod.identity).await?;
    let SpiffeId { trust_domain, namespace, service_account } = &accepted.peer;
    let peer = Arc::new(Peer::new(trust_domain, namespace, service_account));
    let mut streams = JoinSet::new();
    let mut leaving = false;
    loop {
        tokio::select! {
            wanted = accepted.next() => match wanted {
                Some(wanted) => {
                    let (shared, pod, peer) = (Arc::clone(shared), Arc::clone(pod), Arc::clone(&peer));
                    streams.spawn(async move {
                        let to = wanted.to;
                        if let Err(error) = stream_of(&shared, &pod, wanted, client, &peer).await {
                            debug!(pod = %pod.place.name, peer = peer.principal(), %to, %error, "a stream to a pod ended with an error");
                        }
                    });
                }
                None => break,
            },
            Some(_) = streams.join_next(), if !streams.is_empty() => {}
            () = stop.cancelled(), if !leaving => {
                leaving = true;
                accepted.leave();
            }
        }
    }
    // the client has gone, and with it every stream
    streams.shutdown().await;
    Ok(())
}

async fn stream_of(shared: &Shared, pod: &Arc<Pod>, wanted: Wanted, client: SocketAddr, peer: &Peer) -> io::Result<()> {
    let to = wanted.to;
    if to.ip() != pod.place.address || is_own(to) {
        wanted.refuse(StatusCode::BAD_REQUEST);
        return Err(io::Error::other("the tunnel leads to this pod alone"));
    }
    if let Err(error) = judge(pod, client, to, Some(peer)) {
        wanted.refuse(StatusCode::UNAUTHORIZED);
        return Err(error);
    }
    let stream = match sockets::connect(&pod.netns, Some(client.ip()), to, CONNECT).await {
        Ok(stream) => stream,
        Err(error) => {
            wanted.refuse(StatusCode::SERVICE_UNAVAILABLE);
            return Err(error);
        }
    };
    sockets::prepare(&stream)?;
    let record = shared.telemetry.open(ends(shared, pod, client, Some(peer)));
    let outcome = carry(wanted.take()?, stream, &record.carried).await;
    record.close(&outcome);
    outcome
}

/// Carries a connection that came as it is.
pub(crate) async fn plain(shared: &Shared, pod: &Arc<Pod>, client: TcpStream) -> io::Result<()> {
    sockets::prepare(&client)?;
    let (from, to) = (client.peer_addr()?, sockets::original_destination(&client)?);
    let admitted = match is_own(to) {
        true => Err(io::Error::other("the mesh's own ports are nobody's destination")),
        false => judge(pod, from, to, None),
    };
    let reached = match admitted {
        Ok(()) => sockets::connect(&pod.netns, Some(from.ip()), to, CONNECT).await,
        Err(error) => Err(error),
    };
    match reached {
        Ok(stream) => {
            sockets::prepare(&stream)?;
            let record = shared.telemetry.open(ends(shared, pod, from, None));
            let outcome = carry(client, stream, &record.carried).await;
            record.close(&outcome);
            outcome
        }
        Err(error) => {
            sockets::reset(&client);
            Err(error)
        }
    }
}

fn ends(shared: &Shared, pod: &Pod, client: SocketAddr, peer: Option<&Peer>) -> Ends {
    Ends {
        reporter: Reporter::Destination,
        source: shared.directory.pod(client.ip()),
        source_principal: peer.map(|peer| peer.principal().to_owned()),
        destination: Some(pod.workload()),
        destination_principal: peer.map(|_| pod.identity.id.principal()),
        service: None,
        secured: peer.is_some(),
    }
}

/// What the policies say of a connection, whose bytes nobody looks at: what they say of HTTP is taken against it.
fn judge(pod: &Pod, from: SocketAddr, to: SocketAddr, peer: Option<&Peer>) -> io::Result<()> {
    let (guard, connection) = (pod.guard(), Connection { peer, source: from.ip(), destination: to, sni: None });
    let denied = |denial: Denial| {
        info!(namespace = %pod.place.namespace, pod = %pod.place.name, port = to.port(), from = %from.ip(),
            peer = peer.map(Peer::principal), %denial, "a connection to a pod was refused");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, denial.to_string()))
    };
    if let Verdict::Denied(denial) = guard.admits(&connection) {
        return denied(denial);
    }
    match guard.connection(&connection).verdict {
        Verdict::Denied(denial) => denied(denial),
        Verdict::Allowed(_) => Ok(()),
    }
}

fn is_own(to: SocketAddr) -> bool {
    matches!(to.port(), OUTBOUND_PORT | INBOUND_PORT | hbone::PORT)
}
