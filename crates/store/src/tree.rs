//! A persistent ordered map: a B+tree whose nodes are shared between versions.
//!
//! Cloning the map is one reference count. A change copies the nodes on its path that another version still holds and
//! edits the others in place, so a batch of changes copies each touched node once. Branches know how many entries lie
//! below each child: counting a range is as cheap as finding it.

use std::{mem, slice, sync::Arc};

#[cfg(test)]
mod tests;

/// Entries or children per node. A lone write copies one leaf and its branches: 32 keeps that near a microsecond while
/// a walk over a leaf still reads 32 neighbours in a row.
const FANOUT: usize = 32;

/// Nodes that fall below this are merged with a neighbour. A quarter, so that alternating inserts and removals at a
/// boundary do not split and merge each time.
const FANOUT_MIN: usize = FANOUT / 4;

/// An ordered map from string keys, cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tree<V> {
    root: Arc<Node<V>>,
    len: usize,
}

#[derive(Clone, Debug)]
enum Node<V> {
    Leaf(Vec<(Arc<str>, V)>),
    Branch(Vec<Child<V>>),
}

/// A subtree. `low` is a lower bound of its keys and above every key of the child before it.
#[derive(Clone, Debug)]
struct Child<V> {
    low: Arc<str>,
    len: usize,
    node: Arc<Node<V>>,
}

impl<V> Default for Tree<V> {
    fn default() -> Self {
        Tree { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }
}

impl<V: Clone> Tree<V> {
    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value at `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        self.entry(key).map(|(_, value)| value)
    }

    /// The value at `key`, with the key as it is kept.
    pub(crate) fn entry(&self, key: &str) -> Option<(&Arc<str>, &V)> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = entries.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
                    return Some((&entries[at].0, &entries[at].1));
                }
                Node::Branch(children) => node = &children[child_of(children, key)].node,
            }
        }
    }

    /// The value at `key` for change in place; copies the path to it where it is shared.
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut V> {
        self.get(key)?;
        let mut node = &mut self.root;
        loop {
            match Arc::make_mut(node) {
                Node::Leaf(entries) => {
                    let at = entries.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
                    return Some(&mut entries[at].1);
                }
                Node::Branch(children) => {
                    let at = child_of(children, key);
                    node = &mut children[at].node;
                }
            }
        }
    }

    /// Sets the value at `key` and returns the one before.
    pub(crate) fn insert(&mut self, key: &Arc<str>, value: V) -> Option<V> {
        let (old, split) = insert(&mut self.root, key, value);
        if old.is_none() {
            self.len += 1;
        }
        if let Some(right) = split {
            let left = Child { low: Arc::from(""), len: self.len - right.len, node: Arc::clone(&self.root) };
            self.root = Arc::new(Node::Branch(vec![left, right]));
        }
        old
    }

    /// Removes the entry at `key` and returns its value.
    pub(crate) fn remove(&mut self, key: &str) -> Option<V> {
        // Looked up first: a removal that finds nothing must not copy a path.
        self.get(key)?;
        let old = remove(&mut self.root, key);
        self.len -= usize::from(old.is_some());
        while let Node::Branch(children) = &*self.root
            && let [only] = &**children
        {
            self.root = Arc::clone(&only.node);
        }
        old
    }

    /// All entries in order.
    pub(crate) fn iter(&self) -> Iter<'_, V> {
        self.iter_from(|_| false)
    }

    /// The entries from the first that `skipped` is false for. `skipped` must be true for a prefix of the keys only.
    pub(crate) fn iter_from(&self, skipped: impl Fn(&str) -> bool) -> Iter<'_, V> {
        let mut stack = Vec::new();
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = entries.partition_point(|(k, _)| skipped(k));
                    return Iter { stack, leaf: entries[at..].iter() };
                }
                Node::Branch(children) => {
                    let at = children.partition_point(|c| skipped(&c.low)).saturating_sub(1);
                    stack.push(children[at + 1..].iter());
                    node = &children[at].node;
                }
            }
        }
    }

    /// How many keys `counted` is true for; it must be true for a prefix of the keys only.
    pub(crate) fn rank(&self, counted: impl Fn(&str) -> bool) -> usize {
        let mut before = 0;
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => return before + entries.partition_point(|(k, _)| counted(k)),
                Node::Branch(children) => {
                    let at = children.partition_point(|c| counted(&c.low)).saturating_sub(1);
                    before += children[..at].iter().map(|c| c.len).sum::<usize>();
                    node = &children[at].node;
                }
            }
        }
    }
}

/// Index of the child whose range holds `key`.
fn child_of<V>(children: &[Child<V>], key: &str) -> usize {
    children.partition_point(|c| &*c.low <= key).saturating_sub(1)
}

/// Inserts below `node`; returns the value before and, when the node had to be split, its new right neighbour.
fn insert<V: Clone>(node: &mut Arc<Node<V>>, key: &Arc<str>, value: V) -> (Option<V>, Option<Child<V>>) {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => match entries.binary_search_by(|(k, _)| k.cmp(key)) {
            Ok(at) => (Some(mem::replace(&mut entries[at].1, value)), None),
            Err(at) => {
                entries.insert(at, (Arc::clone(key), value));
                let split = (entries.len() > FANOUT).then(|| {
                    let right = entries.split_off(entries.len() / 2);
                    Child { low: Arc::clone(&right[0].0), len: right.len(), node: Arc::new(Node::Leaf(right)) }
                });
                (None, split)
            }
        },
        Node::Branch(children) => {
            let at = child_of(children, key);
            let child = &mut children[at];
            if *key < child.low {
                child.low = Arc::clone(key);
            }
            let (old, split) = insert(&mut child.node, key, value);
            child.len += usize::from(old.is_none());
            if let Some(right) = split {
                child.len -= right.len;
                children.insert(at + 1, right);
            }
            let split = (children.len() > FANOUT).then(|| {
                let right = children.split_off(children.len() / 2);
                let len = right.iter().map(|c| c.len).sum();
                Child { low: Arc::clone(&right[0].low), len, node: Arc::new(Node::Branch(right)) }
            });
            (old, split)
        }
    }
}

fn remove<V: Clone>(node: &mut Arc<Node<V>>, key: &str) -> Option<V> {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => {
            let at = entries.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
            Some(entries.remove(at).1)
        }
        Node::Branch(children) => {
            let at = child_of(children, key);
            let old = remove(&mut children[at].node, key)?;
            children[at].len -= 1;
            if size(&children[at].node) < FANOUT_MIN && children.len() > 1 {
                rebalance(children, if at + 1 < children.len() { at } else { at - 1 });
            }
            Some(old)
        }
    }
}

fn size<V>(node: &Node<V>) -> usize {
    match node {
        Node::Leaf(entries) => entries.len(),
        Node::Branch(children) => children.len(),
    }
}

/// Merges the children `at` and `at + 1`, and splits the result evenly when it is too large for one node.
fn rebalance<V: Clone>(children: &mut Vec<Child<V>>, at: usize) {
    let right = children.remove(at + 1);
    let left = &mut children[at];
    let split = match (Arc::make_mut(&mut left.node), Arc::unwrap_or_clone(right.node)) {
        (Node::Leaf(entries), Node::Leaf(more)) => {
            entries.extend(more);
            (entries.len() > FANOUT).then(|| {
                let rest = entries.split_off(entries.len() / 2);
                Child { low: Arc::clone(&rest[0].0), len: rest.len(), node: Arc::new(Node::Leaf(rest)) }
            })
        }
        (Node::Branch(own), Node::Branch(more)) => {
            own.extend(more);
            (own.len() > FANOUT).then(|| {
                let rest = own.split_off(own.len() / 2);
                let len = rest.iter().map(|c| c.len).sum();
                Child { low: Arc::clone(&rest[0].low), len, node: Arc::new(Node::Branch(rest)) }
            })
        }
        _ => unreachable!("siblings of a B+tree have the same height"),
    };
    left.len += right.len;
    if let Some(rest) = split {
        left.len -= rest.len;
        children.insert(at + 1, rest);
    }
}

/// Entries in key order.
pub(crate) struct Iter<'a, V> {
    stack: Vec<slice::Iter<'a, Child<V>>>,
    leaf: slice::Iter<'a, (Arc<str>, V)>,
}

impl<V> Default for Iter<'_, V> {
    fn default() -> Self {
        Iter { stack: Vec::new(), leaf: [].iter() }
    }
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (&'a Arc<str>, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            match self.stack.last_mut()?.next() {
                None => {
                    self.stack.pop();
                }
                Some(child) => match &*child.node {
                    Node::Leaf(entries) => self.leaf = entries.iter(),
                    Node::Branch(children) => self.stack.push(children.iter()),
                },
            }
        }
    }
}
