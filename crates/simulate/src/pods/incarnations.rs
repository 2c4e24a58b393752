//! Which of its owner's pods a pod is, so that decisions are repeatable though names of pods are not.

use std::collections::{HashMap, VecDeque};

use k8s_openapi::api::core::v1::Pod;

/// Owners without pods whose numbers are remembered, so that the next pod of one is not the first again.
const RETIRED_MAX: usize = 10_000;

/// How many pods each owner has had.
#[derive(Debug, Default)]
pub(super) struct Incarnations {
    owners: HashMap<String, Owner>,
    retired: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Owner {
    next: u64,
    living: u64,
}

/// Who made a pod: its controller, or nobody but its name.
pub(super) fn owner(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    match controller {
        // the pods of a StatefulSet and the like keep their names, and those of others are told apart by their number
        Some(owner) if owner.kind == "StatefulSet" => {
            format!("{namespace}/Pod/{}", metadata.name.as_deref().unwrap_or_default())
        }
        Some(owner) => format!("{namespace}/{}/{}", owner.kind, owner.name),
        None => format!("{namespace}/Pod/{}", metadata.name.as_deref().unwrap_or_default()),
    }
}

impl Incarnations {
    /// The number of an owner's next pod.
    pub(super) fn next(&mut self, owner: &str) -> u64 {
        let known = self.owners.entry(owner.to_owned()).or_default();
        let number = known.next;
        known.next += 1;
        known.living += 1;
        number
    }

    /// A pod of an owner has gone.
    pub(super) fn ended(&mut self, owner: &str) {
        let Some(known) = self.owners.get_mut(owner) else { return };
        known.living = known.living.saturating_sub(1);
        if known.living > 0 {
            return;
        }
        self.retired.push_back(owner.to_owned());
        if self.retired.len() > RETIRED_MAX
            && let Some(oldest) = self.retired.pop_front()
            && self.owners.get(&oldest).is_some_and(|owner| owner.living == 0)
        {
            self.owners.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_numbered_by_their_controller_or_their_name() {
        let of = |metadata| owner(&serde_json::from_value(json!({"metadata": metadata})).unwrap());
        let controlled = |kind, name| {
            json!({"name": name, "namespace": "ns", "ownerReferences": [
            {"apiVersion": "v1", "kind": kind, "name": "web", "uid": "u", "controller": true}]})
        };
        assert_eq!(of(controlled("ReplicaSet", "web-x")), of(controlled("ReplicaSet", "web-y")));
        assert_eq!(of(controlled("StatefulSet", "web-1")), "ns/Pod/web-1");
        assert_eq!(of(json!({"name": "a", "namespace": "ns"})), "ns/Pod/a");
        let mut numbers = Incarnations::default();
        assert_eq!([numbers.next("a"), numbers.next("a"), numbers.next("b")], [0, 1, 0]);
        numbers.ended("a");
        numbers.ended("a");
        assert_eq!(numbers.next("a"), 2, "the next pod of a name does not repeat what the last one did");
    }

    #[test]
    fn owners_that_are_gone_are_forgotten_in_the_end() {
        let mut numbers = Incarnations::default();
        for number in 0..2 * RETIRED_MAX {
            let owner = format!("job-{number}");
            assert_eq!(numbers.next(&owner), 0);
            numbers.ended(&owner);
        }
        assert_eq!((numbers.owners.len(), numbers.retired.len()), (RETIRED_MAX, RETIRED_MAX));
    }
}
