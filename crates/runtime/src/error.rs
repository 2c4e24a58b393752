//! The errors of the runtime's operations.

use std::{io, path::PathBuf};

use crate::api::{ContainerId, SandboxId};

/// Why an operation on a sandbox or container failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such sandbox.
    #[error("sandbox {0} does not exist")]
    SandboxNotFound(SandboxId),
    /// No such container.
    #[error("container {0} does not exist")]
    ContainerNotFound(ContainerId),
    /// No image with this id is on the node.
    #[error("image {0:?} is not present")]
    ImageNotPresent(String),
    /// The sandbox's shim is gone, so nothing can be done in it.
    #[error("sandbox {0} is not ready: its shim is gone")]
    ShimGone(SandboxId),
    /// The container is not in a state that allows the operation.
    #[error("container {id} is {state}, cannot {operation}")]
    State {
        /// The container.
        id: ContainerId,
        /// Its state in one word.
        state: &'static str,
        /// What was asked for.
        operation: &'static str,
    },
    /// The container must not run as root, and its user is root or unknown.
    #[error("{0}")]
    RunAsNonRoot(String),
    /// The container could not be made or started; the text is what a user reads.
    #[error("{message}")]
    Start {
        /// One line, in containerd's words.
        message: String,
        /// 127 when the program does not exist, 126 when it cannot be executed, else 128.
        exit_code: i32,
    },
    /// A command could not be run in the container; the text is what a user reads.
    #[error("{message}")]
    Exec {
        /// One line, in containerd's words.
        message: String,
        /// 127 when the program does not exist, 126 when it cannot be executed, else 128.
        exit_code: i32,
    },
    /// A command ran longer than it was allowed to.
    #[error("command timed out after {0:?}")]
    ExecTimeout(std::time::Duration),
    /// The shim did not answer in time.
    #[error("shim did not answer {0} in time")]
    ShimTimeout(&'static str),
    /// The shim could not be started.
    #[error("start shim: {0}")]
    ShimStart(String),
    /// The shim refused a request.
    #[error("{0}")]
    Shim(String),
    /// A value in a configuration makes no sense.
    #[error("invalid {what}: {value:?}")]
    Invalid {
        /// What the value is.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// An operation on a file failed.
    #[error("{action} {path}: {source}", path = .path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// An operation of the kernel failed.
    #[error("{action}: {source}")]
    System {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl RuntimeError {
    /// Wraps an error of `action` on the file `path`.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// Wraps an error of `action`.
    pub(crate) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }
}

/// What kind of failure a pull met; decides what a user is told and whether trying again helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullErrorKind {
    /// The reference is not one.
    InvalidReference,
    /// The registry has no such image.
    NotFound,
    /// The registry refused the credentials, or wants some.
    Unauthorized,
    /// The registry could not be reached, or broke off.
    Network,
    /// The registry asked to slow down or failed itself.
    Unavailable,
    /// What came is not a valid image, or not what its digest promised.
    Invalid,
    /// The image exists, but not for this machine.
    Platform,
    /// The node could not store it.
    Storage,
}

/// Why an image could not be pulled.
#[derive(Clone, Debug, thiserror::Error)]
#[error("failed to pull and unpack image \"{reference}\": {message}")]
pub struct PullError {
    /// What kind of failure.
    pub kind: PullErrorKind,
    /// The canonical reference, or what was given when it is not one.
    pub reference: String,
    /// Why.
    pub message: String,
}
