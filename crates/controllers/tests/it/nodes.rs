use std::time::Duration;

use controllers::ControllersConfig;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use serde_json::json;

use crate::cluster::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_tainted_and_loses_the_pods_that_do_not_wait() {
    let mut config = ControllersConfig::new("the ca");
    config.node_monitor_grace_period = Duration::from_secs(2);
    let cluster = Cluster::start_with(1, config).await;
    let pod = |name: &str, seconds: i64| {
        json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "web:1"}],
            "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds}]}})
    };
    cluster.create::<Pod>(pod("hasty", 0)).await;
    cluster.create::<Pod>(pod("patient", 3600)).await;
    let unreachable = |node: &Node| {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        taints.filter(|taint| taint.key == "node.kubernetes.io/unreachable").count() == 2
    };
    let node = cluster.until_one::<Node>("node-0", "is tainted", unreachable).await;
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
    cluster.stop().await;
}
