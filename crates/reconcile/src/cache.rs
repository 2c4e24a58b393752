//! The cache behind an informer, its indexes and its subscribers.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use kube::Resource;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::Object;
use crate::events::EventError;
use crate::facts::Follower;
use crate::index::{Index, IndexData};
use crate::kept::{ByName, Kept, Original, Recent};
use crate::path::Path;
use crate::subscription::{Batch, Mailbox, Subscription, Told};

/// Whether the cache shows the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first list is not complete.
    Filling,
    /// The first list is complete; watch events keep the cache current.
    Synced,
    /// Nobody keeps the cache current any more.
    Stopped,
}

struct State<K> {
    namespaces: BTreeMap<Box<str>, BTreeSet<ByName<K>>>,
    len: usize,
    /// By name and by the type of the function: one that captures nothing is known by its type alone.
    indexes: HashMap<(String, TypeId), Arc<IndexData<K>>>,
    followers: Vec<Arc<dyn Follower<K>>>,
    subscribers: Vec<Weak<Mailbox<Kept<K>>>>,
    /// Changes that the subscribers have not been told of.
    untold: Vec<Told<Kept<K>>>,
}

/// Untold changes for which there is room in any case.
const ROOM_KEPT: usize = 256;

/// All objects of one kind (and selector), updated by one watch.
pub(crate) struct Cache<K> {
    state: RwLock<State<K>>,
    recent: Arc<Recent<K>>,
    original: Option<Original>,
    phase: watch::Sender<Phase>,
    revision: AtomicU64,
}

/// The keys that a list has brought so far.
#[derive(Default)]
pub(crate) struct Listed(HashSet<Path>);

impl<K: Object> Cache<K> {
    /// An empty cache; where bytes of its objects are held already, `original` knows.
    pub(crate) fn new(original: Option<Original>) -> Self {
        let state = State {
            namespaces: BTreeMap::new(),
            len: 0,
            indexes: HashMap::new(),
            followers: Vec::new(),
            subscribers: Vec::new(),
            untold: Vec::new(),
        };
        Self {
            state: RwLock::new(state),
            recent: Arc::new(Recent::new()),
            original,
            phase: watch::Sender::new(Phase::Filling),
            revision: AtomicU64::new(0),
        }
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let kept = self.state.read().existing(namespace, name).cloned();
        kept.as_ref().map(Kept::object)
    }

    pub(crate) fn list(&self) -> Vec<Arc<K>> {
        let kept: Vec<Arc<Kept<K>>> = self.state.read().all().cloned().collect();
        kept.iter().map(Kept::object).collect()
    }

    pub(crate) fn namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let kept: Vec<Arc<Kept<K>>> = self.state.read().in_namespace(namespace).cloned().collect();
        kept.iter().map(Kept::object).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.state.read().len
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(crate) fn index<F>(&self, name: &str, keys_of: F) -> Index<K>
    where
        F: Fn(&K) -> Vec<String> + Send + Sync + 'static,
    {
        const { assert!(size_of::<F>() == 0, "an index function captures nothing, so that its type says what it does") }
        let identity = (name.to_owned(), TypeId::of::<F>());
        let mut state = self.state.write();
        if let Some(data) = state.indexes.get(&identity) {
            return Index(Arc::clone(data));
        }
        let data = Arc::new(IndexData::new(keys_of));
        for kept in state.all() {
            data.change(None, Some(&kept.object()), kept.path(), Some(kept));
        }
        state.indexes.insert(identity, Arc::clone(&data));
        Index(data)
    }

    pub(crate) fn follow(&self, follower: Arc<dyn Follower<K>>) {
        let mut state = self.state.write();
        for kept in state.all() {
            follower.change(None, Some(&kept.object()), kept.path());
        }
        state.followers.push(follower);
    }

    pub(crate) fn subscribe(&self) -> Subscription<K> {
        let mut state = self.state.write();
        // what others are yet to be told of is part of what it begins with
        let told = state.tell();
        let begin =
            state.all().map(|kept| Told::Applied { path: kept.path().clone(), old: None, new: Arc::clone(kept) });
        let mailbox = Arc::new(Mailbox::new(begin.collect()));
        if *self.phase.borrow() == Phase::Stopped {
            mailbox.close();
        }
        state.subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        state.subscribers.push(Arc::downgrade(&mailbox));
        drop(state);
        told.iter().for_each(|mailbox| mailbox.announce());
        Subscription { mailbox }
    }

    /// Tells the subscribers what is new since the last time, and wakes them. Who changes the cache calls it when there is
    /// nothing more to be changed at once.
    pub(crate) fn announce(&self) {
        let told = self.state.write().tell();
        told.iter().for_each(|mailbox| mailbox.announce());
    }

    fn keep(&self, served: &[u8]) -> Result<Arc<Kept<K>>, EventError> {
        Kept::new(served, self.original.as_ref(), &self.recent)
    }

    /// Takes over an added or modified object, given as the server sent it; tells its resource version. [`Cache::announce`]
    /// tells of it.
    pub(crate) fn apply(&self, served: &[u8]) -> Result<Option<String>, EventError> {
        let kept = self.keep(served)?;
        let object = kept.object();
        self.state.write().apply(&kept, &object);
        self.observed(revision_of(&*object));
        Ok(object.meta().resource_version.clone())
    }

    /// Removes an object, given in its last state; tells its resource version.
    pub(crate) fn delete(&self, served: &[u8]) -> Result<Option<String>, EventError> {
        let kept = self.keep(served)?;
        let object = kept.object();
        self.state.write().delete(kept.path(), Some((&kept, &object)));
        self.observed(revision_of(&*object));
        Ok(object.meta().resource_version.clone())
    }

    /// Takes over one object of a list. What the cache has seen is not known before the list is [complete](Self::listed).
    pub(crate) fn fill(&self, served: &[u8], listed: &mut Listed) -> Result<(), EventError> {
        let kept = self.keep(served)?;
        listed.0.insert(kept.path().clone());
        self.state.write().apply(&kept, &kept.object());
        Ok(())
    }

    /// Removes what was not in the list, which is complete at `revision`.
    pub(crate) fn listed(&self, listed: &Listed, revision: &str) {
        let mut state = self.state.write();
        let gone: Vec<Path> =
            state.all().map(|kept| kept.path()).filter(|path| !listed.0.contains(*path)).cloned().collect();
        for path in gone {
            state.delete(&path, None);
        }
        drop(state);
        self.announce();
        self.observed(revision.parse().unwrap_or(0));
        self.phase.send_if_modified(|phase| {
            let filling = *phase == Phase::Filling;
            if filling {
                *phase = Phase::Synced;
            }
            filling
        });
    }

    /// Records that everything up to `revision` has been seen.
    pub(crate) fn observed(&self, revision: u64) {
        self.revision.fetch_max(revision, Ordering::AcqRel);
    }

    /// Lets go of decoded objects that nobody looks at, for ever.
    pub(crate) async fn keep_small(&self) {
        self.recent.keep_small().await;
    }

    /// Ends all subscriptions: the cache will not change any more.
    pub(crate) fn stop(&self) {
        self.phase.send_replace(Phase::Stopped);
        let mut state = self.state.write();
        state.tell();
        for mailbox in state.subscribers.drain(..).filter_map(|weak| weak.upgrade()) {
            mailbox.close();
        }
    }
}

impl<K: Object> State<K> {
    fn all(&self) -> impl Iterator<Item = &Arc<Kept<K>>> {
        self.namespaces.values().flatten().map(|object| &object.0)
    }

    fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<Kept<K>>> {
        self.namespaces.get(namespace).into_iter().flatten().map(|object| &object.0)
    }

    fn existing(&self, namespace: &str, name: &str) -> Option<&Arc<Kept<K>>> {
        self.namespaces.get(namespace)?.get(name).map(|object| &object.0)
    }

    #[expect(clippy::mutable_key_type, reason = "they are in the order of their paths, which do not change")]
    fn apply(&mut self, kept: &Arc<Kept<K>>, object: &Arc<K>) {
        let path = kept.path();
        let mut old = self.existing(path.namespace(), path.name()).map(|old| (Arc::clone(old), old.object()));
        if let Some((_, previous)) = &old {
            if previous.meta().resource_version == object.meta().resource_version
                && previous.meta().uid == object.meta().uid
            {
                return;
            }
            if previous.meta().uid != object.meta().uid {
                self.delete(path, None);
                old = None;
            }
        }
        let objects = match self.namespaces.get_mut(path.namespace()) {
            Some(objects) => objects,
            None => self.namespaces.entry(path.namespace().into()).or_default(),
        };
        if objects.replace(ByName(Arc::clone(kept))).is_none() {
            self.len += 1;
        }
        for index in self.indexes.values() {
            index.change(old.as_ref().map(|(_, old)| &**old), Some(object), path, Some(kept));
        }
        for follower in &self.followers {
            follower.change(old.as_ref().map(|(_, old)| &**old), Some(object), path);
        }
        if !self.subscribers.is_empty() {
            let old = old.map(|(old, _)| old);
            self.untold.push(Told::Applied { path: path.clone(), old, new: Arc::clone(kept) });
        }
    }

    /// Removes the object at `path`; subscribers get `last` if given (it holds the final resource version), else the cached state.
    fn delete(&mut self, path: &Path, last: Option<(&Arc<Kept<K>>, &Arc<K>)>) {
        let Some(objects) = self.namespaces.get_mut(path.namespace()) else { return };
        let Some(ByName(old)) = objects.take(path.name()) else { return };
        if objects.is_empty() {
            self.namespaces.remove(path.namespace());
        }
        self.len -= 1;
        let object = old.object();
        for index in self.indexes.values() {
            index.change(Some(&object), None, path, None);
        }
        for follower in &self.followers {
            follower.change(Some(&object), None, path);
        }
        let last = last.filter(|(_, last)| last.meta().uid == object.meta().uid).map_or(&old, |(last, _)| last);
        if !self.subscribers.is_empty() {
            self.untold.push(Told::Deleted { path: path.clone(), last: Arc::clone(last) });
        }
    }

    /// Passes on what is untold; gives the subscribers that are to be woken for it.
    fn tell(&mut self) -> Vec<Arc<Mailbox<Kept<K>>>> {
        if self.untold.is_empty() {
            return Vec::new();
        }
        let batch: Batch<Kept<K>> = self.untold.drain(..).collect();
        if self.untold.capacity() > ROOM_KEPT {
            self.untold = Vec::new();
        }
        let mut told = Vec::with_capacity(self.subscribers.len());
        self.subscribers.retain(|subscriber| match subscriber.upgrade() {
            Some(mailbox) => {
                mailbox.put(&batch);
                told.push(mailbox);
                true
            }
            None => false,
        });
        told
    }
}

fn revision_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|rv| rv.parse().ok()).unwrap_or(0)
}
