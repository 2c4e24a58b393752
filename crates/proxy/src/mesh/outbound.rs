//! What a pod opens: to whom it was going, and how it gets there.
//!
//! Bytes go to an endpoint and back, unless routes say something of the Service that is asked for. Then a client that speaks
//! HTTP is served request by request ([`crate::server::Server::visit`]), each attempt of which gets to its endpoint in the
//! pod's own name, in a tunnel where there is one. Who speaks first is not known: a client that is silent for a moment is
//! connected to an endpoint, and if that speaks first, bytes go both ways.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use reconcile::Key;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    INBOUND_PORT, OUTBOUND_PORT, Pod, Shared,
    carry::{Side, carry},
    directory::ServiceEntry,
    hbone,
    observe::{self, Ends, Reporter},
    sniff::{SILENCE, Sniffer, Spoken},
    sockets,
};
use crate::{
    routing::{Backend, Destination, Target},
    server::{Dial, Dialed, Dialing, Exchanged, Observer, Visit},
};

/// Endpoints that one connection is tried on.
const ATTEMPTS: usize = 3;
/// How long a connection to a destination outside the mesh may take: longer than most applications wait.
const CONNECT: Duration = Duration::from_secs(10);
/// What the other side says first is passed on in pieces of this size at most.
const GREETING: usize = 4 << 10;

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
    Tunnel(hbone::Tunnel),
    /// As it is.
    Plain(TcpStream),
}

/// What becomes of a connection to a Service.
enum Routed {
    /// It goes to an endpoint of a backend.
    Bytes(Arc<Backend>),
    /// Its requests are looked at one by one, if that is what it carries.
    Requests(Arc<Backend>, Destination),
}

/// Carries a connection that a pod opened, or serves its requests until `stop`.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    client: TcpStream,
    stop: &CancellationToken,
) -> io::Result<()> {
    sockets::prepare(&client)?;
    let to = sockets::original_destination(&client)?;
    if is_own(pod, to) {
        sockets::reset(&client);
        return Err(io::Error::other("the mesh's own ports are nobody's destination"));
    }
    let service = shared.directory.service(to.ip());
    let service = service.as_deref();
    match service.map(|service| routed(shared, pod, service, to)).transpose() {
        Err(error) => {
            sockets::reset(&client);
            Err(error)
        }
        Ok(Some(Routed::Requests(backend, destination))) => {
            let call = Call { shared, pod, to, service, backend: &backend };
            call.listen(Sniffer::new(client), destination, stop).await
        }
        Ok(Some(Routed::Bytes(backend))) => carried(shared, pod, client, (to, service, Some(&*backend))).await,
        Ok(None) => carried(shared, pod, client, (to, service, None)).await,
    }
}

/// What routes say of a connection to a Service.
fn routed(shared: &Shared, pod: &Pod, service: &ServiceEntry, to: SocketAddr) -> io::Result<Routed> {
    let own = || shared.endpoints.backend(&service.key, i32::from(to.port()));
    let destination = || Destination::new(&service.key.to_string(), to.port(), &pod.place.namespace);
    let Some(rules) = shared.server().service(destination) else {
        return Ok(if service.requests { Routed::Requests(own(), destination()) } else { Routed::Bytes(own()) });
    };
    if rules.has_requests() {
        return Ok(Routed::Requests(own(), destination()));
    }
    if !rules.admits("", pod.place.address) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a policy of the route does not admit the client"));
    }
    match rules.stream("", rand::random()).map(|share| &share.target) {
        Some(Target::Service { backend, .. }) => Ok(Routed::Bytes(Arc::clone(backend))),
        Some(Target::Invalid) | None => Err(io::Error::other("the route of the Service leads nowhere")),
    }
}

/// Carries a connection to the first endpoint that takes it.
async fn carried<S: Side>(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    client: S,
    (to, service, backend): (SocketAddr, Option<&ServiceEntry>, Option<&Backend>),
) -> io::Result<()> {
    match reach(shared, pod, to, service.zip(backend)).await {
        Ok(way) => carry_by(shared, pod, client, way, service).await,
        Err(error) => {
            client.break_off();
            Err(error)
        }
    }
}

async fn carry_by<S: Side>(
    shared: &Shared,
    pod: &Pod,
    client: S,
    way: Way,
    service: Option<&ServiceEntry>,
) -> io::Result<()> {
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
        Link::Tunnel(tunnel) => carry(client, tunnel, &record.carried).await,
        Link::Plain(stream) => carry(client, stream, &record.carried).await,
    };
    record.close(&outcome);
    outcome
}

/// A connection to a Service whose requests are looked at.
struct Call<'a> {
    shared: &'a Arc<Shared>,
    pod: &'a Arc<Pod>,
    to: SocketAddr,
    service: Option<&'a ServiceEntry>,
    backend: &'a Arc<Backend>,
}

impl Call<'_> {
    /// Finds out what the client speaks.
    async fn listen(
        self,
        mut client: Sniffer<TcpStream>,
        destination: Destination,
        stop: &CancellationToken,
    ) -> io::Result<()> {
        if let Ok(spoken) = tokio::time::timeout(SILENCE, client.spoken()).await {
            return match spoken? {
                Spoken::Http => self.visit(client, destination, stop).await,
                Spoken::Other => self.carry(client).await,
            };
        }
        let mut way = match reach(self.shared, self.pod, self.to, self.service.zip(Some(&**self.backend))).await {
            Ok(way) => way,
            Err(error) => {
                sockets::reset(client.client());
                return Err(error);
            }
        };
        let mut greeting = Vec::with_capacity(GREETING);
        let spoken = tokio::select! {
            spoken = client.spoken() => spoken?,
            read = way.link.read(&mut greeting) => {
                read?;
                Spoken::Other
            }
        };
        match spoken {
            Spoken::Http => self.visit(client, destination, stop).await,
            Spoken::Other => {
                let mut client = client.rewound();
                client.write_all(&greeting).await?;
                carry_by(self.shared, self.pod, client, way, self.service).await
            }
        }
    }

    async fn carry(self, client: Sniffer<TcpStream>) -> io::Result<()> {
        carried(self.shared, self.pod, client.rewound(), (self.to, self.service, Some(self.backend))).await
    }

    async fn visit(
        self,
        client: Sniffer<TcpStream>,
        destination: Destination,
        stop: &CancellationToken,
    ) -> io::Result<()> {
        let from = client.client().peer_addr()?;
        let service = self.service.map(|service| service.key.clone());
        let caller = Arc::new(Caller { shared: Arc::clone(self.shared), pod: Arc::clone(self.pod), service });
        let visit = Visit::new(destination, Arc::clone(self.backend), Arc::clone(&caller) as Arc<dyn Dial>);
        let visit = visit.observed(caller);
        self.shared.server().visit(client.rewound(), from, visit, stop.clone()).await;
        Ok(())
    }
}

/// Opens connections in the name of a pod.
struct Caller {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    /// What it asks for.
    service: Option<Key>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Caller").field(&self.pod.place).finish()
    }
}

impl Dial for Caller {
    fn id(&self) -> u64 {
        self.pod.number
    }

    fn dial(&self, endpoint: SocketAddr) -> Dialing<'_> {
        Box::pin(async move {
            let way = self::endpoint(&self.shared, &self.pod, endpoint).await?;
            Ok(match way.link {
                Link::Tunnel(tunnel) => Box::new(tunnel) as Dialed,
                Link::Plain(stream) => Box::new(stream) as Dialed,
            })
        })
    }
}

impl Observer for Caller {
    fn over(&self, exchange: &Exchanged) {
        let other = exchange.endpoint.and_then(|endpoint| self.shared.captured(endpoint.ip()));
        let found = || exchange.endpoint.and_then(|endpoint| self.shared.directory.pod(endpoint.ip()));
        let sent_to = exchange.went.as_ref().and_then(|went| observe::service_of(went.backend.name()));
        self.shared.telemetry.request(
            exchange,
            &Ends {
                reporter: Reporter::Source,
                source: Some(self.pod.workload()),
                source_principal: Some(self.pod.identity.id.principal()),
                destination: other.as_ref().map(|other| other.workload()).or_else(found),
                destination_principal: other.as_ref().map(|other| other.identity.id.principal()),
                service: sent_to.or_else(|| self.service.clone()),
                secured: other.is_some(),
            },
        );
    }
}

impl Link {
    /// Reads the first that comes.
    async fn read(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Link::Tunnel(tunnel) => tunnel.read_buf(into).await,
            Link::Plain(stream) => stream.read_buf(into).await,
        }
    }
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
    service: Option<(&ServiceEntry, &Backend)>,
) -> io::Result<Way> {
    let Some((service, backend)) = service else { return endpoint(shared, pod, to).await };
    let mut avoid = Vec::new();
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let Some(address) = choose(backend, service, pod.place.address, &avoid) else { break };
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
    let tunnel = pod.tunnels.open(to, &other.identity.id).await.map_err(io::Error::other)?;
    Ok(Way { link: Link::Tunnel(tunnel), to, other: Some(other) })
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
        let entry = |sticky| ServiceEntry { key: Key::new("a", "b"), sticky, requests: false };
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
