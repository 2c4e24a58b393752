//! A map whose clones share everything that did not change since.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

/// Entries per part before there are more parts: what is copied for one change.
const PART: usize = 16;

/// A map by text. A clone costs one count, a change of a cloned map the copy of one part and of the list of parts: far
/// less than the map, however large it is.
#[derive(Clone, Debug)]
pub(crate) struct CowMap<V> {
    parts: Arc<Vec<Part<V>>>,
    len: usize,
    hasher: RandomState,
}

type Part<V> = Arc<HashMap<Box<str>, V>>;

impl<V> Default for CowMap<V> {
    fn default() -> Self {
        CowMap { parts: Arc::default(), len: 0, hasher: RandomState::new() }
    }
}

impl<V: Clone> CowMap<V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        self.parts.get(self.part(key))?.get(key)
    }

    /// Changes the value of a key; a value that `change` leaves absent is removed.
    pub(crate) fn change(&mut self, key: &str, change: impl FnOnce(&mut Option<V>)) {
        if self.len >= self.parts.len() * PART {
            self.grow();
        }
        let part = self.part(key);
        let Some(part) = Arc::make_mut(&mut self.parts).get_mut(part) else { return };
        let part = Arc::make_mut(part);
        let mut value = part.remove(key);
        self.len -= usize::from(value.is_some());
        change(&mut value);
        if let Some(value) = value {
            part.insert(key.into(), value);
            self.len += 1;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.parts.iter().flat_map(|part| part.iter()).map(|(key, value)| (&**key, value))
    }

    fn part(&self, key: &str) -> usize {
        match self.parts.len() {
            0 | 1 => 0,
            // The number of parts is a power of two.
            count => self.hasher.hash_one(key) as usize & (count - 1),
        }
    }

    /// Four times the parts, so that copying everything is rare.
    fn grow(&mut self) {
        let count = (self.parts.len() * 4).max(1);
        let mut parts = vec![HashMap::new(); count];
        let old = std::mem::replace(&mut self.parts, Arc::new(vec![Arc::default(); count]));
        for (key, value) in old.iter().flat_map(|part| part.iter()) {
            let part = self.part(key);
            parts[part].insert(key.clone(), value.clone());
        }
        self.parts = Arc::new(parts.into_iter().map(Arc::new).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_keep_what_they_saw() {
        let mut map = CowMap::default();
        for number in 0..1000 {
            map.change(&number.to_string(), |value| *value = Some(number));
        }
        let before = map.clone();
        map.change("7", |value| *value = None);
        map.change("8", |value| *value = value.map(|v| v + 1));
        map.change("absent", |value| assert_eq!(*value, None));
        assert_eq!((before.get("7"), before.get("8"), before.iter().count()), (Some(&7), Some(&8), 1000));
        assert_eq!((map.get("7"), map.get("8"), map.get("9"), map.iter().count()), (None, Some(&9), Some(&9), 999));
    }

    #[test]
    fn one_change_copies_a_small_part() {
        let mut map = CowMap::default();
        for number in 0..5000 {
            map.change(&number.to_string(), |value| *value = Some(number));
        }
        let before = map.clone();
        map.change("17", |value| *value = Some(0));
        let copied: Vec<_> = map.parts.iter().zip(before.parts.iter()).filter(|(a, b)| !Arc::ptr_eq(a, b)).collect();
        assert_eq!(copied.len(), 1);
        assert!(copied[0].0.len() < 100, "{} entries were copied", copied[0].0.len());
    }
}
