//! Create, update, validation levels, dry runs, status isolation, and what reads of other shapes give.

use http::{HeaderValue, Method, header};
use http_body_util::BodyExt as _;
use serde_json::json;

use crate::fixture::{Fixture, JSON, MERGE, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment() -> serde_json::Value {
    json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template":
        {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn a_created_object_has_an_identity_and_a_second_one_of_the_name_is_refused() {
    let fixture = Fixture::new().await;
    let created = fixture.post(MAPS, &json!({"metadata": {"name": "a", "uid": "mine"}, "data": {"k": "v"}})).await;
    assert_eq!(created.status, 201);
    let created = created.ok();
    assert_eq!(created["kind"], "ConfigMap");
    assert_ne!(created["metadata"]["uid"], "mine");
    assert_eq!(created["metadata"]["managedFields"][0]["manager"], "test");
    let (code, reason, message) = fixture.post(MAPS, &json!({"metadata": {"name": "a"}})).await.failed();
    assert_eq!((code, reason.as_str(), message.as_str()), (409, "AlreadyExists", "configmaps \"a\" already exists"));
    let generated = fixture.post(MAPS, &json!({"metadata": {"generateName": "g-"}})).await.ok();
    assert!(generated["metadata"]["name"].as_str().unwrap().starts_with("g-"));
    let (code, ..) = fixture.post(MAPS, &json!({"metadata": {"name": "Bad_Name"}})).await.failed();
    assert_eq!(code, 422);
    let (code, _, message) =
        fixture.post("/api/v1/namespaces/none/configmaps", &json!({"metadata": {"name": "a"}})).await.failed();
    assert_eq!((code, message.as_str()), (404, "namespaces \"none\" not found"));
}

#[tokio::test]
async fn updates_insist_on_the_version_they_name() {
    let fixture = Fixture::new().await;
    let first = fixture.post(MAPS, &json!({"metadata": {"name": "a"}, "data": {"k": "1"}})).await.ok();
    let path = format!("{MAPS}/a");
    let mut second = first.clone();
    second["data"]["k"] = "2".into();
    let second = fixture.put(&path, &second).await.ok();
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let (code, reason, message) = fixture.put(&path, &first).await.failed();
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(message.starts_with("Operation cannot be fulfilled on configmaps \"a\": the object has been modified"));
    let unconditional = fixture.put(&path, &json!({"metadata": {"name": "a"}, "data": {"k": "3"}})).await.ok();
    assert_eq!(unconditional["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(fixture.put(&format!("{MAPS}/none"), &json!({"metadata": {"name": "none"}})).await.status, 404);
    let (code, ..) = fixture.put(&path, &json!({"metadata": {"name": "b"}})).await.failed();
    assert_eq!(code, 400);
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_about_or_dropped() {
    let fixture = Fixture::new().await;
    let odd = json!({"metadata": {"name": "a"}, "dat": {}});
    let (code, _, message) = fixture.post(&format!("{MAPS}?fieldValidation=Strict"), &odd).await.failed();
    assert_eq!(code, 400);
    assert!(message.contains("strict decoding error: unknown field \"dat\""), "{message}");
    let warned = fixture.post(MAPS, &odd).await;
    assert_eq!(warned.headers[header::WARNING], "299 - \"unknown field \\\"dat\\\"\"");
    assert!(warned.ok().get("dat").is_none());
    let path = format!("{MAPS}?fieldValidation=Ignore");
    let ignored = fixture.post(&path, &json!({"metadata": {"name": "b"}, "dat": {}})).await;
    assert!(!ignored.headers.contains_key(header::WARNING));
    let (code, _, message) = fixture.post(MAPS, &json!({"metadata": {"name": "c"}, "data": {"k": 1}})).await.failed();
    assert_eq!(code, 400);
    assert!(message.contains("cannot unmarshal number"), "{message}");
}

#[tokio::test]
async fn names_that_go_on_in_names_of_pods_had_better_be_labels() {
    let fixture = Fixture::new().await;
    let mut dotted = deployment();
    dotted["metadata"]["name"] = "web.v1".into();
    let warning = fixture.post(DEPLOYMENTS, &dotted).await.headers[header::WARNING].to_str().unwrap().to_owned();
    let wanted = "299 - \"metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; \
        a DNS label is recommended: [must not contain dots]\"";
    assert_eq!(warning, wanted);
    assert!(!fixture.post(DEPLOYMENTS, &deployment()).await.headers.contains_key(header::WARNING));
    let (_, _, message) = fixture.post("/api/v1/namespaces", &json!({"metadata": {"name": "a.b"}})).await.failed();
    assert_eq!(message, r#"Namespace "a.b" is invalid: metadata.name: Invalid value: "a.b": must not contain dots"#);
}

#[tokio::test]
async fn a_dry_run_answers_and_stores_nothing() {
    let fixture = Fixture::new().await;
    let answer = fixture.post(&format!("{MAPS}?dryRun=All"), &json!({"metadata": {"name": "a"}})).await;
    assert_eq!(answer.status, 201);
    assert_eq!(fixture.get(&format!("{MAPS}/a")).await.status, 404);
    fixture.post(MAPS, &json!({"metadata": {"name": "a"}, "data": {"k": "1"}})).await.ok();
    let patch = json!({"data": {"k": "2"}});
    let patched = fixture.patch(&format!("{MAPS}/a?dryRun=All"), MERGE, &patch).await.ok();
    assert_eq!(patched["data"]["k"], "2");
    fixture.delete(&format!("{MAPS}/a?dryRun=All")).await.ok();
    assert_eq!(fixture.get(&format!("{MAPS}/a")).await.ok()["data"]["k"], "1");
}

#[tokio::test]
async fn status_and_spec_are_written_through_their_own_doors() {
    let fixture = Fixture::new().await;
    let mut object = deployment();
    object["status"] = json!({"replicas": 9});
    let created = fixture.post(DEPLOYMENTS, &object).await.ok();
    assert!(created["status"]["replicas"].is_null());
    assert_eq!(created["metadata"]["generation"], 1);
    let path = format!("{DEPLOYMENTS}/web");
    let both = json!({"spec": {"replicas": 4}, "status": {"replicas": 2, "observedGeneration": 1}});
    let status = fixture.patch(&format!("{path}/status"), MERGE, &both).await.ok();
    assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(1), &json!(2)));
    assert_eq!(status["metadata"]["generation"], 1);
    let spec = fixture.patch(&path, MERGE, &json!({"spec": {"replicas": 4}, "status": {"replicas": 7}})).await.ok();
    assert_eq!((&spec["spec"]["replicas"], &spec["status"]["replicas"]), (&json!(4), &json!(2)));
    assert_eq!(spec["metadata"]["generation"], 2);
    let entries = spec["metadata"]["managedFields"].as_array().unwrap();
    assert!(entries.iter().any(|entry| entry["subresource"] == "status"));
}

#[tokio::test]
async fn what_a_kind_does_not_have_is_not_there() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &json!({"metadata": {"name": "a"}})).await.ok();
    assert_eq!(fixture.get(&format!("{MAPS}/a/status")).await.failed().0, 404, "config maps have no status");
    assert_eq!(fixture.put(&format!("{MAPS}/a/status"), &json!({})).await.failed().0, 404);
    assert_eq!(fixture.get(&format!("{MAPS}/a/scale")).await.failed().0, 404);
    assert_eq!(fixture.put(MAPS, &json!({"metadata": {"name": "a"}})).await.failed().0, 405, "a collection has no PUT");
    assert_eq!(fixture.post(&format!("{MAPS}/a"), &json!({})).await.failed().0, 405, "an object has no POST");
}

#[tokio::test]
async fn scale_stands_for_the_replicas() {
    let fixture = Fixture::new().await;
    fixture.post(DEPLOYMENTS, &deployment()).await.ok();
    let path = format!("{DEPLOYMENTS}/web/scale");
    let mut scale = fixture.get(&path).await.ok();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    assert_eq!(scale["status"]["selector"], "a=b");
    scale["spec"]["replicas"] = 5.into();
    assert_eq!(fixture.put(&path, &scale).await.ok()["spec"]["replicas"], 5);
    assert_eq!(fixture.put(&path, &scale).await.failed().0, 409);
    fixture.patch(&path, MERGE, &json!({"spec": {"replicas": 6}})).await.ok();
    assert_eq!(fixture.get(&format!("{DEPLOYMENTS}/web")).await.ok()["spec"]["replicas"], 6);
    assert_eq!(fixture.patch(&path, MERGE, &json!({"spec": {"replicas": -1}})).await.failed().0, 422);
    scale["spec"] = "five".into();
    let (code, _, message) = fixture.put(&path, &scale).await.failed();
    let why = "json: cannot unmarshal string into Go struct field Scale.spec of type v1.ScaleSpec";
    let handled = r#"Scale in version "v1" cannot be handled as a Scale: "#;
    assert_eq!((code, message), (400, format!("{handled}{why}")));
    let (code, _, message) = fixture.patch(&path, MERGE, &json!({"spec": {"replicas": "five"}})).await.failed();
    assert_eq!(code, 422);
    assert!(message.contains("ScaleSpec.spec.replicas of type int32"), "{message}");
    let other = json!({"kind": "Scale", "metadata": {"name": "other"}, "spec": {"replicas": 1}});
    let (code, _, message) = fixture.put(&path, &other).await.failed();
    assert_eq!(
        (code, message.as_str()),
        (400, "the name of the object (other) does not match the name on the URL (web)")
    );
    let other = json!({"kind": "ConfigMap", "apiVersion": "autoscaling/v1", "metadata": {"name": "web"}});
    let (_, _, message) = fixture.put(&path, &other).await.failed();
    assert_eq!(
        message,
        r#"ConfigMap in version "v1" cannot be handled as a Scale: converting (v1.ConfigMap) to (v1.Scale): unknown conversion"#
    );
}

#[tokio::test]
async fn events_are_the_same_objects_in_both_groups() {
    let fixture = Fixture::new().await;
    let event =
        json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default", "name": "x"}, "message": "m"});
    fixture.post("/api/v1/namespaces/default/events", &event).await.ok();
    let other = fixture.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.ok();
    assert_eq!((&other["apiVersion"], &other["note"]), (&json!("events.k8s.io/v1"), &json!("m")));
    assert_eq!(other["regarding"]["name"], "x");
    let list = fixture.get("/apis/events.k8s.io/v1/events").await.ok();
    assert_eq!(list["items"][0]["note"], "m");
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let fixture = Fixture::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    fixture
        .post(pods, &json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}))
        .await
        .ok();
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(fixture.post(&format!("{pods}/p/binding"), &binding).await.status, 201);
    let pod = fixture.get(&format!("{pods}/p")).await.ok();
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
    let (code, _, message) = fixture.post(&format!("{pods}/p/binding"), &binding).await.failed();
    assert_eq!(code, 409);
    assert!(message.contains("pod p is already assigned to node \"n1\""), "{message}");
}

#[tokio::test]
async fn other_shapes_and_encodings_are_made_on_request() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "v"}})).await.ok();
    let shaped = async |accept: &'static str, path: &str| {
        let mut request = request(Method::GET, path, "", "");
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
        fixture.send(request).await
    };
    let partial =
        shaped("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", &format!("{MAPS}/a")).await.ok();
    assert_eq!(partial["kind"], "PartialObjectMetadata");
    assert!(partial.get("data").is_none());
    let list = shaped("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", MAPS).await.ok();
    assert_eq!(list["items"][0]["metadata"]["labels"]["x"], "y");
    let table = shaped("application/json;as=Table;g=meta.k8s.io;v=v1", MAPS).await.ok();
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let yaml = shaped("application/yaml", &format!("{MAPS}/a")).await;
    assert_eq!(yaml.headers[header::CONTENT_TYPE], "application/yaml");
    assert!(yaml.body.as_str().unwrap().contains("kind: ConfigMap"));
    assert_eq!(shaped("application/xml", MAPS).await.failed().0, 406);
}

#[tokio::test]
async fn protobuf_is_spoken_to_clients_that_take_nothing_else() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await.ok();
    let get = async |path: &str| {
        let mut request = request(Method::GET, path, "", "");
        let accept = HeaderValue::from_static("application/vnd.kubernetes.protobuf");
        request.headers_mut().insert(header::ACCEPT, accept);
        let response = fixture.open(request).await;
        let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        (response.status().as_u16(), kind, response.into_body().collect().await.unwrap().to_bytes())
    };
    let (code, kind, bytes) = get(&format!("{MAPS}/a")).await;
    assert_eq!((code, kind.as_str()), (200, "application/vnd.kubernetes.protobuf"));
    let object = schema::protobuf::decode(&bytes).unwrap();
    assert_eq!((&object["metadata"]["name"], &object["data"]["k"]), (&json!("a"), &json!("v")));
    let list = schema::protobuf::decode(&get(MAPS).await.2).unwrap();
    assert_eq!((&list["kind"], &list["items"][0]["data"]["k"]), (&json!("ConfigMapList"), &json!("v")));
    let (_, kind, frames) = get(&format!("{MAPS}?watch=1&timeoutSeconds=0")).await;
    assert_eq!(kind, "application/vnd.kubernetes.protobuf;stream=watch");
    let length = u32::from_be_bytes(frames[..4].try_into().unwrap());
    assert_eq!(usize::try_from(length).unwrap(), frames.len() - 4, "one event, framed");
    assert_eq!(&frames[4..11], b"\x0a\x05ADDED");
}

#[tokio::test]
async fn services_get_addresses_and_give_them_back() {
    let fixture = Fixture::new().await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let created = fixture.post(services, &service).await.ok();
    let address = created["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.96."), "{address}");
    assert!(created["spec"]["ports"][0]["nodePort"].as_i64().unwrap() >= 30000);
    let same = json!({"metadata": {"name": "t"}, "spec": {"clusterIP": address, "ports": [{"port": 80}]}});
    assert_eq!(fixture.post(services, &same).await.failed().0, 422);
    fixture.delete(&format!("{services}/s")).await.ok();
    fixture.post(services, &same).await.ok();
}

#[tokio::test]
async fn an_approval_is_written_through_its_own_door() {
    let fixture = Fixture::new().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let object = json!({"metadata": {"name": "r"}, "spec": {"request": crate::matrix::CSR, "signerName": "test.dev/s", "usages": ["client auth"]}});
    let mut approved = fixture.post(requests, &object).await.ok();
    approved["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]);
    let ignored = fixture.put(&format!("{requests}/r"), &approved).await.ok();
    assert!(ignored["status"]["conditions"].is_null());
    let stored = fixture.put(&format!("{requests}/r/approval"), &approved).await.ok();
    assert_eq!(stored["status"]["conditions"][0]["type"], "Approved");
}

#[tokio::test]
async fn concurrent_updates_without_a_version_all_succeed() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &json!({"metadata": {"name": "a"}})).await.ok();
    let path = format!("{MAPS}/a");
    let objects: Vec<_> = (0..8).map(|i| json!({"metadata": {"name": "a"}, "data": {"k": i.to_string()}})).collect();
    let all = futures::future::join_all(objects.iter().map(|object| fixture.put(&path, object))).await;
    let stored: Vec<_> = all.into_iter().map(|answer| answer.ok()["data"]["k"].clone()).collect();
    assert!(stored.contains(&fixture.get(&path).await.ok()["data"]["k"]));
}

#[tokio::test]
async fn events_go_when_their_time_has_come() {
    let config =
        apiserver::ApiServerConfig { event_ttl: std::time::Duration::ZERO, ..apiserver::ApiServerConfig::default() };
    let fixture = Fixture::configured(config).await;
    let events = "/api/v1/namespaces/default/events";
    let mut lines = crate::fixture::Lines::open(&fixture, &format!("{events}?watch=1")).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(fixture.server.clone().run(stop.clone()));
    let object = json!({"kind": "Pod", "namespace": "default", "name": "p"});
    let event =
        json!({"metadata": {"name": "e"}, "involvedObject": object, "reason": "R", "message": "m", "type": "Normal"});
    fixture.post(events, &event).await.ok();
    assert_eq!(lines.named().await, ("ADDED".into(), "e".into()));
    assert_eq!(lines.named().await, ("DELETED".into(), "e".into()));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_body_that_is_no_object_is_shown_to_whoever_sent_it() {
    let fixture = Fixture::new().await;
    let yaml =
        request(Method::POST, "/api/v1/namespaces", JSON, "apiVersion: v1\nkind: Pod\nmetadata:\n  name: valid-pod\n");
    let (code, reason, message) = fixture.send(yaml).await.failed();
    assert_eq!((code, reason.as_str()), (400, "BadRequest"));
    let start = "the object provided is unrecognized (must be of type Namespace): couldn't get version/kind; json parse error: ";
    assert!(message.starts_with(start), "{message}");
    assert!(message.ends_with("(61706956657273696f6e3a2076310a6b696e643a20506f640a6d65746164 ...)"), "{message}");
    let cut = request(Method::POST, "/api/v1/namespaces", JSON, "{\"kind\":");
    assert!(fixture.send(cut).await.failed().2.ends_with("({\"kind\":)"));
}

#[tokio::test]
async fn people_get_lines_and_scripts_the_members_in_order() {
    let fixture = Fixture::new().await;
    let text = async |path: &str, agent: &str| {
        let mut request = request(Method::GET, path, JSON, "");
        request.headers_mut().insert(header::USER_AGENT, agent.parse().unwrap());
        let body = fixture.open(request).await.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    };
    let list = text("/api/v1", "kubectl/v1.36.0").await;
    assert!(
        list.starts_with(r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"v1","resources":[{"name":"#)
    );
    let maps = r#"{"name":"configmaps","singularName":"configmap","namespaced":true,"kind":"ConfigMap","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"shortNames":["cm"],"storageVersionHash":"#;
    assert!(list.contains(maps), "{list}");
    let review = r#"{"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}"#;
    let mut ask = request(Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", JSON, review);
    ask.headers_mut().insert(header::USER_AGENT, "curl/8.5.0".parse().unwrap());
    let body = fixture.open(ask).await.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("\n    \"allowed\": true"));
    assert!(text("/api/v1/namespaces/none", "curl/8.5.0").await.contains("\n  \"reason\": \"NotFound\""));
    assert!(text("/version", "kubectl/v1.36.0").await.starts_with("{\n  \"major\": \"1\",\n  \"minor\""));
}
