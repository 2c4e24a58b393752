//! Events do not live for ever: each is deleted when nobody has written it for so long.
//!
//! An index in the order of time, fed by the store's watch, says which Event is next; nothing is scanned, and nobody who
//! writes an Event pays for it. Deletions insist on the revision the index knows, so that an Event that was written again
//! in the last moment, also through another server, stays.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use store::{Event, Key, Mutation, Precondition, Revision, Snapshot, WatchError, Write};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{codec, server::ApiServer};

/// Where Events of both groups are.
const COLLECTION: &str = "core/events";
/// How long an Event lives after it was last written; upstream's default.
pub(crate) const TTL: Duration = Duration::from_secs(60 * 60);
/// Changes taken from the store at once.
const CHANGES_AT_ONCE: usize = 1024;
/// Events deleted at once: they share a few commits, and others get their turn in between.
const DELETIONS_AT_ONCE: usize = 64;
/// Pause after a refused write (a full disk), so that the loop does not spin.
const PAUSE: Duration = Duration::from_secs(10);

/// Which Event is due when: one entry for each Event that is stored.
#[derive(Debug, Default)]
struct Due {
    by_time: BTreeMap<(Instant, Arc<str>), Revision>,
    times: HashMap<Arc<str>, Instant>,
}

impl Due {
    /// Notes that an Event was written.
    fn put(&mut self, path: &Arc<str>, revision: Revision, due: Instant) {
        self.remove(path);
        self.times.insert(path.clone(), due);
        self.by_time.insert((due, path.clone()), revision);
    }

    fn remove(&mut self, path: &Arc<str>) {
        if let Some(due) = self.times.remove(path) {
            self.by_time.remove(&(due, path.clone()));
        }
    }

    /// When the next one is due.
    fn next(&self) -> Option<Instant> {
        self.by_time.first_key_value().map(|((due, _), _)| *due)
    }

    /// Takes out what is due, at most `max`.
    fn take(&mut self, now: Instant, max: usize) -> Vec<(Arc<str>, Revision)> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(entry) = self.by_time.first_entry()
            && entry.key().0 <= now
        {
            let ((_, path), revision) = entry.remove_entry();
            self.times.remove(&path);
            taken.push((path, revision));
        }
        taken
    }

    fn note(&mut self, event: &Event, due: Instant) {
        if event.deleted {
            self.remove(&event.key.path);
        } else {
            self.put(&event.key.path, event.object.revision, due);
        }
    }
}

impl ApiServer {
    /// Deletes Events when their time has come, until `stop`.
    pub(crate) async fn expire_events(&self, stop: &CancellationToken) {
        let collection: Arc<str> = COLLECTION.into();
        loop {
            let snapshot = self.snapshot();
            let mut due = self.stored_events(&snapshot);
            let Ok(mut watch) = self.store.watch(&collection, "", snapshot.revision()) else { continue };
            loop {
                let next = due.next();
                let wait = async {
                    match next {
                        Some(next) => tokio::time::sleep_until(next).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = stop.cancelled() => return,
                    events = watch.next(CHANGES_AT_ONCE) => match events {
                        Ok(events) => {
                            let until = Instant::now() + self.event_ttl;
                            events.iter().for_each(|event| due.note(event, until));
                        }
                        // too far behind: what is stored says the same
                        Err(WatchError::Compacted { .. }) => break,
                        Err(WatchError::Closed) => return stop.cancelled().await,
                    },
                    () = wait => {
                        let expired = due.take(Instant::now(), DELETIONS_AT_ONCE);
                        if !self.delete_events(&expired).await {
                            let again = Instant::now() + PAUSE;
                            expired.iter().for_each(|(path, revision)| due.put(path, *revision, again));
                        }
                    }
                }
            }
        }
    }

    /// The index of what is stored at a start.
    fn stored_events(&self, snapshot: &Snapshot) -> Due {
        let (now, clock) = (Instant::now(), jiff::Timestamp::now());
        let mut due = Due::default();
        for (path, object) in snapshot.range(COLLECTION, "", None) {
            let written = codec::stored(&object.bytes).ok().and_then(|event| last_written(&event));
            let age = written.and_then(|written| Duration::try_from(clock.duration_since(written)).ok());
            let left = self.event_ttl.saturating_sub(age.unwrap_or_default());
            due.put(path, object.revision, now + left);
        }
        due
    }

    /// Deletes these Events where they are still of these revisions; false when the store takes no writes.
    async fn delete_events(&self, expired: &[(Arc<str>, Revision)]) -> bool {
        let snapshot = self.snapshot();
        let deletion = |(path, revision): &(Arc<str>, Revision)| {
            let object = snapshot.get(COLLECTION, path).filter(|object| object.revision == *revision)?;
            let object = codec::stored(&object.bytes).ok()?;
            Some(Write {
                key: Key { collection: COLLECTION.into(), path: path.clone() },
                precondition: Precondition::Revision(*revision),
                mutation: Mutation::Delete(codec::encode(&object)),
            })
        };
        let commits = expired.iter().filter_map(deletion).map(|write| self.store.commit(vec![write]));
        let results = futures::future::join_all(commits).await;
        let refused = results.into_iter().filter_map(Result::err).find(|error| {
            // somebody else wrote or deleted it: then the watch has told, or is about to
            !matches!(error, store::CommitError::Precondition { .. })
        });
        if let Some(error) = &refused {
            tracing::warn!(%error, "expired Events could not be deleted");
        }
        refused.is_none()
    }
}

/// When an Event was last written, as far as it says so itself.
fn last_written(event: &Value) -> Option<jiff::Timestamp> {
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let own = [
        &event["metadata"]["creationTimestamp"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["series"]["lastObservedTime"],
    ];
    own.into_iter().filter_map(time).max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_due_in_the_order_of_their_last_write() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let path = |name: &str| Arc::<str>::from(name);
        let mut due = Due::default();
        due.put(&path("a"), Revision(1), at(1));
        due.put(&path("b"), Revision(2), at(2));
        due.put(&path("c"), Revision(3), at(3));
        due.put(&path("a"), Revision(4), at(4));
        due.remove(&path("c"));
        assert_eq!(due.next(), Some(at(2)));
        assert!(due.take(at(1), 10).is_empty());
        assert_eq!(due.take(at(5), 1), [(path("b"), Revision(2))]);
        assert_eq!(due.take(at(5), 10), [(path("a"), Revision(4))]);
        assert!(due.next().is_none() && due.times.is_empty());
    }

    #[test]
    fn the_last_write_is_what_the_event_says() {
        let event = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "lastTimestamp": "2026-01-01T00:10:00Z",
            "eventTime": null, "series": {"lastObservedTime": "2026-01-01T00:20:00.5Z"}});
        assert_eq!(last_written(&event), Some("2026-01-01T00:20:00.5Z".parse().unwrap()));
        assert_eq!(last_written(&json!({})), None);
    }
}
