//! The loop: changes in, decisions, and what follows from them out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, PodStatus};
use kube::Client;
use reconcile::{EventType, Informers, Key, Recorder};
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
use changes::node_of;
use inputs::{Caches, Input, Inputs};
use requests::{Done, bind, bind_volumes, send_away, unscheduled, write_status};

mod changes;
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
    /// Victims that have yet to be sent away, by the pod that room is made for.
    preempting: HashMap<Arc<str>, usize>,
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
            preempting: HashMap::new(),
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
        if self.preempting.contains_key(&pod.uid) {
            self.queue.back_off(pod, now);
            return;
        }
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
        if !preemption.victims.is_empty() {
            self.preempting.insert(Arc::clone(&pod.uid), preemption.victims.len());
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
                self.sent_away(&by.uid);
                let message = format!("Preempted by pod {} on node {node}", by.uid);
                let about = reference_to(&victim.key, &victim.uid);
                self.recorder.event(&about, EventType::Normal, "Preempted", "Preempting", message);
            }
            Done::Left { victim, by, result: Err(error), .. } => {
                tracing::warn!(pod = %victim.key, by = %by.key, %error, "cannot preempt");
                self.sent_away(&by.uid);
                // Nothing will make room: the pod must look again.
                let now = Instant::now();
                self.snapshot.denominate(&by.uid);
                self.queue.happened(now, |shape, _| *shape == *by.shape);
            }
            Done::StatusWritten(Ok(())) => {}
            Done::StatusWritten(Err(error)) => tracing::debug!(%error, "cannot write a pod's status"),
        }
    }

    fn sent_away(&mut self, by: &str) {
        if let Some(left) = self.preempting.get_mut(by) {
            *left -= 1;
            if *left == 0 {
                self.preempting.remove(by);
            }
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

    /// Wakes the pods that an event may help.
    fn happened(&mut self, event: &Event, now: Instant) {
        if self.queue.has_parked() {
            let (planner, snapshot) = (&self.planner, &self.snapshot);
            self.queue.happened(now, |shape: &Shape, plugins| planner.may_help(snapshot, shape, plugins, event));
        }
    }
}

fn says(status: &PodStatus, message: &str) -> bool {
    status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "PodScheduled"
            && condition.reason.as_deref() == Some("Unschedulable")
            && condition.message.as_deref() == Some(message)
    })
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
