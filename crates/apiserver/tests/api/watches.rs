//! Watches: from now, from a version, from the beginning; through selectors; bookmarks; their end.

use http::{HeaderValue, Method, header};
use serde_json::json;

use crate::fixture::{Fixture, Lines, MERGE, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, color: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "labels": {"color": color}}})
}

#[tokio::test]
async fn a_watch_tells_every_change_after_its_version_in_order() {
    let fixture = Fixture::new().await;
    let since = fixture.get(MAPS).await.ok()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    fixture.post(MAPS, &map("a", "red")).await.ok();
    let mut watch = Lines::open(&fixture, &format!("{MAPS}?watch=1&resourceVersion={since}")).await;
    assert_eq!(watch.named().await, ("ADDED".into(), "a".into()));
    fixture.patch(&format!("{MAPS}/a"), MERGE, &json!({"data": {"k": "v"}})).await.ok();
    fixture.delete(&format!("{MAPS}/a")).await.ok();
    fixture.post("/api/v1/namespaces/kube-system/configmaps", &map("other", "red")).await.ok();
    let modified = watch.next().await.unwrap();
    assert_eq!(modified["object"]["data"]["k"], "v");
    let deleted = watch.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    let version = |event: &serde_json::Value| {
        event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
    };
    assert!(version(&deleted) > version(&modified));
}

#[tokio::test]
async fn selected_watches_see_objects_come_and_go_with_their_labels() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &map("a", "red")).await.ok();
    let mut watch = Lines::open(&fixture, &format!("{MAPS}?watch=1&labelSelector=color%3Dred")).await;
    assert_eq!(watch.named().await, ("ADDED".into(), "a".into()));
    fixture.post(MAPS, &map("b", "blue")).await.ok();
    let blue = json!({"metadata": {"labels": {"color": "blue"}}});
    let left = fixture.patch(&format!("{MAPS}/a"), MERGE, &blue).await.ok();
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["metadata"]["labels"]["color"]), (&json!("DELETED"), &json!("red")));
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    fixture.patch(&format!("{MAPS}/b"), MERGE, &json!({"metadata": {"labels": {"color": "red"}}})).await.ok();
    assert_eq!(watch.named().await, ("ADDED".into(), "b".into()));
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &map("a", "red")).await.ok();
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    );
    let mut watch = Lines::open(&fixture, &path).await;
    assert_eq!(watch.named().await, ("ADDED".into(), "a".into()));
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    // the time is over: a last bookmark, then the end
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_version_from_the_future_or_forgotten_past_is_refused() {
    let fixture = Fixture::new().await;
    let (code, ..) = fixture.get(&format!("{MAPS}?watch=1&resourceVersion=99999")).await.failed();
    assert_eq!(code, 504);
}

#[tokio::test]
async fn one_object_and_tables_can_be_watched() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &map("a", "red")).await.ok();
    fixture.post(MAPS, &map("b", "red")).await.ok();
    let mut one = Lines::open(&fixture, &format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Db")).await;
    assert_eq!(one.named().await, ("ADDED".into(), "b".into()));
    let mut request = request(Method::GET, &format!("{MAPS}?watch=1&timeoutSeconds=1"), "", "");
    let table = HeaderValue::from_static("application/json;as=Table;g=meta.k8s.io;v=v1");
    request.headers_mut().insert(header::ACCEPT, table);
    let text = fixture.send(request).await;
    let first = text.body.as_str().unwrap().lines().next().unwrap().to_owned();
    let first: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
}

#[tokio::test]
async fn an_informer_of_kube_follows() {
    use futures::StreamExt as _;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{
        Api,
        runtime::{WatchStreamExt as _, watcher},
    };
    let fixture = Fixture::new().await;
    let client = fixture.server.client(crate::fixture::admin());
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut stream = std::pin::pin!(watcher(maps.clone(), watcher::Config::default()).applied_objects());
    fixture.post(MAPS, &map("a", "red")).await.ok();
    let seen = stream.next().await.unwrap().unwrap();
    assert_eq!(seen.metadata.name.as_deref(), Some("a"));
    fixture.post(MAPS, &map("b", "red")).await.ok();
    assert_eq!(stream.next().await.unwrap().unwrap().metadata.name.as_deref(), Some("b"));
    let mut streaming = std::pin::pin!(watcher(maps, watcher::Config::default().streaming_lists()).applied_objects());
    assert_eq!(streaming.next().await.unwrap().unwrap().metadata.name.as_deref(), Some("a"));
}
