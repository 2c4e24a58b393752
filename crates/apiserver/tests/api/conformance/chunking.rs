//! Long lists in pages, and going on after the first page's state is gone.

use std::{sync::Arc, time::Duration};

use apiserver::{ApiServer, ApiServerConfig};
use http::Method;
use identity::TokenSigner;
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, JSON, admin, request, send};

const TEMPLATES: &str = "/api/v1/namespaces/default/podtemplates";
const TOTAL: usize = 100;

fn template(index: usize) -> Value {
    json!({"metadata": {"name": format!("template-{index:04}")},
        "template": {"spec": {"containers": [{"name": "test", "image": "test2"}]}}})
}

/// Checks the names and the count of a page that begins at `from`; gives how many it holds.
fn check(page: &Value, from: usize) -> usize {
    let items = page["items"].as_array().unwrap();
    for (at, item) in items.iter().enumerate() {
        assert_eq!(item["metadata"]["name"], format!("template-{:04}", from + at));
    }
    let left = page["metadata"]["remainingItemCount"].as_u64();
    match page["metadata"]["continue"].as_str() {
        Some(_) => assert_eq!(left, Some((TOTAL - from - items.len()) as u64)),
        None => assert_eq!(left, None),
    }
    items.len()
}

#[tokio::test]
async fn pages_are_of_one_state_and_say_what_is_left() {
    let fixture = Fixture::new().await;
    for index in 0..TOTAL {
        fixture.post(TEMPLATES, &template(index)).await.ok();
    }
    for limit in [7, 10, 33] {
        let (mut found, mut version, mut token) = (0, Value::Null, String::new());
        loop {
            let page = fixture.get(&format!("{TEMPLATES}?limit={limit}{token}")).await.ok();
            if version.is_null() {
                version = page["metadata"]["resourceVersion"].clone();
            }
            assert_eq!(page["metadata"]["resourceVersion"], version);
            found += check(&page, found);
            let Some(next) = page["metadata"]["continue"].as_str() else { break };
            token = format!("&continue={next}");
            // another write between the pages shows in none of them
            fixture
                .post("/api/v1/namespaces/default/configmaps", &json!({"metadata": {"generateName": "x-"}}))
                .await
                .ok();
        }
        assert_eq!(found, TOTAL);
    }
    assert_eq!(check(&fixture.get(&format!("{TEMPLATES}?limit={}", TOTAL + 1)).await.ok(), 0), TOTAL);
}

#[tokio::test]
async fn an_expired_list_offers_to_go_on_in_the_present_state() {
    let directory = tempfile::tempdir().unwrap();
    // nothing of the past is kept
    let options = store::Options { retained_age: Duration::ZERO, ..store::Options::default() };
    let store = store::Store::open(directory.path().join("store"), options).unwrap();
    let signer = TokenSigner::load_or_create(&directory.path().join("sa.key"), "https://issuer").unwrap();
    let server = ApiServer::new(store, ApiServerConfig::default(), Arc::new(signer));
    server.bootstrap().await.unwrap();
    let ask = async |method: Method, path: &str, body: &str| -> Answer {
        send(server.service(Some(admin())), request(method, path, JSON, body)).await
    };
    for index in 0..TOTAL {
        ask(Method::POST, TEMPLATES, &template(index).to_string()).await.ok();
    }
    let first = ask(Method::GET, &format!("{TEMPLATES}?limit=10"), "").await.ok();
    let found = check(&first, 0);
    let changed = json!({"metadata": {"name": "template-0099", "labels": {"a": "b"}},
        "template": template(99)["template"]});
    ask(Method::PUT, &format!("{TEMPLATES}/template-0099"), &changed.to_string()).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let expired = ask(Method::GET, &format!("{TEMPLATES}?limit=10&continue={token}"), "").await;
    assert_eq!((expired.status.as_u16(), &expired.body["reason"]), (410, &json!("Expired")));
    let token = expired.body["metadata"]["continue"].as_str().unwrap();
    let second = ask(Method::GET, &format!("{TEMPLATES}?limit=10&continue={token}"), "").await.ok();
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(check(&second, found), 10);
}

#[tokio::test]
async fn any_state_that_watches_still_know_can_be_listed_exactly() {
    let fixture = Fixture::new().await;
    let mut versions = Vec::new();
    for index in 0..5 {
        let made = fixture.post(TEMPLATES, &template(index)).await.ok();
        versions.push(made["metadata"]["resourceVersion"].as_str().unwrap().to_owned());
    }
    fixture.delete(&format!("{TEMPLATES}/template-0000")).await.ok();
    for (index, version) in versions.iter().enumerate() {
        let path = format!("{TEMPLATES}?resourceVersion={version}&resourceVersionMatch=Exact");
        let list = fixture.get(&path).await.ok();
        assert_eq!(list["metadata"]["resourceVersion"], *version);
        assert_eq!(list["items"].as_array().unwrap().len(), index + 1);
    }
}
