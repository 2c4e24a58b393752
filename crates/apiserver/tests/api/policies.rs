//! ValidatingAdmissionPolicies with their bindings, as clients meet them.

use apiserver::User;
use http::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, JSON, MERGE, request, send};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn policy(name: &str, resource: (&str, &str), spec: &Value) -> Value {
    let (group, resource) = resource;
    let mut object = json!({"metadata": {"name": name}, "spec": {"matchConstraints": {"resourceRules": [
        {"operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource]}]}}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    object
}

fn binding(policy: &str, actions: &[&str]) -> Value {
    json!({"metadata": {"name": format!("{policy}-binding")}, "spec": {"policyName": policy, "validationActions": actions}})
}

async fn install(fixture: &Fixture, policy: &Value, binding: &Value) {
    fixture.post(&format!("{GROUP}/validatingadmissionpolicies"), policy).await.ok();
    fixture.post(&format!("{GROUP}/validatingadmissionpolicybindings"), binding).await.ok();
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn map(name: &str, labels: &Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}, "data": {"a": "1"}})
}

#[tokio::test]
async fn a_deployment_is_judged_by_an_expression_with_a_message_of_its_own() {
    let fixture = Fixture::new().await;
    let spec = json!({"validations": [{"expression": "object.spec.replicas > 1",
        "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)"}]});
    install(&fixture, &policy("p", ("apps", "deployments"), &spec), &binding("p", &["Deny"])).await;
    fixture.post(DEPLOYMENTS, &deployment("two", 2)).await.ok();
    let answer = fixture.post(DEPLOYMENTS, &deployment("one", 1)).await;
    let cause = answer.body["details"]["causes"][0]["message"].clone();
    let (code, reason, message) = answer.failed();
    let denied = "ValidatingAdmissionPolicy 'p' with binding 'p-binding' denied request: wants replicas > 1, got 1";
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert_eq!(message, format!("deployments.apps \"one\" is forbidden: {denied}"));
    assert_eq!(cause, denied);
    // what does not match is not judged, and what was changed is judged anew
    fixture.post(MAPS, &map("m", &json!({}))).await.ok();
    let change = json!({"spec": {"replicas": 1}});
    assert_eq!(fixture.patch(&format!("{DEPLOYMENTS}/two"), MERGE, &change).await.failed().0, 422);
    fixture.delete(&format!("{GROUP}/validatingadmissionpolicybindings/p-binding")).await.ok();
    fixture.post(DEPLOYMENTS, &deployment("one", 1)).await.ok();
}

#[tokio::test]
async fn expressions_use_variables_that_build_on_each_other() {
    let fixture = Fixture::new().await;
    let spec = json!({
        "variables": [
            {"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "oddReplicas", "expression": "variables.replicas % 2 == 1"},
            {"name": "never", "expression": "1 / 0"}],
        "validations": [
            {"expression": "variables.replicas > 1", "reason": "Forbidden"},
            {"expression": "variables.oddReplicas", "messageExpression": "'not odd: ' + string(variables.replicas)"}]});
    install(&fixture, &policy("p", ("apps", "deployments"), &spec), &binding("p", &["Deny"])).await;
    fixture.post(DEPLOYMENTS, &deployment("three", 3)).await.ok();
    let (code, reason, message) = fixture.post(DEPLOYMENTS, &deployment("one", 1)).await.failed();
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert!(message.ends_with("denied request: failed expression: variables.replicas > 1"), "{message}");
    let (code, _, message) = fixture.post(DEPLOYMENTS, &deployment("four", 4)).await.failed();
    assert_eq!(code, 422);
    assert!(message.ends_with("denied request: not odd: 4"), "{message}");
}

#[tokio::test]
async fn warnings_go_to_the_client_and_failures_follow_the_failure_policy() {
    let fixture = Fixture::new().await;
    let spec =
        json!({"validations": [{"expression": "has(object.metadata.labels.team)", "message": "name your team"}]});
    install(&fixture, &policy("p", ("", "configmaps"), &spec), &binding("p", &["Warn", "Audit"])).await;
    let answer = fixture.post(MAPS, &map("m", &json!({"x": "y"}))).await;
    let warning = answer.headers["warning"].to_str().unwrap().to_owned();
    answer.ok();
    let said = "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'p-binding': name your team";
    assert_eq!(warning, format!("299 - \"{said}\""));
    let broken = json!({"validations": [{"expression": "object.data.none == 'x'"}]});
    install(&fixture, &policy("q", ("", "configmaps"), &broken), &binding("q", &["Deny"])).await;
    let (code, _, message) = fixture.post(MAPS, &map("n", &json!({"team": "a"}))).await.failed();
    assert_eq!(code, 422);
    let why = "denied request: expression 'object.data.none == 'x'' resulted in error: no such key: none";
    assert!(message.ends_with(why), "{message}");
    let open = json!({"spec": {"failurePolicy": "Ignore"}});
    fixture.patch(&format!("{GROUP}/validatingadmissionpolicies/q"), MERGE, &open).await.ok();
    fixture.post(MAPS, &map("n", &json!({"team": "a"}))).await.ok();
}

#[tokio::test]
async fn constraints_conditions_and_bindings_narrow_a_policy_down() {
    let fixture = Fixture::new().await;
    let spec = json!({"validations": [{"expression": "false"}],
        "matchConditions": [{"name": "not-exempt", "expression": "!object.metadata.name.startsWith('exempt-')"},
            {"name": "who", "expression": "request.userInfo.username == 'admin' && request.operation == 'CREATE'"}]});
    let mut policy = policy("p", ("", "configmaps"), &spec);
    policy["spec"]["matchConstraints"]["objectSelector"] = json!({"matchLabels": {"judged": "yes"}});
    policy["spec"]["matchConstraints"]["excludeResourceRules"] = json!([{"operations": ["*"], "apiGroups": ["*"],
        "apiVersions": ["*"], "resources": ["*"], "resourceNames": ["excluded"]}]);
    let mut binding = binding("p", &["Deny"]);
    binding["spec"]["matchResources"] = json!({"namespaceSelector": {"matchLabels": {"judged": "yes"}}});
    install(&fixture, &policy, &binding).await;
    let judged = json!({"judged": "yes"});
    fixture.post("/api/v1/namespaces", &json!({"metadata": {"name": "n", "labels": judged}})).await.ok();
    fixture.post(MAPS, &map("elsewhere", &judged)).await.ok();
    let there = "/api/v1/namespaces/n/configmaps";
    for name in ["exempt-1", "excluded"] {
        fixture.post(there, &map(name, &judged)).await.ok();
    }
    fixture.post(there, &map("unlabelled", &json!({}))).await.ok();
    assert_eq!(fixture.post(there, &map("judged", &judged)).await.failed().0, 422);
    let change = json!({"data": {"b": "2"}});
    fixture.patch(&format!("{there}/exempt-1"), MERGE, &change).await.ok();
}

#[tokio::test]
async fn parameters_come_from_the_object_that_the_binding_names() {
    let fixture = Fixture::new().await;
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.max)",
            "messageExpression": "'at most ' + params.data.max + ' in ' + namespaceObject.metadata.name"}]});
    let mut binding = binding("p", &["Deny"]);
    binding["spec"]["paramRef"] = json!({"name": "limits"});
    install(&fixture, &policy("p", ("apps", "deployments"), &spec), &binding).await;
    let (_, _, message) = fixture.post(DEPLOYMENTS, &deployment("d", 9)).await.failed();
    let why = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert!(message.ends_with(why), "{message}");
    fixture.post(MAPS, &json!({"metadata": {"name": "limits"}, "data": {"max": "3"}})).await.ok();
    fixture.post(DEPLOYMENTS, &deployment("d", 3)).await.ok();
    let (_, _, message) = fixture.post(DEPLOYMENTS, &deployment("e", 4)).await.failed();
    assert!(message.ends_with("denied request: at most 3 in default"), "{message}");
    let selected = json!({"spec": {"paramRef": {"name": null, "selector": {"matchLabels": {"limits": "yes"}},
        "parameterNotFoundAction": "Allow"}}});
    fixture.patch(&format!("{GROUP}/validatingadmissionpolicybindings/p-binding"), MERGE, &selected).await.ok();
    fixture.post(DEPLOYMENTS, &deployment("f", 4)).await.ok();
    let labelled = json!({"metadata": {"name": "more", "labels": {"limits": "yes"}}, "data": {"max": "1"}});
    fixture.post(MAPS, &labelled).await.ok();
    assert_eq!(fixture.post(DEPLOYMENTS, &deployment("g", 2)).await.failed().0, 422);
}

#[tokio::test]
async fn the_kind_of_parameters_may_be_defined_later_than_the_policy() {
    let fixture = Fixture::new().await;
    let spec = json!({"paramKind": {"apiVersion": "test.dev/v1", "kind": "Limit"},
        "validations": [{"expression": "object.spec.replicas <= params.spec.max"}]});
    let mut binding = binding("p", &["Deny"]);
    binding["spec"]["paramRef"] = json!({"name": "l", "namespace": "default", "parameterNotFoundAction": "Deny"});
    install(&fixture, &policy("p", ("apps", "deployments"), &spec), &binding).await;
    let (code, _, message) = fixture.post(DEPLOYMENTS, &deployment("d", 1)).await.failed();
    let why = "ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: \
               failed to find resource referenced by paramKind: 'test.dev/v1, Kind=Limit'";
    assert_eq!((code, message), (422, format!("deployments.apps \"d\" is forbidden: {why}")));
    let definition = json!({"metadata": {"name": "limits.test.dev"}, "spec": {"group": "test.dev", "scope": "Namespaced",
        "names": {"plural": "limits", "kind": "Limit"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    fixture.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await.ok();
    let (_, _, message) = fixture.post(DEPLOYMENTS, &deployment("d", 1)).await.failed();
    assert!(message.ends_with("no params found for policy binding with `Deny` parameterNotFoundAction"), "{message}");
    let limit = json!({"apiVersion": "test.dev/v1", "kind": "Limit", "metadata": {"name": "l"}, "spec": {"max": 2}});
    fixture.post("/apis/test.dev/v1/namespaces/default/limits", &limit).await.ok();
    fixture.post(DEPLOYMENTS, &deployment("d", 2)).await.ok();
    assert_eq!(fixture.post(DEPLOYMENTS, &deployment("e", 3)).await.failed().0, 422);
}

#[tokio::test]
async fn a_policy_is_compiled_when_it_is_written_and_observed_at_once() {
    let fixture = Fixture::new().await;
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let spec = json!({"validations": [{"expression": "object.spec.replicas >"}]});
    let (code, reason, message) = fixture.post(&path, &policy("p", ("apps", "deployments"), &spec)).await.failed();
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    let wanted = "ValidatingAdmissionPolicy.admissionregistration.k8s.io \"p\" is invalid: \
                  spec.validations[0].expression: Invalid value: \"object.spec.replicas >\": compilation failed: ERROR: ";
    assert!(message.starts_with(wanted), "{message}");
    let spec = json!({"validations": [{"expression": "object.spec.replicas > 1"}]});
    let made = fixture.post(&path, &policy("p", ("apps", "deployments"), &spec)).await.ok();
    assert_eq!((&made["metadata"]["generation"], &made["status"]["observedGeneration"]), (&json!(1), &json!(1)));
    assert!(made["status"]["typeChecking"].is_object());
    let change = json!({"spec": {"validations": [{"expression": "true"}]}});
    let changed = fixture.patch(&format!("{path}/p"), MERGE, &change).await.ok();
    assert_eq!(changed["status"]["observedGeneration"], 2);
    let status = json!({"status": {"conditions": [{"type": "Seen", "status": "True", "reason": "R", "message": "m",
        "lastTransitionTime": "2024-01-01T00:00:00Z"}]}});
    let marked = fixture.patch(&format!("{path}/p/status"), MERGE, &status).await.ok();
    assert_eq!(marked["status"]["conditions"][0]["type"], "Seen");
    assert_eq!(marked["status"]["observedGeneration"], 2);
}

#[tokio::test]
async fn webhooks_have_match_conditions_that_compile() {
    let fixture = Fixture::new().await;
    let webhook = |expression: &str| {
        json!({"metadata": {"name": "w"}, "webhooks": [{"name": "a.b.c", "clientConfig": {"url": "https://127.0.0.1:1/x"},
            "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps"]}],
            "matchConditions": [{"name": "c", "expression": expression}]}]})
    };
    let path = format!("{GROUP}/validatingwebhookconfigurations");
    let (_, _, message) = fixture.post(&path, &webhook("object.x +")).await.failed();
    assert!(message.contains("webhooks[0].matchConditions[0].expression: Invalid value"), "{message}");
    fixture.post(&path, &webhook("object.metadata.name == 'asked'")).await.ok();
    fixture.post(MAPS, &map("free", &json!({}))).await.ok();
    let (code, _, message) = fixture.post(MAPS, &map("asked", &json!({}))).await.failed();
    assert_eq!(code, 500);
    assert!(message.contains("failed calling webhook"), "{message}");
    let mut changed = webhook("object.data.none == 'x'");
    changed["metadata"]["resourceVersion"] =
        fixture.get(&format!("{path}/w")).await.ok()["metadata"]["resourceVersion"].take();
    fixture.put(&format!("{path}/w"), &changed).await.ok();
    let (code, _, message) = fixture.post(MAPS, &map("asked", &json!({}))).await.failed();
    assert_eq!(code, 403);
    assert!(message.contains("resulted in error: no such key: none"), "{message}");
}

#[tokio::test]
async fn misspelt_fields_of_the_named_types_are_warned_about_in_the_status() {
    let fixture = Fixture::new().await;
    let crd = json!({"metadata": {"name": "widgets.test.dev"}, "spec": {"group": "test.dev", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
                "size": {"type": "integer"}, "until": {"type": "string", "format": "date-time"}}}}}}}]}});
    fixture.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await.ok();
    let warnings = async |name: &str, resource: (&str, &str), expressions: &[&str]| {
        let validations: Vec<Value> = expressions.iter().map(|expression| json!({"expression": expression})).collect();
        let spec = json!({"validations": validations, "variables": [{"name": "spec", "expression": "object.spec"}]});
        let path = format!("{GROUP}/validatingadmissionpolicies");
        let made = fixture.post(&path, &policy(name, resource, &spec)).await.ok();
        made["status"]["typeChecking"]["expressionWarnings"].clone()
    };
    let right = "object.spec.template.spec.containers.all(c, c.image != '' && (!has(c.ports) || c.ports.size() < 9))";
    let found = warnings("p", ("apps", "deployments"), &[right, "object.spec.replicsa > 1"]).await;
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(found[0]["fieldRef"], "spec.validations[1].expression");
    let wanted = "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'replicsa'\n \
                  | object.spec.replicsa > 1\n | ...........^\n";
    assert_eq!(found[0]["warning"], wanted);
    let quantities = "object.spec.containers.all(c, c.resources.limits['cpu'] == '1')";
    assert_eq!(warnings("q", ("", "pods"), &[quantities]).await, Value::Null);
    let found = warnings("r", ("test.dev", "widgets"), &["variables.spec.size > 1", "variables.spec.until > 1"]).await;
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    let text = found[0]["warning"].as_str().unwrap_or_default();
    assert!(text.contains("found no matching overload for '_>_' applied to '(timestamp, int)'"), "{text}");
}

#[tokio::test]
async fn who_makes_the_server_read_parameters_has_to_be_allowed_to() {
    let fixture = Fixture::new().await;
    let rules = json!([{"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]}]);
    let grant = async |name: &str, rules: &Value| {
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        fixture.post(&format!("{rbac}/clusterroles"), &json!({"metadata": {"name": name}, "rules": rules})).await.ok();
        let binding = json!({"metadata": {"name": name}, "subjects": [{"kind": "User", "name": "ann"}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}});
        fixture.post(&format!("{rbac}/clusterrolebindings"), &binding).await.ok();
    };
    grant("policies", &rules).await;
    let ann = User::new("ann", &["system:authenticated"]);
    let post = async |path: &str, object: &Value| {
        let request = request(Method::POST, &format!("{GROUP}/{path}"), JSON, &object.to_string());
        send(fixture.server.service(Some(ann.clone())), request).await
    };
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "Secret"}, "validations": [{"expression": "true"}]});
    let policy = policy("p", ("", "configmaps"), &spec);
    let mut binding = binding("p", &["Deny"]);
    binding["spec"]["paramRef"] = json!({"name": "s", "namespace": "default"});
    let (code, _, message) = post("validatingadmissionpolicies", &policy).await.failed();
    assert_eq!(code, 422);
    let why = "spec.paramKind: Forbidden: user ann must have \"get\" permission on all objects of the referenced paramKind \
               (kind=Secret, apiVersion=v1)";
    assert!(message.ends_with(why), "{message}");
    fixture.post(&format!("{GROUP}/validatingadmissionpolicies"), &policy).await.ok();
    let (_, _, message) = post("validatingadmissionpolicybindings", &binding).await.failed();
    let why =
        "spec.paramRef: Forbidden: user ann does not have \"get\" permission on the object referenced by paramRef";
    assert!(message.ends_with(why), "{message}");
    grant("secrets", &json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}])).await;
    post("validatingadmissionpolicybindings", &binding).await.ok();
}
