//! Commands in containers, attaching to containers, connections into sandboxes.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use nix::{fcntl::OFlag, unistd::pipe2};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, unix::AsyncFd},
    net::{TcpStream, unix::pipe},
};

use super::{Runtime, client::ShimClient, containers::word};
use crate::{
    EXEC_OUTPUT_BYTES_MAX,
    api::{AttachRequest, ContainerId, ContainerState, ExecOutput, ExecRequest, SandboxId},
    error::RuntimeError,
    session::Session,
    wire::{Answer, Failure, RequestBody, set_nonblocking},
};

/// How long a connection into a sandbox may take; both ends are on this machine.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long output is collected after a command has ended: a child it left behind may hold the pipe for ever.
const OUTPUT_LINGER: Duration = Duration::from_millis(200);
/// Buffer of an attached client's pipe: how far it may fall behind before it is let go.
const ATTACH_PIPE_BYTES: i32 = 1024 * 1024;

/// A started command.
struct Started {
    pid: i32,
    session: Session,
    shim: Arc<ShimClient>,
}

impl Runtime {
    /// Runs a command in a running container.
    pub async fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<Session, RuntimeError> {
        self.start_exec(id, request).await.map(|started| started.session)
    }

    async fn start_exec(&self, id: &ContainerId, request: ExecRequest) -> Result<Started, RuntimeError> {
        let shim = self.shim_of_running(id, "run a command in it")?;
        let body =
            RequestBody::Exec { container: id.0.clone(), command: request.command, env: request.env, tty: request.tty };
        if request.tty {
            let answered = shim.call(body, &[]).await?.map_err(exec_error)?;
            let master = answered.descriptors.into_iter().next();
            let master = master.ok_or_else(|| RuntimeError::Shim("the shim sent no terminal".to_owned()))?;
            let exit = answered.exit.ok_or_else(|| RuntimeError::Shim("the shim started nothing".to_owned()))?;
            let resizable = master.try_clone().map_err(RuntimeError::system("copy the terminal"))?;
            let mut session = Session::new(Some(resizable), exit);
            if request.stdin {
                let input = master.try_clone().map_err(RuntimeError::system("copy the terminal"))?;
                session.stdin = Some(Box::new(Terminal::new(input)?));
            }
            session.stdout = Some(Box::new(Terminal::new(master)?));
            return Ok(Started { pid: pid_of(&answered.answer), session, shim });
        }
        let (stdout, stdout_write) = output_pipe()?;
        let (stderr, stderr_write) = output_pipe()?;
        let mut descriptors: Vec<OwnedFd> = Vec::with_capacity(3);
        let mut stdin = None;
        if request.stdin {
            let (read, write) = new_pipe()?;
            descriptors.push(read);
            stdin = Some(pipe::Sender::from_owned_fd(write).map_err(RuntimeError::system("use a pipe"))?);
        }
        descriptors.extend([stdout_write, stderr_write]);
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let answered = shim.call(body, &raw).await?.map_err(exec_error)?;
        drop(descriptors);
        let exit = answered.exit.ok_or_else(|| RuntimeError::Shim("the shim started nothing".to_owned()))?;
        let mut session = Session::new(None, exit);
        session.stdin = stdin.map(|sender| Box::new(sender) as _);
        session.stdout = Some(Box::new(stdout));
        session.stderr = Some(Box::new(stderr));
        Ok(Started { pid: pid_of(&answered.answer), session, shim })
    }

    /// Joins the streams of a running container's first process.
    pub async fn attach(&self, id: &ContainerId, request: AttachRequest) -> Result<Session, RuntimeError> {
        let shim = self.shim_of_running(id, "attach to it")?;
        let (tty, exit) =
            self.with_container(id, |container| (container.record.status.config.tty, container.exit.subscribe()))?;
        // A terminal has one output.
        let wanted = [request.stdout, request.stderr && !tty];
        let mut readers = [None, None];
        let mut writers = Vec::with_capacity(2);
        for (reader, _) in readers.iter_mut().zip(wanted).filter(|(_, wanted)| *wanted) {
            let (read, write) = output_pipe()?;
            // SAFETY: resizes the buffer of an open pipe; a refusal leaves the default size.
            unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, ATTACH_PIPE_BYTES) };
            *reader = Some(read);
            writers.push(write);
        }
        let body =
            RequestBody::Attach { container: id.0.clone(), stdin: request.stdin, stdout: wanted[0], stderr: wanted[1] };
        let raw: Vec<RawFd> = writers.iter().map(AsRawFd::as_raw_fd).collect();
        let answered = shim
            .call(body, &raw)
            .await?
            .map_err(|failure| RuntimeError::Shim(format!("attach to container {id}: {}", failure.message)))?;
        drop(writers);
        let input = answered.descriptors.into_iter().next();
        let resizable = match (&input, tty) {
            (Some(terminal), true) => Some(terminal.try_clone().map_err(RuntimeError::system("copy the terminal"))?),
            _ => None,
        };
        let mut session = Session::new(resizable, exit);
        session.stdin = match input.filter(|_| request.stdin) {
            Some(terminal) if tty => Some(Box::new(Terminal::new(terminal)?)),
            Some(end) => Some(Box::new(pipe::Sender::from_owned_fd(end).map_err(RuntimeError::system("use a pipe"))?)),
            None => None,
        };
        let [stdout, stderr] = readers;
        session.stdout = stdout.map(|reader| Box::new(reader) as _);
        session.stderr = stderr.map(|reader| Box::new(reader) as _);
        Ok(session)
    }

    /// Runs a command in a running container to its end; kills it after `timeout`.
    pub async fn exec_sync(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let started = self.start_exec(id, ExecRequest { command, ..ExecRequest::default() });
        let deadline = tokio::time::Instant::now() + timeout;
        let mut started =
            tokio::time::timeout_at(deadline, started).await.map_err(|_| RuntimeError::ExecTimeout(timeout))??;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let streams = (started.session.stdout.take(), started.session.stderr.take());
        let collect =
            async { tokio::join!(read_bounded(streams.0, &mut stdout), read_bounded(streams.1, &mut stderr)) };
        let both = async {
            tokio::pin!(collect);
            tokio::select! {
                _ = &mut collect => started.session.wait().await,
                exit_code = started.session.wait() => {
                    // What the command itself has written is in the pipes already.
                    let _ = tokio::time::timeout(OUTPUT_LINGER, &mut collect).await;
                    exit_code
                }
            }
        };
        match tokio::time::timeout_at(deadline, both).await {
            Ok(exit_code) => Ok(ExecOutput { exit_code: exit_code?, stdout, stderr }),
            Err(_) => {
                let killed = started.shim.call(RequestBody::KillExec { exec: started.pid }, &[]).await;
                if let Err(error) = killed {
                    tracing::debug!(container = %id, %error, "kill a command that ran too long");
                }
                Err(RuntimeError::ExecTimeout(timeout))
            }
        }
    }

    fn shim_of_running(&self, id: &ContainerId, operation: &'static str) -> Result<Arc<ShimClient>, RuntimeError> {
        let status = self.with_container(id, |container| container.record.status.clone())?;
        if !matches!(status.state, ContainerState::Running { .. }) {
            return Err(RuntimeError::State { id: id.clone(), state: word(&status.state), operation });
        }
        self.shim(&status.sandbox)
    }

    /// Connects to 127.0.0.1 (or `[::1]`) at `port` inside the sandbox's network namespace.
    pub async fn dial(&self, id: &SandboxId, port: u16) -> Result<TcpStream, RuntimeError> {
        let status = self.sandbox(id).ok_or_else(|| RuntimeError::SandboxNotFound(id.clone()))?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // A thread of its own: entering a namespace cannot be undone reliably on a thread that serves others.
        std::thread::Builder::new()
            .name("dial".to_owned())
            .spawn(move || {
                let outcome = status.netns.map_or(Ok(()), |path| {
                    let namespace = File::open(path)?;
                    Ok(nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?)
                });
                // The caller may have given up.
                let _ = sender.send(outcome.and_then(|()| dial_here(port)));
            })
            .map_err(RuntimeError::system("start a thread"))?;
        let stream = receiver.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
        let connect = |error: io::Error| io::Error::new(error.kind(), format!("connect to port {port}: {error}"));
        stream.and_then(TcpStream::from_std).map_err(connect).map_err(RuntimeError::system("dial sandbox"))
    }
}

fn dial_here(port: u16) -> io::Result<std::net::TcpStream> {
    let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
    let [first, second] = addresses.map(|address| move || std::net::TcpStream::connect_timeout(&address, DIAL_TIMEOUT));
    // The first error is the one to tell: most programs listen on IPv4.
    let stream = first().or_else(|error| second().map_err(|_| error))?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn pid_of(answer: &Answer) -> i32 {
    match answer {
        Answer::Process { pid } => *pid,
        Answer::Done => 0,
    }
}

fn exec_error(failure: Failure) -> RuntimeError {
    RuntimeError::Exec {
        message: format!(
            "OCI runtime exec failed: exec failed: unable to start container process: {}: unknown",
            failure.message
        ),
        exit_code: failure.exit_code(),
    }
}

fn new_pipe() -> Result<(OwnedFd, OwnedFd), RuntimeError> {
    pipe2(OFlag::O_CLOEXEC).map_err(|errno| RuntimeError::system("make a pipe")(errno.into()))
}

fn output_pipe() -> Result<(pipe::Receiver, OwnedFd), RuntimeError> {
    let (read, write) = new_pipe()?;
    Ok((pipe::Receiver::from_owned_fd(read).map_err(RuntimeError::system("use a pipe"))?, write))
}

/// Reads to the end, keeps the beginning.
async fn read_bounded(stream: Option<crate::session::SessionOutput>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = EXEC_OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
}

/// The master side of a terminal.
struct Terminal {
    fd: AsyncFd<OwnedFd>,
}

impl Terminal {
    fn new(master: OwnedFd) -> Result<Self, RuntimeError> {
        set_nonblocking(master.as_raw_fd()).map_err(RuntimeError::system("use the terminal"))?;
        // SAFETY: the descriptor is owned, so it stays open and the same for as long as it is registered.
        let fd = unsafe { AsyncFd::register(master) };
        Ok(Self { fd: fd.map_err(io::Error::from).map_err(RuntimeError::system("use the terminal"))? })
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let read = guard
                .try_io(|fd| nix::unistd::read(fd.as_raw_fd(), buffer.initialize_unfilled()).map_err(io::Error::from));
            match read {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // What a terminal says when its last user has gone: the end.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            if let Ok(written) = guard.try_io(|fd| nix::unistd::write(fd, bytes).map_err(io::Error::from)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
