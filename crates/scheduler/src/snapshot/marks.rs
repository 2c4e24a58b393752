//! Finding what a selection means, and which selections mean something, by one label instead of asking all.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::counters::Counted;
use crate::shape::{PodSelection, ShapeParts};

/// A label in a namespace, as a number. Two may have the same, so what is found by one is only worth asking.
pub(super) type Mark = u64;

fn mark(namespace: &str, key: &str, value: &str) -> Mark {
    let mut hasher = DefaultHasher::new();
    (namespace, key, value).hash(&mut hasher);
    hasher.finish()
}

/// The marks of a pod of that shape.
pub(super) fn of_shape(shape: &ShapeParts) -> impl Iterator<Item = Mark> {
    shape.labels.iter().map(|(key, value)| mark(&shape.namespace, key, value))
}

/// Sets of marks; of each set every pod that is meant has one. There is none where pods are not meant by their labels alone,
/// or those of namespaces that are known by theirs.
pub(super) fn of_counted(counted: &Counted) -> Vec<Vec<Mark>> {
    match counted {
        Counted::Selected(selections) => selections.iter().flat_map(of_selection).collect(),
        Counted::Staying(selection) => of_selection(selection).collect(),
        Counted::Bearing(..) => Vec::new(),
    }
}

fn of_selection(selection: &PodSelection) -> impl Iterator<Item = Vec<Mark>> {
    let is_named = selection.namespace_selector.is_absent();
    selection.selector.listed().filter(move |_| is_named).map(|(key, values)| {
        let namespaces = selection.namespaces.iter();
        namespaces.flat_map(|namespace| values.iter().map(move |value| mark(namespace, key, value))).collect()
    })
}

/// Numbers by marks.
#[derive(Clone, Debug, Default)]
pub(super) struct Marked(HashMap<Mark, Vec<u32>>);

impl Marked {
    pub(super) fn insert(&mut self, marks: impl IntoIterator<Item = Mark>, id: u32) {
        for mark in marks {
            self.0.entry(mark).or_default().push(id);
        }
    }

    pub(super) fn remove(&mut self, marks: impl IntoIterator<Item = Mark>, id: u32) {
        for mark in marks {
            if let Some(ids) = self.0.get_mut(&mark) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.0.remove(&mark);
                }
            }
        }
    }

    /// What has one of these marks, each once.
    pub(super) fn with(&self, marks: impl IntoIterator<Item = Mark>) -> Vec<u32> {
        let mut found: Vec<u32> = marks.into_iter().filter_map(|mark| self.0.get(&mark)).flatten().copied().collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// What has one of the marks of that set for which these are the fewest; `None` without a set.
    pub(super) fn rarest(&self, sets: Vec<Vec<Mark>>) -> Option<Vec<u32>> {
        let count = |set: &Vec<Mark>| -> usize { set.iter().filter_map(|mark| self.0.get(mark)).map(Vec::len).sum() };
        sets.into_iter().min_by_key(count).map(|set| self.with(set))
    }
}
