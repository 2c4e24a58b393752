//! Label and field selectors of lists, watches and collection deletes.

use std::{borrow::Cow, collections::HashMap};

use bytes::Bytes;
use schema::selector::{FieldSelector, LabelSelector};
use serde::Deserialize;
use serde_json::Value;

use crate::{codec, options::ListOptions, resources::Served, status::ApiError};

/// What is selected.
pub(crate) struct Selection {
    labels: Option<LabelSelector>,
    fields: Option<FieldSelector>,
    /// Some field besides name and namespace is asked for, so that objects have to be decoded.
    deep: bool,
}

/// The part of an object that label selectors read.
#[derive(Deserialize)]
struct Labelled {
    #[serde(default)]
    metadata: Labels,
}

#[derive(Default, Deserialize)]
struct Labels {
    #[serde(default)]
    labels: HashMap<String, String>,
}

/// Fields of an object that selectors may name, besides name and namespace: the kind's, and the definition's.
fn selectable(served: &Served, object: &Value) -> Vec<(Cow<'static, str>, String)> {
    let of_kind = served.strategy.fields(object).into_iter().map(|(name, value)| (Cow::Borrowed(name), value));
    let declared = served.version().map(|version| version.selectable.as_slice()).unwrap_or_default();
    of_kind.chain(declared.iter().map(|field| (Cow::Owned(field.label.clone()), field.of(object)))).collect()
}

/// Whether selectors of a resource may name a field, as upstream's conversions of field labels have it.
fn supports(served: &Served, known: &[(Cow<'static, str>, String)], field: &str) -> bool {
    let resource = &served.resource;
    let converted = !known.is_empty() || served.custom.is_some();
    match (resource.group.as_str(), field) {
        (_, "metadata.name") => true,
        // kinds with labels of their own leave out what they do not have
        (_, "metadata.namespace") => resource.namespaced || !converted,
        ("events.k8s.io", "reportingComponent" | "source") => false,
        ("events.k8s.io", field) if field.starts_with("involvedObject.") => false,
        ("", "reportingController") => false,
        ("", field) if field.starts_with("regarding.") => false,
        _ => known.iter().any(|(name, _)| *name == field),
    }
}

/// What a client is told that selects by a field it cannot select by.
fn unsupported(served: &Served, plain: bool, field: &str) -> String {
    match (served.resource.group.as_str(), served.resource.plural.as_str()) {
        ("batch", "jobs") => format!("field label {field:?} not supported for batchv1.Job"),
        _ if plain && served.custom.is_none() => {
            format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
        _ => format!("field label not supported: {field}"),
    }
}

impl Selection {
    /// Parses the selectors and checks that the kind has the fields.
    pub(crate) fn parse(served: &Served, options: &ListOptions, name: &str) -> Result<Self, ApiError> {
        let bad = |error: schema::selector::SelectorError| ApiError::bad_request(error.to_string());
        let labels = options.label_selector.as_deref().map(LabelSelector::parse).transpose().map_err(bad)?;
        let text = match (options.field_selector.as_deref(), name) {
            (given, "") => given.map(str::to_owned),
            (None, name) => Some(format!("metadata.name={name}")),
            (Some(given), name) => Some(format!("{given},metadata.name={name}")),
        };
        let fields = text.as_deref().map(FieldSelector::parse).transpose().map_err(bad)?;
        let mut deep = false;
        if let Some(fields) = &fields {
            let known = selectable(served, &Value::Null);
            for requirement in fields.requirements() {
                let field = requirement.field.as_str();
                if !supports(served, &known, field) {
                    return Err(ApiError::bad_request(unsupported(served, known.is_empty(), field)));
                }
                deep |= !matches!(field, "metadata.name" | "metadata.namespace");
            }
        }
        Ok(Self {
            labels: labels.filter(|labels| !labels.is_empty()),
            fields: fields.filter(|fields| !fields.is_empty()),
            deep,
        })
    }

    /// Whether every object is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_none() && self.fields.is_none()
    }

    /// Whether the object at this path is selected.
    pub(crate) fn matches(&self, served: &Served, path: &str, bytes: &Bytes) -> bool {
        self.fields_match(served, path, bytes) && self.labels_match(bytes)
    }

    fn labels_match(&self, bytes: &Bytes) -> bool {
        let Some(selector) = &self.labels else { return true };
        let labelled = serde_json::from_slice::<Labelled>(bytes);
        labelled.is_ok_and(|object| selector.matches(|key| object.metadata.labels.get(key).map(String::as_str)))
    }

    fn fields_match(&self, served: &Served, path: &str, bytes: &Bytes) -> bool {
        let Some(selector) = &self.fields else { return true };
        let (namespace, name) = path.split_once('/').unwrap_or(("", path));
        let fields = match self.deep.then(|| codec::stored(bytes)) {
            None => Vec::new(),
            Some(Ok(mut object)) => {
                served.form.to_served(&mut object, &served.api_version);
                selectable(served, &object)
            }
            Some(Err(_)) => return false,
        };
        selector.matches(|field| match field {
            "metadata.name" => Some(name),
            "metadata.namespace" => Some(namespace),
            field => fields.iter().find(|(name, _)| *name == field).map(|(_, value)| value.as_str()),
        })
    }
}
