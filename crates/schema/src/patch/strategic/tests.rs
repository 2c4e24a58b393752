use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::builtin;

fn patched(kind: &str, mut target: Value, patch: Value) -> Result<Value, StrategicError> {
    strategic(&builtin().get(kind).unwrap(), &mut target, &patch).map(|()| target)
}

fn pod(target: Value, patch: Value) -> Value {
    let wrap = |spec: Value| json!({"spec": spec});
    patched("io.k8s.api.core.v1.Pod", wrap(target), wrap(patch)).unwrap()["spec"].take()
}

#[test]
fn lists_merge_by_their_key() {
    let cases = [
        (
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
            json!({"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "x", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        ),
        (
            json!({"containers": [{"name": "a", "image": "1"}]}),
            json!({"containers": [{"name": "a", "tty": true, "$patch": "replace"}]}),
            json!({"containers": [{"name": "a", "tty": true}]}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        ),
        (
            json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "X", "value": null}, {"name": "Y", "value": "2"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "X"}, {"name": "Y", "value": "2"}]}]}),
        ),
    ];
    for (target, patch, result) in cases {
        assert_eq!(pod(target, patch.clone()), result, "{patch}");
    }
}

#[test]
fn lists_without_a_strategy_are_replaced() {
    let target = json!({"containers": [{"name": "a", "args": ["1", "2"]}]});
    let patch = json!({"containers": [{"name": "a", "args": ["3"]}]});
    assert_eq!(pod(target, patch), json!({"containers": [{"name": "a", "args": ["3"]}]}));
}

#[test]
fn scalar_lists_merge_as_sets() {
    let meta = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    let merged =
        |patch: Value| patched("io.k8s.api.core.v1.Pod", meta(json!(["a", "b"])), json!({"metadata": patch})).unwrap();
    assert_eq!(merged(json!({"finalizers": ["b", "c"]})), meta(json!(["a", "b", "c"])));
    assert_eq!(merged(json!({"$deleteFromPrimitiveList/finalizers": ["a"]})), meta(json!(["b"])));
    let both = json!({"finalizers": ["c"], "$setElementOrder/finalizers": ["c", "b", "a"]});
    assert_eq!(merged(both), meta(json!(["c", "b", "a"])));
}

#[test]
fn element_order_is_set_and_strangers_stay_where_they_were() {
    let target = json!({"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]});
    let patch = json!({
        "$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
        "containers": [{"name": "new", "image": "1"}],
    });
    assert_eq!(
        pod(target, patch),
        json!({"containers": [{"name": "b"}, {"name": "new", "image": "1"}, {"name": "a"}, {"name": "server"}]})
    );
}

#[test]
fn retained_keys_drop_the_others() {
    let deployment = "io.k8s.api.apps.v1.Deployment";
    let strategy = |strategy: Value| json!({"spec": {"strategy": strategy}});
    let target = strategy(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}));
    let patch = strategy(json!({"$retainKeys": ["type"], "type": "Recreate"}));
    assert_eq!(patched(deployment, target, patch).unwrap(), strategy(json!({"type": "Recreate"})));
    let volumes = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
    let patch = json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]});
    assert_eq!(pod(volumes, patch), json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}));
}

#[test]
fn objects_are_replaced_and_deleted_on_request() {
    let target = json!({"securityContext": {"runAsUser": 1}, "nodeSelector": {"a": "b"}, "hostNetwork": true});
    let patch = json!({
        "securityContext": {"$patch": "replace", "runAsGroup": 2}, "nodeSelector": {"$patch": "delete"},
        "hostNetwork": null, "affinity": {"$patch": "merge", "podAffinity": {}},
    });
    assert_eq!(
        pod(target, patch),
        json!({"securityContext": {"runAsGroup": 2}, "nodeSelector": {}, "affinity": {"podAffinity": {}}})
    );
}

#[test]
fn fields_that_are_new_lose_their_directives() {
    let patch = json!({"containers": [{"name": "a", "$patch": "merge", "env": [{"name": "X", "$patch": "delete"}]}],
        "$setElementOrder/containers": [{"name": "a"}]});
    assert_eq!(pod(json!({}), patch), json!({"containers": [{"name": "a", "env": []}]}));
}

#[test]
fn malformed_patches_are_refused() {
    let refused = |patch: Value| {
        patched("io.k8s.api.core.v1.Pod", json!({"spec": {"containers": [{"name": "a"}]}}), json!({"spec": patch}))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(json!({"containers": [{"image": "x"}]})),
        "map: {\"image\":\"x\"} does not contain declared merge key: name"
    );
    assert_eq!(refused(json!({"$patch": "shred"})), "Unknown patch type: shred");
    assert!(refused(json!({"$retainKeys": 1})).contains("must be a list"));
}

proptest! {
    #[test]
    fn patching_twice_is_patching_once(
        names in proptest::collection::vec("[a-d]", 0..4),
        changes in proptest::collection::btree_map("[a-e]", (any::<bool>(), 0..3_u8), 0..4),
    ) {
        let target: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "0"})).collect();
        let patch: Vec<Value> = changes
            .iter()
            .map(|(name, (delete, image))| match delete {
                true => json!({"name": name, "$patch": "delete"}),
                false => json!({"name": name, "image": format!("{image}")}),
            })
            .collect();
        let once = pod(json!({"containers": target}), json!({"containers": patch}));
        let twice = pod(once.clone(), json!({"containers": patch}));
        prop_assert_eq!(once, twice);
    }
}
