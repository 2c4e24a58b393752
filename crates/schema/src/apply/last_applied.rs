//! The annotation that client-side apply leaves behind. Who applies on the client first and on the server later means the
//! same fields, so that `kubectl` meets no conflict over what it set itself and nobody changed since.

use serde_json::{Map, Value};

use super::{
    Manager, Operation,
    compare::{compare, named},
    merge::merge,
    set::{subtract, union},
};
use crate::types::Ref;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The only manager it stands for.
const MANAGER: &str = "kubectl";
/// Longest annotation that is still written; all annotations of an object together have this limit.
const BYTES_MAX: usize = 256 * 1024;

fn concerns(manager: &Manager) -> bool {
    manager.name == MANAGER && manager.operation == Operation::Apply
}

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()
}

/// The fields of the last configuration that still have its values.
pub(super) fn unchanged(root: Ref<'_>, live: &Value, manager: &Manager) -> Map<String, Value> {
    let last = annotation(live).filter(|_| concerns(manager));
    let Some(Ok(last)) = last.map(serde_json::from_str::<Value>) else { return Map::new() };
    let Ok(mut fields) = named(root, &last, manager.reset) else { return Map::new() };
    let mut restored = live.clone();
    merge(Some(root), &mut restored, &last);
    let changes = compare(root, Some(live), &restored, manager.reset);
    let mut differing = changes.added;
    union(&mut differing, &changes.modified);
    subtract(&mut fields, &differing);
    fields
}

/// Writes the configuration into the annotation of an object that has one, for clients that go on applying themselves.
pub(super) fn keep_current(object: &mut Value, config: &Value, manager: &Manager) {
    if !concerns(manager) || annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{config}\n");
    let annotations = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    let Some(annotations) = annotations else { return };
    if text.len() > BYTES_MAX {
        annotations.remove(ANNOTATION);
    } else {
        annotations.insert(ANNOTATION.to_owned(), text.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        apply::{ApplyError, apply, track_update},
        builtin,
    };

    fn manager(name: &str, operation: Operation) -> Manager {
        Manager {
            name: name.to_owned(),
            operation,
            api_version: "v1".to_owned(),
            subresource: String::new(),
            time: "2026-01-01T00:00:00Z".to_owned(),
            reset: &[],
            only: &[],
        }
    }

    fn config(value: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"key": value}})
    }

    /// An object that was applied on the client.
    fn live() -> Value {
        let mut live = config("old");
        live["metadata"]["annotations"] = json!({(ANNOTATION): config("old").to_string()});
        let schema = builtin().get("io.k8s.api.core.v1.ConfigMap").unwrap();
        let by = manager("kubectl-client-side-apply", Operation::Update);
        track_update(&schema, None, &mut live, &by).unwrap();
        live
    }

    #[test]
    fn what_was_applied_on_the_client_is_no_conflict_on_the_server() {
        let schema = builtin().get("io.k8s.api.core.v1.ConfigMap").unwrap();
        let live = live();
        let kubectl = manager("kubectl", Operation::Apply);
        let object = apply(&schema, Some(&live), &config("new"), &kubectl, false).unwrap().object;
        assert_eq!(object["data"]["key"], "new");
        assert_eq!(annotation(&object), Some(format!("{}\n", config("new")).as_str()));
        let other = manager("tool", Operation::Apply);
        let refused = apply(&schema, Some(&live), &config("new"), &other, false).unwrap_err();
        assert!(matches!(refused, ApplyError::Conflicts(_)), "it stands for kubectl alone");
    }

    #[test]
    fn what_somebody_changed_since_is_a_conflict() {
        let schema = builtin().get("io.k8s.api.core.v1.ConfigMap").unwrap();
        let live = live();
        let mut edited = live.clone();
        edited["data"]["key"] = "theirs".into();
        track_update(&schema, Some(&live), &mut edited, &manager("editor", Operation::Update)).unwrap();
        let kubectl = manager("kubectl", Operation::Apply);
        let refused = apply(&schema, Some(&edited), &config("new"), &kubectl, false).unwrap_err();
        assert!(refused.to_string().contains("conflict with \"editor\""), "{refused}");
    }
}
