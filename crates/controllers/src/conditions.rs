//! Conditions of a workload, which others may write too.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::{Value, json};

/// Adds the conditions to a merge patch of the status, if they have changed. A merge patch replaces the whole list: one that
/// was computed from an older state must be refused rather than take back what somebody else wrote meanwhile.
pub(crate) fn write<C: PartialEq + Serialize>(
    patch: &mut Value,
    meta: &ObjectMeta,
    before: Option<&Vec<C>>,
    now: Option<&Vec<C>>,
) {
    let list = |conditions: Option<&Vec<C>>| conditions.map_or(0, Vec::len);
    if before == now || list(before) + list(now) == 0 {
        return;
    }
    patch["metadata"]["resourceVersion"] = json!(meta.resource_version);
    patch["status"]["conditions"] = json!(now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_written_when_they_change_and_only_over_what_was_seen() {
        let meta = ObjectMeta { resource_version: Some("7".into()), ..ObjectMeta::default() };
        let patched = |before: Option<Vec<&str>>, now: Option<Vec<&str>>| {
            let mut patch = json!({"metadata": {"uid": "u"}, "status": {"replicas": 1}});
            write(&mut patch, &meta, before.as_ref(), now.as_ref());
            patch
        };
        let untouched = json!({"metadata": {"uid": "u"}, "status": {"replicas": 1}});
        assert_eq!(patched(Some(vec!["a"]), Some(vec!["a"])), untouched);
        assert_eq!(patched(None, Some(Vec::new())), untouched);
        let written = |conditions: Value| json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "status": {"replicas": 1, "conditions": conditions}});
        assert_eq!(patched(None, Some(vec!["a"])), written(json!(["a"])));
        assert_eq!(patched(Some(vec!["a"]), None), written(Value::Null), "what is absent must be named to be removed");
    }
}
