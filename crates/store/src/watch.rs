//! Watches: a bounded window of events per collection, shared by all its watchers.
//!
//! A watcher is a cursor into the window. It holds no buffer of its own, so a slow one costs nothing; when the window
//! moves past its cursor it is told [`WatchError::Compacted`]. One commit wakes a collection's watchers once.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::{Event, Revision, WatchError};

#[cfg(test)]
mod tests;

/// Bounds of one collection's window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowLimits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    pub(crate) age: Duration,
}

/// All windows of a store.
#[derive(Debug)]
pub(crate) struct Windows {
    limits: WindowLimits,
    /// Revision after which a window that has not dropped anything is complete.
    origin: AtomicU64,
    /// Every event up to this revision is in its window.
    delivered: AtomicU64,
    closed: AtomicBool,
    collections: RwLock<Collections>,
    /// Whose turn it is to drop events by age.
    turn: AtomicUsize,
}

#[derive(Debug, Default)]
struct Collections {
    by_name: HashMap<Arc<str>, Arc<Collection>>,
    all: Vec<Arc<Collection>>,
}

#[derive(Debug)]
struct Collection {
    window: RwLock<Window>,
    wake: Notify,
}

#[derive(Debug)]
struct Window {
    /// Sequence number of the event at the front.
    first: u64,
    /// Revision of the last event that was dropped.
    floor: Revision,
    bytes: usize,
    events: VecDeque<(Instant, Arc<Event>)>,
}

impl Window {
    fn push(&mut self, now: Instant, event: Arc<Event>, limits: &WindowLimits) {
        self.bytes += event.object.bytes.len();
        self.events.push_back((now, event));
        while self.events.len() > 1 && (self.events.len() > limits.events || self.bytes > limits.bytes) {
            self.drop_oldest();
        }
        self.drop_aged(now, limits);
    }

    fn drop_aged(&mut self, now: Instant, limits: &WindowLimits) {
        while self.events.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) > limits.age) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, oldest)) = self.events.pop_front() {
            self.bytes -= oldest.object.bytes.len();
            self.floor = oldest.object.revision;
            self.first += 1;
        }
        // A burst must not hold its memory for ever.
        if self.events.capacity() > 4 * self.events.len().max(64) {
            self.events.shrink_to(2 * self.events.len());
        }
    }

    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// Sequence number of the first event after a revision.
    fn seek(&self, after: Revision) -> u64 {
        self.first + self.events.partition_point(|(_, e)| e.object.revision <= after) as u64
    }
}

impl Windows {
    pub(crate) fn new(limits: WindowLimits, origin: Revision) -> Self {
        Windows {
            limits,
            origin: AtomicU64::new(origin.0),
            delivered: AtomicU64::new(origin.0),
            closed: AtomicBool::new(false),
            collections: RwLock::default(),
            turn: AtomicUsize::new(0),
        }
    }

    fn collection(&self, name: &Arc<str>) -> Arc<Collection> {
        if let Some(known) = self.collections.read().by_name.get(name) {
            return Arc::clone(known);
        }
        let Collections { by_name, all } = &mut *self.collections.write();
        let made = by_name.entry(Arc::clone(name)).or_insert_with(|| {
            let window = Window {
                first: 0,
                floor: Revision(self.origin.load(Ordering::Acquire)),
                bytes: 0,
                events: VecDeque::new(),
            };
            let made = Arc::new(Collection { window: RwLock::new(window), wake: Notify::new() });
            all.push(Arc::clone(&made));
            made
        });
        Arc::clone(made)
    }

    /// Drops aged events of one collection, each in its turn: nothing else would in a collection that has gone quiet.
    fn age(&self, now: Instant) {
        let collections = self.collections.read();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if let Some(at) = turn.checked_rem(collections.all.len()) {
            collections.all[at].window.write().drop_aged(now, &self.limits);
        }
    }

    /// Appends the events of a batch, in order; the batch ends at `head`. [`Windows::wake`] tells the watchers.
    pub(crate) fn append(&self, events: impl Iterator<Item = Arc<Event>>, head: Revision) -> Wake {
        let now = Instant::now();
        let mut touched: Vec<(Arc<str>, Arc<Collection>)> = Vec::new();
        for event in events {
            let at = match touched.iter().position(|(name, _)| *name == event.key.collection) {
                Some(at) => at,
                None => {
                    touched.push((Arc::clone(&event.key.collection), self.collection(&event.key.collection)));
                    touched.len() - 1
                }
            };
            touched[at].1.window.write().push(now, event, &self.limits);
        }
        self.age(now);
        self.delivered.store(head.0, Ordering::Release);
        Wake(touched)
    }

    /// Forgets every event: what led to `head` is not known. Watches that are not there yet end.
    pub(crate) fn restart(&self, head: Revision) {
        let collections = self.collections.write();
        self.origin.store(head.0, Ordering::Release);
        for collection in &collections.all {
            let mut window = collection.window.write();
            // one beyond the end, so that no cursor is within
            window.first = window.end() + 1;
            window.floor = head;
            window.bytes = 0;
            window.events = VecDeque::new();
        }
        self.delivered.store(head.0, Ordering::Release);
        for collection in &collections.all {
            collection.wake.notify_waiters();
        }
    }

    /// Ends every watch.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for collection in &self.collections.read().all {
            collection.wake.notify_waiters();
        }
    }

    pub(crate) fn watch(
        self: &Arc<Self>,
        collection: &Arc<str>,
        prefix: &str,
        after: Revision,
    ) -> Result<Watch, WatchError> {
        let collection = self.collection(collection);
        let cursor = {
            let window = collection.window.read();
            if after < window.floor {
                return Err(WatchError::Compacted { oldest: window.floor });
            }
            window.seek(after)
        };
        Ok(Watch { windows: Arc::clone(self), collection, prefix: prefix.into(), after, cursor })
    }
}

/// The collections that a batch touched, whose watchers are still to be woken.
#[must_use]
pub(crate) struct Wake(Vec<(Arc<str>, Arc<Collection>)>);

impl Wake {
    pub(crate) fn wake(self) {
        for (_, collection) in self.0 {
            collection.wake.notify_waiters();
        }
    }
}

/// A cursor over the events of a collection whose path starts with a prefix.
#[derive(Debug)]
pub struct Watch {
    windows: Arc<Windows>,
    collection: Arc<Collection>,
    prefix: Box<str>,
    /// Events up to this revision were known before the watch began.
    after: Revision,
    /// Sequence number of the next event to look at.
    cursor: u64,
}

impl Watch {
    /// Waits for events and returns up to `max` of them, at least one. Loses nothing when the future is dropped.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Arc<Event>>, WatchError> {
        let collection = Arc::clone(&self.collection);
        loop {
            let mut woken = pin!(collection.wake.notified());
            // Registered before looking, so that an event between looking and waiting wakes.
            woken.as_mut().enable();
            let batch = self.take(max)?;
            if !batch.is_empty() {
                return Ok(batch);
            }
            woken.await;
        }
    }

    /// The events that are there already, up to `max`; empty when there are none.
    pub fn take(&mut self, max: usize) -> Result<Vec<Arc<Event>>, WatchError> {
        let mut batch = Vec::new();
        {
            let window = self.collection.window.read();
            let skip = self.lag(&window)?;
            for (_, event) in window.events.range(skip..) {
                if batch.len() >= max.max(1) {
                    break;
                }
                self.cursor += 1;
                if event.object.revision > self.after && event.key.path.starts_with(&*self.prefix) {
                    batch.push(Arc::clone(event));
                }
            }
        }
        if batch.is_empty() && self.windows.closed.load(Ordering::Acquire) {
            return Err(WatchError::Closed);
        }
        Ok(batch)
    }

    /// The revision up to which everything was delivered. It moves with the store's head even when nothing in the
    /// collection changes: a bookmark.
    pub fn position(&self) -> Revision {
        // Read before the window: every event up to it is in the window by then.
        let delivered = Revision(self.windows.delivered.load(Ordering::Acquire));
        let window = self.collection.window.read();
        let next = self
            .lag(&window)
            .ok()
            .and_then(|skip| window.events.range(skip..).map(|(_, e)| e).find(|e| e.object.revision > self.after));
        match next {
            Some(event) => Revision(event.object.revision.0 - 1).max(self.after),
            None if self.cursor < window.first => self.after,
            None => delivered.max(self.after),
        }
    }

    /// Index of the next event in the window.
    fn lag(&self, window: &Window) -> Result<usize, WatchError> {
        let index = self.cursor.checked_sub(window.first);
        index.map(|i| i as usize).ok_or(WatchError::Compacted { oldest: window.floor })
    }
}
