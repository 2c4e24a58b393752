//! The graph of owners and dependents, and what to do about one object in it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::PropagationPolicy;
use reconcile::{Key, Metadata};

use crate::discovery::Kind;

/// Holds an object until its dependents are gone.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Holds an object until its dependents do not name it any more.
pub(super) const ORPHAN: &str = "orphan";
/// Uids known to be gone that are remembered, to ask the server once per owner and not once per dependent.
const ABSENT_MAX: usize = 10_000;

/// An object.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Arc<Kind>,
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) resource_version: Option<String>,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    pub(super) foreground: bool,
    pub(super) orphan: bool,
}

impl Node {
    /// Reads an object's metadata.
    pub(super) fn of(kind: &Arc<Kind>, object: &Metadata) -> Option<Arc<Self>> {
        let has = |finalizer: &str| object.finalizers().iter().any(|f| f == finalizer);
        Some(Arc::new(Self {
            kind: Arc::clone(kind),
            key: Key::of(object),
            uid: object.metadata.uid.clone()?,
            resource_version: object.metadata.resource_version.clone(),
            owners: object.owner_references().to_vec(),
            deleting: object.metadata.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }))
    }

    /// Whether the object waits for its dependents to be deleted.
    fn waits(&self) -> bool {
        self.deleting && self.foreground
    }
}

/// What is known about an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// It is there.
    Solid,
    /// It is there, but waits for its dependents to be deleted.
    Waiting,
    /// It is gone.
    Absent,
}

/// What to do about an object.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// Its dependents are to be looked at.
    DeleteDependents,
    RemoveFinalizer(&'static str),
    /// Take the references to it away, then its finalizer.
    OrphanDependents,
    /// Take the references to these owners away.
    RemoveOwners(Vec<String>),
    /// Let its owners go without waiting for it: one of its dependents waits already, so that all would wait in a circle.
    Unblock,
    Delete(PropagationPolicy),
}

/// Decides on `node`, given the state of each of its owners.
pub(super) fn decide(node: &Node, owners: &[OwnerState], dependents: &[Arc<Node>]) -> Step {
    if node.deleting && node.orphan {
        return Step::OrphanDependents;
    }
    if node.waits() {
        let blocks = |dependent: &Arc<Node>| {
            let reference = dependent.owners.iter().find(|owner| owner.uid == node.uid);
            reference.is_some_and(|reference| reference.block_owner_deletion == Some(true))
        };
        let blocked = dependents.iter().any(blocks);
        return if blocked { Step::DeleteDependents } else { Step::RemoveFinalizer(FOREGROUND) };
    }
    if node.deleting || owners.is_empty() {
        return Step::Nothing;
    }
    if owners.contains(&OwnerState::Solid) {
        let lost = node.owners.iter().zip(owners).filter(|(_, state)| **state != OwnerState::Solid);
        let lost: Vec<String> = lost.map(|(owner, _)| owner.uid.clone()).collect();
        return if lost.is_empty() { Step::Nothing } else { Step::RemoveOwners(lost) };
    }
    if owners.contains(&OwnerState::Waiting) && !dependents.is_empty() {
        let blocks = node.owners.iter().any(|owner| owner.block_owner_deletion == Some(true));
        if blocks && dependents.iter().any(|dependent| dependent.waits()) {
            return Step::Unblock;
        }
        return Step::Delete(PropagationPolicy::Foreground);
    }
    // Finalizers that a client has set already say what is to become of the dependents.
    Step::Delete(match (node.orphan, node.foreground) {
        (true, _) => PropagationPolicy::Orphan,
        (false, true) => PropagationPolicy::Foreground,
        (false, false) => PropagationPolicy::Background,
    })
}

/// An object as a reference names it. A uid alone says nothing: a reference may give it another kind, name or namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Coordinates {
    namespace: String,
    api_version: String,
    kind: String,
    name: String,
    uid: String,
}

impl Coordinates {
    /// Of an owner, in the namespace where it is looked for.
    fn of(owner: &OwnerReference, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        }
    }
}

/// All objects by uid.
#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<String, Arc<Node>>,
    dependents: HashMap<String, HashSet<String>>,
    absent: HashSet<Coordinates>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<Arc<Node>> {
        self.nodes.get(uid).cloned()
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<Arc<Node>> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|dependent| self.get(dependent)).collect()
    }

    /// What the graph knows about an owner of `node`; `None` means that the server must be asked, because the owner is not
    /// known, or not under what the reference calls it.
    pub(super) fn owner_state(&self, node: &Node, owner: &OwnerReference) -> Option<OwnerState> {
        let found = self.nodes.get(&owner.uid);
        if let Some(found) = found.filter(|found| !is_elsewhere(node, found) && is_called(found, owner)) {
            return Some(if found.waits() { OwnerState::Waiting } else { OwnerState::Solid });
        }
        let known = |namespace: &str| self.absent.contains(&Coordinates::of(owner, namespace));
        (known(&node.key.namespace) || known("")).then_some(OwnerState::Absent)
    }

    /// Whether the owner with that uid is there, in a namespace where `node` may not look for owners.
    pub(super) fn is_out_of_reach(&self, node: &Node, owner: &OwnerReference) -> bool {
        self.nodes.get(&owner.uid).is_some_and(|found| is_elsewhere(node, found))
    }

    /// Remembers that an owner is not in `namespace`; uids are never used again.
    pub(super) fn note_absent(&mut self, owner: &OwnerReference, namespace: &str) {
        self.forget_under(Coordinates::of(owner, namespace));
    }

    fn forget_under(&mut self, coordinates: Coordinates) {
        if self.absent.len() >= ABSENT_MAX {
            self.absent.clear();
        }
        self.absent.insert(coordinates);
    }

    /// Takes an object in; returns the uids that must be looked at because of it.
    pub(super) fn apply(&mut self, node: Arc<Node>) -> Vec<String> {
        let uid = node.uid.clone();
        let before = self.nodes.insert(uid.clone(), Arc::clone(&node));
        let old_owners: Vec<OwnerReference> = before.as_ref().map(|before| before.owners.clone()).unwrap_or_default();
        let mut affected = Vec::new();
        for owner in old_owners.iter().filter(|old| !node.owners.iter().any(|new| new.uid == old.uid)) {
            self.unlink(&owner.uid, &uid);
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        if old_owners != node.owners {
            // Owners that wait may have one dependent less to wait for.
            let waiting = |owner: &&OwnerReference| self.nodes.get(&owner.uid).is_some_and(|owner| owner.waits());
            affected.extend(old_owners.iter().filter(waiting).map(|owner| owner.uid.clone()));
            let unsure = |owner: &OwnerReference| self.owner_state(&node, owner) != Some(OwnerState::Solid);
            if node.owners.iter().any(unsure) {
                affected.push(uid.clone());
            }
        }
        let newly = |state: fn(&Node) -> bool| state(&node) && !before.as_ref().is_some_and(|before| state(before));
        if newly(|node| node.deleting && node.orphan) {
            affected.push(uid.clone());
        } else if newly(Node::waits) {
            affected.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
            affected.push(uid);
        }
        affected
    }

    /// Takes an object out; returns the uids that must be looked at because of it. `gone` says that the object itself is
    /// gone, not just the view of it.
    pub(super) fn remove(&mut self, uid: &str, gone: bool) -> Vec<String> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
        }
        let mut affected: Vec<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        if gone && !affected.is_empty() {
            let resource = &node.kind.resource;
            self.forget_under(Coordinates {
                namespace: node.key.namespace.clone(),
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
                name: node.key.name.clone(),
                uid: uid.to_owned(),
            });
        }
        let waiting = |owner: &&OwnerReference| self.nodes.get(&owner.uid).is_some_and(|owner| owner.waits());
        affected.extend(node.owners.iter().filter(waiting).map(|owner| owner.uid.clone()));
        affected
    }

    /// Takes all objects of a kind out that is not served any more.
    pub(super) fn remove_kind(&mut self, kind: &Arc<Kind>) -> Vec<String> {
        let uids: Vec<String> =
            self.nodes.values().filter(|node| Arc::ptr_eq(&node.kind, kind)).map(|node| node.uid.clone()).collect();
        uids.iter().flat_map(|uid| self.remove(uid, false)).collect()
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

/// Whether `owner` is in a namespace that is not the one of `node`; what has no namespace may own everything.
fn is_elsewhere(node: &Node, owner: &Node) -> bool {
    !owner.key.namespace.is_empty() && owner.key.namespace != node.key.namespace
}

/// Whether the reference calls the object what it is.
fn is_called(object: &Node, reference: &OwnerReference) -> bool {
    let resource = &object.kind.resource;
    object.key.name == reference.name
        && resource.kind == reference.kind
        && resource.api_version == reference.api_version
}
