//! An object of the graph, in few and small pieces: there is one for every object of the cluster, and each piece is made
//! between others that go soon, so that what counts is also how many pages of memory they keep.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use reconcile::Key;

use super::{FOREGROUND, ORPHAN};
use crate::discovery::Kind;

/// An object.
#[derive(Clone, Debug)]
pub(in super::super) struct Node {
    pub(in super::super) kind: Arc<Kind>,
    /// Namespace, name, uid and resource version, one behind the other.
    text: Box<str>,
    /// Where the first three of them end.
    ends: [u32; 3],
    /// `None` where nobody owns it. Objects that were made alike share them.
    owners: Option<Arc<[OwnerReference]>>,
    pub(in super::super) deleting: bool,
    pub(in super::super) foreground: bool,
    pub(in super::super) orphan: bool,
}

impl Node {
    /// Reads an object's metadata.
    pub(in super::super) fn of<K: Resource>(kind: &Arc<Kind>, object: &K) -> Option<Arc<Self>> {
        let has = |finalizer: &str| object.finalizers().iter().any(|f| f == finalizer);
        let meta = object.meta();
        let parts = [meta.namespace.as_deref(), meta.name.as_deref(), Some(meta.uid.as_deref()?)];
        let mut text = String::new();
        let ends = parts.map(|part| {
            text.push_str(part.unwrap_or_default());
            text.len() as u32
        });
        text.push_str(meta.resource_version.as_deref().unwrap_or_default());
        let owners = object.owner_references();
        Some(Arc::new(Self {
            kind: Arc::clone(kind),
            text: text.into(),
            ends,
            owners: (!owners.is_empty()).then(|| owners.into()),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }))
    }

    fn part(&self, from: u32, to: u32) -> &str {
        &self.text[from as usize..to as usize]
    }

    /// Empty where the kind has no namespaces.
    pub(in super::super) fn namespace(&self) -> &str {
        self.part(0, self.ends[0])
    }

    pub(in super::super) fn name(&self) -> &str {
        self.part(self.ends[0], self.ends[1])
    }

    pub(in super::super) fn uid(&self) -> &str {
        self.part(self.ends[1], self.ends[2])
    }

    pub(in super::super) fn resource_version(&self) -> Option<&str> {
        Some(&self.text[self.ends[2] as usize..]).filter(|version| !version.is_empty())
    }

    pub(in super::super) fn key(&self) -> Key {
        Key::new(self.namespace(), self.name())
    }

    pub(in super::super) fn owners(&self) -> &[OwnerReference] {
        self.owners.as_deref().unwrap_or_default()
    }

    /// Takes over the owners of another object that has the same.
    pub(super) fn share_owners(&mut self, other: &Self) {
        if self.owners() == other.owners() {
            self.owners.clone_from(&other.owners);
        }
    }

    /// Whether the object waits for its dependents to be deleted.
    pub(super) fn waits(&self) -> bool {
        self.deleting && self.foreground
    }
}

/// An object among others, found by its uid.
#[derive(Clone, Debug)]
pub(super) struct ByUid(pub(super) Arc<Node>);

impl Deref for ByUid {
    type Target = Arc<Node>;

    fn deref(&self) -> &Arc<Node> {
        &self.0
    }
}

impl Borrow<str> for ByUid {
    fn borrow(&self) -> &str {
        self.uid()
    }
}

impl PartialEq for ByUid {
    fn eq(&self, other: &Self) -> bool {
        self.uid() == other.uid()
    }
}

impl Eq for ByUid {}

impl Hash for ByUid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uid().hash(state);
    }
}
