//! Which watches of a connection are still about to write what a change made them write.
//!
//! One change wakes all watches of a collection at once, and they are run one after another by several threads. The
//! first of a connection's watches to see the change says how many others there are, each of them counts itself off, and
//! the connection sends when nobody is left: one TLS record and one system call instead of one each time the connection
//! had its turn in between. Who never comes (its client has no room, or it is gone) costs the others a few turns at most,
//! for the count is only a hint and forgotten with every send.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;

/// What the watches of one connection share.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Watches that are expected to write.
    due: AtomicI64,
    /// The collections watched.
    groups: Mutex<Vec<(Arc<str>, Arc<Group>)>>,
}

/// The watches of one collection on one connection.
#[derive(Debug, Default)]
struct Group {
    members: AtomicI64,
    /// Revision of the newest change that one of them has seen.
    newest: AtomicU64,
}

/// A watch's place among those of its connection.
#[derive(Debug)]
pub(crate) struct Member {
    turn: Arc<Turn>,
    group: Arc<Group>,
    is_writing: bool,
}

impl Turn {
    /// Adds a watch of a collection.
    pub(crate) fn join(self: &Arc<Self>, collection: &Arc<str>) -> Member {
        let mut groups = self.groups.lock();
        // a collection nobody watches any more gives up its place
        groups.retain(|(known, group)| known == collection || group.members.load(Relaxed) > 0);
        let group = match groups.iter().find(|(known, _)| known == collection) {
            Some((_, group)) => group.clone(),
            None => {
                let group = Arc::<Group>::default();
                groups.push((collection.clone(), group.clone()));
                group
            }
        };
        group.members.fetch_add(1, Relaxed);
        Member { turn: self.clone(), group, is_writing: false }
    }

    /// Whether somebody is still expected to write.
    pub(crate) fn is_open(&self) -> bool {
        self.due.load(Relaxed) > 0
    }

    /// Expects nobody any more.
    pub(crate) fn close(&self) {
        self.due.store(0, Relaxed);
    }
}

impl Member {
    /// Says that this watch has seen a change up to `revision` and is about to write.
    pub(crate) fn writes(&mut self, revision: u64) {
        self.is_writing = true;
        if self.group.newest.fetch_max(revision, Relaxed) < revision {
            self.turn.due.fetch_add(self.group.members.load(Relaxed), Relaxed);
        }
    }

    /// Says that what it was about to write is with the connection.
    pub(crate) fn wrote(&mut self) {
        if std::mem::take(&mut self.is_writing) {
            self.turn.due.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.group.members.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_open_until_every_watch_of_the_collection_has_written() {
        let turn = Arc::<Turn>::default();
        let (pods, maps): (Arc<str>, Arc<str>) = ("core/pods".into(), "core/configmaps".into());
        let mut watches: Vec<Member> = (0..3).map(|_| turn.join(&pods)).collect();
        let mut other = turn.join(&maps);
        watches[1].writes(7);
        watches[1].wrote();
        watches[0].writes(7);
        watches[0].wrote();
        other.writes(8);
        other.wrote();
        assert!(turn.is_open());
        watches[2].writes(7);
        assert!(turn.is_open());
        watches[2].wrote();
        assert!(!turn.is_open());
    }

    #[test]
    fn who_is_gone_is_not_waited_for_after_the_next_send() {
        let turn = Arc::<Turn>::default();
        let pods: Arc<str> = "core/pods".into();
        let (mut first, second) = (turn.join(&pods), turn.join(&pods));
        first.writes(1);
        first.wrote();
        drop(second);
        assert!(turn.is_open());
        turn.close();
        first.writes(2);
        first.wrote();
        assert!(!turn.is_open());
        drop(first);
        turn.join(&"core/nodes".into());
        assert_eq!(turn.groups.lock().len(), 1);
    }
}
