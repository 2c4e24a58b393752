//! Query parameters in the documents: their types, and what they are for.

use serde_json::{Map, Value, json};

use super::Version;

/// A parameter's name, JSON type and purpose.
struct Parameter {
    name: &'static str,
    kind: &'static str,
    description: &'static str,
}

const fn parameter(name: &'static str, kind: &'static str, description: &'static str) -> Parameter {
    Parameter { name, kind, description }
}

const ALL: [Parameter; 20] = [
    parameter(
        "allowWatchBookmarks",
        "boolean",
        "Whether a watch may send BOOKMARK events, which carry a version only.",
    ),
    parameter(
        "continue",
        "string",
        "Token of an earlier answer with more to come; asks for the next piece of that list.",
    ),
    parameter("dryRun", "string", "All: go through every stage of the request and persist nothing."),
    parameter(
        "fieldManager",
        "string",
        "Name of the actor or entity that makes the change, at most 128 printable characters.",
    ),
    parameter(
        "fieldSelector",
        "string",
        "A selector to restrict the list of returned objects by their fields. Defaults to everything.",
    ),
    parameter(
        "fieldValidation",
        "string",
        "What becomes of unknown and repeated fields: Ignore drops them, Warn drops them with a warning, Strict refuses the request.",
    ),
    parameter("force", "boolean", "Take over fields that others own; for apply patches only."),
    parameter("gracePeriodSeconds", "integer", "Seconds until the object is deleted; zero means at once."),
    parameter(
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
        "Delete an object that can no longer be read, without finalizers and preconditions.",
    ),
    parameter(
        "labelSelector",
        "string",
        "A selector to restrict the list of returned objects by their labels. Defaults to everything.",
    ),
    parameter("limit", "integer", "Most objects in one answer to a list; what is left is asked for with continue."),
    parameter("namespace", "string", "object name and auth scope, such as for teams and projects"),
    parameter("orphanDependents", "boolean", "Deprecated: propagationPolicy says whether dependents are left behind."),
    parameter("pretty", "string", "true: set the answer in lines, as browsers and curl get it anyway."),
    parameter("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
    parameter("resourceVersion", "string", "Which version of the state the request is about."),
    parameter("resourceVersionMatch", "string", "How resourceVersion is meant in a list: Exact or NotOlderThan."),
    parameter(
        "sendInitialEvents",
        "boolean",
        "Whether a watch begins with the objects there are, up to a marked BOOKMARK event.",
    ),
    parameter("timeoutSeconds", "integer", "How long a list or watch may take at most."),
    parameter(
        "watch",
        "boolean",
        "Watch for changes to the described resources and return them as a stream of add, update, and remove notifications. Specify resourceVersion.",
    ),
];

impl Parameter {
    fn spelled_out(&self, version: Version) -> Value {
        let place = if self.name == "namespace" { "path" } else { "query" };
        spelled_out(self.name, place, self.kind, version)
    }
}

/// A parameter in full.
pub(super) fn spelled_out(name: &str, place: &str, kind: &str, version: Version) -> Value {
    let mut out = match version {
        Version::V2 => json!({"name": name, "in": place, "type": kind, "uniqueItems": true}),
        Version::V3 => json!({"name": name, "in": place, "schema": {"type": kind, "uniqueItems": true}}),
    };
    if place == "path" {
        out["required"] = Value::Bool(true);
    }
    out
}

/// A parameter that many operations share: v2 documents define it once.
pub(super) fn shared(name: &str, version: Version) -> Value {
    match version {
        Version::V2 => json!({"$ref": format!("#/parameters/{name}")}),
        Version::V3 => {
            ALL.iter().find(|known| known.name == name).map_or(Value::Null, |known| known.spelled_out(version))
        }
    }
}

/// The parameters that [`shared`] refers to, with what they are for.
pub(super) fn definitions() -> Map<String, Value> {
    let described = |parameter: &Parameter| {
        let mut out = parameter.spelled_out(Version::V2);
        out["description"] = parameter.description.into();
        (parameter.name.to_owned(), out)
    };
    ALL.iter().map(described).collect()
}
