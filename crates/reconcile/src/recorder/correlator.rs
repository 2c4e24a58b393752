//! Decides what becomes of an event: a new object, a higher count on an old one, or nothing.
//!
//! The three steps are client-go's. Each object may cause a burst of events that refills slowly; more than a few *different*
//! messages with one reason in a short time are combined into one event; equal events raise a count.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::{SignedDuration, Timestamp};

use super::Occurrence;

/// Objects, reasons and messages remembered; client-go's cache size. The oldest is forgotten first.
const REMEMBERED_MAX: usize = 4096;
/// Events one object may cause at once.
const BURST: f64 = 25.0;
/// Events per second by which an object's allowance refills: one every five minutes.
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
/// Different messages with the same reason before they are combined.
const SIMILAR_MAX: usize = 10;
/// Messages count as similar when no more time than this lies between them.
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_secs(600);

/// What to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The object has caused too many events.
    Drop,
    /// Create an event object.
    New { name: String, message: String },
    /// Raise the count of an event object that exists.
    Again { name: String, message: String, count: i32, first: Timestamp },
}

struct Allowance {
    tokens: f64,
    at: Timestamp,
}

struct Similar {
    messages: HashSet<u64>,
    at: Timestamp,
}

struct Written {
    name: String,
    count: i32,
    first: Timestamp,
}

/// A map that forgets its oldest entry when it is full.
struct Remembered<V> {
    entries: HashMap<u64, V>,
    order: VecDeque<u64>,
}

impl<V> Default for Remembered<V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<V> Remembered<V> {
    fn entry(&mut self, key: u64, new: impl FnOnce() -> V) -> &mut V {
        if !self.entries.contains_key(&key) {
            if self.order.len() >= REMEMBERED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
            self.order.push_back(key);
        }
        self.entries.entry(key).or_insert_with(new)
    }
}

/// The memory of a recorder.
#[derive(Default)]
pub(super) struct Correlator {
    allowances: Remembered<Allowance>,
    similar: Remembered<Similar>,
    written: Remembered<Option<Written>>,
}

impl Correlator {
    /// Decides on one occurrence.
    pub(super) fn observe(&mut self, occurrence: &Occurrence) -> Verdict {
        let now = occurrence.at;
        let about = &occurrence.about;
        let object = fingerprint(&(&about.kind, &about.namespace, &about.name, &about.uid, &about.api_version));
        if !self.allow(object, now) {
            return Verdict::Drop;
        }
        let group = fingerprint(&(object, &about.field_path, occurrence.kind, &occurrence.reason));
        let exact = fingerprint(&(group, &occurrence.message));

        let similar = self.similar.entry(group, || Similar { messages: HashSet::new(), at: now });
        if now.duration_since(similar.at) > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.at = now;
        let combine = similar.messages.len() >= SIMILAR_MAX && !similar.messages.contains(&exact);
        let (key, message) = if combine {
            (group, format!("(combined from similar events): {}", occurrence.message))
        } else {
            similar.messages.insert(exact);
            (exact, occurrence.message.clone())
        };

        match self.written.entry(key, || None) {
            Some(written) => {
                written.count = written.count.saturating_add(1);
                Verdict::Again { name: written.name.clone(), message, count: written.count, first: written.first }
            }
            unwritten => {
                let object = about.name.as_deref().unwrap_or_default();
                // Names must differ between messages recorded in one nanosecond.
                let unique = (now.as_nanosecond() as u64).wrapping_add(key & 0xffff);
                let name = format!("{object}.{unique:x}");
                *unwritten = Some(Written { name: name.clone(), count: 1, first: now });
                Verdict::New { name, message }
            }
        }
    }

    fn allow(&mut self, object: u64, now: Timestamp) -> bool {
        let allowance = self.allowances.entry(object, || Allowance { tokens: BURST, at: now });
        let elapsed = now.duration_since(allowance.at).as_secs_f64().max(0.0);
        allowance.tokens = (allowance.tokens + elapsed * REFILL_PER_SECOND).min(BURST);
        allowance.at = now;
        if allowance.tokens < 1.0 {
            return false;
        }
        allowance.tokens -= 1.0;
        true
    }
}

fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
