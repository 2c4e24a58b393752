//! A netlink socket, in this network namespace or in another one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, sockopt,
};

use super::encoder::Encoder;
use super::message::{Attributes, Message, u32_at};
use super::{DUMP, NetlinkError};

/// Bytes read at once; the kernel fills dumps in pieces of at most 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Kernel receive buffer: holds the answers to one batch and one piece of a dump.
const KERNEL_RECEIVE_BUFFER: usize = 1024 * 1024;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NETLINK_CAP_ACK: i32 = 10;
const NETLINK_EXT_ACK: i32 = 11;
/// The answer carries explanation attributes (`NLM_F_ACK_TLVS`).
const ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Which part of the kernel a socket speaks with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Protocol {
    /// Links, addresses and routes.
    Route,
    /// nftables and connection tracking.
    Netfilter,
}

/// A netlink socket. It belongs for good to the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Opens a socket in this thread's network namespace.
    pub(crate) fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let failed = |source: Errno| NetlinkError::Io { action: "open a netlink socket".into(), source: source.into() };
        let protocol = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let fd = nix::sys::socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed)?;
        setsockopt(&fd, sockopt::RcvBufForce, &KERNEL_RECEIVE_BUFFER).map_err(failed)?;
        for option in [NETLINK_EXT_ACK, NETLINK_CAP_ACK] {
            crate::sys::enable_netlink_option(fd.as_fd(), option)
                .map_err(|source| NetlinkError::Io { action: "open a netlink socket".into(), source })?;
        }
        Ok(Self { fd })
    }

    /// Sends messages of which at least the last asks for a confirmation, and reports the first refusal.
    pub(crate) fn request(&self, action: &str, messages: &Encoder) -> Result<(), NetlinkError> {
        self.send(action, messages)?;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        let mut refused = None;
        while let Some(datagram) = self.receive(action, &mut buffer)? {
            let mut rest = datagram;
            while let Some((message, tail)) = Message::split(rest) {
                rest = tail;
                if message.kind == NLMSG_ERROR && refused.is_none() {
                    refused = refusal(action, &message);
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends a dump request and hands over every message of the answer.
    pub(crate) fn dump(
        &self,
        action: &str,
        kind: u16,
        body: impl FnOnce(&mut Encoder),
        mut each: impl FnMut(Message<'_>),
    ) -> Result<(), NetlinkError> {
        let mut encoder = Encoder::default();
        encoder.message(kind, super::REQUEST | DUMP, body);
        self.send(action, &encoder)?;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        while let Some(datagram) = self.receive(action, &mut buffer)? {
            let mut rest = datagram;
            while let Some((message, tail)) = Message::split(rest) {
                rest = tail;
                match message.kind {
                    _ if message.sequence != encoder.last_sequence() => {}
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return refusal(action, &message).map_or(Ok(()), Err),
                    _ => each(message),
                }
            }
        }
        Err(NetlinkError::Malformed { action: action.into() })
    }

    /// Sends a request for one object and hands over the answer.
    pub(crate) fn get(
        &self,
        action: &str,
        kind: u16,
        body: impl FnOnce(&mut Encoder),
        mut each: impl FnMut(Message<'_>),
    ) -> Result<(), NetlinkError> {
        let mut encoder = Encoder::default();
        encoder.message(kind, super::REQUEST, body);
        self.send(action, &encoder)?;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        while let Some(datagram) = self.receive(action, &mut buffer)? {
            match Message::split(datagram) {
                Some((message, _)) if message.kind == NLMSG_ERROR => {
                    return refusal(action, &message).map_or(Ok(()), Err);
                }
                Some((message, _)) => each(message),
                None => return Err(NetlinkError::Malformed { action: action.into() }),
            }
        }
        Ok(())
    }

    fn send(&self, action: &str, messages: &Encoder) -> Result<(), NetlinkError> {
        let failed = |source: Errno| NetlinkError::Io { action: action.into(), source: source.into() };
        let bytes = messages.bytes().ok_or_else(|| NetlinkError::TooLong { action: action.into() })?;
        // What an earlier exchange left unread, because there was more than the receive buffer holds, answers nothing now.
        let mut stale = vec![0; RECEIVE_BUFFER];
        while self.receive(action, &mut stale).is_ok_and(|datagram| datagram.is_some()) {}
        // The kernel takes a batch only in one piece, so the buffer must hold all of it, with room for bookkeeping.
        setsockopt(&self.fd, sockopt::SndBufForce, &(bytes.len() * 2 + RECEIVE_BUFFER)).map_err(failed)?;
        send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()).map_err(failed)?;
        Ok(())
    }

    fn receive<'b>(&self, action: &str, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>, NetlinkError> {
        loop {
            match recv(self.fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => return Ok(Some(&buffer[..length])),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(NetlinkError::Io { action: action.into(), source: errno.into() }),
            }
        }
    }
}

/// The refusal in an error message; nothing when the message is a confirmation.
fn refusal(action: &str, message: &Message<'_>) -> Option<NetlinkError> {
    let Some(errno) = u32_at(message.body, 0).map(|errno| errno as i32) else {
        return Some(NetlinkError::Malformed { action: action.into() });
    };
    if errno == 0 {
        return None;
    }
    // The body is the error number, the header of the refused message, and then the explanation.
    let text = (message.flags & ACK_TLVS != 0)
        .then(|| Attributes(message.body.get(20..).unwrap_or_default()).find(NLMSGERR_ATTR_MSG))
        .flatten()
        .map(|text| String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned());
    Some(NetlinkError::Refused { action: action.into(), source: io::Error::from_raw_os_error(-errno), text })
}

/// Runs a function on a thread of its own inside another network namespace.
///
/// A thread that has changed its namespace must never return to a pool, so it ends with the function.
pub(crate) fn in_netns<T: Send>(
    netns: &Path,
    run: impl FnOnce() -> Result<T, NetlinkError> + Send,
) -> Result<T, NetlinkError> {
    let failed = |source| NetlinkError::Io { action: format!("enter network namespace {}", netns.display()), source };
    let file = File::open(netns).map_err(failed)?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || {
                setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
                run()
            })
            .map_err(failed)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
