use serde_json::json;

use super::*;
use crate::types::builtin;

fn messages(kind: &str, object: &mut Value) -> Vec<String> {
    prune(&builtin().get(kind).unwrap(), object).iter().map(ToString::to_string).collect()
}

const POD: &str = "io.k8s.api.core.v1.Pod";
const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";

#[test]
fn unknown_fields_are_removed_and_named() {
    let mut object = json!({"spec": {"template": {"spec": {"bar": 1, "containers": [{"name": "a", "foo": {}}]}}}});
    let found = messages(DEPLOYMENT, &mut object);
    assert_eq!(
        found,
        ["unknown field \"spec.template.spec.bar\"", "unknown field \"spec.template.spec.containers[0].foo\""]
    );
    assert_eq!(object, json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}}));
}

#[test]
fn wrong_types_are_named_as_go_names_them() {
    let cases = [
        (
            DEPLOYMENT,
            json!({"spec": {"replicas": "x"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            POD,
            json!({"spec": {"containers": {}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            POD,
            json!({"spec": {"containers": [{"name": true}]}}),
            "json: cannot unmarshal bool into Go struct field Container.spec.containers.name of type string",
        ),
        (
            POD,
            json!({"spec": {"priority": 3_000_000_000_u64}}),
            "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            POD,
            json!({"metadata": {"labels": {"a": []}}}),
            "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            POD,
            json!({"metadata": {"annotations": {"a": 1}}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.annotations of type string",
        ),
        (POD, json!([]), "json: cannot unmarshal array into Go value of type v1.Pod"),
    ];
    for (kind, mut object, message) in cases {
        assert_eq!(messages(kind, &mut object), [message]);
    }
}

#[test]
fn contents_are_checked() {
    let secret = "io.k8s.api.core.v1.Secret";
    assert_eq!(messages(secret, &mut json!({"data": {"a": "x?=="}})), ["illegal base64 data at input byte 1"]);
    assert_eq!(messages(secret, &mut json!({"data": {"a": "eHg"}})), ["illegal base64 data at input byte 3"]);
    assert!(messages(secret, &mut json!({"data": {"a": "eHg=", "b": "", "c": "eA==", "d": "eHh4"}})).is_empty());
    let time = messages(POD, &mut json!({"metadata": {"deletionTimestamp": "yesterday"}}));
    assert!(time[0].starts_with("parsing time \"yesterday\" as"), "{time:?}");
    let quantity = messages(POD, &mut json!({"spec": {"overhead": {"cpu": "lots"}}}));
    assert!(quantity[0].starts_with("quantities must match"), "{quantity:?}");
}

#[test]
fn values_take_the_form_that_go_writes() {
    let mut object = json!({
        "metadata": {"creationTimestamp": null, "deletionTimestamp": "2024-01-01T02:00:00+02:00", "labels": {"a": null}},
        "spec": {"overhead": {"cpu": 0.5, "memory": "1024Mi"}, "containers": [null]},
    });
    assert!(messages(POD, &mut object).is_empty());
    assert_eq!(
        object,
        json!({
            "metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z", "labels": {"a": ""}},
            "spec": {"overhead": {"cpu": "500m", "memory": "1Gi"}, "containers": [{}]},
        })
    );
}

#[test]
fn custom_resources_are_pruned_without_type_checks() {
    let schema = Schema::from_crd(Some(&json!({
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "integer"},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true},
        }}},
    })))
    .unwrap();
    let mut object = json!({
        "apiVersion": "x/v1", "kind": "X", "metadata": {"name": "n", "bogus": 1},
        "spec": {"a": "text", "b": 1, "free": {"x": {"y": null}}, "template": {"kind": "K", "spec": {}}},
    });
    let found: Vec<String> = prune(&schema, &mut object).iter().map(ToString::to_string).collect();
    let unknown = |path: &str| format!("unknown field \"{path}\"");
    assert_eq!(found, [unknown("metadata.bogus"), unknown("spec.b"), unknown("spec.template.spec")]);
    assert_eq!(object["spec"], json!({"a": "text", "free": {"x": {"y": null}}, "template": {"kind": "K"}}));
}

#[test]
fn published_definitions_build_and_keep_their_own_objects() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/crds");
    let Ok(projects) = std::fs::read_dir(folder) else {
        println!("skipped: no definitions at {folder}");
        return;
    };
    let definition =
        builtin().get("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition").unwrap();
    let mut built = 0;
    let files = projects.flat_map(|project| std::fs::read_dir(project.unwrap().path()).unwrap());
    for path in files.map(|file| file.unwrap().path()) {
        let text = std::fs::read_to_string(&path).unwrap();
        for document in text.split("\n---").filter(|document| document.contains("kind: CustomResourceDefinition")) {
            let (mut crd, duplicates) = crate::yaml::parse(document.as_bytes()).unwrap();
            assert_eq!(duplicates, [], "{}", path.display());
            assert_eq!(prune(&definition, &mut crd), [], "{}", path.display());
            for version in crd["spec"]["versions"].as_array().unwrap() {
                Schema::from_crd(version["schema"].get("openAPIV3Schema"))
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                built += 1;
            }
        }
    }
    assert!(built > 40, "only {built} schemas found");
}

#[test]
fn fixtures_lose_nothing() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/kubernetes-api-fixtures");
    let Ok(entries) = std::fs::read_dir(folder) else {
        println!("skipped: no fixtures at {folder}");
        return;
    };
    let mut checked = 0;
    for entry in entries {
        let path = entry.unwrap().path();
        // What an older version makes of a newer object is another version's type.
        if !path.to_string_lossy().ends_with(".json") || path.to_string_lossy().contains(".after_roundtrip.") {
            continue;
        }
        let object: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let of_kind = |row: &&std::sync::Arc<kinds::Resource>| {
            object["apiVersion"] == row.api_version() && object["kind"] == row.kind
        };
        let Some(row) = kinds::builtin().iter().find(of_kind) else { continue };
        let mut pruned = object.clone();
        let yaml = std::fs::read(path.with_extension("yaml")).unwrap();
        assert_eq!(crate::yaml::parse(&yaml).unwrap(), (object.clone(), Vec::new()), "{}", path.display());
        let problems = prune(&builtin().get(&row.schema).unwrap(), &mut pruned);
        assert_eq!(problems, [], "{}", path.display());
        assert_eq!(pruned, object, "{}", path.display());
        checked += 1;
    }
    assert!(checked > 60, "only {checked} fixtures matched a served kind");
}
