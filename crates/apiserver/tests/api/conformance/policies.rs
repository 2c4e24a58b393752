//! ValidatingAdmissionPolicies and the match conditions of webhooks, as upstream's suite goes through them.

use serde_json::{Value, json};

use super::{DEFINITIONS, define};
use crate::{
    fixture::Fixture,
    webhook_server::{WebhookServer, allow, patch},
};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const SPACE: &str = "/apis/apps/v1/namespaces/marked";
const MAPS: &str = "/api/v1/namespaces/marked/configmaps";

/// A server with a namespace that policies and webhooks select.
async fn marked() -> Fixture {
    let fixture = Fixture::new().await;
    let namespace = json!({"metadata": {"name": "marked", "labels": {"marked": "true"}}});
    fixture.post("/api/v1/namespaces", &namespace).await.ok();
    fixture
}

fn policy(name: &str, resource: (&str, &str), variables: Value, validations: Value) -> Value {
    let (group, resource) = resource;
    let rule = json!({"operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource]});
    json!({"metadata": {"name": name}, "spec": {"variables": variables, "validations": validations, "matchConstraints": {
        "namespaceSelector": {"matchLabels": {"marked": "true"}}, "resourceRules": [rule]}}})
}

async fn bind(fixture: &Fixture, policy: &Value) {
    fixture.post(&format!("{GROUP}/validatingadmissionpolicies"), policy).await.ok();
    let binding = json!({"metadata": {"name": "binding.example.com"}, "spec": {
        "policyName": policy["metadata"]["name"], "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": {"marked": "true"}}}}});
    fixture.post(&format!("{GROUP}/validatingadmissionpolicybindings"), &binding).await.ok();
}

fn workload(name: &str, replicas: i64) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "nginx"}}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": "nginx"}}, "template": {"metadata": {"labels": {"app": "nginx"}},
        "spec": {"containers": [{"name": "nginx", "image": "nginx:latest"}]}}}})
}

#[tokio::test]
async fn deployments_are_validated_and_replica_sets_are_not() {
    let fixture = marked().await;
    // the message's expression cannot be evaluated (a string and a number are added): the expression is named instead
    let validations = json!([
        {"expression": "object.spec.replicas > 1", "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"},
        {"expression": "namespaceObject.metadata.name == 'marked'", "message": "another namespace"}]);
    bind(&fixture, &policy("policy.example.com", ("apps", "deployments"), json!([]), validations)).await;
    let (code, reason, message) =
        fixture.post(&format!("{SPACE}/deployments"), &workload("marker-deployment", 1)).await.failed();
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(message.ends_with("denied request: failed expression: object.spec.replicas > 1"), "{message}");
    fixture.post(&format!("{SPACE}/deployments"), &workload("replicated", 2)).await.ok();
    fixture.post(&format!("{SPACE}/replicasets"), &workload("non-replicated", 1)).await.ok();
    fixture.post("/apis/apps/v1/namespaces/default/deployments", &workload("elsewhere", 1)).await.ok();
}

#[tokio::test]
async fn expressions_refer_to_variables() {
    let fixture = marked().await;
    let variables = json!([{"name": "replicas", "expression": "object.spec.replicas"},
        {"name": "oddReplicas", "expression": "variables.replicas % 2 == 1"}]);
    let validations = json!([{"expression": "variables.replicas > 1"}, {"expression": "variables.oddReplicas"}]);
    bind(&fixture, &policy("policy.example.com", ("apps", "deployments"), variables, validations)).await;
    let refused = fixture.post(&format!("{SPACE}/deployments"), &workload("marker-deployment", 1)).await.failed();
    assert_eq!((refused.0, refused.1.as_str()), (422, "Invalid"));
    fixture.post(&format!("{SPACE}/deployments"), &workload("replicated", 3)).await.ok();
    fixture.post(&format!("{SPACE}/replicasets"), &workload("non-replicated", 1)).await.ok();
}

/// The warnings of a policy that was written: where, and what.
async fn warned(fixture: &Fixture, policy: &Value) -> Vec<(String, String)> {
    let made = fixture.post(&format!("{GROUP}/validatingadmissionpolicies"), policy).await.ok();
    let checked = &made["status"]["typeChecking"];
    assert!(checked.is_object(), "types were checked: {made}");
    let text = |warning: &Value, field: &str| warning[field].as_str().unwrap().to_owned();
    let warnings = checked["expressionWarnings"].as_array().cloned().unwrap_or_default();
    warnings.iter().map(|warning| (text(warning, "fieldRef"), text(warning, "warning"))).collect()
}

#[tokio::test]
async fn types_are_checked_of_kinds_and_of_definitions() {
    let fixture = marked().await;
    let right = json!([{"expression": "object.spec.replicas > 1"}]);
    let deployments = ("apps", "deployments");
    assert!(warned(&fixture, &policy("right", deployments, json!([]), right.clone())).await.is_empty());
    let wrong = json!([{"expression": "object.spec.replicas > '1'",
        "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"}]);
    let found = warned(&fixture, &policy("wrong", deployments, json!([]), wrong)).await;
    let expected = [
        ("spec.validations[0].expression", "found no matching overload for '_>_' applied to '(int, string)'"),
        ("spec.validations[0].messageExpression", "found no matching overload for '_+_' applied to '(string, int)'"),
    ];
    assert_eq!(found.len(), 2, "{found:?}");
    for ((place, text), (expected, part)) in found.iter().zip(expected) {
        assert!(place == expected && text.contains(part), "{place} {text}");
    }
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "cronSpec": {"type": "string"}, "image": {"type": "string"}, "replicas": {"type": "integer"}}}}});
    define(&fixture, json!({"schema": {"openAPIV3Schema": schema}})).await;
    let widgets = ("example.com", "widgets");
    assert!(warned(&fixture, &policy("right-custom", widgets, json!([]), right)).await.is_empty());
    let wrong = json!([{"expression": "object.spec.replicas > '1'"}, {"expression": "object.spec.maxRetries < 10"}]);
    let found = warned(&fixture, &policy("wrong-custom", widgets, json!([]), wrong)).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(
        (found[0].0.as_str(), found[1].0.as_str()),
        ("spec.validations[0].expression", "spec.validations[1].expression")
    );
    assert!(found[0].1.contains("found no matching overload for '_>_' applied to '(int, string)'"), "{found:?}");
    assert!(found[1].1.contains("undefined field 'maxRetries'"), "{found:?}");
    assert_eq!(fixture.get(&format!("{DEFINITIONS}/widgets.example.com")).await.status, 200);
}

fn configuration(server: &WebhookServer, path: &str, conditions: &Value) -> Value {
    json!({"metadata": {"name": "w"}, "webhooks": [{"name": "adding-configmap-data.k8s.io",
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        "clientConfig": server.client(path), "sideEffects": "None", "admissionReviewVersions": ["v1", "v1beta1"],
        "namespaceSelector": {"matchLabels": {"marked": "true"}}, "matchConditions": conditions}]})
}

#[tokio::test]
async fn match_conditions_of_webhooks_are_kept_changed_and_compiled() {
    let fixture = marked().await;
    let server = WebhookServer::new(|_, asked| allow(asked)).await;
    for kind in ["validating", "mutating"] {
        let path = format!("{GROUP}/{kind}webhookconfigurations");
        let first = json!({"name": "expression-1", "expression": "object.metadata.namespace == 'production'"});
        let second = json!({"name": "expression-2", "expression": "object.metadata.namespace == 'staging'"});
        fixture.post(&path, &configuration(&server, "/x", &json!([first]))).await.ok();
        let mut live = fixture.get(&format!("{path}/w")).await.ok();
        assert_eq!(live["webhooks"][0]["matchConditions"], json!([first]));
        live["webhooks"][0]["matchConditions"] = json!([first, second]);
        fixture.put(&format!("{path}/w"), &live).await.ok();
        let changed = fixture.get(&format!("{path}/w")).await.ok();
        assert_eq!(changed["webhooks"][0]["matchConditions"], json!([first, second]));
        fixture.delete(&format!("{path}/w")).await.ok();
        let bad = json!([{"name": "invalid-expression-1", "expression": "... [] bad expression"}]);
        let (code, _, message) = fixture.post(&path, &configuration(&server, "/x", &bad)).await.failed();
        assert_eq!(code, 422);
        assert!(message.contains("compilation failed"), "{message}");
    }
}

#[tokio::test]
async fn everything_is_mutated_but_what_a_match_condition_skips() {
    let fixture = marked().await;
    let server = WebhookServer::new(|_, asked| {
        patch(asked, &json!([{"op": "add", "path": "/data/mutation-stage-1", "value": "yes"}]))
    })
    .await;
    let skip = json!([{"name": "skip-me", "expression": "object.metadata.name != 'skip-me'"}]);
    let path = format!("{GROUP}/mutatingwebhookconfigurations");
    fixture.post(&path, &configuration(&server, "/mutating-configmaps", &skip)).await.ok();
    let make = async |name: &str| {
        let map = json!({"metadata": {"name": name}, "data": {"mutation-start": "yes"}});
        fixture.post(MAPS, &map).await.ok()["data"].clone()
    };
    assert_eq!(make("other").await, json!({"mutation-start": "yes", "mutation-stage-1": "yes"}));
    assert_eq!(make("skip-me").await, json!({"mutation-start": "yes"}));
}
