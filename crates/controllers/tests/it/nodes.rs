use std::sync::Arc;
use std::time::Duration;

use controllers::ControllersConfig;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::cluster::Cluster;

/// A second node that goes on reporting, so that not all are lost.
async fn keep_alive(client: Client, name: &'static str) {
    let nodes: Api<Node> = Api::all(client);
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    loop {
        ticks.tick().await;
        let heard = json!({"status": {"conditions": [{"type": "Ready", "status": "True",
            "lastHeartbeatTime": jiff::Timestamp::now().strftime("%FT%T%.6fZ").to_string()}]}});
        let _ = nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(heard)).await;
    }
}

fn unreachable(node: &Node, effect: &str) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|taint| taint.key == "node.kubernetes.io/unreachable" && taint.effect == effect)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_stay_where_they_are_while_no_node_is_heard() {
    let mut config = ControllersConfig::new("the ca");
    config.node_monitor_grace_period = Duration::from_secs(3);
    config.eviction_rates.per_second = 10.0;
    let cluster = Cluster::start_with(2, config).await;
    let lost = |nodes: &[Arc<Node>]| {
        nodes.iter().all(|node| unreachable(node, "NoSchedule") && !unreachable(node, "NoExecute"))
    };
    let nodes = cluster.until::<Node>("both are lost and none is emptied", lost).await;
    assert_eq!(nodes.len(), 2);
    let kept = keep_alive(cluster.client.clone(), "node-1");
    let emptied =
        cluster.until_one::<Node>("node-0", "is emptied once another is heard", |node| unreachable(node, "NoExecute"));
    tokio::select! {
        () = kept => {}
        _ = emptied => {}
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_tainted_and_loses_the_pods_that_do_not_wait() {
    let mut config = ControllersConfig::new("the ca");
    config.node_monitor_grace_period = Duration::from_secs(2);
    let cluster = Cluster::start_with(2, config).await;
    let kept = keep_alive(cluster.client.clone(), "node-1");
    tokio::select! {
        () = kept => {}
        () = lose_node_0(&cluster) => {}
    }
    cluster.stop().await;
}

async fn lose_node_0(cluster: &Cluster) {
    let pod = |name: &str, seconds: i64| {
        json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "web:1"}], "nodeName": "node-0",
            "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds}]}})
    };
    cluster.create::<Pod>(pod("hasty", 0)).await;
    cluster.create::<Pod>(pod("patient", 3600)).await;
    let node = cluster.until_one::<Node>("node-0", "is emptied", |node| unreachable(node, "NoExecute")).await;
    let conditions = node.status.as_ref().unwrap().conditions.as_ref().unwrap();
    assert!(conditions.iter().any(|c| c.type_ == "Ready" && c.reason.as_deref() == Some("NodeStatusUnknown")));
    cluster.until::<Pod>("hasty is evicted", |pods| pods.len() == 1).await;
    let unready = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "False")
    };
    cluster.until_one::<Pod>("patient", "takes no traffic", unready).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    assert!(nodes.get_opt("node-0").await.unwrap().is_some());
}
