//! Quotas are counted when they are made, charged by writes, and given back by what ends.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use crate::cluster::{Cluster, object};

fn used(quota: &ResourceQuota) -> Value {
    serde_json::to_value(quota.status.clone().unwrap_or_default().used).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_follows_what_its_namespace_uses() {
    let cluster = Cluster::start(1).await;
    cluster.create::<ConfigMap>(json!({"metadata": {"name": "early"}})).await;
    let hard = json!({"pods": "2", "requests.cpu": "1", "services.nodeports": "1", "configmaps": "10",
        "count/deployments.apps": "1"});
    cluster.create::<ResourceQuota>(json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    let expect =
        |wish: &'static str, pods: &'static str, cpu: &'static str, ports: &'static str, maps: &'static str| {
            let cluster = &cluster;
            async move {
                let wanted = json!({"pods": pods, "requests.cpu": cpu, "services.nodeports": ports, "configmaps": maps,
                "count/deployments.apps": "0"});
                cluster.until_one::<ResourceQuota>("q", wish, |quota| used(quota) == wanted).await
            }
        };
    // the namespace's own ConfigMap with the certificate authority counts too
    let counted = expect("is counted", "0", "0", "0", "2").await;
    assert_eq!(counted.status.as_ref().unwrap().hard, counted.spec.as_ref().unwrap().hard);
    let pod = |name: &str| {
        let requests = json!({"requests": {"cpu": "500m"}});
        json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "i", "resources": requests}]}})
    };
    cluster.create::<Pod>(pod("a")).await;
    cluster.create::<Pod>(pod("b")).await;
    let full = cluster.api::<Pod>().create(&PostParams::default(), &object(pod("c"))).await.unwrap_err();
    assert!(full.to_string().contains("exceeded quota: q, requested: pods=1,requests.cpu=500m"), "{full}");
    expect("is charged", "2", "1", "0", "2").await;
    let ended = json!({"status": {"phase": "Succeeded"}});
    cluster.api::<Pod>().patch_status("a", &PatchParams::default(), &Patch::Merge(ended)).await.unwrap();
    expect("gets back what an ended pod had", "1", "500m", "0", "2").await;
    cluster.api::<Pod>().delete("b", &DeleteParams::default()).await.unwrap();
    expect("gets back what a deleted pod had", "0", "0", "0", "2").await;

    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    cluster.create::<Service>(service).await;
    expect("is charged for a port", "0", "0", "1", "2").await;
    cluster.api::<Service>().delete("s", &DeleteParams::default()).await.unwrap();
    expect("gets the port back", "0", "0", "0", "2").await;
    cluster.api::<ConfigMap>().delete("early", &DeleteParams::default()).await.unwrap();
    expect("gets the ConfigMap back", "0", "0", "0", "1").await;

    let wider = json!({"spec": {"hard": {"pods": "5"}}});
    cluster.api::<ResourceQuota>().patch("q", &PatchParams::default(), &Patch::Merge(wider)).await.unwrap();
    let widened = |quota: &ResourceQuota| {
        let hard = quota.status.as_ref().and_then(|status| status.hard.clone()).unwrap_or_default();
        hard.get("pods").is_some_and(|pods| pods.0 == "5")
    };
    cluster.until_one::<ResourceQuota>("q", "knows its new limits", widened).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_that_comes_after_its_limit_is_counted_from_then_on() {
    let cluster = Cluster::start(0).await;
    let name = "count/widgets.example.com";
    cluster.create::<ResourceQuota>(json!({"metadata": {"name": "q"}, "spec": {"hard": {(name): "2"}}})).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let definition = object(json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com",
        "scope": "Namespaced", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}}));
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    let counts = |count: &'static str| {
        cluster.until_one::<ResourceQuota>("q", count, move |quota| used(quota) == json!({(name): count}))
    };
    counts("0").await;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Widget"));
    let widgets: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &kind);
    widgets.create(&PostParams::default(), &DynamicObject::new("w", &kind)).await.unwrap();
    counts("1").await;
    widgets.delete("w", &DeleteParams::default()).await.unwrap();
    counts("0").await;
    cluster.stop().await;
}
