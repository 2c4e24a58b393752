//! Which budgets rest on the size of which objects, of kinds that are not among the usual ones.

use std::collections::{HashMap, HashSet};

use kube::core::ApiResource;
use reconcile::Key;

/// A pod's controller whose size the server was asked for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) resource: ApiResource,
    pub(super) owner: Key,
}

/// Identifies a kind: group and plural.
pub(super) fn identity(resource: &ApiResource) -> String {
    format!("{}/{}", resource.group, resource.plural)
}

/// Bounded by the budgets, and by the controllers of their pods.
#[derive(Default)]
pub(super) struct Followed {
    budgets: HashMap<(String, Key), HashSet<Key>>,
    owners: HashMap<Key, Vec<(String, Key)>>,
    /// Kinds that are watched.
    kinds: HashSet<String>,
    /// Kinds to be watched.
    new: Vec<ApiResource>,
    /// Budgets whose pods' controllers have no size, as far as is known.
    sizeless: HashSet<Key>,
}

impl Followed {
    /// Takes in what was asked for on behalf of a budget, and whether all have a size; `true` when there are kinds to be
    /// watched now.
    pub(super) fn note(&mut self, budget: &Key, asked: Vec<Asked>, is_sized: bool) -> bool {
        self.forget(budget);
        if !is_sized {
            self.sizeless.insert(budget.clone());
        }
        for Asked { resource, owner } in asked {
            let kind = identity(&resource);
            if self.kinds.insert(kind.clone()) {
                self.new.push(resource);
            }
            let place = (kind, owner);
            if self.budgets.entry(place.clone()).or_default().insert(budget.clone()) {
                self.owners.entry(budget.clone()).or_default().push(place);
            }
        }
        !self.new.is_empty()
    }

    /// Forgets a budget.
    pub(super) fn forget(&mut self, budget: &Key) {
        self.sizeless.remove(budget);
        for place in self.owners.remove(budget).unwrap_or_default() {
            if let Some(budgets) = self.budgets.get_mut(&place) {
                budgets.remove(budget);
                if budgets.is_empty() {
                    self.budgets.remove(&place);
                }
            }
        }
    }

    /// The budgets that rest on the size of an object.
    pub(super) fn of(&self, kind: &str, owner: Key) -> Vec<Key> {
        self.budgets.get(&(kind.to_owned(), owner)).into_iter().flatten().cloned().collect()
    }

    /// Takes the kinds that are to be watched from now on.
    pub(super) fn take_new(&mut self) -> Vec<ApiResource> {
        std::mem::take(&mut self.new)
    }

    /// A kind is not watched any more.
    pub(super) fn ended(&mut self, kind: &str) {
        self.kinds.remove(kind);
    }

    /// Takes the budgets that may be computed when kinds have changed.
    pub(super) fn take_sizeless(&mut self) -> HashSet<Key> {
        std::mem::take(&mut self.sizeless)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(owner: &str) -> Asked {
        let kind = kube::core::GroupVersionKind::gvk("example.com", "v1", "Widget");
        Asked { resource: ApiResource::from_gvk(&kind), owner: Key::new("ns", owner) }
    }

    #[test]
    fn a_budget_is_found_by_what_it_rests_on_now() {
        let mut followed = Followed::default();
        let (one, two) = (Key::new("ns", "one"), Key::new("ns", "two"));
        let kind = identity(&asked("a").resource);
        let of = |followed: &Followed, owner: &str| followed.of(&kind, Key::new("ns", owner)).len();
        assert!(followed.note(&one, vec![asked("a"), asked("b")], true));
        assert_eq!(followed.take_new().len(), 1);
        assert!(!followed.note(&two, vec![asked("a")], true), "the kind is watched already");
        assert_eq!((of(&followed, "a"), of(&followed, "b"), of(&followed, "c")), (2, 1, 0));
        followed.note(&one, vec![asked("b")], true);
        followed.forget(&two);
        assert_eq!((of(&followed, "a"), of(&followed, "b")), (0, 1));
        followed.ended(&kind);
        assert!(followed.note(&one, vec![asked("b")], true), "it is watched anew");
    }

    #[test]
    fn budgets_without_a_size_wait_for_kinds_to_change() {
        let mut followed = Followed::default();
        let (one, two) = (Key::new("ns", "one"), Key::new("ns", "two"));
        followed.note(&one, Vec::new(), false);
        followed.note(&two, Vec::new(), false);
        followed.note(&two, Vec::new(), true);
        assert_eq!(followed.take_sizeless(), HashSet::from([one]));
        assert!(followed.take_sizeless().is_empty());
    }
}
