//! The group-version-resource table.

use serde::{Deserialize, Serialize};

/// Group, version and kind of an object. The core group is the empty string.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupVersionKind {
    /// API group, empty for the core group.
    pub group: String,
    /// Version, for example `v1`.
    pub version: String,
    /// Kind, for example `Pod`.
    pub kind: String,
}

/// One row of the table: a resource in one served version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// API group, empty for the core group.
    pub group: String,
    /// Served version.
    pub version: String,
    /// Name in paths: lower case plural, for example `pods`.
    pub plural: String,
    /// Lower case singular, for example `pod`.
    pub singular: String,
    /// Kind, for example `Pod`.
    pub kind: String,
    /// Kind of the list, for example `PodList`.
    pub list_kind: String,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Short names that kubectl accepts, for example `po`.
    pub short_names: Vec<String>,
    /// Categories, for example `all`.
    pub categories: Vec<String>,
    /// Verbs of the main resource, in discovery's order.
    pub verbs: Vec<String>,
    /// Subresources such as `status` and `scale`.
    pub subresources: Vec<Subresource>,
    /// Name of the type in the schema table, for example `io.k8s.api.core.v1.Pod`; empty for custom resources.
    pub schema: String,
}

/// A subresource of a [`Resource`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subresource {
    /// Name in the path after the object's name, for example `status`.
    pub name: String,
    /// What is exchanged there, for example `autoscaling/v1 Scale`.
    pub kind: GroupVersionKind,
    /// Verbs served.
    pub verbs: Vec<String>,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods` or `deployments.apps`: the name used in messages, RBAC and selectors.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The store collection all versions of the resource share, for example `apps/deployments`, `core/pods`.
    pub fn collection(&self) -> String {
        format!("{}/{}", if self.group.is_empty() { "core" } else { &self.group }, self.plural)
    }
}
