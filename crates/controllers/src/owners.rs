//! Owner references: who controls an object, taking over what nobody controls, and letting go of what does not match.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use reconcile::{Change, Index, Informer, Key, Object};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::context::{Context, ReconcileError, failed, is_not_found};
use crate::selector::{Labels, pair};

/// What has dependants by their labels.
pub(crate) trait Selecting {
    /// Labels that all have whom it selects; there may be further conditions, and with no label there are only those.
    fn required(&self) -> Option<&Labels>;
}

impl Selecting for ReplicationController {
    fn required(&self) -> Option<&Labels> {
        self.spec.as_ref()?.selector.as_ref()
    }
}

impl Selecting for Job {
    fn required(&self) -> Option<&Labels> {
        self.spec.as_ref()?.selector.as_ref()?.match_labels.as_ref()
    }
}

macro_rules! selecting_by_spec {
    ($($kind:ty),*) => {$(
        impl Selecting for $kind {
            fn required(&self) -> Option<&Labels> {
                self.spec.as_ref()?.selector.match_labels.as_ref()
            }
        }
    )*};
}

selecting_by_spec!(DaemonSet, Deployment, ReplicaSet, StatefulSet);

/// Values of the index `controller`, by which a controller finds what is its own: the controller's uid, or of an orphan the
/// namespace and each label.
pub(crate) fn by_controller<K: Resource>(object: &K) -> Vec<String> {
    let meta = object.meta();
    if let Some(owner) = controller_of(meta) {
        return vec![owner.uid.clone()];
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let labels = meta.labels.iter().flatten().map(|(key, value)| orphans_with(namespace, key, value));
    std::iter::once(orphans_of(namespace)).chain(labels).collect()
}

/// Index value of what has no controller.
fn orphans_of(namespace: &str) -> String {
    format!("orphan:{namespace}")
}

/// Index value of what has no controller, but a label.
fn orphans_with(namespace: &str, key: &str, value: &str) -> String {
    format!("orphan:{}", pair(namespace, key, value))
}

/// Value of the index `selector`, by which a dependant finds who may select it: one of the labels it must have, or the
/// namespace.
pub(crate) fn by_selector<O: Resource + Selecting>(owner: &O) -> Vec<String> {
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let first = owner.required().and_then(|labels| labels.first_key_value());
    vec![first.map_or_else(|| namespace.to_owned(), |(key, value)| pair(namespace, key, value))]
}

/// What is found under that of `values` which is the rarest; `None` where there is no value.
pub(crate) fn rarest<K: Object>(index: &Index<K>, values: impl Iterator<Item = String>) -> Option<Vec<Arc<K>>> {
    values.min_by_key(|value| index.count(value)).map(|rarest| index.get(&rarest))
}

/// What `owner` controls, and of what nobody controls in its namespace that which has a label it selects by.
pub(crate) fn own_and_orphans<K, O>(by_controller: &Index<K>, owner: &O) -> (Vec<Arc<K>>, Vec<Arc<K>>)
where
    K: Object,
    O: Resource + Selecting,
{
    let own = by_controller.get(owner.meta().uid.as_deref().unwrap_or_default());
    (own, orphans(by_controller, owner))
}

/// Of what nobody controls in the namespace that which has a label `owner` selects by.
pub(crate) fn orphans<K, O>(by_controller: &Index<K>, owner: &O) -> Vec<Arc<K>>
where
    K: Object,
    O: Resource + Selecting,
{
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let labels = owner.required().into_iter().flatten().map(|(key, value)| orphans_with(namespace, key, value));
    rarest(by_controller, labels).unwrap_or_else(|| by_controller.get(&orphans_of(namespace)))
}

/// How many dependants the owner of that name has.
pub(crate) fn count<O: Object, K: Object>(owners: &Informer<O>, by_controller: &Index<K>, key: &Key) -> usize {
    let owner = owners.get(&key.namespace, &key.name);
    owner.and_then(|owner| owner.meta().uid.as_deref().map(|uid| by_controller.count(uid))).unwrap_or(0)
}

/// The owners a change of a dependant matters to: its controller before and after, or for an orphan all that would take it.
pub(crate) fn affected<O, K>(by_selector: &Index<O>, change: &Change<K>, selects: impl Fn(&O, &K) -> bool) -> Vec<Key>
where
    O: Object + Resource<DynamicType = ()>,
    K: Object,
{
    let (old, new) = match change {
        Change::Applied { old, new } => (old.as_ref(), new),
        Change::Deleted(last) => (None, last),
    };
    let namespace = new.meta().namespace.as_deref().unwrap_or_default();
    let (kind, api_version) = (O::kind(&()), O::api_version(&()));
    let mut keys = Vec::new();
    for object in old.into_iter().chain([new]) {
        let owner = controller_of(object.meta());
        if let Some(owner) = owner.filter(|owner| owner.kind == kind && owner.api_version == api_version) {
            let key = Key::new(namespace, &owner.name);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    // What has no labels is selected by nobody.
    let labels = new.meta().labels.as_ref().filter(|labels| !labels.is_empty());
    let is_orphan = matches!(change, Change::Applied { .. }) && controller_of(new.meta()).is_none();
    if let Some(labels) = labels.filter(|_| is_orphan) {
        let values = labels.iter().map(|(key, value)| pair(namespace, key, value)).chain([namespace.to_owned()]);
        let matching = values.flat_map(|value| by_selector.get(&value)).filter(|owner| selects(owner, new));
        keys.extend(matching.map(|owner| Key::of(owner.as_ref())));
    }
    keys
}

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
enum Claim {
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
fn claim(owner: &ObjectMeta, object: &ObjectMeta, matches: bool) -> Claim {
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

/// The candidates that are `owner`'s, after taking over those that match and nobody controls, and letting go of those that
/// match no more.
pub(crate) async fn claim_all<O, K>(
    context: &Context,
    owner: &O,
    candidates: impl IntoIterator<Item = Arc<K>>,
    matches: impl Fn(&K) -> bool,
) -> Result<Vec<Arc<K>>, ReconcileError>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    claim_all_holding(context, owner, candidates, matches, None).await
}

/// Like [`claim_all`]; what is taken over gets the finalizer, and what is let go of loses it.
pub(crate) async fn claim_all_holding<O, K>(
    context: &Context,
    owner: &O,
    candidates: impl IntoIterator<Item = Arc<K>>,
    matches: impl Fn(&K) -> bool,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<K>>, ReconcileError>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let uid = owner.meta().uid.as_deref().unwrap_or_default();
    let api = context.api::<K>(owner.meta().namespace.as_deref().unwrap_or_default());
    let mut owned = Vec::new();
    let mut stays = None;
    for object in candidates {
        let patch = match claim(owner.meta(), object.meta(), matches(&object)) {
            Claim::Ignore => continue,
            Claim::Owned => {
                owned.push(object);
                continue;
            }
            Claim::Adopt => {
                if stays.is_none() {
                    stays = Some(stays_for_now(context, owner).await?);
                }
                if stays != Some(true) {
                    continue;
                }
                let mut patch = adoption_patch(object.meta(), &controller_reference(owner));
                if let Some(finalizer) = finalizer {
                    patch["metadata"]["finalizers"] = json!([finalizer]);
                }
                patch
            }
            Claim::Release => {
                let patch = release_patch(object.meta(), uid);
                finalizer.into_iter().fold(patch, without_finalizer)
            }
        };
        let result = api.patch(&object.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await;
        match result {
            Ok(claimed) if controller_of(claimed.meta()).is_some_and(|owner| owner.uid == uid) => {
                owned.push(Arc::new(claimed));
            }
            Err(error) if !is_not_found(&error) => return Err(failed("claim", Key::of(object.as_ref()))(error)),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(owned)
}

/// Whether the owner is really there and not being deleted: a cache that lags would take back what the garbage collector
/// has just orphaned.
async fn stays_for_now<O>(context: &Context, owner: &O) -> Result<bool, ReconcileError>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let key = Key::of(owner);
    let live = context.api::<O>(&key.namespace).get_opt(&key.name).await.map_err(failed("read owner", &key))?;
    Ok(live.is_some_and(|live| live.meta().uid == owner.meta().uid && live.meta().deletion_timestamp.is_none()))
}

/// Strategic merge patch that adds the controller reference; the uid refuses a new object of the same name.
fn adoption_patch(object: &ObjectMeta, owner: &OwnerReference) -> Value {
    json!({"metadata": {"uid": object.uid, "ownerReferences": [owner]}})
}

/// Adds to a strategic merge patch that a finalizer goes.
pub(crate) fn without_finalizer(mut patch: Value, finalizer: &str) -> Value {
    patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    patch
}

/// Strategic merge patch that takes the reference away.
fn release_patch(object: &ObjectMeta, owner_uid: &str) -> Value {
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
