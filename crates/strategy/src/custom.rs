//! Custom resources. What their definition says of them is checked where the definition is known.

use kinds::Resource;
use serde_json::Value;

use super::{Strategy, WriteContext, set_generation, tree};

/// Objects of any CustomResourceDefinition.
pub(super) struct Custom;

/// What a write through `status` may change of the metadata.
const OF_EVERY_WRITE: [&str; 2] = ["resourceVersion", "managedFields"];

impl Strategy for Custom {
    fn tracks_generation(&self, _resource: &Resource) -> bool {
        true
    }

    fn prepare_update(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        let before = old.pointer("/metadata/generation").and_then(Value::as_i64);
        if cx.is_status() {
            keep_all_but_status(new, old);
            return set_generation(new, before);
        }
        if cx.has_status() {
            tree::keep(new, old, "status");
        }
        // without the subresource a status is as much the client's wish as everything else
        let counts = changed_besides_metadata(new, old);
        set_generation(new, if counts { Some(before.unwrap_or(0) + 1) } else { before });
    }
}

fn changed_besides_metadata(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new != old };
    let counts = |key: &str| key != "metadata";
    new.iter().any(|(key, value)| counts(key) && old.get(key) != Some(value))
        || old.keys().any(|key| counts(key) && !new.contains_key(key))
}

fn keep_all_but_status(new: &mut Value, old: &Value) {
    let mut kept = old.clone();
    let Some(map) = kept.as_object_mut() else { return };
    match new.get_mut("status") {
        Some(status) => map.insert("status".to_owned(), status.take()),
        None => map.remove("status"),
    };
    let (Some(kept_metadata), Some(metadata)) = (tree::map_mut(&mut kept, "metadata"), new.get_mut("metadata")) else {
        return;
    };
    for key in OF_EVERY_WRITE {
        match metadata.get_mut(key) {
            Some(value) => kept_metadata.insert(key.to_owned(), value.take()),
            None => kept_metadata.remove(key),
        };
    }
    *new = kept;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture;

    fn changed(subresource: Option<&'static str>, has_status: bool, new: &Value, old: &Value) -> Value {
        let mut resource = fixture::resource("test.dev", "widgets");
        resource.schema = String::new();
        if !has_status {
            resource.subresources.clear();
        }
        let mut new = new.clone();
        fixture::with(&resource, |strategy, cx| {
            strategy.prepare_update(&WriteContext { subresource, ..*cx }, &mut new, old);
        });
        new
    }

    #[test]
    fn a_status_write_changes_the_status_alone() {
        let old = json!({"metadata": {"name": "a", "generation": 3, "resourceVersion": "1"}, "spec": {"n": 1}});
        let new = json!({"metadata": {"name": "a", "labels": {"x": "y"}, "resourceVersion": "2"}, "spec": {"n": 2},
            "status": {"ready": true}});
        let expected = json!({"metadata": {"name": "a", "generation": 3, "resourceVersion": "2"}, "spec": {"n": 1},
            "status": {"ready": true}});
        assert_eq!(changed(Some("status"), true, &new, &old), expected);
    }

    #[test]
    fn the_generation_counts_what_the_client_wishes() {
        let old = json!({"metadata": {"name": "a", "generation": 3}, "spec": {"n": 1}, "status": {"m": 1}});
        let with = |key: &str| {
            let mut new = old.clone();
            new[key]["x"] = 1.into();
            new
        };
        let generation =
            |has_status: bool, key: &str| changed(None, has_status, &with(key), &old)["metadata"]["generation"].clone();
        assert_eq!(generation(true, "spec"), 4);
        assert_eq!(generation(true, "status"), 3);
        assert_eq!(generation(false, "status"), 4);
        assert_eq!(generation(false, "metadata"), 3);
    }
}
