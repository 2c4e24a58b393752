//! One task per pod: observes, lets the pure core decide, carries decisions out, and reports.
//!
//! The task owns everything that happens to its pod. Long operations (pull and start, stop, sandbox, volumes, status
//! writes) run in its [`JoinSet`] and come back as [`Done`]; at most one operation per container runs at a time. When
//! Keelson stops, the task just ends: containers live on and the next process adopts them.

mod inputs;
mod observe;
mod sandbox;
mod start;
mod status_writer;
mod stop;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, Service};
use kube::Client;
use network::PodNetwork;
use pod_lifecycle::{
    backoff::Backoff,
    ending,
    lost::lost_run,
    plan::{Action, Plan, StopReason, plan},
    status::{Facts, status},
    view::{Activity, ContainerView, Ending, PodView, Rejection, Role, Run, Sandbox, containers},
};
use reconcile::{EventType, Informer, Recorder};
use runtime::{
    Runtime,
    api::{ContainerId, SandboxId},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::NodeConfig,
    container::fields::PodFacts,
    probes::{self, Report},
    server::PodTable,
    volumes::{self, Volumes},
};

pub(crate) use sandbox::{clean_up, stop_orphan};
use start::{StartError, Started};

/// Findings of probes on their way to the worker.
const REPORTS_MAX: usize = 64;
/// The first wait after a sandbox could not be made; doubled up to the maximum.
const SANDBOX_RETRY: SignedDuration = SignedDuration::from_secs(1);
/// The longest wait between attempts to make a sandbox.
const SANDBOX_RETRY_MAX: SignedDuration = SignedDuration::from_secs(60);
/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`.
const IMAGE_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(2);
/// The wait after a configuration error; a change of a ConfigMap or Secret ends it early.
const CONFIG_RETRY: SignedDuration = SignedDuration::from_secs(10);
/// Until a pod's volumes are refreshed after an error.
const REFRESH_RETRY: SignedDuration = SignedDuration::from_secs(30);

/// What all pods of a node share.
pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) recorder: Recorder,
    pub(crate) services: Informer<Service>,
    pub(crate) table: Arc<PodTable>,
    pub(crate) memory_bytes: u64,
    pub(crate) cpus: u64,
}

/// What is wanted of a pod; the newest value wins.
#[derive(Clone)]
pub(crate) struct Desired {
    pub(crate) pod: Arc<Pod>,
    /// The API has forgotten the pod.
    pub(crate) removed: bool,
    /// Counts changes of the ConfigMaps and Secrets its volumes and environment refer to.
    pub(crate) sources: u64,
}

/// What the node remembered of a pod from before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adopted {
    /// Sandboxes, oldest first.
    pub(crate) sandboxes: Vec<SandboxId>,
    /// Containers by name, oldest first.
    pub(crate) containers: BTreeMap<String, Vec<ContainerId>>,
}

/// An operation that has ended.
enum Done {
    Sandbox(Result<(SandboxId, Vec<String>, Volumes), (String, String)>),
    SandboxStopped,
    Started {
        container: String,
        result: Result<Started, StartError>,
    },
    /// A stop of this container has been tried.
    StopTried {
        container: String,
    },
    /// Something nothing waits for.
    Stopped,
    Refreshed(Result<Volumes, volumes::VolumeError>),
    Status {
        written: bool,
    },
    Deleted,
    Collected,
}

/// One pod.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    removed: bool,
    /// Why the node does not take the pod.
    rejection: Option<Rejection>,
    sources: u64,
    desired: watch::Receiver<Desired>,
    poke: Arc<Notify>,
    view: PodView,
    sandbox: Option<SandboxId>,
    sandbox_attempts: u32,
    sandbox_backoff: SignedDuration,
    containers: BTreeMap<String, Slot>,
    volumes: Option<Volumes>,
    refreshing: bool,
    refresh_at: Option<Timestamp>,
    start_time: Timestamp,
    ops: JoinSet<Done>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    status: StatusState,
    deleting: bool,
    collecting: bool,
    gone: bool,
}

/// What the worker keeps for one container name.
#[derive(Default)]
struct Slot {
    /// Made by the runtime, oldest first.
    ids: Vec<ContainerId>,
    /// The run the API knows of and the runtime does not, as after a reboot: the next one counts on from it.
    lost: Option<Run>,
    start: Option<AbortHandle>,
    prober: Option<(ContainerId, AbortHandle)>,
    image_failures: Backoff,
    /// `ErrImagePull` turns into `ImagePullBackOff` at this time, with this text.
    image_error: Option<(Timestamp, String)>,
    /// Exits that were looked at: reason and message by id.
    exits: BTreeMap<ContainerId, (String, String)>,
}

#[derive(Default)]
struct StatusState {
    /// What the API has, as far as is known.
    written: Option<PodStatus>,
    sending: Option<PodStatus>,
    wanted: Option<PodStatus>,
    retry_at: Option<Timestamp>,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        desired: watch::Receiver<Desired>,
        poke: Arc<Notify>,
        adopted: Adopted,
        rejection: Option<Rejection>,
    ) -> Self {
        let first = desired.borrow().clone();
        let status = first.pod.status.as_ref();
        let start_time = status.and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        let start_time = start_time.unwrap_or_else(|| {
            let now = Timestamp::now();
            Timestamp::from_second(now.as_second()).unwrap_or(now)
        });
        let sandbox = adopted.sandboxes.last().cloned();
        let mut containers: BTreeMap<String, Slot> =
            adopted.containers.into_iter().map(|(name, ids)| (name, Slot { ids, ..Slot::default() })).collect();
        let known = status.iter().flat_map(|status| {
            [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses]
        });
        for known in known.flatten().flatten() {
            let slot = containers.entry(known.name.clone()).or_default();
            if slot.ids.is_empty() {
                slot.lost = lost_run(known, Timestamp::now());
            }
        }
        Self {
            removed: first.removed,
            rejection,
            sources: first.sources,
            status: StatusState { written: first.pod.status.clone(), ..StatusState::default() },
            pod: first.pod,
            shared,
            desired,
            poke,
            view: PodView::default(),
            sandbox,
            sandbox_attempts: adopted.sandboxes.len() as u32,
            sandbox_backoff: SANDBOX_RETRY,
            containers,
            volumes: None,
            refreshing: false,
            refresh_at: None,
            start_time,
            ops: JoinSet::new(),
            reports: mpsc::channel(REPORTS_MAX),
            deleting: false,
            collecting: false,
            gone: false,
        }
    }

    fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn names(&self) -> (&str, &str) {
        let metadata = &self.pod.metadata;
        (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
    }

    fn container(&self, name: &str) -> Option<(Role, Container)> {
        containers(self.spec()?)
            .find(|(_, container)| container.name == name)
            .map(|(role, found)| (role, found.into_owned()))
    }

    fn seen(&mut self, name: &str) -> &mut ContainerView {
        self.view.containers.entry(name.to_owned()).or_default()
    }

    fn facts(&self) -> PodFacts {
        let pod_ips = match &self.view.sandbox {
            Sandbox::Ready { ips } => ips.clone(),
            _ => Vec::new(),
        };
        PodFacts {
            pod_ips,
            host_ip: self.shared.config.node_ip.to_string(),
            allocatable_cpu: self.shared.cpus.to_string(),
            allocatable_memory: self.shared.memory_bytes.to_string(),
        }
    }

    fn event(&self, kind: EventType, reason: &str, message: impl Into<String>) {
        self.shared.recorder.about(&*self.pod, kind, reason, message);
    }

    /// An event about one container, as upstream with its field path.
    fn container_event(&self, container: &str, kind: EventType, reason: &str, message: impl Into<String>) {
        start::container_event(&self.shared.recorder, &self.pod, container, kind, reason, message);
    }

    /// Runs until the pod is gone from node and API, or `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        self.adopt().await;
        if let Some(Rejection { reason, message }) = &self.rejection {
            self.event(EventType::Warning, reason, message);
        }
        loop {
            let now = Timestamp::now();
            self.observe(now);
            let decision = match self.spec() {
                Some(spec) => plan(spec, &self.view, now),
                None => Plan::default(),
            };
            self.note_backing_off(&decision);
            self.report(now);
            let progressed = !decision.actions.is_empty();
            for action in decision.actions {
                self.act(action, now);
            }
            if self.gone {
                return;
            }
            if progressed {
                self.observe(now);
                self.report(now);
            }
            let wake = self.wake_at(decision.wake_at, now);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.desired.changed() => match changed {
                    Ok(()) => self.take_desired(),
                    Err(_owner_gone) => return,
                },
                () = self.poke.notified() => {}
                Some(report) = self.reports.1.recv() => self.take_report(report),
                Some(done) = self.ops.join_next() => match done {
                    Ok(done) => self.take_done(done),
                    Err(error) if error.is_panic() => tracing::error!(pod = self.names().1, %error, "operation panicked"),
                    Err(_aborted) => {}
                },
                () = tokio::time::sleep(wake) => {}
            }
        }
    }

    fn wake_at(&self, planned: Option<Timestamp>, now: Timestamp) -> Duration {
        let flips = self.containers.values().filter_map(|slot| slot.image_error.as_ref().map(|(at, _)| *at));
        let deadline = self.deadline();
        let renew = self.volumes.as_ref().and_then(|volumes| volumes.renew_at).filter(|_| !self.refreshing);
        let times = [planned, deadline, renew, self.refresh_at, self.status.retry_at];
        let next = times.into_iter().flatten().chain(flips).filter(|at| *at > now).min();
        // Nothing planned: only inputs wake the task.
        next.map_or(Duration::from_secs(u64::from(u32::MAX)), |at| {
            Duration::try_from(at.duration_since(now)).unwrap_or_default()
        })
    }

    fn deadline(&self) -> Option<Timestamp> {
        ending::deadline(&self.pod, self.start_time)
    }

    fn act(&mut self, action: Action, now: Timestamp) {
        match action {
            Action::CreateSandbox => self.create_sandbox(),
            Action::Start { container, attempt } => self.start(container, attempt, now),
            Action::Stop { container, reason } => self.stop(container, &reason),
            Action::Abandon { container } => {
                if let Some(start) = self.containers.get_mut(&container).and_then(|slot| slot.start.take()) {
                    start.abort();
                }
                self.seen(&container).activity = Activity::Idle;
                self.rediscover(&container);
            }
            Action::StopSandbox => self.stop_sandbox(),
            Action::Finish => self.finish(),
        }
    }

    /// Everything of the pod has ended: delete it from the API if that is what it waits for, then from the node.
    fn finish(&mut self) {
        if self.removed {
            if !self.collecting {
                self.collecting = true;
                self.collect();
            }
            return;
        }
        let deleted = self.pod.metadata.deletion_timestamp.is_some();
        if deleted && !self.deleting && (self.status.is_settled() || self.status.retry_at.is_some()) {
            self.deleting = true;
            self.delete_from_api();
        }
    }

    fn ending(&self, now: Timestamp) -> Option<Ending> {
        if self.removed {
            return Some(Ending::Deleted);
        }
        let rejected = || self.rejection.clone().map(Ending::Rejected);
        ending::ending(&self.pod, self.start_time, now).or_else(rejected)
    }

    /// Computes the status and sends it when it differs from what the API has.
    fn report(&mut self, now: Timestamp) {
        self.publish();
        if self.removed {
            return;
        }
        let host_ip = self.shared.config.node_ip.to_string();
        // The API's times have seconds; finer ones would make every status differ from what is read back.
        let now_s = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let facts = Facts { host_ip: &host_ip, start_time: self.start_time, now: now_s };
        let rendered = status(&self.pod, &self.view, &facts);
        self.send_status(rendered, now);
    }

    /// Starts, renews and ends the probes of every container so that they match what runs.
    fn tend_probes(&mut self) {
        let ip = self.facts().pod_ips.first().cloned().unwrap_or_default();
        let Some(spec) = self.pod.spec.clone() else { return };
        let status = self.pod.status.clone().unwrap_or_default();
        let known: Vec<_> =
            [status.container_statuses, status.init_container_statuses].into_iter().flatten().flatten().collect();
        for (_, container) in containers(&spec) {
            let seen = self.view.containers.entry(container.name.clone()).or_default();
            let running = seen.current.as_ref().filter(|run| run.is_running() && seen.activity != Activity::Starting);
            let wanted = running.map(|run| ContainerId(run.id.clone()));
            let slot = self.containers.entry(container.name.clone()).or_default();
            if slot.prober.as_ref().map(|(id, _)| id) == wanted.as_ref() {
                continue;
            }
            if let Some((_, prober)) = slot.prober.take() {
                prober.abort();
            }
            (seen.started, seen.ready, seen.unhealthy) = (false, false, None);
            let Some(id) = wanted else { continue };
            // A run that an earlier process probed keeps its standing until its probes say otherwise: a restart of
            // Keelson takes no endpoint away.
            let full_id = format!("keelson://{id}");
            if let Some(known) = known.iter().find(|status| status.container_id.as_ref() == Some(&full_id)) {
                (seen.started, seen.ready) = (known.started == Some(true), known.ready);
            }
            let target = probes::Target {
                runtime: Arc::clone(&self.shared.runtime),
                id: id.clone(),
                container: Arc::new(container.into_owned()),
                ip: if ip.is_empty() { self.shared.config.node_ip.to_string() } else { ip.clone() },
            };
            let reports = self.reports.0.clone();
            let prober = self.ops.spawn(async move {
                probes::run(target, reports).await;
                Done::Stopped
            });
            slot.prober = Some((id, prober));
        }
    }

    fn grace_for(&self, name: &str, reason: &StopReason) -> i64 {
        if let (StopReason::Unhealthy(text), Some((_, container))) = (reason, self.container(name)) {
            let probe = if text.contains("startup probe") { container.startup_probe } else { container.liveness_probe };
            if let Some(seconds) = probe.and_then(|probe| probe.termination_grace_period_seconds) {
                return seconds;
            }
        }
        self.grace()
    }
}
