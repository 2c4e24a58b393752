//! The rules of `metadata`, the same for every kind.

use kinds::Resource;
use serde_json::Value;

use super::{
    names::{self, NameRule},
    tree,
};
use crate::field_error::{FieldErrors, Path};

/// Longest total of all annotation keys and values.
const ANNOTATION_BYTES_MAX: usize = 256 * 1024;
/// Upstream's words for a changed field that may not change.
pub const IMMUTABLE: &str = "field is immutable";

const METADATA: Path<'static> = Path::new("metadata");

/// `metav1.Time`: RFC 3339 in UTC with whole seconds.
pub fn time(time: jiff::Timestamp) -> String {
    time.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Checks `metadata` of a new object.
pub fn validate_create(object: &Value, rule: NameRule, resource: &Resource, errors: &mut FieldErrors) {
    static NOTHING: Value = Value::Null;
    let metadata = object.get("metadata").unwrap_or(&NOTHING);
    let (name, base, namespace) =
        (tree::text(metadata, "name"), tree::text(metadata, "generateName"), tree::text(metadata, "namespace"));
    if !base.is_empty()
        && let Some(message) = rule.check(base, true)
    {
        errors.invalid(&METADATA.child("generateName"), base, message);
    }
    if name.is_empty() {
        errors.required(&METADATA.child("name"), "name or generateName is required");
    } else if let Some(message) = rule.check(name, false) {
        errors.invalid(&METADATA.child("name"), name, message);
    }
    if resource.namespaced {
        if namespace.is_empty() {
            errors.required(&METADATA.child("namespace"), "");
        } else if let Some(message) = names::label(namespace) {
            errors.invalid(&METADATA.child("namespace"), namespace, message);
        }
    } else if !namespace.is_empty() {
        errors.forbidden(&METADATA.child("namespace"), "not allowed on this type");
    }
    validate_content(metadata, Finalizers::of(resource), errors);
}

/// Checks `metadata` of a changed object.
pub fn validate_update(new: &Value, old: &Value, resource: &Resource, errors: &mut FieldErrors) {
    static NOTHING: Value = Value::Null;
    let (new, old) = (new.get("metadata").unwrap_or(&NOTHING), old.get("metadata").unwrap_or(&NOTHING));
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if !tree::same(new, old, key) {
            let value = new.get(key).cloned().unwrap_or_default();
            errors.invalid(&METADATA.child(key), value, IMMUTABLE);
        }
    }
    let (generation, before) = (tree::int(new, "generation"), tree::int(old, "generation"));
    if generation.unwrap_or(0) < before.unwrap_or(0) {
        errors.invalid(&METADATA.child("generation"), generation.unwrap_or(0), "must not be decremented");
    }
    if tree::some(old, "deletionTimestamp").is_some() {
        let known = tree::list(old, "finalizers");
        let added: Vec<String> = tree::list(new, "finalizers")
            .iter()
            .filter(|finalizer| !known.contains(finalizer))
            .map(ToString::to_string)
            .collect();
        if !added.is_empty() {
            errors.forbidden(
                &METADATA.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            );
        }
    }
    validate_content(new, Finalizers::of(resource), errors);
}

/// Checks the `metadata` of a resource that is embedded in another one at `path`.
pub fn check_embedded(metadata: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut found = FieldErrors::default();
    for (key, rule) in [("name", NameRule::PathSegment), ("generateName", NameRule::PathSegment)] {
        let name = tree::text(metadata, key);
        if let Some(message) = rule.check(name, key == "generateName").filter(|_| !name.is_empty()) {
            found.invalid(&METADATA.child(key), name, message);
        }
    }
    let namespace = tree::text(metadata, "namespace");
    if let Some(message) = names::label(namespace).filter(|_| !namespace.is_empty()) {
        found.invalid(&METADATA.child("namespace"), namespace, message);
    }
    validate_content(metadata, Finalizers::Any, &mut found);
    errors.0.extend(found.0.into_iter().map(|mut error| {
        error.path = format!("{path}.{}", error.path);
        error
    }));
}

/// Which finalizers an object may carry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finalizers {
    /// Any qualified name.
    Any,
    /// Names of a domain, and the ones the API knows.
    Known,
}

impl Finalizers {
    /// Definitions and their objects may carry any, as upstream's own cleanup finalizer shows.
    fn of(resource: &Resource) -> Self {
        let custom = resource.schema.is_empty() || resource.group == "apiextensions.k8s.io";
        if custom { Self::Any } else { Self::Known }
    }
}

fn validate_content(metadata: &Value, finalizers: Finalizers, errors: &mut FieldErrors) {
    if let Some(generation) = tree::int(metadata, "generation")
        && generation < 0
    {
        errors.invalid(&METADATA.child("generation"), generation, "must be greater than or equal to 0");
    }
    validate_labels(metadata, &METADATA.child("labels"), errors);
    validate_annotations(metadata, &METADATA.child("annotations"), errors);
    validate_owner_references(tree::list(metadata, "ownerReferences"), errors);
    validate_finalizers(metadata, finalizers, errors);
}

/// Checks the `labels` of `holder`, a `metadata` or another carrier of labels.
pub fn validate_labels(holder: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (key, value) in tree::map(holder, "labels") {
        validate_label(key, value, path, errors);
    }
}

/// Checks one label.
pub fn validate_label(key: &str, value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(message) = names::qualified(key) {
        errors.invalid(path, key, message);
    }
    let value = value.as_str().unwrap_or_default();
    if let Some(message) = names::label_value(value) {
        errors.invalid(path, value, message);
    }
}

/// Checks the `annotations` of `holder`.
pub fn validate_annotations(holder: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut bytes = 0;
    for (key, value) in tree::map(holder, "annotations") {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        let message = if key.bytes().any(|byte| byte.is_ascii_uppercase()) {
            names::qualified(&key.to_ascii_lowercase())
        } else {
            names::qualified(key)
        };
        if let Some(message) = message {
            errors.invalid(path, key.as_str(), message);
        }
    }
    if bytes > ANNOTATION_BYTES_MAX {
        errors.too_long(path, ANNOTATION_BYTES_MAX);
    }
}

fn validate_owner_references(owners: &[Value], errors: &mut FieldErrors) {
    let path = METADATA.child("ownerReferences");
    let mut controller: Option<&str> = None;
    for (index, owner) in owners.iter().enumerate() {
        let path = path.index(index);
        let api_version = tree::text(owner, "apiVersion");
        if api_version.rsplit('/').next().unwrap_or_default().is_empty() {
            errors.invalid(&path.child("apiVersion"), api_version, "version must not be empty");
        }
        for key in ["kind", "name", "uid"] {
            if tree::text(owner, key).is_empty() {
                errors.invalid(&path.child(key), "", "must not be empty");
            }
        }
        if tree::text(owner, "kind") == "Event" && (api_version == "v1" || api_version == "events.k8s.io/v1") {
            errors.invalid(
                &path,
                owner.clone(),
                format!("{api_version}, Kind=Event is disallowed from being an owner"),
            );
        }
        if tree::flag(owner, "controller") {
            let name = tree::text(owner, "name");
            if let Some(first) = controller {
                errors.invalid(
                    &METADATA.child("ownerReferences"),
                    Value::Array(owners.to_vec()),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    ),
                );
            } else {
                controller = Some(name);
            }
        }
    }
}

/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

fn validate_finalizers(metadata: &Value, allowed: Finalizers, errors: &mut FieldErrors) {
    let path = METADATA.child("finalizers");
    let finalizers = tree::list(metadata, "finalizers");
    for (index, finalizer) in finalizers.iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        if let Some(message) = names::qualified(finalizer) {
            errors.invalid(&path, finalizer, message);
        } else if allowed == Finalizers::Known && !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer)
        {
            errors.invalid(
                &path.index(index),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has("orphan") && has("foregroundDeletion") {
        errors.invalid(
            &path,
            Value::Array(finalizers.to_vec()),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}
