//! The mirror: everything under `/registry` in memory, fed by one watch.
//!
//! It does for etcd what the committer does for the log: it publishes snapshots, appends to the windows of watches, and
//! wakes. A commit is answered after the mirror holds it, so that reads and watches agree with what writers were told.

use std::{collections::HashSet, io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::broadcast;
use tracing::{error, info, warn};

use super::{
    client::Client,
    connection::{CallError, Messages},
    gap, keys,
    messages::{self, KeyValue, Range, WatchResponse},
    waiters::Waiters,
};
use crate::{
    AtRestError, Event, Index, Key, Object, Revision, Snapshot,
    at_rest::Sealing,
    foreign::{Foreign, ForeignError},
    record::Names,
    store::{Change, Health, Shared},
};

/// Objects read at once. Larger pages would exceed what etcd sends in one message where objects are large.
const PAGE: u64 = 500;
/// Messages of the watch that are published together.
const MESSAGES_AT_ONCE: usize = 256;
/// Pause before the watch is tried again, growing with each failure.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why etcd's content cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("cannot open the sealed object {0}")]
    Sealed(Box<Key>, #[source] AtRestError),
}

/// What was read from a range of keys.
pub(super) struct Loaded {
    pub(super) snapshot: Snapshot,
    /// Objects that should be kept differently.
    pub(super) stale: Vec<Key>,
}

/// Turns what lies in etcd into what is served.
pub(super) struct Reader {
    pub(super) names: Names,
    pub(super) sealing: Sealing,
    foreign: Option<Arc<dyn Foreign>>,
    /// Collections with values that cannot be served, each reported once.
    reported: HashSet<Arc<str>>,
}

impl Reader {
    pub(super) fn new(sealing: Sealing, foreign: Option<Arc<dyn Foreign>>) -> Self {
        Reader { names: Names::default(), sealing, foreign, reported: HashSet::new() }
    }

    /// The object in its served form; `None` when it cannot be served.
    fn object(&mut self, key: &Key, kv: &KeyValue) -> Result<Option<Object>, AtRestError> {
        let plain = self.sealing.open(key, &kv.value)?;
        let whole = gap::complete(&plain, kv.mod_revision);
        let bytes = match whole.map_or_else(|| self.translate(key, &plain, kv.mod_revision), Ok) {
            Ok(bytes) => bytes,
            Err(error) => {
                if self.reported.insert(Arc::clone(&key.collection)) {
                    warn!(%key, %error, "what another program keeps here is not served");
                }
                return Ok(None);
            }
        };
        Ok(Some(Object { revision: Revision(kv.mod_revision), bytes }))
    }

    /// The object of a value in another program's form.
    fn translate(&self, key: &Key, plain: &Bytes, revision: u64) -> Result<Bytes, ForeignError> {
        let unknown = || ForeignError("it is no JSON object with metadata".to_owned());
        let json = self.foreign.as_ref().ok_or_else(unknown)?.translate(&key.collection, plain)?;
        gap::complete(&json, revision).ok_or_else(unknown)
    }

    /// Reads a range of keys at one revision; zero is now.
    pub(super) async fn load(
        &mut self,
        client: &Client,
        (start, end): (&[u8], &[u8]),
        revision: u64,
    ) -> Result<Loaded, LoadError> {
        let mut loaded = Loaded { snapshot: Snapshot::at(Revision(revision)), stale: Vec::new() };
        let mut from = Bytes::copy_from_slice(start);
        loop {
            let at = loaded.snapshot.revision().0;
            let range = Range { key: &from, end: Some(end), limit: PAGE, revision: at, ..Range::default() };
            let page = client.range(&range).await?;
            if at == 0 {
                loaded.snapshot.advance(Revision(page.revision));
            }
            let last = page.kvs.last().map(|kv| [&kv.key, &b"\0"[..]].concat());
            for kv in page.kvs {
                let Some(key) = keys::parse(&kv.key, &mut self.names) else { continue };
                let object = self.object(&key, &kv).map_err(|error| LoadError::Sealed(Box::new(key.clone()), error))?;
                if object.is_some() && self.sealing.is_stale(&key, &kv.value) {
                    loaded.stale.push(key.clone());
                }
                loaded.snapshot.apply(&key, object);
            }
            match last {
                Some(next) if page.more => from = next.into(),
                _ => return Ok(loaded),
            }
        }
    }
}

/// Why the watch ended.
enum Outage {
    /// etcd no longer has what comes next.
    Compacted,
    Lost(CallError),
}

impl From<CallError> for Outage {
    fn from(error: CallError) -> Self {
        Outage::Lost(error)
    }
}

/// The mirror's task.
pub(super) struct Mirror {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Arc<Client>,
    pub(super) reader: Reader,
    pub(super) waiters: Arc<Waiters>,
    pub(super) changes: broadcast::Sender<Change>,
    pub(super) state: Snapshot,
    pub(super) indexes: &'static [Index],
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // without it nothing here is current any more, whatever ended it
        self.shared.set_health(Health::Broken(Arc::new(io::Error::other("the store does not follow etcd any more"))));
        self.shared.windows.close();
    }
}

impl Mirror {
    /// Follows etcd for ever.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let before = self.state.revision();
            let outage = match self.follow().await {
                Outage::Compacted => match self.reload().await {
                    Ok(()) => continue,
                    Err(error) => error.to_string(),
                },
                Outage::Lost(error) => error.to_string(),
            };
            warn!(etcd = %self.client, error = outage, "etcd is away, reads go on from memory");
            self.shared.set_health(Health::Failing(Arc::new(io::Error::other(outage))));
            pause = if self.state.revision() == before { (pause * 2).min(PAUSE_MAX) } else { PAUSE_MIN };
            tokio::time::sleep(pause).await;
        }
    }

    /// Applies what the watch tells until it ends.
    async fn follow(&mut self) -> Outage {
        let start = self.state.revision().0 + 1;
        let mut messages = match self.client.watch(keys::PREFIX.as_bytes(), keys::END.as_bytes(), start).await {
            Ok(messages) => messages,
            Err(error) => return error.into(),
        };
        loop {
            if let Err(outage) = self.take(&mut messages).await {
                return outage;
            }
        }
    }

    /// Waits for messages and publishes those that are there together.
    async fn take(&mut self, messages: &mut Messages) -> Result<(), Outage> {
        let mut next = Some(messages.next().await?);
        let mut events = Vec::new();
        let mut ended = Ok(());
        for _ in 0..MESSAGES_AT_ONCE {
            let Some(message) = next else { break };
            let response = WatchResponse::read(&message).map_err(CallError::from)?;
            if response.created {
                info!(etcd = %self.client, revision = %self.state.revision(), "following etcd");
                self.shared.set_health(Health::Serving);
            }
            if response.canceled {
                let lost = || Outage::Lost(CallError::Lost(format!("the watch was cancelled: {}", response.reason)));
                ended = Err(if response.compact_revision > 0 { Outage::Compacted } else { lost() });
                break;
            }
            for change in response.changes {
                self.apply(change, &mut events);
            }
            next = messages.ready()?;
        }
        self.publish(events);
        ended
    }

    fn apply(&mut self, change: messages::Change, events: &mut Vec<Arc<Event>>) {
        let revision = Revision(change.kv.mod_revision);
        // all events of one revision are in one message, so that a state between two publications is never seen
        self.state.advance(revision.max(self.state.revision()));
        let Some(key) = keys::parse(&change.kv.key, &mut self.reader.names) else { return };
        if change.deleted {
            let Some(previous) = self.state.apply(&key, None) else { return };
            // what is told of a deletion is the last state, carrying the deletion's revision, as upstream does it
            let bytes = gap::complete(&previous.bytes, revision.0).unwrap_or_else(|| previous.bytes.clone());
            events.push(Arc::new(Event::new(key, Object { revision, bytes }, Some(previous), true)));
            return;
        }
        match self.reader.object(&key, &change.kv) {
            Ok(Some(object)) => {
                let previous = self.state.apply(&key, Some(object.clone()));
                events.push(Arc::new(Event::new(key, object, previous, false)));
            }
            Ok(None) => {}
            Err(error) => error!(%key, %error, "cannot open a sealed object, its last state is served on"),
        }
    }

    fn publish(&mut self, events: Vec<Arc<Event>>) {
        let head = self.state.revision();
        let keys: Vec<Key> = events.iter().map(|event| event.key.clone()).collect();
        let wake = self.shared.publish(self.state.clone(), events);
        for key in keys {
            // nobody listens while there is only one server
            let _ = self.changes.send(Change::Object(key));
        }
        self.waiters.reach(head.0);
        wake.wake();
    }

    /// Reads everything anew, because what lies between is gone.
    async fn reload(&mut self) -> Result<(), LoadError> {
        let range = (keys::PREFIX.as_bytes(), keys::END.as_bytes());
        let loaded = self.reader.load(&self.client, range, 0).await?;
        let head = loaded.snapshot.revision();
        warn!(etcd = %self.client, revision = %head, "etcd's history was compacted meanwhile, everything was read anew");
        let changed = differences(&self.state, &loaded.snapshot);
        self.state = loaded.snapshot.indexed(self.indexes);
        self.shared.restart(self.state.clone());
        for key in changed {
            let _ = self.changes.send(Change::Object(key));
        }
        self.waiters.reach(head.0);
        Ok(())
    }
}

/// The objects that are not the same in both states.
fn differences(old: &Snapshot, new: &Snapshot) -> Vec<Key> {
    let mut keys = Vec::new();
    for (from, to) in [(old, new), (new, old)] {
        for collection in from.collections() {
            for (path, object) in from.range(collection, "", None) {
                let other = to.get(collection, path).map(|other| other.revision);
                // what both have is told once
                let told_already = other.is_some() && std::ptr::eq(from, new);
                if other != Some(object.revision) && !told_already {
                    keys.push(Key { collection: Arc::clone(collection), path: Arc::clone(path) });
                }
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_what_was_added_changed_or_removed() {
        let state = |objects: &[(&str, u64)]| {
            let mut snapshot = Snapshot::default();
            for (path, revision) in objects {
                let key = Key { collection: "core/pods".into(), path: (*path).into() };
                snapshot.apply(&key, Some(Object { revision: Revision(*revision), bytes: Bytes::new() }));
            }
            snapshot
        };
        let (old, new) = (state(&[("a", 1), ("b", 2), ("c", 3)]), state(&[("b", 2), ("c", 4), ("d", 5)]));
        let paths: Vec<_> = differences(&old, &new).iter().map(|key| key.path.to_string()).collect();
        assert_eq!(paths, ["a", "c", "d"]);
    }
}
