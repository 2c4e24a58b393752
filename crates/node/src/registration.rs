//! The Node object and its lease: what the cluster knows of this machine.

mod machine;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{ContainerImage, Node, NodeCondition, NodeStatus},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use pod_lifecycle::advertised::corrections;
use reconcile::Informer;
use runtime::Runtime;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub(crate) use machine::Machine;

use crate::config::NodeConfig;

/// Namespace of the leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How often the lease is renewed, as upstream.
const LEASE_PERIOD: Duration = Duration::from_secs(10);
/// How long a lease is good, as upstream.
const LEASE_SECONDS: i32 = 40;
/// How often an unchanged status is written, as upstream.
const STATUS_PERIOD: SignedDuration = SignedDuration::from_mins(5);
/// Images shown in the status, as upstream.
const IMAGES_MAX: usize = 50;
/// Pause between tries to register.
const REGISTER_RETRY: Duration = Duration::from_millis(200);
/// The longest pause between tries to register, as upstream.
const REGISTER_RETRY_MAX: Duration = Duration::from_secs(7);
/// Free memory below which the node says it is under pressure.
const MEMORY_PRESSURE_BYTES: u64 = 100 << 20;
/// Share of the disk (percent free) below which the node says it is under pressure: upstream's nodefs threshold, if
/// there is little left in bytes too.
const DISK_PRESSURE_PERCENT: u64 = 10;
/// A tenth of a large disk shared with everything else on the machine is still room for many images; this is not.
const DISK_PRESSURE_BYTES: u64 = 2 << 30;

/// Keeps the Node object and its lease.
pub(crate) struct Registration {
    pub(crate) config: NodeConfig,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) machine: Machine,
    /// Its own Node, as the API knows it.
    pub(crate) node: Informer<Node>,
}

impl Registration {
    /// Registers, then keeps lease and status until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        let mut wait = REGISTER_RETRY;
        let uid = loop {
            match self.register().await {
                Ok(uid) => break uid,
                Err(error) => tracing::warn!(node = self.config.name, %error, "cannot register node"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(REGISTER_RETRY_MAX);
        };
        let mut last: Option<(NodeStatus, Timestamp)> = None;
        let mut ticks = tokio::time::interval(LEASE_PERIOD);
        let mut changes = self.node.subscribe();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if let Err(error) = self.renew_lease(&uid).await {
                        tracing::warn!(node = self.config.name, %error, "cannot renew node lease");
                    }
                    self.keep_status(&mut last).await;
                    self.keep_advertised().await;
                }
                Some(_) = changes.next() => self.keep_advertised().await,
            }
        }
    }

    /// Writes the status where it has changed, or was written long ago.
    async fn keep_status(&self, last: &mut Option<(NodeStatus, Timestamp)>) {
        let now = Timestamp::now();
        let status = self.status(last.as_ref().map(|(status, _)| status), now);
        let due = last.as_ref().is_none_or(|(old, at)| now.duration_since(*at) >= STATUS_PERIOD || !same(old, &status));
        if due {
            match self.write_status(&json!(status)).await {
                Ok(()) => *last = Some((status, now)),
                Err(error) => tracing::warn!(node = self.config.name, %error, "cannot write node status"),
            }
        }
    }

    /// Lets pods use what somebody else has written into the node's capacity.
    async fn keep_advertised(&self) {
        let node = self.node.get("", &self.config.name);
        let Some(known) = node.as_ref().and_then(|node| node.status.as_ref()) else { return };
        let own = self.machine.status(&self.config).capacity.unwrap_or_default();
        let wrong = corrections(&own, known);
        if !wrong.is_empty()
            && let Err(error) = self.write_status(&json!({"allocatable": wrong})).await
        {
            tracing::warn!(node = self.config.name, %error, "cannot write what pods may use");
        }
    }

    /// Creates the Node, or sets the labels this node owns; returns its UID.
    async fn register(&self) -> Result<String, kube::Error> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let name = &self.config.name;
        let labels = self.labels();
        let existing = match nodes.get_opt(name).await? {
            Some(node) => node,
            None => {
                let node: Node = Node {
                    metadata: kube::api::ObjectMeta {
                        name: Some(name.clone()),
                        labels: Some(labels.clone()),
                        ..kube::api::ObjectMeta::default()
                    },
                    status: Some(self.status(None, Timestamp::now())),
                    ..Node::default()
                };
                match nodes.create(&PostParams::default(), &node).await {
                    // Another try of ours got there first.
                    Err(kube::Error::Api(status)) if status.code == 409 => nodes.get(name).await?,
                    created => created?,
                }
            }
        };
        let own = existing.metadata.labels.clone().unwrap_or_default();
        if labels.iter().any(|(key, value)| own.get(key) != Some(value)) {
            let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
            nodes.patch(name, &PatchParams::default(), &patch).await?;
        }
        Ok(existing.metadata.uid.unwrap_or_default())
    }

    fn labels(&self) -> std::collections::BTreeMap<String, String> {
        let known = [
            ("kubernetes.io/hostname", self.config.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", self.machine.architecture),
        ];
        let known = known.map(|(key, value)| (key.to_owned(), value.to_owned()));
        self.config.labels.clone().into_iter().chain(known).collect()
    }

    async fn renew_lease(&self, node_uid: &str) -> Result<(), kube::Error> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let name = &self.config.name;
        let now = MicroTime(Timestamp::now());
        let patch = Patch::Merge(json!({"spec": {"renewTime": now}}));
        match leases.patch(name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            patched => return patched.map(drop),
        }
        let lease = Lease {
            metadata: kube::api::ObjectMeta {
                name: Some(name.clone()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: name.clone(),
                    uid: node_uid.to_owned(),
                    ..OwnerReference::default()
                }]),
                ..kube::api::ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        leases.create(&PostParams::default(), &lease).await.map(drop)
    }

    async fn write_status(&self, status: &Value) -> Result<(), kube::Error> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Strategic(json!({"status": status}));
        nodes.patch_status(&self.config.name, &PatchParams::default(), &patch).await.map(drop)
    }

    fn status(&self, old: Option<&NodeStatus>, now: Timestamp) -> NodeStatus {
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let mut status = self.machine.status(&self.config);
        let pressure = self.machine.pressure(&self.config.root_dir);
        let conditions = [
            (
                "MemoryPressure",
                pressure.memory_free_bytes < MEMORY_PRESSURE_BYTES,
                ["KubeletHasSufficientMemory", "KubeletHasInsufficientMemory"],
                ["kubelet has sufficient memory available", "kubelet has insufficient memory available"],
            ),
            (
                "DiskPressure",
                pressure.disk_free_percent < DISK_PRESSURE_PERCENT && pressure.disk_free_bytes < DISK_PRESSURE_BYTES,
                ["KubeletHasNoDiskPressure", "KubeletHasDiskPressure"],
                ["kubelet has no disk pressure", "kubelet has disk pressure"],
            ),
            (
                "PIDPressure",
                false,
                ["KubeletHasSufficientPID", "KubeletHasInsufficientPID"],
                ["kubelet has sufficient PID available", "kubelet has insufficient PID available"],
            ),
            (
                "Ready",
                true,
                ["KubeletNotReady", "KubeletReady"],
                ["kubelet is stopping", "kubelet is posting ready status"],
            ),
        ];
        let old_conditions = old.and_then(|old| old.conditions.as_ref());
        let render = |(type_, holds, reasons, messages): &(&str, bool, [&str; 2], [&str; 2])| {
            let value = if *holds { "True" } else { "False" };
            let before = old_conditions.into_iter().flatten().find(|own| own.type_ == *type_ && own.status == value);
            NodeCondition {
                type_: (*type_).to_owned(),
                status: value.to_owned(),
                reason: Some(reasons[usize::from(*holds)].to_owned()),
                message: Some(messages[usize::from(*holds)].to_owned()),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: before.and_then(|own| own.last_transition_time.clone()).or(Some(Time(now))),
            }
        };
        status.conditions = Some(conditions.iter().map(render).collect());
        let mut images = self.runtime.images();
        images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
        let shown = images.into_iter().take(IMAGES_MAX).map(|image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).collect()),
            size_bytes: i64::try_from(image.size_bytes).ok(),
        });
        status.images = Some(shown.collect());
        status
    }
}

/// Whether two statuses differ in nothing but heartbeat times.
fn same(old: &NodeStatus, new: &NodeStatus) -> bool {
    let mut levelled = new.clone();
    for condition in levelled.conditions.iter_mut().flatten() {
        let before = old.conditions.iter().flatten().find(|own| own.type_ == condition.type_);
        condition.last_heartbeat_time = before.and_then(|own| own.last_heartbeat_time.clone());
    }
    levelled == *old
}
