//! ValidatingAdmissionPolicies: the policies with their bindings in memory, compiled, and what they say of a request.
//!
//! The index is fed by commits and loaded at start. A policy counts once a binding refers to it. A request while no
//! policy is bound costs one load of a pointer: [`Policies::bound`] is an empty list then.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use serde_json::Value;

mod judge;
mod params;
mod policy;
mod status;

pub(crate) use judge::{Verdict, judge};
pub(crate) use params::{ParamSource, param_kind, params};
pub(crate) use policy::{Binding, Policy};
pub(crate) use status::observe;

/// Collection of policies.
pub(crate) const POLICIES: &str = "admissionregistration.k8s.io/validatingadmissionpolicies";
/// Collection of their bindings.
pub(crate) const BINDINGS: &str = "admissionregistration.k8s.io/validatingadmissionpolicybindings";

/// A policy and the bindings that put it to use.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) policy: Arc<Policy>,
    pub(crate) bindings: Vec<Arc<Binding>>,
}

/// All policies.
#[derive(Default)]
pub(crate) struct Policies {
    known: Mutex<Known>,
    bound: ArcSwap<Vec<Bound>>,
}

#[derive(Default)]
struct Known {
    policies: BTreeMap<String, Arc<Policy>>,
    bindings: BTreeMap<String, Arc<Binding>>,
}

impl Known {
    fn insert(&mut self, collection: &str, name: String, object: &Value) {
        if collection == POLICIES {
            self.policies.insert(name, Arc::new(Policy::compile(object)));
        } else {
            self.bindings.insert(name, Arc::new(Binding::decode(object)));
        }
    }

    fn bound(&self) -> Vec<Bound> {
        let of = |policy: &Arc<Policy>| {
            let bindings = self.bindings.values().filter(|binding| binding.policy == policy.name).cloned().collect();
            Bound { policy: policy.clone(), bindings }
        };
        self.policies.values().map(of).filter(|bound| !bound.bindings.is_empty()).collect()
    }
}

impl Policies {
    /// Takes over what is stored now at `name` of a collection; other collections than the two are ignored.
    pub(crate) fn apply(&self, collection: &str, name: &str, read: impl FnOnce() -> Option<Value>) {
        if collection != POLICIES && collection != BINDINGS {
            return;
        }
        // reading and applying are one step, so that of two concurrent changes the later state wins
        let mut known = self.known.lock();
        let object = read();
        match object {
            Some(object) => known.insert(collection, name.to_owned(), &object),
            None if collection == POLICIES => drop(known.policies.remove(name)),
            None => drop(known.bindings.remove(name)),
        }
        self.bound.store(Arc::new(known.bound()));
    }

    /// Takes over all that is stored, given with collection and name: what is not among it is gone.
    pub(crate) fn load<'a>(&self, read: impl FnOnce() -> Vec<(&'a str, String, Value)>) {
        // reading and applying are one step here too
        let mut known = self.known.lock();
        *known = Known::default();
        for (collection, name, object) in read() {
            known.insert(collection, name, &object);
        }
        self.bound.store(Arc::new(known.bound()));
    }

    /// The policies that are in force.
    pub(crate) fn bound(&self) -> Guard<Arc<Vec<Bound>>> {
        self.bound.load()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_stored_any_more_is_not_in_force_after_a_reload() {
        let policy =
            |name: &str| json!({"metadata": {"name": name}, "spec": {"validations": [{"expression": "true"}]}});
        let binding = |of: &str| json!({"metadata": {"name": of}, "spec": {"policyName": of}});
        let policies = Policies::default();
        for name in ["a", "b"] {
            policies.apply(POLICIES, name, || Some(policy(name)));
            policies.apply(BINDINGS, name, || Some(binding(name)));
        }
        let names = || policies.bound().iter().map(|bound| bound.policy.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(), ["a", "b"]);
        policies.load(|| vec![(POLICIES, "b".into(), policy("b")), (BINDINGS, "b".into(), binding("b"))]);
        assert_eq!(names(), ["b"]);
        policies.load(Vec::new);
        assert!(policies.bound().is_empty());
    }
}
