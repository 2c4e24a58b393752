//! Sockets inside the pods' network namespaces, made on the calling thread: three system calls, no wait.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::PodNetns;

/// The mark of the mesh's own sockets, which the rules inside the pods leave alone. Istio's number.
pub const MARK: u32 = 0x539;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Keep-alive of connections that carry other people's, for peers that vanish without a word.
const KEEPALIVE: Duration = Duration::from_secs(60);

fn within<T>(netns: &Arc<dyn PodNetns>, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (mut make, mut made) = (Some(make), None);
    netns.within(&mut || made = make.take().map(|make| make()))?;
    made.unwrap_or_else(|| Err(io::Error::other("the namespace was not entered")))
}

/// A socket that listens inside a namespace.
pub(crate) fn listen(netns: &Arc<dyn PodNetns>, address: (Ipv4Addr, u16)) -> io::Result<TcpListener> {
    let socket = within(netns, || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_mark(MARK)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from(address).into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    })?;
    TcpListener::from_std(socket.into())
}

/// A connection from inside a namespace, past the rules there; under another's address when `from` is given.
pub(crate) async fn connect(
    netns: &Arc<dyn PodNetns>,
    from: Option<IpAddr>,
    to: SocketAddr,
    limit: Duration,
) -> io::Result<TcpStream> {
    let socket = within(netns, || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_mark(MARK)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(IpAddr::V4(from)) = from {
            socket.set_ip_transparent_v4(true)?;
            socket.bind(&SocketAddr::from((from, 0)).into())?;
        }
        Ok(socket)
    })?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let connected = tokio::time::timeout(limit, socket.connect(to)).await;
    connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Where a connection was going before the rules led it here.
pub(crate) fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let address = SockRef::from(stream).original_dst_v4()?;
    address.as_socket().ok_or_else(|| io::Error::other("the original destination is no address"))
}

/// Makes a connection fit to carry somebody else's.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE))
}

/// Ends a connection the hard way, so that its peer does not take what it has for all there was.
pub(crate) fn reset(stream: &TcpStream) {
    // when it cannot be, the connection has ended already
    let _ended = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
