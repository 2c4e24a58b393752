//! The loop: changes in, decisions, and what follows from them out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use kube::Client;
use reconcile::{Informers, Key, Recorder};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::SCHEDULER_NAME;
use crate::config::Configuration;
use crate::metrics::{Gauges, Incoming, Metrics, Outcome, Refused, Stopwatch};
use crate::plugin::Event;
use crate::queue::{Attempt, PodQueue};
use crate::schedule::{Placement, Planner};
use crate::shape::Shape;
use crate::snapshot::Snapshot;
use explanations::Explanations;
use inputs::{Caches, Input, Inputs};
use requests::{Binding, Done, bind, write_status};
use volumes::VolumeWork;

mod changes;
mod explanations;
mod inputs;
mod objects;
mod outcomes;
mod refusal;
mod requests;
mod volumes;

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
    /// Requests under way. They are part of the loop's own task: those that one commit answers wake it once.
    requests: FuturesUnordered<BoxFuture<'static, Done>>,
    volume_waits: JoinSet<Done>,
    /// Ends the wait for the volumes of a pod that is gone, by its uid.
    waiting_pods: HashMap<Arc<str>, CancellationToken>,
    /// Victims that have yet to be sent away, by the pod that room is made for.
    preempting: HashMap<Arc<str>, usize>,
    /// Pods that have a node by decision and have not been seen there.
    assumed: HashSet<Arc<str>>,
    explanations: Explanations,
    /// Pods that must not be tried yet.
    gated: HashSet<Key>,
    metrics: Arc<Metrics>,
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
            requests: FuturesUnordered::new(),
            volume_waits: JoinSet::new(),
            waiting_pods: HashMap::new(),
            preempting: HashMap::new(),
            assumed: HashSet::new(),
            explanations: Explanations::new(),
            gated: HashSet::new(),
            metrics: Arc::default(),
            seed,
        }
    }

    /// Has it count what it does here.
    #[must_use]
    pub fn counting(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
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
        let drain = async { while self.requests.next().await.is_some() {} };
        if tokio::time::timeout(STOP_GRACE, drain).await.is_err() {
            tracing::debug!("requests under way did not end in time");
        }
        self.volume_waits.shutdown().await;
        Ok(())
    }

    async fn wait(&mut self, inputs: &mut Inputs, stop: &CancellationToken) -> Wake {
        let explain_at = match self.requests.len() {
            // an answer comes first
            REQUESTS_MAX.. => None,
            _ => self.explanations.next_at(Instant::now()),
        };
        let next_at = self.queue.next_at().into_iter().chain(explain_at).min();
        let timer = async {
            match next_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => Wake::Stop,
            input = inputs.next() => Wake::Input(input),
            Some(done) = self.requests.next(), if !self.requests.is_empty() => Wake::Done(done),
            Some(Ok(done)) = self.volume_waits.join_next(), if !self.volume_waits.is_empty() => Wake::Done(done),
            () = timer => Wake::Time,
        }
    }

    /// Takes what waits and tries pods, up to a bound; true when there is more to do at once.
    fn turn(&mut self, inputs: &mut Inputs) -> bool {
        let mut budget = TURN_MAX;
        // the waker is registered when the loop waits, which it does before it rests
        while let Some(Some(done)) = self.requests.next().now_or_never() {
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
        let mut waits = false;
        while tries > 0 && self.requests.len() < REQUESTS_MAX && self.volume_waits.len() < VOLUME_WAITS_MAX {
            let Some(attempt) = self.queue.pop() else {
                waits = true;
                break;
            };
            tries -= 1;
            self.attempt(attempt, now);
        }
        while self.requests.len() < REQUESTS_MAX
            && let Some((uid, explanation)) = self.explanations.next(now)
        {
            let key = explanation.key.clone();
            self.request(write_status(self.client.clone(), key, uid, explanation.status()));
        }
        self.tell();
        budget == 0 || (tries == 0 && !waits)
    }

    fn attempt(&mut self, attempt: Attempt, now: Instant) {
        let pod = &attempt.pod;
        if self.preempting.contains_key(&pod.uid) {
            self.queue.back_off(pod, now);
            return;
        }
        self.seed = self.seed.wrapping_add(1);
        let mut watch = Stopwatch::start();
        let placement = self.planner.decide_watched(&mut self.snapshot, pod, self.seed, &mut |step| watch.ended(step));
        self.metrics.decided(&pod.shape.scheduler, &watch);
        match placement {
            Placement::Node { name, volumes } => {
                self.snapshot.place(pod, &name);
                self.assumed.insert(Arc::clone(&pod.uid));
                self.queue.placed(pod, now);
                self.explanations.forget(&pod.uid);
                self.happened(&Event::PodPlaced { shape: Arc::clone(&pod.shape) }, now);
                if volumes.is_empty() {
                    self.request(bind(self.client.clone(), attempt, watch.began(), name));
                } else {
                    self.snapshot.volumes.reserve(&pod.key.namespace, &volumes);
                    let wait_max = self.planner.profile(&pod.shape.scheduler).map(|profile| profile.volumes_wait_max);
                    let gone = CancellationToken::new();
                    self.waiting_pods.insert(Arc::clone(&pod.uid), gone.clone());
                    let (began, step_began) = (watch.began(), Instant::now());
                    let work = VolumeWork {
                        client: self.client.clone(),
                        claims: self.caches.claims.clone(),
                        volumes: self.caches.volumes.clone(),
                        binding: Binding { attempt, node: name, began, step_began },
                        plan: volumes,
                    };
                    let work = work.run(wait_max.unwrap_or_default(), gone);
                    self.volume_waits.spawn(work);
                }
            }
            Placement::Unschedulable(why) => {
                self.queue.park(pod, why.plugins, now);
                self.metrics.attempted(&pod.shape.scheduler, Outcome::Unschedulable, watch.began().elapsed());
                self.refuse(pod, &why);
            }
        }
    }

    fn request(&mut self, request: impl Future<Output = Done> + Send + 'static) {
        self.requests.push(request.boxed());
    }

    /// Tells monitoring what waits.
    fn tell(&mut self) {
        let (active, backoff, unschedulable) = self.queue.waiting();
        let gauges = Gauges {
            active,
            backoff,
            unschedulable,
            gated: self.gated.len(),
            nodes: self.snapshot.node_count(),
            pods: self.snapshot.pod_count(),
            assumed: self.assumed.len(),
        };
        self.metrics.tell(gauges, self.queue.take_incoming(), self.queue.refused());
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
            let may_help = |shape: &Shape, plugins| planner.may_help(snapshot, shape, plugins, event);
            self.queue.happened(event.label(), now, planner.hearing(event), may_help);
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // whoever schedules now says what waits
        self.metrics.tell(Gauges::default(), Incoming::new(), &Refused::new());
    }
}
