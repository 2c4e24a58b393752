//! What can go wrong with a store.

use std::{fmt, io, path::PathBuf, sync::Arc};

use crate::{AtRestError, Key, Object, Precondition, Revision};

/// Why a data directory cannot be opened. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory open.
    #[error("data directory {} is in use by another process{}", path.display(), Pid(*pid))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process, when it could be told.
        pid: Option<u32>,
    },
    /// A newer build wrote the directory.
    #[error("{} has format version {found}, and this build reads up to {supported}", path.display())]
    NewerVersion {
        /// The version found.
        found: u32,
        /// The newest version this build reads.
        supported: u32,
        /// The file it was found in.
        path: PathBuf,
    },
    /// A file that was once synced can no longer be read.
    #[error("{} is damaged at offset {offset}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was found there.
        reason: String,
    },
    /// An object is sealed, and cannot be opened.
    #[error("cannot open the sealed object {key} in {}", path.display())]
    Sealed {
        /// The file it lies in.
        path: PathBuf,
        /// The object.
        key: Box<Key>,
        /// What is missing.
        source: AtRestError,
    },
    /// etcd cannot be reached.
    #[error("cannot use etcd at {endpoints}: {reason}")]
    Etcd {
        /// Its servers.
        endpoints: String,
        /// What the last one said.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError::Io { action, path: path.to_owned(), source }
    }
}

struct Pid(Option<u32>);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
    }
}

/// Why a transaction was not committed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A precondition does not hold; nothing of the transaction was applied.
    #[error("{key}: expected {expected}, found {}", Found(found))]
    Precondition {
        /// The object.
        key: Key,
        /// What the writer expected.
        expected: Precondition,
        /// What lives there, `None` when nothing does.
        found: Option<Object>,
    },
    /// The transaction can never be committed in this form.
    #[error("invalid transaction: {0}")]
    Invalid(String),
    /// An object must be sealed before it is kept, and cannot. Nothing was applied.
    #[error("cannot seal {key}: {source}")]
    Seal {
        /// The object.
        key: Box<Key>,
        /// Why not.
        source: AtRestError,
    },
    /// The log could not be written. Nothing was applied, and later writes may succeed again.
    #[error("cannot write the log: {0}")]
    Log(Arc<io::Error>),
    /// An earlier sync failed, so that what the disk holds is unknown; only a restart helps.
    #[error("writes are refused since the log could not be synced: {0}")]
    Refused(Arc<io::Error>),
    /// There is no room for it. Nothing was applied, and later writes may succeed again.
    #[error("there is no room to store it: {0}")]
    Full(String),
    /// etcd cannot be reached. Nothing was applied.
    #[error("etcd cannot be reached: {0}")]
    Unavailable(String),
    /// There was no answer in time: it may have been applied, and may even still be.
    #[error("etcdserver: request timed out: {0}")]
    Unknown(String),
    /// It rested on a tenure that another server has taken over. Nothing was applied.
    #[error("another server leads now")]
    Deposed,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// etcd does not answer, so that nobody knows what other servers acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
#[error("etcd cannot be reached: {0}")]
pub struct Unreachable(pub String);

struct Found<'a>(&'a Option<Object>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(object) => write!(f, "revision {}", object.revision),
            None => f.write_str("nothing"),
        }
    }
}

impl fmt::Display for Precondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Precondition::Absent => f.write_str("nothing"),
            Precondition::Revision(revision) => write!(f, "revision {revision}"),
        }
    }
}

/// Why a watch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// What the watcher has not seen yet is no longer in the window; it must list again.
    #[error("events up to revision {oldest} are no longer available")]
    Compacted {
        /// The oldest revision from which a watch could start.
        oldest: Revision,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}
