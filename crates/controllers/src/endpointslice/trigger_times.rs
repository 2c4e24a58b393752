//! When that happened which a change of endpoints answers: `endpoints.kubernetes.io/last-change-trigger-time`, from which
//! users reckon how long the network takes to follow.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::Mutex;
use reconcile::Key;

use crate::pods;

/// What was seen of a service last: two numbers for each pod, as there are many.
#[derive(Default)]
struct Seen {
    service: Option<Timestamp>,
    /// By the hash of the uid, when the pod's readiness changed.
    pods: HashMap<u64, i64>,
}

/// What was seen of every service; as long as there are services.
#[derive(Default)]
pub(crate) struct TriggerTimes {
    seen: Mutex<HashMap<Key, Seen>>,
}

impl TriggerTimes {
    /// The earliest of the changes since the last call for this service; of one that is new here, its creation. Nothing
    /// when all was known.
    pub(crate) fn next(&self, key: &Key, service: &Service, pods: &[Arc<Pod>]) -> Option<String> {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let mut now = Seen { service: created, pods: HashMap::with_capacity(pods.len()) };
        let mut seen = self.seen.lock();
        let before = seen.get(key);
        let is_new = before.is_none();
        let empty = Seen::default();
        let before = before.unwrap_or(&empty);
        let mut first: Option<Timestamp> = None;
        for pod in pods {
            let changed = pods::condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
            let Some(changed) = changed.map(|time| time.0) else { continue };
            let id = hash(pod.metadata.uid.as_deref().unwrap_or_default());
            now.pods.insert(id, changed.as_second());
            if before.pods.get(&id).is_none_or(|known| changed.as_second() > *known) {
                first = Some(first.map_or(changed, |first| first.min(changed)));
            }
        }
        if before.service < created {
            first = first.into_iter().chain(created).min();
        }
        seen.insert(key.clone(), now);
        drop(seen);
        let answer = if is_new { created } else { first };
        answer.map(|time| time.to_string())
    }

    /// The service is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.seen.lock().remove(key);
    }
}

fn hash(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, ready_since: &str) -> Arc<Pod> {
        let conditions = json!([{"type": "Ready", "status": "True", "lastTransitionTime": ready_since}]);
        let pod = json!({"metadata": {"uid": uid}, "status": {"conditions": conditions}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn service(created: &str) -> Service {
        serde_json::from_value(json!({"metadata": {"creationTimestamp": created}})).unwrap()
    }

    #[test]
    fn the_earliest_change_since_the_last_look_is_the_trigger() {
        let (times, key) = (TriggerTimes::default(), Key::new("a", "b"));
        let born = service("2026-01-01T00:00:00Z");
        let next = |service: &Service, pods: &[Arc<Pod>]| times.next(&key, service, pods);
        let early = pod("1", "2026-01-01T00:00:05Z");
        assert_eq!(next(&born, std::slice::from_ref(&early)).as_deref(), Some("2026-01-01T00:00:00Z"), "a new service");
        assert_eq!(next(&born, std::slice::from_ref(&early)), None, "nothing has changed");
        let both = [pod("1", "2026-01-01T00:00:09Z"), pod("2", "2026-01-01T00:00:07Z")];
        assert_eq!(next(&born, &both).as_deref(), Some("2026-01-01T00:00:07Z"));
        assert_eq!(next(&born, &both[..1]), None, "that a pod has gone has no time");
        assert_eq!(next(&born, &both).as_deref(), Some("2026-01-01T00:00:07Z"), "one that comes back is new");
        let again = service("2026-01-02T00:00:00Z");
        assert_eq!(next(&again, &both).as_deref(), Some("2026-01-02T00:00:00Z"), "a new service of that name");
        times.forget(&key);
        assert_eq!(next(&born, &[]).as_deref(), Some("2026-01-01T00:00:00Z"));
    }
}
