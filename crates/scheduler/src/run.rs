//! The loop: pod and node changes in, bindings out.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Status;
use reconcile::{Change, EventType, Informer, Informers, Key, Recorder, Subscription};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::SCHEDULER_NAME;
use crate::pod::PodInfo;
use crate::queue::PodQueue;
use crate::schedule::{Placement, Unschedulable, schedule};
use crate::snapshot::Snapshot;

/// Requests to the API under way at once: enough to fill the store's commit batches, few enough that a burst of pods does
/// not starve other clients.
const REQUESTS_MAX: usize = 64;
/// Pods tried and changes taken in one turn before other tasks of the thread get theirs.
const TURN_MAX: usize = 64;
/// How long requests under way may take to end after stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Why the scheduler ended early.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The informers stopped first.
    #[error("the informers of pods and nodes have stopped")]
    InformersStopped,
}

/// Assigns pods to nodes.
pub struct Scheduler {
    client: Client,
    recorder: Recorder,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    snapshot: Snapshot,
    queue: PodQueue,
    requests: JoinSet<Done>,
    seed: u64,
}

enum Done {
    Bound { pod: Arc<PodInfo>, node: String, result: Result<(), kube::Error> },
    ConditionWritten(Result<(), kube::Error>),
}

enum Wake {
    Pod(Option<Change<Pod>>),
    Node(Option<Change<Node>>),
    Done(Done),
    Time,
    Stop,
}

impl Scheduler {
    /// A scheduler over shared informers. `seed` decides between equally good nodes.
    pub fn new(informers: &Informers, client: Client, seed: u64) -> Self {
        Self {
            recorder: Recorder::new(client.clone(), SCHEDULER_NAME),
            client,
            pods: informers.of(),
            nodes: informers.of(),
            snapshot: Snapshot::new(),
            queue: PodQueue::new(),
            requests: JoinSet::new(),
            seed,
        }
    }

    /// Schedules until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), SchedulerError> {
        let synced = async { self.nodes.synced().await && self.pods.synced().await };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            synced = synced => if !synced { return Err(SchedulerError::InformersStopped) },
        }
        let mut pods = self.pods.subscribe();
        let mut nodes = self.nodes.subscribe();
        while let Some(change) = nodes.try_next() {
            self.node(change);
        }
        while let Some(change) = pods.try_next() {
            self.pod(change);
        }
        loop {
            let more = self.turn(&mut pods, &mut nodes);
            if more {
                tokio::task::yield_now().await;
                if !stop.is_cancelled() {
                    continue;
                }
            }
            match self.wait(&mut pods, &mut nodes, &stop).await {
                Wake::Stop => break,
                Wake::Time => {}
                Wake::Pod(Some(change)) => self.pod(change),
                Wake::Node(Some(change)) => self.node(change),
                Wake::Done(done) => self.done(done),
                Wake::Pod(None) | Wake::Node(None) if stop.is_cancelled() => break,
                Wake::Pod(None) | Wake::Node(None) => return Err(SchedulerError::InformersStopped),
            }
        }
        let drain = async { while self.requests.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_GRACE, drain).await.is_err() {
            self.requests.shutdown().await;
        }
        Ok(())
    }

    async fn wait(
        &mut self,
        pods: &mut Subscription<Pod>,
        nodes: &mut Subscription<Node>,
        stop: &CancellationToken,
    ) -> Wake {
        let next_at = self.queue.next_at();
        let timer = async {
            match next_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => Wake::Stop,
            change = nodes.next() => Wake::Node(change),
            change = pods.next() => Wake::Pod(change),
            Some(Ok(done)) = self.requests.join_next(), if !self.requests.is_empty() => Wake::Done(done),
            () = timer => Wake::Time,
        }
    }

    /// Takes what waits and tries pods, up to a bound; true when there is more to do at once.
    fn turn(&mut self, pods: &mut Subscription<Pod>, nodes: &mut Subscription<Node>) -> bool {
        let mut budget = TURN_MAX;
        while let Some(Ok(done)) = self.requests.try_join_next() {
            self.done(done);
        }
        while budget > 0
            && let Some(change) = nodes.try_next()
        {
            budget -= 1;
            self.node(change);
        }
        while budget > 0
            && let Some(change) = pods.try_next()
        {
            budget -= 1;
            self.pod(change);
        }
        let now = Instant::now();
        self.queue.advance(now);
        let mut tries = TURN_MAX;
        while tries > 0 && self.requests.len() < REQUESTS_MAX {
            let Some(pod) = self.queue.pop() else { return budget == 0 };
            tries -= 1;
            self.attempt(&pod, now);
        }
        budget == 0 || tries == 0
    }

    fn attempt(&mut self, pod: &Arc<PodInfo>, now: Instant) {
        self.seed = self.seed.wrapping_add(1);
        match schedule(&self.snapshot, pod, self.seed) {
            Placement::Node(node) => {
                self.snapshot.place(Arc::clone(pod), &node);
                self.requests.spawn(bind(self.client.clone(), Arc::clone(pod), node));
            }
            Placement::Unschedulable(why) => {
                self.queue.park(pod, now);
                self.refuse(pod, &why);
            }
        }
    }

    /// Says on the pod why it has no node.
    fn refuse(&mut self, pod: &PodInfo, why: &Unschedulable) {
        let message = why.to_string();
        self.recorder.event(&reference(pod), EventType::Warning, "FailedScheduling", "Scheduling", &message);
        let current = self.pods.get(&pod.key.namespace, &pod.key.name);
        let said = current.iter().any(|current| {
            let conditions = current.status.as_ref().and_then(|status| status.conditions.as_deref());
            conditions.into_iter().flatten().any(|condition| {
                condition.type_ == "PodScheduled"
                    && condition.reason.as_deref() == Some("Unschedulable")
                    && condition.message.as_deref() == Some(&message)
            })
        });
        if !said {
            self.requests.spawn(write_condition(self.client.clone(), pod.key.clone(), pod.uid.clone(), message));
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Bound { pod, node, result: Ok(()) } => {
                self.queue.bound(&pod);
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder.event(&reference(&pod), EventType::Normal, "Scheduled", "Binding", message);
            }
            Done::Bound { pod, node, result: Err(error) } => {
                tracing::debug!(pod = %pod.key, node, %error, "binding failed");
                let now = Instant::now();
                // Unless the pod was seen on a node after all, give back what was assumed.
                let seen = self.pods.get(&pod.key.namespace, &pod.key.name);
                let bound = seen.is_some_and(|seen| seen.metadata.uid.as_deref() == Some(&pod.uid) && is_bound(&seen));
                if !bound {
                    self.release(&pod.uid, now);
                    self.queue.back_off(&pod, now);
                }
            }
            Done::ConditionWritten(Ok(())) => {}
            Done::ConditionWritten(Err(error)) => tracing::debug!(%error, "cannot write PodScheduled condition"),
        }
    }

    fn pod(&mut self, change: Change<Pod>) {
        let now = Instant::now();
        let (pod, gone) = match &change {
            Change::Applied { new, .. } => (new, false),
            Change::Deleted(last) => (last, true),
        };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if gone || is_terminal(pod) {
            self.queue.remove(&Key::of(pod.as_ref()));
            self.release(uid, now);
        } else if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).filter(|n| !n.is_empty())
        {
            self.queue.remove(&Key::of(pod.as_ref()));
            self.snapshot.place(Arc::new(PodInfo::of(pod)), node);
        } else if !is_ours(pod) {
            self.queue.remove(&Key::of(pod.as_ref()));
        } else if self.snapshot.node_of(uid).is_none() {
            self.queue.update(PodInfo::of(pod), now);
        }
    }

    fn release(&mut self, uid: &str, now: Instant) {
        if let Some(name) = self.snapshot.remove_pod(uid)
            && let Some(node) = self.snapshot.node(&name)
        {
            self.queue.node_changed(node, now);
        }
    }

    fn node(&mut self, change: Change<Node>) {
        match change {
            Change::Applied { old, new } => {
                let unchanged = old.is_some_and(|old| {
                    old.spec == new.spec
                        && old.metadata.labels == new.metadata.labels
                        && old.status.as_ref().map(|s| &s.allocatable) == new.status.as_ref().map(|s| &s.allocatable)
                });
                if unchanged {
                    return;
                }
                self.snapshot.set_node(&new);
                let name = new.metadata.name.as_deref().unwrap_or_default();
                if let Some(node) = self.snapshot.node(name) {
                    self.queue.node_changed(node, Instant::now());
                }
            }
            Change::Deleted(last) => self.snapshot.remove_node(last.metadata.name.as_deref().unwrap_or_default()),
        }
    }
}

fn is_bound(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|name| !name.is_empty())
}

fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    pod.metadata.deletion_timestamp.is_none()
        && spec.scheduler_name.as_deref().is_none_or(|name| name.is_empty() || name == SCHEDULER_NAME)
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

fn reference(pod: &PodInfo) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod.key.namespace.clone()),
        name: Some(pod.key.name.clone()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}

async fn bind(client: Client, pod: Arc<PodInfo>, node: String) -> Done {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"namespace": pod.key.namespace, "name": pod.key.name, "uid": pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let api: Api<Pod> = Api::namespaced(client, &pod.key.namespace);
    let result: Result<Status, _> =
        api.create_subresource("binding", &pod.key.name, &PostParams::default(), &binding).await;
    Done::Bound { pod, node, result: result.map(drop) }
}

async fn write_condition(client: Client, key: Key, uid: String, message: String) -> Done {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    // The uid in the patch refuses a new pod of the same name.
    let patch = json!({"metadata": {"uid": uid}, "status": {"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        "lastProbeTime": null, "lastTransitionTime": now,
    }]}});
    let api: Api<Pod> = Api::namespaced(client, &key.namespace);
    let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    Done::ConditionWritten(result.map(drop))
}
