//! Indexes: the objects of a collection by the value of a field, so that finding those with a value costs what is found.

use std::{borrow::Cow, sync::Arc};

use crate::{
    Object, Snapshot,
    snapshot::outside_before,
    tree::{Iter, Tree},
};

/// A field that objects of a collection are looked up by.
#[derive(Clone, Copy, Debug)]
pub struct Index {
    /// Which objects, for example `core/pods`.
    pub collection: &'static str,
    /// What the field is asked for as, for example `spec.nodeName`.
    pub field: &'static str,
    /// The field's value in an object's bytes; objects without one are not in the index.
    pub value: fn(&[u8]) -> Option<Cow<'_, str>>,
}

impl Index {
    fn value_of<'a>(&self, object: Option<&'a Object>) -> Option<Cow<'a, str>> {
        object.and_then(|object| (self.value)(&object.bytes))
    }
}

/// Stands between value and path in an entry: neither of them may hold it.
const SEPARATOR: char = '\0';

/// An index at one revision.
#[derive(Clone, Debug)]
pub(crate) struct Indexed {
    index: Index,
    /// Paths by the value and themselves, so that those of a value are in the order of the collection.
    paths: Tree<Arc<str>>,
}

fn entry(value: &str, path: &str) -> String {
    let mut entry = String::with_capacity(value.len() + SEPARATOR.len_utf8() + path.len());
    entry.push_str(value);
    entry.push(SEPARATOR);
    entry.push_str(path);
    entry
}

impl Indexed {
    pub(crate) fn new(index: Index) -> Self {
        Indexed { index, paths: Tree::default() }
    }

    pub(crate) fn is_of(&self, collection: &str) -> bool {
        self.index.collection == collection
    }

    pub(crate) fn is_by(&self, field: &str) -> bool {
        self.index.field == field
    }

    /// Follows a change of the object at `path`.
    pub(crate) fn change(&mut self, path: &Arc<str>, before: Option<&Object>, after: Option<&Object>) {
        let (before, after) = (self.index.value_of(before), self.index.value_of(after));
        if before == after {
            return;
        }
        if let Some(value) = before {
            self.paths.remove(&entry(&value, path));
        }
        if let Some(value) = after {
            self.paths.insert(&entry(&value, path).into(), Arc::clone(path));
        }
    }

    /// The objects with a value, of those [`Snapshot::range`] would yield.
    pub(crate) fn with<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        value: &str,
        prefix: &str,
        after: Option<&str>,
    ) -> WithValue<'a> {
        let prefix = entry(value, prefix);
        let after = after.map(|after| entry(value, after));
        let entries = self.paths.iter_from(|entry| outside_before(entry, &prefix, after.as_deref()));
        WithValue { snapshot, collection: self.index.collection, entries, prefix: prefix.into() }
    }
}

/// Objects of a collection that have a value in an indexed field, in path order; made by [`Snapshot::with_value`].
pub struct WithValue<'a> {
    snapshot: &'a Snapshot,
    collection: &'static str,
    entries: Iter<'a, Arc<str>>,
    prefix: Box<str>,
}

impl<'a> Iterator for WithValue<'a> {
    type Item = (&'a Arc<str>, &'a Object);

    fn next(&mut self) -> Option<Self::Item> {
        let (entry, path) = self.entries.next()?;
        if entry.starts_with(&*self.prefix) {
            return Some((path, self.snapshot.get(self.collection, path)?));
        }
        self.entries = Iter::default();
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Key, Revision};

    /// Everything an object of these tests holds is its value.
    const WHOLE: Index = Index {
        collection: "core/pods",
        field: "node",
        value: |bytes| Some(String::from_utf8_lossy(bytes)).filter(|value| !value.is_empty()),
    };

    fn write(snapshot: &mut Snapshot, collection: &str, path: &str, value: Option<&str>) {
        let key = Key { collection: collection.into(), path: path.into() };
        snapshot.apply(&key, value.map(|value| Object { revision: Revision(1), bytes: value.to_owned().into() }));
    }

    fn found(snapshot: &Snapshot, value: &str, prefix: &str, after: Option<&str>) -> Vec<String> {
        let found = snapshot.with_value("core/pods", "node", value, prefix, after).expect("is indexed");
        found.map(|(path, object)| format!("{path}={}", String::from_utf8_lossy(&object.bytes))).collect()
    }

    #[test]
    fn what_has_the_value_is_found_in_order_and_within_the_range() {
        let mut snapshot = Snapshot::default();
        write(&mut snapshot, "core/pods", "a/2", Some("n1"));
        let mut snapshot = snapshot.indexed(&[WHOLE]);
        for (path, value) in [("b/1", "n1"), ("a/1", "n1"), ("a/3", "n10"), ("a/4", ""), ("c/1", "n1")] {
            write(&mut snapshot, "core/pods", path, Some(value));
        }
        write(&mut snapshot, "core/nodes", "a/0", Some("n1"));
        assert_eq!(found(&snapshot, "n1", "", None), ["a/1=n1", "a/2=n1", "b/1=n1", "c/1=n1"]);
        assert_eq!(found(&snapshot, "n1", "a/", None), ["a/1=n1", "a/2=n1"]);
        assert_eq!(found(&snapshot, "n1", "", Some("a/2")), ["b/1=n1", "c/1=n1"]);
        assert_eq!(found(&snapshot, "n1", "a/", Some("a/1")), ["a/2=n1"]);
        assert_eq!(found(&snapshot, "n10", "", None), ["a/3=n10"]);
        assert!(found(&snapshot, "n", "", None).is_empty());
        assert!(snapshot.with_value("core/pods", "phase", "n1", "", None).is_none());
        assert!(snapshot.with_value("core/nodes", "node", "n1", "", None).is_none());
    }

    proptest! {
        #[test]
        fn an_index_says_what_a_walk_over_all_objects_says(
            writes in prop::collection::vec((0..12_u8, prop::option::of(0..4_u8)), 0..60),
        ) {
            let mut snapshot = Snapshot::default().indexed(&[WHOLE]);
            let mut past = snapshot.clone();
            for (at, (path, value)) in writes.iter().enumerate() {
                let value = value.map(|value| if value == 0 { String::new() } else { format!("n{value}") });
                write(&mut snapshot, "core/pods", &format!("a/{path}"), value.as_deref());
                if at == writes.len() / 2 {
                    past = snapshot.clone();
                }
            }
            for snapshot in [&past, &snapshot] {
                for value in ["n1", "n2", "n3"] {
                    let all = snapshot.range("core/pods", "", None);
                    let walked: Vec<String> = all
                        .filter(|(_, object)| object.bytes == value)
                        .map(|(path, _)| format!("{path}={value}"))
                        .collect();
                    prop_assert_eq!(found(snapshot, value, "", None), walked);
                }
            }
        }
    }
}
