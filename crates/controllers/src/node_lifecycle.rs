//! Node lifecycle: notices nodes that fall silent, and taints nodes by their conditions.
//!
//! A node is looked at when it changes, and when it has been silent for too long: a renewed lease only moves that time, and
//! nobody looks at the node for it. Taints that drive pods out are given zone by zone at a limited rate (`zones`); what they then do to
//! the pods is decided in `taint_eviction`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use reconcile::{Change, EventType, Index, Informer, Queue, Recorder, feed, run_controller};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, is_not_found, run_with_feeds, synced};
use crate::metrics::{Family, Histogram};
use crate::{batch, pods};
use decision::Permit;
use sign::{SignOfLife, renew_time};
use zones::{Next, Turn, Zones};

mod decision;
mod sign;
#[cfg(test)]
mod tests;
mod zones;

/// Nodes worked on at once, upstream's number.
const WORKERS: usize = 8;
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Taint of nodes that say they are not ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of nodes that say nothing.
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

static ZONE_SIZE: Family = Family::gauge("node_collector_zone_size", "Registered nodes of a zone.", &["zone"]);
static ZONE_HEALTH: Family =
    Family::gauge("node_collector_zone_health", "How many in a hundred nodes of a zone are ready.", &["zone"]);
static ZONE_UNREADY: Family =
    Family::gauge("node_collector_unhealthy_nodes_in_zone", "Nodes of a zone that are not ready.", &["zone"]);
static EVICTIONS: Family =
    Family::counter("node_collector_evictions_total", "Nodes whose pods were driven out.", &["zone"]);
static UPDATE_DURATION: Histogram = Histogram::new(
    "node_collector_update_node_health_duration_seconds",
    "How long it took to look at a node and write what follows.",
    &[],
    &[0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096, 16.384],
);

/// Appends the metrics in Prometheus' text format.
pub(crate) fn render_metrics(out: &mut String) {
    for family in [&ZONE_SIZE, &ZONE_HEALTH, &ZONE_UNREADY, &EVICTIONS] {
        family.render(out);
    }
    UPDATE_DURATION.render(out);
}

/// What the queue holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Node(String),
    /// A node's time is up, unless it has given a sign of life since.
    Deadline(String),
    /// Taint the next node of a zone that waits for it.
    Zone(String),
}

struct Controller {
    context: Context,
    recorder: Recorder,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods_by_node: Index<Pod>,
    queue: Queue<Work>,
    /// One per node.
    signs: Mutex<HashMap<String, SignOfLife>>,
    zones: Mutex<Zones>,
}

/// Values of the shared index `node`.
pub(crate) fn by_node(pod: &Pod) -> Vec<String> {
    pods::node_name(pod).map(String::from).into_iter().collect()
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let nodes = context.informers.of::<Node>();
    let leases = context.informers.of::<Lease>();
    let pods = context.informers.of::<Pod>();
    if !synced(&stop, async { nodes.synced().await && leases.synced().await && pods.synced().await }).await {
        return;
    }
    let controller = Arc::new(Controller {
        recorder: Recorder::new(context.client.clone(), "node-controller"),
        pods_by_node: pods.index("node", by_node),
        nodes: nodes.clone(),
        leases: leases.clone(),
        queue: Queue::new(),
        signs: Mutex::default(),
        zones: Mutex::new(Zones::new(context.config.eviction_rates.clone())),
        context,
    });
    controller.survey();
    let queue = controller.queue.clone();
    let feeds = futures::future::join(
        feed(&nodes, &queue, |change| controller.heard(change)),
        feed(&leases, &queue, |change| {
            let lease = change.object();
            if lease.namespace().as_deref() == Some(LEASE_NAMESPACE) {
                controller.renewed(lease);
            }
            None::<Work>
        }),
    );
    let reconcile = |work: Work| {
        let controller = Arc::clone(&controller);
        async move {
            match work {
                Work::Node(name) => controller.reconcile(&name).await,
                Work::Deadline(name) => match controller.left(&name) {
                    Some(left) if left.is_zero() => {
                        controller.queue.add(Work::Node(name));
                        Ok(None)
                    }
                    left => Ok(left),
                },
                Work::Zone(zone) => controller.drive_out(&zone).await,
            }
        }
    };
    run_with_feeds(run_controller("node-lifecycle", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

/// Whether two states of a node ask for the same.
fn alike(old: &Node, new: &Node) -> bool {
    let spec = |node: &Node| node.spec.as_ref().map(|spec| (spec.taints.clone(), spec.unschedulable));
    let conditions = |node: &Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.map(|condition| (condition.type_.clone(), condition.status.clone())).collect::<Vec<_>>()
    };
    old.metadata.labels == new.metadata.labels && spec(old) == spec(new) && conditions(old) == conditions(new)
}

impl Controller {
    /// Takes in all nodes before anything is decided, so that the first of them is not taken for the only one.
    fn survey(&self) {
        let now = Instant::now();
        for node in self.nodes.list() {
            let ready = decision::status(&node, "Ready") == Some("True");
            let zone = zones::zone_of(&node);
            self.zones.lock().place(&node.name_any(), &zone, zones::health(&node, ready), now);
            self.tell_of_zone(&zone);
        }
    }

    /// What a change of a node asks for.
    fn heard(&self, change: &Change<Node>) -> Option<Work> {
        let node = change.object();
        let name = node.name_any();
        match change {
            Change::Applied { old, new } => {
                self.listen(&name, new);
                let before = old.as_ref().filter(|old| old.metadata.uid == new.metadata.uid);
                if before.is_some_and(|old| alike(old, new)) {
                    return None;
                }
            }
            Change::Deleted(last) => {
                self.signs.lock().remove(&name);
                let message = format!("Node {name} event: Removing Node {name} from Controller");
                self.recorder.about(last.as_ref(), EventType::Normal, "RemovingNode", message);
            }
        }
        Some(Work::Node(name))
    }

    async fn reconcile(&self, name: &str) -> Result<Option<Duration>, ReconcileError> {
        let began = Instant::now();
        let Some(node) = self.nodes.get("", name) else {
            let zone = self.zones.lock().zone(name);
            let turn = self.zones.lock().remove(name, Instant::now());
            self.turned(turn, zone.as_deref());
            return Ok(None);
        };
        let (silence, new) = self.silence(name, &node);
        if new {
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            self.recorder.about(node.as_ref(), EventType::Normal, "RegisteredNode", message);
        }
        let config = &self.context.config;
        let spoke = decision::find(&node, "Ready").is_some();
        let grace = if spoke { config.node_monitor_grace_period } else { config.node_startup_grace_period };
        let silent = silence >= grace;
        if let Some(sign) = self.signs.lock().get_mut(name) {
            sign.grace = grace;
        }
        if !silent {
            self.queue.add_after(Work::Deadline(name.to_owned()), grace - silence);
        }
        self.look(name, &node, silent).await?;
        UPDATE_DURATION.observe_time(&[], began.elapsed());
        Ok(None)
    }

    async fn look(&self, name: &str, node: &Arc<Node>, silent: bool) -> Result<(), ReconcileError> {
        let ready = !silent && decision::status(node, "Ready") == Some("True");
        let zone = zones::zone_of(node);
        let turn = self.zones.lock().place(name, &zone, zones::health(node, ready), Instant::now());
        self.turned(turn, Some(&zone));
        let conditions = if silent { decision::silenced(node, Timestamp::now()) } else { Vec::new() };
        let mut node = Arc::clone(node);
        if !conditions.is_empty() {
            let was_ready = decision::status(&node, "Ready") == Some("True");
            let patch = json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": conditions}});
            let api = self.context.api_all::<Node>();
            match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(written) => node = Arc::new(written),
                Err(error) if is_not_found(&error) => return Ok(()),
                Err(error) => return Err(failed("write conditions of node", name)(error)),
            }
            if was_ready {
                let message = format!("Node {name} status is now: NodeNotReady");
                self.recorder.about(node.as_ref(), EventType::Normal, "NodeNotReady", message);
            }
        }
        let permit = if self.zones.lock().halted() { Permit::Halted } else { Permit::Pending };
        self.write(name, &node, permit).await?;
        if silent {
            self.mark_pods_unready(name).await?;
        }
        Ok(())
    }

    /// Writes taints and labels, and has the node wait for what needs its turn.
    async fn write(&self, name: &str, node: &Node, permit: Permit) -> Result<(), ReconcileError> {
        let taints = decision::taints(node, permit, Timestamp::now());
        let labels = decision::labels(node);
        if taints.changed.is_some() || !labels.is_empty() {
            // What others have changed meanwhile must be seen first: the list of taints is written as a whole.
            let mut patch =
                json!({"metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version}});
            if let Some(taints) = taints.changed {
                patch["spec"] = json!({"taints": taints});
            }
            if !labels.is_empty() {
                patch["metadata"]["labels"] = json!(labels);
            }
            let api = self.context.api_all::<Node>();
            let result = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            gone_is_done(result).map_err(failed("taint node", name))?;
        }
        let mut zones = self.zones.lock();
        if taints.waits {
            zones.wait(name);
            if let Some(zone) = zones.zone(name) {
                self.queue.add(Work::Zone(zone));
            }
        } else {
            zones.leave(name);
        }
        Ok(())
    }

    /// Taints nodes of the zone whose turn has come; says when that of the next one is.
    async fn drive_out(&self, zone: &str) -> Result<Option<Duration>, ReconcileError> {
        loop {
            let name = match self.zones.lock().next(zone, Instant::now()) {
                Next::Nothing => return Ok(None),
                Next::In(left) => return Ok(Some(left)),
                Next::Taint(name) => name,
            };
            let Some(node) = self.nodes.get("", &name) else { continue };
            if let Err(error) = self.write(&name, &node, Permit::Granted).await {
                self.zones.lock().wait(&name);
                return Err(error);
            }
            if decision::status(&node, "Ready") != Some("True") {
                EVICTIONS.increase(&[zone]);
            }
        }
    }

    /// Acts on what the change of a node in `zone` means for all.
    fn turned(&self, turn: Turn, zone: Option<&str>) {
        if let Some(zone) = zone {
            self.tell_of_zone(zone);
            if self.zones.lock().is_awaited(zone) {
                self.queue.add(Work::Zone(zone.to_owned()));
            }
        }
        match turn {
            Turn::None => {}
            Turn::Halted => {
                tracing::info!("no node is ready: pods stay where they are");
                for node in self.nodes.list() {
                    self.queue.add(Work::Node(node.name_any()));
                }
            }
            Turn::Resumed => {
                tracing::info!("some nodes are ready again: pods of those that are not are driven out");
                // While nobody was heard, nobody could be told from the dead.
                let now = Instant::now();
                for sign in self.signs.lock().values_mut() {
                    sign.seen = now;
                }
                for zone in self.zones.lock().names() {
                    self.queue.add(Work::Zone(zone));
                }
            }
        }
    }

    fn tell_of_zone(&self, zone: &str) {
        let (size, unready) = self.zones.lock().census(zone);
        ZONE_SIZE.set(&[zone], size as f64);
        ZONE_UNREADY.set(&[zone], unready as f64);
        let health = if size == 0 { 100.0 } else { 100.0 * (size - unready) as f64 / size as f64 };
        ZONE_HEALTH.set(&[zone], health);
        EVICTIONS.add(&[zone], 0);
    }

    /// Notes a sign of life of a node that is known.
    fn listen(&self, name: &str, node: &Node) {
        if self.signs.lock().contains_key(name) {
            self.silence(name, node);
        }
    }

    /// The same where its lease tells of it. The node itself is not looked at: of a thousand of them, each is renewed before
    /// what decoding it took is forgotten.
    fn renewed(&self, lease: &Lease) {
        let Some(name) = lease.metadata.name.as_deref() else { return };
        if let (Some(time), Some(sign)) = (renew_time(lease), self.signs.lock().get_mut(name)) {
            sign.renewed(time, Instant::now());
        }
    }

    /// How long a node may still be silent; `None` when it is not known.
    fn left(&self, name: &str) -> Option<Duration> {
        self.signs.lock().get(name).map(|sign| sign.left(Instant::now()))
    }

    /// How long the node has not been heard of, and whether it is seen for the first time.
    fn silence(&self, name: &str, node: &Node) -> (Duration, bool) {
        let lease = self.leases.get(LEASE_NAMESPACE, name);
        let lease = lease.and_then(|lease| renew_time(&lease));
        let ready = decision::find(node, "Ready");
        // what this controller has written of a silent node is no sign of life
        let posted = ready.filter(|ready| ready.status != "Unknown");
        let heartbeat = posted.and_then(|ready| ready.last_heartbeat_time.as_ref().map(|time| time.0));
        let now = Instant::now();
        let mut signs = self.signs.lock();
        let Some(sign) = signs.get_mut(name) else {
            // one that never said anything has been silent since it was created
            let created = node.metadata.creation_timestamp.as_ref().filter(|_| ready.is_none() && lease.is_none());
            let age = created.and_then(|time| Duration::try_from(Timestamp::now().duration_since(time.0)).ok());
            let seen = age.and_then(|age| now.checked_sub(age)).unwrap_or(now);
            signs.insert(name.to_owned(), SignOfLife { lease, heartbeat, seen, grace: Duration::ZERO });
            return (now.saturating_duration_since(seen), true);
        };
        if let Some(lease) = lease {
            sign.renewed(lease, now);
        }
        if let Some(heartbeat) = heartbeat.filter(|heartbeat| sign.heartbeat != Some(*heartbeat)) {
            (sign.heartbeat, sign.seen) = (Some(heartbeat), now);
        }
        (sign.seen.elapsed(), false)
    }

    /// Takes the pods of a lost node out of their services.
    async fn mark_pods_unready(&self, node: &str) -> Result<(), ReconcileError> {
        let ready = self.pods_by_node.get(node).into_iter().filter(|pod| pods::is_ready(pod));
        batch::all(ready, |pod| async move {
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
                "type": "Ready", "status": "False", "lastTransitionTime": Time(Timestamp::now()),
                "observedGeneration": pod.metadata.generation}]}});
            let api = self.context.api::<Pod>(&pod.namespace().unwrap_or_default());
            let result = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await;
            gone_is_done(result).map_err(failed("mark pod unready", pod.name_any()))?;
            self.recorder.about(pod.as_ref(), EventType::Warning, "NodeNotReady", "Node is not ready");
            Ok(())
        })
        .await
    }
}
