//! The committer: one thread through which every write goes.
//!
//! It takes all waiting transactions, judges each against the state that the ones before it leave, encodes the batch,
//! syncs it, publishes the new snapshot and the events, and answers. A verdict depends on the unsynced transactions
//! before it, so that all answers of a batch, refusals too, wait for its sync.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::{error, info, warn};

use crate::{
    AtRestError, CommitError, Committed, Encoded, Event, Frames, Key, Mutation, Object, Precondition, Revision,
    Snapshot, Write,
    at_rest::Sealing,
    checkpoint::Checkpointer,
    log::{AppendError, Batch, Log, is_full},
    store::{Health, Shared},
};

/// Transactions per batch. A sync costs what some hundred encoded writes cost; beyond that a larger batch only makes
/// the first writer wait longer.
pub(crate) const BATCH_TRANSACTIONS: usize = 512;

/// Bytes per batch after which it is closed: a bounded record, and a bounded wait for the writers in it.
const BATCH_BYTES: usize = 8 << 20;

/// Part of a sync's time, and the most, that a batch waits for the writers of the one before. They were all answered at
/// once and will be back within microseconds; without the wait they fall into two groups that take turns, and each
/// write lasts two syncs.
const GATHER_PART: u32 = 4;
const GATHER_MAX: Duration = Duration::from_micros(500);

/// Bytes that the keys and objects of one transaction may have. Kubernetes refuses objects over 3 MiB; this leaves room
/// for a transaction of several.
pub(crate) const TRANSACTION_BYTES: usize = 16 << 20;

/// Bytes of log that a write takes beyond its key and object, at most: lengths, digits, and what sealing adds.
const OVERHEAD: usize = 512;

/// Bytes of a collection's name or a path: group and resource, or namespace and name, are at most some 510.
const NAME_BYTES: usize = 4096;

/// A transaction on its way to the committer.
pub(crate) struct Transaction {
    pub(crate) writes: Vec<Write>,
    /// Whether it goes on when the disk is full, because it helps.
    pub(crate) frees: bool,
    pub(crate) answer: oneshot::Sender<Result<Committed, CommitError>>,
    /// The share of the queue's memory that it takes up.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// Bytes that a transaction occupies, for the bounds.
pub(crate) fn size(writes: &[Write]) -> usize {
    writes.iter().map(|w| w.key.collection.len() + w.key.path.len() + encoded(&w.mutation).bytes.len()).sum()
}

/// What is wrong with a transaction in itself.
pub(crate) fn validate(writes: &[Write]) -> Result<(), CommitError> {
    let invalid = |text: String| Err(CommitError::Invalid(text));
    if writes.is_empty() {
        return invalid("it has no writes".to_owned());
    }
    let size = size(writes);
    if size > TRANSACTION_BYTES {
        return invalid(format!("its {size} bytes exceed {TRANSACTION_BYTES}"));
    }
    let mut keys = HashSet::with_capacity(if writes.len() > 1 { writes.len() } else { 0 });
    for Write { key, mutation, .. } in writes {
        if key.collection.len() > NAME_BYTES || key.path.len() > NAME_BYTES {
            return invalid(format!("a key of {} has more than {NAME_BYTES} bytes", key.collection));
        }
        if writes.len() > 1 && !keys.insert(key) {
            return invalid(format!("{}/{} is written twice", key.collection, key.path));
        }
        let Encoded { bytes, revision_at } = encoded(mutation);
        if revision_at.is_some_and(|at| at > bytes.len()) {
            return invalid(format!("{}/{} has its revision beyond its end", key.collection, key.path));
        }
    }
    Ok(())
}

fn encoded(mutation: &Mutation) -> &Encoded {
    match mutation {
        Mutation::Put(encoded) | Mutation::Delete(encoded) => encoded,
    }
}

/// The thread's state.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    log: Log,
    checkpointer: Checkpointer,
    sealing: Sealing,
    frames: Option<Frames>,
    /// The state after everything judged so far; ahead of the published head while a batch is on its way.
    state: Snapshot,
    batch: Batch,
    /// Log that a restart would have to replay, without the open segment.
    replayed: u64,
    segment_bytes: u64,
    /// Writers that the batch before answered, and how long its sync took.
    answered: usize,
    sync: Duration,
}

/// A judged transaction, waiting for the sync.
struct Verdict {
    answer: oneshot::Sender<Result<Committed, CommitError>>,
    result: Result<Committed, CommitError>,
    _permit: OwnedSemaphorePermit,
}

impl Committer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        log: Log,
        checkpointer: Checkpointer,
        sealing: Sealing,
        replayed: u64,
        segment_bytes: u64,
    ) -> Self {
        let state = Snapshot::clone(&shared.head.load());
        Committer {
            shared,
            log,
            checkpointer,
            sealing,
            frames: None,
            state,
            batch: Batch::default(),
            replayed,
            segment_bytes,
            answered: 0,
            sync: Duration::ZERO,
        }
    }

    /// The same, giving events their wire form.
    pub(crate) fn with_frames(self, frames: Option<Frames>) -> Self {
        Self { frames, ..self }
    }

    /// Commits until the store is closed.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Transaction>) {
        let mut waiting = Vec::with_capacity(BATCH_TRANSACTIONS);
        while queue.blocking_recv_many(&mut waiting, BATCH_TRANSACTIONS) > 0 {
            self.gather(&mut waiting, &mut queue);
            if self.shared.rewrite.load(Ordering::Acquire) {
                self.rewrite_as_asked();
            }
            let mut transactions = waiting.drain(..).peekable();
            while transactions.peek().is_some() {
                self.commit(&mut transactions);
            }
            drop(transactions);
            if self.shared.closing.load(Ordering::Acquire) {
                // Nothing more is taken; the next turn finds the rest, and then the end.
                queue.close();
            }
        }
    }

    /// Gives the writers that were just answered the time to come back.
    fn gather(&self, waiting: &mut Vec<Transaction>, queue: &mut mpsc::Receiver<Transaction>) {
        if waiting.len() >= self.answered {
            return;
        }
        let deadline = Instant::now() + (self.sync / GATHER_PART).min(GATHER_MAX);
        while waiting.len() < self.answered && Instant::now() < deadline {
            match queue.try_recv() {
                Ok(transaction) => waiting.push(transaction),
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    /// Commits one batch from the front of `transactions`.
    fn commit(&mut self, transactions: &mut impl Iterator<Item = Transaction>) {
        let before = self.state.revision();
        let first = Revision(before.0 + 1);
        let mut verdicts = Vec::new();
        let mut events = Vec::new();
        let mut record = self.batch.start(first);
        let (mut bytes, mut room) = (0, 0);
        let mut short: Option<Arc<std::io::Error>> = None;
        let mut unsealed: Option<(Key, AtRestError)> = None;
        while bytes < BATCH_BYTES
            && let Some(transaction) = transactions.next()
        {
            let Transaction { writes, frees, answer, permit } = transaction;
            if writes.is_empty() {
                continue;
            }
            bytes += size(&writes);
            let needed = (size(&writes) + OVERHEAD * (1 + writes.len())) as u64;
            if let Err(error) = self.log.make_room(room + needed, frees) {
                verdicts.push(Verdict { answer, result: Err(CommitError::Full(error.to_string())), _permit: permit });
                short = Some(error);
                continue;
            }
            room += needed;
            let result = judge(&self.state, &writes).map(|()| {
                let revision = Revision(self.state.revision().0 + 1);
                self.state.advance(revision);
                record.transaction(writes.len());
                let objects = writes.into_iter().map(|write| {
                    let event = apply(&mut self.state, write, revision, self.frames.as_ref());
                    match self.sealing.seal(&event.key, &event.object.bytes) {
                        Ok(sealed) => record.change(&event.key, event.deleted, &sealed),
                        Err(error) => unsealed = Some((event.key.clone(), error)),
                    }
                    let object = event.object.clone();
                    events.push(Arc::new(event));
                    object
                });
                Committed { revision, objects: objects.collect() }
            });
            verdicts.push(Verdict { answer, result, _permit: permit });
        }
        record.finish();
        let wake = if self.state.revision() == before {
            None
        } else {
            // Nothing may be kept in a form that it should not be kept in: the batch goes, as when the disk refuses it.
            let written = match unsealed {
                Some((key, source)) => Err(CommitError::Seal { key: Box::new(key), source }),
                None => self.write(before).map_err(|error| self.failed(&error)),
            };
            match written {
                Ok(()) => {
                    if !self.log.is_short() {
                        self.shared.set_health(Health::Serving);
                    }
                    Some(self.publish(events))
                }
                Err(error) => {
                    self.refuse(&error, &mut verdicts);
                    None
                }
            }
        };
        if let Some(error) = short {
            self.shared.set_health(Health::Failing(error));
        }
        self.answered = verdicts.len();
        for verdict in verdicts {
            // A writer that went away has lost interest in the answer, not in the write.
            let _ = verdict.answer.send(verdict.result);
        }
        if let Some(wake) = wake {
            wake.wake();
        }
    }

    /// Makes the batch durable, opening a new segment and starting a checkpoint when it is time.
    fn write(&mut self, before: Revision) -> Result<(), AppendError> {
        if self.log.is_full(&self.batch) {
            let closed = self.log.segment_len();
            self.log.rotate(before)?;
            self.replayed += if self.log.is_short() { 0 } else { closed };
            // The log may grow to the size of the state before the state is written again: so the bytes written stay
            // within a small factor of the bytes logged, however large the state is.
            let head = self.shared.head.load_full();
            if self.replayed >= self.segment_bytes.max(head.bytes()) && self.checkpointer.offer(head) {
                self.replayed = 0;
            }
        }
        let start = Instant::now();
        let appended = self.log.append(&mut self.batch);
        self.sync = start.elapsed();
        appended
    }

    fn publish(&self, events: Vec<Arc<Event>>) -> crate::watch::Wake {
        self.shared.publish(self.state.clone(), events)
    }

    /// Takes everything back that the batch did, and answers all of it with the error.
    fn refuse(&mut self, answer: &CommitError, verdicts: &mut [Verdict]) {
        self.state = Snapshot::clone(&self.shared.head.load());
        for verdict in verdicts {
            verdict.result = Err(answer.clone());
        }
    }

    /// Tells the store's health, and the writers, what the disk said.
    fn failed(&self, error: &AppendError) -> CommitError {
        let (answer, health) = match error {
            AppendError::Write(e) if is_full(e) => (CommitError::Full(e.to_string()), Health::Failing(Arc::clone(e))),
            AppendError::Write(e) => (CommitError::Log(Arc::clone(e)), Health::Failing(Arc::clone(e))),
            AppendError::Broken(e) => (CommitError::Refused(Arc::clone(e)), Health::Broken(Arc::clone(e))),
        };
        self.shared.set_health(health);
        answer
    }

    /// Writes the whole state anew, so that nothing is left in the form in which it was kept.
    /// False when the thread that does it is busy.
    pub(crate) fn rewrite(&mut self) -> Result<bool, AppendError> {
        let head = self.shared.head.load_full();
        if !self.log.is_empty() {
            self.log.rotate(head.revision())?;
            self.replayed = 0;
        }
        Ok(self.checkpointer.offer(head))
    }

    /// Begins what [`crate::Store::rewrite`] asks for; what cannot be begun is tried again with the next transaction.
    fn rewrite_as_asked(&mut self) {
        // asked for again meanwhile, it is done again
        self.shared.rewrite.store(false, Ordering::Release);
        match self.rewrite() {
            Ok(true) => info!("writing the state anew, some of it is kept in an outdated form"),
            Ok(false) => self.shared.rewrite.store(true, Ordering::Release),
            Err(error) => {
                warn!(?error, "cannot write the state anew yet");
                self.shared.rewrite.store(true, Ordering::Release);
            }
        }
    }
}

/// Whether the transaction may happen in this state.
pub(crate) fn judge(state: &Snapshot, writes: &[Write]) -> Result<(), CommitError> {
    for Write { key, precondition, .. } in writes {
        let found = state.get(&key.collection, &key.path);
        let holds = match precondition {
            Precondition::Absent => found.is_none(),
            Precondition::Revision(revision) => found.is_some_and(|o| o.revision == *revision),
        };
        if !holds {
            let (key, expected, found) = (key.clone(), *precondition, found.cloned());
            return Err(CommitError::Precondition { key, expected, found });
        }
    }
    Ok(())
}

/// Applies one write and returns what watchers are told.
fn apply(state: &mut Snapshot, write: Write, revision: Revision, frames: Option<&Frames>) -> Event {
    let Write { key, precondition, mutation } = write;
    let (encoded, deleted) = match mutation {
        Mutation::Put(encoded) => (encoded, false),
        Mutation::Delete(encoded) => (encoded, true),
    };
    let head = frames.map(|frames| match precondition {
        _ if deleted => frames.deleted,
        Precondition::Absent => frames.created,
        Precondition::Revision(_) => frames.changed,
    });
    let (head, end) = (head.unwrap_or_default(), frames.map(|frames| frames.end).unwrap_or_default());
    let frame = framed(&encoded, revision, head, end);
    let object = Object { revision, bytes: frame.slice(head.len()..frame.len() - end.len()) };
    let previous = state.apply(&key, (!deleted).then(|| object.clone()));
    let event = Event::new(key, object, previous, deleted);
    if frames.is_some() {
        // nobody has seen the event, so that nobody has filled it
        let _ = event.frame.set(frame);
    }
    event
}

/// The object with its revision's digits in the gap.
pub(crate) fn finish(encoded: &Encoded, revision: Revision) -> Bytes {
    framed(encoded, revision, &[], &[])
}

/// The object with its revision's digits in the gap, between what stands around it.
fn framed(encoded: &Encoded, revision: Revision, head: &[u8], end: &[u8]) -> Bytes {
    let digits = revision.to_string();
    let (front, digits, back) = match encoded.revision_at {
        Some(at) => (&encoded.bytes[..at], digits.as_bytes(), &encoded.bytes[at..]),
        None => (&encoded.bytes[..], &[][..], &[][..]),
    };
    let mut whole = Vec::with_capacity(head.len() + encoded.bytes.len() + digits.len() + end.len());
    for part in [head, front, digits, back, end] {
        whole.extend_from_slice(part);
    }
    whole.into()
}

/// Runs the committer on its own thread; when it ends, for whatever reason, nobody waits for it.
pub(crate) fn spawn(
    committer: Committer,
    queue: mpsc::Receiver<Transaction>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let shared = Arc::clone(&committer.shared);
    std::thread::Builder::new().name("store-commit".into()).spawn(move || {
        let run = std::panic::AssertUnwindSafe(|| committer.run(queue));
        if std::panic::catch_unwind(run).is_err() {
            error!("the committer panicked, writes are refused from now on");
        }
        shared.windows.close();
    })
}
