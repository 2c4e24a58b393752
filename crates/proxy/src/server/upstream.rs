//! Connections to backends.
//!
//! A connection has no task of its own: whoever uses it polls it, so that a request costs no switch between tasks. An
//! idle one is looked at when it is taken out again, which is when a close by the backend is noticed.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::body::RequestBody;

/// How long a backend may take to accept a connection. Inside a cluster it takes microseconds; a lost packet is sent
/// again after one and three seconds.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);

/// The same where another endpoint can be tried instead: the address of a pod that is gone does not refuse, it is silent.
pub(crate) const CONNECT_ELSE: Duration = Duration::from_secs(1);

/// Idle connections kept per endpoint: enough for the concurrency of one busy endpoint.
const IDLE_PER_ENDPOINT: usize = 256;

/// Idle connections are closed after this time: below the keep-alive of the common servers, whose close could cross
/// with a request.
const IDLE: Duration = Duration::from_secs(30);

type Driver = http1::Connection<TokioIo<TcpStream>, RequestBody>;

/// A connection to an endpoint.
pub(crate) struct Connection {
    address: SocketAddr,
    sender: SendRequest<RequestBody>,
    driver: Driver,
    /// The driver is done: the connection is closed, or was upgraded.
    ended: bool,
    /// Whether it already served a request.
    pub(crate) reused: bool,
}

/// Why no answer came.
pub(crate) struct SendError {
    pub(crate) error: hyper::Error,
    /// The request, when nothing of it was sent.
    pub(crate) unsent: Option<Request<RequestBody>>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, limit: Duration) -> io::Result<Self> {
        let stream = tokio::time::timeout(limit, TcpStream::connect(address)).await;
        let stream = stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Connection { address, sender, driver, ended: false, reused: false })
    }

    /// Lets the connection read and write.
    pub(crate) fn drive(&mut self, context: &mut Context<'_>) {
        if !self.ended && self.driver.poll_without_shutdown(context).is_ready() {
            // An error reaches whoever waits for the answer or its body.
            self.ended = true;
        }
    }

    /// Whether the connection can take a request now.
    pub(crate) fn poll_reusable(&mut self, context: &mut Context<'_>) -> bool {
        self.drive(context);
        !self.ended && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let (driver, ended) = (&mut self.driver, &mut self.ended);
        let answer = poll_fn(|context| {
            if !*ended && driver.poll_without_shutdown(context).is_ready() {
                *ended = true;
            }
            answer.as_mut().poll(context)
        });
        answer.await.map_err(|mut failed| {
            let unsent = failed.take_message();
            SendError { error: failed.into_error(), unsent }
        })
    }

    /// The bare stream after an answer that switched protocols, and what was read of it already.
    pub(crate) async fn into_stream(mut self) -> (TcpStream, Bytes) {
        poll_fn(|context| {
            self.drive(context);
            if self.ended { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let parts = self.driver.into_parts();
        (parts.io.into_inner(), parts.read_buf)
    }
}

/// Idle connections of an endpoint and since when they are idle, the most recent last.
type Idle = Vec<(Instant, Connection)>;

/// Idle connections by endpoint. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Pool {
    idle: Arc<Mutex<HashMap<SocketAddr, Idle>>>,
}

impl Pool {
    /// An idle connection that is still open, the most recently used first.
    pub(crate) async fn take(&self, address: SocketAddr) -> Option<Connection> {
        loop {
            let (since, mut connection) = self.idle.lock().get_mut(&address)?.pop()?;
            let open = poll_fn(|context| Poll::Ready(connection.poll_reusable(context))).await;
            if open && since.elapsed() < IDLE {
                return Some(connection);
            }
        }
    }

    pub(crate) fn put(&self, mut connection: Connection) {
        connection.reused = true;
        let mut idle = self.idle.lock();
        let connections = idle.entry(connection.address).or_default();
        if connections.len() < IDLE_PER_ENDPOINT {
            connections.push((Instant::now(), connection));
        }
    }

    /// Closes what was idle for too long.
    pub(crate) fn reap(&self) {
        let mut idle = self.idle.lock();
        for connections in idle.values_mut() {
            connections.retain(|(since, _)| since.elapsed() < IDLE);
        }
        idle.retain(|_, connections| !connections.is_empty());
    }
}
