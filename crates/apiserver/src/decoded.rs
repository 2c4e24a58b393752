//! Decoded objects that nearly every write looks at: its namespace, its service account, the priority classes.
//!
//! An entry is valid for the one revision it was decoded from, so that nothing has to be invalidated.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use serde_json::Value;
use store::{Object, Revision};

use crate::codec;

/// Objects kept. With [`OBJECT_BYTES_MAX`], and a tree being some five times as large as its JSON, 10 MiB at most.
const OBJECTS_MAX: usize = 512;
/// Larger objects are decoded each time.
const OBJECT_BYTES_MAX: usize = 4096;

/// The cache.
#[derive(Default)]
pub(crate) struct Decoded(Mutex<Kept>);

/// The trees of a collection's objects by their path, each with the revision it was made from.
type Trees = HashMap<Box<str>, (Revision, Arc<Value>)>;

/// By collection, then by path, so that looking up allocates nothing.
#[derive(Default)]
struct Kept {
    objects: HashMap<Box<str>, Trees>,
    count: usize,
}

impl Decoded {
    /// The tree of `object`, which lives at `path` of `collection`; `None` when it cannot be decoded.
    pub(crate) fn get(&self, collection: &str, path: &str, object: &Object) -> Option<Arc<Value>> {
        if let Some((revision, value)) = self.0.lock().objects.get(collection).and_then(|paths| paths.get(path))
            && *revision == object.revision
        {
            return Some(value.clone());
        }
        let value = Arc::new(codec::stored(&object.bytes).ok()?);
        if object.bytes.len() <= OBJECT_BYTES_MAX {
            self.0.lock().keep(collection, path, (object.revision, value.clone()));
        }
        Some(value)
    }
}

impl Kept {
    fn keep(&mut self, collection: &str, path: &str, entry: (Revision, Arc<Value>)) {
        if self.count >= OBJECTS_MAX {
            // what is still asked for comes back at once, what is gone does not
            *self = Self::default();
        }
        let replaced = self.objects.entry(collection.into()).or_default().insert(path.into(), entry);
        self.count += usize::from(replaced.is_none());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(revision: u64, value: &Value) -> Object {
        Object { revision: Revision(revision), bytes: value.to_string().into() }
    }

    #[test]
    fn a_revision_is_decoded_once_and_another_one_anew() {
        let decoded = Decoded::default();
        let first = decoded.get("core/namespaces", "a", &object(1, &json!({"n": 1}))).unwrap();
        let again = decoded.get("core/namespaces", "a", &object(1, &json!({"n": 1}))).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(*decoded.get("core/namespaces", "a", &object(2, &json!({"n": 2}))).unwrap(), json!({"n": 2}));
        assert_eq!(*decoded.get("core/limitranges", "a", &object(2, &json!({"n": 3}))).unwrap(), json!({"n": 3}));
    }

    #[test]
    fn no_more_is_kept_than_the_bounds_say() {
        let decoded = Decoded::default();
        for path in 0..3 * OBJECTS_MAX {
            decoded.get("core/namespaces", &path.to_string(), &object(1, &json!({}))).unwrap();
        }
        let held = |decoded: &Decoded| decoded.0.lock().objects.values().map(HashMap::len).sum::<usize>();
        assert!(held(&decoded) <= OBJECTS_MAX);
        let decoded = Decoded::default();
        decoded.get("core/namespaces", "a", &object(1, &json!({"x": "y".repeat(OBJECT_BYTES_MAX)}))).unwrap();
        assert_eq!(held(&decoded), 0);
    }
}
