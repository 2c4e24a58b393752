//! What Keelson and a shim say to each other: one JSON message per `SOCK_SEQPACKET` packet, descriptors beside it.
//!
//! Packets keep message boundaries, so there is no framing to get wrong, and a descriptor always travels with the message
//! it belongs to.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    listen, recvmsg, sendmsg, socket,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::api::ContainerState;

/// Version of the messages below; a Keelson adopts only shims that speak its own.
pub(crate) const PROTOCOL_VERSION: u32 = 1;
/// Largest message: fits the kernel's default send buffer (208 KiB) and any sane command line.
pub(crate) const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Most descriptors in one message: standard input, output and error.
pub(crate) const DESCRIPTORS_MAX: usize = 3;
/// Connections a shim lets wait; there is one Keelson.
const BACKLOG: i32 = 4;

/// A request to a shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Repeated in the answer.
    pub(crate) id: u64,
    pub(crate) body: RequestBody,
}

/// What a shim can be asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum RequestBody {
    /// Create and start the container whose launch file is in `directory`.
    Start {
        container: String,
        directory: String,
        cgroup: String,
        stdin: bool,
        stdin_once: bool,
        tty: bool,
        log_path: String,
        /// The running container whose PID namespace it joins.
        #[serde(default)]
        shares_processes_with: Option<String>,
    },
    /// Send a signal to a container's first process.
    Signal { container: String, signal: i32 },
    /// Run a command; the descriptors are stdin, stdout, stderr (none of them with a terminal).
    Exec { container: String, command: Vec<String>, env: Vec<(String, String)>, tty: bool },
    /// Kill a command that [`RequestBody::Exec`] started.
    KillExec { exec: i32 },
    /// Copy output to the descriptors sent along (stdout, then stderr); answers with stdin's if asked.
    Attach { container: String, stdin: bool, stdout: bool, stderr: bool },
    /// Open the log file anew.
    ReopenLog { container: String },
    /// Drop what is known of a container that has ended.
    Forget { container: String },
    /// Kill everything and end.
    Shutdown,
}

/// Why a process could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FailureKind {
    /// The program does not exist.
    NotFound,
    /// The program cannot be executed.
    NotExecutable,
    /// Anything else.
    Other,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Other, message: message.into() }
    }

    /// The exit code a shell would give.
    pub(crate) fn exit_code(&self) -> i32 {
        match self.kind {
            FailureKind::NotFound => 127,
            FailureKind::NotExecutable => 126,
            FailureKind::Other => 128,
        }
    }
}

/// What a shim says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The answer to a request.
    Reply { id: u64, result: Result<Answer, Failure> },
    /// A container's state changed; it is already in its state file.
    State { container: String, state: ContainerState },
    /// A command ended.
    ExecExited { exec: i32, exit_code: i32 },
}

/// What an answer holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Nothing.
    Done,
    /// The process started; with a terminal its master descriptor comes along.
    Process { pid: i32 },
}

/// Makes a listening socket at `path`, replacing a dead one.
pub(crate) fn listener(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let fd = seqpacket()?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

/// Connects to the socket at `path`, and makes the connection non-blocking.
pub(crate) fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let fd = seqpacket()?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    set_nonblocking(fd.as_raw_fd())?;
    Ok(fd)
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Makes reads and writes of a descriptor return instead of wait.
pub(crate) fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Sends one message with descriptors.
pub(crate) fn send<T: Serialize>(socket: RawFd, message: &T, descriptors: &[RawFd]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("message of {} bytes is larger than {MESSAGE_BYTES_MAX}", bytes.len()),
        ));
    }
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<UnixAddr>(socket, &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one message with its descriptors; `None` when the other end is gone. `buffer` must hold
/// [`MESSAGE_BYTES_MAX`] bytes.
pub(crate) fn receive<T: DeserializeOwned>(socket: RawFd, buffer: &mut [u8]) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut descriptors = Vec::new();
    let (length, truncated) = {
        let mut slices = [IoSliceMut::new(buffer)];
        let received = recvmsg::<UnixAddr>(socket, &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = message {
                // SAFETY: the kernel has just made these descriptors for us, and nobody else owns them.
                descriptors.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        (received.bytes, received.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC))
    };
    if length == 0 {
        return Ok(None);
    }
    if truncated {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message or its descriptors were cut off"));
    }
    Ok(Some((serde_json::from_slice(&buffer[..length])?, descriptors)))
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::socketpair;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn message_arrives_with_its_descriptors() {
        let (a, b) = pair();
        let (read, write) = nix::unistd::pipe().unwrap();
        let request = Request { id: 7, body: RequestBody::KillExec { exec: 3 } };
        send(a.as_raw_fd(), &request, &[write.as_raw_fd()]).unwrap();
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let (received, descriptors) = receive::<Request>(b.as_raw_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!(received.id, 7);
        nix::unistd::write(&descriptors[0], b"x").unwrap();
        let mut byte = [0];
        nix::unistd::read(read.as_raw_fd(), &mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn message_over_the_limit_is_refused() {
        let (a, _b) = pair();
        let error = send(a.as_raw_fd(), &"x".repeat(MESSAGE_BYTES_MAX), &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn closed_peer_ends_the_stream() {
        let (a, b) = pair();
        drop(a);
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        assert!(receive::<Request>(b.as_raw_fd(), &mut buffer).unwrap().is_none());
    }
}
