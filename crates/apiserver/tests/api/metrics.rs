//! `/metrics`, as monitoring that was made for upstream reads it.

use http::Method;
use serde_json::{Value, json};

use crate::{
    fixture::{APPLY, Fixture, MERGE, request, send},
    webhook_server::{Reply, WebhookServer, allow, deny},
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

async fn lines(fixture: &Fixture) -> Vec<String> {
    let answer = fixture.get("/metrics").await;
    answer.body.as_str().unwrap().lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_lines(known: &[String], wanted: &[&str]) {
    for line in wanted {
        let name = line.split('{').next().unwrap_or(line);
        let similar: Vec<&String> = known.iter().filter(|known| known.starts_with(name)).collect();
        assert!(known.iter().any(|known| known == line), "{line}\namong {similar:#?}");
    }
}

#[tokio::test]
async fn requests_are_counted_under_the_verbs_that_monitoring_asks_for() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &map("a")).await.ok();
    fixture.post(&format!("{MAPS}?dryRun=All"), &map("b")).await.ok();
    fixture.put(&format!("{MAPS}/a"), &map("a")).await.ok();
    fixture.patch(&format!("{MAPS}/a"), MERGE, &json!({"data": {"b": "2"}})).await.ok();
    fixture.patch(&format!("{MAPS}/c?fieldManager=m"), APPLY, &map("c")).await.ok();
    fixture.get(&format!("{MAPS}/none")).await.failed();
    fixture.get(MAPS).await.ok();
    fixture.delete(MAPS).await.ok();
    send(fixture.server.service(None), request(Method::GET, MAPS, "", "")).await.failed();
    let count = |code: u16, dry_run: &str, scope: &str, verb: &str| {
        format!(
            "apiserver_request_total{{code=\"{code}\",dry_run=\"{dry_run}\",component=\"apiserver\",group=\"\",\
             resource=\"configmaps\",version=\"v1\",scope=\"{scope}\",subresource=\"\",verb=\"{verb}\"}} 1"
        )
    };
    let known = lines(&fixture).await;
    let wanted = [
        // one of them is made by the server for itself, at its start
        count(201, "", "resource", "POST").replace("} 1", "} 2"),
        count(201, "All", "resource", "POST"),
        count(200, "", "resource", "PUT"),
        count(200, "", "resource", "PATCH"),
        count(201, "", "resource", "APPLY"),
        count(404, "", "resource", "GET"),
        count(200, "", "namespace", "LIST"),
        count(200, "", "namespace", "DELETE"),
    ];
    assert_lines(&known, &wanted.each_ref().map(String::as_str));
    assert_lines(
        &known,
        &[
            "apiserver_response_sizes_count{component=\"apiserver\",group=\"\",resource=\"configmaps\",version=\"v1\",scope=\"namespace\",subresource=\"\",verb=\"LIST\"} 1",
            "authentication_attempts{result=\"failure\"} 1",
        ],
    );
    assert!(known.iter().any(|line| line.starts_with("authorization_attempts_total{result=\"allowed\"}")));
    assert!(known.iter().any(|line| {
        line.starts_with("apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"false\",type=\"validate\"}")
    }));
}

#[tokio::test]
async fn the_rules_of_custom_resources_and_their_deprecated_versions_are_counted() {
    let fixture = Fixture::new().await;
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer",
        "x-kubernetes-validations": [{"rule": "self > 1"}]}}});
    let definition = json!({"metadata": {"name": "counts.test.dev"}, "spec": {"group": "test.dev", "scope": "Namespaced",
        "names": {"plural": "counts", "kind": "Count"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "deprecated": true, "schema": {"openAPIV3Schema": schema}}]}});
    fixture.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await.ok();
    let object = json!({"apiVersion": "test.dev/v1", "kind": "Count", "metadata": {"name": "c"}, "n": 2});
    fixture.post("/apis/test.dev/v1/namespaces/default/counts", &object).await.ok();
    let known = lines(&fixture).await;
    let deprecated = "apiserver_requested_deprecated_apis{group=\"test.dev\",removed_release=\"\",resource=\"counts\",subresource=\"\",version=\"v1\"} 1";
    assert_lines(&known, &[deprecated]);
    for name in ["compilation", "evaluation"] {
        let name = format!("apiserver_cel_{name}_duration_seconds_count ");
        let count = known.iter().find_map(|line| line.strip_prefix(&name)).unwrap();
        assert!(count.parse::<u64>().unwrap() > 0, "{name}{count}");
    }
}

#[tokio::test]
async fn webhooks_and_policies_are_counted_by_name_and_outcome() {
    let fixture = Fixture::new().await;
    let server = WebhookServer::new(|path, asked| match path {
        "/no" => deny(asked, "no"),
        "/broken" => Reply::Status(500, "boom"),
        _ => allow(asked),
    })
    .await;
    let webhook = |name: &str, name_matched: &str, policy: &str| {
        json!({"name": format!("{name}.test.dev"), "clientConfig": server.client(&format!("/{name}")),
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": policy,
            "matchConditions": [{"name": "c", "expression": format!("object.metadata.name == '{name_matched}'")}],
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps"]}]})
    };
    let hooks = [webhook("yes", "fine", "Fail"), webhook("no", "refused", "Fail"), webhook("broken", "open", "Ignore")];
    let configuration = json!({"metadata": {"name": "v"}, "webhooks": hooks});
    fixture.post(&format!("{REGISTRATION}/validatingwebhookconfigurations"), &configuration).await.ok();
    let policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [
        {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]},
        "validations": [{"expression": "object.metadata.name != 'denied'"}]}});
    fixture.post(&format!("{REGISTRATION}/validatingadmissionpolicies"), &policy).await.ok();
    let binding =
        json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny", "Audit"]}});
    fixture.post(&format!("{REGISTRATION}/validatingadmissionpolicybindings"), &binding).await.ok();
    for name in ["fine", "open"] {
        fixture.post(MAPS, &map(name)).await.ok();
    }
    for name in ["refused", "denied"] {
        fixture.post(MAPS, &map(name)).await.failed();
    }
    assert_lines(
        &lines(&fixture).await,
        &[
            "apiserver_admission_webhook_admission_duration_seconds_count{name=\"yes.test.dev\",operation=\"CREATE\",rejected=\"false\",type=\"validating\"} 1",
            "apiserver_admission_webhook_request_total{code=\"403\",name=\"no.test.dev\",operation=\"CREATE\",rejected=\"true\",type=\"validating\"} 1",
            "apiserver_admission_webhook_rejection_count{error_type=\"no_error\",name=\"no.test.dev\",operation=\"CREATE\",rejection_code=\"403\",type=\"validating\"} 1",
            "apiserver_admission_webhook_request_total{code=\"500\",name=\"broken.test.dev\",operation=\"CREATE\",rejected=\"false\",type=\"validating\"} 1",
            "apiserver_admission_webhook_fail_open_count{name=\"broken.test.dev\",type=\"validating\"} 1",
            "apiserver_admission_match_condition_exclusions_total{kind=\"webhook\",name=\"yes.test.dev\",operation=\"CREATE\",type=\"validating\"} 2",
            "apiserver_validating_admission_policy_check_total{enforcement_action=\"deny\",error_type=\"invalid_error\",policy=\"p\",policy_binding=\"b\"} 1",
            "apiserver_validating_admission_policy_check_total{enforcement_action=\"audit\",error_type=\"invalid_error\",policy=\"p\",policy_binding=\"b\"} 1",
        ],
    );
}
