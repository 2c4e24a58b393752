//! Handing out addresses and ports when several servers do it from one store.
//!
//! Each has its own bitmap, and none sees at once what another takes. So one object of the store counts the allocations:
//! every write of a Service insists on its revision and writes it in the same transaction. Who finds it changed reads the
//! Services anew and chooses again. A store of our own needs none of this.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use store::{Encoded, Key, Mutation, Precondition, Revision, Snapshot, Write};
use tokio::sync::{Mutex, MutexGuard};

/// Where the object lies. It is no resource of the API.
const COLLECTION: &str = "core/serviceallocations";
const PATH: &str = "all";
/// Its beginning, up to the gap of its revision; what it is worth is its revision alone.
const FRONT: &str = "{\"metadata\":{\"resourceVersion\":\"";

/// Whose turn it is, and what the bitmaps show.
#[derive(Debug, Default)]
pub(crate) struct AllocationTurns {
    turn: Mutex<()>,
    /// Revision of the object up to which the bitmaps know what is taken; zero before the first look.
    known: AtomicU64,
    /// Whether the last write of a turn met a change by somebody else.
    raced: AtomicBool,
}

/// The right to write Services; one write of this server at a time has it.
pub(crate) struct AllocationTurn<'a> {
    turns: &'a AllocationTurns,
    _turn: MutexGuard<'a, ()>,
}

impl AllocationTurns {
    pub(crate) async fn take(&self) -> AllocationTurn<'_> {
        AllocationTurn { turns: self, _turn: self.turn.lock().await }
    }

    /// What a write of a Service adds to its transaction.
    pub(crate) fn write(&self) -> Write {
        let precondition = match self.known.load(Ordering::Acquire) {
            0 => Precondition::Absent,
            known => Precondition::Revision(Revision(known)),
        };
        let bytes = [FRONT, "\"}}"].concat().into_bytes();
        let mutation = Mutation::Put(Encoded { bytes, revision_at: Some(FRONT.len()) });
        Write { key: key(), precondition, mutation }
    }

    /// The transaction happened at this revision.
    pub(crate) fn written(&self, revision: Revision) {
        self.known.store(revision.0, Ordering::Release);
    }

    /// The transaction did not happen because something it rests on has changed: an allocation by another server, or a
    /// quota.
    pub(crate) fn lost(&self) {
        self.raced.store(true, Ordering::Release);
    }
}

impl AllocationTurn<'_> {
    /// Begins an attempt: whether the bitmaps have to be made anew from the Services of this state.
    pub(crate) fn is_outdated(&self, snapshot: &Snapshot) -> bool {
        self.turns.raced.store(false, Ordering::Release);
        let current = snapshot.get(COLLECTION, PATH).map_or(0, |object| object.revision.0);
        self.turns.known.swap(current, Ordering::AcqRel) != current || current == 0
    }

    /// Whether the attempt met a change by somebody else.
    pub(crate) fn was_raced(&self) -> bool {
        self.turns.raced.load(Ordering::Acquire)
    }
}

fn key() -> Key {
    Key { collection: Arc::from(COLLECTION), path: Arc::from(PATH) }
}
