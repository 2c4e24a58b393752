//! Watches: restarting where the last one ended, leaving a selection, and one order for all.

use serde_json::json;

use crate::fixture::{Fixture, Lines, MERGE};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_watch_goes_on_where_another_stopped() {
    let fixture = Fixture::new().await;
    let mut first = Lines::open(&fixture, &format!("{MAPS}?watch=1&labelSelector=w=x")).await;
    fixture.post(MAPS, &json!({"metadata": {"name": "m", "labels": {"w": "x"}}})).await.ok();
    let change = async |value: &str| {
        fixture.patch(&format!("{MAPS}/m"), MERGE, &json!({"data": {"mutation": value}})).await.ok()
    };
    change("1").await;
    assert_eq!(first.named().await.0, "ADDED");
    let last = first.next().await.unwrap();
    let version = last["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    drop(first);
    change("2").await;
    fixture.delete(&format!("{MAPS}/m")).await.ok();
    let again = format!("{MAPS}?watch=1&labelSelector=w=x&resourceVersion={version}");
    let mut second = Lines::open(&fixture, &again).await;
    let next = second.next().await.unwrap();
    assert_eq!((&next["type"], &next["object"]["data"]["mutation"]), (&json!("MODIFIED"), &json!("2")));
    assert_eq!(second.named().await.0, "DELETED");
}

#[tokio::test]
async fn an_object_that_leaves_a_selection_and_comes_back_is_deleted_and_added() {
    let fixture = Fixture::new().await;
    let mut watch = Lines::open(&fixture, &format!("{MAPS}?watch=1&labelSelector=w=x")).await;
    fixture.post(MAPS, &json!({"metadata": {"name": "m", "labels": {"w": "x"}}})).await.ok();
    let label = async |value: &str| {
        fixture.patch(&format!("{MAPS}/m"), MERGE, &json!({"metadata": {"labels": {"w": value}}})).await.ok()
    };
    label("y").await;
    fixture.patch(&format!("{MAPS}/m"), MERGE, &json!({"data": {"unseen": "1"}})).await.ok();
    label("x").await;
    for kind in ["ADDED", "DELETED", "ADDED"] {
        assert_eq!(watch.named().await.0, kind);
    }
}

#[tokio::test]
async fn watches_from_any_version_see_one_order() {
    let fixture = Fixture::new().await;
    let mut all = Lines::open(&fixture, &format!("{MAPS}?watch=1")).await;
    let mut versions = Vec::new();
    for index in 0..20 {
        let name = format!("cm-{}", index % 5);
        let path = format!("{MAPS}/{name}");
        match index / 5 % 2 {
            0 => fixture.post(MAPS, &json!({"metadata": {"name": name}})).await.ok(),
            _ => fixture.delete(&path).await.ok(),
        };
        let event = all.next().await.unwrap();
        versions.push(event["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned());
    }
    for from in 0..19 {
        let path = format!("{MAPS}?watch=1&resourceVersion={}", versions[from]);
        let mut watch = Lines::open(&fixture, &path).await;
        for wanted in &versions[from + 1..] {
            let event = watch.next().await.unwrap();
            assert_eq!(event["object"]["metadata"]["resourceVersion"], *wanted);
        }
    }
}
