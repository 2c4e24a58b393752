//! Owner references: who controls an object, taking over what nobody controls, and letting go of what does not match.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use serde_json::{Value, json};

/// The owner that controls the object.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// A reference that makes `owner` the controller and holds its foreground deletion back.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What is to become of an object in relation to a controller.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is the controller's already, and matches.
    Owned,
    /// It matches, and nobody controls it: take it over.
    Adopt,
    /// It is the controller's, but does not match any more: let it go.
    Release,
    /// It is none of the controller's business.
    Ignore,
}

/// Decides on one object: `matches` says whether the controller's selector selects it.
pub(crate) fn claim(owner: &ObjectMeta, object: &ObjectMeta, matches: bool) -> Claim {
    let owner_leaves = owner.deletion_timestamp.is_some();
    let object_leaves = object.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Owned,
        Some(_) if owner_leaves => Claim::Ignore,
        Some(_) => Claim::Release,
        None if matches && !owner_leaves && !object_leaves => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// Strategic merge patch that adds the controller reference; the uid refuses a new object of the same name.
pub(crate) fn adoption_patch(object: &ObjectMeta, owner: &OwnerReference) -> Value {
    json!({"metadata": {"uid": object.uid, "ownerReferences": [owner]}})
}

/// Strategic merge patch that takes the reference away.
pub(crate) fn release_patch(object: &ObjectMeta, owner_uid: &str) -> Value {
    json!({"metadata": {"uid": object.uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matching_objects_without_a_controller_are_adopted() {
        let meta = |value: Value| serde_json::from_value::<ObjectMeta>(value).unwrap();
        let owner = meta(json!({"uid": "o"}));
        let leaving = meta(json!({"uid": "o", "deletionTimestamp": "2026-01-01T00:00:00Z"}));
        let owned_by = |uid: &str| {
            meta(json!({"ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": uid, "controller": true}]}))
        };
        for (owner, object, matches, expected) in [
            (&owner, owned_by("o"), true, Claim::Owned),
            (&owner, owned_by("o"), false, Claim::Release),
            (&owner, owned_by("other"), true, Claim::Ignore),
            (&owner, ObjectMeta::default(), true, Claim::Adopt),
            (&owner, ObjectMeta::default(), false, Claim::Ignore),
            (&owner, meta(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})), true, Claim::Ignore),
            (&leaving, ObjectMeta::default(), true, Claim::Ignore),
            (&leaving, owned_by("o"), false, Claim::Ignore),
        ] {
            assert_eq!(claim(owner, &object, matches), expected, "{object:?} {matches}");
        }
    }
}
