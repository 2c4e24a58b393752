//! APIServices: a real server behind one, and those the server keeps itself.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{Fixture, Lines, request, send},
    webhook_server::{Reply, WebhookServer},
};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1alpha1.wardle.example.com";
const GROUP: &str = "/apis/wardle.example.com/v1alpha1";

async fn server() -> WebhookServer {
    WebhookServer::new(|path, _| match path {
        GROUP => Reply::Json(json!({"kind": "APIResourceList", "apiVersion": "v1", "resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"]}]})),
        "/openapi/v2" => Reply::Json(json!({"paths": {format!("{GROUP}/flunders"): {}}, "definitions": {"io.wardle.Flunder": {}}})),
        "/openapi/v3" => Reply::Json(json!({"paths": {GROUP.trim_start_matches('/'): {"serverRelativeURL": format!("/openapi/v3{GROUP}?hash=A")}}})),
        "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders" => {
            Reply::Json(json!({"kind": "FlunderList", "items": []}))
        }
        "/openapi/v3/apis/wardle.example.com/v1alpha1" => Reply::Json(json!({"openapi": "3.0.0"})),
        _ => Reply::Status(404, "{}"),
    })
    .await
}

fn service(server: &WebhookServer) -> Value {
    json!({"metadata": {"name": NAME}, "spec": {"group": "wardle.example.com", "version": "v1alpha1",
        "service": {"namespace": "default", "name": "wardle", "port": server.port}, "caBundle": server.bundle,
        "groupPriorityMinimum": 2000, "versionPriority": 200}})
}

/// Reason of the condition `Available` as it changes.
async fn next_reason(watch: &mut Lines) -> (String, String) {
    loop {
        let event = watch.next().await.unwrap();
        if let Some(condition) = event["object"]["status"]["conditions"].get(0) {
            let text = |field: &str| condition[field].as_str().unwrap().to_owned();
            return (text("reason"), text("message"));
        }
    }
}

#[tokio::test]
async fn a_group_version_is_answered_by_the_server_behind_its_service() {
    let (fixture, server) = (Fixture::new().await, server().await);
    let stop = CancellationToken::new();
    let keeping = tokio::spawn(fixture.server.clone().aggregate(stop.clone()));
    let mut watch = Lines::open(&fixture, &format!("{SERVICES}?watch=1&fieldSelector=metadata.name={NAME}")).await;
    fixture.post(SERVICES, &service(&server)).await.ok();
    let flunders = format!("{GROUP}/namespaces/default/flunders");
    let missing = "service/wardle in \"default\" is not present".to_owned();
    assert_eq!(next_reason(&mut watch).await, ("ServiceNotFound".into(), missing));
    let refused = fixture.get(&flunders).await;
    assert_eq!((refused.status, refused.body), (StatusCode::SERVICE_UNAVAILABLE, json!("service unavailable\n")));
    // an external name leads to this machine without a pod
    let external =
        json!({"metadata": {"name": "wardle"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    fixture.post("/api/v1/namespaces/default/services", &external).await.ok();
    assert_eq!(next_reason(&mut watch).await, ("Passed".into(), "all checks passed".into()));

    let ann = apiserver::User::new("ann", &["system:masters"]);
    let list =
        send(fixture.server.service(Some(ann)), request(Method::GET, &format!("{flunders}?limit=5"), "", "")).await;
    assert_eq!(list.ok()["kind"], "FlunderList");
    let heads = server.heads.lock().unwrap().clone();
    let (_, head) = heads.iter().find(|(path, _)| *path == flunders).unwrap();
    assert_eq!(head["x-remote-user"], "ann");
    assert_eq!(head["x-remote-group"], "system:masters");
    let stranger = fixture.server.service(Some(apiserver::User::new("bob", &["system:authenticated"])));
    assert_eq!(send(stranger, request(Method::GET, &flunders, "", "")).await.failed().0, 403);

    let groups = fixture.get("/apis").await.ok();
    let groups = groups["groups"].as_array().unwrap();
    let group = groups.iter().find(|group| group["name"] == "wardle.example.com").unwrap();
    assert_eq!(group["preferredVersion"]["groupVersion"], "wardle.example.com/v1alpha1");
    assert_eq!(fixture.get("/apis/wardle.example.com").await.ok()["kind"], "APIGroup");
    assert_eq!(fixture.get(GROUP).await.ok()["resources"][0]["name"], "flunders");
    let mut asked = request(Method::GET, "/apis", "", "");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    asked.headers_mut().insert(http::header::ACCEPT, http::HeaderValue::from_static(accept));
    let discovery = fixture.send(asked).await.ok();
    let items = discovery["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["metadata"]["name"] == "wardle.example.com").unwrap();
    assert_eq!(item["versions"][0]["resources"][0]["resource"], "flunders");
    assert_eq!(item["versions"][0]["freshness"], "Current");
    let index = fixture.get("/openapi/v3").await.ok();
    let url = index["paths"][GROUP.trim_start_matches('/')]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(fixture.get(url).await.ok()["openapi"], "3.0.0");
    assert!(fixture.get("/openapi/v2").await.ok()["paths"][format!("{GROUP}/flunders")].is_object());

    fixture.delete("/api/v1/namespaces/default/services/wardle").await.ok();
    assert_eq!(next_reason(&mut watch).await.0, "ServiceNotFound");
    fixture.delete(&format!("{SERVICES}/{NAME}")).await.ok();
    assert_eq!(fixture.get(GROUP).await.failed().0, 404);
    stop.cancel();
    keeping.await.unwrap();
}

#[tokio::test]
async fn what_the_server_answers_itself_has_an_api_service_too() {
    let fixture = Fixture::new().await;
    let stop = CancellationToken::new();
    let keeping = tokio::spawn(fixture.server.clone().aggregate(stop.clone()));
    let apps = fixture.get(&format!("{SERVICES}/v1.apps")).await.ok();
    assert_eq!(apps["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
    assert_eq!((&apps["spec"]["groupPriorityMinimum"], &apps["spec"]["versionPriority"]), (&json!(17800), &json!(15)));
    let condition = &apps["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("Local")));
    let mut asked = request(Method::GET, &format!("{SERVICES}/v1."), "", "");
    let accept = http::HeaderValue::from_static("application/json;as=Table;v=v1;g=meta.k8s.io");
    asked.headers_mut().insert(http::header::ACCEPT, accept);
    let row = fixture.send(asked).await.ok()["rows"][0]["cells"].clone();
    assert_eq!((&row[0], &row[1], &row[2]), (&json!("v1."), &json!("Local"), &json!("True")));
    let mut watch =
        Lines::open(&fixture, &format!("{SERVICES}?watch=1&fieldSelector=metadata.name=v1.extra.dev")).await;
    let definition = json!({"metadata": {"name": "things.extra.dev"}, "spec": {"group": "extra.dev", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    fixture.post(definitions, &definition).await.ok();
    assert_eq!(watch.named().await, ("ADDED".into(), "v1.extra.dev".into()));
    fixture.delete(&format!("{definitions}/things.extra.dev")).await.ok();
    assert_eq!(watch.named().await, ("DELETED".into(), "v1.extra.dev".into()));
    stop.cancel();
    keeping.await.unwrap();
}
