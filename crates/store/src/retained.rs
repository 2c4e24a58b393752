//! Past snapshots, kept for lists that go on where they stopped.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{Revision, Snapshot};

/// Snapshots that continued lists still need.
#[derive(Debug)]
pub(crate) struct Retained {
    limit: usize,
    age: Duration,
    /// Least recently used first.
    snapshots: Vec<(Instant, Arc<Snapshot>)>,
}

impl Retained {
    pub(crate) fn new(limit: usize, age: Duration) -> Self {
        Retained { limit, age, snapshots: Vec::new() }
    }

    pub(crate) fn keep(&mut self, now: Instant, snapshot: Arc<Snapshot>) {
        self.snapshots.retain(|(_, s)| s.revision() != snapshot.revision());
        if self.snapshots.len() >= self.limit {
            self.snapshots.remove(0);
        }
        self.snapshots.push((now, snapshot));
    }

    /// The snapshot of exactly this revision; using it makes it young again.
    pub(crate) fn find(&mut self, now: Instant, revision: Revision) -> Option<Arc<Snapshot>> {
        self.prune(now);
        let at = self.snapshots.iter().position(|(_, s)| s.revision() == revision)?;
        let (_, snapshot) = self.snapshots.remove(at);
        self.snapshots.push((now, Arc::clone(&snapshot)));
        Some(snapshot)
    }

    pub(crate) fn prune(&mut self, now: Instant) {
        let age = self.age;
        self.snapshots.retain(|(used, _)| now.saturating_duration_since(*used) <= age);
    }
}
