//! Label and field selectors of lists, watches and collection deletes.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use bytes::Bytes;
use memchr::memmem::Finder;
use schema::selector::{FieldSelector, LabelSelector, Requirement};
use serde::Deserialize;
use serde_json::Value;
use store::{Object, Range, Snapshot, WithValue};

use crate::{codec, convert::Form, indexes, options::ListOptions, outline, resources::Served, status::ApiError};

/// What is selected.
pub(crate) struct Selection {
    labels: Option<LabelSelector>,
    fields: Option<FieldSelector>,
    /// Some field besides name and namespace is asked for, so that objects have to be decoded.
    deep: bool,
    /// Whether all fields besides are texts that are what stands in the bytes.
    plain: bool,
    /// Texts that stand in every selected object, so that most others need not be decoded.
    traits: Vec<Finder<'static>>,
}

/// A text that the bytes of every object hold in which a field or label has this value: the value as JSON writes it.
/// Nothing where it may be written otherwise, or not at all.
fn written(value: &str) -> Option<Finder<'static>> {
    // what is absent has the empty value; of a flag or a count there may be nothing to see; quotes and the like are escaped
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/' | b':');
    let is_text = value.bytes().any(|byte| byte.is_ascii_alphabetic()) && !matches!(value, "true" | "false");
    (is_text && value.bytes().all(plain)).then(|| Finder::new(&format!("\"{value}\"")).into_owned())
}

/// The collection that every scheduler and every node select from.
const PODS: &str = "core/pods";

/// Where the field stands by which schedulers and nodes select.
const NODE_NAME: [&str; 2] = ["spec", "nodeName"];

/// Where the text of a field of pods stands that is the field's value, and nothing else makes it.
fn plain_path(field: &str) -> Option<[&str; 2]> {
    match field {
        indexes::NODE_NAME => Some(NODE_NAME),
        "spec.schedulerName" => Some(["spec", "schedulerName"]),
        "status.phase" => Some(["status", "phase"]),
        _ => None,
    }
}

/// Whether fields that [`plain_path`] knows match; `None` where one is not written as a text without escapes.
fn plain_fields_match(selector: &FieldSelector, namespace: &str, name: &str, bytes: &[u8]) -> Option<bool> {
    let mut readable = true;
    let matches = selector.requirements().iter().all(|term| {
        let value = match term.field.as_str() {
            "metadata.name" => name,
            "metadata.namespace" => namespace,
            field => plain_path(field).and_then(|path| plain_text(bytes, &path)).unwrap_or_else(|| {
                readable = false;
                ""
            }),
        };
        (value == term.value) == term.equal
    });
    readable.then_some(matches)
}

/// The text at a path, empty where there is none; `None` where it takes a decoder to tell.
fn plain_text<'a>(bytes: &'a [u8], path: &[&str]) -> Option<&'a str> {
    if path == NODE_NAME && !indexes::may_have_node(bytes) {
        return Some("");
    }
    let Some(place) = splice::find(bytes, path) else { return Some("") };
    let text = bytes[place].strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    str::from_utf8(text).ok().filter(|text| !text.contains('\\'))
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
    let converted = !known.is_empty() || served.is_custom();
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
        _ if plain && !served.is_custom() => {
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
        let given = options.field_selector.as_deref().filter(|given| !given.is_empty());
        let text = match (given, name) {
            (given, "") => given.map(str::to_owned),
            (None, name) => Some(format!("metadata.name={name}")),
            (Some(given), name) => Some(format!("{given},metadata.name={name}")),
        };
        let fields = text.as_deref().map(FieldSelector::parse).transpose().map_err(bad)?;
        let (mut deep, mut plain) = (false, &*served.collection == PODS && served.form == Form::Stored);
        if let Some(fields) = &fields {
            let known = selectable(served, &Value::Null);
            for requirement in fields.requirements() {
                let field = requirement.field.as_str();
                if !supports(served, &known, field) {
                    return Err(ApiError::bad_request(unsupported(served, known.is_empty(), field)));
                }
                let from_path = matches!(field, "metadata.name" | "metadata.namespace");
                deep |= !from_path;
                plain &= from_path || plain_path(field).is_some();
            }
        }
        if let (Some(given), false) = (given, name.is_empty()) {
            let own = FieldSelector::parse(given).map_err(bad)?;
            if own.requires_exact("metadata.name") != Some(name) {
                return Err(ApiError::bad_request("fieldSelector metadata.name doesn't match requested name"));
            }
        }
        let labels = labels.filter(|labels| !labels.is_empty());
        let fields = fields.filter(|fields| !fields.is_empty());
        let of_labels = labels.iter().flat_map(LabelSelector::requirements).filter_map(Requirement::exact);
        let of_fields = fields.iter().flat_map(FieldSelector::requirements);
        // name and namespace are known from the path
        let of_fields = of_fields.filter(|field| field.equal && !field.field.starts_with("metadata."));
        let of_fields = of_fields.map(|field| field.value.as_str());
        let traits = of_labels.chain(of_fields).filter_map(written).collect();
        Ok(Self { labels, fields, deep, plain, traits })
    }

    /// What the paths of all selected objects start with, of those in a namespace (or in all, if it is empty).
    pub(crate) fn prefix(&self, served: &Served, namespace: &str) -> String {
        let exact = |field: &str| self.fields.as_ref().and_then(|fields| fields.requires_exact(field));
        let name = exact("metadata.name").unwrap_or_default();
        let namespace = if namespace.is_empty() { exact("metadata.namespace").unwrap_or_default() } else { namespace };
        match (served.resource.namespaced, namespace) {
            (false, _) => name.to_owned(),
            (true, "") => String::new(),
            (true, namespace) => format!("{namespace}/{name}"),
        }
    }

    /// Whether every object is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_none() && self.fields.is_none()
    }

    /// Those objects of a range of a collection, in path order, among which all selected ones are.
    pub(crate) fn candidates<'a>(
        &self,
        snapshot: &'a Snapshot,
        collection: &str,
        prefix: &str,
        after: Option<&str>,
    ) -> Candidates<'a> {
        let node = self.fields.as_ref().and_then(|fields| fields.requires_exact(indexes::NODE_NAME));
        let indexed = node
            .filter(|node| !node.is_empty())
            .and_then(|node| snapshot.with_value(collection, indexes::NODE_NAME, node, prefix, after));
        match indexed {
            Some(indexed) => Candidates::Indexed(indexed),
            None => Candidates::All(snapshot.range(collection, prefix, after)),
        }
    }

    /// Whether the object at this path is selected.
    pub(crate) fn matches(&self, served: &Served, path: &str, bytes: &Bytes) -> bool {
        self.traits.iter().all(|text| text.find(bytes).is_some())
            && self.fields_match(served, path, bytes)
            && self.labels_match(bytes)
    }

    fn labels_match(&self, bytes: &Bytes) -> bool {
        let Some(selector) = &self.labels else { return true };
        let labelled = serde_json::from_slice::<Labelled>(bytes);
        labelled.is_ok_and(|object| selector.matches(|key| object.metadata.labels.get(key).map(String::as_str)))
    }

    fn fields_match(&self, served: &Served, path: &str, bytes: &Bytes) -> bool {
        let Some(selector) = &self.fields else { return true };
        let (namespace, name) = path.split_once('/').unwrap_or(("", path));
        if self.plain
            && let Some(matches) = plain_fields_match(selector, namespace, name, bytes)
        {
            return matches;
        }
        let decode = || match served.form {
            // what selectors of the kind itself read; a definition's may lie anywhere
            Form::Stored if served.version().is_none() => outline::of(bytes),
            _ => codec::stored(bytes),
        };
        let fields = match self.deep.then(decode) {
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

/// Objects to be looked at; made by [`Selection::candidates`].
pub(crate) enum Candidates<'a> {
    All(Range<'a>),
    Indexed(WithValue<'a>),
}

impl<'a> Iterator for Candidates<'a> {
    type Item = (&'a Arc<str>, &'a Object);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::All(range) => range.next(),
            Self::Indexed(found) => found.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::Registry;

    fn selected(plural: &str, labels: Option<&str>, fields: Option<&str>, object: &Value) -> bool {
        let served = Registry::new().find("", "v1", plural).unwrap();
        let options = ListOptions {
            label_selector: labels.map(str::to_owned),
            field_selector: fields.map(str::to_owned),
            ..ListOptions::default()
        };
        let selection = Selection::parse(&served, &options, "").unwrap();
        selection.matches(&served, "a/b", &object.to_string().into())
    }

    #[test]
    fn values_that_need_not_be_written_are_found_all_the_same() {
        let node = json!({"metadata": {"name": "b", "labels": {"a": "true", "quoted": "x"}}, "spec": {}});
        assert!(selected("nodes", None, Some("spec.unschedulable=false"), &node));
        assert!(!selected("nodes", None, Some("spec.unschedulable=true"), &node));
        assert!(selected("nodes", Some("a=true"), Some("spec.unschedulable!=true"), &node));
        let pod = json!({"metadata": {"name": "b"}, "spec": {"hostNetwork": true, "nodeName": "node-1"}});
        assert!(selected("pods", None, Some("spec.hostNetwork=true"), &pod));
        assert!(selected("pods", None, Some("status.phase="), &pod));
        assert!(selected("pods", None, Some("spec.nodeName=node-1,metadata.namespace=a"), &pod));
        assert!(selected("pods", None, Some("spec.nodeName!=node-2,status.phase!=Failed"), &pod));
        assert!(!selected("pods", None, Some("spec.nodeName!=node-1,status.phase!=Failed"), &pod));
        let odd = json!({"metadata": {"name": "b"}, "spec": {"nodeName": "n\\1"}, "status": {"phase": null}});
        assert!(selected("pods", None, Some("spec.nodeName=n\\\\1,status.phase="), &odd));
        assert!(!selected("pods", None, Some("spec.nodeName!=n\\\\1"), &odd));
    }

    #[test]
    fn a_text_that_stands_elsewhere_selects_nothing() {
        let pod = json!({"metadata": {"name": "b", "labels": {"node-1": "web"}}, "spec": {"nodeName": "node-10"}});
        assert!(!selected("pods", None, Some("spec.nodeName=node-1"), &pod));
        assert!(!selected("pods", Some("app=web"), None, &pod));
        assert!(!selected("pods", Some("app in (b)"), None, &pod));
        assert!(selected("pods", Some("node-1 in (web, db)"), None, &pod));
    }

    #[test]
    fn what_is_selected_by_its_name_is_looked_up_by_it() {
        let prefix = |plural: &str, namespace: &str, fields: &str| {
            let served = Registry::new().find("", "v1", plural).unwrap();
            let options = ListOptions { field_selector: Some(fields.to_owned()), ..ListOptions::default() };
            Selection::parse(&served, &options, "").unwrap().prefix(&served, namespace)
        };
        assert_eq!(prefix("pods", "", "metadata.name=x"), "");
        assert_eq!(prefix("pods", "a", "metadata.name=x"), "a/x");
        assert_eq!(prefix("pods", "a", "metadata.name!=x"), "a/");
        assert_eq!(prefix("pods", "", "metadata.namespace=n,metadata.name=x"), "n/x");
        assert_eq!(prefix("nodes", "", "metadata.name=x"), "x");
    }
}
