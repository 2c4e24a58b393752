//! The tunnels that a pod has to other pods: one connection per destination, as long as its streams suffice.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{Method, Request, StatusCode};
use identity::{
    SpiffeId,
    workload::{PeerError, peer_id},
};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use super::{CONNECTION_WINDOW, FRAME, HEADERS, PORT, SEND_BUFFER, STREAM_WINDOW, STREAMS, Tunnel};
use crate::mesh::{
    PodNetns,
    identities::{Identity, Material},
    sockets,
};

/// How long a connection to another pod's proxy may take, with its handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the other side may take to reach the pod.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a connection without streams is kept.
const IDLE: Duration = Duration::from_secs(90);

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// The other proxy cannot be reached.
    #[error("cannot connect to the proxy of {to}")]
    Connect { to: SocketAddr, source: io::Error },
    /// Who answers does not say who it is.
    #[error("the proxy of {to} does not say who it is")]
    Nameless { to: SocketAddr, source: PeerError },
    /// Somebody else answers.
    #[error("the proxy of {to} answers as {found}, not as {expected}")]
    Impostor { to: SocketAddr, found: SpiffeId, expected: SpiffeId },
    /// The exchange failed.
    #[error("the tunnel to {to} failed")]
    Protocol { to: SocketAddr, source: h2::Error },
    /// The other proxy took too long.
    #[error("the proxy of {to} did not answer in time")]
    Late { to: SocketAddr },
    /// The other proxy refuses: by policy (401, 403), or because the pod does not take the connection (503).
    #[error("the proxy of {to} answered {status}")]
    Refused { to: SocketAddr, status: StatusCode },
}

/// The tunnels of one pod.
pub(crate) struct Tunnels {
    identity: Arc<Identity>,
    netns: Arc<dyn PodNetns>,
    tasks: TaskTracker,
    cut: CancellationToken,
    /// As many as pods it speaks to.
    lines: Mutex<HashMap<SocketAddr, Lines>>,
}

/// The connections to one destination; who looks for one waits for who makes one.
type Lines = Arc<tokio::sync::Mutex<Vec<Line>>>;

/// A connection.
struct Line {
    send: SendRequest<Bytes>,
    peer: SpiffeId,
    /// What was shown and believed when it was made.
    material: Arc<Material>,
    streams: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    used: Instant,
}

/// Counts a stream as long as it lives.
pub(crate) struct Stream(Arc<AtomicUsize>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tunnels {
    pub(crate) fn new(
        identity: Arc<Identity>,
        netns: Arc<dyn PodNetns>,
        tasks: TaskTracker,
        cut: CancellationToken,
    ) -> Self {
        Self { identity, netns, tasks, cut, lines: Mutex::default() }
    }

    /// A connection to a pod, carried to the proxy that serves inside it, which must be the `expected` one.
    pub(crate) async fn open(&self, to: SocketAddr, expected: &SpiffeId) -> Result<Tunnel, TunnelError> {
        let (send, stream) = self.line(to, expected).await?;
        let protocol = |source| TunnelError::Protocol { to, source };
        let mut send = send.ready().await.map_err(protocol)?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = authority(to);
        let (answer, body) = send.send_request(request, false).map_err(protocol)?;
        let answer = tokio::time::timeout(ANSWER, answer).await.map_err(|_| TunnelError::Late { to })?;
        let answer = answer.map_err(protocol)?;
        match answer.status() {
            StatusCode::OK => Ok(Tunnel::new(body, answer.into_body(), Some(stream))),
            status => Err(TunnelError::Refused { to, status }),
        }
    }

    async fn line(&self, to: SocketAddr, expected: &SpiffeId) -> Result<(SendRequest<Bytes>, Stream), TunnelError> {
        let proxy = SocketAddr::new(to.ip(), PORT);
        let lines = Arc::clone(self.lines.lock().entry(proxy).or_default());
        let mut lines = lines.lock().await;
        let current = self.identity.material();
        lines.retain(|line| {
            Arc::ptr_eq(&line.material, &current) && !line.ended.load(Ordering::Acquire) && line.peer == *expected
        });
        let free = |line: &Line| line.streams.load(Ordering::Relaxed) < STREAMS as usize;
        let index = match lines.iter().position(free) {
            Some(index) => index,
            None => {
                lines.push(self.connect(proxy, current, expected).await?);
                lines.len() - 1
            }
        };
        let line = &mut lines[index];
        line.used = Instant::now();
        line.streams.fetch_add(1, Ordering::Relaxed);
        Ok((line.send.clone(), Stream(Arc::clone(&line.streams))))
    }

    async fn connect(&self, to: SocketAddr, material: Arc<Material>, expected: &SpiffeId) -> Result<Line, TunnelError> {
        let failed = |source| TunnelError::Connect { to, source };
        let deadline = tokio::time::Instant::now() + CONNECT;
        let stream = sockets::connect(&self.netns, None, to, CONNECT).await.map_err(failed)?;
        sockets::prepare(&stream).map_err(failed)?;
        let connector = TlsConnector::from(Arc::clone(&material.client));
        let handshake = connector.connect(ServerName::from(to.ip()), stream);
        let handshake = tokio::time::timeout_at(deadline, handshake).await.map_err(|_| TunnelError::Late { to })?;
        let stream = handshake.map_err(failed)?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.map(|certificate| certificate.as_ref()).unwrap_or_default();
        let found = peer_id(certificate).map_err(|source| TunnelError::Nameless { to, source })?;
        if found != *expected {
            return Err(TunnelError::Impostor { to, found, expected: expected.clone() });
        }
        let mut builder = Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(STREAMS as usize)
            .max_frame_size(FRAME)
            .max_header_list_size(HEADERS)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false);
        let protocol = |source| TunnelError::Protocol { to, source };
        let (send, connection) = builder.handshake(stream).await.map_err(protocol)?;
        let (ended, cut) = (Arc::new(AtomicBool::new(false)), self.cut.clone());
        let tell = Arc::clone(&ended);
        self.tasks.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                result = connection => if let Err(error) = result {
                    debug!(%to, %error, "a tunnel ended with an error");
                }
            }
            tell.store(true, Ordering::Release);
        });
        let streams = Arc::new(AtomicUsize::new(0));
        Ok(Line { send, peer: found, material, streams, ended, used: Instant::now() })
    }

    /// Closes connections that nobody has used for a while.
    pub(crate) fn reap(&self) {
        self.lines.lock().retain(|_, lines| {
            // one that is looked at right now is in use
            let Ok(mut known) = lines.try_lock() else { return true };
            known.retain(|line| {
                let idle = line.streams.load(Ordering::Relaxed) == 0 && line.used.elapsed() > IDLE;
                !idle && !line.ended.load(Ordering::Acquire)
            });
            !known.is_empty() || Arc::strong_count(lines) > 1
        });
    }
}

/// The form in which CONNECT names its destination.
fn authority(to: SocketAddr) -> http::Uri {
    let mut parts = http::uri::Parts::default();
    // an address and a port are an authority, always
    parts.authority = to.to_string().parse().ok();
    http::Uri::from_parts(parts).unwrap_or_default()
}
