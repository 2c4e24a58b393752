//! ControllerRevisions: the templates a StatefulSet or DaemonSet has and had, by which pods are told apart and updates are
//! undone.
//!
//! A revision is named after a hash of its data and never changes but for its number; going back to an old template gives
//! its revision the highest number.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{NamespaceResourceScope, ObjectMeta};
use kube::{Resource, ResourceExt};
use reconcile::{Index, Informer, Key};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::context::{Context, ReconcileError, failed, gone_is_done, is_already_exists};
use crate::owners;
use crate::pending::PendingWrites;

#[cfg(test)]
mod tests;

/// Label of pods, and of the revisions of DaemonSets.
pub(crate) const REVISION_HASH: &str = "controller-revision-hash";
/// Label of the revisions of StatefulSets.
pub(crate) const DATA_HASH: &str = "controller.kubernetes.io/hash";
/// Longest part of the owner's name in a revision's, upstream's value: room is left for the hash.
const NAME_PREFIX_BYTES_MAX: usize = 223;
/// Names tried for one revision: two templates that hash alike are rare, a third is not to be expected.
const COLLISIONS_AT_ONCE_MAX: usize = 8;

/// What a revision keeps: a strategic merge patch that puts the template back.
pub(crate) fn data_of(template: &PodTemplateSpec) -> Value {
    // Types made of strings, numbers and maps with text keys always become JSON.
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template a revision keeps.
pub(crate) fn template_of(revision: &ControllerRevision) -> Result<PodTemplateSpec, ReconcileError> {
    let mut template =
        revision.data.as_ref().and_then(|data| data.0.pointer("/spec/template")).cloned().unwrap_or_default();
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    let name = revision.name_any();
    serde_json::from_value(template).map_err(|source| ReconcileError::Revision { name, source })
}

/// A hash in upstream's safe alphabet: no vowels, so no words.
pub(crate) fn hash_text(bytes: impl IntoIterator<Item = u8>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let hash = bytes.into_iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

fn data_hash(data: &Value, collisions: i32) -> String {
    hash_text(data.to_string().into_bytes().into_iter().chain(collisions.to_string().into_bytes()))
}

/// The revisions of an owner, seen from the template it has now.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// The revision of the current template; of several the one with the highest number.
    pub(crate) current: Option<Arc<ControllerRevision>>,
    /// Others of the same template.
    pub(crate) duplicates: Vec<Arc<ControllerRevision>>,
    /// Those of other templates, oldest first.
    pub(crate) old: Vec<Arc<ControllerRevision>>,
}

impl Past {
    /// Sorts revisions by number and by whether they keep `data`.
    pub(crate) fn of(mut revisions: Vec<Arc<ControllerRevision>>, data: &Value) -> Self {
        revisions.sort_by_key(|revision| {
            let created = revision.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (revision.revision, created, revision.name_any())
        });
        let (mut same, old): (Vec<_>, Vec<_>) =
            revisions.into_iter().partition(|revision| revision.data.as_ref().is_some_and(|kept| kept.0 == *data));
        Self { current: same.pop(), duplicates: same, old }
    }

    /// The number the current revision is to have: higher than all others.
    fn number(&self) -> i64 {
        self.old.last().map_or(0, |last| last.revision) + 1
    }
}

/// The revisions to delete: of those that are not live the oldest, so many as `counted` revisions are above `limit`.
pub(crate) fn beyond_limit(
    oldest_first: &[Arc<ControllerRevision>],
    is_live: impl Fn(&ControllerRevision) -> bool,
    counted: usize,
    limit: Option<i32>,
) -> Vec<Arc<ControllerRevision>> {
    /// Upstream's default for revisionHistoryLimit.
    const LIMIT: i32 = 10;
    let limit = usize::try_from(limit.unwrap_or(LIMIT)).unwrap_or(usize::MAX);
    let dead = oldest_first.iter().filter(|revision| !is_live(revision));
    dead.take(counted.saturating_sub(limit)).cloned().collect()
}

/// What there should be a revision of.
pub(crate) struct Wanted<'a> {
    /// What it keeps.
    pub(crate) data: &'a Value,
    /// Labels of the template, to which the hash is added.
    pub(crate) labels: Option<&'a BTreeMap<String, String>>,
    /// The label that holds the hash.
    pub(crate) hash_label: &'static str,
    /// Names that were taken before.
    pub(crate) collisions: i32,
}

/// Reads and writes revisions for the owners of one kind.
pub(crate) struct Revisions {
    context: Context,
    informer: Informer<ControllerRevision>,
    by_controller: Index<ControllerRevision>,
    pending: PendingWrites,
}

impl Revisions {
    pub(crate) fn new(context: &Context, informer: &Informer<ControllerRevision>) -> Self {
        Self {
            context: context.clone(),
            informer: informer.clone(),
            by_controller: informer.index("controller", owners::by_controller),
            pending: PendingWrites::default(),
        }
    }

    /// Whether the cache does not show yet what was written for `key`.
    pub(crate) fn lag(&self, key: &Key) -> bool {
        self.pending.lags(key, self.informer.revision(), |name, uid| {
            let cached = self.informer.get(&key.namespace, name);
            cached.is_none_or(|revision| {
                revision.metadata.uid.as_deref() != Some(uid) || revision.metadata.deletion_timestamp.is_some()
            })
        })
    }

    pub(crate) fn forget(&self, key: &Key) {
        self.pending.forget(key);
    }

    /// The revisions that are the owner's, sorted; takes over orphans that `selects` is true for, lets go of others.
    pub(crate) async fn past<O>(
        &self,
        owner: &O,
        data: &Value,
        selects: impl Fn(&ControllerRevision) -> bool,
    ) -> Result<Past, ReconcileError>
    where
        O: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + owners::Selecting
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let (own, orphans) = owners::own_and_orphans(&self.by_controller, owner);
        let owned = owners::claim_all(&self.context, owner, own.into_iter().chain(orphans), selects).await?;
        Ok(Past::of(owned, data))
    }

    /// The revision of the current template with the highest number, and how many names were taken: it is created when
    /// there is none, and gets a new number when another has become higher.
    pub(crate) async fn current<O>(
        &self,
        key: &Key,
        owner: &O,
        past: &Past,
        wanted: &Wanted<'_>,
    ) -> Result<(Arc<ControllerRevision>, i32), ReconcileError>
    where
        O: Resource<DynamicType = ()>,
    {
        let api = self.context.api::<ControllerRevision>(&key.namespace);
        let number = past.number();
        let Some(current) = &past.current else { return self.create(key, owner, number, wanted).await };
        if current.revision >= number {
            return Ok((Arc::clone(current), wanted.collisions));
        }
        let name = current.name_any();
        let patch = json!({"metadata": {"uid": current.metadata.uid}, "revision": number});
        let result = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        let updated = result.map_err(failed("renumber revision", Key::new(&key.namespace, &name)))?;
        self.pending.wrote(key, &updated.metadata);
        Ok((Arc::new(updated), wanted.collisions))
    }

    async fn create<O>(
        &self,
        key: &Key,
        owner: &O,
        number: i64,
        wanted: &Wanted<'_>,
    ) -> Result<(Arc<ControllerRevision>, i32), ReconcileError>
    where
        O: Resource<DynamicType = ()>,
    {
        let api = self.context.api::<ControllerRevision>(&key.namespace);
        let mut collisions = wanted.collisions;
        let mut tries = 0;
        loop {
            let revision = new_revision(owner, number, wanted, collisions);
            let name = revision.name_any();
            let error = match api.create(&PostParams::default(), &revision).await {
                Ok(created) => {
                    self.pending.wrote(key, &created.metadata);
                    return Ok((Arc::new(created), collisions));
                }
                Err(error) => error,
            };
            let object = Key::new(&key.namespace, &name);
            tries += 1;
            if !is_already_exists(&error) || tries >= COLLISIONS_AT_ONCE_MAX {
                return Err(failed("create revision", object)(error));
            }
            let taken = api.get_opt(&name).await.map_err(failed("read revision", object))?;
            match taken {
                // A reconcile that was cut off made it.
                Some(taken) if is_of(&taken, owner, wanted.data) => return Ok((Arc::new(taken), collisions)),
                Some(_) => collisions = collisions.saturating_add(1),
                None => {}
            }
        }
    }

    pub(crate) async fn delete(&self, key: &Key, revision: &ControllerRevision) -> Result<(), ReconcileError> {
        let name = revision.name_any();
        let preconditions = Some(Preconditions { uid: revision.metadata.uid.clone(), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let result = self.context.api::<ControllerRevision>(&key.namespace).delete(&name, &params).await;
        gone_is_done(result).map_err(failed("delete revision", Key::new(&key.namespace, &name)))?;
        self.pending.deleted(key, &revision.metadata);
        Ok(())
    }
}

fn is_of<O: Resource<DynamicType = ()>>(revision: &ControllerRevision, owner: &O, data: &Value) -> bool {
    let controller = owners::controller_of(&revision.metadata).map(|owner| &owner.uid);
    controller == owner.meta().uid.as_ref() && revision.data.as_ref().is_some_and(|kept| kept.0 == *data)
}

fn new_revision<O: Resource<DynamicType = ()>>(
    owner: &O,
    number: i64,
    wanted: &Wanted<'_>,
    collisions: i32,
) -> ControllerRevision {
    let hash = data_hash(wanted.data, collisions);
    let owner_name = owner.meta().name.as_deref().unwrap_or_default();
    // Names of objects are ASCII.
    let prefix = owner_name.get(..NAME_PREFIX_BYTES_MAX).unwrap_or(owner_name);
    let mut labels = wanted.labels.cloned().unwrap_or_default();
    labels.insert(wanted.hash_label.into(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: owner.meta().namespace.clone(),
            labels: Some(labels),
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![owners::controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(wanted.data.clone())),
        revision: number,
    }
}
