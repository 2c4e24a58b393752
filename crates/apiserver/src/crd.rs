//! CustomResourceDefinitions: from the stored object to resources that are served.

mod document;
mod instance;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use kinds::{GroupVersionKind, Resource, Subresource};
use serde_json::Value;

use crate::{codec, conversion::Conversion, metrics::ResourceMetrics};
use strategy::table::CustomColumns;

pub(crate) use document::Document;
pub(crate) use instance::check;
pub(crate) use status::{Taken, establish, hold_for_cleanup, mark_terminating};

/// Collection of the definitions themselves.
pub(crate) const COLLECTION: &str = "apiextensions.k8s.io/customresourcedefinitions";
/// Holds a definition until its objects are gone.
pub(crate) const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// A definition, decoded.
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) collection: Arc<str>,
    pub(crate) stored_api_version: String,
    pub(crate) established: bool,
    /// Another resource holds one of its names.
    pub(crate) disputed: bool,
    /// Deletion has begun: nothing new may be created.
    pub(crate) terminating: bool,
    /// The names it may use.
    pub(crate) accepted: Names,
    pub(crate) versions: Vec<Version>,
    /// Who converts between versions, when they differ in more than their name.
    pub(crate) conversion: Option<Conversion>,
    /// Every object is in the version that is stored now.
    pub(crate) uniform: bool,
    /// The revision since which the schemas are what they are: what was stored later needs nothing when it is read.
    pub(crate) unchanged_since: u64,
}

/// The names of a resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Names {
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
}

/// One version of a definition.
pub(crate) struct Version {
    pub(crate) resource: Arc<Resource>,
    pub(crate) served: bool,
    pub(crate) storage: bool,
    /// What users of a deprecated version are told.
    pub(crate) deprecation: Option<Arc<str>>,
    pub(crate) scale: Option<ScalePaths>,
    pub(crate) selectable: Vec<SelectableField>,
    pub(crate) columns: CustomColumns,
    /// What its objects have to be like.
    pub(crate) document: Document,
    pub(crate) metrics: Arc<ResourceMetrics>,
}

/// A field that lists and watches can be selected by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SelectableField {
    /// How selectors name it: `spec.color`.
    pub(crate) label: String,
    names: Vec<String>,
}

/// Where a custom resource keeps what `scale` shows: JSON pointers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: String,
    pub(crate) status_replicas: String,
    pub(crate) label_selector: Option<String>,
}

/// Verbs of a custom resource, in discovery's order.
const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(text).collect()
}

impl Names {
    fn decode(names: &Value) -> Self {
        let kind = text(&names["kind"]).unwrap_or_default();
        Self {
            plural: text(&names["plural"]).unwrap_or_default(),
            singular: text(&names["singular"]).unwrap_or_else(|| kind.to_lowercase()),
            list_kind: text(&names["listKind"]).unwrap_or_else(|| format!("{kind}List")),
            short_names: words(&names["shortNames"]),
            categories: words(&names["categories"]),
            kind,
        }
    }
}

impl Definition {
    /// Decodes a stored definition; `None` when it is beyond serving.
    pub(crate) fn decode(stored: &Bytes) -> Option<Self> {
        let object = &codec::stored(stored).ok()?;
        let spec = &object["spec"];
        let group = text(&spec["group"])?;
        let plural = spec["names"]["plural"].as_str()?;
        let storage = spec["versions"].as_array()?.iter().find(|version| version["storage"] == true)?;
        let established = status::condition(object, "Established") == Some("True");
        let accepted = Names::decode(&object["status"]["acceptedNames"]);
        let names = if established { accepted.clone() } else { Names::decode(&spec["names"]) };
        let document = |index| Document::new(stored, object, index);
        let versions = spec["versions"].as_array()?.iter().enumerate();
        let versions = versions.map(|(index, version)| Version::decode(spec, version, &names, document(index)));
        Some(Self {
            name: text(&object["metadata"]["name"])?,
            collection: format!("{group}/{plural}").into(),
            stored_api_version: format!("{group}/{}", storage["name"].as_str()?),
            group,
            established,
            disputed: status::condition(object, "NamesAccepted") == Some("False"),
            terminating: object["metadata"]["deletionTimestamp"].is_string(),
            accepted,
            versions: versions.collect::<Option<_>>()?,
            unchanged_since: object["metadata"]["resourceVersion"].as_str()?.parse().ok()?,
            conversion: Conversion::decode(object["metadata"]["name"].as_str()?, &spec["conversion"]),
            uniform: object["status"]["storedVersions"] == Value::Array(vec![storage["name"].clone()]),
        })
    }

    /// Takes over from the state before what has not changed: since when the schemas are what they are, what was compiled
    /// of them, and what was counted.
    pub(crate) fn succeed(&mut self, before: &Self) {
        for version in &mut self.versions {
            let old = before.versions.iter().find(|old| old.resource.version == version.resource.version);
            if let Some(old) = old {
                version.document.succeed(&old.document);
                version.metrics = old.metrics.clone();
            }
        }
        let same = |(new, old): (&Version, &Version)| {
            new.resource.version == old.resource.version
                && new.storage == old.storage
                && new.document.hash() == old.document.hash()
        };
        if self.versions.len() == before.versions.len() && self.versions.iter().zip(&before.versions).all(same) {
            self.unchanged_since = before.unchanged_since;
        }
    }

    /// The version that objects are stored in.
    pub(crate) fn stored(&self) -> Option<&Version> {
        self.versions.iter().find(|version| version.storage)
    }
}

impl Version {
    fn decode(spec: &Value, version: &Value, names: &Names, document: Document) -> Option<Self> {
        let mut resource = Resource {
            group: text(&spec["group"])?,
            version: text(&version["name"])?,
            plural: names.plural.clone(),
            singular: names.singular.clone(),
            kind: names.kind.clone(),
            list_kind: names.list_kind.clone(),
            namespaced: spec["scope"] == "Namespaced",
            short_names: names.short_names.clone(),
            categories: names.categories.clone(),
            verbs: VERBS.map(str::to_owned).to_vec(),
            subresources: Vec::new(),
            schema: String::new(),
        };
        let subresources = &version["subresources"];
        let verbs = || ["get", "patch", "update"].map(str::to_owned).to_vec();
        if subresources["status"].is_object() {
            let kind = GroupVersionKind {
                group: resource.group.clone(),
                version: resource.version.clone(),
                kind: resource.kind.clone(),
            };
            resource.subresources.push(Subresource { name: "status".into(), kind, verbs: verbs() });
        }
        let scale = ScalePaths::decode(&subresources["scale"]);
        if scale.is_some() {
            let kind = GroupVersionKind { group: "autoscaling".into(), version: "v1".into(), kind: "Scale".into() };
            resource.subresources.push(Subresource { name: "scale".into(), kind, verbs: verbs() });
        }
        let fallback = || format!("{} {} is deprecated", resource.api_version(), resource.kind);
        let deprecation = version["deprecated"].as_bool().unwrap_or_default();
        let deprecation = deprecation.then(|| text(&version["deprecationWarning"]).unwrap_or_else(fallback).into());
        Some(Self {
            resource: Arc::new(resource),
            served: version["served"] == true,
            storage: version["storage"] == true,
            deprecation,
            scale,
            selectable: SelectableField::decode(version),
            columns: CustomColumns::of_version(version),
            document,
            metrics: Arc::default(),
        })
    }
}

impl SelectableField {
    fn decode(version: &Value) -> Vec<Self> {
        let document = &version["schema"]["openAPIV3Schema"];
        let fields = version["selectableFields"].as_array().into_iter().flatten();
        let found = |field: &Value| {
            let path = field["jsonPath"].as_str()?;
            let found = schema::definition::find_field(document, path, false).ok()?;
            Some(Self { label: found.path, names: found.names })
        };
        fields.filter_map(found).collect()
    }

    /// The field's value as selectors compare it; an absent one is empty.
    pub(crate) fn of(&self, object: &Value) -> String {
        match self.names.iter().try_fold(object, |value, name| value.get(name)) {
            None | Some(Value::Null | Value::Array(_) | Value::Object(_)) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        }
    }
}

impl ScalePaths {
    fn decode(scale: &Value) -> Option<Self> {
        let pointer = |name: &str| scale[name].as_str().map(|path| path.replace('.', "/"));
        Some(Self {
            spec_replicas: pointer("specReplicasPath")?,
            status_replicas: pointer("statusReplicasPath")?,
            label_selector: pointer("labelSelectorPath"),
        })
    }
}
