//! Which nodes each DaemonSet runs on, kept as nodes and sets change: a reconcile asks no node.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use reconcile::Key;

use super::eligibility::{Eligibility, Rule, daemon_spec};

/// Every node by name, and what a set has to do with it.
pub(super) type Nodes = BTreeMap<Arc<str>, Eligibility>;

/// What a set of one template has to do with the nodes.
struct Standing {
    uid: Option<String>,
    generation: Option<i64>,
    rule: Rule,
    /// Copied only where a node's place in it changes while a reconcile looks at it.
    nodes: Arc<Nodes>,
}

/// One entry per set that was looked at, and in it one per node.
#[derive(Default)]
pub(super) struct Standings(Mutex<HashMap<Key, Standing>>);

impl Standings {
    /// The nodes and what the set has to do with each. They are asked anew for a set that is new or has changed; `all` says
    /// which there are.
    pub(super) fn of(&self, key: &Key, daemon: &DaemonSet, all: impl FnOnce() -> Vec<Arc<Node>>) -> Arc<Nodes> {
        let mut standings = self.0.lock();
        let (uid, generation) = (&daemon.metadata.uid, daemon.metadata.generation);
        let is_current = |standing: &&Standing| standing.uid == *uid && standing.generation == generation;
        if let Some(standing) = standings.get(key).filter(is_current) {
            return Arc::clone(&standing.nodes);
        }
        let rule = Rule::of(&daemon_spec(daemon));
        let named = |node: Arc<Node>| (name_of(&node).into(), rule.eligibility(&node));
        let nodes: Arc<Nodes> = Arc::new(all().into_iter().map(named).collect());
        let standing = Standing { uid: uid.clone(), generation, rule, nodes: Arc::clone(&nodes) };
        standings.insert(key.clone(), standing);
        nodes
    }

    /// Takes in that a node is now `after`, none for one that is gone; returns the sets that have something else to do with
    /// it than before.
    pub(super) fn changed(&self, name: &str, after: Option<&Node>) -> Vec<Key> {
        let mut affected = Vec::new();
        for (key, standing) in self.0.lock().iter_mut() {
            let known = standing.nodes.get(name).copied();
            let now = after.map(|node| standing.rule.eligibility(node));
            if known == now {
                continue;
            }
            let nodes = Arc::make_mut(&mut standing.nodes);
            match now {
                Some(now) => nodes.insert(name.into(), now),
                None => nodes.remove(name),
            };
            // a node where nothing is to run is as good as none
            if known.unwrap_or(Eligibility::Leaves) != now.unwrap_or(Eligibility::Leaves) {
                affected.push(key.clone());
            }
        }
        affected
    }

    /// Forgets a set.
    pub(super) fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

fn name_of(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn daemon(generation: i64, selector: Value) -> DaemonSet {
        serde_json::from_value(json!({"metadata": {"name": "agent", "uid": "u", "generation": generation},
            "spec": {"selector": {}, "template": {"spec": {"nodeSelector": selector, "containers": []}}}}))
        .unwrap()
    }

    fn node(name: &str, labels: Value) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap())
    }

    #[test]
    fn nodes_are_asked_once_and_then_followed() {
        let standings = Standings::default();
        let key = Key::new("n", "agent");
        let set = daemon(1, json!({"disk": "ssd"}));
        let (fast, slow) = (node("fast", json!({"disk": "ssd"})), node("slow", json!({})));
        let first = standings.of(&key, &set, || vec![Arc::clone(&fast), Arc::clone(&slow)]);
        assert_eq!(*first, Nodes::from([("fast".into(), Eligibility::Runs), ("slow".into(), Eligibility::Leaves)]));
        let again = || standings.of(&key, &set, || panic!("asked again"));
        assert_eq!(*again(), *first);

        assert!(standings.changed("fast", Some(&fast)).is_empty());
        assert!(standings.changed("new", Some(&node("new", json!({})))).is_empty());
        let only = std::slice::from_ref(&key);
        assert_eq!(standings.changed("slow", Some(&node("slow", json!({"disk": "ssd"})))), only);
        assert_eq!(standings.changed("fast", None), only);
        assert!(standings.changed("new", None).is_empty());
        assert_eq!(*again(), Nodes::from([("slow".into(), Eligibility::Runs)]));
        assert_eq!(first.len(), 2, "what is being looked at stays");

        let anywhere = standings.of(&key, &daemon(2, json!({})), || vec![fast]);
        assert_eq!(*anywhere, Nodes::from([("fast".into(), Eligibility::Runs)]));
        standings.forget(&key);
        assert!(standings.changed("fast", None).is_empty());
    }
}
