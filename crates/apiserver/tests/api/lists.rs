//! Lists: pages of one state, selectors, versions.

use serde_json::json;

use crate::fixture::Fixture;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn fill(fixture: &Fixture, count: usize) {
    for i in 0..count {
        let object = json!({"metadata": {"name": format!("m-{i:03}"), "labels": {"parity": (i % 2).to_string()}}});
        fixture.post(MAPS, &object).await.ok();
    }
}

#[tokio::test]
async fn pages_show_the_state_the_list_began_with() {
    let fixture = Fixture::new().await;
    fill(&fixture, 7).await;
    let first = fixture.get(&format!("{MAPS}?limit=3")).await.ok();
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    let token = first["metadata"]["continue"].as_str().unwrap();
    fixture.delete(&format!("{MAPS}/m-005")).await.ok();
    fixture.post(MAPS, &json!({"metadata": {"name": "m-0035"}})).await.ok();
    let rest = fixture.get(&format!("{MAPS}?limit=100&continue={token}")).await.ok();
    let names: Vec<&str> =
        rest["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["m-003", "m-004", "m-005", "m-006"]);
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(rest["metadata"].get("continue").is_none());
    assert_eq!(fixture.get(&format!("{MAPS}?continue=junk")).await.failed().0, 400);
}

#[tokio::test]
async fn selectors_choose_by_label_and_field() {
    let fixture = Fixture::new().await;
    fill(&fixture, 6).await;
    let count =
        async |query: &str| fixture.get(&format!("{MAPS}?{query}")).await.ok()["items"].as_array().unwrap().len();
    assert_eq!(count("labelSelector=parity%3D1").await, 3);
    assert_eq!(count("labelSelector=parity+in+(0,1)").await, 6);
    assert_eq!(count("labelSelector=!parity").await, 0);
    assert_eq!(count("fieldSelector=metadata.name%3Dm-001").await, 1);
    assert_eq!(count("fieldSelector=metadata.name!%3Dm-001&limit=2").await, 2);
    assert_eq!(fixture.get(&format!("{MAPS}?fieldSelector=spec.x%3Dy")).await.failed().0, 400);
    assert_eq!(fixture.get(&format!("{MAPS}?labelSelector=a%20b%20c")).await.failed().0, 400);
}

#[tokio::test]
async fn versions_are_exact_not_older_or_too_new() {
    let fixture = Fixture::new().await;
    fill(&fixture, 2).await;
    let now = fixture.get(MAPS).await.ok()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    fixture.get(&format!("{MAPS}?resourceVersion={now}&resourceVersionMatch=Exact")).await.ok();
    fixture.post(MAPS, &json!({"metadata": {"name": "later"}})).await.ok();
    let not_older = fixture.get(&format!("{MAPS}?resourceVersion={now}&resourceVersionMatch=NotOlderThan")).await.ok();
    assert_eq!(not_older["items"].as_array().unwrap().len(), 3);
    let exact = fixture.get(&format!("{MAPS}?resourceVersion={now}&resourceVersionMatch=Exact")).await.ok();
    assert_eq!(exact["items"].as_array().unwrap().len(), 2, "a past state that watches still know");
    let (code, reason, message) = fixture.get(&format!("{MAPS}?resourceVersion=999999")).await.failed();
    assert_eq!((code, reason.as_str()), (504, "Timeout"));
    assert!(message.contains("Too large resource version: 999999"), "{message}");
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_asks() {
    let fixture = Fixture::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let large = json!({"metadata": {"name": "large"}, "data": {"text": "x".repeat(200_000)}});
    fixture.post(maps, &large).await.ok();
    let small = json!({"metadata": {"name": "small"}, "data": {"text": "x"}});
    fixture.post(maps, &small).await.ok();
    let encoding = async |path: String, accept: &'static str| {
        let mut request = crate::fixture::request(http::Method::GET, &path, "", "");
        request.headers_mut().insert("accept-encoding", http::HeaderValue::from_static(accept));
        request.headers_mut().insert("accept", http::HeaderValue::from_static("application/json"));
        fixture.open(request).await.headers().get("content-encoding").cloned()
    };
    assert_eq!(encoding(format!("{maps}/large"), "gzip").await.unwrap(), "gzip");
    assert_eq!(encoding(maps.to_owned(), "gzip").await.unwrap(), "gzip");
    assert_eq!(encoding(format!("{maps}/large"), "identity").await, None);
    assert_eq!(encoding(format!("{maps}/small"), "gzip").await, None);
}

#[tokio::test]
async fn the_pods_of_a_node_are_found_in_every_state_and_page() {
    const PODS: &str = "/api/v1/namespaces/default/pods";
    let fixture = Fixture::new().await;
    let spec = |node: &str| json!({"nodeName": node, "containers": [{"name": "c", "image": "i:1"}]});
    for (name, node) in [("a", "n1"), ("b", "n2"), ("c", "n1"), ("d", "n10"), ("e", "n1")] {
        fixture.post(PODS, &json!({"metadata": {"name": name}, "spec": spec(node)})).await.ok();
    }
    fixture.post(PODS, &json!({"metadata": {"name": "waits"}, "spec": spec("")})).await.ok();
    let list = async |query: &str| fixture.get(&format!("/api/v1/pods?fieldSelector={query}")).await.ok();
    let names = |list: &serde_json::Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&list("spec.nodeName=n1").await), ["a", "c", "e"]);
    assert_eq!(names(&list("spec.nodeName=").await), ["waits"]);
    assert!(names(&list("spec.nodeName=n3").await).is_empty());
    assert!(names(&list("spec.nodeName=n1,spec.nodeName=n2").await).is_empty());
    assert_eq!(names(&list("spec.nodeName=n1,metadata.name!=a").await), ["c", "e"]);
    let page = list("spec.nodeName=n1&limit=2").await;
    assert_eq!(names(&page), ["a", "c"]);
    let (token, version) = (page["metadata"]["continue"].as_str().unwrap(), &page["metadata"]["resourceVersion"]);
    let binding = json!({"metadata": {"name": "waits"}, "target": {"kind": "Node", "name": "n1"}});
    fixture.post(&format!("{PODS}/waits/binding"), &binding).await.ok();
    fixture.delete(&format!("{PODS}/e?gracePeriodSeconds=0")).await.ok();
    assert_eq!(names(&list(&format!("spec.nodeName=n1&limit=2&continue={token}")).await), ["e"]);
    assert_eq!(names(&list("spec.nodeName=n1").await), ["a", "c", "waits"]);
    let past = format!("spec.nodeName=n1&resourceVersionMatch=Exact&resourceVersion={}", version.as_str().unwrap());
    assert_eq!(names(&list(&past).await), ["a", "c", "e"]);
}
