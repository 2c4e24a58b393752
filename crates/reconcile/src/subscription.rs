//! What subscribers of an informer receive, and the backlog in which it waits for them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Object;
use crate::kept::Kept;
use crate::path::Path;

/// Changes that may wait as they came. Who falls behind further gets those of one object as one.
const UNMERGED_MAX: usize = 256;
/// Changes that a backlog has room for in any case: every subscriber of a kind gets every burst, and is to be small after it.
const ROOM_KEPT: usize = 256;

/// A change of one object.
#[derive(Debug)]
pub enum Change<K> {
    /// The object was created or modified.
    Applied {
        /// What the subscriber saw before; `None` when the object is new to it.
        old: Option<Arc<K>>,
        /// What the object is now.
        new: Arc<K>,
    },
    /// The object is gone; this is its last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object's newest known state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Applied { new, .. } | Self::Deleted(new) => new,
        }
    }
}

/// A change on its way to all subscribers.
pub(crate) enum Told<T> {
    Applied { path: Path, old: Option<Arc<T>>, new: Arc<T> },
    Deleted { path: Path, last: Arc<T> },
}

/// What came together. All subscribers share it, so that each of them costs no more than a pointer.
pub(crate) type Batch<T> = Arc<[Told<T>]>;

impl<T> Told<T> {
    fn change(&self) -> Change<T> {
        match self {
            Self::Applied { old, new, .. } => Change::Applied { old: old.clone(), new: Arc::clone(new) },
            Self::Deleted { last, .. } => Change::Deleted(Arc::clone(last)),
        }
    }
}

/// What one object has waiting: a deletion, an application, or a deletion followed by an application (a new object of
/// the same name).
struct Waiting<T> {
    deleted: Option<Arc<T>>,
    applied: Option<(Option<Arc<T>>, Arc<T>)>,
}

/// Changes of which those of one object are one.
struct Merged<T> {
    order: VecDeque<Path>,
    waiting: HashMap<Path, Waiting<T>>,
}

struct Backlog<T> {
    /// Comes first, and when there is any, what is new goes there too.
    merged: Merged<T>,
    batches: VecDeque<Batch<T>>,
    /// How much of the first batch has been taken.
    taken: usize,
    /// Changes in the batches that have not been taken.
    unmerged: usize,
    closed: bool,
}

/// The sending half, held by the cache. What waits is as the cache keeps it: a slow subscriber holds nothing decoded.
pub(crate) struct Mailbox<T> {
    backlog: Mutex<Backlog<T>>,
    arrived: Notify,
}

impl<T> Mailbox<T> {
    /// One that begins with these changes.
    pub(crate) fn new(first: Batch<T>) -> Self {
        let merged = Merged { order: VecDeque::new(), waiting: HashMap::new() };
        let unmerged = first.len();
        let backlog = Backlog { merged, batches: VecDeque::from([first]), taken: 0, unmerged, closed: false };
        Self { backlog: Mutex::new(backlog), arrived: Notify::new() }
    }

    /// Adds changes; [`Mailbox::announce`] wakes the subscriber.
    pub(crate) fn put(&self, batch: &Batch<T>) {
        self.backlog.lock().put(batch);
    }

    /// Wakes the subscriber.
    pub(crate) fn announce(&self) {
        self.arrived.notify_one();
    }

    async fn next(&self) -> Option<Change<T>> {
        loop {
            {
                let mut backlog = self.backlog.lock();
                if let Some(change) = backlog.pop() {
                    return Some(change);
                }
                if backlog.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    fn try_next(&self) -> Option<Change<T>> {
        self.backlog.lock().pop()
    }

    /// Ends the subscription after what already waits.
    pub(crate) fn close(&self) {
        self.backlog.lock().closed = true;
        self.arrived.notify_one();
    }
}

impl<T> Backlog<T> {
    fn put(&mut self, batch: &Batch<T>) {
        self.batches.push_back(Arc::clone(batch));
        self.unmerged += batch.len();
        if self.unmerged > UNMERGED_MAX || !self.merged.order.is_empty() {
            for batch in self.batches.drain(..) {
                batch.iter().skip(std::mem::take(&mut self.taken)).for_each(|told| self.merged.add(told));
            }
            self.unmerged = 0;
        }
    }

    fn pop(&mut self) -> Option<Change<T>> {
        if let Some(change) = self.merged.pop() {
            return Some(change);
        }
        loop {
            match self.batches.front()?.get(self.taken) {
                Some(told) => {
                    self.taken += 1;
                    self.unmerged -= 1;
                    return Some(told.change());
                }
                None => {
                    self.batches.pop_front();
                    self.taken = 0;
                }
            }
        }
    }
}

impl<T> Merged<T> {
    fn add(&mut self, told: &Told<T>) {
        match told {
            Told::Applied { path, old, new } => self.applied(path, old.as_ref(), new),
            Told::Deleted { path, last } => self.deleted(path, last),
        }
    }

    fn applied(&mut self, path: &Path, old: Option<&Arc<T>>, new: &Arc<T>) {
        match self.waiting.get_mut(path) {
            Some(waiting) => match &mut waiting.applied {
                Some((_, newest)) => *newest = Arc::clone(new),
                // After a waiting deletion the object is new to the subscriber.
                None => waiting.applied = Some((None, Arc::clone(new))),
            },
            None => {
                let waiting = Waiting { deleted: None, applied: Some((old.cloned(), Arc::clone(new))) };
                self.insert(path, waiting);
            }
        }
    }

    /// Of an object that came and went unseen only the deletion stays.
    fn deleted(&mut self, path: &Path, last: &Arc<T>) {
        match self.waiting.get_mut(path) {
            Some(waiting) => {
                waiting.applied = None;
                waiting.deleted.get_or_insert_with(|| Arc::clone(last));
            }
            None => self.insert(path, Waiting { deleted: Some(Arc::clone(last)), applied: None }),
        }
    }

    fn insert(&mut self, path: &Path, waiting: Waiting<T>) {
        self.order.push_back(path.clone());
        self.waiting.insert(path.clone(), waiting);
    }

    fn pop(&mut self) -> Option<Change<T>> {
        let key = self.order.front()?;
        let waiting = self.waiting.get_mut(key)?;
        if let Some(last) = waiting.deleted.take() {
            if waiting.applied.is_none() {
                self.forget_front();
            }
            return Some(Change::Deleted(last));
        }
        let applied = waiting.applied.take();
        self.forget_front();
        applied.map(|(old, new)| Change::Applied { old, new })
    }

    fn forget_front(&mut self) {
        if let Some(key) = self.order.pop_front() {
            self.waiting.remove(&key);
        }
        if self.order.is_empty() && self.order.capacity() > ROOM_KEPT {
            self.order = VecDeque::new();
            self.waiting = HashMap::new();
        }
    }
}

/// Changes of one informer's objects, oldest first, beginning with the objects that were there at subscription.
///
/// When many wait that the subscriber has not taken yet, those of one object are merged, so the backlog is bounded by the
/// number of objects, and a slow subscriber sees states, not every step between them.
pub struct Subscription<K> {
    pub(crate) mailbox: Arc<Mailbox<Kept<K>>>,
}

impl<K: Object> Subscription<K> {
    /// The next change; `None` once the informer has stopped and everything was taken.
    pub async fn next(&mut self) -> Option<Change<K>> {
        // all subscribers go through a long backlog side by side, so that one decodes for the others
        tokio::task::coop::consume_budget().await;
        self.mailbox.next().await.map(decoded)
    }

    /// The next change if one waits already.
    pub fn try_next(&mut self) -> Option<Change<K>> {
        self.mailbox.try_next().map(decoded)
    }
}

fn decoded<K: Object>(change: Change<Kept<K>>) -> Change<K> {
    match change {
        Change::Applied { old, new } => Change::Applied { old: old.as_ref().map(Kept::object), new: new.object() },
        Change::Deleted(last) => Change::Deleted(last.object()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        let (namespace, name) = text.split_once('/').unwrap_or(("", text));
        Path::new(namespace, name)
    }

    fn applied(at: &str, old: Option<&Arc<u32>>, new: &Arc<u32>) -> Told<u32> {
        Told::Applied { path: path(at), old: old.cloned(), new: Arc::clone(new) }
    }

    fn deleted(at: &str, last: &Arc<u32>) -> Told<u32> {
        Told::Deleted { path: path(at), last: Arc::clone(last) }
    }

    fn mailbox() -> Mailbox<u32> {
        Mailbox::new(Arc::new([]))
    }

    /// One whose subscriber is so far behind that what comes is merged, and begins with another object.
    fn slow() -> Mailbox<u32> {
        let mailbox = mailbox();
        mailbox.put(&(0..=UNMERGED_MAX).map(|_| applied("z/z", None, &Arc::new(9))).collect());
        mailbox
    }

    fn drain(mailbox: &Mailbox<u32>) -> Vec<String> {
        std::iter::from_fn(|| mailbox.try_next())
            .map(|change| match change {
                Change::Applied { old, new } => format!("{:?}->{new}", old.as_deref()),
                Change::Deleted(last) => format!("-{last}"),
            })
            .collect()
    }

    #[test]
    fn who_keeps_up_sees_each_change_and_who_does_not_the_outcome() {
        let obj: Vec<Arc<u32>> = (0..5).map(Arc::new).collect();
        let first: Batch<u32> = Arc::new([applied("n/a", Some(&obj[0]), &obj[1]), applied("n/b", None, &obj[4])]);
        let second: Batch<u32> = Arc::new([applied("n/a", Some(&obj[1]), &obj[2]), deleted("n/b", &obj[4])]);
        let (quick, slow) = (mailbox(), slow());
        for batch in [&first, &second] {
            quick.put(batch);
            slow.put(batch);
        }
        assert_eq!(drain(&quick), ["Some(0)->1", "None->4", "Some(1)->2", "-4"]);
        assert_eq!(drain(&slow), ["None->9", "Some(0)->2", "-4"]);
        quick.put(&first);
        slow.put(&first);
        assert_eq!(drain(&quick), ["Some(0)->1", "None->4"]);
        assert_eq!(drain(&slow), ["Some(0)->1", "None->4"], "it has caught up");
    }

    #[test]
    fn who_falls_behind_loses_nothing_and_sees_nothing_twice() {
        let mailbox = mailbox();
        let batch: Batch<u32> =
            (0..UNMERGED_MAX as u32).map(|n| applied(&format!("n/{n}"), None, &Arc::new(n))).collect();
        mailbox.put(&batch);
        let mut seen: Vec<String> = (0..3).map(|_| drain_one(&mailbox)).collect();
        mailbox.put(&batch);
        seen.extend(drain(&mailbox));
        let expected: Vec<String> = (0..UNMERGED_MAX).chain(0..3).map(|n| format!("None->{n}")).collect();
        assert_eq!(seen, expected, "what had been taken before comes again, all else once");
    }

    fn drain_one(mailbox: &Mailbox<u32>) -> String {
        match mailbox.try_next() {
            Some(Change::Applied { new, .. }) => format!("None->{new}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn waiting_changes_of_one_object_are_merged() {
        let obj: Vec<Arc<u32>> = (0..5).map(Arc::new).collect();
        let merged = |changes: Vec<Told<u32>>| {
            let mailbox = slow();
            for change in changes {
                mailbox.put(&Batch::from([change]));
            }
            drain(&mailbox)[1..].to_vec()
        };
        let (new, gone) = (
            |old: Option<usize>, new: usize| applied("n/a", old.map(|old| &obj[old]), &obj[new]),
            |last: usize| deleted("n/a", &obj[last]),
        );
        assert_eq!(
            merged(vec![new(Some(0), 1), applied("n/b", None, &obj[4]), new(Some(1), 2)]),
            ["Some(0)->2", "None->4"]
        );
        assert_eq!(merged(vec![gone(2), new(None, 3)]), ["-2", "None->3"]);
        let unseen = merged(vec![gone(2), new(None, 3), gone(3)]);
        assert_eq!(unseen, ["-2"], "an object that came and went unseen leaves no trace");
    }

    #[tokio::test]
    async fn closing_delivers_what_waits_and_then_ends() {
        let mailbox = mailbox();
        mailbox.put(&Batch::from([deleted("n", &Arc::new(1))]));
        mailbox.close();
        assert!(matches!(mailbox.next().await, Some(Change::Deleted(_))));
        assert!(mailbox.next().await.is_none());
    }

    #[tokio::test]
    async fn a_subscriber_is_woken_once_for_all_that_has_come() {
        let mailbox = mailbox();
        {
            let mut next = std::pin::pin!(mailbox.next());
            assert!(futures::poll!(&mut next).is_pending());
            mailbox.put(&["a", "b"].map(|path| applied(path, None, &Arc::new(1))).into_iter().collect());
            assert!(futures::poll!(&mut next).is_pending(), "before it is announced");
            mailbox.announce();
            assert!(futures::poll!(&mut next).is_ready());
        }
        assert!(mailbox.try_next().is_some() && mailbox.try_next().is_none());
    }
}
