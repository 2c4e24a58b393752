//! The cluster the measurements happen in: namespaces, nodes with heartbeats, and pods.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use http::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    Size,
    measure::{Report, drive},
    objects::{self, NODES},
    target::{JSON, MERGE, Target, content},
};

/// Writers that fill a server.
pub(crate) const WRITERS: usize = 64;
/// How often a kubelet renews its lease.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Makes the namespaces, their default accounts (some servers have nobody who does, some ask for them), nodes and pods.
pub(crate) async fn create(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    report.memory("memory before");
    let made = {
        let target = target.clone();
        drive(size.namespaces, WRITERS, size.patience, move |number| {
            let target = target.clone();
            async move {
                let name = objects::namespace(number);
                let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
                target.ensure("/api/v1/namespaces", &namespace).await?;
                let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
                target.ensure(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &account).await
            }
        })
        .await
    };
    report.load("create namespaces and accounts", &made, "64 writers");
    for number in 0..NODES {
        let node = objects::node_object(number);
        target.ensure("/api/v1/nodes", &node).await?;
        // a new node is tainted as not ready, and nothing here would lift that
        let untainted = (MERGE, br#"{"spec": {"taints": null}}"#.to_vec());
        target.send(Method::PATCH, &format!("/api/v1/nodes/{}", objects::node(number)), Some(untainted)).await?;
    }
    beat(target).await?;
    let (pods, namespaces) = (size.pods, size.namespaces);
    let target = target.clone();
    let made = drive(pods, WRITERS, size.patience, move |number| {
        let target = target.clone();
        async move {
            let path = format!("/api/v1/namespaces/{}/pods", objects::namespace(number % namespaces));
            target.ensure(&path, &objects::pod(number, namespaces)).await
        }
    })
    .await;
    report.load("create pods", &made, "64 writers");
    made.failure.map_or(Ok(()), |failure| Err(anyhow::anyhow!(failure)))
}

async fn beat(target: &Target) -> Result<()> {
    // as leases write it
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    for number in 0..NODES {
        let name = objects::node(number);
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now}});
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        target.ensure(leases, &lease).await?;
        let renewed = content(MERGE, &json!({"spec": {"renewTime": now}}));
        target.send(Method::PATCH, &format!("{leases}/{name}"), Some(renewed)).await?;
    }
    Ok(())
}

/// Kubelets' heartbeats, until dropped: without them the nodes would be found dead in the middle of a measurement.
pub(crate) struct Heartbeats {
    _running: JoinSet<()>,
}

impl Heartbeats {
    pub(crate) fn start(target: &Arc<Target>) -> Self {
        let target = target.clone();
        let mut running = JoinSet::new();
        running.spawn(async move {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                if let Err(error) = beat(&target).await {
                    eprintln!("heartbeat: {error:#}");
                }
            }
        });
        Self { _running: running }
    }
}

/// Deletes everything that was made.
pub(crate) async fn delete(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    let deleting = target.clone();
    let deleted = drive(size.namespaces, WRITERS, size.patience, move |number| {
        let target = deleting.clone();
        async move {
            let path = format!("/api/v1/namespaces/{}", objects::namespace(number));
            for collection in ["pods", "configmaps"] {
                let all = format!("{path}/{collection}?gracePeriodSeconds=0");
                target.exchange(Method::DELETE, &all, JSON, None).await?;
            }
            target.exchange(Method::DELETE, &path, JSON, None).await.map(drop)
        }
    })
    .await;
    report.load("delete namespaces and their objects", &deleted, "64 writers");
    for number in 0..NODES {
        let name = objects::node(number);
        target.exchange(Method::DELETE, &format!("/api/v1/nodes/{name}"), JSON, None).await?;
        let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
        target.exchange(Method::DELETE, &lease, JSON, None).await?;
    }
    Ok(())
}
