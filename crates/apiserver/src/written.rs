//! The trees of the objects that were written last, for whoever changes them again: what was just made is what
//! controllers and nodes go on with, and decoding it anew is a tenth of an update's work.
//!
//! An entry is of one revision of an object, so that nothing has to be invalidated.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use store::{Precondition, Revision};

use crate::meta;

/// Memory of all trees: some two thousand objects of 1 KiB, or three hundred pods. Those written longest ago go first.
const TREES_BYTES_MAX: usize = 16 << 20;
/// How long a tree is kept: whoever goes on with an object does so soon.
const TREE_AGE_MAX: Duration = Duration::from_secs(60);
/// Trees that go for their age at one write: more than come, and few enough to take apart meanwhile.
const AGED_MAX: usize = 4;
/// Objects with more JSON are decoded each time: few of them would push out all others.
const OBJECT_BYTES_MAX: usize = 16 << 10;

/// Collections of which not every tree is kept.
const EVENTS: &str = "core/events";
const LEASES: &str = "coordination.k8s.io/leases";
const PODS: &str = "core/pods";

/// Members in a node of the map that objects are decoded into, and in one that is filled as most are.
const NODE_MEMBERS: usize = 11;
const NODE_MEMBERS_USUAL: usize = 7;
/// What a node takes besides its members.
const NODE_BYTES: usize = 16;

/// The trees.
#[derive(Default)]
pub(crate) struct Written(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    trees: BTreeMap<Revision, Entry>,
    bytes: usize,
}

struct Entry {
    collection: Arc<str>,
    path: Box<str>,
    tree: Arc<Value>,
    bytes: usize,
    since: Instant,
}

/// Whether the tree of an object with that much JSON is kept: not of what is seldom changed as a tree. Events are mostly
/// written once, a pod that waits gets its node in its bytes, and of what is being deleted many go at once. A lease is written
/// again every ten seconds: of a thousand nodes, trees of 20 KB each would be kept all the time for some ten microseconds a
/// renewal.
pub(crate) fn is_kept(collection: &str, object: &Value, json_bytes: usize) -> bool {
    json_bytes <= OBJECT_BYTES_MAX
        && !meta::is_terminating(object)
        && match collection {
            EVENTS | LEASES => false,
            PODS => object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty()),
            _ => true,
        }
}

impl Written {
    /// The tree of the object that lives at `path` since `revision`.
    pub(crate) fn get(&self, collection: &str, path: &str, revision: Revision) -> Option<Arc<Value>> {
        let kept = self.0.lock();
        let entry = kept.trees.get(&revision)?;
        // a transaction may write several objects, of which one is kept
        (*entry.collection == *collection && *entry.path == *path).then(|| entry.tree.clone())
    }

    /// Keeps the tree of an object that was written at `revision` on that condition.
    pub(crate) fn keep(
        &self,
        collection: &Arc<str>,
        path: &str,
        revision: Revision,
        precondition: Precondition,
        mut tree: Value,
    ) {
        meta::of(&mut tree).insert("resourceVersion".into(), revision.0.to_string().into());
        let bytes = bytes_of(&tree);
        let since = Instant::now();
        let entry = Entry { collection: collection.clone(), path: path.into(), tree: Arc::new(tree), bytes, since };
        let outdated = self.0.lock().keep(revision, precondition, entry);
        // taking trees apart takes a while, in which nobody should have to wait
        drop(outdated);
    }

    /// Lets go of all of them.
    pub(crate) fn clear(&self) {
        let outdated = std::mem::take(&mut *self.0.lock());
        drop(outdated);
    }
}

impl Kept {
    /// Adds an entry and gives those that go for it.
    fn keep(&mut self, revision: Revision, precondition: Precondition, entry: Entry) -> Vec<Entry> {
        let mut outdated = Vec::new();
        let now = entry.since;
        if let Precondition::Revision(before) = precondition {
            outdated.extend(self.trees.remove(&before));
        }
        self.bytes += entry.bytes;
        outdated.extend(self.trees.insert(revision, entry));
        let mut left = self.bytes - outdated.iter().map(|entry| entry.bytes).sum::<usize>();
        let is_aged = |oldest: &Entry| now.saturating_duration_since(oldest.since) > TREE_AGE_MAX;
        while let Some(first) = self.trees.first_entry()
            && (left > TREES_BYTES_MAX || (outdated.len() < AGED_MAX && is_aged(first.get())))
        {
            let oldest = first.remove();
            left -= oldest.bytes;
            outdated.push(oldest);
        }
        self.bytes = left;
        outdated
    }
}

/// What a tree takes, as near as matters for a bound.
fn bytes_of(value: &Value) -> usize {
    match value {
        Value::Object(map) => bytes_of_map(map),
        Value::Array(items) => items.len() * size_of::<Value>() + items.iter().map(bytes_of).sum::<usize>(),
        Value::String(text) => text.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

fn bytes_of_map(map: &Map<String, Value>) -> usize {
    let nodes = if map.len() <= NODE_MEMBERS { map.len().min(1) } else { map.len().div_ceil(NODE_MEMBERS_USUAL) };
    let node = NODE_MEMBERS * (size_of::<String>() + size_of::<Value>()) + NODE_BYTES;
    nodes * node + map.iter().map(|(name, value)| name.len() + bytes_of(value)).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MAPS: &str = "core/configmaps";

    fn write(written: &Written, path: &str, revision: u64, before: Option<u64>, tree: Value) {
        let precondition = before.map_or(Precondition::Absent, |before| Precondition::Revision(Revision(before)));
        written.keep(&MAPS.into(), path, Revision(revision), precondition, tree);
    }

    #[test]
    fn a_tree_is_of_one_revision_of_one_object() {
        let written = Written::default();
        write(&written, "n/a", 7, None, json!({"metadata": {"name": "a", "resourceVersion": "6"}}));
        let found = written.get(MAPS, "n/a", Revision(7)).unwrap();
        assert_eq!(*found, json!({"metadata": {"name": "a", "resourceVersion": "7"}}));
        assert_eq!(written.get(MAPS, "n/b", Revision(7)), None);
        assert_eq!(written.get("core/secrets", "n/a", Revision(7)), None);
        write(&written, "n/a", 9, Some(7), json!({"metadata": {"name": "a"}}));
        assert_eq!(written.get(MAPS, "n/a", Revision(7)), None, "what was replaced is not kept");
        assert!(written.get(MAPS, "n/a", Revision(9)).is_some());
        written.clear();
        assert_eq!(written.get(MAPS, "n/a", Revision(9)), None);
    }

    #[test]
    fn what_is_seldom_changed_as_a_tree_is_not_kept() {
        let bound = json!({"spec": {"nodeName": "n1"}});
        assert!(is_kept(PODS, &bound, 1) && is_kept(MAPS, &json!({}), OBJECT_BYTES_MAX));
        for (collection, object, bytes) in [
            (PODS, json!({"spec": {}}), 1),
            (EVENTS, json!({}), 1),
            (LEASES, json!({}), 1),
            (PODS, bound, OBJECT_BYTES_MAX + 1),
        ] {
            assert!(!is_kept(collection, &object, bytes), "{collection} {object} {bytes}");
        }
    }

    #[test]
    fn the_memory_is_bounded_and_the_oldest_goes() {
        let written = Written::default();
        let tree = |number: u64| json!({"metadata": {"name": number}, "data": {"x": "y".repeat(OBJECT_BYTES_MAX)}});
        let room = (TREES_BYTES_MAX / bytes_of(&tree(1))) as u64;
        for number in 1..=2 * room {
            write(&written, &format!("n/{number}"), number, None, tree(number));
        }
        let mut kept = written.0.lock();
        assert!(kept.bytes <= TREES_BYTES_MAX && kept.trees.len() as u64 + 1 >= room);
        assert_eq!(kept.bytes, kept.trees.values().map(|entry| entry.bytes).sum::<usize>());
        let oldest = std::mem::take(&mut kept.trees).into_keys().next();
        assert!(oldest > Some(Revision(room - 1)), "the last ones are there");
    }

    #[test]
    fn what_nobody_goes_on_with_is_let_go() {
        let written = Written::default();
        for number in 1..=9 {
            write(&written, &format!("n/{number}"), number, None, json!({}));
        }
        for entry in written.0.lock().trees.values_mut().take(7) {
            entry.since -= TREE_AGE_MAX + Duration::from_secs(1);
        }
        let kept = |written: &Written| written.0.lock().trees.keys().map(|revision| revision.0).collect::<Vec<_>>();
        write(&written, "n/10", 10, None, json!({}));
        assert_eq!(kept(&written), [5, 6, 7, 8, 9, 10]);
        write(&written, "n/11", 11, None, json!({}));
        assert_eq!(kept(&written), [8, 9, 10, 11]);
        let kept = written.0.lock();
        assert_eq!(kept.bytes, kept.trees.values().map(|entry| entry.bytes).sum::<usize>());
    }
}
