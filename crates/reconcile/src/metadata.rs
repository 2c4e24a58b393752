//! An object of any kind, of which only the metadata is read.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::ApiResource;
use serde::Deserialize;

/// Metadata of an object whose kind is known at run time only.
///
/// Unlike [`kube::core::PartialObjectMeta`] it has no flattened part, so decoding skips the rest of the object instead of
/// buffering it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Metadata {
    /// The object's metadata, without managed fields.
    #[serde(default)]
    pub metadata: ObjectMeta,
}

impl Resource for Metadata {
    type DynamicType = ApiResource;
    type Scope = kube::core::DynamicResourceScope;

    fn kind(dt: &ApiResource) -> Cow<'_, str> {
        dt.kind.as_str().into()
    }
    fn group(dt: &ApiResource) -> Cow<'_, str> {
        dt.group.as_str().into()
    }
    fn version(dt: &ApiResource) -> Cow<'_, str> {
        dt.version.as_str().into()
    }
    fn api_version(dt: &ApiResource) -> Cow<'_, str> {
        dt.api_version.as_str().into()
    }
    fn plural(dt: &ApiResource) -> Cow<'_, str> {
        dt.plural.as_str().into()
    }
    fn metadata_api() -> bool {
        true
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
