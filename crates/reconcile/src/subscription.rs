//! What subscribers of an informer receive, and the backlog in which it waits for them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Object;
use crate::kept::Kept;
use crate::path::Path;

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

/// What one object has waiting: a deletion, an application, or a deletion followed by an application (a new object of
/// the same name).
struct Waiting<T> {
    deleted: Option<Arc<T>>,
    applied: Option<(Option<Arc<T>>, Arc<T>)>,
}

struct Backlog<T> {
    order: VecDeque<Path>,
    waiting: HashMap<Path, Waiting<T>>,
    /// Whether there is something the subscriber was not woken for.
    unannounced: bool,
    closed: bool,
}

/// The sending half, held by the cache. What waits is as the cache keeps it: a slow subscriber holds nothing decoded.
pub(crate) struct Mailbox<T> {
    backlog: Mutex<Backlog<T>>,
    arrived: Notify,
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> Self {
        let backlog = Backlog { order: VecDeque::new(), waiting: HashMap::new(), unannounced: false, closed: false };
        Self { backlog: Mutex::new(backlog), arrived: Notify::new() }
    }

    /// Wakes the subscriber if there is anything new.
    pub(crate) fn announce(&self) {
        if std::mem::take(&mut self.backlog.lock().unannounced) {
            self.arrived.notify_one();
        }
    }

    /// Merges an application into what already waits for the object at `path`. The subscriber sees it when it looks, and is woken by
    /// [`Mailbox::announce`].
    pub(crate) fn applied(&self, path: &Path, old: Option<&Arc<T>>, new: &Arc<T>) {
        let mut backlog = self.backlog.lock();
        backlog.unannounced = true;
        match backlog.waiting.get_mut(path) {
            Some(waiting) => match &mut waiting.applied {
                Some((_, newest)) => *newest = Arc::clone(new),
                // After a waiting deletion the object is new to the subscriber.
                None => waiting.applied = Some((None, Arc::clone(new))),
            },
            None => {
                let waiting = Waiting { deleted: None, applied: Some((old.cloned(), Arc::clone(new))) };
                backlog.insert(path, waiting);
            }
        }
    }

    /// Merges a deletion into what already waits for the object at `path`: of an object that came and went unseen only the deletion stays.
    pub(crate) fn deleted(&self, path: &Path, last: &Arc<T>) {
        let mut backlog = self.backlog.lock();
        backlog.unannounced = true;
        match backlog.waiting.get_mut(path) {
            Some(waiting) => {
                waiting.applied = None;
                waiting.deleted.get_or_insert_with(|| Arc::clone(last));
            }
            None => backlog.insert(path, Waiting { deleted: Some(Arc::clone(last)), applied: None }),
        }
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
/// Changes of one object that the subscriber has not taken yet are merged, so the backlog is bounded by the number of
/// objects, and a slow subscriber sees states, not every step between them.
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

    fn drain(mailbox: &Mailbox<u32>) -> Vec<String> {
        std::iter::from_fn(|| mailbox.try_next())
            .map(|change| match change {
                Change::Applied { old, new } => format!("{:?}->{new}", old.as_deref()),
                Change::Deleted(last) => format!("-{last}"),
            })
            .collect()
    }

    #[test]
    fn waiting_changes_of_one_object_are_merged() {
        let path = Path::new("default", "a");
        let obj: Vec<Arc<u32>> = (0..5).map(Arc::new).collect();
        let mailbox = Mailbox::new();

        mailbox.applied(&path, Some(&obj[0]), &obj[1]);
        mailbox.applied(&Path::new("default", "b"), None, &obj[4]);
        mailbox.applied(&path, Some(&obj[1]), &obj[2]);
        assert_eq!(drain(&mailbox), ["Some(0)->2", "None->4"]);

        mailbox.deleted(&path, &obj[2]);
        mailbox.applied(&path, None, &obj[3]);
        assert_eq!(drain(&mailbox), ["-2", "None->3"]);

        mailbox.deleted(&path, &obj[2]);
        mailbox.applied(&path, None, &obj[3]);
        mailbox.deleted(&path, &obj[3]);
        assert_eq!(drain(&mailbox), ["-2"], "an object that came and went unseen leaves no trace");
    }

    #[test]
    fn a_burst_that_was_taken_leaves_no_room_behind() {
        let mailbox = Mailbox::new();
        for number in 0..4 * ROOM_KEPT {
            mailbox.applied(&Path::new("default", &number.to_string()), None, &Arc::new(1));
        }
        assert_eq!(drain(&mailbox).len(), 4 * ROOM_KEPT);
        let backlog = mailbox.backlog.lock();
        assert!(backlog.order.capacity() <= ROOM_KEPT && backlog.waiting.capacity() <= ROOM_KEPT);
    }

    #[tokio::test]
    async fn closing_delivers_what_waits_and_then_ends() {
        let mailbox = Mailbox::new();
        mailbox.deleted(&Path::new("", "n"), &Arc::new(1));
        mailbox.close();
        assert!(matches!(mailbox.next().await, Some(Change::Deleted(_))));
        assert!(mailbox.next().await.is_none());
    }

    #[tokio::test]
    async fn a_subscriber_is_woken_once_for_all_that_has_come() {
        let mailbox = Mailbox::new();
        {
            let mut next = std::pin::pin!(mailbox.next());
            assert!(futures::poll!(&mut next).is_pending());
            for name in ["a", "b"] {
                mailbox.applied(&Path::new("", name), None, &Arc::new(1));
            }
            assert!(futures::poll!(&mut next).is_pending(), "before it is announced");
            mailbox.announce();
            assert!(futures::poll!(&mut next).is_ready());
        }
        assert!(mailbox.try_next().is_some() && mailbox.try_next().is_none());
    }
}
