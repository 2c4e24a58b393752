//! The published OpenAPI documents, generated from the tables.
//!
//! They carry what clients act on: types with their list, map and patch rules, and per path the kind, the action and the
//! query parameters. Built-in types have no prose; custom resources are published as their authors wrote them.

mod parameters;
mod paths;
mod protobuf;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;

use kinds::Resource;
use serde_json::{Map, Value, json};

use crate::types::builtin;

pub use protobuf::{ACCEPTED as V2_PROTOBUF_ACCEPTED, MEDIA_TYPE as V2_PROTOBUF_MEDIA_TYPE, v2_protobuf};

/// A resource to publish.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The row.
    pub resource: Arc<Resource>,
    /// The `openAPIV3Schema` of a custom resource; nothing for a built-in one, whose type the table has.
    pub document: Option<Arc<Value>>,
}

impl From<&Arc<Resource>> for Entry {
    fn from(resource: &Arc<Resource>) -> Self {
        Self { resource: Arc::clone(resource), document: None }
    }
}

/// Which of the two formats is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V2,
    V3,
}

impl Version {
    fn reference(self, name: &str) -> Value {
        match self {
            Self::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Self::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// The OpenAPI v2 document (`/openapi/v2`) of these resources.
pub fn v2(entries: &[Entry]) -> Value {
    let entries: Vec<&Entry> = entries.iter().collect();
    let (paths, schemas) = document(&entries, Version::V2);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "definitions": schemas,
        "parameters": parameters::definitions(),
        "securityDefinitions": {"BearerToken": {"in": "header", "name": "authorization", "type": "apiKey"}},
        "security": [{"BearerToken": []}],
    })
}

/// The OpenAPI v3 document of one group version (`/openapi/v3/apis/apps/v1`); entries of others are passed over.
pub fn v3(group: &str, version: &str, entries: &[Entry]) -> Value {
    let of_version = |entry: &&Entry| entry.resource.group == group && entry.resource.version == version;
    let entries: Vec<&Entry> = entries.iter().filter(of_version).collect();
    let (paths, schemas) = document(&entries, Version::V3);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {"in": "header", "name": "authorization", "type": "apiKey"}},
        },
    })
}

fn document(entries: &[&Entry], version: Version) -> (Map<String, Value>, BTreeMap<String, Value>) {
    let mut all = Map::new();
    let mut wanted = vec![STATUS.to_owned(), DELETE_OPTIONS.to_owned()];
    let mut schemas = BTreeMap::new();
    for entry in entries {
        paths::of(&entry.resource, version, &mut all, &mut wanted);
        if let Some(document) = &entry.document {
            types::custom(&entry.resource, document, version, &mut schemas);
            wanted.extend([OBJECT_META.to_owned(), LIST_META.to_owned()]);
        }
    }
    while let Some(name) = wanted.pop() {
        if !schemas.contains_key(&name)
            && let Some(schema) = types::built_in(&name, version, &mut wanted)
        {
            schemas.insert(name, schema);
        }
    }
    (all, schemas)
}

/// Name of a resource's type in the documents: a custom resource's is its group reversed, as upstream does.
fn type_name(resource: &Resource) -> String {
    if !resource.schema.is_empty() {
        return resource.schema.clone();
    }
    let mut labels: Vec<&str> = resource.group.split('.').collect();
    labels.reverse();
    format!("{}.{}.{}", labels.join("."), resource.version, resource.kind)
}

/// Name of the built-in type of a kind.
fn type_of_kind(group: &str, version: &str, kind: &str) -> Option<String> {
    let wanted = format!("{group}/{version}/{kind}");
    builtin().iter().find(|(_, gvk)| *gvk == wanted).map(|(node, _)| node.type_name().to_owned())
}

#[cfg(test)]
mod tests;
