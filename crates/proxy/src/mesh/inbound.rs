//! What is opened to a pod: out of a tunnel, or as it is.
//!
//! Where a policy has something to say about HTTP, a client that speaks it is served request by request, each of which is
//! decided about ([`Gate`]); everywhere else bytes are carried. What HTTP says of a connection that carries none is taken
//! against it, so that a connection which may pass as bytes could pass with any request.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::StatusCode;
use identity::SpiffeId;
use resilience::balance::hash;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{
    INBOUND_PORT, OUTBOUND_PORT, Pod, Shared,
    carry::{Side, carry},
    hbone::{
        self,
        server::{Accepted, Wanted},
    },
    observe::{Ends, Reporter},
    policy::{Connection, Denial, Judgement, Peer, Request, Token, Verdict},
    sniff::{SILENCE, Sniffer, Spoken},
    sockets,
};
use crate::{
    routing::RequestHead,
    server::{Dial, Dialed, Dialing, Exchanged, Gate, Observer, Visit},
};

/// How long the pod itself may take to accept a connection: it is on this machine.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a client may be silent of whom only requests may pass.
const FIRST_WORD: Duration = Duration::from_secs(30);
/// Marks connections to pods of this node among those that are kept open, which are otherwise numbered by their pod.
const INBOUND: u64 = 1 << 63;

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
                    let (shared, pod, peer, stop) = (Arc::clone(shared), Arc::clone(pod), Arc::clone(&peer), stop.clone());
                    streams.spawn(async move {
                        let to = wanted.to;
                        if let Err(error) = stream_of(&shared, &pod, wanted, (client, &peer), &stop).await {
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

async fn stream_of(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    wanted: Wanted,
    (client, peer): (SocketAddr, &Arc<Peer>),
    stop: &CancellationToken,
) -> io::Result<()> {
    let to = wanted.to;
    if to.ip() != pod.place.address || is_own(to) {
        wanted.refuse(StatusCode::BAD_REQUEST);
        return Err(io::Error::other("the tunnel leads to this pod alone"));
    }
    let entry = Entry { shared, pod, client, to, peer: Some(peer) };
    match entry.judge() {
        Admitted::Refused(error) => {
            wanted.refuse(StatusCode::UNAUTHORIZED);
            Err(error)
        }
        Admitted::ByRequest(as_bytes) => entry.listen(wanted.take()?, as_bytes, stop).await,
        Admitted::Bytes => match entry.connect().await {
            Ok(stream) => entry.carry(wanted.take()?, stream).await,
            Err(error) => {
                wanted.refuse(StatusCode::SERVICE_UNAVAILABLE);
                Err(error)
            }
        },
    }
}

/// Serves a connection that came as it is.
pub(crate) async fn plain(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    client: TcpStream,
    stop: &CancellationToken,
) -> io::Result<()> {
    sockets::prepare(&client)?;
    let (from, to) = (client.peer_addr()?, sockets::original_destination(&client)?);
    let entry = Entry { shared, pod, client: from, to, peer: None };
    let refused = match is_own(to) {
        true => io::Error::other("the mesh's own ports are nobody's destination"),
        false => match entry.judge() {
            Admitted::Refused(error) => error,
            Admitted::ByRequest(as_bytes) => return entry.listen(client, as_bytes, stop).await,
            Admitted::Bytes => return entry.pass(client).await,
        },
    };
    client.break_off();
    Err(refused)
}

/// What the policies say of a connection.
enum Admitted {
    /// Whatever it carries may pass.
    Bytes,
    /// They have something to say about each request; and this about a connection that carries none.
    ByRequest(io::Result<()>),
    /// It may not be.
    Refused(io::Error),
}

/// A connection to a pod.
#[derive(Clone, Copy)]
struct Entry<'a> {
    shared: &'a Arc<Shared>,
    pod: &'a Arc<Pod>,
    client: SocketAddr,
    to: SocketAddr,
    peer: Option<&'a Arc<Peer>>,
}

impl Entry<'_> {
    fn judge(&self) -> Admitted {
        let (guard, connection) = (self.pod.guard(), self.connection());
        if let Verdict::Denied(denial) = guard.admits(&connection) {
            return Admitted::Refused(self.refused(&denial));
        }
        // What they say of HTTP is taken against bytes that are none.
        let verdict = guard.connection(&connection).verdict;
        if guard.needs_http(self.to.port()) {
            return Admitted::ByRequest(match verdict {
                Verdict::Allowed(_) => Ok(()),
                Verdict::Denied(denial) => Err(io::Error::new(io::ErrorKind::PermissionDenied, denial.to_string())),
            });
        }
        match verdict {
            Verdict::Allowed(_) => Admitted::Bytes,
            Verdict::Denied(denial) => Admitted::Refused(self.refused(&denial)),
        }
    }

    fn connection(&self) -> Connection<'_> {
        let peer = self.peer.map(|peer| &**peer);
        Connection { peer, source: self.client.ip(), destination: self.to, sni: None }
    }

    fn refused(&self, denial: &Denial) -> io::Error {
        let place = &self.pod.place;
        info!(namespace = %place.namespace, pod = %place.name, port = self.to.port(), from = %self.client.ip(),
            peer = self.peer.map(|peer| peer.principal()), %denial, "a connection to a pod was refused");
        io::Error::new(io::ErrorKind::PermissionDenied, denial.to_string())
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = sockets::connect(&self.pod.netns, Some(self.client.ip()), self.to, CONNECT).await?;
        sockets::prepare(&stream)?;
        Ok(stream)
    }

    async fn carry(&self, client: impl Side, stream: TcpStream) -> io::Result<()> {
        let record = self.shared.telemetry.open(ends(self.shared, self.pod, self.client, self.peer));
        let outcome = carry(client, stream, &record.carried).await;
        record.close(&outcome);
        outcome
    }

    /// Connects a client to the pod, whatever it carries.
    async fn pass(&self, client: impl Side) -> io::Result<()> {
        match self.connect().await {
            Ok(stream) => self.carry(client, stream).await,
            Err(error) => {
                client.break_off();
                Err(error)
            }
        }
    }

    /// Serves the requests of a client until `stop`, or carries what it says if that is no HTTP and may pass.
    async fn listen<S: Side + Send + 'static>(
        &self,
        client: S,
        as_bytes: io::Result<()>,
        stop: &CancellationToken,
    ) -> io::Result<()> {
        let mut client = Sniffer::new(client);
        // Who may be carried anyway may be one who waits for the pod to speak first.
        let patience = if as_bytes.is_ok() { SILENCE } else { FIRST_WORD };
        let spoken = tokio::time::timeout(patience, client.spoken()).await.unwrap_or(Ok(Spoken::Other))?;
        match (spoken, as_bytes) {
            (Spoken::Other, Ok(())) => self.pass(client.rewound()).await,
            (Spoken::Other, Err(denied)) => {
                client.client().break_off();
                info!(namespace = %self.pod.place.namespace, pod = %self.pod.place.name, port = self.to.port(),
                    from = %self.client.ip(), error = %denied, "a connection to a pod that carries no HTTP was refused");
                Err(denied)
            }
            (Spoken::Http, _) => {
                let door = Arc::new(Door {
                    shared: Arc::clone(self.shared),
                    pod: Arc::clone(self.pod),
                    client: self.client,
                    to: self.to,
                    peer: self.peer.cloned(),
                });
                let table = self.pod.own_port(self.to);
                let visit = Visit::direct(
                    self.to.port(),
                    table,
                    Arc::clone(&door) as Arc<dyn Dial>,
                    Arc::clone(&door) as Arc<dyn Gate>,
                );
                let visit = visit.observed(door);
                self.shared.server().visit(client.rewound(), self.client, visit, stop.clone()).await;
                Ok(())
            }
        }
    }
}

/// Where requests of a client get to a pod.
struct Door {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    client: SocketAddr,
    to: SocketAddr,
    peer: Option<Arc<Peer>>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("client", &self.client).field("to", &self.to).finish_non_exhaustive()
    }
}

impl Dial for Door {
    /// The pod sees its clients' own addresses, so that its connections are for one address each.
    fn id(&self) -> u64 {
        match self.client.ip() {
            IpAddr::V4(address) => INBOUND | u64::from(u32::from(address)),
            IpAddr::V6(address) => INBOUND | hash(&address.octets(), 0) >> 1,
        }
    }

    fn dial(&self, endpoint: SocketAddr) -> Dialing<'_> {
        Box::pin(async move {
            let stream = sockets::connect(&self.pod.netns, Some(self.client.ip()), endpoint, CONNECT).await?;
            sockets::prepare(&stream)?;
            Ok(Box::new(stream) as Dialed)
        })
    }
}

impl Observer for Door {
    fn over(&self, exchange: &Exchanged) {
        self.shared.telemetry.request(exchange, &ends(&self.shared, &self.pod, self.client, self.peer.as_ref()));
    }
}

impl Gate for Door {
    fn admits(&self, head: &RequestHead<'_>, authority: &str) -> bool {
        let peer = self.peer.as_deref();
        let connection = Connection { peer, source: self.client.ip(), destination: self.to, sni: None };
        let request = Request { head: *head, authority, token: Token::Unverified };
        let Judgement { verdict, audit, trial } = self.pod.guard().request(&connection, &request);
        let place = &self.pod.place;
        let tell = |what: &str, why: &dyn fmt::Display| {
            info!(namespace = %place.namespace, pod = %place.name, port = self.to.port(), from = %self.client.ip(),
                peer = peer.map(Peer::principal), method = %head.method, path = head.path, host = authority,
                policy = %why, "{what}");
        };
        if let Some(policy) = audit {
            tell("a request to a pod is to be audited", &policy);
        }
        if let Some(trial) = trial {
            match trial {
                Verdict::Denied(denial) => tell("a request to a pod would be refused by policies on trial", &denial),
                Verdict::Allowed(_) => tell("a request to a pod would be allowed by policies on trial", &"-"),
            }
        }
        match verdict {
            Verdict::Allowed(_) => true,
            Verdict::Denied(denial) => {
                tell("a request to a pod was refused", &denial);
                false
            }
        }
    }
}

fn ends(shared: &Shared, pod: &Pod, client: SocketAddr, peer: Option<&Arc<Peer>>) -> Ends {
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

fn is_own(to: SocketAddr) -> bool {
    matches!(to.port(), OUTBOUND_PORT | INBOUND_PORT | hbone::PORT)
}
