//! A commit: one etcd transaction, answered after the mirror holds it.

use std::{borrow::Cow, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Backend,
    connection::{CallError, INVALID_ARGUMENT, RESOURCE_EXHAUSTED},
    keys,
    messages::{Range, Txn},
    mirror::Reader,
    slots::Taken,
    tenure::Tenure,
};
use crate::{
    CommitError, Committed, Mutation, Object, Precondition, Revision, Write,
    committer::{self, finish},
};

/// Writes of one transaction: etcd refuses more than 128 operations unless told otherwise, and the slot is one of them.
pub(super) const WRITES_MAX: usize = 100;
/// How long a transaction is tried. Upstream gives a request about as long while its etcd elects a leader.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the mirror may take to hold what is committed.
pub(super) const MIRROR_PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two attempts, growing with each.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What became of an attempt.
enum Attempt {
    /// It happened, at this revision.
    Done(u64),
    /// A precondition does not hold at this revision.
    Failed(u64),
    /// It did not happen, and never will in this form.
    Refused(CommitError),
    /// It did not happen; another attempt may do better.
    Again(String),
    /// It may have happened.
    Unknown(String),
}

/// The writes of a transaction as etcd takes them.
struct Prepared<'a> {
    keys: Vec<Vec<u8>>,
    values: Vec<Cow<'a, [u8]>>,
    writes: &'a [Write],
    tenure: Option<&'a Tenure>,
}

impl Prepared<'_> {
    fn txn(&self, slot: Option<&Taken<'_>>) -> Vec<u8> {
        let mut txn = Txn::default();
        for (key, write) in self.keys.iter().zip(self.writes) {
            txn = match write.precondition {
                Precondition::Absent => txn.if_absent(key),
                Precondition::Revision(Revision(revision)) => txn.if_changed_at(key, revision),
            };
        }
        for ((key, value), write) in self.keys.iter().zip(&self.values).zip(self.writes) {
            txn = match write.mutation {
                Mutation::Put(_) => txn.put(key, value),
                Mutation::Delete(_) => txn.delete(key),
            };
        }
        if let Some(slot) = slot {
            txn = txn.if_changed_at(&slot.key, slot.revision).put(&slot.key, b"").or_read(&slot.key);
        }
        if let Some(Tenure { key, revision }) = self.tenure {
            txn = txn.if_changed_at(key, *revision).or_read(key);
        }
        txn.into_bytes()
    }

    fn only_deletes(&self) -> bool {
        self.writes.iter().all(|write| matches!(write.mutation, Mutation::Delete(_)))
    }
}

impl Backend {
    pub(crate) async fn commit(&self, writes: Vec<Write>, tenure: Option<&Tenure>) -> Result<Committed, CommitError> {
        if writes.len() > WRITES_MAX {
            return Err(CommitError::Invalid(format!("its {} writes exceed {WRITES_MAX}", writes.len())));
        }
        let fate = self.decide(&self.prepare(&writes, tenure)?).await?;
        let reached = |revision| self.waiters.wait(revision, MIRROR_PATIENCE);
        match fate {
            Ok(revision) => {
                if !reached(revision).await {
                    let reason = "it is committed, but etcd does not tell of it".to_owned();
                    return Err(CommitError::Unknown(reason));
                }
                Ok(committed(writes, Revision(revision)))
            }
            Err(revision) => {
                // a writer who looks again must find what stood in the way
                reached(revision).await;
                Err(self.hindrance(&writes))
            }
        }
    }

    fn prepare<'a>(&self, writes: &'a [Write], tenure: Option<&'a Tenure>) -> Result<Prepared<'a>, CommitError> {
        let values = writes.iter().map(|write| match &write.mutation {
            Mutation::Put(encoded) => self.sealing.seal(&write.key, &encoded.bytes).map_err(|source| {
                let key = Box::new(write.key.clone());
                CommitError::Seal { key, source }
            }),
            Mutation::Delete(_) => Ok(Cow::Borrowed(&[][..])),
        });
        let values = values.collect::<Result<_, _>>()?;
        Ok(Prepared { keys: writes.iter().map(|write| keys::of(&write.key)).collect(), values, writes, tenure })
    }

    /// Sends the transaction until its fate is known: the revision at which it happened, or at which a precondition does
    /// not hold.
    async fn decide(&self, prepared: &Prepared<'_>) -> Result<Result<u64, u64>, CommitError> {
        let mut slot = self.slots.take().await.ok_or(CommitError::Closed)?;
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSE_MIN;
        let mut maybe_sent = false;
        loop {
            let reason = match self.attempt(prepared, &mut slot, maybe_sent).await {
                Attempt::Done(revision) => {
                    slot.settle(revision);
                    return Ok(Ok(revision));
                }
                Attempt::Failed(revision) => {
                    let last = slot.revision;
                    slot.settle(last);
                    return Ok(Err(revision));
                }
                Attempt::Refused(CommitError::Full(_)) if prepared.only_deletes() => {
                    return self.delete_on_a_full_disk(prepared).await;
                }
                Attempt::Refused(error) => return Err(error),
                Attempt::Again(reason) => reason,
                Attempt::Unknown(reason) => {
                    maybe_sent = true;
                    reason
                }
            };
            if Instant::now() + pause >= deadline {
                return Err(if maybe_sent { CommitError::Unknown(reason) } else { CommitError::Unavailable(reason) });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(&self, prepared: &Prepared<'_>, slot: &mut Taken<'_>, maybe_sent: bool) -> Attempt {
        let response = match self.client.txn(&prepared.txn(Some(slot))).await {
            Ok(response) => response,
            Err(error) => {
                return match failed(error) {
                    Attempt::Refused(CommitError::Full(reason)) => self.exceeded(slot, reason).await,
                    other => other,
                };
            }
        };
        if response.succeeded {
            return Attempt::Done(response.revision);
        }
        let mut read = response.read.into_iter().map(|kv| kv.map_or(0, |kv| kv.mod_revision));
        let (found, holds) =
            (read.next().unwrap_or(0), prepared.tenure.is_none_or(|t| read.next() == Some(t.revision)));
        match found {
            same if same == slot.revision && !holds => Attempt::Refused(CommitError::Deposed),
            same if same == slot.revision => Attempt::Failed(response.revision),
            // somebody cleaned up, and an earlier attempt cannot be told from none
            0 if maybe_sent => Attempt::Refused(CommitError::Unknown("the record of the attempt is gone".to_owned())),
            0 => {
                slot.revision = 0;
                Attempt::Again("the slot was removed".to_owned())
            }
            // an earlier attempt did it
            revision => Attempt::Done(revision),
        }
    }

    /// etcd answers that its space is exceeded also to the transaction that exceeds it, and which it did apply.
    async fn exceeded(&self, slot: &Taken<'_>, reason: String) -> Attempt {
        let range = Range { key: &slot.key, limit: 1, ..Range::default() };
        match self.client.range(&range).await {
            Ok(found) => match found.kvs.first() {
                Some(kv) if kv.mod_revision != slot.revision => Attempt::Done(kv.mod_revision),
                _ => Attempt::Refused(CommitError::Full(reason)),
            },
            Err(error) => Attempt::Unknown(error.to_string()),
        }
    }

    /// etcd takes no writes when its disk is full, but a transaction that only deletes.
    async fn delete_on_a_full_disk(&self, prepared: &Prepared<'_>) -> Result<Result<u64, u64>, CommitError> {
        match self.client.txn(&prepared.txn(None)).await {
            Ok(response) if response.succeeded => Ok(Ok(response.revision)),
            Ok(response) => Ok(Err(response.revision)),
            Err(error) => Err(match failed(error) {
                Attempt::Refused(error) => error,
                Attempt::Again(reason) => CommitError::Unavailable(reason),
                Attempt::Unknown(reason) => CommitError::Unknown(reason),
                Attempt::Done(_) | Attempt::Failed(_) => CommitError::Closed,
            }),
        }
    }

    /// Which precondition does not hold. Where all do by now, the first is named: it did not hold at the time.
    fn hindrance(&self, writes: &[Write]) -> CommitError {
        let head = self.shared.head.load();
        if let Err(error) = committer::judge(&head, writes) {
            return error;
        }
        let Some(Write { key, precondition, .. }) = writes.first() else { return CommitError::Closed };
        let found = head.get(&key.collection, &key.path).cloned();
        CommitError::Precondition { key: key.clone(), expected: *precondition, found }
    }

    /// Looks for objects that are kept in an outdated form, and keeps them anew.
    pub(crate) async fn rewrite_outdated(self: Arc<Self>) -> Result<(), CommitError> {
        let mut reader = Reader::new(self.sealing.clone(), self.foreign.clone());
        let range = (keys::PREFIX.as_bytes(), keys::END.as_bytes());
        let loaded = reader.load(&self.client, range, 0).await;
        let loaded = loaded.map_err(|error| CommitError::Unavailable(error.to_string()))?;
        self.rewrite(loaded.stale).await;
        Ok(())
    }

    /// Keeps objects anew that are kept in an outdated form. Who is written meanwhile is kept right already.
    pub(super) async fn rewrite(self: Arc<Self>, stale: Vec<crate::Key>) {
        for key in stale {
            let head = self.shared.head.load_full();
            let Some(object) = head.get(&key.collection, &key.path) else { continue };
            let bytes = object.bytes.to_vec();
            let mutation = Mutation::Put(crate::Encoded { bytes, revision_at: None });
            let write = Write { key, precondition: Precondition::Revision(object.revision), mutation };
            match self.commit(vec![write], None).await {
                Ok(_) | Err(CommitError::Precondition { .. }) => {}
                Err(error) => tracing::warn!(%error, "cannot keep an object anew, the next start tries again"),
            }
        }
    }
}

/// What the writer is told: its objects, carrying the revision.
fn committed(writes: Vec<Write>, revision: Revision) -> Committed {
    let objects = writes.into_iter().map(|write| match write.mutation {
        Mutation::Put(encoded) | Mutation::Delete(encoded) => Object { revision, bytes: finish(&encoded, revision) },
    });
    Committed { revision, objects: objects.collect() }
}

fn failed(error: CallError) -> Attempt {
    match error {
        CallError::Unsent(reason) => Attempt::Again(reason),
        CallError::Refused { code: INVALID_ARGUMENT, message } => Attempt::Refused(CommitError::Invalid(message)),
        CallError::Refused { code: RESOURCE_EXHAUSTED, message } if message.contains("space exceeded") => {
            Attempt::Refused(CommitError::Full(message))
        }
        CallError::Refused { code: RESOURCE_EXHAUSTED, message } if message.contains("larger than max") => {
            Attempt::Refused(CommitError::Invalid(format!("etcdserver: request is too large: {message}")))
        }
        // etcd's "too many requests" comes before the transaction goes anywhere
        CallError::Refused { code: RESOURCE_EXHAUSTED, message } => Attempt::Again(message),
        error => Attempt::Unknown(error.to_string()),
    }
}
