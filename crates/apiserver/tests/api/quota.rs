//! Quotas: what is charged with a write, what is refused, and that races end in exactly what there is room for.

use serde_json::{Value, json};

use crate::fixture::{Fixture, MERGE};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

/// A quota whose status says that nothing is used; in a whole cluster a controller computes it.
async fn quota(fixture: &Fixture, hard: &[(&str, &str)]) {
    let list = |zero: bool| -> Value {
        hard.iter().map(|(name, amount)| ((*name).to_owned(), json!(if zero { "0" } else { amount }))).collect()
    };
    let (hard, used) = (list(false), list(true));
    fixture.post(QUOTAS, &json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await.ok();
    let status = json!({"status": {"hard": hard, "used": used}});
    fixture.patch(&format!("{QUOTAS}/q/status"), MERGE, &status).await.ok();
}

async fn used(fixture: &Fixture) -> Value {
    fixture.get(&format!("{QUOTAS}/q")).await.ok()["status"]["used"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_creates_at_once_exactly_as_many_succeed_as_there_is_room_for() {
    let fixture = Fixture::new().await;
    quota(&fixture, &[("configmaps", "10")]).await;
    let fixture = &fixture;
    let create = |index: usize| async move {
        let object = json!({"metadata": {"name": format!("c{index}")}});
        fixture.post("/api/v1/namespaces/default/configmaps", &object).await
    };
    let answers = futures::future::join_all((0..32).map(create)).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!((made.len(), refused.len()), (10, 22));
    for answer in refused {
        let (code, reason, message) = answer.failed();
        assert_eq!((code, reason.as_str()), (403, "Forbidden"));
        assert!(
            message.ends_with(
                "is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=10, limited: configmaps=10"
            ),
            "{message}"
        );
    }
    assert_eq!(used(fixture).await, json!({"configmaps": "10"}));
    let listed = fixture.get("/api/v1/namespaces/default/configmaps").await.ok();
    assert_eq!(listed["items"].as_array().unwrap().len(), 10);
}

#[tokio::test]
async fn pods_are_charged_for_what_they_ask() {
    let fixture = Fixture::new().await;
    quota(&fixture, &[("pods", "2"), ("requests.cpu", "1"), ("count/pods", "5")]).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, resources: Value| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}});
    let (_, _, message) = fixture.post(pods, &pod("a", json!({}))).await.failed();
    assert_eq!(message, "pods \"a\" is forbidden: failed quota: q: must specify requests.cpu for: c");
    let asks = |cpu: &str| json!({"requests": {"cpu": cpu}});
    fixture.post(pods, &pod("a", asks("600m"))).await.ok();
    let (_, _, message) = fixture.post(pods, &pod("b", asks("600m"))).await.failed();
    assert_eq!(
        message,
        "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"
    );
    // a dry run is checked and not charged
    let dry = fixture.post(&format!("{pods}?dryRun=All"), &pod("b", asks("600m"))).await;
    assert_eq!(dry.failed().0, 403);
    fixture.post(&format!("{pods}?dryRun=All"), &pod("b", asks("100m"))).await.ok();
    fixture.post(pods, &pod("b", asks("400m"))).await.ok();
    assert_eq!(used(&fixture).await, json!({"pods": "2", "requests.cpu": "1", "count/pods": "2"}));
}

#[tokio::test]
async fn a_service_is_charged_for_what_a_change_adds() {
    let fixture = Fixture::new().await;
    quota(&fixture, &[("services", "5"), ("services.nodeports", "1"), ("services.loadbalancers", "0")]).await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    fixture.post(services, &service).await.ok();
    let change = |kind: &'static str| {
        let fixture = &fixture;
        async move { fixture.patch(&format!("{services}/s"), MERGE, &json!({"spec": {"type": kind}})).await }
    };
    change("NodePort").await.ok();
    assert_eq!(
        used(&fixture).await,
        json!({"services": "1", "services.nodeports": "1", "services.loadbalancers": "0"})
    );
    let (_, _, message) = change("LoadBalancer").await.failed();
    assert!(message.contains("exceeded quota: q, requested: services.loadbalancers=1,"), "{message}");
    change("ClusterIP").await.ok();
    assert_eq!(
        used(&fixture).await,
        json!({"services": "1", "services.nodeports": "0", "services.loadbalancers": "0"})
    );
}

#[tokio::test]
async fn custom_resources_are_counted() {
    let fixture = Fixture::new().await;
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    fixture.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await.ok();
    quota(&fixture, &[("count/widgets.example.com", "1")]).await;
    let widgets = "/apis/example.com/v1/namespaces/default/widgets";
    let widget = |name: &str| json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}});
    fixture.post(widgets, &widget("a")).await.ok();
    let (code, _, message) = fixture.post(widgets, &widget("b")).await.failed();
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "widgets.example.com \"b\" is forbidden: exceeded quota: q, requested: count/widgets.example.com=1, \
         used: count/widgets.example.com=1, limited: count/widgets.example.com=1"
    );
}
