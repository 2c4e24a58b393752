//! A store in memory: for one process, until it ends.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    BYTES_MAX, DURATION_MAX,
    store::{Answer, Begin, Fingerprint, Lease, RecordId, Store},
};
use crate::{
    config::{ConfigError, check, check_duration},
    moment::Moment,
};

/// The most records, of some hundred bytes each without their answers.
const RECORDS_MAX: usize = 10_000_000;
/// What a record takes besides its answer's headers and body.
const RECORD_BYTES: usize = 256;

/// How much is kept, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// How long an answer is kept. Clients must not send a request again later.
    pub keep: Duration,
    /// How many records there may be.
    pub records_max: usize,
    /// How many bytes they may take before a new key is refused. Answers that are under way then find room in any case.
    pub bytes_max: usize,
}

impl Default for MemoryConfig {
    /// A day, a hundred thousand, 64 MiB.
    fn default() -> Self {
        Self { keep: Duration::from_secs(24 * 60 * 60), records_max: 100_000, bytes_max: BYTES_MAX }
    }
}

/// The store has no room. What it has it has promised to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store of idempotency keys is full")]
pub struct MemoryError;

/// Keeps answers in memory. Nothing that is kept is thrown away before its time: when there is no room, requests with new
/// keys are refused.
#[derive(Debug)]
pub struct MemoryStore {
    config: MemoryConfig,
    records: Mutex<Records>,
}

#[derive(Debug, Default)]
struct Records {
    by_id: HashMap<RecordId, Record>,
    /// Answers in the order they are forgotten, which is that of their arrival.
    ends: VecDeque<(Moment, RecordId)>,
    bytes: usize,
    leases: u64,
}

#[derive(Debug)]
struct Record {
    fingerprint: Fingerprint,
    state: State,
}

#[derive(Debug)]
enum State {
    Claimed { lease: Lease, until: Moment, changed: Arc<Notify> },
    Done { answer: Answer },
}

impl MemoryStore {
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: MemoryConfig) -> Result<Self, ConfigError> {
        check_duration("keep", config.keep, DURATION_MAX)?;
        let rule = format!("between 1 and {RECORDS_MAX}");
        check((1..=RECORDS_MAX).contains(&config.records_max), "records_max", rule, config.records_max)?;
        check(config.bytes_max >= RECORD_BYTES, "bytes_max", format!("at least {RECORD_BYTES}"), config.bytes_max)?;
        Ok(Self { config, records: Mutex::default() })
    }

    /// How many records there are, and what they take.
    pub fn size(&self) -> (usize, usize) {
        let records = self.records.lock();
        (records.by_id.len(), records.bytes)
    }

    fn claim(
        &self,
        now: Moment,
        id: RecordId,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Result<Begin, MemoryError> {
        let mut records = self.records.lock();
        records.forget(now);
        match records.by_id.get(&id) {
            Some(record) if record.fingerprint != fingerprint && !record.is_free(now) => return Ok(Begin::Mismatch),
            Some(Record { state: State::Done { answer }, .. }) => return Ok(Begin::Done(answer.clone())),
            Some(record) if !record.is_free(now) => return Ok(Begin::InProgress),
            Some(_) => records.remove(id),
            None => {}
        }
        if records.by_id.len() >= self.config.records_max || records.bytes + RECORD_BYTES > self.config.bytes_max {
            records.forget_claims(now);
            if records.by_id.len() >= self.config.records_max || records.bytes + RECORD_BYTES > self.config.bytes_max {
                return Err(MemoryError);
            }
        }
        records.leases += 1;
        let claimed = Lease(records.leases);
        let state = State::Claimed { lease: claimed, until: now + lease, changed: Arc::default() };
        records.bytes += RECORD_BYTES;
        records.by_id.insert(id, Record { fingerprint, state });
        Ok(Begin::Claimed(claimed))
    }

    fn keep(&self, now: Moment, id: RecordId, lease: Lease, answer: Answer) {
        let mut records = self.records.lock();
        let size = answer.size();
        let Some(record) = records.by_id.get_mut(&id).filter(|record| record.is_claimed_by(lease)) else { return };
        let claimed = mem::replace(&mut record.state, State::Done { answer });
        records.bytes += size;
        records.ends.push_back((now + self.config.keep, id));
        drop(records);
        claimed.tell();
    }
}

impl Record {
    fn is_claimed_by(&self, by: Lease) -> bool {
        matches!(self.state, State::Claimed { lease, .. } if lease == by)
    }

    /// Whether it is a claim that ran out.
    fn is_free(&self, now: Moment) -> bool {
        matches!(self.state, State::Claimed { until, .. } if until <= now)
    }
}

impl State {
    /// Tells those who wait that it is no more.
    fn tell(&self) {
        if let Self::Claimed { changed, .. } = self {
            changed.notify_waiters();
        }
    }
}

impl Answer {
    fn size(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum::<usize>();
        headers + self.body.as_ref().map_or(0, bytes::Bytes::len)
    }
}

impl Records {
    fn remove(&mut self, id: RecordId) {
        if let Some(record) = self.by_id.remove(&id) {
            self.bytes -= RECORD_BYTES;
            if let State::Done { answer } = &record.state {
                self.bytes -= answer.size();
            }
            record.state.tell();
        }
    }

    /// Forgets answers whose time is over.
    fn forget(&mut self, now: Moment) {
        while self.ends.front().is_some_and(|(end, _)| *end <= now) {
            if let Some((_, id)) = self.ends.pop_front() {
                self.remove(id);
            }
        }
    }

    /// Forgets claims whose time is over. Looks at all, so only when there is no room.
    fn forget_claims(&mut self, now: Moment) {
        let free: Vec<_> = self.by_id.iter().filter(|(_, record)| record.is_free(now)).map(|(id, _)| *id).collect();
        free.into_iter().for_each(|id| self.remove(id));
    }
}

impl Store for MemoryStore {
    type Error = MemoryError;

    async fn begin(
        &self,
        now: Moment,
        id: RecordId,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Result<Begin, MemoryError> {
        self.claim(now, id, fingerprint, lease)
    }

    async fn finish(&self, now: Moment, id: RecordId, lease: Lease, answer: Answer) -> Result<(), MemoryError> {
        self.keep(now, id, lease, answer);
        Ok(())
    }

    fn give_up(&self, id: RecordId, lease: Lease) {
        let mut records = self.records.lock();
        if records.by_id.get(&id).is_some_and(|record| record.is_claimed_by(lease)) {
            records.remove(id);
        }
    }

    async fn changed(&self, id: RecordId) {
        let changed = match self.records.lock().by_id.get(&id) {
            Some(Record { state: State::Claimed { changed, .. }, .. }) => changed.clone().notified_owned(),
            _ => return,
        };
        changed.await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    fn id(n: u8) -> RecordId {
        RecordId([n; 32])
    }

    fn print(n: u8) -> Fingerprint {
        Fingerprint([n; 32])
    }

    fn answer(bytes: usize) -> Answer {
        Answer { status: StatusCode::CREATED, headers: HeaderMap::new(), body: Some(Bytes::from(vec![0; bytes])) }
    }

    fn store(records_max: usize, bytes_max: usize) -> MemoryStore {
        MemoryStore::new(MemoryConfig { keep: Duration::from_secs(100), records_max, bytes_max }).unwrap()
    }

    fn claimed(begin: Result<Begin, MemoryError>) -> Lease {
        match begin {
            Ok(Begin::Claimed(lease)) => lease,
            other => panic!("not claimed: {other:?}"),
        }
    }

    #[test]
    fn an_answer_is_kept_for_its_time() {
        let (store, now) = (store(10, 10_000), Moment::default());
        let lease = claimed(store.claim(now, id(1), print(1), LEASE));
        assert_eq!(store.claim(now, id(1), print(1), LEASE), Ok(Begin::InProgress));
        assert_eq!(store.claim(now, id(1), print(2), LEASE), Ok(Begin::Mismatch));
        store.keep(now, id(1), lease, answer(5));
        assert_eq!(store.claim(now, id(1), print(1), LEASE), Ok(Begin::Done(answer(5))));
        assert_eq!(store.claim(now, id(1), print(2), LEASE), Ok(Begin::Mismatch));
        let later = now + Duration::from_secs(100);
        store.give_up(id(1), lease);
        claimed(store.claim(later, id(1), print(2), LEASE));
        assert_eq!(store.size(), (1, RECORD_BYTES));
    }

    #[test]
    fn a_claim_that_ran_out_is_anybodys_and_its_answer_comes_too_late() {
        let (store, now) = (store(10, 10_000), Moment::default());
        let first = claimed(store.claim(now, id(1), print(1), LEASE));
        let second = claimed(store.claim(now + LEASE, id(1), print(1), LEASE));
        store.keep(now + LEASE, id(1), first, answer(1));
        store.give_up(id(1), first);
        assert_eq!(store.claim(now + LEASE, id(1), print(1), LEASE), Ok(Begin::InProgress));
        store.keep(now + LEASE, id(1), second, answer(2));
        assert_eq!(store.claim(now + LEASE, id(1), print(1), LEASE), Ok(Begin::Done(answer(2))));
    }

    #[test]
    fn a_full_store_refuses_what_is_new_and_keeps_what_it_has() {
        let (store, now) = (store(2, 10_000), Moment::default());
        let lease = claimed(store.claim(now, id(1), print(1), LEASE));
        store.keep(now, id(1), lease, answer(1));
        claimed(store.claim(now, id(2), print(2), LEASE));
        assert_eq!(store.claim(now, id(3), print(3), LEASE), Err(MemoryError));
        assert_eq!(store.claim(now, id(1), print(1), LEASE), Ok(Begin::Done(answer(1))));
        claimed(store.claim(now + LEASE, id(3), print(3), LEASE));
    }

    proptest! {
        #[test]
        fn nothing_is_done_twice_or_counted_wrong(steps in prop::collection::vec((0u8..4, 0u8..4, 0u64..40), 1..300)) {
            // claims, answers and failures of four keys; a model knows which was answered when
            let (store, mut now) = (store(4, 1_000_000), Moment::default());
            let (mut leases, mut done) = ([None; 4], [None; 4]);
            for (key, action, step) in steps {
                now = now + Duration::from_secs(step);
                let n = usize::from(key);
                if done[n].is_some_and(|until| until <= now) {
                    done[n] = None;
                }
                match (action, leases[n]) {
                    (0 | 1, held) => match store.claim(now, id(key), print(key), LEASE).unwrap() {
                        Begin::Claimed(lease) => {
                            prop_assert!(done[n].is_none(), "it is done");
                            prop_assert!(held.is_none_or(|(_, until)| until <= now), "somebody works on it");
                            leases[n] = Some((lease, now + LEASE));
                        }
                        Begin::Done(_) => prop_assert!(done[n].is_some()),
                        Begin::InProgress => prop_assert!(held.is_some()),
                        Begin::Mismatch => prop_assert!(false),
                    },
                    (2, Some((lease, _))) => {
                        store.keep(now, id(key), lease, answer(usize::from(key)));
                        (leases[n], done[n]) = (None, Some(now + Duration::from_secs(100)));
                    }
                    (_, Some((lease, _))) => {
                        store.give_up(id(key), lease);
                        leases[n] = None;
                    }
                    (_, None) => {}
                }
            }
            // when all times are over nothing is left
            now = now + Duration::from_secs(1000);
            let mut records = store.records.lock();
            records.forget(now);
            records.forget_claims(now);
            prop_assert_eq!((records.by_id.len(), records.bytes, records.ends.len()), (0, 0, 0));
        }
    }
}
