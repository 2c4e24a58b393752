//! Quotas are charged in the transaction of the object they are charged for.
//!
//! What an object counts for is known once; whether the namespace's quotas have room is looked at against the state the
//! transaction is made for, so that of many writes at once exactly as many succeed as there is room for. What a deletion
//! gives back, the quota controller finds out.

use std::sync::Arc;

use quota::{Amounts, Item};
use serde_json::Value;
use store::{Key, Mutation, Precondition, Snapshot, Write};

use crate::{codec, dispatch::Call, meta, status::ApiError};

const QUOTAS: &str = "core/resourcequotas";
/// How often a charge is computed anew because a quota changed meanwhile: only the controller's recounts come between,
/// as charges of one namespace take turns.
pub(super) const ATTEMPTS_MAX: usize = 16;
/// Resources that no quota counts, as upstream.
const UNCOUNTED: [(&str, &str); 3] = [("", "events"), ("events.k8s.io", "events"), ("", "bindings")];

/// What a write adds to what its namespace uses.
pub(super) struct Charge {
    item: Item,
    delta: Amounts,
    name: String,
}

impl Charge {
    /// What the write of `new` adds; `None` where no quota could count it.
    pub(super) fn of(call: &Call, new: &Value, old: Option<&Value>) -> Option<Self> {
        let resource = &call.served.resource;
        let snapshot = call.server.snapshot();
        // nearly every namespace has no quota, and then nothing is counted
        if !resource.namespaced || snapshot.range(QUOTAS, "", None).next().is_none() {
            return None;
        }
        let (group, plural) = (resource.group.as_str(), resource.plural.as_str());
        let counts = match (old, call.subresource()) {
            (None, None) => !UNCOUNTED.contains(&(group, plural)),
            (Some(_), None) => group.is_empty() && matches!(plural, "services" | "persistentvolumeclaims"),
            (Some(_), Some("resize")) => group.is_empty() && plural == "pods",
            (_, Some(_)) => false,
        };
        if !counts || of_namespace(&snapshot, &call.namespace).next().is_none() {
            return None;
        }
        let item = Item::of(group, plural, new, call.now);
        let delta = match old {
            None => item.usage.clone(),
            Some(old) => item.usage.minus(&Item::of(group, plural, old, call.now).usage),
        };
        Some(Self { item, delta, name: meta::name(new).to_owned() })
    }

    /// The writes that charge the namespace's quotas as they are now, or why there is no room.
    pub(super) fn writes(&self, call: &Call) -> Result<Vec<Write>, ApiError> {
        let snapshot = call.server.snapshot();
        let mut writes = Vec::new();
        for (path, stored) in of_namespace(&snapshot, &call.namespace) {
            let Some(quota) = call.server.decoded.get(QUOTAS, path, stored) else { continue };
            let charged = self.item.charge(&quota, &self.delta);
            let charged = charged.map_err(|why| ApiError::forbidden(call.group_resource(), &self.name, why.0))?;
            let Some(used) = charged else { continue };
            let mut quota = Value::clone(&quota);
            quota["status"]["used"] = used.to_value();
            writes.push(Write {
                key: Key { collection: QUOTAS.into(), path: Arc::from(&**path) },
                precondition: Precondition::Revision(stored.revision),
                mutation: Mutation::Put(codec::encode(&quota)),
            });
        }
        Ok(writes)
    }
}

fn of_namespace<'a>(
    snapshot: &'a Snapshot,
    namespace: &str,
) -> impl Iterator<Item = (&'a Arc<str>, &'a store::Object)> {
    snapshot.range(QUOTAS, &format!("{namespace}/"), None)
}
