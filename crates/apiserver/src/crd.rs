//! CustomResourceDefinitions: from the stored object to resources that are served, and the status it earns.

use std::sync::Arc;

use jiff::Timestamp;
use kinds::{GroupVersionKind, Resource, Subresource};
use schema::Schema;
use serde_json::{Value, json};

use crate::{metrics::ResourceMetrics, status::Cause, table::CustomColumns};

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
    /// Deletion has begun: nothing new may be created.
    pub(crate) terminating: bool,
    pub(crate) versions: Vec<Version>,
}

/// One version of a definition.
pub(crate) struct Version {
    pub(crate) resource: Arc<Resource>,
    pub(crate) schema: Schema,
    pub(crate) served: bool,
    pub(crate) storage: bool,
    pub(crate) scale: Option<ScalePaths>,
    pub(crate) columns: CustomColumns,
    /// The `openAPIV3Schema` as it was given.
    pub(crate) document: Arc<Value>,
    pub(crate) metrics: Arc<ResourceMetrics>,
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

impl Definition {
    /// Decodes a stored definition; `None` when it is beyond serving (its schema does not compile).
    pub(crate) fn decode(object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let (group, names) = (spec["group"].as_str()?, &spec["names"]);
        let storage = spec["versions"].as_array()?.iter().find(|version| version["storage"] == true)?;
        let versions = spec["versions"].as_array()?.iter().map(|version| Version::decode(spec, version));
        Some(Self {
            name: object["metadata"]["name"].as_str()?.to_owned(),
            group: group.to_owned(),
            collection: format!("{group}/{}", names["plural"].as_str()?).into(),
            stored_api_version: format!("{group}/{}", storage["name"].as_str()?),
            established: condition(object, "Established") == Some("True"),
            terminating: object["metadata"]["deletionTimestamp"].is_string(),
            versions: versions.collect::<Option<_>>()?,
        })
    }
}

impl Version {
    fn decode(spec: &Value, version: &Value) -> Option<Self> {
        let names = &spec["names"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let words = |value: &Value| value.as_array().into_iter().flatten().filter_map(text).collect::<Vec<_>>();
        let kind = text(&names["kind"])?;
        let document = &version["schema"]["openAPIV3Schema"];
        let mut resource = Resource {
            group: text(&spec["group"])?,
            version: text(&version["name"])?,
            plural: text(&names["plural"])?,
            singular: text(&names["singular"]).unwrap_or_else(|| kind.to_lowercase()),
            list_kind: text(&names["listKind"]).unwrap_or_else(|| format!("{kind}List")),
            namespaced: spec["scope"] == "Namespaced",
            short_names: words(&names["shortNames"]),
            categories: words(&names["categories"]),
            verbs: VERBS.map(str::to_owned).to_vec(),
            subresources: Vec::new(),
            schema: String::new(),
            kind,
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
        Some(Self {
            schema: Schema::from_crd(document.is_object().then_some(document)).ok()?,
            resource: Arc::new(resource),
            served: version["served"] == true,
            storage: version["storage"] == true,
            scale,
            columns: CustomColumns::of_version(version),
            document: Arc::new(document.clone()),
            metrics: Arc::default(),
        })
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

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)?["status"].as_str()
}

/// What keeps the schemas of a definition from being compiled.
pub(crate) fn schema_errors(object: &Value) -> Vec<Cause> {
    let versions = object["spec"]["versions"].as_array().into_iter().flatten().enumerate();
    let broken = versions.filter_map(|(index, version)| {
        let document = &version["schema"]["openAPIV3Schema"];
        let error = Schema::from_crd(document.is_object().then_some(document)).err()?;
        Some(Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {error}"),
            field: format!("spec.versions[{index}].schema.openAPIV3Schema"),
        })
    });
    broken.collect()
}

/// Completes a definition about to be written: the fields upstream defaults, the cleanup finalizer, and the status that
/// says whether its names are accepted and it is served. `taken` are the names other definitions hold in its group.
pub(crate) fn establish(object: &mut Value, taken: &[(String, String)], now: Timestamp) {
    default_names(object);
    let spec = object["spec"].clone();
    let clash = conflict(&spec, taken);
    let now = crate::meta::time(now);
    set_condition(
        object,
        "NamesAccepted",
        &now,
        match &clash {
            None => ("True", "NoConflicts", "no conflicts found"),
            Some((reason, message)) => ("False", reason, message),
        },
    );
    set_condition(
        object,
        "Established",
        &now,
        match &clash {
            None => ("True", "InitialNamesAccepted", "the initial names have been accepted"),
            Some(_) => ("False", "NotAccepted", "not all names are accepted"),
        },
    );
    if clash.is_none() {
        object["status"]["acceptedNames"] = spec["names"].clone();
    } else if !object["status"]["acceptedNames"].is_object() {
        object["status"]["acceptedNames"] = json!({"plural": "", "kind": ""});
    }
    let storage = spec["versions"].as_array().into_iter().flatten().find(|version| version["storage"] == true);
    if let Some(storage) = storage.and_then(|version| version["name"].as_str()) {
        let stored = &mut object["status"]["storedVersions"];
        match stored.as_array_mut() {
            Some(versions) if versions.iter().any(|version| version == storage) => {}
            Some(versions) => versions.push(storage.into()),
            None => *stored = json!([storage]),
        }
    }
}

/// Adds the finalizer that lets a definition wait for its objects.
pub(crate) fn hold_for_cleanup(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|finalizer| finalizer == CLEANUP_FINALIZER)
    {
        finalizers.push(CLEANUP_FINALIZER.into());
    }
}

/// Marks a definition whose deletion has begun.
pub(crate) fn mark_terminating(object: &mut Value, now: Timestamp) {
    let message = "CustomResource deletion is in progress";
    set_condition(object, "Terminating", &crate::meta::time(now), ("True", "InstanceDeletionInProgress", message));
}

fn default_names(object: &mut Value) {
    let spec = &mut object["spec"];
    let kind = spec["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let default = |value: &mut Value, text: String| {
        if value.as_str().unwrap_or_default().is_empty() {
            *value = text.into();
        }
    };
    default(&mut spec["names"]["singular"], kind.to_lowercase());
    default(&mut spec["names"]["listKind"], format!("{kind}List"));
    default(&mut spec["conversion"]["strategy"], "None".into());
}

fn conflict(spec: &Value, taken: &[(String, String)]) -> Option<(&'static str, String)> {
    let names = &spec["names"];
    let plain = [
        ("PluralConflict", "plural"),
        ("SingularConflict", "singular"),
        ("ListKindConflict", "listKind"),
        ("KindConflict", "kind"),
    ];
    let own = plain.iter().filter_map(|(reason, field)| Some((*reason, names[*field].as_str()?)));
    let short = names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let own = own.chain(short.map(|name| ("ShortNamesConflict", name)));
    own.into_iter().find_map(|(reason, name)| {
        let space = if matches!(reason, "KindConflict" | "ListKindConflict") { "kind" } else { "resource" };
        let held = taken.iter().any(|(kind, held)| kind == space && held == name);
        held.then(|| (reason, format!("{name:?} is already in use")))
    })
}

fn set_condition(object: &mut Value, kind: &str, now: &str, (status, reason, message): (&str, &str, &str)) {
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = object["status"]["conditions"].as_array_mut() else { return };
    let new = json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now});
    match conditions.iter_mut().find(|condition| condition["type"] == kind) {
        Some(old) if old["status"] == status => {
            old["reason"] = reason.into();
            old["message"] = message.into();
        }
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

/// The names an accepted definition holds in its group, by name space.
pub(crate) fn held_names(definition: &Definition) -> Vec<(String, String)> {
    let Some(version) = definition.versions.first().filter(|_| definition.established) else { return Vec::new() };
    let resource = &version.resource;
    let mut names = vec![
        ("resource".to_owned(), resource.plural.clone()),
        ("resource".to_owned(), resource.singular.clone()),
        ("kind".to_owned(), resource.kind.clone()),
        ("kind".to_owned(), resource.list_kind.clone()),
    ];
    names.extend(resource.short_names.iter().map(|name| ("resource".to_owned(), name.clone())));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        json!({"metadata": {"name": "crontabs.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
                 "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}}},
                {"name": "v1beta1", "served": false, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
    }

    #[test]
    fn an_undisputed_definition_is_established() {
        let mut object = definition();
        establish(&mut object, &[], Timestamp::UNIX_EPOCH);
        assert_eq!(condition(&object, "Established"), Some("True"));
        assert_eq!(object["status"]["acceptedNames"]["listKind"], "CronTabList");
        assert_eq!(object["status"]["storedVersions"], json!(["v1"]));
        let decoded = Definition::decode(&object).unwrap();
        assert!(decoded.established && !decoded.terminating);
        assert_eq!(decoded.versions[0].scale.as_ref().unwrap().spec_replicas, "/spec/replicas");
        assert_eq!(decoded.versions[0].resource.subresources.len(), 2);
        assert!(!decoded.versions[1].served);
        assert_eq!(&*decoded.collection, "example.com/crontabs");
    }

    #[test]
    fn a_name_in_use_keeps_a_definition_from_being_served() {
        let mut object = definition();
        establish(&mut object, &[("resource".into(), "ct".into())], Timestamp::UNIX_EPOCH);
        assert_eq!(condition(&object, "NamesAccepted"), Some("False"));
        assert_eq!(condition(&object, "Established"), Some("False"));
        assert_eq!(object["status"]["conditions"][0]["reason"], "ShortNamesConflict");
    }
}
