//! An object as a cache keeps it: its bytes for good, decoded for as long as somebody is likely to look at it.
//!
//! Decoded, a pod takes ten times the memory of its JSON, and of ten thousand pods next to none is looked at in a minute.
//! Where the process holds the object's bytes anyway (see [`Original`]), a cache that nobody asks costs a few pointers an
//! object.

use std::borrow::Borrow;
use std::cmp::Ordering as Order;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Object;
use crate::events::EventError;
use crate::path::Path;

/// Decoded objects that a cache keeps in any case: most collections are small, and are to cost nothing twice.
const DECODED_MIN: usize = 64;
/// Decoded objects that a cache keeps at most, some 25 MiB of pods: who works on more than that at once decodes again.
const DECODED_MAX: usize = 2048;
/// How long an object stays decoded after somebody has looked at it: a controller that was told of a change looks again
/// while it brings the next ones about.
const DECODED_FOR: Duration = Duration::from_secs(20);
/// How often objects that nobody looks at are searched for, among those that are decoded.
const PERIOD: Duration = Duration::from_secs(5);

/// Where the bytes of a member lie that no controller reads and that is nearly half of an object.
const MANAGED_FIELDS: [&str; 2] = ["metadata", "managedFields"];

/// What this process holds of an object.
#[derive(Clone, Debug)]
pub struct Held {
    /// `namespace/name`, or `name`.
    pub path: Arc<str>,
    /// Its present bytes, as the API serves them.
    pub bytes: Bytes,
}

/// What this process holds of an object of one kind, given by namespace and name. What a cache keeps can then be the same
/// pieces of memory.
pub type Original = Arc<dyn Fn(&str, &str) -> Option<Held> + Send + Sync>;

/// Whether what is held of an object is what arrived: it may have changed since, or be shown otherwise than it is held.
fn is_same<K: Object>(held: &[u8], served: &[u8], object: &K) -> bool {
    if !K::metadata_api() {
        return *held == *served;
    }
    let version = splice::find(held, &["metadata", "resourceVersion"]).map(|place| &held[place]);
    let version = version.and_then(|version| version.strip_prefix(b"\"")?.strip_suffix(b"\""));
    version
        .is_some_and(|version| object.meta().resource_version.as_deref().is_some_and(|own| *own.as_bytes() == *version))
}

/// The object without its managed fields; `None` when it has none.
fn lean(object: &[u8]) -> Option<Vec<u8>> {
    let place = splice::find(object, &MANAGED_FIELDS).filter(|place| object[place.clone()] != *b"null")?;
    let mut lean = Vec::with_capacity(object.len() - place.len() + 4);
    lean.extend_from_slice(&object[..place.start]);
    lean.extend_from_slice(b"null");
    lean.extend_from_slice(&object[place.end..]);
    Some(lean)
}

fn decode<K: Object>(object: &[u8]) -> Result<K, serde_json::Error> {
    serde_json::from_slice(lean(object).as_deref().unwrap_or(object))
}

/// An object of a cache.
pub(crate) struct Kept<K> {
    path: Path,
    bytes: Bytes,
    decoded: Mutex<Option<Arc<K>>>,
    /// Whether somebody has looked at it since that was asked last.
    looked_at: AtomicBool,
    recent: Arc<Recent<K>>,
}

impl<K: Object> Kept<K> {
    /// Decodes an object as it arrived. Its bytes are those that are held already, or a copy without what nobody reads.
    pub(crate) fn new(
        served: &[u8],
        original: Option<&Original>,
        recent: &Arc<Recent<K>>,
    ) -> Result<Arc<Self>, EventError> {
        let lean = lean(served);
        let object: K = serde_json::from_slice(lean.as_deref().unwrap_or(served)).map_err(EventError::Decode)?;
        let meta = object.meta();
        let name = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let held = original.and_then(|original| original(name.0, name.1));
        let (path, held) = held.map(|held| (held.path, held.bytes)).unzip();
        let path = Path::of(&object, path);
        let bytes = match (held.filter(|held| is_same(held, served, &object)), lean) {
            (Some(held), _) => held,
            (None, Some(lean)) => lean.into(),
            (None, None) => Bytes::copy_from_slice(served),
        };
        let kept = Arc::new(Self {
            path,
            bytes,
            decoded: Mutex::new(Some(Arc::new(object))),
            looked_at: AtomicBool::new(false),
            recent: Arc::clone(recent),
        });
        recent.note(&kept);
        Ok(kept)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The object, decoded if it is not.
    pub(crate) fn object(self: &Arc<Self>) -> Arc<K> {
        self.looked_at.store(true, Ordering::Relaxed);
        let object = {
            let mut decoded = self.decoded.lock();
            if let Some(object) = &*decoded {
                return Arc::clone(object);
            }
            let object = Arc::new(decode(&self.bytes).expect("the same was decoded when it arrived"));
            Arc::clone(decoded.insert(object))
        };
        self.recent.note(self);
        object
    }

    fn forget(&self) {
        // dropped behind the lock
        let _forgotten = self.decoded.lock().take();
    }
}

/// An object among those of its namespace, found by its name.
pub(crate) struct ByName<K>(pub(crate) Arc<Kept<K>>);

impl<K> Borrow<str> for ByName<K> {
    fn borrow(&self) -> &str {
        self.0.path.name()
    }
}

impl<K> Ord for ByName<K> {
    fn cmp(&self, other: &Self) -> Order {
        self.0.path.name().cmp(other.0.path.name())
    }
}

impl<K> PartialOrd for ByName<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl<K> PartialEq for ByName<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl<K> Eq for ByName<K> {}

/// An object among others of its kind, found by its path.
pub(crate) struct ByPath<K>(pub(crate) Arc<Kept<K>>);

impl<K> Borrow<Path> for ByPath<K> {
    fn borrow(&self) -> &Path {
        &self.0.path
    }
}

impl<K> Ord for ByPath<K> {
    fn cmp(&self, other: &Self) -> Order {
        self.0.path.cmp(&other.0.path)
    }
}

impl<K> PartialOrd for ByPath<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl<K> PartialEq for ByPath<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0.path == other.0.path
    }
}

impl<K> Eq for ByPath<K> {}

/// The objects of one cache that are decoded, those first that have been for longest. Each is in here once.
pub(crate) struct Recent<K> {
    decoded: Mutex<VecDeque<(Instant, Weak<Kept<K>>)>>,
    /// Told when more are decoded than are kept in any case.
    grown: Notify,
}

impl<K: Object> Recent<K> {
    pub(crate) fn new() -> Self {
        Self { decoded: Mutex::default(), grown: Notify::new() }
    }

    /// Takes in an object that has just been decoded.
    fn note(&self, kept: &Arc<Kept<K>>) {
        let mut decoded = self.decoded.lock();
        decoded.push_back((Instant::now(), Arc::downgrade(kept)));
        if decoded.len() == DECODED_MIN + 1 {
            self.grown.notify_one();
        }
        let oldest = if decoded.len() > DECODED_MAX { decoded.pop_front() } else { None };
        drop(decoded);
        if let Some(oldest) = oldest.and_then(|(_, oldest)| oldest.upgrade()) {
            oldest.forget();
        }
    }

    /// Lets go of what nobody has looked at for a while; tells whether there may be more of it later.
    fn age(&self, now: Instant) -> bool {
        let (mut seen, end) = (0, self.decoded.lock().len());
        loop {
            let mut decoded = self.decoded.lock();
            let is_old = |(since, _): &(Instant, Weak<Kept<K>>)| now.saturating_duration_since(*since) >= DECODED_FOR;
            if seen == end || decoded.len() <= DECODED_MIN || !decoded.front().is_some_and(is_old) {
                // a burst must not hold its memory for ever
                if decoded.capacity() > 4 * decoded.len().max(DECODED_MIN) {
                    decoded.shrink_to_fit();
                }
                return decoded.len() > DECODED_MIN;
            }
            seen += 1;
            let Some(oldest) = decoded.pop_front().and_then(|(_, oldest)| oldest.upgrade()) else { continue };
            if oldest.looked_at.swap(false, Ordering::Relaxed) {
                decoded.push_back((now, Arc::downgrade(&oldest)));
            } else {
                drop(decoded);
                oldest.forget();
            }
        }
    }

    /// Lets go of objects as they age, for ever.
    pub(crate) async fn keep_small(&self) {
        loop {
            self.grown.notified().await;
            while self.age(Instant::now()) {
                tokio::time::sleep(PERIOD).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
