//! Paths in the documents.

use kinds::{GroupVersionKind, Resource};
use serde_json::{Map, Value, json};

use super::types::gvk;
use super::{DELETE_OPTIONS, LIST_META, STATUS, Version, parameters, type_name, type_of_kind};

/// Names of the query parameters of an action.
type Parameters = &'static [&'static str];

const LIST: Parameters = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const WRITE: Parameters = &["dryRun", "fieldManager", "fieldValidation"];
const PATCH: Parameters = &["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: Parameters = &[
    "dryRun",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
];
const NONE: Parameters = &[];

/// Patch formats; the last needs the merge rules that only built-in types have.
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// One HTTP operation of a resource.
struct Operation {
    verb: &'static str,
    method: &'static str,
    /// `x-kubernetes-action`.
    action: &'static str,
    /// First word of the operation's id.
    word: &'static str,
    parameters: Parameters,
}

const fn operation(
    verb: &'static str,
    method: &'static str,
    action: &'static str,
    word: &'static str,
    parameters: Parameters,
) -> Operation {
    Operation { verb, method, action, word, parameters }
}

const COLLECTION: [Operation; 3] = [
    operation("list", "get", "list", "list", LIST),
    operation("create", "post", "post", "create", WRITE),
    operation("deletecollection", "delete", "deletecollection", "deleteCollection", DELETE),
];
const ITEM: [Operation; 5] = [
    operation("get", "get", "get", "read", NONE),
    operation("update", "put", "put", "replace", WRITE),
    operation("patch", "patch", "patch", "patch", PATCH),
    operation("delete", "delete", "delete", "delete", DELETE),
    operation("create", "post", "post", "create", WRITE),
];

struct Writer<'a> {
    resource: &'a Resource,
    version: Version,
    wanted: &'a mut Vec<String>,
}

/// Adds every path of a resource; the types that they exchange are added to `wanted`.
pub(super) fn of(resource: &Resource, version: Version, paths: &mut Map<String, Value>, wanted: &mut Vec<String>) {
    let mut writer = Writer { resource, version, wanted };
    let root = match resource.group.is_empty() {
        true => format!("/api/{}", resource.version),
        false => format!("/apis/{}/{}", resource.group, resource.version),
    };
    let plural = &resource.plural;
    let home = if resource.namespaced {
        format!("{root}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{root}/{plural}")
    };
    let own = GroupVersionKind {
        group: resource.group.clone(),
        version: resource.version.clone(),
        kind: resource.kind.clone(),
    };
    writer.add(paths, &home, &COLLECTION, &resource.verbs, &own, "");
    // Creating is an operation of the collection, not of the item.
    writer.add(paths, &format!("{home}/{{name}}"), &ITEM[..4], &resource.verbs, &own, "");
    if resource.namespaced {
        writer.add(paths, &format!("{root}/{plural}"), &COLLECTION[..1], &resource.verbs, &own, "ForAllNamespaces");
    }
    for subresource in &resource.subresources {
        let path = format!("{home}/{{name}}/{}", subresource.name);
        let mut suffix = subresource.name.clone();
        if let Some(first) = suffix.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        writer.add(paths, &path, &ITEM, &subresource.verbs, &subresource.kind, &suffix);
    }
}

impl Writer<'_> {
    fn add(
        &mut self,
        paths: &mut Map<String, Value>,
        path: &str,
        operations: &[Operation],
        verbs: &[String],
        kind: &GroupVersionKind,
        suffix: &str,
    ) {
        let mut item = Map::new();
        for operation in operations.iter().filter(|operation| verbs.iter().any(|verb| verb == operation.verb)) {
            item.insert(operation.method.to_owned(), self.operation(operation, kind, suffix));
        }
        if item.is_empty() {
            return;
        }
        let mut parameters = vec![parameters::shared("pretty", self.version)];
        if path.contains("{name}") {
            parameters.push(parameters::spelled_out("name", "path", "string", self.version));
        }
        if path.contains("{namespace}") {
            parameters.push(parameters::shared("namespace", self.version));
        }
        item.insert("parameters".to_owned(), Value::Array(parameters));
        paths.insert(path.to_owned(), Value::Object(item));
    }

    /// Reference to a type, which the document will then define.
    fn reference(&mut self, name: String) -> Value {
        let reference = self.version.reference(&name);
        self.wanted.push(name);
        reference
    }

    fn exchanged(&mut self, kind: &GroupVersionKind) -> Option<Value> {
        let resource = self.resource;
        let own = kind.kind == resource.kind && kind.group == resource.group && kind.version == resource.version;
        let name = if own { Some(type_name(resource)) } else { type_of_kind(&kind.group, &kind.version, &kind.kind) };
        name.map(|name| self.reference(name))
    }

    /// Media types that an operation takes. Clients choose their patch by these: `kubectl apply` would send a
    /// strategic one wherever it is offered.
    fn consumed(&self, operation: &Operation) -> &'static [&'static str] {
        match operation.method {
            "patch" if self.resource.schema.is_empty() => &PATCH_TYPES[..3],
            "patch" => &PATCH_TYPES,
            _ => &["*/*"],
        }
    }

    fn operation(&mut self, operation: &Operation, kind: &GroupVersionKind, suffix: &str) -> Value {
        let sent = match operation.method {
            "post" | "put" => self.exchanged(kind),
            "patch" => Some(self.reference("io.k8s.apimachinery.pkg.apis.meta.v1.Patch".to_owned())),
            "delete" => Some(self.reference(DELETE_OPTIONS.to_owned())),
            _ => None,
        };
        let answered = match operation.verb {
            "list" => {
                self.wanted.push(LIST_META.to_owned());
                Some(self.reference(format!("{}List", type_name(self.resource))))
            }
            "delete" | "deletecollection" => Some(self.reference(STATUS.to_owned())),
            _ => self.exchanged(kind),
        };
        let mut parameters: Vec<Value> =
            operation.parameters.iter().map(|name| parameters::shared(name, self.version)).collect();
        let group = self.resource.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
        let mut out = json!({
            "operationId": self.id(operation, group, suffix),
            "tags": [format!("{group}_{}", self.resource.version)],
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind": gvk(&kind.group, &kind.version, &kind.kind),
        });
        match self.version {
            Version::V2 => {
                out["consumes"] = json!(self.consumed(operation));
                out["produces"] = json!(["application/json", "application/yaml"]);
                if let Some(sent) = sent {
                    let required = operation.method != "delete";
                    parameters.push(json!({"name": "body", "in": "body", "required": required, "schema": sent}));
                }
                let mut response = json!({"description": "OK"});
                response
                    .as_object_mut()
                    .into_iter()
                    .for_each(|map| map.extend(answered.clone().map(|a| ("schema".to_owned(), a))));
                out["responses"] = json!({"200": response, "401": {"description": "Unauthorized"}});
            }
            Version::V3 => {
                if let Some(sent) = sent {
                    let content: Map<String, Value> = self
                        .consumed(operation)
                        .iter()
                        .map(|kind| ((*kind).to_owned(), json!({"schema": sent})))
                        .collect();
                    out["requestBody"] = json!({"content": content, "required": operation.method != "delete"});
                }
                let mut response = json!({"description": "OK"});
                if let Some(answered) = answered {
                    response["content"] = json!({"application/json": {"schema": answered}});
                }
                out["responses"] = json!({"200": response, "401": {"description": "Unauthorized"}});
            }
        }
        out["parameters"] = Value::Array(parameters);
        out
    }

    fn id(&self, operation: &Operation, group: &str, suffix: &str) -> String {
        let capital = |text: &str| {
            let mut text = text.to_owned();
            if let Some(first) = text.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            text
        };
        let (word, collection) = match operation.word {
            "deleteCollection" => ("delete", "Collection"),
            word => (word, ""),
        };
        let all = suffix == "ForAllNamespaces";
        let scope = if self.resource.namespaced && !all { "Namespaced" } else { "" };
        let (group, version) = (capital(group), capital(&self.resource.version));
        format!("{word}{group}{version}{collection}{scope}{}{suffix}", self.resource.kind)
    }
}
