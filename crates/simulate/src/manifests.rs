//! Applies manifests to a cluster that was begun for them, in an order in which they can be taken.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{
    Api, Client,
    api::{DynamicObject, ObjectMeta, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
    discovery::{Scope, pinned_kind},
};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Under which name manifests are applied.
const FIELD_MANAGER: &str = "keelson-simulate";
/// How long a kind that a definition among the manifests brings may take to be served, and the account of a new namespace to
/// be there.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Where objects go that name no namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// Manifests to plan with.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    objects: Vec<Manifest>,
}

#[derive(Clone, Debug)]
struct Manifest {
    source: String,
    object: Value,
}

/// An object that the API did not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The file.
    pub source: String,
    /// Kind, namespace and name.
    pub object: String,
    /// Why.
    pub message: String,
}

/// A document that is no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: document {number}: {missing} is missing")]
pub struct ManifestError {
    file: String,
    number: usize,
    missing: &'static str,
}

fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
}

impl Manifests {
    /// Adds the documents of a file; a List counts as what is in it.
    ///
    /// # Errors
    /// [`ManifestError`] for a document without version, kind or name.
    pub fn add(&mut self, file: &str, documents: Vec<Value>) -> Result<(), ManifestError> {
        for (number, document) in documents.into_iter().enumerate() {
            let items = document.get("items").and_then(Value::as_array);
            let is_list = text(&document, "/kind").is_some_and(|kind| kind.ends_with("List"));
            let objects = items.filter(|_| is_list).cloned().unwrap_or_else(|| vec![document]);
            for object in objects {
                let named = text(&object, "/metadata/name").or_else(|| text(&object, "/metadata/generateName"));
                let needed = [("apiVersion", text(&object, "/apiVersion")), ("kind", text(&object, "/kind"))];
                let missing = needed.into_iter().chain([("metadata.name", named)]).find(|(_, found)| found.is_none());
                if let Some((missing, _)) = missing {
                    return Err(ManifestError { file: file.to_owned(), number: number + 1, missing });
                }
                self.objects.push(Manifest { source: file.to_owned(), object });
            }
        }
        Ok(())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Those that others need first come first; otherwise they stay in their order.
    fn ordered(&self) -> Vec<&Manifest> {
        let mut ordered: Vec<&Manifest> = self.objects.iter().collect();
        ordered.sort_by_key(|manifest| manifest.rank());
        ordered
    }

    fn namespaces(&self) -> BTreeSet<&str> {
        self.objects.iter().filter_map(|manifest| text(&manifest.object, "/metadata/namespace")).collect()
    }
}

impl Manifest {
    fn rank(&self) -> u8 {
        match text(&self.object, "/kind").unwrap_or_default() {
            "Namespace" => 0,
            "CustomResourceDefinition" => 1,
            "PriorityClass" | "RuntimeClass" | "StorageClass" | "ServiceAccount" => 2,
            "LimitRange" | "ResourceQuota" | "PersistentVolume" | "PersistentVolumeClaim" | "PodDisruptionBudget" => 3,
            "Pod"
            | "ReplicaSet"
            | "ReplicationController"
            | "Deployment"
            | "StatefulSet"
            | "DaemonSet"
            | "Job"
            | "CronJob" => 5,
            _ => 4,
        }
    }

    fn refused(&self, message: String) -> Refused {
        let name = text(&self.object, "/metadata/name").or_else(|| text(&self.object, "/metadata/generateName"));
        let name = name.unwrap_or_default();
        let namespace = text(&self.object, "/metadata/namespace").map(|namespace| format!("{namespace}/"));
        let kind = text(&self.object, "/kind").unwrap_or_default();
        let object = format!("{kind} {}{name}", namespace.unwrap_or_default());
        Refused { source: self.source.clone(), object, message }
    }
}

/// Applies all of them; what is refused is left out and told.
pub(crate) async fn apply(client: &Client, manifests: &Manifests) -> Result<Vec<Refused>, kube::Error> {
    for namespace in manifests.namespaces() {
        let name = Some(namespace.to_owned());
        let object = Namespace { metadata: ObjectMeta { name, ..ObjectMeta::default() }, ..Namespace::default() };
        match Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            created => drop(created?),
        }
    }
    for namespace in manifests.namespaces().into_iter().chain([DEFAULT_NAMESPACE]) {
        account(client, namespace).await;
    }
    let brings_kinds = manifests.objects.iter().any(|manifest| manifest.rank() == 1);
    let (mut kinds, mut refused) = (HashMap::new(), Vec::new());
    for manifest in manifests.ordered() {
        if let Err(error) = apply_one(client, &manifest.object, brings_kinds, &mut kinds).await {
            let message = match error {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            };
            refused.push(manifest.refused(message));
        }
    }
    Ok(refused)
}

/// Waits until pods can be created in a namespace: without controllers its account is never made.
pub(crate) async fn account(client: &Client, namespace: &str) {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let begun = Instant::now();
    while !matches!(accounts.get_opt("default").await, Ok(Some(_))) {
        if begun.elapsed() > PATIENCE {
            tracing::warn!(namespace, "its service account was not made in {PATIENCE:?}; creating pods all the same");
            return;
        }
        sleep(LOOK_AGAIN).await;
    }
}

type Kinds = HashMap<GroupVersionKind, (ApiResource, Scope)>;

async fn apply_one(client: &Client, object: &Value, brings_kinds: bool, kinds: &mut Kinds) -> Result<(), kube::Error> {
    let object: DynamicObject = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
    let types = object.types.clone().unwrap_or_default();
    let (group, version) = types.api_version.rsplit_once('/').unwrap_or(("", &types.api_version));
    let kind = GroupVersionKind::gvk(group, version, &types.kind);
    if !kinds.contains_key(&kind) {
        kinds.insert(kind.clone(), look_up(client, &kind, brings_kinds).await?);
    }
    let Some((resource, scope)) = kinds.get(&kind) else { return Ok(()) };
    let objects: Api<DynamicObject> = match scope {
        Scope::Cluster => Api::all_with(client.clone(), resource),
        Scope::Namespaced => {
            let namespace = object.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
            Api::namespaced_with(client.clone(), namespace, resource)
        }
    };
    match &object.metadata.name {
        None => objects.create(&PostParams::default(), &object).await.map(drop),
        Some(name) => {
            let how = PatchParams::apply(FIELD_MANAGER).force();
            objects.patch(name, &how, &Patch::Apply(&object)).await.map(drop)
        }
    }
}

/// Where objects of a kind are; one that a definition brings may take a moment.
async fn look_up(
    client: &Client,
    kind: &GroupVersionKind,
    brings_kinds: bool,
) -> Result<(ApiResource, Scope), kube::Error> {
    let begun = Instant::now();
    loop {
        match pinned_kind(client, kind).await {
            Ok((resource, capabilities)) => return Ok((resource, capabilities.scope)),
            Err(error) if !brings_kinds || begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => sleep(LOOK_AGAIN).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: &str, name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"}})
    }

    #[test]
    fn what_others_need_comes_first_and_lists_count_as_their_items() {
        let mut manifests = Manifests::default();
        let list =
            json!({"apiVersion": "v1", "kind": "List", "items": [object("Pod", "b"), object("Namespace", "shop")]});
        manifests.add("all.yaml", vec![object("Deployment", "a"), list, object("ConfigMap", "c")]).unwrap();
        let names: Vec<_> =
            manifests.ordered().iter().map(|one| text(&one.object, "/metadata/name").unwrap()).collect();
        assert_eq!(names, ["shop", "c", "a", "b"]);
        assert_eq!(manifests.namespaces(), BTreeSet::from(["shop"]));
        assert_eq!(manifests.objects[0].refused("no".to_owned()).object, "Deployment shop/a");
    }

    #[test]
    fn a_document_that_is_no_manifest_is_named() {
        let cases = [
            (json!({"kind": "Pod", "metadata": {"name": "a"}}), "apiVersion"),
            (json!({"apiVersion": "v1", "metadata": {"name": "a"}}), "kind"),
            (json!({"apiVersion": "v1", "kind": "Pod"}), "metadata.name"),
            (json!("text"), "apiVersion"),
        ];
        for (document, missing) in cases {
            let error = Manifests::default().add("a.yaml", vec![object("Pod", "a"), document]).unwrap_err();
            assert_eq!(error.to_string(), format!("a.yaml: document 2: {missing} is missing"));
        }
        let generated = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"generateName": "run-"}});
        assert_eq!(Manifests::default().add("a.yaml", vec![generated]), Ok(()));
    }
}
