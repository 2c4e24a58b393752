//! Who works on which key, and which were done: what every store in one process decides by.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Notify, futures::OwnedNotified};

use super::store::{Fingerprint, Lease, RecordId};
use crate::moment::Moment;

/// What a record takes besides what is kept of its answer.
pub(super) const RECORD_BYTES: usize = 256;

/// Records by name; `T` is what is kept of an answer.
#[derive(Debug)]
pub(super) struct Ledger<T> {
    records_max: usize,
    bytes_max: usize,
    by_id: HashMap<RecordId, Record<T>>,
    /// Answers in the order they are forgotten.
    ends: BTreeSet<(Moment, RecordId)>,
    bytes: usize,
    leases: u64,
}

#[derive(Debug)]
struct Record<T> {
    fingerprint: Fingerprint,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    Claimed { lease: Lease, until: Moment, changed: Arc<Notify> },
    Done { kept: T, bytes: usize, until: Moment },
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known<T> {
    /// Nothing, and it is claimed now.
    Claimed(Lease),
    /// Somebody works on it.
    InProgress,
    /// It was done.
    Done(T),
    /// It was used for something else.
    Mismatch,
    /// Nothing, and there is no room for more.
    Full,
}

impl<T: Clone> Ledger<T> {
    pub(super) fn new(records_max: usize, bytes_max: usize) -> Self {
        Ledger { records_max, bytes_max, by_id: HashMap::new(), ends: BTreeSet::new(), bytes: 0, leases: 0 }
    }

    /// How many records there are, and what they take.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.by_id.len(), self.bytes)
    }

    /// Looks a record up, or claims it.
    pub(super) fn claim(&mut self, now: Moment, id: RecordId, fingerprint: Fingerprint, lease: Duration) -> Known<T> {
        match self.by_id.get(&id) {
            Some(record) if record.fingerprint != fingerprint && !record.is_free(now) => return Known::Mismatch,
            Some(Record { state: State::Done { kept, .. }, .. }) => return Known::Done(kept.clone()),
            Some(record) if !record.is_free(now) => return Known::InProgress,
            Some(_) => drop(self.remove(id)),
            None => {}
        }
        if self.is_full() {
            self.forget_claims(now);
            if self.is_full() {
                return Known::Full;
            }
        }
        self.leases += 1;
        let claimed = Lease(self.leases);
        let state = State::Claimed { lease: claimed, until: now + lease, changed: Arc::default() };
        self.bytes += RECORD_BYTES;
        self.by_id.insert(id, Record { fingerprint, state });
        Known::Claimed(claimed)
    }

    fn is_full(&self) -> bool {
        self.by_id.len() >= self.records_max || self.bytes + RECORD_BYTES > self.bytes_max
    }

    /// What a record that somebody works on is about.
    pub(super) fn claimed(&self, id: RecordId, lease: Lease) -> Option<Fingerprint> {
        self.by_id.get(&id).filter(|record| record.is_claimed_by(lease)).map(|record| record.fingerprint)
    }

    /// Keeps an answer until then; says whether it was still asked for.
    pub(super) fn keep(&mut self, id: RecordId, lease: Lease, until: Moment, (kept, bytes): (T, usize)) -> bool {
        let Some(record) = self.by_id.get_mut(&id).filter(|record| record.is_claimed_by(lease)) else { return false };
        let claimed = mem::replace(&mut record.state, State::Done { kept, bytes, until });
        self.bytes += bytes;
        self.ends.insert((until, id));
        claimed.tell();
        true
    }

    /// Takes over an answer that was kept before; gives back what it replaces.
    pub(super) fn restore(
        &mut self,
        id: RecordId,
        fingerprint: Fingerprint,
        until: Moment,
        (kept, bytes): (T, usize),
    ) -> Option<T> {
        let before = self.remove(id);
        self.bytes += RECORD_BYTES + bytes;
        self.ends.insert((until, id));
        self.by_id.insert(id, Record { fingerprint, state: State::Done { kept, bytes, until } });
        before
    }

    /// What is kept, to be changed in place.
    pub(super) fn kept(&mut self) -> impl Iterator<Item = (RecordId, &mut T)> {
        self.by_id.iter_mut().filter_map(|(id, record)| match &mut record.state {
            State::Done { kept, .. } => Some((*id, kept)),
            State::Claimed { .. } => None,
        })
    }

    pub(super) fn give_up(&mut self, id: RecordId, lease: Lease) {
        if self.by_id.get(&id).is_some_and(|record| record.is_claimed_by(lease)) {
            self.remove(id);
        }
    }

    /// Is over when a record that is being worked on may have changed; `None` when nobody works on it.
    pub(super) fn changed(&self, id: RecordId) -> Option<OwnedNotified> {
        match self.by_id.get(&id) {
            Some(Record { state: State::Claimed { changed, .. }, .. }) => Some(Arc::clone(changed).notified_owned()),
            _ => None,
        }
    }

    /// Forgets answers whose time is over, and gives back what was kept of them.
    pub(super) fn forget(&mut self, now: Moment) -> Vec<T> {
        let mut gone = Vec::new();
        while let Some((_, id)) = self.ends.first().copied().filter(|(end, _)| *end <= now) {
            gone.extend(self.remove(id));
        }
        gone
    }

    /// Forgets claims whose time is over. Looks at all, so only when there is no room.
    pub(super) fn forget_claims(&mut self, now: Moment) {
        let free: Vec<_> = self.by_id.iter().filter(|(_, record)| record.is_free(now)).map(|(id, _)| *id).collect();
        free.into_iter().for_each(|id| drop(self.remove(id)));
    }

    fn remove(&mut self, id: RecordId) -> Option<T> {
        let record = self.by_id.remove(&id)?;
        self.bytes -= RECORD_BYTES;
        record.state.tell();
        match record.state {
            State::Claimed { .. } => None,
            State::Done { kept, bytes, until } => {
                self.bytes -= bytes;
                self.ends.remove(&(until, id));
                Some(kept)
            }
        }
    }
}

impl<T> Record<T> {
    fn is_claimed_by(&self, by: Lease) -> bool {
        matches!(self.state, State::Claimed { lease, .. } if lease == by)
    }

    /// Whether it is a claim that ran out.
    fn is_free(&self, now: Moment) -> bool {
        matches!(self.state, State::Claimed { until, .. } if until <= now)
    }
}

impl<T> State<T> {
    /// Tells those who wait that it is no more.
    fn tell(&self) {
        if let State::Claimed { changed, .. } = self {
            changed.notify_waiters();
        }
    }
}
