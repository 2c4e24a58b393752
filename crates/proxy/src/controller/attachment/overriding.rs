//! Which routes have policies of their own, so that those of their Gateways can be told that they do not count there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::controller::listeners::ListenerId;

/// Names in one message, at most: it has to stay readable, and short of what a condition may hold.
const NAMES: usize = 100;

/// The routes with policies of their own, by listener and kind of policy.
#[derive(Default)]
pub(crate) struct Overriding {
    listeners: HashMap<ListenerId, BTreeMap<&'static str, BTreeMap<String, usize>>>,
}

impl Overriding {
    /// A route has policies of these kinds at a listener, or has them no more.
    pub(crate) fn count(&mut self, listener: &ListenerId, kinds: &[&'static str], route: &str, has: bool) {
        for kind in kinds {
            let of = self.listeners.entry(listener.clone()).or_default();
            let routes = of.entry(kind).or_default();
            // Routes of two kinds may have one name.
            let count = routes.entry(route.to_owned()).or_default();
            *count = if has { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                routes.remove(route);
            }
            if routes.is_empty() {
                of.remove(kind);
            }
            if of.is_empty() {
                self.listeners.remove(listener);
            }
        }
    }

    /// The first routes with policies of a kind at any of some listeners.
    pub(crate) fn routes<'a>(&'a self, listeners: impl Iterator<Item = &'a ListenerId>, kind: &str) -> Vec<&'a str> {
        let routes = listeners.filter_map(|listener| self.listeners.get(listener)?.get(kind));
        let all: BTreeSet<&str> = routes.flat_map(|routes| routes.keys().take(NAMES).map(String::as_str)).collect();
        all.into_iter().take(NAMES).collect()
    }
}

/// What a policy is overridden for, in upstream's words; empty when it is not.
pub(crate) fn overridden(plural: &str, listeners: &[&str], routes: &[&str]) -> String {
    let listed = |names: &[&str]| format!("[{}]", names.join(" "));
    let what = match (listeners.is_empty(), routes.is_empty()) {
        (true, true) => return String::new(),
        (false, false) => format!("these listeners: {} and these routes: {}", listed(listeners), listed(routes)),
        (false, true) => format!("these listeners: {}", listed(listeners)),
        (true, false) => format!("these routes: {}", listed(routes)),
    };
    format!("This policy is being overridden by other {plural} for {what}")
}
