//! The loop: changes in, decisions, and what follows from them out.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::Client;
use reconcile::{Change, EventType, Informers, Key, Recorder};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::SCHEDULER_NAME;
use crate::config::Configuration;
use crate::plugin::Event;
use crate::pod::PodInfo;
use crate::preemption::Preemption;
use crate::queue::PodQueue;
use crate::schedule::{Placement, Planner};
use crate::shape::Shape;
use crate::snapshot::Snapshot;
use crate::unschedulable::Unschedulable;
use inputs::{Caches, Input, Inputs};
use requests::{Done, bind, bind_volumes, send_away, unscheduled, write_status};

mod inputs;
mod objects;
mod requests;

/// Requests to the API under way at once: enough to fill the store's commit batches, few enough that a burst of pods does
/// not starve other clients.
const REQUESTS_MAX: usize = 64;
/// Pods that wait for their volumes at once; others are tried when there is room.
const VOLUME_WAITS_MAX: usize = 256;
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
    caches: Caches,
    snapshot: Snapshot,
    planner: Planner,
    queue: PodQueue,
    requests: JoinSet<Done>,
    volume_waits: JoinSet<Done>,
    seed: u64,
}

enum Wake {
    Input(Option<Input>),
    Done(Done),
    Time,
    Stop,
}

impl Scheduler {
    /// A scheduler over shared informers. `seed` decides between equally good nodes.
    pub fn new(informers: &Informers, client: Client, configuration: &Configuration, seed: u64) -> Self {
        Self {
            recorder: Recorder::new(client.clone(), SCHEDULER_NAME),
            client,
            caches: Caches::new(informers),
            snapshot: Snapshot::new(),
            planner: Planner::new(configuration),
            queue: PodQueue::new(configuration.backoff()),
            requests: JoinSet::new(),
            volume_waits: JoinSet::new(),
            seed,
        }
    }

    /// Schedules until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), SchedulerError> {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            synced = self.caches.synced() => if !synced { return Err(SchedulerError::InformersStopped) },
        }
        let mut inputs = self.caches.subscribe();
        while let Some(input) = inputs.try_next() {
            self.input(input);
        }
        loop {
            let more = self.turn(&mut inputs);
            if more {
                tokio::task::yield_now().await;
                if !stop.is_cancelled() {
                    continue;
                }
            }
            match self.wait(&mut inputs, &stop).await {
                Wake::Stop => break,
                Wake::Time => {}
                Wake::Input(Some(input)) => self.input(input),
                Wake::Done(done) => self.done(done),
                Wake::Input(None) if stop.is_cancelled() => break,
                Wake::Input(None) => return Err(SchedulerError::InformersStopped),
            }
        }
        let drain = async { while self.requests.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_GRACE, drain).await.is_err() {
            self.requests.shutdown().await;
        }
        self.volume_waits.shutdown().await;
        Ok(())
    }

    async fn wait(&mut self, inputs: &mut Inputs, stop: &CancellationToken) -> Wake {
        let next_at = self.queue.next_at();
        let timer = async {
            match next_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => Wake::Stop,
            input = inputs.next() => Wake::Input(input),
            Some(Ok(done)) = self.requests.join_next(), if !self.requests.is_empty() => Wake::Done(done),
            Some(Ok(done)) = self.volume_waits.join_next(), if !self.volume_waits.is_empty() => Wake::Done(done),
            () = timer => Wake::Time,
        }
    }

    /// Takes what waits and tries pods, up to a bound; true when there is more to do at once.
    fn turn(&mut self, inputs: &mut Inputs) -> bool {
        let mut budget = TURN_MAX;
        while let Some(Ok(done)) = self.requests.try_join_next() {
            self.done(done);
        }
        while let Some(Ok(done)) = self.volume_waits.try_join_next() {
            self.done(done);
        }
        while budget > 0
            && let Some(input) = inputs.try_next()
        {
            budget -= 1;
            self.input(input);
        }
        let now = Instant::now();
        self.queue.advance(now);
        let mut tries = TURN_MAX;
        while tries > 0 && self.requests.len() < REQUESTS_MAX && self.volume_waits.len() < VOLUME_WAITS_MAX {
            let Some(pod) = self.queue.pop() else { return budget == 0 };
            tries -= 1;
            self.attempt(&pod, now);
        }
        budget == 0 || tries == 0
    }

    fn attempt(&mut self, pod: &Arc<PodInfo>, now: Instant) {
        self.seed = self.seed.wrapping_add(1);
        match self.planner.decide(&mut self.snapshot, pod, self.seed) {
            Placement::Node { name, volumes } => {
                self.snapshot.place(pod, &name);
                self.queue.placed(pod, now);
                self.happened(&Event::PodPlaced { shape: Arc::clone(&pod.shape) }, now);
                if volumes.is_empty() {
                    self.requests.spawn(bind(self.client.clone(), Arc::clone(pod), name));
                } else {
                    self.snapshot.volumes.reserve(&pod.key.namespace, &volumes);
                    let (client, claims) = (self.client.clone(), self.caches.claims.clone());
                    let wait_max = self.planner.profile(&pod.shape.scheduler).map(|profile| profile.volumes_wait_max);
                    let work =
                        bind_volumes(client, claims, Arc::clone(pod), name, volumes, wait_max.unwrap_or_default());
                    self.volume_waits.spawn(work);
                }
            }
            Placement::Unschedulable(why) => {
                self.queue.park(pod, why.plugins, now);
                self.refuse(pod, &why);
            }
        }
    }

    /// Says on the pod why it has no node, and makes room for it where that is possible.
    fn refuse(&mut self, pod: &Arc<PodInfo>, why: &Unschedulable) {
        let message = why.to_string();
        self.recorder.event(&reference(pod), EventType::Warning, "FailedScheduling", "Scheduling", &message);
        let current = self.caches.pods.get(&pod.key.namespace, &pod.key.name);
        let current = current.as_ref().and_then(|current| current.status.as_ref());
        let mut status = if current.is_some_and(|status| says(status, &message)) {
            json!({})
        } else {
            unscheduled("Unschedulable", &message)
        };
        let nominated = current.and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default();
        let nominate = match why.preemption() {
            Some(preemption) => Some(preemption.node.as_str()),
            // It waits for the pods that are leaving.
            None if why.plugins != 0 && self.waits_for_victims(pod) => None,
            None => Some(""),
        };
        if let Some(node) = nominate.filter(|node| *node != nominated) {
            status["nominatedNodeName"] = Value::from(node);
        }
        match why.preemption() {
            Some(preemption) => self.make_room(pod, preemption),
            None if nominate.is_some() => self.snapshot.denominate(&pod.uid),
            None => {}
        }
        if status.as_object().is_some_and(|status| !status.is_empty()) {
            let (key, uid) = (pod.key.clone(), Arc::clone(&pod.uid));
            self.requests.spawn(write_status(self.client.clone(), key, uid, status));
        }
    }

    /// Whether pods are leaving the node where room is made for this one.
    fn waits_for_victims(&self, pod: &PodInfo) -> bool {
        let Some(slot) = self.snapshot.nomination(&pod.uid) else { return false };
        let pods = self.snapshot.nodes()[slot as usize].pods.iter();
        pods.filter_map(|number| self.snapshot.placed(*number))
            .any(|(placed, shape)| placed.preempted && shape.terminating && shape.priority < pod.shape.priority)
    }

    fn make_room(&mut self, pod: &Arc<PodInfo>, preemption: &Preemption) {
        self.snapshot.nominate(pod, &preemption.node);
        for displaced in &preemption.displaced {
            self.snapshot.denominate(&displaced.uid);
            let (key, uid) = (displaced.key.clone(), Arc::clone(&displaced.uid));
            self.requests.spawn(write_status(self.client.clone(), key, uid, json!({"nominatedNodeName": ""})));
        }
        for victim in &preemption.victims {
            let (client, node) = (self.client.clone(), preemption.node.clone());
            self.requests.spawn(send_away(client, victim.clone(), Arc::clone(pod), node));
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Volumes { pod, node, result: Ok(()), plan } => {
                self.snapshot.volumes.release(&plan);
                self.requests.spawn(bind(self.client.clone(), pod, node));
            }
            Done::Volumes { pod, result: Err(error), plan, .. } => {
                self.snapshot.volumes.release(&plan);
                let message = format!("running PreBind plugin \"VolumeBinding\": {error}");
                self.recorder.event(&reference(&pod), EventType::Warning, "FailedScheduling", "Scheduling", message);
                self.unbound(&pod);
            }
            Done::Bound { pod, node, result: Ok(()) } => {
                self.queue.bound(&pod, Instant::now());
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder.event(&reference(&pod), EventType::Normal, "Scheduled", "Binding", message);
            }
            Done::Bound { pod, node, result: Err(error) } => {
                tracing::debug!(pod = %pod.key, node, %error, "binding failed");
                self.unbound(&pod);
            }
            Done::Left { victim, by, node, result: Ok(()) } => {
                let message = format!("Preempted by pod {} on node {node}", by.uid);
                let about = reference_to(&victim.key, &victim.uid);
                self.recorder.event(&about, EventType::Normal, "Preempted", "Preempting", message);
            }
            Done::Left { victim, by, result: Err(error), .. } => {
                tracing::warn!(pod = %victim.key, by = %by.key, %error, "cannot preempt");
                // Nothing will make room: the pod must look again.
                let now = Instant::now();
                self.snapshot.denominate(&by.uid);
                self.queue.happened(now, |shape, _| *shape == *by.shape);
            }
            Done::StatusWritten(Ok(())) => {}
            Done::StatusWritten(Err(error)) => tracing::debug!(%error, "cannot write a pod's status"),
        }
    }

    /// Unless the pod was seen on a node after all, gives back what was assumed.
    fn unbound(&mut self, pod: &PodInfo) {
        let now = Instant::now();
        let seen = self.caches.pods.get(&pod.key.namespace, &pod.key.name);
        let bound = seen.is_some_and(|seen| seen.metadata.uid.as_deref() == Some(&pod.uid) && node_of(&seen).is_some());
        if !bound {
            self.release(&pod.uid, now);
            self.queue.back_off(pod, now);
        }
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Pod(change) => self.pod(change),
            Input::Node(change) => self.node(change),
            other => self.object(other),
        }
    }

    fn pod(&mut self, change: Change<Pod>) {
        let now = Instant::now();
        let (pod, old) = match &change {
            Change::Applied { new, old } => (new, old.as_ref()),
            Change::Deleted(last) => return self.gone(last, now),
        };
        if is_terminal(pod) {
            return self.gone(pod, now);
        }
        if old.is_some_and(|old| same_for_scheduling(old, pod)) {
            return;
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if let Some(node) = node_of(pod) {
            self.queue.remove(&Key::of(pod.as_ref()), now);
            let info = PodInfo::of(pod);
            let before = self.snapshot.placed_shape(uid);
            let node = node.to_owned();
            if self.snapshot.place(&info, &node) {
                let slot = self.snapshot.node(&node).map(|node| node.slot);
                if let Some(shape) = before {
                    self.happened(&Event::PodGone { shape, slot }, now);
                }
                self.happened(&Event::PodPlaced { shape: info.shape }, now);
            }
        } else if !self.is_ours(pod) {
            self.queue.remove(&Key::of(pod.as_ref()), now);
            self.snapshot.denominate(uid);
        } else if self.snapshot.node_of(uid).is_none() {
            let info = self.snapshot.share(PodInfo::of(pod));
            if self.snapshot.nomination(uid).is_none()
                && let Some(node) = &info.nominated
            {
                self.snapshot.nominate(&info, node);
            }
            self.queue.update(info, now);
        }
    }

    fn gone(&mut self, pod: &Pod, now: Instant) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.queue.remove(&Key::of(pod), now);
        self.snapshot.denominate(uid);
        self.release(uid, now);
    }

    /// Takes a pod off its node, where it has one.
    fn release(&mut self, uid: &str, now: Instant) {
        let Some(shape) = self.snapshot.placed_shape(uid) else { return };
        if let Some(name) = self.snapshot.remove_pod(uid) {
            let slot = self.snapshot.node(&name).map(|node| node.slot);
            self.happened(&Event::PodGone { shape, slot }, now);
        }
    }

    fn node(&mut self, change: Change<Node>) {
        let now = Instant::now();
        match change {
            Change::Applied { new, .. } => {
                let change = self.snapshot.set_node(&new);
                let name = new.metadata.name.as_deref().unwrap_or_default();
                if let Some(node) = self.snapshot.node(name).filter(|_| change.any()) {
                    let event = Event::Node { slot: node.slot, change };
                    self.happened(&event, now);
                }
            }
            Change::Deleted(last) => {
                self.snapshot.remove_node(last.metadata.name.as_deref().unwrap_or_default());
                self.happened(&Event::NodeGone, now);
            }
        }
    }

    /// Wakes the pods that an event may help.
    fn happened(&mut self, event: &Event, now: Instant) {
        if self.queue.has_parked() {
            let (planner, snapshot) = (&self.planner, &self.snapshot);
            self.queue.happened(now, |shape: &Shape, plugins| planner.may_help(snapshot, shape, plugins, event));
        }
    }

    /// Whether a pod without a node is for one of the profiles, and may be tried.
    fn is_ours(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        let scheduler = spec.scheduler_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(SCHEDULER_NAME);
        let Some(profile) = self.planner.profile(scheduler) else { return false };
        let gated = profile.gates && spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        pod.metadata.deletion_timestamp.is_none() && !gated
    }
}

/// Whether a change of a pod changes nothing that the scheduler looks at; most are of its status.
fn same_for_scheduling(old: &Pod, new: &Pod) -> bool {
    let (was, is) = (&old.metadata, &new.metadata);
    let given = |pod: &Pod| {
        let status = pod.status.as_ref();
        status.and_then(|s| s.container_statuses.as_ref()).is_some_and(|statuses| {
            statuses.iter().any(|status| status.allocated_resources.is_some() || status.resources.is_some())
        })
    };
    let nominated = |pod: &Pod| pod.status.as_ref().and_then(|status| status.nominated_node_name.clone());
    was.uid == is.uid
        && was.labels == is.labels
        && was.deletion_timestamp == is.deletion_timestamp
        && !is_terminal(old)
        && nominated(old) == nominated(new)
        && !given(new)
        && old.spec == new.spec
}

fn says(status: &k8s_openapi::api::core::v1::PodStatus, message: &str) -> bool {
    status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "PodScheduled"
            && condition.reason.as_deref() == Some("Unschedulable")
            && condition.message.as_deref() == Some(message)
    })
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn reference(pod: &PodInfo) -> ObjectReference {
    reference_to(&pod.key, &pod.uid)
}

fn reference_to(key: &Key, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(key.namespace.clone()),
        name: Some(key.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}
