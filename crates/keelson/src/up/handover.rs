//! One instance takes over from another that runs from the same data directory (`keelson up --replace`), and no client is
//! refused meanwhile.
//!
//! The successor connects to a socket in the data directory and gets the listening sockets. Then the predecessor ends all
//! but its gateway and lets go of the directory; clients of the API wait in the socket's backlog. It accepts on the gateway's
//! sockets until the successor does, and ends when the requests under way have ended.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write},
    net::{IpAddr, SocketAddr},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
    unistd::geteuid,
};
use parking_lot::Mutex;
use proxy::{Sockets, Transport};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};

use super::address;
use crate::{
    data_dir::Layout,
    exit::{Exit, Failure},
};

/// Descriptors of one message; the kernel takes 253.
const AT_ONCE: usize = 200;

/// How long either side waits for the other's next word, besides what a step itself may take.
const PATIENCE: Duration = Duration::from_secs(30);

const RELEASED: &str = "released\n";
const SERVING: &str = "serving\n";

/// What a socket is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Name {
    /// A role of the process.
    Role(String),
    /// A listener of Gateways.
    Gateway { address: IpAddr, port: u16, udp: bool },
}

/// The sockets that this process listens on, its predecessor's among them. Clones are the same set.
#[derive(Clone, Default)]
pub(super) struct Listeners {
    roles: Arc<Mutex<BTreeMap<String, OwnedFd>>>,
    pub(super) gateway: Sockets,
}

impl Listeners {
    fn inherited(sockets: impl IntoIterator<Item = (Name, OwnedFd)>) -> Self {
        let (mut roles, mut gateway) = (BTreeMap::new(), Vec::new());
        for (name, socket) in sockets {
            match name {
                Name::Role(role) => drop(roles.insert(role, socket)),
                Name::Gateway { address, port, udp } => {
                    gateway.push(((address, port, if udp { Transport::Udp } else { Transport::Tcp }), socket));
                }
            }
        }
        Self { roles: Arc::new(Mutex::new(roles)), gateway: Sockets::inherited(gateway) }
    }

    /// The predecessor's socket where it listens at this address (port 0 is any), else a new one. `setting` is what a user
    /// changes when the address cannot be had.
    pub(super) async fn bind(&self, role: &str, address: SocketAddr, setting: &str) -> Result<TcpListener, Failure> {
        let held = self.roles.lock().remove(role).map(std::net::TcpListener::from);
        let fits = |socket: &std::net::TcpListener| {
            let at = socket.local_addr();
            at.is_ok_and(|at| at.ip() == address.ip() && (address.port() == 0 || address.port() == at.port()))
        };
        let listener = match held.filter(fits) {
            Some(socket) => socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket)),
            None => TcpListener::bind(address).await,
        };
        let listener = listener.map_err(|error| address::refused(address, setting, error))?;
        let kept = listener.as_fd().try_clone_to_owned().context("keep a listening socket")?;
        self.roles.lock().insert(role.to_owned(), kept);
        Ok(listener)
    }

    fn share(&self) -> io::Result<Vec<(Name, OwnedFd)>> {
        let mut all = Vec::new();
        for (role, socket) in &*self.roles.lock() {
            all.push((Name::Role(role.clone()), socket.try_clone()?));
        }
        for ((address, port, transport), socket) in self.gateway.share()? {
            all.push((Name::Gateway { address, port, udp: transport == Transport::Udp }, socket));
        }
        Ok(all)
    }

    /// Lets go of the sockets of all roles but the gateway: what has to be served on them, others serve.
    pub(super) fn close_roles(&self) {
        self.roles.lock().clear();
    }
}

/// Where a successor asks.
pub(super) struct Desk(UnixListener);

impl Desk {
    /// Opens it. The data directory is locked, so that what lies there belongs to nobody.
    pub(super) fn open(layout: &Layout) -> anyhow::Result<Self> {
        let path = layout.handover();
        remove(layout)?;
        let desk = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
        Ok(Self(desk))
    }

    /// Waits for a successor of the same user, and gives it the sockets.
    ///
    /// # Errors
    /// When it did not get them; everything is as before then.
    pub(super) async fn give(&self, listeners: &Listeners) -> anyhow::Result<Successor> {
        let (stream, _) = self.0.accept().await.context("accept a successor")?;
        let user = stream.peer_cred().context("ask who the successor is")?.uid();
        if user != geteuid().as_raw() {
            return Err(anyhow!("user {user} may not take over"));
        }
        let stream = stream.into_std().context("take the successor's connection")?;
        let sockets = listeners.share().context("copy the listening sockets")?;
        blocking(move || {
            patient(&stream, PATIENCE)?;
            send(&stream, &sockets)?;
            Ok(Successor(stream))
        })
        .await
        .context("give a successor the listening sockets")
    }
}

/// Removes the desk, when nobody takes over.
pub(super) fn remove(layout: &Layout) -> anyhow::Result<()> {
    let path = layout.handover();
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(anyhow!(e).context(format!("remove {}", path.display()))),
        _ => Ok(()),
    }
}

/// Who takes over, as the predecessor sees it.
pub(super) struct Successor(UnixStream);

impl Successor {
    /// Tells that the data directory is free, and waits until the successor serves.
    ///
    /// # Errors
    /// When it ended before.
    pub(super) async fn release(self) -> anyhow::Result<()> {
        blocking(move || {
            let mut stream = &self.0;
            stream.write_all(RELEASED.as_bytes())?;
            hear(stream, SERVING)
        })
        .await
        .context("wait for the successor to serve")
    }
}

/// Who is taken over from, as the successor sees it.
pub(crate) struct Predecessor(UnixStream);

impl Predecessor {
    /// Asks the instance that runs from a data directory for its sockets, and waits until it has let go of the directory,
    /// for which it has `budget`; `None` when none runs.
    ///
    /// # Errors
    /// [`Exit::InUse`] when one runs that does not hand over.
    pub(super) fn ask(layout: &Layout, budget: Duration) -> Result<Option<(Self, Listeners)>, Failure> {
        let Some(pid) = layout.holder()? else { return Ok(None) };
        let asked = || -> anyhow::Result<(UnixStream, Listeners)> {
            let stream = UnixStream::connect(layout.handover())?;
            patient(&stream, PATIENCE + budget)?;
            let listeners = Listeners::inherited(receive(&stream)?);
            hear(&stream, RELEASED)?;
            Ok((stream, listeners))
        };
        let (stream, listeners) =
            asked().with_context(|| format!("process {pid} does not hand over")).map_err(|e| Exit::InUse.because(e))?;
        Ok(Some((Self(stream), listeners)))
    }

    /// Tells that the gateway is served here, once it is; after a bound in any case.
    pub(super) async fn relieve(self, gateway: Option<&Sockets>) -> anyhow::Result<()> {
        if let Some(sockets) = gateway
            && tokio::time::timeout(PATIENCE, sockets.serving()).await.is_err()
        {
            tracing::warn!("the gateway is not served yet; the instance before this one ends nevertheless");
        }
        blocking(move || (&self.0).write_all(SERVING.as_bytes())).await.context("relieve the predecessor")
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

fn patient(stream: &UnixStream, patience: Duration) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))
}

/// Reads a word, and nothing after it.
fn hear(mut stream: &UnixStream, word: &str) -> io::Result<()> {
    let mut heard = vec![0; word.len()];
    stream.read_exact(&mut heard)?;
    if heard == word.as_bytes() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("{:?} is not {word:?}", String::from_utf8_lossy(&heard))))
}

/// A line that names the sockets; then they, each lot of them with a byte.
fn send(mut stream: &UnixStream, sockets: &[(Name, OwnedFd)]) -> io::Result<()> {
    let names: Vec<&Name> = sockets.iter().map(|(name, _)| name).collect();
    let mut line = serde_json::to_vec(&names)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    for lot in sockets.chunks(AT_ONCE) {
        let descriptors: Vec<_> = lot.iter().map(|(_, socket)| socket.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(b"+")], &rights, MsgFlags::empty(), None)?;
    }
    Ok(())
}

fn receive(stream: &UnixStream) -> io::Result<Vec<(Name, OwnedFd)>> {
    let mut line = Vec::new();
    // Byte by byte: what comes after the line has descriptors with it, which a read would drop.
    BufReader::with_capacity(1, stream).read_until(b'\n', &mut line)?;
    let names: Vec<Name> = serde_json::from_slice(&line)?;
    let mut sockets = Vec::with_capacity(names.len());
    while sockets.len() < names.len() {
        let before = sockets.len();
        let mut byte = [0];
        let mut space = cmsg_space!([std::os::fd::RawFd; AT_ONCE]);
        let mut parts = [IoSliceMut::new(&mut byte)];
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = part {
                // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
                sockets.extend(descriptors.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        if sockets.len() == before {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(names.into_iter().zip(sockets).collect())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn role(name: &str) -> (Name, OwnedFd) {
        (Name::Role(name.to_owned()), std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().into())
    }

    #[test]
    fn sockets_arrive_in_lots_with_their_names_and_what_is_said_after_them() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        let mut sent: Vec<_> =
            (0..AT_ONCE).map(|n| (Name::Role(n.to_string()), listener.as_fd().try_clone_to_owned().unwrap())).collect();
        sent.push((Name::Gateway { address: Ipv4Addr::LOCALHOST.into(), port: 53, udp: true }, role("").1));
        let expected: Vec<_> = sent.iter().map(|(name, _)| name.clone()).collect();
        let sender = std::thread::spawn(move || {
            send(&ours, &sent)?;
            (&ours).write_all(RELEASED.as_bytes())
        });
        let received = receive(&theirs).unwrap();
        hear(&theirs, RELEASED).unwrap();
        sender.join().unwrap().unwrap();
        assert_eq!(received.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), expected);
        let (_, first) = received.into_iter().next().unwrap();
        assert_eq!(std::net::TcpListener::from(first).local_addr().unwrap(), at);
    }

    #[tokio::test]
    async fn a_socket_is_taken_over_where_it_listens_at_the_address_that_is_asked_for() {
        let (name, socket) = role("api");
        let at = std::net::TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap();
        for (asked, kept) in [(at, true), ((Ipv4Addr::LOCALHOST, 0).into(), true), (([127, 0, 0, 2], 0).into(), false)]
        {
            let listeners = Listeners::inherited([(name.clone(), socket.try_clone().unwrap())]);
            let bound = listeners.bind("api", asked, "--listen").await.unwrap();
            assert_eq!(bound.local_addr().unwrap() == at, kept, "{asked}");
            assert_eq!(listeners.share().unwrap().len(), 1, "the next one gets it too");
        }
    }

    #[test]
    fn one_that_breaks_off_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&ours).write_all(b"[{\"Role\":\"api\"}]\n").unwrap();
        drop(ours);
        assert_eq!(receive(&theirs).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
