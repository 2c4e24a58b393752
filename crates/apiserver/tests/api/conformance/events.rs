//! Events in both groups: one storage, two forms.

use serde_json::json;

use crate::fixture::{Fixture, MERGE};

const CORE: &str = "/api/v1/namespaces/default/events";
const NEW: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

#[tokio::test]
async fn an_event_of_the_newer_group_is_found_in_both() {
    let fixture = Fixture::new().await;
    let event = json!({"metadata": {"name": "e", "labels": {"t": "1"}}, "regarding": {"namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "note": "This is a test event", "reason": "Test", "type": "Normal",
        "action": "Do", "reportingController": "test-controller", "reportingInstance": "test-node"});
    fixture.post(NEW, &event).await.ok();
    for path in [
        "/api/v1/events?fieldSelector=source=test-controller".to_owned(),
        format!("{CORE}?fieldSelector=reportingComponent=test-controller"),
        format!("{NEW}?fieldSelector=reportingController=test-controller"),
        "/apis/events.k8s.io/v1/events?labelSelector=t=1".to_owned(),
    ] {
        let list = fixture.get(&path).await.ok();
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{path}");
    }
    assert_eq!(fixture.get(&format!("{CORE}/e")).await.ok()["message"], "This is a test event");
    fixture.patch(&format!("{NEW}/e"), MERGE, &json!({"note": "patched"})).await.ok();
    assert_eq!(fixture.get(&format!("{CORE}/e")).await.ok()["message"], "patched");
    let mut live = fixture.get(&format!("{NEW}/e")).await.ok();
    // an update that names no version is taken as it comes
    live["metadata"]["resourceVersion"] = "".into();
    live["metadata"].as_object_mut().unwrap().remove("managedFields");
    live["series"] = json!({"count": 100, "lastObservedTime": "2026-01-01T00:00:10.000000Z"});
    let updated = fixture.put(&format!("{NEW}/e"), &live).await.ok();
    assert_eq!(updated["series"]["count"], 100);
    fixture.delete(&format!("{NEW}/e")).await.ok();
    assert_eq!(fixture.get(&format!("{CORE}/e")).await.status, 404);
}

#[tokio::test]
async fn a_collection_of_events_goes_at_once() {
    let fixture = Fixture::new().await;
    for name in ["one", "two", "three"] {
        let event = json!({"metadata": {"name": name, "labels": {"set": "x"}}, "message": "m", "reason": "R",
            "involvedObject": {"namespace": "default"}, "type": "Normal"});
        fixture.post(CORE, &event).await.ok();
    }
    let selected = format!("{CORE}?labelSelector=set=x");
    assert_eq!(fixture.get(&selected).await.ok()["items"].as_array().unwrap().len(), 3);
    fixture.delete(&selected).await.ok();
    assert_eq!(fixture.get(&selected).await.ok()["items"].as_array().unwrap().len(), 0);
}
