//! Which services are meant to be spread in proportion to the zones, whether that can be had, and the zones' shares, which
//! are reckoned only when a service asks for them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use reconcile::{Change, EventType, Informer, Key};

use super::hints::{self, Distribution};
use super::slices::Plan;
use super::topology::{self, Ratios, Share};

/// What was told last of a family's hints: that there are some, or why there are none.
type Told = Result<(), String>;

#[derive(Default)]
struct State {
    /// By service and address family; only of services that ask for it.
    told: HashMap<Key, BTreeMap<String, Told>>,
    /// `None` when nodes have changed since.
    ratios: Option<Option<Arc<Ratios>>>,
}

/// The state of all services that ask for hints in proportion.
#[derive(Default)]
pub(super) struct Proportions {
    state: Mutex<State>,
}

impl Proportions {
    /// The services whose hints may have to change with a node.
    pub(super) fn node_changed(&self, change: &Change<Node>) -> Vec<Key> {
        let mut state = self.state.lock();
        if state.told.is_empty() {
            state.ratios = None;
            return Vec::new();
        }
        if let Change::Applied { old: Some(old), new } = change
            && Share::of(old) == Share::of(new)
        {
            return Vec::new();
        }
        state.ratios = None;
        state.told.keys().cloned().collect()
    }

    /// The service is gone.
    pub(super) fn forget(&self, key: &Key) {
        self.state.lock().told.remove(key);
    }

    /// Gives the plan its hints, and what is to be told of it.
    pub(super) fn apply(
        &self,
        key: &Key,
        plan: &mut Plan,
        distribution: Distribution<'_>,
        nodes: &Informer<Node>,
    ) -> Option<(EventType, &'static str, String)> {
        let family = plan.address_type.clone();
        let disabled =
            |why: &str| (EventType::Warning, "TopologyAwareHintsDisabled", format!("{why}, addressType: {family}"));
        if distribution != Distribution::Proportional {
            hints::near(plan, distribution);
            let before = self.was_told(key, &family)?;
            return before.is_ok().then(|| disabled("Topology Aware Hints has been disabled"));
        }
        let ratios = self.ratios(nodes);
        let told = hints::proportional(plan, ratios.as_deref()).map(drop);
        if told.is_err() {
            hints::none(plan);
        }
        let mut state = self.state.lock();
        let before = state.told.entry(key.clone()).or_default().insert(family.clone(), told.clone());
        if before.as_ref() == Some(&told) {
            return None;
        }
        Some(match told {
            Ok(()) => {
                let message = format!("Topology Aware Hints has been enabled, addressType: {family}");
                (EventType::Normal, "TopologyAwareHintsEnabled", message)
            }
            Err(why) => disabled(&why),
        })
    }

    /// What was told of a family of a service that does not ask any more; it is told once.
    fn was_told(&self, key: &Key, family: &str) -> Option<Told> {
        let mut state = self.state.lock();
        let families = state.told.get_mut(key)?;
        let told = families.remove(family);
        if families.is_empty() {
            state.told.remove(key);
        }
        told
    }

    fn ratios(&self, nodes: &Informer<Node>) -> Option<Arc<Ratios>> {
        let mut state = self.state.lock();
        let of = || topology::ratios(nodes.list().iter().map(|node| Share::of(node))).map(Arc::new);
        state.ratios.get_or_insert_with(of).clone()
    }
}
