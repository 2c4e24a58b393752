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
        if self.snapshots.iter().any(|(_, kept)| kept.revision() == snapshot.revision()) {
            return;
        }
        if self.snapshots.len() >= self.limit {
            self.snapshots.remove(0);
        }
        self.snapshots.push((now, snapshot));
    }

    /// The snapshot of exactly this revision. Being used keeps it from being pushed out, not from ageing: a client that
    /// asks again and again must not hold a past state for ever.
    pub(crate) fn find(&mut self, now: Instant, revision: Revision) -> Option<Arc<Snapshot>> {
        self.prune(now);
        let at = self.snapshots.iter().position(|(_, s)| s.revision() == revision)?;
        let (since, snapshot) = self.snapshots.remove(at);
        self.snapshots.push((since, Arc::clone(&snapshot)));
        Some(snapshot)
    }

    pub(crate) fn prune(&mut self, now: Instant) {
        let age = self.age;
        self.snapshots.retain(|(since, _)| now.saturating_duration_since(*since) <= age);
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
}
