//! One container as its shim sees it: its streams, its log, who reads along.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

use super::{
    launch::Stdio,
    log::{Log, Stream},
};
use crate::{
    api::ContainerState,
    wire::{self, Failure},
};

/// How much is read from a stream at once.
const READ_BYTES: usize = 16 * 1024;
/// Rounds of reading one stream after its container's end: what a pipe holds at most.
const DRAIN_ROUNDS_MAX: usize = 128;
/// Attached clients of one container.
const ATTACHED_MAX: usize = 16;

/// Somebody who reads along; `None` for a stream it does not want.
struct Client {
    streams: [Option<OwnedFd>; 2],
}

/// One container.
pub(super) struct Container {
    pub(super) directory: PathBuf,
    pub(super) cgroup: String,
    pub(super) pid: Option<i32>,
    pub(super) state: ContainerState,
    pub(super) streams: [Option<OwnedFd>; 2],
    stdin: Option<OwnedFd>,
    stdin_once: bool,
    tty: bool,
    log: Option<Log>,
    clients: Vec<Client>,
    /// How the first process ended, if that was seen before it was known to have started.
    pub(super) early_exit: Option<i32>,
}

impl Container {
    /// A container about to be started.
    pub(super) fn new(directory: PathBuf, cgroup: String, stdin_once: bool, tty: bool, log: Log) -> Self {
        Self {
            directory,
            cgroup,
            pid: None,
            state: ContainerState::Created,
            streams: [None, None],
            stdin: None,
            stdin_once,
            tty,
            log: Some(log),
            clients: Vec::new(),
            early_exit: None,
        }
    }

    /// Opens the log file anew.
    pub(super) fn reopen_log(&mut self) -> io::Result<()> {
        self.log.as_mut().map_or(Ok(()), Log::reopen)
    }

    /// Makes the pipes; keeps this side's ends and returns the container's.
    pub(super) fn pipes(&mut self, stdin: bool) -> io::Result<Stdio> {
        let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(io::Error::from);
        let output = || -> io::Result<(OwnedFd, OwnedFd)> {
            let (read, write) = pipe()?;
            wire::set_nonblocking(read.as_raw_fd())?;
            Ok((read, write))
        };
        let (stdout_read, stdout) = output()?;
        let (stderr_read, stderr) = output()?;
        self.streams = [Some(stdout_read), Some(stderr_read)];
        let stdin = if stdin {
            let (read, write) = pipe()?;
            self.stdin = Some(write);
            Some(read)
        } else {
            None
        };
        Ok(Stdio { stdin, stdout: Some(stdout), stderr: Some(stderr) })
    }

    pub(super) fn use_terminal(&mut self, master: OwnedFd) {
        self.stdin = master.try_clone().ok();
        if wire::set_nonblocking(master.as_raw_fd()).is_ok() {
            self.streams[0] = Some(master);
        }
    }

    /// Adds a client; returns the first process and the container's input if it is wanted.
    pub(super) fn attach(
        &mut self,
        wanted: [bool; 3],
        descriptors: Vec<OwnedFd>,
    ) -> Result<(i32, Option<OwnedFd>), Failure> {
        let ContainerState::Running { pid, .. } = self.state else {
            return Err(Failure::other("container is not running"));
        };
        if self.clients.len() == ATTACHED_MAX {
            return Err(Failure::other(format!("{ATTACHED_MAX} clients are attached already")));
        }
        let [stdin, stdout, stderr] = wanted;
        let mut descriptors = descriptors.into_iter();
        let streams = [stdout, stderr].map(|wanted| wanted.then(|| descriptors.next()).flatten());
        for fd in streams.iter().flatten() {
            wire::set_nonblocking(fd.as_raw_fd()).map_err(|error| Failure::other(error.to_string()))?;
        }
        self.clients.push(Client { streams });
        // A terminal's master also changes its size, so it is handed out even without input.
        let input = match (&self.stdin, stdin || self.tty) {
            (Some(_), true) if self.stdin_once && !self.tty => self.stdin.take(),
            (Some(fd), true) => fd.try_clone().ok(),
            _ => None,
        };
        Ok((pid, input))
    }

    /// Moves what a stream holds into the log and to the clients; returns whether there may be more.
    pub(super) fn pump(&mut self, number: usize) -> bool {
        let Some(fd) = &self.streams[number] else { return false };
        let mut buffer = [0; READ_BYTES];
        let length = match nix::unistd::read(fd.as_raw_fd(), &mut buffer) {
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return false,
            // A terminal whose last user has gone answers EIO.
            Ok(0) | Err(_) => {
                self.streams[number] = None;
                for client in &mut self.clients {
                    client.streams[number] = None;
                }
                return false;
            }
            Ok(length) => length,
        };
        let bytes = &buffer[..length];
        if let Some(log) = &mut self.log {
            let stream = if number == 0 { Stream::Stdout } else { Stream::Stderr };
            // Output that cannot be stored is lost; the container must not notice.
            let _ = log.write(stream, jiff::Timestamp::now(), bytes);
        }
        // A client that does not read as fast as the container prints is let go, it must not slow the container.
        self.clients.retain(|client| {
            client.streams[number].as_ref().is_none_or(|fd| nix::unistd::write(fd, bytes) == Ok(bytes.len()))
        });
        true
    }

    /// Takes what is left in the streams and ends them.
    pub(super) fn end_streams(&mut self) {
        for number in 0..self.streams.len() {
            for _ in 0..DRAIN_ROUNDS_MAX {
                if !self.pump(number) {
                    break;
                }
            }
        }
        if let Some(log) = &mut self.log {
            let _ = log.finish(jiff::Timestamp::now());
        }
        self.log = None;
        self.streams = [None, None];
        self.stdin = None;
        self.clients.clear();
    }
}
