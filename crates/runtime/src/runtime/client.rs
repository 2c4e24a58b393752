//! Keelson's end of the conversation with one shim.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{oneshot, watch},
};

use crate::{
    api::{ContainerState, SandboxId},
    error::RuntimeError,
    wire::{self, Answer, Failure, MESSAGE_BYTES_MAX, Message, Request, RequestBody},
};

/// How long a shim may take for anything: starting a container on a busy machine is the slowest.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

type Reply = (Result<Answer, Failure>, Vec<OwnedFd>, Option<watch::Receiver<Option<i32>>>);

struct Pending {
    reply: oneshot::Sender<Reply>,
    /// Whether the answer names a command whose end will be told.
    exec: bool,
}

/// A connection to a shim.
pub(super) struct ShimClient {
    sandbox: SandboxId,
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    pending: Mutex<HashMap<u64, Pending>>,
    execs: Mutex<HashMap<i32, watch::Sender<Option<i32>>>>,
    /// Set when the other end is gone, so that a late request does not wait for nobody.
    closed: Mutex<bool>,
}

/// What an answer brings.
pub(super) struct Answered {
    pub(super) answer: Answer,
    pub(super) descriptors: Vec<OwnedFd>,
    /// Of a command: its exit code, once it has ended.
    pub(super) exit: Option<watch::Receiver<Option<i32>>>,
}

impl ShimClient {
    /// Connects to the shim of a sandbox.
    pub(super) fn connect(sandbox: &SandboxId, path: &Path) -> io::Result<Self> {
        Ok(Self {
            sandbox: sandbox.clone(),
            // SAFETY: the descriptor is owned, so it stays open and the same for as long as it is registered.
            socket: unsafe { AsyncFd::register(wire::connect_to(path)?) }?,
            next: AtomicU64::new(1),
            pending: Mutex::default(),
            execs: Mutex::default(),
            closed: Mutex::new(false),
        })
    }

    /// Asks and waits for the answer. The shim's refusal is the inner error.
    pub(super) async fn call(
        &self,
        body: RequestBody,
        descriptors: &[RawFd],
    ) -> Result<Result<Answered, Failure>, RuntimeError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let what = name(&body);
        let exec = matches!(body, RequestBody::Exec { .. });
        let (sender, receiver) = oneshot::channel();
        {
            let closed = self.closed.lock();
            if *closed {
                return Err(RuntimeError::ShimGone(self.sandbox.clone()));
            }
            self.pending.lock().insert(id, Pending { reply: sender, exec });
        }
        let request = Request { id, body };
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, |socket| wire::send(socket.as_raw_fd(), &request, descriptors))
            .await;
        if let Err(error) = sent {
            self.pending.lock().remove(&id);
            return Err(match error.kind() {
                io::ErrorKind::InvalidInput => RuntimeError::Shim(error.to_string()),
                _ => RuntimeError::ShimGone(self.sandbox.clone()),
            });
        }
        match tokio::time::timeout(REQUEST_TIMEOUT, receiver).await {
            Ok(Ok((Ok(answer), descriptors, exit))) => Ok(Ok(Answered { answer, descriptors, exit })),
            Ok(Ok((Err(failure), ..))) => Ok(Err(failure)),
            Ok(Err(_)) => Err(RuntimeError::ShimGone(self.sandbox.clone())),
            Err(_) => {
                self.pending.lock().remove(&id);
                Err(RuntimeError::ShimTimeout(what))
            }
        }
    }

    /// Hears the shim until it is gone; `changed` is told every container state.
    pub(super) async fn run(&self, mut changed: impl FnMut(String, ContainerState)) {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, |socket| wire::receive::<Message>(socket.as_raw_fd(), &mut buffer))
                .await;
            match received {
                Ok(Some((Message::Reply { id, result }, descriptors))) => self.replied(id, result, descriptors),
                Ok(Some((Message::State { container, state }, _))) => changed(container, state),
                Ok(Some((Message::ExecExited { exec, exit_code }, _))) => {
                    if let Some(exit) = self.execs.lock().remove(&exec) {
                        exit.send_replace(Some(exit_code));
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(sandbox = %self.sandbox, %error, "lost the connection to the shim");
                    break;
                }
            }
        }
        *self.closed.lock() = true;
        self.pending.lock().clear();
        self.execs.lock().clear();
    }

    fn replied(&self, id: u64, result: Result<Answer, Failure>, descriptors: Vec<OwnedFd>) {
        let Some(pending) = self.pending.lock().remove(&id) else { return };
        let exit = match &result {
            Ok(Answer::Process { pid }) if pending.exec => {
                let (sender, receiver) = watch::channel(None);
                self.execs.lock().insert(*pid, sender);
                Some(receiver)
            }
            _ => None,
        };
        // The caller may have given up; then descriptors and watch are dropped, which hangs up.
        let _ = pending.reply.send((result, descriptors, exit));
    }
}

fn name(body: &RequestBody) -> &'static str {
    match body {
        RequestBody::Start { .. } => "a start",
        RequestBody::Signal { .. } => "a signal",
        RequestBody::Exec { .. } => "an exec",
        RequestBody::KillExec { .. } => "the kill of an exec",
        RequestBody::Attach { .. } => "an attach",
        RequestBody::ReopenLog { .. } => "the reopening of a log",
        RequestBody::Forget { .. } => "the removal of a container",
        RequestBody::Shutdown => "a shutdown",
    }
}
