//! The revisioned object store: what was answered with success survives `kill -9` and power loss.
//!
//! It keeps every live object in memory as an immutable, persistent, ordered snapshot; a group-committed, fsynced log
//! with periodic snapshots on disk is for durability only. It knows bytes, keys and revisions: no JSON, no Kubernetes
//! rules (those are `apiserver`'s).
//!
//! It has two back ends: a log in a directory of its own, and an external etcd (`etcd`), which several servers may share.
//!
//! With the log, one committer thread batches all waiting transactions, checks their preconditions against the head, assigns
//! revisions, writes the batch to the log, syncs once, publishes the new snapshot, wakes watchers, and only then
//! answers. While one batch is on its way to the disk the next one fills. Readers never wait for writers.
//!
//! [`Store`] is the handle, [`Snapshot`] the state at one revision, [`Watch`] a cursor over changes.
//!
//! Invariants: a revision is given once and only grows; a snapshot, once published, never changes; an answer is sent
//! only after what it says is synced; what a watch has delivered is found by any later read; the log holds every
//! transaction after the newest checkpoint.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

mod at_rest;
pub mod backup;
mod checkpoint;
mod committer;
mod disk;
mod error;
mod etcd;
mod foreign;
mod frame;
mod index;
mod log;
mod record;
mod recovery;
mod retained;
mod rewind;
mod snapshot;
mod store;
mod tree;
mod watch;

pub use at_rest::{AtRest, AtRestError};
pub use backup::{BackupContent, RestoreError};
pub use error::{CommitError, OpenError, Unreachable, WatchError};
pub use etcd::{Endpoint, Endpoints, EtcdConfig, Tenure, registry_key};
pub use foreign::{Foreign, ForeignError};
pub use index::{Index, WithValue};
pub use snapshot::{Range, Snapshot};
pub use store::{Change, Changes, Health, Options, Store};
pub use watch::Watch;

/// A store-wide, strictly increasing number given to each committed transaction. `0` is "before everything".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an object lives: a collection (`core/pods`) and a path in it (`default/web-1`, or `node-a` when the resource
/// has no namespaces). Order within a collection is the byte order of the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Group and resource, for example `core/pods`.
    pub collection: Arc<str>,
    /// `namespace/name` or `name`.
    pub path: Arc<str>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.collection, self.path)
    }
}

/// A serialised object with a gap: the committer inserts its decimal revision at `revision_at`, so an object is
/// serialised once although it carries the revision that only the commit decides.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The bytes without the revision.
    pub bytes: Vec<u8>,
    /// Offset at which the digits are inserted; `None` stores the bytes as they are.
    pub revision_at: Option<usize>,
}

/// What stands around an object in the wire form of its event. Known at the commit, it makes object and event one piece of
/// memory, so that events cost watchers no copy and the window no second one.
#[derive(Clone, Copy, Debug)]
pub struct Frames {
    /// In front of an object that is new.
    pub created: &'static [u8],
    /// In front of an object that was there before.
    pub changed: &'static [u8],
    /// In front of the last state of an object.
    pub deleted: &'static [u8],
    /// Behind each of them.
    pub end: &'static [u8],
}

/// A committed object.
#[derive(Clone, Debug)]
pub struct Object {
    /// The revision of the object's last change.
    pub revision: Revision,
    /// The bytes as stored, the revision's digits in place.
    pub bytes: Bytes,
}

/// A transaction that is durable and visible.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The transaction's revision.
    pub revision: Revision,
    /// Its objects, in the order of its writes; for a deletion the last state.
    pub objects: Vec<Object>,
}

/// What must hold at the head for a write to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// No object lives at the key.
    Absent,
    /// The object lives and its last change is this revision.
    Revision(Revision),
}

/// One change of a transaction.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// Writes the object.
    Put(Encoded),
    /// Removes the object; watchers get these bytes as its last state.
    Delete(Encoded),
}

/// A change and its condition.
#[derive(Clone, Debug)]
pub struct Write {
    /// Which object.
    pub key: Key,
    /// When it may happen.
    pub precondition: Precondition,
    /// What happens.
    pub mutation: Mutation,
}

/// What a watcher is told about one change.
#[derive(Debug)]
pub struct Event {
    /// Which object.
    pub key: Key,
    /// The new state; for a deletion the last state, carrying the deletion's revision.
    pub object: Object,
    /// The state before, `None` for a creation.
    pub previous: Option<Object>,
    /// Whether the object is gone.
    pub deleted: bool,
    /// Wire form for watchers, filled by the first that needs it, so that one event is encoded once for all.
    pub frame: OnceLock<Bytes>,
}

impl Event {
    pub(crate) fn new(key: Key, object: Object, previous: Option<Object>, deleted: bool) -> Self {
        Event { key, object, previous, deleted, frame: OnceLock::new() }
    }
}
