//! Media types: what can be asked for, what is understood, and how failures are told.

use http::{HeaderValue, Method, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::{
    conformance,
    fixture::{Fixture, JSON, request},
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const METADATA: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Code, content type and body of an answer.
async fn asked(fixture: &Fixture, method: Method, path: &str, accept: &str, body: &Value) -> (u16, String, Vec<u8>) {
    let sent = if body.is_null() { String::new() } else { body.to_string() };
    let mut request = request(method, path, JSON, &sent);
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
    let response = fixture.open(request).await;
    let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
    let code = response.status().as_u16();
    (code, kind, response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

async fn decoded(fixture: &Fixture, method: Method, path: &str, accept: &str, body: &Value) -> (u16, Value) {
    let (code, kind, bytes) = asked(fixture, method, path, accept, body).await;
    assert_eq!(kind, PROTOBUF, "{path}");
    (code, schema::protobuf::decode(&bytes).unwrap())
}

/// The objects of a watch in protobuf, with what happened to them.
fn events(mut frames: &[u8]) -> Vec<(String, Value)> {
    let mut events = Vec::new();
    while let Some((length, rest)) = frames.split_first_chunk::<4>() {
        let (event, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        let object = event.windows(4).position(|bytes| bytes == schema::protobuf::MAGIC).unwrap();
        let kind = String::from_utf8_lossy(&event[2..2 + usize::from(event[1])]).into_owned();
        events.push((kind, schema::protobuf::decode(&event[object..]).unwrap()));
        frames = rest;
    }
    events
}

#[tokio::test]
async fn metadata_alone_comes_in_protobuf_also_of_custom_resources() {
    let fixture = Fixture::new().await;
    let widgets = conformance::define(
        &fixture,
        json!({"schema": {"openAPIV3Schema": {"type": "object",
        "x-kubernetes-preserve-unknown-fields": true}}}),
    )
    .await;
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"x": 1}});
    fixture.post(widgets, &widget).await.ok();
    fixture.post(MAPS, &json!({"metadata": {"name": "a", "labels": {"l": "v"}}, "data": {"k": "v"}})).await.ok();
    for collection in [widgets, MAPS] {
        let one = format!("{collection}/a");
        let (code, object) = decoded(&fixture, Method::GET, &one, METADATA, &Value::Null).await;
        assert_eq!((code, &object["kind"]), (200, &json!("PartialObjectMetadata")), "{collection}");
        assert_eq!((&object["apiVersion"], &object["metadata"]["name"]), (&json!("meta.k8s.io/v1"), &json!("a")));
        assert!(object.get("spec").is_none() && object.get("data").is_none());
        let (_, list) =
            decoded(&fixture, Method::GET, &format!("{collection}?limit=5"), METADATA_LIST, &Value::Null).await;
        assert_eq!(list["kind"], "PartialObjectMetadataList");
        assert!(list["items"].as_array().unwrap().iter().any(|item| item["metadata"]["name"] == "a"));
        let watch = format!("{collection}?watch=1&timeoutSeconds=0&fieldSelector=metadata.name%3Da");
        let (_, kind, frames) = asked(&fixture, Method::GET, &watch, METADATA, &Value::Null).await;
        assert_eq!(kind, "application/vnd.kubernetes.protobuf;stream=watch");
        let seen = events(&frames);
        assert_eq!((seen.len(), seen[0].0.as_str(), &seen[0].1["metadata"]["name"]), (1, "ADDED", &json!("a")));
    }
    let (code, _, _) = asked(&fixture, Method::GET, &format!("{widgets}/a"), PROTOBUF, &Value::Null).await;
    assert_eq!(code, 406, "custom resources have no messages");
}

#[tokio::test]
async fn everything_but_objects_is_told_in_protobuf_too() {
    let fixture = Fixture::new().await;
    let send = async |method: Method, path: &str, body: Value| decoded(&fixture, method, path, PROTOBUF, &body).await;
    let (code, status) = send(Method::GET, &format!("{MAPS}/none"), Value::Null).await;
    assert_eq!((code, &status["kind"], &status["reason"]), (404, &json!("Status"), &json!("NotFound")));
    let sets = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"app": "a"});
    let deployment = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    fixture.post(sets, &deployment).await.ok();
    let (_, scale) = send(Method::GET, &format!("{sets}/a/scale"), Value::Null).await;
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    let token = json!({"spec": {"audiences": [], "expirationSeconds": 600}});
    let (code, token) = send(Method::POST, "/api/v1/namespaces/default/serviceaccounts/default/token", token).await;
    assert_eq!((code, &token["kind"]), (201, &json!("TokenRequest")));
    assert!(token["status"]["token"].is_string());
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let (_, review) = send(Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review).await;
    assert_eq!(review["status"]["allowed"], true);
    let (_, gone) = send(Method::DELETE, &format!("{sets}/a"), Value::Null).await;
    assert_eq!((&gone["status"], &gone["details"]["kind"]), (&json!("Success"), &json!("deployments")));
    for (path, kind) in [
        ("/api", "APIVersions"),
        ("/apis", "APIGroupList"),
        ("/apis/apps", "APIGroup"),
        ("/apis/apps/v1", "APIResourceList"),
    ] {
        assert_eq!(asked(&fixture, Method::GET, path, PROTOBUF, &Value::Null).await.1, PROTOBUF, "{kind}");
    }
    let aggregated = "application/vnd.kubernetes.protobuf;as=APIGroupDiscoveryList;g=apidiscovery.k8s.io;v=v2";
    let (code, kind, bytes) = asked(&fixture, Method::GET, "/apis", aggregated, &Value::Null).await;
    assert_eq!(
        (code, kind.as_str()),
        (200, "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
    );
    assert!(schema::protobuf::decode(&bytes).unwrap()["items"].as_array().unwrap().len() > 5);
}

#[tokio::test]
async fn bodies_are_understood_in_protobuf_whatever_they_are() {
    let fixture = Fixture::new().await;
    let send = async |method: Method, path: &str, object: &Value| {
        let mut request = http::Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, PROTOBUF);
        request = request.header(header::USER_AGENT, "test/1");
        let body = schema::protobuf::encode(object).unwrap();
        let response = fixture.open_bytes(request.body(body).unwrap()).await;
        let code = response.status().as_u16();
        (code, serde_json::from_slice::<Value>(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
    };
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    assert_eq!(send(Method::POST, MAPS, &map).await.0, 201);
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}});
    let (code, refused) = send(Method::DELETE, &format!("{MAPS}/a"), &options).await;
    assert_eq!(code, 409, "{refused}");
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
    assert_eq!(send(Method::DELETE, &format!("{MAPS}/a"), &options).await.0, 200);
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let (code, review) = send(Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await;
    assert_eq!((code, &review["status"]["allowed"]), (201, &json!(true)));
}

#[tokio::test]
async fn media_types_nobody_speaks_are_refused_in_upstream_s_words() {
    let fixture = Fixture::new().await;
    let (_, _, body) = asked(&fixture, Method::GET, MAPS, "application/xml", &Value::Null).await;
    let refused: Value = serde_json::from_slice(&body).unwrap();
    let produced = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!(refused["message"], format!("only the following media types are accepted: {produced}"));
    let watch = format!("{MAPS}?watch=1");
    let (code, _, body) = asked(&fixture, Method::GET, &watch, "application/yaml", &Value::Null).await;
    assert_eq!(code, 406);
    assert!(String::from_utf8_lossy(&body).contains("application/json;stream=watch, application/vnd"));
    let sent = fixture.send(request(Method::POST, MAPS, "text/json", "{}")).await;
    let (code, reason, message) = sent.failed();
    assert_eq!((code, reason.as_str()), (415, "UnsupportedMediaType"));
    assert_eq!(
        message,
        format!("the body of the request was in an unknown format - accepted media types include: {produced}")
    );
}

#[tokio::test]
async fn tables_are_of_scales_too_and_parameters_are_checked_at_once() {
    let fixture = Fixture::new().await;
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    let labels = json!({"app": "a"});
    let controller = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2, "selector": labels,
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    fixture.post(controllers, &controller).await.ok();
    for subresource in ["scale", "status"] {
        let path = format!("{controllers}/a/{subresource}");
        let (_, _, body) = asked(&fixture, Method::GET, &path, table, &Value::Null).await;
        let shown: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&shown["kind"], &shown["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")), "{subresource}");
        assert_eq!(shown["rows"][0]["cells"][1], 2);
    }
    let path = format!("{MAPS}?watch=1&includeObject=unrecognized");
    let (code, _, body) = asked(&fixture, Method::GET, &path, table, &Value::Null).await;
    let refused: Value = serde_json::from_slice(&body).unwrap();
    let wanted = "Unable to convert to Table as requested: includeObject: Invalid value: \"unrecognized\": must be 'Metadata', 'Object', 'None', or empty";
    assert_eq!((code, &refused["message"]), (400, &json!(wanted)));
    let unknown = format!("{MAPS}?watch=1");
    let (_, _, body) =
        asked(&fixture, Method::GET, &unknown, "application/json;as=Other;g=meta.k8s.io;v=v1", &Value::Null).await;
    assert!(String::from_utf8_lossy(&body).contains("application/json, application/yaml, application/vnd"));
}
