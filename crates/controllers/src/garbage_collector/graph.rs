//! The graph of owners and dependents, and what to do about one object in it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PropagationPolicy;

use crate::discovery::Kind;
use node::ByUid;
pub(super) use node::Node;

mod node;

/// Holds an object until its dependents are gone.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Holds an object until its dependents do not name it any more.
pub(super) const ORPHAN: &str = "orphan";
/// Uids known to be gone that are remembered, to ask the server once per owner and not once per dependent.
const ABSENT_MAX: usize = 10_000;
/// Objects that a set keeps room for in any case.
const ROOM_KEPT: usize = 64;

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
            let reference = dependent.owners().iter().find(|owner| owner.uid == node.uid());
            reference.is_some_and(|reference| reference.block_owner_deletion == Some(true))
        };
        let blocked = dependents.iter().any(blocks);
        return if blocked { Step::DeleteDependents } else { Step::RemoveFinalizer(FOREGROUND) };
    }
    if node.deleting || owners.is_empty() {
        return Step::Nothing;
    }
    if owners.contains(&OwnerState::Solid) {
        let lost = node.owners().iter().zip(owners).filter(|(_, state)| **state != OwnerState::Solid);
        let lost: Vec<String> = lost.map(|(owner, _)| owner.uid.clone()).collect();
        return if lost.is_empty() { Step::Nothing } else { Step::RemoveOwners(lost) };
    }
    if owners.contains(&OwnerState::Waiting) && !dependents.is_empty() {
        let blocks = node.owners().iter().any(|owner| owner.block_owner_deletion == Some(true));
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

/// An object as a reference names it: namespace, version, kind, name and uid, in one piece. A uid alone says nothing: a
/// reference may give it another kind, name or namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Coordinates(Box<str>);

impl Coordinates {
    fn new(namespace: &str, api_version: &str, kind: &str, name: &str, uid: &str) -> Self {
        // nothing that exists has a line break in any of them
        Self([namespace, api_version, kind, name, uid].join("\n").into())
    }

    /// Of an owner, in the namespace where it is looked for.
    fn of(owner: &OwnerReference, namespace: &str) -> Self {
        Self::new(namespace, &owner.api_version, &owner.kind, &owner.name, &owner.uid)
    }
}

/// All objects by uid.
#[derive(Default)]
pub(super) struct Graph {
    nodes: HashSet<ByUid>,
    /// By the uid of their owner, be it known or not.
    dependents: HashMap<Box<str>, HashSet<ByUid>>,
    absent: HashSet<Coordinates>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<Arc<Node>> {
        self.nodes.get(uid).map(|node| Arc::clone(node))
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<Arc<Node>> {
        self.dependents_of(uid).map(|dependent| Arc::clone(dependent)).collect()
    }

    fn dependents_of(&self, uid: &str) -> impl Iterator<Item = &ByUid> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// What the graph knows about an owner of `node`; `None` means that the server must be asked, because the owner is not
    /// known, or not under what the reference calls it.
    pub(super) fn owner_state(&self, node: &Node, owner: &OwnerReference) -> Option<OwnerState> {
        let found = self.nodes.get(&*owner.uid);
        if let Some(found) = found.filter(|found| !is_elsewhere(node, found) && is_called(found, owner)) {
            return Some(if found.waits() { OwnerState::Waiting } else { OwnerState::Solid });
        }
        let known = |namespace: &str| self.absent.contains(&Coordinates::of(owner, namespace));
        (!self.absent.is_empty() && (known(node.namespace()) || known(""))).then_some(OwnerState::Absent)
    }

    /// Whether the owner with that uid is there, in a namespace where `node` may not look for owners.
    pub(super) fn is_out_of_reach(&self, node: &Node, owner: &OwnerReference) -> bool {
        self.nodes.get(&*owner.uid).is_some_and(|found| is_elsewhere(node, found))
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
    pub(super) fn apply(&mut self, mut node: Arc<Node>) -> Vec<String> {
        let before = self.nodes.take(node.uid());
        let alike = before.as_ref().or_else(|| {
            let first = node.owners().first()?;
            self.dependents_of(&first.uid).next()
        });
        if let (Some(alike), Some(node)) = (alike, Arc::get_mut(&mut node)) {
            node.share_owners(alike);
        }
        self.nodes.insert(ByUid(Arc::clone(&node)));
        let old_owners = before.as_ref().map(|before| before.owners()).unwrap_or_default();
        let mut affected = Vec::new();
        for owner in old_owners.iter().filter(|old| !node.owners().iter().any(|new| new.uid == old.uid)) {
            self.unlink(&owner.uid, node.uid());
        }
        for owner in node.owners() {
            match self.dependents.get_mut(&*owner.uid) {
                Some(dependents) => dependents.replace(ByUid(Arc::clone(&node))),
                None => self.dependents.entry(owner.uid.as_str().into()).or_default().replace(ByUid(Arc::clone(&node))),
            };
        }
        if old_owners != node.owners() {
            // Owners that wait may have one dependent less to wait for.
            affected.extend(self.waiting_among(old_owners));
            let unsure = |owner: &OwnerReference| self.owner_state(&node, owner) != Some(OwnerState::Solid);
            if node.owners().iter().any(unsure) {
                affected.push(node.uid().to_owned());
            }
        }
        let newly = |state: fn(&Node) -> bool| state(&node) && !before.as_ref().is_some_and(|before| state(before));
        if newly(|node| node.deleting && node.orphan) {
            affected.push(node.uid().to_owned());
        } else if newly(Node::waits) {
            affected.extend(self.dependents_of(node.uid()).map(|dependent| dependent.uid().to_owned()));
            affected.push(node.uid().to_owned());
        }
        affected
    }

    /// The uids of those of the owners that wait for their dependents.
    fn waiting_among(&self, owners: &[OwnerReference]) -> impl Iterator<Item = String> {
        let waits = |owner: &&OwnerReference| self.nodes.get(&*owner.uid).is_some_and(|owner| owner.waits());
        owners.iter().filter(waits).map(|owner| owner.uid.clone())
    }

    /// Takes an object out; returns the uids that must be looked at because of it. `gone` says that the object itself is
    /// gone, not just the view of it.
    pub(super) fn remove(&mut self, uid: &str, gone: bool) -> Vec<String> {
        let Some(node) = self.nodes.take(uid) else { return Vec::new() };
        for owner in node.owners() {
            self.unlink(&owner.uid, uid);
        }
        let mut affected: Vec<String> = self.dependents_of(uid).map(|dependent| dependent.uid().to_owned()).collect();
        if gone && !affected.is_empty() {
            let resource = &node.kind.resource;
            let (namespace, name) = (node.namespace(), node.name());
            self.forget_under(Coordinates::new(namespace, &resource.api_version, &resource.kind, name, uid));
        }
        affected.extend(self.waiting_among(node.owners()));
        // what a burst of deletions leaves is to be no larger than what is in it
        shrink(&mut self.nodes);
        affected
    }

    /// Takes all objects of a kind out that is not served any more.
    pub(super) fn remove_kind(&mut self, kind: &Arc<Kind>) -> Vec<String> {
        let of_kind = self.nodes.iter().filter(|node| Arc::ptr_eq(&node.kind, kind));
        let uids: Vec<String> = of_kind.map(|node| node.uid().to_owned()).collect();
        uids.iter().flat_map(|uid| self.remove(uid, false)).collect()
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            } else {
                shrink(dependents);
            }
        }
    }
}

/// Gives back the room of a set that has become much smaller.
fn shrink(nodes: &mut HashSet<ByUid>) {
    if nodes.capacity() > ROOM_KEPT.max(4 * nodes.len()) {
        nodes.shrink_to(2 * nodes.len());
    }
}

/// Whether `owner` is in a namespace that is not the one of `node`; what has no namespace may own everything.
fn is_elsewhere(node: &Node, owner: &Node) -> bool {
    !owner.namespace().is_empty() && owner.namespace() != node.namespace()
}

/// Whether the reference calls the object what it is.
fn is_called(object: &Node, reference: &OwnerReference) -> bool {
    let resource = &object.kind.resource;
    object.name() == reference.name && resource.kind == reference.kind && resource.api_version == reference.api_version
}
