//! Remembers writes whose effect an informer has not shown yet, so that no decision rests on a cache that lags behind
//! one's own writes.
//!
//! Upstream counts expected creations and deletions. Here the resource versions of the answers are compared with what the
//! cache has seen, which needs no counting and cannot be confused by other writers.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use parking_lot::Mutex;
use reconcile::{Change, Key};
use tokio::time::Instant;

/// After this long a write counts as seen whatever the cache says, upstream's time-out for expectations: a wrong guess is
/// corrected by the next reconcile, a lost one would block forever.
const PENDING_MAX: Duration = Duration::from_secs(300);
/// How soon to look again when the cache lags: normally a change of the object comes first.
pub(crate) const LAG_RETRY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Pending {
    /// Highest resource version written.
    revision: u64,
    /// Uids of objects whose deletion was asked for, with their names.
    deletions: Vec<(String, String)>,
    since: Option<Instant>,
    /// Resource versions of one's own writes that the cache has not told of.
    echoes: Vec<u64>,
    /// Somebody was sent away because of the lag, and waits for the cache.
    is_awaited: bool,
}

/// Writes not seen yet, per key; bounded by the objects being worked on.
#[derive(Default)]
pub(crate) struct PendingWrites {
    by_key: Mutex<HashMap<Key, Pending>>,
}

impl PendingWrites {
    /// Notes the answer to a create or update made for `key`.
    pub(crate) fn wrote(&self, key: &Key, answer: &ObjectMeta) {
        let revision = revision_of(answer);
        let mut by_key = self.by_key.lock();
        let pending = by_key.entry(key.clone()).or_default();
        pending.revision = pending.revision.max(revision);
        pending.echoes.push(revision);
        pending.since = Some(Instant::now());
    }

    /// Notes that the deletion of an object was asked for on behalf of `key`.
    pub(crate) fn deleted(&self, key: &Key, object: &ObjectMeta) {
        let mut by_key = self.by_key.lock();
        let pending = by_key.entry(key.clone()).or_default();
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        pending.deletions.push((text(&object.name), text(&object.uid)));
        pending.since = Some(Instant::now());
    }

    /// Whether a cache that has seen `revision` lags behind the writes made for `key`. `leaving` says whether the object of
    /// that name and uid is gone from the cache or marked as being deleted.
    pub(crate) fn lags(&self, key: &Key, revision: u64, leaving: impl Fn(&str, &str) -> bool) -> bool {
        let mut by_key = self.by_key.lock();
        let Some(pending) = by_key.get_mut(key) else { return false };
        pending.deletions.retain(|(name, uid)| !leaving(name, uid));
        // Revision 0 means that this server's resource versions are not numbers.
        let unseen = (revision > 0 && pending.revision > revision) || !pending.deletions.is_empty();
        let lags = unseen && pending.since.is_some_and(|since| since.elapsed() < PENDING_MAX);
        pending.is_awaited = lags;
        if !lags {
            by_key.remove(key);
        }
        lags
    }

    /// Whether a change shows only what was written for `key`, and nobody waits for it.
    pub(crate) fn is_echo<K: Resource>(&self, key: &Key, change: &Change<K>) -> bool {
        let mut by_key = self.by_key.lock();
        let Some(pending) = by_key.get_mut(key) else { return false };
        let meta = change.object().meta();
        let is_own = match change {
            Change::Applied { .. } => {
                let revision = revision_of(meta);
                let before = pending.echoes.len();
                pending.echoes.retain(|echo| *echo != revision);
                pending.echoes.len() < before
            }
            Change::Deleted(_) => pending.deletions.iter().any(|(_, uid)| Some(uid) == meta.uid.as_ref()),
        };
        is_own && !pending.is_awaited
    }

    /// Forgets what was written for `key`.
    pub(crate) fn forget(&self, key: &Key) {
        self.by_key.lock().remove(key);
    }
}

/// 0 where this server's resource versions are not numbers.
fn revision_of(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cache_lags_until_it_shows_all_writes() {
        let writes = PendingWrites::default();
        let key = Key::new("default", "web");
        let meta = |version: &str| ObjectMeta {
            name: Some("p".into()),
            uid: Some("u".into()),
            resource_version: Some(version.into()),
            ..ObjectMeta::default()
        };
        assert!(!writes.lags(&key, 5, |_, _| false));
        writes.wrote(&key, &meta("12"));
        writes.wrote(&key, &meta("10"));
        assert!(writes.lags(&key, 11, |_, _| true));
        assert!(!writes.lags(&key, 12, |_, _| true));

        writes.deleted(&key, &meta("13"));
        assert!(writes.lags(&key, 50, |name, uid| (name, uid) != ("p", "u")));
        assert!(!writes.lags(&key, 50, |_, _| true));

        writes.wrote(&key, &meta("99"));
        tokio::time::advance(PENDING_MAX).await;
        assert!(!writes.lags(&key, 50, |_, _| true), "given up in the end");
    }
    #[tokio::test]
    async fn ones_own_write_is_an_echo_once_unless_somebody_waits_for_it() {
        use k8s_openapi::api::core::v1::ConfigMap;
        use std::sync::Arc;

        let writes = PendingWrites::default();
        let key = Key::new("default", "web");
        let at = |version: &str| {
            let metadata = ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() };
            Change::Applied { old: None, new: Arc::new(ConfigMap { metadata, ..ConfigMap::default() }) }
        };
        let wrote = |version: &str| writes.wrote(&key, at(version).object().meta());
        assert!(!writes.is_echo(&key, &at("5")));
        wrote("7");
        assert!(!writes.is_echo(&key, &at("6")) && writes.is_echo(&key, &at("7")) && !writes.is_echo(&key, &at("7")));
        wrote("9");
        assert!(writes.lags(&key, 8, |_, _| true));
        assert!(!writes.is_echo(&key, &at("9")), "who was sent away is called back");
    }
}
