//! Objects of a cache by a value computed from each.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::Object;
use crate::kept::{ByPath, Kept};
use crate::path::Path;

type IndexFn<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;
type Entries<K> = HashMap<Box<str>, BTreeSet<ByPath<K>>>;

pub(crate) struct IndexData<K> {
    keys_of: IndexFn<K>,
    entries: RwLock<Entries<K>>,
}

impl<K: Object> IndexData<K> {
    pub(crate) fn new(keys_of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Self {
        Self { keys_of: Box::new(keys_of), entries: RwLock::new(HashMap::new()) }
    }

    #[expect(clippy::mutable_key_type, reason = "they are in the order of their paths, which do not change")]
    pub(crate) fn change(&self, old: Option<&K>, new: Option<&K>, path: &Path, kept: Option<&Arc<Kept<K>>>) {
        let before = old.map(|old| (self.keys_of)(old)).unwrap_or_default();
        let after = new.map(|new| (self.keys_of)(new)).unwrap_or_default();
        let mut entries = self.entries.write();
        for value in before.iter().filter(|value| !after.contains(value)) {
            if let Some(objects) = entries.get_mut(&**value) {
                objects.remove(path);
                if objects.is_empty() {
                    entries.remove(&**value);
                }
            }
        }
        if let Some(kept) = kept {
            for value in after {
                let objects = match entries.get_mut(&*value) {
                    Some(objects) => objects,
                    None => entries.entry(value.into()).or_default(),
                };
                objects.replace(ByPath(Arc::clone(kept)));
            }
        }
    }
}

/// Objects of an informer by a value computed from each, kept current incrementally.
pub struct Index<K>(pub(crate) Arc<IndexData<K>>);

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Object> Index<K> {
    /// The objects with this value, in the order of their keys.
    pub fn get(&self, value: &str) -> Vec<Arc<K>> {
        let found: Vec<Arc<Kept<K>>> = self
            .0
            .entries
            .read()
            .get(value)
            .map(|objects| objects.iter().map(|object| Arc::clone(&object.0)).collect())
            .unwrap_or_default();
        found.iter().map(Kept::object).collect()
    }

    /// How many objects have this value.
    pub fn count(&self, value: &str) -> usize {
        self.0.entries.read().get(value).map_or(0, BTreeSet::len)
    }

    /// All values that at least one object has.
    pub fn values(&self) -> Vec<String> {
        self.0.entries.read().keys().map(|value| value.to_string()).collect()
    }
}
