//! Watches: a bounded window of events per collection, shared by all its watchers.
//!
//! A watcher is a cursor into the window. It holds no buffer of its own, so a slow one costs nothing; when the window
//! has dropped something that it should have seen it is told [`WatchError::Compacted`]. One commit wakes a collection's
//! watchers once, and of those that watch one namespace only the ones it is about.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use parking_lot::RwLock;

use self::waiters::Waiters;
use crate::{Event, Revision, Snapshot, WatchError};

#[cfg(test)]
mod tests;
mod waiters;

/// Bounds of the windows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowLimits {
    /// Events of one collection.
    pub(crate) events: usize,
    /// Memory of one collection's events.
    pub(crate) bytes: usize,
    /// The same of a collection that is smaller than half of that: whoever missed more lists it for less than the events
    /// are. Leases, which all change every few seconds and nobody follows from long ago, would fill all windows.
    pub(crate) small: usize,
    /// Memory of all collections' events.
    pub(crate) total_bytes: usize,
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
    /// Memory that the events of all windows hold.
    held: AtomicUsize,
    /// Whose turn it is to drop events by age.
    turn: AtomicUsize,
}

#[derive(Debug, Default)]
struct Collections {
    by_name: HashMap<Arc<str>, Arc<Collection>>,
    all: Vec<Arc<Collection>>,
}

type Collection = RwLock<Window>;

/// Watchers that want to be woken for the same events.
#[derive(Debug, Default)]
struct Group {
    waiters: Waiters,
    /// How many they are; changed under the window's lock.
    members: AtomicUsize,
    /// Whether the batch that is being appended wakes them.
    due: AtomicBool,
    /// Sequence number behind the newest event of theirs that the window has dropped.
    dropped: AtomicU64,
}

/// The group of a watched prefix, and the one that an event's path is of: the namespace with its slash, or everything.
fn group(path: &str) -> &str {
    path.find('/').map_or("", |slash| &path[..=slash])
}

#[derive(Debug)]
struct Window {
    /// Sequence number of the event at the front.
    first: u64,
    /// Revision of the last event that was dropped.
    floor: Revision,
    bytes: usize,
    /// Sum of the sizes of the collection's objects.
    live: usize,
    events: VecDeque<(Instant, Arc<Event>)>,
    /// Who watches, by prefix; the empty one is woken for every event.
    groups: HashMap<Box<str>, Arc<Group>>,
}

/// What an event takes besides objects: itself, its key, and its place in the window.
const EVENT_BYTES: usize = 256;

/// Memory that is held for an event. What an object was before is nowhere else, what it became is in the snapshot; when that
/// is superseded, the event of it holds this one's.
fn held(event: &Event) -> usize {
    let last = if event.deleted { event.object.bytes.len() } else { 0 };
    EVENT_BYTES + last + event.previous.as_ref().map_or(0, |previous| previous.bytes.len())
}

impl Window {
    fn new(floor: Revision) -> Self {
        Window { first: 0, floor, bytes: 0, live: 0, events: VecDeque::new(), groups: HashMap::new() }
    }

    /// The groups that an event concerns.
    fn concerned(&self, event: &Event) -> impl Iterator<Item = &Arc<Group>> {
        let narrow = group(&event.key.path);
        let names = ["", narrow].into_iter().take(if narrow.is_empty() { 1 } else { 2 });
        names.filter_map(|name| self.groups.get(name))
    }

    fn push(&mut self, now: Instant, event: Arc<Event>, limits: &WindowLimits) {
        self.bytes += held(&event);
        let now_live = if event.deleted { 0 } else { event.object.bytes.len() };
        let was_live = event.previous.as_ref().map_or(0, |previous| previous.bytes.len());
        self.live = (self.live + now_live).saturating_sub(was_live);
        self.events.push_back((now, event));
        let bytes_max = limits.bytes.min(limits.small.max(2 * self.live));
        while self.events.len() > 1 && (self.events.len() > limits.events || self.bytes > bytes_max) {
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
            self.bytes -= held(&oldest);
            self.floor = oldest.object.revision;
            self.first += 1;
            for group in self.concerned(&oldest) {
                group.dropped.store(self.first, Ordering::Relaxed);
            }
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
            held: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
        }
    }

    /// Changes a window, and keeps count of what all of them hold.
    fn change(&self, collection: &Collection, change: impl FnOnce(&mut Window)) {
        let mut window = collection.write();
        let before = window.bytes;
        change(&mut window);
        self.held.fetch_add(window.bytes.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Drops the oldest events of those collections that hold most, where all of them together hold too much: then an
    /// eighth more than they have to, so that they are not compared for each event.
    fn relieve(&self) {
        if self.held.load(Ordering::Relaxed) <= self.limits.total_bytes {
            return;
        }
        let enough = self.limits.total_bytes - self.limits.total_bytes / 8;
        let collections = self.collections.read();
        for _ in 0..collections.all.len() {
            let excess = self.held.load(Ordering::Relaxed).saturating_sub(enough);
            let largest = collections.all.iter().max_by_key(|collection| collection.read().bytes);
            let Some(largest) = largest.filter(|_| excess > 0) else { return };
            self.change(largest, |window| {
                let enough = window.bytes.saturating_sub(excess);
                while window.events.len() > 1 && window.bytes > enough {
                    window.drop_oldest();
                }
            });
        }
    }

    fn collection(&self, name: &Arc<str>) -> Arc<Collection> {
        if let Some(known) = self.collections.read().by_name.get(name) {
            return Arc::clone(known);
        }
        let Collections { by_name, all } = &mut *self.collections.write();
        let made = by_name.entry(Arc::clone(name)).or_insert_with(|| {
            let made = Arc::new(RwLock::new(Window::new(Revision(self.origin.load(Ordering::Acquire)))));
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
            self.change(&collections.all[at], |window| window.drop_aged(now, &self.limits));
        }
    }

    /// Appends the events of a batch, in order; the batch ends at `head`. [`Windows::wake`] tells the watchers.
    pub(crate) fn append(&self, events: impl Iterator<Item = Arc<Event>>, head: Revision) -> Wake {
        let now = Instant::now();
        let mut touched: Vec<(Arc<str>, Arc<Collection>)> = Vec::new();
        let mut wake = Vec::new();
        for event in events {
            let at = match touched.iter().position(|(name, _)| *name == event.key.collection) {
                Some(at) => at,
                None => {
                    touched.push((Arc::clone(&event.key.collection), self.collection(&event.key.collection)));
                    touched.len() - 1
                }
            };
            self.change(&touched[at].1, |window| {
                wake.extend(window.concerned(&event).filter(|group| !group.due.swap(true, Ordering::Relaxed)).cloned());
                window.push(now, event, &self.limits);
            });
        }
        self.age(now);
        self.relieve();
        self.delivered.store(head.0, Ordering::Release);
        Wake(wake)
    }

    /// Takes over how large each collection is, where more than its events is known.
    pub(crate) fn measure(&self, state: &Snapshot) {
        for name in state.collections() {
            let live = state.range(name, "", None).map(|(_, object)| object.bytes.len()).sum();
            self.collection(name).write().live = live;
        }
    }

    /// Forgets every event: what led to `head` is not known. Watches that are not there yet end.
    pub(crate) fn restart(&self, head: Revision) {
        let collections = self.collections.write();
        self.origin.store(head.0, Ordering::Release);
        for collection in &collections.all {
            let mut window = collection.write();
            // one beyond the end, so that no cursor is within
            window.first = window.end() + 1;
            window.floor = head;
            self.held.fetch_sub(std::mem::take(&mut window.bytes), Ordering::Relaxed);
            window.events = VecDeque::new();
            for group in window.groups.values() {
                group.dropped.store(window.first, Ordering::Relaxed);
            }
        }
        self.delivered.store(head.0, Ordering::Release);
        wake_all(&collections.all);
    }

    /// Ends every watch.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        wake_all(&self.collections.read().all);
    }

    pub(crate) fn watch(
        self: &Arc<Self>,
        collection: &Arc<str>,
        prefix: &str,
        after: Revision,
    ) -> Result<Watch, WatchError> {
        let collection = self.collection(collection);
        let (cursor, group) = {
            let mut window = collection.write();
            if after < window.floor {
                return Err(WatchError::Compacted { oldest: window.floor });
            }
            let name = group(prefix);
            let group = match window.groups.get(name) {
                Some(known) => Arc::clone(known),
                None => Arc::clone(window.groups.entry(name.into()).or_default()),
            };
            group.members.fetch_add(1, Ordering::Relaxed);
            (window.seek(after), group)
        };
        let (place, wakes) = (group.waiters.join(), group.waiters.wakes());
        let (windows, prefix) = (Arc::clone(self), prefix.into());
        Ok(Watch { windows, collection, group, prefix, after, cursor, place, wakes, is_current: false })
    }
}

fn wake_all(collections: &[Arc<Collection>]) {
    for collection in collections {
        for group in collection.read().groups.values() {
            group.waiters.wake();
        }
    }
}

/// The watchers that a batch concerns, who are still to be woken.
#[must_use]
pub(crate) struct Wake(Vec<Arc<Group>>);

impl Wake {
    pub(crate) fn wake(self) {
        for group in self.0 {
            // before they look, so that what is appended from here on wakes them again
            group.due.store(false, Ordering::Relaxed);
            group.waiters.wake();
        }
    }
}

/// A cursor over the events of a collection whose path starts with a prefix.
#[derive(Debug)]
pub struct Watch {
    windows: Arc<Windows>,
    collection: Arc<Collection>,
    group: Arc<Group>,
    prefix: Box<str>,
    /// Events up to this revision were known before the watch began.
    after: Revision,
    /// Sequence number of the next event to look at.
    cursor: u64,
    /// Where it waits.
    place: usize,
    /// How often its group had been woken when it looked last.
    wakes: u64,
    /// Whether it took everything then.
    is_current: bool,
}

impl Watch {
    /// Waits for events and returns up to `max` of them, at least one. Loses nothing when the future is dropped.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Arc<Event>>, WatchError> {
        let mut batch = Vec::new();
        poll_fn(|cx| self.poll_next(cx, max, &mut batch)).await?;
        Ok(batch)
    }

    /// The same for who polls: fills `batch`, which is empty.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        batch: &mut Vec<Arc<Event>>,
    ) -> Poll<Result<(), WatchError>> {
        loop {
            // read before looking, so that an event between looking and waiting wakes
            let wakes = self.group.waiters.wakes();
            if self.is_current && self.wakes == wakes {
                if self.group.waiters.wait(self.place, wakes, cx.waker()) {
                    return Poll::Pending;
                }
                continue;
            }
            self.wakes = wakes;
            self.fill(max, batch)?;
            self.is_current = batch.len() < max.max(1);
            if !batch.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// The events that are there already, up to `max`; empty when there are none.
    pub fn take(&mut self, max: usize) -> Result<Vec<Arc<Event>>, WatchError> {
        let mut batch = Vec::new();
        self.fill(max, &mut batch)?;
        Ok(batch)
    }

    fn fill(&mut self, max: usize, batch: &mut Vec<Arc<Event>>) -> Result<(), WatchError> {
        {
            let window = self.collection.read();
            let skip = self.lag(&window)?;
            self.cursor = self.cursor.max(window.first);
            for (_, event) in window.events.range(skip..) {
                if batch.len() >= max.max(1) {
                    break;
                }
                self.cursor += 1;
                if self.is_about(event) {
                    batch.push(Arc::clone(event));
                }
            }
        }
        if batch.is_empty() && self.windows.closed.load(Ordering::Acquire) {
            return Err(WatchError::Closed);
        }
        Ok(())
    }

    /// The revision up to which everything was delivered. It moves with the store's head even when nothing in the
    /// collection changes: a bookmark.
    pub fn position(&self) -> Revision {
        // Read before the window: every event up to it is in the window by then.
        let delivered = Revision(self.windows.delivered.load(Ordering::Acquire));
        let window = self.collection.read();
        let Ok(skip) = self.lag(&window) else { return self.after };
        match window.events.range(skip..).map(|(_, event)| event).find(|event| self.is_about(event)) {
            Some(event) => Revision(event.object.revision.0 - 1).max(self.after),
            None => delivered.max(self.after),
        }
    }

    fn is_about(&self, event: &Event) -> bool {
        event.object.revision > self.after && event.key.path.starts_with(&*self.prefix)
    }

    /// Index of the next event in the window.
    fn lag(&self, window: &Window) -> Result<usize, WatchError> {
        match self.cursor.checked_sub(window.first) {
            Some(index) => Ok(index as usize),
            // it was never woken for what is gone, because none of that was its concern
            None if self.group.dropped.load(Ordering::Relaxed) <= self.cursor => Ok(0),
            None => Err(WatchError::Compacted { oldest: window.floor }),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.group.waiters.leave(self.place);
        let mut window = self.collection.write();
        // the last of a group takes it along
        if self.group.members.fetch_sub(1, Ordering::Relaxed) == 1 {
            window.groups.remove(group(&self.prefix));
        }
    }
}
