mod laws;

use serde_json::{Map, Value, json};

use super::*;
use crate::builtin;

const T0: &str = "2026-01-01T00:00:00Z";
const T1: &str = "2026-01-01T00:00:01Z";

fn schema(name: &str) -> Schema {
    builtin().get(name).unwrap()
}

fn deployment() -> Schema {
    schema("io.k8s.api.apps.v1.Deployment")
}

fn manager(name: &str, operation: Operation, time: &str) -> Manager {
    Manager {
        name: name.to_owned(),
        operation,
        api_version: "apps/v1".to_owned(),
        subresource: String::new(),
        time: time.to_owned(),
        reset: &["status"],
        only: &[],
    }
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": spec})
}

fn applied(live: Option<&Value>, spec: Value, name: &str, time: &str) -> Applied {
    apply(&deployment(), live, &object(spec), &manager(name, Operation::Apply, time), false).unwrap()
}

fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries.map(|entry| (entry["manager"].as_str().unwrap().to_owned(), entry["fieldsV1"].clone())).collect()
}

#[test]
fn creating_gives_upstreams_field_set() {
    let mut new = object(json!({
        "replicas": 1,
        "selector": {"matchLabels": {"app": "a"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
        "template": {
            "metadata": {"labels": {"app": "a"}},
            "spec": {
                "containers": [{"name": "c", "image": "i", "resources": {},
                    "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
                "nodeSelector": {"a": "b"},
            },
        },
    }));
    new["metadata"]["labels"] = json!({"app": "a"});
    new["status"] = json!({"replicas": 1});
    track_update(&deployment(), None, &mut new, &manager("kubectl-create", Operation::Update, T0)).unwrap();
    assert_eq!(
        new["metadata"]["managedFields"],
        json!([{
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1", "time": T0,
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:replicas": {},
                    "f:selector": {},
                    "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
                    "f:template": {
                        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                        "f:spec": {
                            "f:containers": {"k:{\"name\":\"c\"}": {
                                ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                                "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                                    ".": {}, "f:containerPort": {}, "f:protocol": {}}},
                            }},
                            "f:nodeSelector": {},
                        },
                    },
                },
            },
        }])
    );
}

#[test]
fn the_text_of_a_new_object_is_the_one_of_its_sets() {
    let port = |number: u8, protocol: &str| json!({"containerPort": number, "protocol": protocol});
    let mut new = object(json!({
        "replicas": 1, "selector": {}, "strategy": {},
        "template": {"spec": {"containers": [
            {"name": "b", "env": [{"name": "X"}, {"name": "X", "value": "2"}, {"value": "nameless"}], "command": []},
            {"name": "a", "ports": [port(9, "UDP"), port(80, "TCP"), port(9, "TCP")], "stdin": null},
        ]}},
    }));
    new["metadata"]["annotations"] = json!({"odd \"key\"\n": "x", "plain/key": ""});
    new["metadata"]["finalizers"] = json!(["b/c", "a/b", "b/c"]);
    let me = Manager { subresource: "scale".to_owned(), ..manager("me", Operation::Update, T0) };
    let text = String::from_utf8(of_new(&deployment(), &new, &me).unwrap()).unwrap();
    track_update(&deployment(), None, &mut new, &me).unwrap();
    assert_eq!(text, new["metadata"]["managedFields"].to_string());
    assert_eq!(of_new(&deployment(), &new, &me), None, "it says already");
    assert_eq!(of_new(&deployment(), &object(json!({})), &me), Some(Vec::new()), "nothing is owned");
    let little = Manager { only: &["spec.replicas"], ..me };
    assert_eq!(of_new(&deployment(), &object(json!({"replicas": 1})), &little), None);
}

#[test]
fn an_update_takes_what_it_changes_and_only_then_gets_a_new_time() {
    let mut first = object(json!({"replicas": 1, "paused": true, "minReadySeconds": 1}));
    track_update(&deployment(), None, &mut first, &manager("a", Operation::Update, T0)).unwrap();
    let mut same = first.clone();
    track_update(&deployment(), Some(&first), &mut same, &manager("b", Operation::Update, T1)).unwrap();
    assert_eq!(same, first);
    let mut second = first.clone();
    second["spec"] = json!({"replicas": 2, "paused": true});
    track_update(&deployment(), Some(&first), &mut second, &manager("b", Operation::Update, T1)).unwrap();
    assert_eq!(
        owners(&second),
        [
            ("a".to_owned(), json!({"f:spec": {"f:paused": {}}})),
            ("b".to_owned(), json!({"f:spec": {"f:replicas": {}}}))
        ]
    );
    assert_eq!(second["metadata"]["managedFields"][0]["time"], T0);
    assert_eq!(second["metadata"]["managedFields"][1]["time"], T1);
}

#[test]
fn a_status_write_owns_under_its_subresource() {
    let mut first = object(json!({"replicas": 1}));
    track_update(&deployment(), None, &mut first, &manager("a", Operation::Update, T0)).unwrap();
    let mut second = first.clone();
    second["status"] = json!({"conditions": [{"type": "Available", "status": "True"}]});
    let writer = Manager { subresource: "status".to_owned(), reset: &["spec"], ..manager("a", Operation::Update, T1) };
    track_update(&deployment(), Some(&first), &mut second, &writer).unwrap();
    let entry = &second["metadata"]["managedFields"][1];
    assert_eq!(entry["subresource"], "status");
    let condition = json!({".": {}, "f:status": {}, "f:type": {}});
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Available\"}": condition}}})
    );
}

#[test]
fn conflicts_name_the_manager_and_the_field() {
    let mut live = object(json!({"replicas": 1, "paused": true}));
    track_update(&deployment(), None, &mut live, &manager("kubectl-client-side-apply", Operation::Update, T0)).unwrap();
    let applier = manager("me", Operation::Apply, T1);
    let config = object(json!({"replicas": 2}));
    let error = apply(&deployment(), Some(&live), &config, &applier, false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let config = object(json!({"replicas": 2, "paused": false}));
    let error = apply(&deployment(), Some(&live), &config, &applier, false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.paused\n\
         - .spec.replicas"
    );
    let forced = apply(&deployment(), Some(&live), &config, &applier, true).unwrap().object;
    assert_eq!(owners(&forced), [("me".to_owned(), json!({"f:spec": {"f:paused": {}, "f:replicas": {}}}))]);
    // The same value is shared, not contested.
    let shared = apply(&deployment(), Some(&live), &object(json!({"replicas": 1})), &applier, false).unwrap().object;
    assert_eq!(owners(&shared).len(), 2);
}

#[test]
fn what_an_applier_drops_goes_unless_someone_else_owns_it() {
    let containers = |images: &[(&str, &str)]| {
        let containers: Vec<Value> = images.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
        json!({"template": {"spec": {"containers": containers}}})
    };
    let first = applied(None, containers(&[("a", "1"), ("b", "1")]), "me", T0);
    assert!(first.changed);
    let mut edited = first.object.clone();
    edited["spec"]["template"]["spec"]["containers"][1]["tty"] = json!(true);
    edited["spec"]["template"]["metadata"] = json!({"labels": {"x": "y"}});
    track_update(&deployment(), Some(&first.object), &mut edited, &manager("you", Operation::Update, T1)).unwrap();
    let second = applied(Some(&edited), containers(&[("a", "2")]), "me", T1).object;
    // Container b goes with "me", who put it there, also with what "you" set in it; what "you" made stays.
    assert_eq!(
        second["spec"]["template"],
        json!({"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "a", "image": "2"}]}})
    );
    assert_eq!(
        owners(&second)[1].1,
        json!({"f:spec": {"f:template": {"f:metadata": {"f:labels": {".": {}, "f:x": {}}}}}})
    );
}

#[test]
fn dropping_the_last_key_of_a_map_drops_the_map() {
    let labels = |labels: Value| json!({"template": {"metadata": {"labels": labels}}, "paused": true});
    let first = applied(None, labels(json!({"a": "1", "b": "2"})), "me", T0).object;
    let second = applied(Some(&first), labels(json!({"b": "2"})), "me", T1).object;
    assert_eq!(second["spec"]["template"]["metadata"]["labels"], json!({"b": "2"}));
    let third = applied(Some(&second), json!({"paused": true}), "me", T1).object;
    assert_eq!(third["spec"], json!({"paused": true}));
}

#[test]
fn dropping_all_metadata_keeps_what_names_the_object() {
    let mut labelled = object(json!({"paused": true}));
    labelled["metadata"]["annotations"] = json!({"a": "b"});
    let me = manager("me", Operation::Apply, T0);
    let mut first = apply(&deployment(), None, &labelled, &me, false).unwrap().object;
    first["metadata"]["uid"] = json!("u");
    let second = applied(Some(&first), json!({"paused": true}), "me", T1).object;
    let metadata = second["metadata"].as_object().unwrap();
    assert_eq!((&metadata["name"], &metadata["uid"]), (&json!("d"), &json!("u")));
    assert!(!metadata.contains_key("annotations"));
}

#[test]
fn applying_again_changes_nothing() {
    let spec = json!({"replicas": 3, "template": {"spec": {"containers": [{"name": "a", "image": "1"}]}}});
    let first = applied(None, spec.clone(), "me", T0);
    let second = applied(Some(&first.object), spec, "me", T1);
    assert!(!second.changed);
    assert_eq!(second.object, first.object);
}

#[test]
fn lists_merge_by_key_in_the_appliers_order() {
    let containers = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"template": {"spec": {"containers": containers}}})
    };
    let order = |object: &Value| -> Vec<String> {
        let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        containers.iter().map(|container| container["name"].as_str().unwrap().to_owned()).collect()
    };
    let live = applied(None, containers(&["a", "b", "c"]), "other", T0).object;
    assert_eq!(order(&applied(Some(&live), containers(&["x", "b"]), "me", T1).object), ["a", "x", "b", "c"]);
    assert_eq!(order(&applied(Some(&live), containers(&["c", "a"]), "me", T1).object), ["c", "a", "b"]);
}

#[test]
fn sets_and_atomic_values_merge_as_declared() {
    let config_map = schema("io.k8s.api.core.v1.ConfigMap");
    let meta = |meta: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta});
    let apply = |live: Option<&Value>, config: Value, name: &str| {
        apply(&config_map, live, &config, &manager(name, Operation::Apply, T0), false).unwrap().object
    };
    let one = apply(None, meta(json!({"finalizers": ["a"]})), "one");
    let two = apply(Some(&one), meta(json!({"finalizers": ["b"]})), "two");
    assert_eq!(two["metadata"]["finalizers"], json!(["a", "b"]));
    let three = apply(Some(&two), meta(json!({})), "one");
    assert_eq!(three["metadata"]["finalizers"], json!(["b"]));
}

#[test]
fn configurations_that_cannot_be_merged_are_refused() {
    let refused = |config: Value| {
        apply(&deployment(), None, &config, &manager("me", Operation::Apply, T0), false).unwrap_err().to_string()
    };
    let template = |containers: Value| object(json!({"template": {"spec": {"containers": containers}}}));
    assert_eq!(
        refused(template(json!([{"image": "x"}]))),
        ".spec.template.spec.containers: element 0: associative list with keys has an element that omits key field \
         \"name\" (and doesn't have default value)"
    );
    assert!(refused(template(json!([{"name": "x"}, {"name": "x"}]))).contains("duplicate entries for key"));
    let mut config = object(json!({}));
    config["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    assert_eq!(refused(config), "metadata.managedFields must be nil");
}

#[test]
fn clients_can_reset_and_cannot_lose_managed_fields() {
    let mut live = object(json!({"replicas": 1}));
    track_update(&deployment(), None, &mut live, &manager("a", Operation::Update, T0)).unwrap();
    let mut without = live.clone();
    without["metadata"].as_object_mut().unwrap().remove("managedFields");
    track_update(&deployment(), Some(&live), &mut without, &manager("b", Operation::Update, T1)).unwrap();
    assert_eq!(without, live);
    let mut reset = live.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    track_update(&deployment(), Some(&live), &mut reset, &manager("b", Operation::Update, T1)).unwrap();
    assert_eq!(owners(&reset), []);
}

#[test]
fn old_update_managers_are_folded_together() {
    let mut live = object(json!({"replicas": 0}));
    track_update(&deployment(), None, &mut live, &manager("m", Operation::Update, T0)).unwrap();
    for at in 0..30 {
        let mut next = live.clone();
        next["metadata"]["annotations"][format!("a{at}")] = json!("x");
        let time = format!("2026-01-01T00:00:{at:02}Z");
        track_update(&deployment(), Some(&live), &mut next, &manager(&format!("m{at}"), Operation::Update, &time))
            .unwrap();
        live = next;
    }
    let owners = owners(&live);
    assert_eq!(owners.len(), 10);
    assert!(owners.iter().any(|(name, _)| name == "ancient-changes"));
}

#[test]
fn nobody_is_tracked_in_an_object_whose_managers_were_forgotten() {
    let mut made = object(json!({"replicas": 1}));
    let writer = manager("a", Operation::Update, T0);
    track_update(&deployment(), None, &mut made, &writer).unwrap();
    for forget in [json!([]), json!([{}])] {
        let mut cleared = made.clone();
        cleared["metadata"]["managedFields"] = forget;
        cleared["spec"]["replicas"] = 2.into();
        track_update(&deployment(), Some(&made), &mut cleared, &writer).unwrap();
        assert!(owners(&cleared).is_empty());
        let mut changed = cleared.clone();
        changed["spec"]["replicas"] = 3.into();
        track_update(&deployment(), Some(&cleared), &mut changed, &writer).unwrap();
        assert!(owners(&changed).is_empty());
    }
}

#[test]
fn a_door_gives_only_what_it_lets_through() {
    let pod = schema("io.k8s.api.core.v1.Pod");
    let writer = Manager { reset: &["spec", "metadata.labels", "status.phase"], ..manager("a", Operation::Update, T0) };
    let full = json!({"metadata": {"name": "p", "labels": {"a": "b"}, "annotations": {"a": "b"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}}]},
        "status": {"phase": "Running", "reason": "r"}});
    let mut new = full.clone();
    track_update(&pod, None, &mut new, &writer).unwrap();
    let wanted = json!({"f:metadata": {"f:annotations": {".": {}, "f:a": {}}}, "f:status": {"f:reason": {}}});
    assert_eq!(owners(&new), [("a".to_owned(), wanted)]);
    let resizer = Manager { reset: &[], only: &["spec.containers.*.resources"], ..writer };
    let mut new = full;
    track_update(&pod, None, &mut new, &resizer).unwrap();
    let resources = json!({"f:resources": {".": {}, "f:limits": {".": {}, "f:cpu": {}}}});
    assert_eq!(owners(&new)[0].1["f:spec"], json!({"f:containers": {"k:{\"name\":\"c\"}": resources}}));
    assert_eq!(owners(&new)[0].1.as_object().map(Map::len), Some(1));
}
