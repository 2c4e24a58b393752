//! What subscribers of an informer receive, and the backlog in which it waits for them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Key;

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
struct Waiting<K> {
    deleted: Option<Arc<K>>,
    applied: Option<(Option<Arc<K>>, Arc<K>)>,
}

struct Backlog<K> {
    // the key is shared with all other subscribers
    order: VecDeque<Arc<Key>>,
    waiting: HashMap<Arc<Key>, Waiting<K>>,
    /// Whether there is something the subscriber was not woken for.
    unannounced: bool,
    closed: bool,
}

/// The sending half, held by the cache.
pub(crate) struct Mailbox<K> {
    backlog: Mutex<Backlog<K>>,
    arrived: Notify,
}

impl<K> Mailbox<K> {
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

    /// Merges an application into what already waits for `key`. The subscriber sees it when it looks, and is woken by
    /// [`Mailbox::announce`].
    pub(crate) fn applied(&self, key: &Arc<Key>, old: Option<&Arc<K>>, new: &Arc<K>) {
        let mut backlog = self.backlog.lock();
        backlog.unannounced = true;
        match backlog.waiting.get_mut(key) {
            Some(waiting) => match &mut waiting.applied {
                Some((_, newest)) => *newest = Arc::clone(new),
                // After a waiting deletion the object is new to the subscriber.
                None => waiting.applied = Some((None, Arc::clone(new))),
            },
            None => {
                let waiting = Waiting { deleted: None, applied: Some((old.cloned(), Arc::clone(new))) };
                backlog.insert(key, waiting);
            }
        }
    }

    /// Merges a deletion into what already waits for `key`: of an object that came and went unseen only the deletion stays.
    pub(crate) fn deleted(&self, key: &Arc<Key>, last: &Arc<K>) {
        let mut backlog = self.backlog.lock();
        backlog.unannounced = true;
        match backlog.waiting.get_mut(key) {
            Some(waiting) => {
                waiting.applied = None;
                waiting.deleted.get_or_insert_with(|| Arc::clone(last));
            }
            None => backlog.insert(key, Waiting { deleted: Some(Arc::clone(last)), applied: None }),
        }
    }

    /// Ends the subscription after what already waits.
    pub(crate) fn close(&self) {
        self.backlog.lock().closed = true;
        self.arrived.notify_one();
    }
}

impl<K> Backlog<K> {
    fn insert(&mut self, key: &Arc<Key>, waiting: Waiting<K>) {
        self.order.push_back(Arc::clone(key));
        self.waiting.insert(Arc::clone(key), waiting);
    }

    fn pop(&mut self) -> Option<Change<K>> {
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
    }
}

/// Changes of one informer's objects, oldest first, beginning with the objects that were there at subscription.
///
/// Changes of one object that the subscriber has not taken yet are merged, so the backlog is bounded by the number of
/// objects, and a slow subscriber sees states, not every step between them.
pub struct Subscription<K> {
    pub(crate) mailbox: Arc<Mailbox<K>>,
}

impl<K> Subscription<K> {
    /// The next change; `None` once the informer has stopped and everything was taken.
    pub async fn next(&mut self) -> Option<Change<K>> {
        loop {
            {
                let mut backlog = self.mailbox.backlog.lock();
                if let Some(change) = backlog.pop() {
                    return Some(change);
                }
                if backlog.closed {
                    return None;
                }
            }
            self.mailbox.arrived.notified().await;
        }
    }

    /// The next change if one waits already.
    pub fn try_next(&mut self) -> Option<Change<K>> {
        self.mailbox.backlog.lock().pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(sub: &mut Subscription<u32>) -> Vec<String> {
        std::iter::from_fn(|| sub.try_next())
            .map(|change| match change {
                Change::Applied { old, new } => format!("{:?}->{new}", old.as_deref()),
                Change::Deleted(last) => format!("-{last}"),
            })
            .collect()
    }

    #[test]
    fn waiting_changes_of_one_object_are_merged() {
        let key = Arc::new(Key::new("default", "a"));
        let obj: Vec<Arc<u32>> = (0..5).map(Arc::new).collect();
        let mut sub = Subscription { mailbox: Arc::new(Mailbox::new()) };
        let mailbox = Arc::clone(&sub.mailbox);

        mailbox.applied(&key, Some(&obj[0]), &obj[1]);
        mailbox.applied(&Arc::new(Key::new("default", "b")), None, &obj[4]);
        mailbox.applied(&key, Some(&obj[1]), &obj[2]);
        assert_eq!(drain(&mut sub), ["Some(0)->2", "None->4"]);

        mailbox.deleted(&key, &obj[2]);
        mailbox.applied(&key, None, &obj[3]);
        assert_eq!(drain(&mut sub), ["-2", "None->3"]);

        mailbox.deleted(&key, &obj[2]);
        mailbox.applied(&key, None, &obj[3]);
        mailbox.deleted(&key, &obj[3]);
        assert_eq!(drain(&mut sub), ["-2"], "an object that came and went unseen leaves no trace");
    }

    #[tokio::test]
    async fn closing_delivers_what_waits_and_then_ends() {
        let mut sub = Subscription { mailbox: Arc::new(Mailbox::new()) };
        sub.mailbox.deleted(&Arc::new(Key::cluster("n")), &Arc::new(1));
        sub.mailbox.close();
        assert!(matches!(sub.next().await, Some(Change::Deleted(_))));
        assert!(sub.next().await.is_none());
    }

    #[tokio::test]
    async fn a_subscriber_is_woken_once_for_all_that_has_come() {
        let mut sub = Subscription { mailbox: Arc::new(Mailbox::new()) };
        let mailbox = Arc::clone(&sub.mailbox);
        {
            let mut next = std::pin::pin!(sub.next());
            assert!(futures::poll!(&mut next).is_pending());
            for name in ["a", "b"] {
                mailbox.applied(&Arc::new(Key::cluster(name)), None, &Arc::new(1));
            }
            assert!(futures::poll!(&mut next).is_pending(), "before it is announced");
            mailbox.announce();
            assert!(futures::poll!(&mut next).is_ready());
        }
        assert!(sub.try_next().is_some() && sub.try_next().is_none());
    }
}
