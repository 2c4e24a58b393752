//! The tree against the standard library's map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Insert(u16, u32),
    Remove(u16),
    Change(u16, u32),
    Keep,
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0u16..600;
    prop_oneof![
        4 => (key.clone(), any::<u32>()).prop_map(|(k, v)| Op::Insert(k, v)),
        4 => key.clone().prop_map(Op::Remove),
        1 => (key, any::<u32>()).prop_map(|(k, v)| Op::Change(k, v)),
        1 => Just(Op::Keep),
    ]
}

fn name(key: u16) -> Arc<str> {
    format!("ns-{}/pod-{}", key % 7, key).into()
}

fn check(tree: &Tree<u32>, model: &BTreeMap<Arc<str>, u32>) {
    assert_eq!(tree.len(), model.len());
    assert!(tree.iter().eq(model.iter()), "order or content differs");
    assert_shape(&tree.root, None, true);
}

/// Every node within bounds, every count right, every key at or above its bound; returns the height.
fn assert_shape(node: &Node<u32>, low: Option<&str>, root: bool) -> usize {
    assert!(size(node) <= FANOUT);
    match node {
        Node::Leaf(entries) => {
            assert!(entries.iter().all(|(k, _)| low.is_none_or(|low| &**k >= low)));
            0
        }
        Node::Branch(children) => {
            assert!(root || children.len() >= FANOUT_MIN, "a branch with {} children", children.len());
            let heights: Vec<_> = children
                .iter()
                .map(|c| {
                    let below = Tree { root: Arc::clone(&c.node), len: c.len };
                    assert_eq!(below.iter().count(), c.len);
                    assert_shape(&c.node, Some(&c.low), false)
                })
                .collect();
            assert!(heights.windows(2).all(|w| w[0] == w[1]));
            heights[0] + 1
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tree_equals_btreemap_and_old_versions_never_change(ops in prop::collection::vec(op(), 1..1500)) {
        let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
        let mut kept = Vec::new();
        for op in ops {
            match op {
                Op::Insert(k, v) => prop_assert_eq!(tree.insert(&name(k), v), model.insert(name(k), v)),
                Op::Remove(k) => prop_assert_eq!(tree.remove(&name(k)), model.remove(&name(k))),
                Op::Change(k, v) => {
                    prop_assert_eq!(tree.get(&name(k)), model.get(&name(k)));
                    if let Some(value) = tree.get_mut(&name(k)) { *value = v; }
                    if let Some(value) = model.get_mut(&name(k)) { *value = v; }
                }
                Op::Keep => kept.push((tree.clone(), model.clone())),
            }
        }
        check(&tree, &model);
        for (tree, model) in &kept {
            check(tree, model);
        }
    }

    #[test]
    fn seek_and_rank_agree_with_a_linear_scan(keys in prop::collection::btree_set(0u16..600, 0..400), at in 0u16..600) {
        let mut tree = Tree::default();
        for key in &keys { tree.insert(&name(*key), u32::from(*key)); }
        let at = name(at);
        let expected: Vec<_> = tree.iter().filter(|(k, _)| **k > at).map(|(_, v)| *v).collect();
        let found: Vec<_> = tree.iter_from(|k| k <= &*at).map(|(_, v)| *v).collect();
        prop_assert_eq!(tree.rank(|k| k <= &*at), tree.len() - expected.len());
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn emptied_tree_is_a_single_leaf_again() {
    let mut tree = Tree::default();
    for key in 0..5000u16 {
        tree.insert(&name(key), 0);
    }
    for key in 0..5000u16 {
        assert_eq!(tree.remove(&name(key)), Some(0));
    }
    assert_eq!(tree.len(), 0);
    assert!(matches!(&*tree.root, Node::Leaf(entries) if entries.is_empty()));
}
