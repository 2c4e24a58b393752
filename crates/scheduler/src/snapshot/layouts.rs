//! Which topology domain each node is in. Counters that count by the same label, on the same nodes, share it, so that a new
//! counter looks at no node, and a node that changes at no counter.

use std::collections::HashMap;

use super::counters::Eligibility;
use crate::node::NodeInfo;

/// A node without the label belongs to no domain.
pub(crate) const NO_DOMAIN: u32 = u32::MAX;

/// The number of a layout.
pub(super) type LayoutId = u32;

/// By which label nodes are grouped, and which of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Grouping {
    pub(super) topology_key: String,
    pub(super) eligibility: Eligibility,
}

/// The domains of one grouping. A domain that nobody is in any more keeps its number.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    grouping: Grouping,
    domains: HashMap<String, u32>,
    /// The domain of each node, [`NO_DOMAIN`] for nodes that do not count.
    of_node: Vec<u32>,
    /// Nodes in each domain.
    nodes: Vec<u32>,
}

impl Layout {
    /// The domain of a node.
    pub(super) fn domain(&self, slot: u32) -> u32 {
        self.of_node.get(slot as usize).copied().unwrap_or(NO_DOMAIN)
    }

    /// The domain of that name.
    pub(super) fn named(&self, name: &str) -> Option<u32> {
        self.domains.get(name).copied()
    }

    /// Nodes in each domain.
    pub(super) fn nodes(&self) -> &[u32] {
        &self.nodes
    }

    fn join(&mut self, node: &NodeInfo) {
        let label = node.labels.get(&self.grouping.topology_key);
        let domain = match label.filter(|_| node.exists && self.grouping.eligibility.admits(node)) {
            None => NO_DOMAIN,
            Some(label) => match self.domains.get(label) {
                Some(domain) => *domain,
                None => {
                    let domain = u32::try_from(self.nodes.len()).unwrap_or(NO_DOMAIN);
                    self.domains.insert(label.clone(), domain);
                    self.nodes.push(0);
                    domain
                }
            },
        };
        let slot = node.slot as usize;
        if self.of_node.len() <= slot {
            self.of_node.resize(slot + 1, NO_DOMAIN);
        }
        self.of_node[slot] = domain;
        if let Some(nodes) = self.nodes.get_mut(domain as usize) {
            *nodes += 1;
        }
    }

    fn leave(&mut self, slot: u32) {
        let domain = self.domain(slot);
        if let Some(nodes) = self.nodes.get_mut(domain as usize) {
            *nodes -= 1;
        }
        if let Some(of_node) = self.of_node.get_mut(slot as usize) {
            *of_node = NO_DOMAIN;
        }
    }
}

/// All layouts that counters count by.
#[derive(Clone, Debug, Default)]
pub(super) struct Layouts {
    by_grouping: HashMap<Grouping, LayoutId>,
    layouts: Vec<Option<Layout>>,
    free: Vec<LayoutId>,
}

impl Layouts {
    /// The number of the layout of a grouping, made of all nodes when there is none.
    pub(super) fn id<'a>(&mut self, grouping: Grouping, nodes: impl Iterator<Item = &'a NodeInfo>) -> LayoutId {
        if let Some(id) = self.by_grouping.get(&grouping) {
            return *id;
        }
        let (domains, of_node, counts) = (HashMap::new(), Vec::new(), Vec::new());
        let mut layout = Layout { grouping: grouping.clone(), domains, of_node, nodes: counts };
        for node in nodes {
            layout.join(node);
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.layouts[id as usize] = Some(layout);
                id
            }
            None => {
                self.layouts.push(Some(layout));
                u32::try_from(self.layouts.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.by_grouping.insert(grouping, id);
        id
    }

    pub(super) fn get(&self, id: LayoutId) -> Option<&Layout> {
        self.layouts.get(id as usize).and_then(Option::as_ref)
    }

    /// The domain of a node.
    pub(super) fn domain(&self, id: LayoutId, slot: u32) -> u32 {
        self.get(id).map_or(NO_DOMAIN, |layout| layout.domain(slot))
    }

    /// Takes a node into the domains it belongs to.
    pub(super) fn join(&mut self, node: &NodeInfo) {
        self.layouts.iter_mut().flatten().for_each(|layout| layout.join(node));
    }

    /// Takes a node out of its domains.
    pub(super) fn leave(&mut self, slot: u32) {
        self.layouts.iter_mut().flatten().for_each(|layout| layout.leave(slot));
    }

    /// Forgets the layouts that are not `used`.
    pub(super) fn retain(&mut self, used: impl Fn(LayoutId) -> bool) {
        for (id, place) in (0..).zip(&mut self.layouts) {
            if !used(id)
                && let Some(layout) = place.take()
            {
                self.by_grouping.remove(&layout.grouping);
                self.free.push(id);
            }
        }
    }
}
