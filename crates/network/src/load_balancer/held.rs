//! Ports of this machine that Services hold: each by a socket that is bound there and never used, as packets are led away
//! before they come to it. So the kernel refuses the port to whoever else asks for it, and refuses what is not led away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use reconcile::Key;
use tokio::net::TcpSocket;

use crate::services::Protocol;

/// An address of this machine with a port.
pub(super) type Spot = (Ipv4Addr, Protocol, u16);

/// A bound socket.
#[derive(Debug)]
enum Bound {
    Tcp {
        _socket: TcpSocket,
    },
    Udp {
        _socket: UdpSocket,
    },
    /// Nothing can be bound, and nobody else is expected there.
    Sctp,
}

impl Bound {
    /// Binds without listening: who comes to a port that leads nowhere is refused, not kept waiting.
    fn to((address, protocol, port): Spot) -> io::Result<Self> {
        let at = SocketAddrV4::new(address, port);
        match protocol {
            Protocol::Tcp => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::V4(at))?;
                Ok(Self::Tcp { _socket: socket })
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(at)?;
                // one that talks to itself alone refuses the packets of all others
                socket.connect(at)?;
                Ok(Self::Udp { _socket: socket })
            }
            Protocol::Sctp => Ok(Self::Sctp),
        }
    }
}

/// Who holds what. As many as Services have ports.
#[derive(Debug, Default)]
pub(super) struct Held {
    owners: HashMap<Spot, Key>,
    by_service: BTreeMap<Key, BTreeMap<Spot, Bound>>,
}

impl Held {
    /// Holds a port for a Service, if it does not already; says why it cannot.
    pub(super) fn take(&mut self, key: &Key, spot: Spot) -> Result<(), String> {
        let (address, protocol, port) = spot;
        match self.owners.get(&spot) {
            Some(owner) if owner == key => return Ok(()),
            Some(owner) => {
                return Err(format!("port {port}/{protocol} of {address} is already used by service {owner}"));
            }
            None => {}
        }
        let bound = Bound::to(spot).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => format!("port {port}/{protocol} of {address} is used by another program"),
            _ => format!("port {port}/{protocol} of {address} cannot be had: {error}"),
        })?;
        self.owners.insert(spot, key.clone());
        self.by_service.entry(key.clone()).or_default().insert(spot, bound);
        Ok(())
    }

    /// Gives up what a Service holds beyond this; whether that was anything.
    pub(super) fn keep(&mut self, key: &Key, wanted: &BTreeSet<Spot>) -> bool {
        let Some(held) = self.by_service.get_mut(key) else { return false };
        let before = held.len();
        let owners = &mut self.owners;
        held.retain(|spot, _| {
            let stays = wanted.contains(spot);
            if !stays {
                owners.remove(spot);
            }
            stays
        });
        let gave_up = held.len() < before;
        if held.is_empty() {
            self.by_service.remove(key);
        }
        gave_up
    }
}
