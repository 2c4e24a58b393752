//! Past snapshots, kept for lists that go on where they stopped.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{Revision, Snapshot};

/// Bytes of superseded objects that a snapshot may hold for a list that pauses: as much as the windows of all collections.
const HELD_MAX: u64 = 16 << 20;

/// The same for a list that goes on: a large collection in the middle of a burst.
const HELD_IN_USE_MAX: u64 = 8 * HELD_MAX;

/// Between two pages of a list that goes on: clients ask for the next one at once.
const IN_USE: Duration = Duration::from_secs(15);

/// Snapshots that continued lists still need.
#[derive(Debug)]
pub(crate) struct Retained {
    limit: usize,
    age: Duration,
    /// Least recently used first.
    snapshots: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    since: Instant,
    used: Instant,
    snapshot: Arc<Snapshot>,
}

impl Kept {
    /// Whether it may stay when `superseded` bytes of objects have been superseded since the store was opened.
    fn is_worth(&self, now: Instant, superseded: u64) -> bool {
        let held = superseded.saturating_sub(self.snapshot.superseded());
        let in_use = now.saturating_duration_since(self.used) <= IN_USE;
        held <= if in_use { HELD_IN_USE_MAX } else { HELD_MAX }
    }
}

impl Retained {
    pub(crate) fn new(limit: usize, age: Duration) -> Self {
        Retained { limit, age, snapshots: Vec::new() }
    }

    pub(crate) fn keep(&mut self, now: Instant, snapshot: Arc<Snapshot>) {
        if let Some(known) = self.snapshots.iter_mut().find(|kept| kept.snapshot.revision() == snapshot.revision()) {
            known.used = now;
            return;
        }
        if self.snapshots.len() >= self.limit {
            self.snapshots.remove(0);
        }
        self.snapshots.push(Kept { since: now, used: now, snapshot });
    }

    /// The snapshot of exactly this revision. Being used keeps it from being pushed out, not from ageing: a client that
    /// asks again and again must not hold a past state for ever.
    pub(crate) fn find(&mut self, now: Instant, revision: Revision) -> Option<Arc<Snapshot>> {
        self.prune(now, 0);
        let at = self.snapshots.iter().position(|kept| kept.snapshot.revision() == revision)?;
        let kept = self.snapshots.remove(at);
        let snapshot = Arc::clone(&kept.snapshot);
        self.snapshots.push(Kept { used: now, ..kept });
        Some(snapshot)
    }

    /// Drops what is too old, and what holds too much of what has been superseded since.
    pub(crate) fn prune(&mut self, now: Instant, superseded: u64) {
        let age = self.age;
        let is_young = |kept: &Kept| now.saturating_duration_since(kept.since) <= age;
        self.snapshots.retain(|kept| is_young(kept) && kept.is_worth(now, superseded));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_ages_however_often_it_is_used() {
        let start = Instant::now();
        let mut retained = Retained::new(2, Duration::from_secs(10));
        retained.keep(start, Arc::new(Snapshot::at(Revision(1))));
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(retained.find(after(9), Revision(1)).is_some());
        retained.keep(after(9), Arc::new(Snapshot::at(Revision(1))));
        assert!(retained.find(after(11), Revision(1)).is_none());
    }

    #[test]
    fn a_list_that_pauses_holds_no_more_than_a_bound_of_what_is_superseded() {
        let start = Instant::now();
        let mut retained = Retained::new(8, Duration::from_secs(300));
        retained.keep(start, Arc::new(Snapshot::at(Revision(1))));
        let later = start + IN_USE + Duration::from_secs(1);
        retained.prune(start, HELD_MAX + 1);
        assert!(retained.find(later, Revision(1)).is_some(), "it has just begun");
        retained.prune(later, HELD_MAX + 1);
        assert!(retained.find(later, Revision(1)).is_some(), "it goes on");
        retained.prune(later, HELD_IN_USE_MAX + 1);
        assert!(retained.find(later, Revision(1)).is_none(), "whoever goes on");

        retained.keep(start, Arc::new(Snapshot::at(Revision(2))));
        retained.prune(later, HELD_MAX);
        retained.prune(later, HELD_MAX + 1);
        assert!(retained.find(later, Revision(2)).is_none(), "nobody has gone on with it");
    }
}
