//! A keyed work queue with the semantics of client-go's workqueue.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::report::{self, Counted, Counts, Times};

#[cfg(test)]
mod tests;

/// First pause after a failure, client-go's value.
const RETRY_MIN: Duration = Duration::from_millis(5);
/// Longest pause after failures, client-go's value.
const RETRY_MAX: Duration = Duration::from_secs(1000);
/// Keys that there is room for in any case; what a burst needed beyond it is given back.
const ROOM_KEPT: usize = 256;

/// Keys waiting for work.
///
/// Equal keys are merged. A key taken with [`Queue::get`] is not handed out again before [`Queue::done`]; when it was added
/// meanwhile it is then queued again, so no change is missed and no key is worked on twice at once. The queue is bounded by
/// the number of distinct keys, which is the number of objects they name.
pub struct Queue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    /// In the order of arrival; each key is also in `dirty`.
    ready: VecDeque<K>,
    /// Needs work, since when: ready, or to become ready when the run under way is done.
    dirty: HashMap<K, Instant>,
    /// Being worked on, since when.
    processing: HashMap<K, Instant>,
    /// Waiting for a time; the number keeps equal times apart.
    delayed: BTreeMap<(Instant, u64), K>,
    delayed_at: HashMap<K, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<K, u32>,
    closed: bool,
    added: u64,
    retried: u64,
    queued: Times,
    worked: Times,
}

impl<K: Send> Counted for Shared<K> {
    fn counts(&self) -> Counts {
        let state = self.state.lock();
        let now = Instant::now();
        let running = || state.processing.values().map(|since| now.saturating_duration_since(*since));
        Counts {
            added: state.added,
            retried: state.retried,
            waiting: state.ready.len() as u64,
            queued: state.queued,
            worked: state.worked,
            unfinished: running().sum(),
            longest: running().max().unwrap_or_default(),
        }
    }
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            processing: HashMap::new(),
            delayed: BTreeMap::new(),
            delayed_at: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
            closed: false,
            added: 0,
            retried: 0,
            queued: Times::default(),
            worked: Times::default(),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }) }
    }

    /// Has the queue shown as the one of a controller.
    pub(crate) fn watched_as(&self, controller: &'static str)
    where
        K: Send + 'static,
    {
        report::watch(controller, &self.shared);
    }

    /// Queues `key` now, unless it is queued already.
    pub fn add(&self, key: K) {
        self.shared.state.lock().add(key, Instant::now());
        self.shared.changed.notify_one();
    }

    /// Queues `key` after `delay`; of several delays of one key the earliest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.shared.state.lock().delay(key, Instant::now() + delay);
        self.shared.changed.notify_one();
    }

    /// Queues `key` after a pause that doubles with each failure since the last [`Queue::forget`]; returns the pause.
    pub fn retry(&self, key: K) -> Duration {
        let pause = {
            let mut state = self.shared.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let pause = RETRY_MIN.saturating_mul(1 << (*failures).min(30)).min(RETRY_MAX);
            *failures = failures.saturating_add(1);
            state.retried += 1;
            pause
        };
        self.add_after(key, pause);
        pause
    }

    /// Ends the back-off of `key`.
    pub fn forget(&self, key: &K) {
        let mut state = self.shared.state.lock();
        state.failures.remove(key);
        shrink(&mut state.failures);
    }

    /// How often `key` has failed since the last [`Queue::forget`].
    pub fn failures(&self, key: &K) -> u32 {
        self.shared.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// How many keys are ready.
    pub fn len(&self) -> usize {
        self.shared.state.lock().ready.len()
    }

    /// Whether no key is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes all waiting and future [`Queue::get`] calls return `None`.
    pub fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_waiters();
        self.shared.changed.notify_one();
    }

    /// Takes the next key, waiting for one; `None` once the queue is closed. Cancelling the wait loses no key.
    pub async fn get(&self) -> Option<K> {
        loop {
            let changed = self.shared.changed.notified();
            let next = {
                let mut state = self.shared.state.lock();
                if state.closed {
                    return None;
                }
                let now = Instant::now();
                state.promote(now);
                if let Some(key) = state.take(now) {
                    if !state.ready.is_empty() {
                        // Another waiter may have been told of only one of several keys.
                        self.shared.changed.notify_one();
                    }
                    return Some(key);
                }
                state.delayed.first_key_value().map(|((at, _), _)| *at)
            };
            match next {
                None => changed.await,
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
            }
        }
    }

    /// Reports that the work on a key taken with [`Queue::get`] is over.
    pub fn done(&self, key: &K) {
        let mut state = self.shared.state.lock();
        if let Some(since) = state.processing.remove(key) {
            state.worked.note(since.elapsed());
        }
        if state.dirty.contains_key(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.shared.changed.notify_one();
        }
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn add(&mut self, key: K, now: Instant) {
        if self.closed || self.dirty.contains_key(&key) {
            return;
        }
        self.dirty.insert(key.clone(), now);
        self.added += 1;
        if !self.processing.contains_key(&key) {
            self.ready.push_back(key);
        }
    }

    fn delay(&mut self, key: K, at: Instant) {
        if self.closed {
            return;
        }
        if let Some(existing) = self.delayed_at.get(&key) {
            if existing.0 <= at {
                return;
            }
            self.delayed.remove(existing);
        }
        self.sequence += 1;
        let slot = (at, self.sequence);
        self.delayed.insert(slot, key.clone());
        self.delayed_at.insert(key, slot);
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.delayed_at.remove(&key);
            shrink(&mut self.delayed_at);
            self.add(key, now);
        }
    }

    fn take(&mut self, now: Instant) -> Option<K> {
        let key = self.ready.pop_front()?;
        if let Some(since) = self.dirty.remove(&key) {
            self.queued.note(now.saturating_duration_since(since));
            shrink(&mut self.dirty);
        }
        if self.ready.capacity() > ROOM_KEPT.max(4 * self.ready.len()) {
            self.ready.shrink_to(2 * self.ready.len());
        }
        self.processing.insert(key.clone(), now);
        Some(key)
    }
}

/// Gives back the room of a map that has become much smaller.
fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > ROOM_KEPT.max(4 * map.len()) {
        map.shrink_to(2 * map.len());
    }
}
