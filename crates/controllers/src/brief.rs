//! Writes of whose answers only the identity is read: to decode an object that comes back whole costs more than to ask for it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::Request;
use kube::{Client, Error, Resource};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is read of an answer; the rest is skipped.
#[derive(Deserialize)]
struct Answer {
    metadata: Identity,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
}

impl From<Answer> for ObjectMeta {
    fn from(answer: Answer) -> Self {
        let Identity { name, uid, resource_version } = answer.metadata;
        Self { name, uid, resource_version, ..Self::default() }
    }
}

/// The objects of one kind, in one namespace if they have one.
pub(crate) struct Brief {
    client: Client,
    request: Request,
}

impl Brief {
    /// Of a kind; the namespace of cluster-scoped kinds is empty.
    pub(crate) fn of<K: Resource>(client: &Client, kind: &K::DynamicType, namespace: &str) -> Self {
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        Self { client: client.clone(), request: Request::new(K::url_path(kind, namespace)) }
    }

    /// Creates an object; tells its name, uid and resource version.
    pub(crate) async fn create(&self, object: &(impl Serialize + Sync)) -> Result<ObjectMeta, Error> {
        let body = serde_json::to_vec(object).map_err(Error::SerdeError)?;
        let request = self.request.create(&PostParams::default(), body).map_err(Error::BuildRequest)?;
        self.client.request::<Answer>(request).await.map(ObjectMeta::from)
    }

    /// Merge-patches an object; tells its name, uid and resource version.
    pub(crate) async fn patch(&self, name: &str, patch: Value) -> Result<ObjectMeta, Error> {
        let patch = Patch::Merge(patch);
        let request = self.request.patch(name, &PatchParams::default(), &patch).map_err(Error::BuildRequest)?;
        self.client.request::<Answer>(request).await.map(ObjectMeta::from)
    }

    /// Merge-patches an object's status; tells its name, uid and resource version.
    pub(crate) async fn patch_status(&self, name: &str, patch: Value) -> Result<ObjectMeta, Error> {
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let request = self.request.patch_subresource("status", name, &params, &patch);
        self.client.request::<Answer>(request.map_err(Error::BuildRequest)?).await.map(ObjectMeta::from)
    }

    /// Asks for an object's deletion.
    pub(crate) async fn delete(&self, name: &str, params: &DeleteParams) -> Result<(), Error> {
        let request = self.request.delete(name, params).map_err(Error::BuildRequest)?;
        self.client.request_text(request).await.map(drop)
    }
}
