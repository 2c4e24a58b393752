//! A store in memory: for one process, until it ends.

use std::time::Duration;

use parking_lot::Mutex;

use super::{
    BYTES_MAX,
    ledger::{Known, Ledger, RECORD_BYTES},
    store::{Answer, Begin, Fingerprint, Lease, RecordId, Store},
};
use crate::{
    config::{ConfigError, check},
    moment::Moment,
};

/// The most records, of some hundred bytes each without their answers.
pub(super) const RECORDS_MAX: usize = 10_000_000;

/// How much is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// How many records there may be.
    pub records_max: usize,
    /// How many bytes they may take before a new key is refused. Answers that are under way then find room in any case.
    pub bytes_max: usize,
}

impl Default for MemoryConfig {
    /// A hundred thousand, 64 MiB.
    fn default() -> Self {
        Self { records_max: 100_000, bytes_max: BYTES_MAX }
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
    records: Mutex<Ledger<Answer>>,
}

impl MemoryStore {
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: MemoryConfig) -> Result<Self, ConfigError> {
        let rule = format!("between 1 and {RECORDS_MAX}");
        check((1..=RECORDS_MAX).contains(&config.records_max), "records_max", rule, config.records_max)?;
        check(config.bytes_max >= RECORD_BYTES, "bytes_max", format!("at least {RECORD_BYTES}"), config.bytes_max)?;
        Ok(Self { records: Mutex::new(Ledger::new(config.records_max, config.bytes_max)) })
    }

    /// How many records there are, and what they take.
    pub fn size(&self) -> (usize, usize) {
        self.records.lock().size()
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
        match records.claim(now, id, fingerprint, lease) {
            Known::Claimed(lease) => Ok(Begin::Claimed(lease)),
            Known::InProgress => Ok(Begin::InProgress),
            Known::Done(answer) => Ok(Begin::Done(answer)),
            Known::Mismatch => Ok(Begin::Mismatch),
            Known::Full => Err(MemoryError),
        }
    }

    fn keep(&self, until: Moment, id: RecordId, lease: Lease, answer: Answer) {
        let size = answer.size();
        self.records.lock().keep(id, lease, until, (answer, size));
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

    async fn finish(
        &self,
        now: Moment,
        id: RecordId,
        lease: Lease,
        answer: Answer,
        keep: Duration,
    ) -> Result<(), MemoryError> {
        self.keep(now + keep, id, lease, answer);
        Ok(())
    }

    fn give_up(&self, id: RecordId, lease: Lease) {
        self.records.lock().give_up(id, lease);
    }

    async fn changed(&self, id: RecordId) {
        let changed = self.records.lock().changed(id);
        if let Some(changed) = changed {
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    use super::*;

    const LEASE: Duration = Duration::from_secs(60);
    const KEEP: Duration = Duration::from_secs(100);

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
        MemoryStore::new(MemoryConfig { records_max, bytes_max }).unwrap()
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
        store.keep(now + KEEP, id(1), lease, answer(5));
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
        store.keep(now + KEEP, id(1), first, answer(1));
        store.give_up(id(1), first);
        assert_eq!(store.claim(now + LEASE, id(1), print(1), LEASE), Ok(Begin::InProgress));
        store.keep(now + LEASE + KEEP, id(1), second, answer(2));
        assert_eq!(store.claim(now + LEASE, id(1), print(1), LEASE), Ok(Begin::Done(answer(2))));
    }

    #[test]
    fn a_full_store_refuses_what_is_new_and_keeps_what_it_has() {
        let (store, now) = (store(2, 10_000), Moment::default());
        let lease = claimed(store.claim(now, id(1), print(1), LEASE));
        store.keep(now + KEEP, id(1), lease, answer(1));
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
                        store.keep(now + KEEP, id(key), lease, answer(usize::from(key)));
                        (leases[n], done[n]) = (None, Some(now + KEEP));
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
            prop_assert_eq!(records.size(), (0, 0));
        }
    }
}
