//! Quotas are counted when they are made, charged by writes, and given back by what ends.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
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
