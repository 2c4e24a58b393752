//! Listening sockets that outlive a server: they go from one to the next, so that no client is refused in between.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio_util::sync::CancellationToken;

use super::Bind;

/// The sockets that a gateway listens on, by what they are for. Clones are the same set.
#[derive(Clone, Default)]
pub struct Sockets {
    open: Arc<Mutex<BTreeMap<Bind, OwnedFd>>>,
    serving: CancellationToken,
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.open.lock().keys()).finish()
    }
}

impl Sockets {
    /// What a gateway before this one listened on. What the first table does not ask for is closed then.
    pub fn inherited(sockets: impl IntoIterator<Item = (Bind, OwnedFd)>) -> Self {
        Sockets { open: Arc::new(Mutex::new(sockets.into_iter().collect())), serving: CancellationToken::new() }
    }

    /// Everything that is listened on, for the next gateway.
    ///
    /// # Errors
    /// When this process may have no more descriptors.
    pub fn share(&self) -> io::Result<Vec<(Bind, OwnedFd)>> {
        self.open.lock().iter().map(|(bind, socket)| Ok((*bind, socket.try_clone()?))).collect()
    }

    /// Ends when connections are accepted by a table that was made of everything in the cluster.
    pub async fn serving(&self) {
        self.serving.cancelled().await;
    }

    /// Says so, and closes what this table does not ask for.
    pub(super) fn served(&self, wanted: impl Fn(&Bind) -> bool) {
        self.open.lock().retain(|bind, _| wanted(bind));
        self.serving.cancel();
    }

    /// The socket that is open for a connection listener, or a new one.
    pub(super) fn listener(&self, bind: Bind, address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
        let socket: TcpListener = self.open(bind, || listen(address))?;
        socket.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(socket)
    }

    /// The socket that is open for datagrams, or a new one.
    pub(super) fn datagrams(&self, bind: Bind, address: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
        let socket: UdpSocket = self.open(bind, || UdpSocket::bind(address))?;
        socket.set_nonblocking(true)?;
        tokio::net::UdpSocket::from_std(socket)
    }

    fn open<S: AsFd + From<OwnedFd>>(&self, bind: Bind, make: impl FnOnce() -> io::Result<S>) -> io::Result<S> {
        let mut open = self.open.lock();
        if let Some(socket) = open.get(&bind) {
            return Ok(S::from(socket.try_clone()?));
        }
        let socket = make()?;
        open.insert(bind, socket.as_fd().try_clone_to_owned()?);
        Ok(socket)
    }

    /// Closes one, once whoever accepts on it has let go of it too.
    pub(super) fn close(&self, bind: &Bind) {
        self.open.lock().remove(bind);
    }

    /// Closes all.
    pub(super) fn clear(&self) {
        self.open.lock().clear();
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // Inherited by what is accepted. A client that is gone without a word would else be waited for until something is
    // sent to it, which may be never.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(&socket).set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))?;
    socket.listen(BACKLOG)?.into_std()
}

/// How long a client is silent before its machine is asked whether it is there, how often, and how many times without an
/// answer: it is given up within two minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Connections that wait to be accepted, all that may come while the machine is busy elsewhere.
const BACKLOG: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_that_are_gone_are_found_out() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
    }
}
