//! Datagrams: each client has a socket of its own towards an endpoint, so that answers find their way back.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Bind, Shared, listener::Binding};
use crate::routing::{Backend, Target, Transport};

/// Clients of one port at once: each costs a descriptor. A client more is not served until one was silent for long enough.
const CLIENTS: usize = 4096;

/// After this long without an answer a client is forgotten, as connection tracking forgets them; its next datagram makes it
/// known again.
const SILENCE: Duration = Duration::from_secs(60);

/// No datagram is longer.
const LARGEST: usize = 64 << 10;

/// Pause after receiving failed, typically because the machine lacks memory.
const PAUSE: Duration = Duration::from_millis(100);

/// A client's way to its endpoint.
struct Session {
    socket: Arc<UdpSocket>,
    endpoint: SocketAddr,
    backend: Arc<Backend>,
    stop: CancellationToken,
}

/// Binds and starts to receive.
pub(crate) fn bind(
    shared: &Arc<Shared>,
    bind: Bind,
    tasks: &mut JoinSet<()>,
    stop: CancellationToken,
) -> io::Result<Binding> {
    let socket = shared.config.sockets.datagrams(bind, shared.config.at(bind))?;
    let local = socket.local_addr()?;
    tasks.spawn(receive(Arc::clone(shared), Arc::new(socket), (bind.0, bind.1), stop.clone()));
    Ok(Binding { local, stop })
}

async fn receive(shared: Arc<Shared>, socket: Arc<UdpSocket>, (address, port): (IpAddr, u16), stop: CancellationToken) {
    let mut sessions: HashMap<SocketAddr, Session> = HashMap::new();
    let mut answers: JoinSet<SocketAddr> = JoinSet::new();
    let mut datagram = vec![0; LARGEST];
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = answers.join_next(), if !answers.is_empty() => {
                if let Ok(client) = ended
                    && sessions.get(&client).is_some_and(|session| session.stop.is_cancelled())
                {
                    sessions.remove(&client);
                }
            }
            received = socket.recv_from(&mut datagram) => match received {
                Ok((length, client)) => {
                    // An endpoint that is gone gets nothing more.
                    let lost = |session: &Session| !session.backend.endpoints().contains(&session.endpoint);
                    if sessions.get(&client).is_some_and(|session| session.stop.is_cancelled() || lost(session)) {
                        sessions.remove(&client).inspect(|session| session.stop.cancel());
                    }
                    if !sessions.contains_key(&client) && sessions.len() < CLIENTS
                        && let Some(session) = open(&shared, (address, port), client.ip()).await
                    {
                        answers.spawn(answer(Arc::clone(&socket), client, Arc::clone(&session.socket), session.stop.clone()));
                        sessions.insert(client, session);
                    }
                    if let Some(session) = sessions.get(&client)
                        && let Err(error) = session.socket.try_send(&datagram[..length])
                    {
                        debug!(%error, endpoint = %session.endpoint, "a datagram was not sent");
                    }
                }
                Err(error) => {
                    warn!(%error, "cannot receive datagrams");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    for session in sessions.values() {
        session.stop.cancel();
    }
    while answers.join_next().await.is_some() {}
}

/// A way to an endpoint of the backend that the route names, for a client that may use it.
async fn open(shared: &Shared, (address, port): (IpAddr, u16), client: IpAddr) -> Option<Session> {
    let table = shared.table.load_full();
    let (_, port) = table.find(address, port, Transport::Udp)?;
    let listener = port.listener("").filter(|listener| listener.admits("", client))?;
    let share = listener.stream("", rand::random())?;
    let Target::Service { backend, .. } = &share.target else { return None };
    let endpoint = backend.pick(&[])?;
    let any = match endpoint {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(endpoint).await.ok()?;
    // Until it is known to be writable, what is tried to be sent is refused: the first datagram would be lost.
    socket.writable().await.ok()?;
    Some(Session { socket: Arc::new(socket), endpoint, backend: Arc::clone(backend), stop: CancellationToken::new() })
}

/// Carries an endpoint's datagrams back to a client until it was silent for long enough; gives the client back.
async fn answer(
    listener: Arc<UdpSocket>,
    client: SocketAddr,
    socket: Arc<UdpSocket>,
    stop: CancellationToken,
) -> SocketAddr {
    let mut until = Instant::now() + SILENCE;
    loop {
        let readable = tokio::select! {
            () = stop.cancelled() => break,
            readable = timeout_at(until, socket.readable()) => readable,
        };
        if !matches!(readable, Ok(Ok(()))) {
            break;
        }
        // Memory for a datagram only while there is one: most clients wait most of the time.
        let mut datagram = Vec::with_capacity(LARGEST);
        match socket.try_recv_buf(&mut datagram) {
            Ok(_) => {
                until = Instant::now() + SILENCE;
                if let Err(error) = listener.send_to(&datagram, client).await {
                    debug!(%error, %client, "an answer was not sent");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // An endpoint that does not listen yet answers so; the client may send again.
            Err(error) => debug!(%error, %client, "an endpoint refused a datagram"),
        }
    }
    stop.cancel();
    client
}
