//! CustomResourceDefinitions: from creation to the last object, and the Gateway API's real ones.

use std::path::Path;

use serde_json::{Value, json};

use crate::fixture::{APPLY, Fixture, Lines, MERGE};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/test.dev/v1/namespaces/default/widgets";

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"}}},
        "status": {"type": "object", "properties": {"size": {"type": "integer"}}}}});
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]})
    };
    json!({"metadata": {"name": "widgets.test.dev"}, "spec": {"group": "test.dev", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
        "versions": [version("v1", true), version("v1beta1", false)]}})
}

fn widget(name: &str, size: i64) -> Value {
    json!({"apiVersion": "test.dev/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": size}})
}

#[tokio::test]
async fn a_definition_serves_its_objects_with_schema_status_scale_and_columns() {
    let fixture = Fixture::new().await;
    let created = fixture.post(DEFINITIONS, &definition()).await.ok();
    let conditions = created["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True"));
    assert_eq!(fixture.get("/apis/test.dev/v1").await.ok()["resources"][0]["shortNames"], json!(["wd"]));
    let mut object = widget("a", 3);
    object["spec"]["unknown"] = 1.into();
    let stored = fixture.post(WIDGETS, &object).await.ok();
    assert_eq!(stored["spec"], json!({"size": 3, "color": "red"}));
    assert_eq!(stored["metadata"]["generation"], 1);
    let (code, _, message) = fixture.post(WIDGETS, &widget("b", 0)).await.failed();
    assert_eq!(code, 422);
    assert!(message.contains("spec.size") && message.starts_with("Widget.test.dev \"b\" is invalid"), "{message}");
    let path = format!("{WIDGETS}/a");
    fixture.patch(&format!("{path}/status"), MERGE, &json!({"status": {"size": 2}, "spec": {"size": 9}})).await.ok();
    let scale = fixture.get(&format!("{path}/scale")).await.ok();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(3), &json!(2)));
    fixture.patch(&format!("{path}/scale"), MERGE, &json!({"spec": {"replicas": 5}})).await.ok();
    let other = fixture.get("/apis/test.dev/v1beta1/namespaces/default/widgets/a").await.ok();
    assert_eq!((&other["apiVersion"], &other["spec"]["size"]), (&json!("test.dev/v1beta1"), &json!(5)));
    let applied = fixture.patch(&format!("{WIDGETS}/c?fieldManager=m"), APPLY, &widget("c", 1)).await;
    assert_eq!(applied.status, 201);
    let strategic = fixture.patch(&path, "application/strategic-merge-patch+json", &json!({})).await;
    assert_eq!(strategic.failed().0, 415);
}

#[tokio::test]
async fn deleting_a_definition_takes_its_objects_along() {
    let fixture = Fixture::new().await;
    fixture.post(DEFINITIONS, &definition()).await.ok();
    for i in 0..20 {
        fixture.post(WIDGETS, &widget(&format!("w{i}"), 1)).await.ok();
    }
    let mut held = widget("held", 1);
    held["metadata"]["finalizers"] = json!(["test.dev/hold"]);
    fixture.post(WIDGETS, &held).await.ok();
    let mut watch = Lines::open(&fixture, &format!("{WIDGETS}?watch=1&fieldSelector=metadata.name%3Dw7")).await;
    assert_eq!(watch.named().await.0, "ADDED");
    let path = format!("{DEFINITIONS}/widgets.test.dev");
    fixture.delete(&path).await.ok();
    assert_eq!(watch.named().await.0, "DELETED");
    assert_eq!(fixture.get(WIDGETS).await.ok()["items"].as_array().unwrap().len(), 1);
    assert_eq!(fixture.post(WIDGETS, &widget("late", 1)).await.failed().0, 405);
    fixture.patch(&format!("{WIDGETS}/held"), MERGE, &json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(fixture.get(&path).await.failed().0, 404);
    assert_eq!(fixture.get(WIDGETS).await.failed().0, 404);
}

#[tokio::test]
async fn a_short_name_in_use_keeps_a_definition_from_being_served() {
    let fixture = Fixture::new().await;
    fixture.post(DEFINITIONS, &definition()).await.ok();
    let mut second = definition();
    second["metadata"]["name"] = "gadgets.test.dev".into();
    second["spec"]["names"] = json!({"plural": "gadgets", "kind": "Gadget", "shortNames": ["wd"]});
    let created = fixture.post(DEFINITIONS, &second).await.ok();
    let names = created["status"]["conditions"].as_array().unwrap();
    assert!(names.iter().any(|c| c["type"] == "NamesAccepted" && c["status"] == "False"));
    assert_eq!(fixture.get("/apis/test.dev/v1/gadgets").await.failed().0, 404);
}

#[tokio::test]
async fn a_schema_that_does_not_compile_is_refused() {
    let fixture = Fixture::new().await;
    let mut broken = definition();
    let schema = &mut broken["spec"]["versions"][1]["schema"]["openAPIV3Schema"];
    schema["properties"]["spec"]["properties"]["color"]["pattern"] = "(".into();
    let (code, _, message) = fixture.post(DEFINITIONS, &broken).await.failed();
    assert_eq!(code, 422);
    assert!(message.contains("spec.versions[1].schema.openAPIV3Schema"), "{message}");
}

#[tokio::test]
async fn a_definition_that_breaks_rules_is_refused_with_every_reason() {
    let fixture = Fixture::new().await;
    let mut broken = definition();
    broken["spec"]["names"]["shortNames"] = json!(["Wd"]);
    broken["spec"]["versions"][0]["storage"] = false.into();
    broken["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["color"] =
        json!({"type": "string", "default": 1});
    broken["spec"]["versions"][1]["selectableFields"] = json!([{"jsonPath": ".spec.none"}]);
    broken["spec"]["conversion"] = json!({"strategy": "Webhook"});
    let answer = fixture.post(DEFINITIONS, &broken).await;
    let causes: Vec<String> = answer.body["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| format!("{}: {}", cause["field"].as_str().unwrap(), cause["message"].as_str().unwrap()))
        .collect();
    for wanted in [
        "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[color].default: Invalid value: \"integer\":  in body must be of type string: \"integer\"",
        "spec.versions: Invalid value: [\"v1\",\"v1beta1\"]: must have exactly one version marked as storage version",
        "spec.versions[1].selectableFields[0].jsonPath: Invalid value: \".spec.none\": is an invalid path: does not refer to a valid field",
        "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
        "spec.conversion.conversionReviewVersions: Required value",
        "status.storedVersions: Invalid value: []: must have at least one stored version",
    ] {
        assert!(causes.iter().any(|cause| cause == wanted), "{wanted}\n{causes:#?}");
    }
    assert!(causes.iter().any(|cause| cause.starts_with("spec.names.shortNames[0]: Invalid value: \"Wd\"")));
}

#[tokio::test]
async fn a_group_of_the_project_needs_its_approval() {
    let fixture = Fixture::new().await;
    let mut protected = definition();
    protected["metadata"]["name"] = "widgets.test.k8s.io".into();
    protected["spec"]["group"] = "test.k8s.io".into();
    let (code, _, message) = fixture.post(DEFINITIONS, &protected).await.failed();
    assert_eq!(code, 422);
    assert!(
        message.contains("metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must")
    );
    protected["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "unapproved, for a test"});
    let created = fixture.post(DEFINITIONS, &protected).await.ok();
    let conditions = created["status"]["conditions"].as_array().unwrap();
    let approval = conditions.iter().find(|c| c["type"] == "KubernetesAPIApprovalPolicyConformant").unwrap();
    assert_eq!((&approval["status"], &approval["reason"]), (&json!("False"), &json!("UnapprovedAnnotation")));
}

#[tokio::test]
async fn the_status_of_a_definition_can_be_written() {
    let fixture = Fixture::new().await;
    fixture.post(DEFINITIONS, &definition()).await.ok();
    let path = format!("{DEFINITIONS}/widgets.test.dev/status");
    let mut object = fixture.get(&path).await.ok();
    object["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from a test"}));
    object["metadata"]["labels"] = json!({"ignored": "yes"});
    let updated = fixture.put(&path, &object).await.ok();
    assert!(updated["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "StatusUpdate"));
    assert!(updated["metadata"]["labels"].is_null());
    let patch = json!({"status": {"storedVersions": ["v1", "v1beta1"]}});
    let patched = fixture.patch(&path, MERGE, &patch).await.ok();
    assert_eq!(patched["status"]["storedVersions"], json!(["v1", "v1beta1"]));
    let mut shrunk = fixture.get(&format!("{DEFINITIONS}/widgets.test.dev")).await.ok();
    shrunk["spec"]["versions"].as_array_mut().unwrap().pop();
    let (code, _, message) = fixture.put(&format!("{DEFINITIONS}/widgets.test.dev"), &shrunk).await.failed();
    assert_eq!(code, 422);
    assert!(message.contains("status.storedVersions[1]: Invalid value: \"v1beta1\": missing from spec.versions"));
}

#[tokio::test]
async fn a_name_that_becomes_free_goes_to_whom_it_was_denied() {
    let fixture = Fixture::new().await;
    fixture.post(DEFINITIONS, &definition()).await.ok();
    let mut second = definition();
    second["metadata"]["name"] = "gadgets.test.dev".into();
    second["spec"]["names"] = json!({"plural": "gadgets", "kind": "Gadget", "shortNames": ["wd"]});
    fixture.post(DEFINITIONS, &second).await.ok();
    assert_eq!(fixture.get("/apis/test.dev/v1/gadgets").await.failed().0, 404);
    fixture.delete(&format!("{DEFINITIONS}/widgets.test.dev")).await.ok();
    fixture.get("/apis/test.dev/v1/gadgets").await.ok();
}

#[tokio::test]
async fn a_stricter_schema_does_not_lock_objects_that_were_valid() {
    let fixture = Fixture::new().await;
    let mut object = definition();
    fixture.post(DEFINITIONS, &object).await.ok();
    let mut stored = widget("a", 1);
    stored["spec"]["color"] = "violet".into();
    fixture.post(WIDGETS, &stored).await.ok();
    for version in [0, 1] {
        let schema = &mut object["spec"]["versions"][version]["schema"]["openAPIV3Schema"];
        schema["properties"]["spec"]["properties"]["color"]["maxLength"] = 3.into();
        schema["properties"]["spec"]["properties"]["shape"] = json!({"type": "string", "default": "round"});
    }
    let path = format!("{DEFINITIONS}/widgets.test.dev?fieldManager=m&force=true");
    object["apiVersion"] = "apiextensions.k8s.io/v1".into();
    object["kind"] = "CustomResourceDefinition".into();
    fixture.patch(&path, APPLY, &object).await.ok();
    let read = fixture.get(&format!("{WIDGETS}/a")).await.ok();
    assert_eq!(read["spec"], json!({"size": 1, "color": "violet", "shape": "round"}));
    assert_eq!(fixture.get(WIDGETS).await.ok()["items"][0]["spec"]["shape"], "round");
    let patched = fixture.patch(&format!("{WIDGETS}/a"), MERGE, &json!({"spec": {"size": 2}})).await.ok();
    assert_eq!(patched["spec"]["size"], 2);
    let refused = fixture.patch(&format!("{WIDGETS}/a"), MERGE, &json!({"spec": {"color": "indigo"}})).await;
    let (code, _, message) = refused.failed();
    assert_eq!(code, 422);
    assert!(message.ends_with("spec.color: Too long: may not be more than 3 bytes"), "{message}");
}

#[tokio::test]
async fn an_object_written_in_another_version_has_the_defaults_of_the_stored_one() {
    let fixture = Fixture::new().await;
    let mut object = definition();
    for (version, field) in [(0, "shape"), (1, "weight")] {
        let schema = &mut object["spec"]["versions"][version]["schema"]["openAPIV3Schema"];
        let spec = &mut schema["properties"]["spec"]["properties"];
        spec["shape"] = json!({"type": "string"});
        spec["weight"] = json!({"type": "string"});
        spec[field]["default"] = "some".into();
    }
    fixture.post(DEFINITIONS, &object).await.ok();
    let mut other = widget("a", 1);
    other["apiVersion"] = "test.dev/v1beta1".into();
    fixture.post("/apis/test.dev/v1beta1/namespaces/default/widgets", &other).await.ok();
    let stored = fixture.get(&format!("{WIDGETS}/a")).await.ok();
    assert_eq!(stored["spec"], json!({"size": 1, "color": "red", "shape": "some", "weight": "some"}));
}

#[tokio::test]
async fn objects_are_listed_and_watched_by_selectable_fields() {
    let fixture = Fixture::new().await;
    let mut object = definition();
    object["spec"]["versions"][0]["selectableFields"] =
        json!([{"jsonPath": ".spec.color"}, {"jsonPath": ".spec.size"}]);
    fixture.post(DEFINITIONS, &object).await.ok();
    let mut blue = widget("blue", 1);
    blue["spec"]["color"] = "blue".into();
    fixture.post(WIDGETS, &blue).await.ok();
    fixture.post(WIDGETS, &widget("red", 2)).await.ok();
    let named = |list: Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(named(fixture.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dblue")).await.ok()), ["blue"]);
    assert_eq!(named(fixture.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D2")).await.ok()), ["red"]);
    let unknown = fixture.get(&format!("{WIDGETS}?fieldSelector=spec.other%3D2")).await.failed();
    assert_eq!(unknown.0, 400);
    assert!(unknown.2.ends_with("field label not supported: spec.other"), "{}", unknown.2);
    let mut watch = Lines::open(&fixture, &format!("{WIDGETS}?watch=1&fieldSelector=spec.color%3Dblue")).await;
    assert_eq!(watch.named().await, ("ADDED".into(), "blue".into()));
    fixture.patch(&format!("{WIDGETS}/red"), MERGE, &json!({"spec": {"color": "blue"}})).await.ok();
    assert_eq!(watch.named().await, ("ADDED".into(), "red".into()));
    fixture.patch(&format!("{WIDGETS}/blue"), MERGE, &json!({"spec": {"color": "green"}})).await.ok();
    assert_eq!(watch.named().await, ("DELETED".into(), "blue".into()));
}

#[tokio::test]
async fn unknown_fields_of_custom_resources_are_refused_when_asked_strictly() {
    let fixture = Fixture::new().await;
    fixture.post(DEFINITIONS, &definition()).await.ok();
    let mut object = widget("a", 1);
    object["spec"]["odd"] = 1.into();
    let (code, reason, message) = fixture.post(&format!("{WIDGETS}?fieldValidation=Strict"), &object).await.failed();
    assert_eq!((code, reason.as_str()), (400, "BadRequest"));
    assert!(message.ends_with("strict decoding error: unknown field \"spec.odd\""), "{message}");
    let warned = fixture.post(&format!("{WIDGETS}?fieldValidation=Warn"), &object).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"spec.odd\\\"\"");
}

#[tokio::test]
async fn users_of_a_deprecated_version_are_told() {
    let fixture = Fixture::new().await;
    let mut object = definition();
    object["spec"]["versions"][1]["deprecated"] = true.into();
    fixture.post(DEFINITIONS, &object).await.ok();
    let answer = fixture.get("/apis/test.dev/v1beta1/widgets").await;
    assert_eq!(answer.headers["warning"], "299 - \"test.dev/v1beta1 Widget is deprecated\"");
    assert!(!fixture.get(WIDGETS).await.headers.contains_key("warning"));
}

#[tokio::test]
async fn embedded_resources_need_metadata_of_the_right_form() {
    let fixture = Fixture::new().await;
    let mut object = definition();
    let template = json!({"type": "object", "x-kubernetes-embedded-resource": true,
        "x-kubernetes-preserve-unknown-fields": true});
    for version in [0, 1] {
        object["spec"]["versions"][version]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["template"] =
            template.clone();
    }
    fixture.post(DEFINITIONS, &object).await.ok();
    let mut broken = widget("a", 1);
    broken["spec"]["template"] = json!({"kind": "1x", "metadata": {"name": "a/b", "labels": {"x": "-"}}});
    let (code, _, message) = fixture.post(WIDGETS, &broken).await.failed();
    assert_eq!(code, 422);
    for part in [
        "spec.template.apiVersion: Required value: must not be empty",
        "spec.template.kind: Invalid value: \"1x\": may have mixed case",
        "spec.template.metadata.name: Invalid value: \"a/b\": may not contain '/'",
        "spec.template.metadata.labels: Invalid value: \"-\": a valid label",
    ] {
        assert!(message.contains(part), "{part}\n{message}");
    }
}

/// How many rules a document declares.
fn declared_rules(document: &Value) -> usize {
    match document {
        Value::Object(map) => {
            let own = map.get("x-kubernetes-validations").and_then(Value::as_array).map_or(0, Vec::len);
            own + map
                .iter()
                .filter(|(key, _)| *key != "x-kubernetes-validations")
                .map(|(_, v)| declared_rules(v))
                .sum::<usize>()
        }
        Value::Array(items) => items.iter().map(declared_rules).sum(),
        _ => 0,
    }
}

#[tokio::test]
async fn rules_of_a_definition_judge_its_objects() {
    let fixture = Fixture::new().await;
    let mut object = definition();
    for version in [0, 1] {
        let spec = &mut object["spec"]["versions"][version]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["x-kubernetes-validations"] = json!([
            {"rule": "self.color != 'red' || self.size < 10", "message": "red ones are small"},
            {"rule": "self.size >= oldSelf.size", "messageExpression": "'from %d to %d'.format([oldSelf.size, self.size])",
                "fieldPath": ".size", "reason": "FieldValueForbidden"}]);
    }
    fixture.post(DEFINITIONS, &object).await.ok();
    let (code, _, message) = fixture.post(WIDGETS, &widget("a", 11)).await.failed();
    assert_eq!(
        (code, message.as_str()),
        (422, "Widget.test.dev \"a\" is invalid: spec: Invalid value: \"object\": red ones are small")
    );
    fixture.post(WIDGETS, &widget("a", 5)).await.ok();
    let shrunk = fixture.patch(&format!("{WIDGETS}/a"), MERGE, &json!({"spec": {"size": 4}})).await.failed();
    assert_eq!(shrunk.2, "Widget.test.dev \"a\" is invalid: spec.size: Forbidden: from 5 to 4");
    let odd = json!({"apiVersion": "test.dev/v1", "kind": "Widget", "metadata": {"name": "b"}, "spec": {}});
    let message = fixture.post(WIDGETS, &odd).await.failed().2;
    assert!(message.contains("<nil>: Invalid value: \"null\": some validation rules were not checked"), "{message}");
    object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "self.weight > 1"}]);
    let (_, _, message) =
        fixture.put(&format!("{DEFINITIONS}/widgets.test.dev"), &with_version(&fixture, object).await).await.failed();
    assert!(message.contains("x-kubernetes-validations[0].rule: Invalid value: "), "{message}");
    assert!(message.contains("compilation failed: ERROR: <input>:1:5: undefined field 'weight'"), "{message}");
}

/// The definition with the revision it has now.
async fn with_version(fixture: &Fixture, mut object: Value) -> Value {
    let stored = fixture.get(&format!("{DEFINITIONS}/widgets.test.dev")).await.ok();
    object["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
    object
}

#[tokio::test]
async fn a_stricter_rule_warns_of_what_did_not_change() {
    let fixture = Fixture::new().await;
    let mut object = definition();
    fixture.post(DEFINITIONS, &object).await.ok();
    fixture.post(WIDGETS, &widget("a", 5)).await.ok();
    for version in [0, 1] {
        let spec = &mut object["spec"]["versions"][version]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["x-kubernetes-validations"] = json!([{"rule": "self.size > 9"}]);
    }
    fixture.put(&format!("{DEFINITIONS}/widgets.test.dev"), &with_version(&fixture, object).await).await.ok();
    let labelled = fixture.patch(&format!("{WIDGETS}/a"), MERGE, &json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!(labelled.status, 200);
    let warning = labelled.headers["warning"].to_str().unwrap();
    assert!(warning.contains("failed rule: self.size > 9"), "{warning}");
    let changed = fixture.patch(&format!("{WIDGETS}/a"), MERGE, &json!({"spec": {"size": 6}})).await.failed();
    assert!(changed.2.ends_with("spec: Invalid value: \"object\": failed rule: self.size > 9"), "{}", changed.2);
}

#[tokio::test]
async fn real_definitions_are_established_fast() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/crds");
    let Ok(projects) = std::fs::read_dir(&directory) else {
        println!("skipped: {} is not there", directory.display());
        return;
    };
    let fixture = Fixture::new().await;
    let (mut count, mut rules, mut slowest) = (0, 0, (std::time::Duration::ZERO, String::new()));
    let files = projects.filter_map(|project| std::fs::read_dir(project.unwrap().path()).ok()).flatten();
    for file in files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "yaml")) {
        for document in std::fs::read_to_string(&file).unwrap().split("\n---") {
            let Ok((object, _)) = schema::yaml::parse(document.as_bytes()) else { continue };
            if object["kind"] != "CustomResourceDefinition" {
                continue;
            }
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let started = std::time::Instant::now();
            let answer = fixture.patch(&format!("{DEFINITIONS}/{name}?fieldManager=test"), APPLY, &object).await;
            slowest = slowest.max((started.elapsed(), name.clone()));
            assert!(answer.status.is_success(), "{name}: {}", answer.body["message"]);
            let conditions = answer.body["status"]["conditions"].as_array().unwrap();
            assert!(conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True"), "{name}");
            for version in object["spec"]["versions"].as_array().unwrap() {
                let document = &version["schema"]["openAPIV3Schema"];
                let compiled = schema::expressions::compile(document).map_or(0, |rules| rules.count());
                assert_eq!(compiled, declared_rules(document), "rules of {name}");
                rules += compiled;
            }
            count += 1;
        }
    }
    println!("{count} definitions, the slowest {} in {:?}; {rules} rules compile", slowest.1, slowest.0);
    assert!(count >= 4, "{count} definitions in {}", directory.display());
    let class = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "k"},
        "spec": {"controllerName": "keelson.dev/gateway"}});
    fixture.post("/apis/gateway.networking.k8s.io/v1/gatewayclasses", &class).await.ok();
}
