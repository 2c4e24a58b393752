//! The typed cache behind an informer, its indexes and its subscribers.

use std::any::TypeId;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use kube::Resource;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::subscription::{Mailbox, Subscription};
use crate::{Key, Object};

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

type IndexFn<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct IndexData<K> {
    keys_of: IndexFn<K>,
    entries: RwLock<HashMap<String, BTreeMap<Key, Arc<K>>>>,
}

impl<K> IndexData<K> {
    fn change(&self, key: &Key, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        let before = old.map(|o| (self.keys_of)(o)).unwrap_or_default();
        let after = new.map(|o| (self.keys_of)(o)).unwrap_or_default();
        let mut entries = self.entries.write();
        for value in before.iter().filter(|value| !after.contains(value)) {
            if let Some(objects) = entries.get_mut(value) {
                objects.remove(key);
                if objects.is_empty() {
                    entries.remove(value);
                }
            }
        }
        if let Some(new) = new {
            for value in after {
                entries.entry(value).or_default().insert(key.clone(), Arc::clone(new));
            }
        }
    }
}

/// Objects of an informer by a value computed from each, kept current incrementally.
pub struct Index<K>(Arc<IndexData<K>>);

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Index<K> {
    /// The objects with this value, in the order of their keys.
    pub fn get(&self, value: &str) -> Vec<Arc<K>> {
        self.0.entries.read().get(value).map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    /// How many objects have this value.
    pub fn count(&self, value: &str) -> usize {
        self.0.entries.read().get(value).map_or(0, BTreeMap::len)
    }

    /// All values that at least one object has.
    pub fn values(&self) -> Vec<String> {
        self.0.entries.read().keys().cloned().collect()
    }
}

struct State<K> {
    namespaces: BTreeMap<String, BTreeMap<String, Arc<K>>>,
    len: usize,
    /// By name and by the type of the function: one that captures nothing is known by its type alone.
    indexes: HashMap<(String, TypeId), Arc<IndexData<K>>>,
    subscribers: Vec<Weak<Mailbox<K>>>,
}

/// All objects of one kind (and selector), updated by one watch.
pub(crate) struct Cache<K> {
    state: RwLock<State<K>>,
    phase: watch::Sender<Phase>,
    revision: AtomicU64,
}

impl<K: Object> Cache<K> {
    pub(crate) fn new() -> Self {
        let state = State { namespaces: BTreeMap::new(), len: 0, indexes: HashMap::new(), subscribers: Vec::new() };
        Self { state: RwLock::new(state), phase: watch::Sender::new(Phase::Filling), revision: AtomicU64::new(0) }
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.state.read().namespaces.get(namespace)?.get(name).cloned()
    }

    pub(crate) fn list(&self) -> Vec<Arc<K>> {
        let state = self.state.read();
        let mut all = Vec::with_capacity(state.len);
        all.extend(state.namespaces.values().flat_map(BTreeMap::values).cloned());
        all
    }

    pub(crate) fn namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.state.read().namespaces.get(namespace).map(|n| n.values().cloned().collect()).unwrap_or_default()
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
        let data = Arc::new(IndexData { keys_of: Box::new(keys_of), entries: RwLock::new(HashMap::new()) });
        for object in state.namespaces.values().flat_map(BTreeMap::values) {
            data.change(&Key::of(object.as_ref()), None, Some(object));
        }
        state.indexes.insert(identity, Arc::clone(&data));
        Index(data)
    }

    pub(crate) fn subscribe(&self) -> Subscription<K> {
        let mailbox = Arc::new(Mailbox::new());
        let mut state = self.state.write();
        for object in state.namespaces.values().flat_map(BTreeMap::values) {
            mailbox.applied(&Arc::new(Key::of(object.as_ref())), None, object);
        }
        if *self.phase.borrow() == Phase::Stopped {
            mailbox.close();
        }
        state.subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        state.subscribers.push(Arc::downgrade(&mailbox));
        Subscription { mailbox }
    }

    /// Wakes the subscribers that have something new, once for everything since the last time. Who changes the cache calls it
    /// when there is nothing more to be changed at once.
    pub(crate) fn announce(&self) {
        for mailbox in self.state.read().subscribers.iter().filter_map(Weak::upgrade) {
            mailbox.announce();
        }
    }

    /// Takes over an added or modified object; [`Cache::announce`] tells of it.
    pub(crate) fn apply(&self, object: K) {
        let revision = revision_of(&object);
        self.state.write().apply(Arc::new(object));
        self.observed(revision);
    }

    /// Removes an object; [`Cache::announce`] tells of it.
    pub(crate) fn delete(&self, object: K) {
        let revision = revision_of(&object);
        self.state.write().delete(&Arc::new(Key::of(&object)), Some(object));
        self.observed(revision);
    }

    /// Makes the cache show exactly `objects`, the complete list at `revision`.
    pub(crate) fn replace(&self, objects: Vec<K>, revision: &str) {
        let mut state = self.state.write();
        let mut gone: HashMap<Arc<Key>, ()> = HashMap::with_capacity(state.len);
        for object in state.namespaces.values().flat_map(BTreeMap::values) {
            gone.insert(Arc::new(Key::of(object.as_ref())), ());
        }
        for object in objects {
            gone.remove(&Key::of(&object));
            state.apply(Arc::new(object));
        }
        for key in gone.into_keys() {
            state.delete(&key, None);
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

    /// Ends all subscriptions: the cache will not change any more.
    pub(crate) fn stop(&self) {
        self.phase.send_replace(Phase::Stopped);
        for mailbox in self.state.write().subscribers.drain(..).filter_map(|weak| weak.upgrade()) {
            mailbox.close();
        }
    }
}

impl<K: Object> State<K> {
    fn apply(&mut self, mut object: Arc<K>) {
        if let Some(object) = Arc::get_mut(&mut object) {
            object.meta_mut().managed_fields = None;
        }
        let key = Arc::new(Key::of(object.as_ref()));
        let mut old = self.existing(&key);
        if let Some(previous) = &old {
            if previous.meta().resource_version == object.meta().resource_version
                && previous.meta().uid == object.meta().uid
            {
                return;
            }
            if previous.meta().uid != object.meta().uid {
                self.delete(&key, None);
                old = None;
            }
        }
        let objects = self.namespaces.entry(key.namespace.clone()).or_default();
        if objects.insert(key.name.clone(), Arc::clone(&object)).is_none() {
            self.len += 1;
        }
        for index in self.indexes.values() {
            index.change(&key, old.as_ref(), Some(&object));
        }
        self.each_subscriber(|mailbox| mailbox.applied(&key, old.as_ref(), &object));
    }

    /// Removes `key`; subscribers get `last` if given (it holds the final resource version), else the cached state.
    fn delete(&mut self, key: &Arc<Key>, last: Option<K>) {
        let Some(objects) = self.namespaces.get_mut(&key.namespace) else { return };
        let Some(old) = objects.remove(&key.name) else { return };
        if objects.is_empty() {
            self.namespaces.remove(&key.namespace);
        }
        self.len -= 1;
        for index in self.indexes.values() {
            index.change(key, Some(&old), None);
        }
        let last = last.filter(|last| last.meta().uid == old.meta().uid).map_or(old, |mut last| {
            last.meta_mut().managed_fields = None;
            Arc::new(last)
        });
        self.each_subscriber(|mailbox| mailbox.deleted(key, &last));
    }

    fn existing(&self, key: &Key) -> Option<Arc<K>> {
        self.namespaces.get(&key.namespace)?.get(&key.name).cloned()
    }

    fn each_subscriber(&mut self, tell: impl Fn(&Mailbox<K>)) {
        self.subscribers.retain(|subscriber| match subscriber.upgrade() {
            Some(mailbox) => {
                tell(&mailbox);
                true
            }
            None => false,
        });
    }
}

fn revision_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|rv| rv.parse().ok()).unwrap_or(0)
}
