//! The rules of files that show the pod's own fields, and of volumes put together from several sources.

use std::collections::HashSet;

use serde_json::Value;

use super::{require, validate_file_path, validate_files, validate_mode};
use crate::{
    field_error::{FieldErrors, Path},
    names,
    pod_spec::{
        env::{validate_field, validate_resource_field},
        scheduling::validate_label_selector,
    },
    tree::{int, list, some, text},
};

/// Fields of the pod that a file can show.
const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Shortest life of a projected token; shorter ones could not be renewed in time.
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

/// Checks a volume of files that show the pod's own fields.
pub(super) fn validate_downward(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_mode(source, "defaultMode", path, errors);
    let items = path.child("items");
    for (index, item) in list(source, "items").iter().enumerate() {
        let path = items.index(index);
        validate_file_path(text(item, "path"), &path.child("path"), errors);
        match (some(item, "fieldRef"), some(item, "resourceFieldRef")) {
            (Some(field), resource) => {
                validate_field(field, &FILE_FIELDS, &path.child("fieldRef"), errors);
                if resource.is_some() {
                    let rule = "fieldRef and resourceFieldRef can not be specified simultaneously";
                    errors.invalid(&path, "resource", rule);
                }
            }
            (None, Some(resource)) => {
                validate_resource_field(resource, true, &path.child("resourceFieldRef"), errors);
            }
            (None, None) => errors.required(&path, "one of fieldRef and resourceFieldRef is required"),
        }
        validate_mode(item, "mode", &path, errors);
    }
}

/// Checks a volume put together from several sources.
pub(super) fn validate(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_mode(source, "defaultMode", path, errors);
    let sources = path.child("sources");
    let mut paths = HashSet::new();
    for (index, source) in list(source, "sources").iter().enumerate() {
        let path = sources.index(index);
        let mut kinds = source.as_object().into_iter().flatten().filter(|(_, inner)| !inner.is_null());
        match kinds.next() {
            None => errors.required(&path, "must specify a volume type"),
            Some((kind, inner)) => {
                validate_projection(kind, inner, &path.child(kind), errors);
                for (target, owner) in targets(inner) {
                    if !target.is_empty() && !paths.insert(target) {
                        errors.invalid(&sources, owner, "conflicting duplicate paths");
                    }
                }
            }
        }
        for _ in kinds {
            errors.forbidden(&path, "may not specify more than 1 volume type");
        }
    }
}

/// Where a projection puts its files, each with what an error shows.
fn targets(projection: &Value) -> Vec<(&str, &str)> {
    let name = text(projection, "name");
    let items = list(projection, "items").iter().map(|item| {
        let target = text(item, "path");
        (target, if name.is_empty() { target } else { name })
    });
    let own = text(projection, "path");
    items.chain([(own, own)]).collect()
}

fn validate_projection(kind: &str, inner: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match kind {
        "secret" | "configMap" => {
            require(inner, "name", path, errors);
            validate_files(inner, path, errors);
        }
        "downwardAPI" => validate_downward(inner, path, errors),
        "serviceAccountToken" => {
            let seconds = int(inner, "expirationSeconds").unwrap_or(TOKEN_SECONDS_MIN);
            let rule = if seconds < TOKEN_SECONDS_MIN {
                Some("may not specify a duration less than 10 minutes")
            } else if seconds > TOKEN_SECONDS_MAX {
                Some("may not specify a duration larger than 2^32 seconds")
            } else {
                None
            };
            if let Some(rule) = rule {
                errors.invalid(&path.child("expirationSeconds"), seconds, rule);
            }
            validate_file_path(text(inner, "path"), &path.child("path"), errors);
        }
        "clusterTrustBundle" => validate_trust_bundle(inner, path, errors),
        _ => {}
    }
}

fn validate_trust_bundle(inner: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match (some(inner, "name"), some(inner, "signerName")) {
        (Some(_), Some(_)) => {
            errors.invalid(path, inner.clone(), "only one of name and signerName may be used");
        }
        (Some(name), None) => {
            let name = name.as_str().unwrap_or_default();
            if name.is_empty() {
                errors.required(&path.child("name"), "must be a valid object name");
            } else if let Some(message) = names::NameRule::PathSegment.check(name, false) {
                errors.invalid(&path.child("name"), name, message);
            }
            if let Some(selector) = some(inner, "labelSelector") {
                let rule = "labelSelector must be unset if name is specified";
                errors.invalid(&path.child("labelSelector"), selector.clone(), rule);
            }
        }
        (None, Some(signer)) => {
            if signer.as_str().unwrap_or_default().is_empty() {
                errors.required(&path.child("signerName"), "must be a valid signer name");
            }
            if let Some(selector) = some(inner, "labelSelector") {
                validate_label_selector(selector, &path.child("labelSelector"), errors);
            }
        }
        (None, None) => errors.required(path, "either name or signerName must be specified"),
    }
    validate_file_path(text(inner, "path"), &path.child("path"), errors);
}
