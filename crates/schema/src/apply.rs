//! Server-side apply: who set which field, and what follows from it.
//!
//! An object's `metadata.managedFields` holds one [`FieldSet`] per manager, operation, version and subresource.
//! [`track_update`] moves ownership after a create, update or patch; [`apply`](fn@apply) merges a configuration whose
//! fields the applier wants to own, and takes away what it has stopped to ask for.

mod compare;
mod element;
mod fresh;
mod last_applied;
mod managed;
mod merge;
mod set;

use std::fmt;

use serde_json::Value;

use crate::types::Schema;

pub use set::{FieldSet, FieldSetError};

/// How a manager came to own its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Through server-side apply.
    Apply,
    /// Through create, update or any other patch.
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who writes, and through which door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    /// The request's `fieldManager`, else the first part of its user agent.
    pub name: String,
    /// How it writes.
    pub operation: Operation,
    /// Version of the object in the request, for example `apps/v1`.
    pub api_version: String,
    /// Subresource written through, empty for the object itself.
    pub subresource: String,
    /// Now, RFC 3339 in UTC with seconds.
    pub time: String,
    /// Fields that a write through this door resets and so cannot own: `status` for the main resource of a kind with a
    /// status subresource, `spec` for that subresource, and members of `metadata` and `status` as `metadata.labels`.
    pub reset: &'static [&'static str],
    /// When not empty: the only fields that a write through this door can own, as `spec.containers.*.resources`.
    pub only: &'static [&'static str],
}

/// The outcome of [`apply`](fn@apply).
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The merged object with its managed fields.
    pub object: Value,
    /// Whether anything but the managed fields' times differs from the live object.
    pub changed: bool,
}

/// A field that another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager as messages name it: `"kubectl-edit" using apps/v1`.
    pub manager: String,
    /// The field, for example `.spec.replicas`.
    pub path: String,
}

/// All conflicts of one apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflicts(pub Vec<Conflict>);

impl std::error::Error for Conflicts {}

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [Conflict { manager, path }] = self.0.as_slice() {
            return write!(f, "Apply failed with 1 conflict: conflict with {manager}: {path}");
        }
        write!(f, "Apply failed with {} conflicts: ", self.0.len())?;
        let mut managers: Vec<&str> = self.0.iter().map(|conflict| conflict.manager.as_str()).collect();
        managers.sort_unstable();
        managers.dedup();
        for (at, manager) in managers.into_iter().enumerate() {
            write!(f, "{}conflicts with {manager}:", if at > 0 { "\n" } else { "" })?;
            for conflict in self.0.iter().filter(|conflict| conflict.manager == manager) {
                write!(f, "\n- {}", conflict.path)?;
            }
        }
        Ok(())
    }
}

/// Why an apply or the tracking of an update failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own fields that the configuration sets to other values.
    #[error(transparent)]
    Conflicts(#[from] Conflicts),
    /// The configuration carries managed fields.
    #[error("metadata.managedFields must be nil")]
    ManagedFields,
    /// The configuration, or the live object's managed fields, cannot be merged.
    #[error("{0}")]
    Invalid(String),
}

/// Merges a configuration into the live object (`None` to create). The configuration must have been pruned.
pub fn apply(
    schema: &Schema,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager,
    force: bool,
) -> Result<Applied, ApplyError> {
    managed::apply(schema, live, config, manager, force)
}

/// Writes `metadata.managedFields` of an object that was created (`old` is `None`), updated or patched. Entries that
/// the new object carries itself stand for the old ones, as with upstream: that is how clients reset them.
pub fn track_update(
    schema: &Schema,
    old: Option<&Value>,
    new: &mut Value,
    manager: &Manager,
) -> Result<(), ApplyError> {
    managed::track_update(schema, old, new, manager)
}

/// What [`track_update`] writes as `metadata.managedFields` of an object that is created, as JSON. `None` where it takes more
/// than the object itself to say: the object brings entries of its own, or not all of its fields can be owned. Nothing owned
/// is an empty text.
pub fn of_new(schema: &Schema, new: &Value, manager: &Manager) -> Option<Vec<u8>> {
    if fresh::is_tracked(new) || !manager.only.is_empty() {
        return None;
    }
    Some(fresh::managed_fields(schema.root(), new, manager).unwrap_or_default())
}

#[cfg(test)]
mod tests;
