//! The state of the store at one revision.

use std::sync::Arc;

use crate::{
    Index, Key, Object, Revision, WithValue,
    index::Indexed,
    tree::{Iter, Tree},
};

/// Every live object at one revision. Immutable, and cheap to hold: versions share what did not change between them.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    revision: Revision,
    collections: Tree<Tree<Object>>,
    bytes: u64,
    /// Sum of the sizes of all objects that were replaced or removed on the way here.
    superseded: u64,
    indexes: Vec<Indexed>,
}

impl Snapshot {
    /// The revision of the last transaction that is visible here.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The object at a path of a collection.
    pub fn get(&self, collection: &str, path: &str) -> Option<&Object> {
        self.collections.get(collection)?.get(path)
    }

    /// The object at a path of a collection, with the path as it is kept.
    pub fn entry(&self, collection: &str, path: &str) -> Option<(&Arc<str>, &Object)> {
        self.collections.get(collection)?.entry(path)
    }

    /// The objects of a collection whose path starts with `prefix` and comes after `after`, in path order.
    pub fn range<'a>(&'a self, collection: &str, prefix: &str, after: Option<&str>) -> Range<'a> {
        let entries = match self.collections.get(collection) {
            Some(tree) => tree.iter_from(|path| outside_before(path, prefix, after)),
            None => Iter::default(),
        };
        Range { entries, prefix: prefix.into() }
    }

    /// How many objects [`Snapshot::range`] would yield, without the walk.
    pub fn count(&self, collection: &str, prefix: &str, after: Option<&str>) -> usize {
        let Some(tree) = self.collections.get(collection) else { return 0 };
        let before = tree.rank(|path| outside_before(path, prefix, after));
        tree.rank(|path| path < prefix || path.starts_with(prefix)).saturating_sub(before)
    }

    /// The objects of [`Snapshot::range`] that have a value in a field; `None` where no index is kept of it.
    pub fn with_value<'a>(
        &'a self,
        collection: &str,
        field: &str,
        value: &str,
        prefix: &str,
        after: Option<&str>,
    ) -> Option<WithValue<'a>> {
        let mut indexes = self.indexes.iter();
        let indexed = indexes.find(|indexed| indexed.is_of(collection) && indexed.is_by(field))?;
        Some(indexed.with(self, value, prefix, after))
    }

    /// Names of the collections that hold an object, in order.
    pub fn collections(&self) -> impl Iterator<Item = &Arc<str>> {
        self.collections.iter().map(|(name, _)| name)
    }

    /// Sum of the sizes of all objects.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn superseded(&self) -> u64 {
        self.superseded
    }

    pub(crate) fn at(revision: Revision) -> Self {
        Snapshot { revision, ..Snapshot::default() }
    }

    /// The same, keeping these indexes from now on.
    pub(crate) fn indexed(mut self, indexes: &[Index]) -> Self {
        self.indexes = indexes.iter().copied().map(Indexed::new).collect();
        for (index, indexed) in indexes.iter().zip(&mut self.indexes) {
            for (path, object) in self.collections.get(index.collection).into_iter().flat_map(Tree::iter) {
                indexed.change(path, None, Some(object));
            }
        }
        self
    }

    pub(crate) fn advance(&mut self, revision: Revision) {
        self.revision = revision;
    }

    /// Puts or removes an object and returns what was there.
    pub(crate) fn apply(&mut self, key: &Key, object: Option<Object>) -> Option<Object> {
        let added = object.as_ref().map_or(0, |o| o.bytes.len() as u64);
        let followed = self.indexes.iter().any(|indexed| indexed.is_of(&key.collection)).then(|| object.clone());
        let previous = match object {
            Some(object) => match self.collections.get_mut(&key.collection) {
                Some(tree) => tree.insert(&key.path, object),
                None => {
                    let mut tree = Tree::default();
                    tree.insert(&key.path, object);
                    self.collections.insert(&key.collection, tree);
                    None
                }
            },
            None => self.remove(key),
        };
        if let Some(object) = followed {
            for indexed in self.indexes.iter_mut().filter(|indexed| indexed.is_of(&key.collection)) {
                indexed.change(&key.path, previous.as_ref(), object.as_ref());
            }
        }
        let gone = previous.as_ref().map_or(0, |o| o.bytes.len() as u64);
        self.bytes = (self.bytes + added).saturating_sub(gone);
        self.superseded += gone;
        previous
    }

    fn remove(&mut self, key: &Key) -> Option<Object> {
        let tree = self.collections.get_mut(&key.collection)?;
        let previous = tree.remove(&key.path);
        if tree.len() == 0 {
            self.collections.remove(&key.collection);
        }
        previous
    }
}

/// Whether a path lies before the range that starts with `prefix` and comes after `after`.
pub(crate) fn outside_before(path: &str, prefix: &str, after: Option<&str>) -> bool {
    path < prefix || after.is_some_and(|after| path <= after)
}

/// Objects of a collection in path order; made by [`Snapshot::range`].
pub struct Range<'a> {
    entries: Iter<'a, Object>,
    prefix: Box<str>,
}

impl<'a> Iterator for Range<'a> {
    type Item = (&'a Arc<str>, &'a Object);

    fn next(&mut self) -> Option<Self::Item> {
        let (path, object) = self.entries.next()?;
        if self.prefix.is_empty() || path.starts_with(&*self.prefix) {
            return Some((path, object));
        }
        self.entries = Iter::default();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Snapshot {
        let mut snapshot = Snapshot::default();
        for path in ["a/1", "a/2", "a-b/1", "b/1", "b/2", "b/3", "c/1"] {
            let key = Key { collection: "core/pods".into(), path: path.into() };
            snapshot.apply(&key, Some(Object { revision: Revision(1), bytes: "{}".into() }));
        }
        snapshot
    }

    fn paths(snapshot: &Snapshot, prefix: &str, after: Option<&str>) -> Vec<String> {
        let paths: Vec<String> = snapshot.range("core/pods", prefix, after).map(|(p, _)| p.to_string()).collect();
        assert_eq!(snapshot.count("core/pods", prefix, after), paths.len());
        paths
    }

    #[test]
    fn range_keeps_to_prefix_and_start() {
        let snapshot = sample();
        assert_eq!(paths(&snapshot, "", None).len(), 7);
        assert_eq!(paths(&snapshot, "a/", None), ["a/1", "a/2"]);
        assert_eq!(paths(&snapshot, "b/", Some("b/1")), ["b/2", "b/3"]);
        assert_eq!(paths(&snapshot, "b/", Some("a/9")), ["b/1", "b/2", "b/3"]);
        assert_eq!(paths(&snapshot, "b/", Some("c/1")), Vec::<String>::new());
        assert_eq!(paths(&snapshot, "z/", None), Vec::<String>::new());
        assert_eq!(snapshot.range("core/nodes", "", None).count(), 0);
    }

    #[test]
    fn removing_the_last_object_removes_its_collection_and_bytes() {
        let mut snapshot = sample();
        assert_eq!(snapshot.bytes(), 14);
        for path in paths(&snapshot, "", None) {
            let key = Key { collection: "core/pods".into(), path: path.as_str().into() };
            assert!(snapshot.apply(&key, None).is_some());
        }
        assert_eq!((snapshot.bytes(), snapshot.collections().count()), (0, 0));
    }
}
