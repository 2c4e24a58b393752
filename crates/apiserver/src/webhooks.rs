//! Admission webhooks: the configurations in memory, which of them a request concerns, and the exchange with one.
//!
//! The index is fed by commits and loaded at start. A request that no configuration can concern costs one load of a
//! pointer: [`Webhooks::mutating`] and [`Webhooks::validating`] are empty lists then. What is done with the answers (the
//! order of calls, reinvocation, what a failure means) is admission's, in the handlers.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use serde_json::Value;

mod exchange;
mod hook;
mod review;
#[cfg(test)]
mod tests;

pub(crate) use exchange::{Failure, Ruling, ask};
pub(crate) use hook::Hook;
pub(crate) use review::{Sent, request_object};

/// Collections of configurations.
pub(crate) const MUTATING: &str = "admissionregistration.k8s.io/mutatingwebhookconfigurations";
/// See [`MUTATING`].
pub(crate) const VALIDATING: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";

/// All webhooks.
#[derive(Default)]
pub(crate) struct Webhooks {
    mutating: Index,
    validating: Index,
}

#[derive(Default)]
struct Index {
    configurations: Mutex<BTreeMap<String, Vec<Arc<Hook>>>>,
    hooks: ArcSwap<Vec<Arc<Hook>>>,
}

impl Index {
    fn apply(&self, name: &str, read: impl FnOnce() -> Option<Value>) {
        // reading and applying are one step, so that of two concurrent changes the later state wins
        let mut configurations = self.configurations.lock();
        match read() {
            Some(configuration) => configurations.insert(name.to_owned(), Hook::decode_all(name, &configuration)),
            None => configurations.remove(name),
        };
        self.publish(&configurations);
    }

    fn publish(&self, configurations: &BTreeMap<String, Vec<Arc<Hook>>>) {
        self.hooks.store(Arc::new(configurations.values().flatten().cloned().collect()));
    }
}

impl Webhooks {
    /// Takes over what is stored now at `name` of a collection; other collections than the two are ignored.
    pub(crate) fn apply(&self, collection: &str, name: &str, read: impl FnOnce() -> Option<Value>) {
        match collection {
            MUTATING => self.mutating.apply(name, read),
            VALIDATING => self.validating.apply(name, read),
            _ => {}
        }
    }

    /// Takes over all stored configurations, given with collection and name.
    pub(crate) fn load<'a>(&self, configurations: impl Iterator<Item = (&'a str, String, Value)>) {
        // before anything is read, as in `apply`
        let (mut mutating, mut validating) =
            (self.mutating.configurations.lock(), self.validating.configurations.lock());
        mutating.clear();
        validating.clear();
        for (collection, name, object) in configurations {
            let hooks = Hook::decode_all(&name, &object);
            if collection == MUTATING { &mut mutating } else { &mut validating }.insert(name, hooks);
        }
        self.mutating.publish(&mutating);
        self.validating.publish(&validating);
    }

    /// The webhooks that may change objects.
    pub(crate) fn mutating(&self) -> Guard<Arc<Vec<Arc<Hook>>>> {
        self.mutating.hooks.load()
    }

    /// The webhooks that judge them.
    pub(crate) fn validating(&self) -> Guard<Arc<Vec<Arc<Hook>>>> {
        self.validating.hooks.load()
    }
}
