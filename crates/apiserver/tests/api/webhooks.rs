//! Admission webhooks, as a real server behind them sees and decides.

use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, MERGE},
    webhook_server::{Reply, WebhookServer, allow, deny, patch, review},
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// A webhook on all writes of some resources of the core group.
fn webhook(server: &WebhookServer, name: &str, path: &str, resources: &[&str]) -> Value {
    json!({"name": format!("{name}.test.dev"), "clientConfig": server.client(path), "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources}]})
}

async fn install(fixture: &Fixture, kind: &str, name: &str, webhooks: Vec<Value>) {
    let path = format!("/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations");
    fixture.post(&path, &json!({"metadata": {"name": name}, "webhooks": webhooks})).await.ok();
}

#[tokio::test]
async fn a_mutated_pod_gets_its_defaults_and_the_review_says_who_does_what() {
    let fixture = Fixture::new().await;
    let server = WebhookServer::new(|_, asked| {
        let container = json!({"name": "added", "image": "b", "unknown": 1});
        patch(asked, &json!([{"op": "add", "path": "/spec/initContainers", "value": [container]}]))
    })
    .await;
    install(&fixture, "mutating", "m", vec![webhook(&server, "add", "/add", &["pods"])]).await;
    let made = fixture.post(&format!("{PODS}?fieldManager=me"), &pod("p")).await.ok();
    let added = &made["spec"]["initContainers"][0];
    assert_eq!(added["terminationMessagePolicy"], "File");
    assert_eq!(added["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(added["unknown"], Value::Null);
    let asked = &server.seen("/add")[0];
    assert_eq!((&asked["apiVersion"], &asked["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
    let request = &asked["request"];
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "Pod"}));
    assert_eq!(request["requestResource"], json!({"group": "", "version": "v1", "resource": "pods"}));
    assert_eq!((&request["name"], &request["namespace"]), (&json!("p"), &json!("default")));
    assert_eq!((&request["operation"], &request["dryRun"]), (&json!("CREATE"), &json!(false)));
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!(request["object"]["spec"]["containers"][0]["name"], "c");
    assert_eq!(request["oldObject"], Value::Null);
    let options = json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me"});
    assert_eq!(request["options"], options);
}

#[tokio::test]
async fn what_a_webhook_refuses_is_answered_in_its_words() {
    let fixture = Fixture::new().await;
    let server = WebhookServer::new(|_, asked| {
        let bad = |object: &Value| object["data"]["bad"].is_string();
        let request = &asked["request"];
        if bad(&request["object"]) || request["operation"] == "DELETE" && bad(&request["oldObject"]) {
            return review(
                asked,
                json!({"allowed": false, "warnings": ["watch out"],
                "status": {"message": "no bad data", "code": 418, "reason": "Teapot", "details": {"kind": "cup"}}}),
            );
        }
        review(asked, json!({"allowed": true, "warnings": ["fine \"so\" far"]}))
    })
    .await;
    fixture.post(MAPS, &json!({"metadata": {"name": "old"}, "data": {"bad": "x"}})).await.ok();
    let mut hook = webhook(&server, "deny", "/deny", &["configmaps"]);
    hook["objectSelector"] = json!({"matchExpressions": [{"key": "skip", "operator": "NotIn", "values": ["yes"]}]});
    install(&fixture, "validating", "v", vec![hook]).await;
    let fine = fixture.post(MAPS, &map("fine")).await;
    assert_eq!(fine.headers[http::header::WARNING], "299 - \"fine \\\"so\\\" far\"");
    fine.ok();
    let change = json!({"data": {"bad": "x"}});
    let refused = fixture.patch(&format!("{MAPS}/fine"), MERGE, &change).await;
    assert_eq!(refused.headers[http::header::WARNING], "299 - \"watch out\"");
    assert_eq!(refused.body["details"]["kind"], "cup");
    let why = "admission webhook \"deny.test.dev\" denied the request: no bad data".to_owned();
    assert_eq!(refused.failed(), (418, "Teapot".into(), why.clone()));
    assert_eq!(fixture.delete(&format!("{MAPS}/old")).await.failed().2, why);
    assert_eq!(fixture.delete(MAPS).await.failed().2, why);
    let mut skipped = json!({"metadata": {"name": "s", "labels": {"skip": "yes"}}, "data": {"bad": "x"}});
    fixture.post(MAPS, &skipped).await.ok();
    skipped["metadata"]["labels"] = json!({});
    assert_eq!(fixture.put(&format!("{MAPS}/s"), &skipped).await.failed().0, 418);
    let seen = server.seen("/deny");
    let delete = seen.iter().find(|asked| asked["request"]["operation"] == "DELETE").unwrap();
    assert_eq!(
        (&delete["request"]["object"], &delete["request"]["oldObject"]["data"]),
        (&Value::Null, &json!({"bad": "x"}))
    );
    assert_eq!(delete["request"]["options"]["kind"], "DeleteOptions");
}

#[tokio::test]
async fn the_failure_policy_decides_when_a_webhook_cannot_be_asked() {
    let fixture = Fixture::new().await;
    let server = WebhookServer::new(|path, asked| match path {
        "/broken" => Reply::Json(json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"})),
        "/error" => Reply::Status(500, "boom"),
        "/silent" => Reply::Silence,
        _ => allow(asked),
    })
    .await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = format!("https://127.0.0.1:{closed}/x");
    let url = |path: &str| format!("https://127.0.0.1:{}{path}", server.port);
    let table = [
        (url("/broken"), "received invalid webhook response: webhook response was absent".to_owned()),
        (
            url("/error"),
            "failed to call webhook: an error on the server (\"boom\") has prevented the request from succeeding"
                .into(),
        ),
        (
            url("/silent"),
            format!("failed to call webhook: Post \"{}?timeout=1s\": context deadline exceeded", url("/silent")),
        ),
        (
            refused.clone(),
            format!(
                "failed to call webhook: Post \"{refused}?timeout=1s\": dial tcp 127.0.0.1:{closed}: connect: connection refused"
            ),
        ),
    ];
    for kind in ["validating", "mutating"] {
        let configuration = format!("/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations/c");
        for (url, why) in &table {
            let mut hook = webhook(&server, "h", "/", &["configmaps"]);
            hook["clientConfig"]["url"] = url.as_str().into();
            hook["timeoutSeconds"] = 1.into();
            install(&fixture, kind, "c", vec![hook.clone()]).await;
            let failed = fixture.post(MAPS, &map("closed")).await.failed();
            let message = format!("Internal error occurred: failed calling webhook \"h.test.dev\": {why}");
            assert_eq!(failed, (500, "InternalError".into(), message));
            let ignore = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
            fixture.patch(&configuration, "application/json-patch+json", &ignore).await.ok();
            fixture.post(MAPS, &map("open")).await.ok();
            fixture.delete(&format!("{MAPS}/open")).await.ok();
            fixture.delete(&configuration).await.ok();
        }
    }
}

#[tokio::test]
async fn webhooks_run_in_order_and_again_when_they_want_to_see_later_changes() {
    let fixture = Fixture::new().await;
    let server = WebhookServer::new(|path, asked| {
        let data = &asked["request"]["object"]["data"];
        let add = |key: &str, value: String| {
            patch(asked, &json!([{"op": "add", "path": format!("/data/{key}"), "value": value}]))
        };
        match path {
            "/first" => add("first", if data["second"].is_string() { "after".into() } else { "before".into() }),
            "/second" => add("second", data["first"].as_str().unwrap_or("unseen").to_owned()),
            _ => allow(asked),
        }
    })
    .await;
    let mut first = webhook(&server, "first", "/first", &["configmaps"]);
    first["reinvocationPolicy"] = "IfNeeded".into();
    // called in the order of the configurations' names, whichever came first
    install(&fixture, "mutating", "b", vec![webhook(&server, "second", "/second", &["configmaps"])]).await;
    install(&fixture, "mutating", "a", vec![first]).await;
    install(&fixture, "validating", "v", vec![webhook(&server, "last", "/last", &["configmaps"])]).await;
    let made = fixture.post(MAPS, &map("m")).await.ok();
    assert_eq!(made["data"], json!({"a": "1", "first": "after", "second": "before"}));
    assert_eq!((server.seen("/first").len(), server.seen("/second").len()), (2, 1));
    assert_eq!(server.seen("/last")[0]["request"]["object"]["data"], made["data"]);
}

#[tokio::test]
async fn subresources_show_what_their_clients_send() {
    let fixture = Fixture::new().await;
    let server = WebhookServer::new(|path, asked| match path {
        "/deny" => deny(asked, "not here"),
        "/scale" => patch(asked, &json!([{"op": "replace", "path": "/spec/replicas", "value": 4}])),
        _ => allow(asked),
    })
    .await;
    fixture.post(PODS, &pod("p")).await.ok();
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    fixture.post(deployments, &deployment).await.ok();
    let scale = webhook(&server, "scale", "/scale", &["deployments/scale"]);
    install(&fixture, "mutating", "m", vec![scale]).await;
    let denied = webhook(&server, "deny", "/deny", &["pods/attach", "pods/eviction"]);
    install(&fixture, "validating", "v", vec![denied, webhook(&server, "see", "/see", &["*/scale"])]).await;
    let attach = fixture.post(&format!("{PODS}/p/attach?stdin=true&container=c"), &json!({})).await.failed();
    let why = "admission webhook \"deny.test.dev\" denied the request: not here".to_owned();
    assert_eq!(attach, (403, "Forbidden".into(), why.clone()));
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    assert_eq!(fixture.post(&format!("{PODS}/p/eviction"), &eviction).await.failed().2, why);
    let seen = server.seen("/deny");
    assert_eq!(seen[0]["request"]["operation"], "CONNECT");
    assert_eq!(seen[0]["request"]["kind"]["kind"], "PodAttachOptions");
    assert_eq!((&seen[0]["request"]["object"]["stdin"], &seen[0]["request"]["name"]), (&json!(true), &json!("p")));
    assert_eq!(seen[1]["request"]["kind"], json!({"group": "policy", "version": "v1", "kind": "Eviction"}));
    let change = json!({"spec": {"replicas": 2}});
    let scaled = fixture.patch(&format!("{deployments}/d/scale"), MERGE, &change).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 4);
    let scale = &server.seen("/see")[0]["request"];
    assert_eq!(scale["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!((&scale["subResource"], &scale["resource"]["resource"]), (&json!("scale"), &json!("deployments")));
    assert_eq!((&scale["object"]["spec"]["replicas"], &scale["oldObject"]["spec"]["replicas"]), (&json!(4), &json!(1)));
}

#[tokio::test]
async fn configurations_are_never_shown_to_webhooks() {
    let fixture = Fixture::new().await;
    let server = WebhookServer::new(|_, asked| deny(asked, "nothing goes")).await;
    let all = webhook(&server, "all", "/all", &["*", "*/*"]);
    let mut only = all.clone();
    only["rules"][0]["resources"] = json!(["*/*"]);
    install(&fixture, "validating", "v", vec![only.clone()]).await;
    install(&fixture, "mutating", "m", vec![only]).await;
    assert_eq!(fixture.post("/api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await.failed().0, 403);
    for kind in ["validating", "mutating"] {
        let path = format!("/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations");
        fixture.delete(&path).await.ok();
    }
    fixture.post("/api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await.ok();
}

#[tokio::test]
async fn custom_resources_are_pruned_after_mutation_and_shown_in_the_version_a_rule_names() {
    let fixture = Fixture::new().await;
    let schema = json!({"type": "object", "properties": {"data": {"type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string", "default": "d"}}}}});
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema}});
    let definition = json!({"metadata": {"name": "things.test.dev"}, "spec": {"group": "test.dev", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [version("v1", true), version("v2", false)]}});
    fixture.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await.ok();
    let server = WebhookServer::new(|_, asked| {
        let lost = json!({"op": "add", "path": "/data/lost", "value": "x"});
        patch(
            asked,
            &json!([{"op": "replace", "path": "/data/a", "value": "changed"}, lost,
            {"op": "remove", "path": "/data/b"}]),
        )
    })
    .await;
    let mut equivalent = webhook(&server, "eq", "/eq", &["things"]);
    equivalent["rules"][0]["apiVersions"] = json!(["v1"]);
    let mut exact = equivalent.clone();
    exact["name"] = "exact.test.dev".into();
    exact["matchPolicy"] = "Exact".into();
    exact["clientConfig"] = server.client("/exact");
    install(&fixture, "mutating", "m", vec![equivalent, exact]).await;
    let thing = json!({"apiVersion": "test.dev/v2", "kind": "Thing", "metadata": {"name": "t"}, "data": {"a": "sent"}});
    let made = fixture.post("/apis/test.dev/v2/namespaces/default/things", &thing).await.ok();
    assert_eq!((&made["apiVersion"], &made["data"]), (&json!("test.dev/v2"), &json!({"a": "changed", "b": "d"})));
    assert_eq!(server.seen("/exact").len(), 0);
    let request = &server.seen("/eq")[0]["request"];
    assert_eq!((&request["kind"]["version"], &request["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(request["object"]["apiVersion"], "test.dev/v1");
}

#[tokio::test]
async fn the_namespace_decides_by_its_labels() {
    let fixture = Fixture::new().await;
    let server = WebhookServer::new(|_, asked| deny(asked, "guarded")).await;
    fixture.post("/api/v1/namespaces", &json!({"metadata": {"name": "open"}})).await.ok();
    let guarded = json!({"metadata": {"name": "guarded", "labels": {"guarded": "yes"}}});
    fixture.post("/api/v1/namespaces", &guarded).await.ok();
    let mut hook = webhook(&server, "guard", "/", &["configmaps", "namespaces"]);
    hook["namespaceSelector"] = json!({"matchLabels": {"guarded": "yes"}});
    install(&fixture, "validating", "v", vec![hook]).await;
    fixture.post("/api/v1/namespaces/open/configmaps", &map("m")).await.ok();
    let refused = fixture.post("/api/v1/namespaces/guarded/configmaps", &map("m")).await.failed();
    assert!(refused.2.ends_with("denied the request: guarded"), "{}", refused.2);
    // a namespace is selected by the labels it is about to have, and removed by those it has
    let label = json!({"metadata": {"labels": {"guarded": "yes"}}});
    assert_eq!(fixture.patch("/api/v1/namespaces/open", MERGE, &label).await.failed().0, 403);
    assert_eq!(fixture.delete("/api/v1/namespaces/guarded").await.failed().0, 403);
    fixture.delete("/api/v1/namespaces/open").await.ok();
}
