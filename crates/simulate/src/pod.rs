//! One simulated pod: a runtime that exists as times at which things come about.
//!
//! What to do next and what to report is decided by `pod_lifecycle`, as on a node with containers; here is what happens
//! when it is done. Pure: the clock and the decisions of chance come from outside.

mod resume;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use pod_lifecycle::{
    backoff::crash_loop,
    ending::{deadline, ending, grace_seconds},
    plan::{Action, Plan, RestartPolicy, plan},
    status::{Facts, status},
    view::{Activity, Exit, PodView, Role, Run, RunState, Sandbox, containers, spec_hash},
};

use crate::{
    behaviour::{Behaviour, RunFor},
    chance::Chance,
};

/// Rounds of deciding and doing in one step: an instant pod with ten containers takes fewer, and what is left over is done
/// in the next step.
const ROUNDS_MAX: usize = 64;
/// Exit code of a run that fails.
const FAILED: i32 = 1;
/// Exit code of a program that is ended by SIGTERM and does not care: one that runs to an end has not reached it.
const TERMINATED: i32 = 143;
/// How long after a step that left something over the next one comes.
const NEXT_STEP: SignedDuration = SignedDuration::from_millis(10);

/// What a simulated pod is made from.
pub(crate) struct Birth {
    pub(crate) pod: Arc<Pod>,
    pub(crate) behaviour: Behaviour,
    pub(crate) chance: Chance,
    /// The pod's own address, and its node's.
    pub(crate) address: String,
    pub(crate) host: String,
}

/// Something that comes about at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Effect {
    /// A container runs.
    Started { container: String, attempt: u32 },
    /// It is ready.
    Ready { container: String },
    /// It ends.
    Exited { container: String, code: i32 },
}

impl Effect {
    fn container(&self) -> &str {
        match self {
            Self::Started { container, .. } | Self::Ready { container } | Self::Exited { container, .. } => container,
        }
    }
}

/// What is to be done about a pod after a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    /// What the API does not know yet.
    pub(crate) status: Option<PodStatus>,
    /// Nothing of it is left and it waits to be deleted.
    pub(crate) gone: bool,
    /// When something comes about by itself.
    pub(crate) wake_at: Option<Timestamp>,
}

/// A pod on a simulated node.
pub(crate) struct SimulatedPod {
    pod: Arc<Pod>,
    behaviour: Behaviour,
    chance: Chance,
    address: String,
    host: String,
    start_time: Timestamp,
    view: PodView,
    due: Vec<(Timestamp, Effect)>,
    /// The status that was last given away, or that the API had at first.
    said: Option<PodStatus>,
}

/// The API's times have seconds.
fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn after(time: Timestamp, wait: SignedDuration) -> Timestamp {
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

impl SimulatedPod {
    /// A pod as the API shows it at `now`: new, or known from an earlier run.
    pub(crate) fn new(birth: Birth, now: Timestamp) -> Self {
        let Birth { pod, behaviour, chance, address, host } = birth;
        let known = pod.status.as_ref();
        let start_time = known.and_then(|status| status.start_time.as_ref()).map_or_else(|| whole(now), |time| time.0);
        let said = pod.status.clone();
        let view = PodView::default();
        let mut new = Self { pod, behaviour, chance, address, host, start_time, view, due: Vec::new(), said };
        new.resume(now);
        new
    }

    /// The address it has.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The pod as it was last seen.
    pub(crate) fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Takes note of what the API shows now.
    pub(crate) fn observe(&mut self, pod: Arc<Pod>, now: Timestamp) {
        let (old, new) = (grace_seconds(&self.pod), grace_seconds(&pod));
        self.pod = pod;
        if new < old {
            // what is ending has to hurry
            let latest = after(now, SignedDuration::from_secs(new.max(0)));
            for (at, effect) in &mut self.due {
                let stopping = self.view.containers.get(effect.container());
                if stopping.is_some_and(|seen| seen.activity == Activity::Stopping) {
                    *at = (*at).min(latest);
                }
            }
        }
    }

    /// The API has not got what was given away last: say it again.
    pub(crate) fn unsaid(&mut self) {
        self.said = None;
    }

    /// Lets everything come about that is due, decides, and says what the API should know.
    pub(crate) fn step(&mut self, now: Timestamp) -> Step {
        let pod = Arc::clone(&self.pod);
        let Some(spec) = &pod.spec else { return Step { status: None, gone: false, wake_at: None } };
        let mut finished = false;
        let mut wake_at = None;
        for round in 0..ROUNDS_MAX {
            self.come_about(spec, now);
            self.view.ending = ending(&pod, self.start_time, now);
            let decided = plan(spec, &self.view, now);
            self.note_backing_off(&decided);
            finished = decided.actions.contains(&Action::Finish);
            wake_at = decided.wake_at;
            if finished || decided.actions.is_empty() {
                break;
            }
            for action in decided.actions {
                self.act(spec, action, now);
            }
            if round + 1 == ROUNDS_MAX {
                wake_at = Some(after(now, NEXT_STEP));
            }
        }
        let facts = Facts { host_ip: &self.host, start_time: self.start_time, now: whole(now) };
        let rendered = status(&pod, &self.view, &facts);
        let status = (self.said.as_ref() != Some(&rendered)).then(|| {
            self.said = Some(rendered.clone());
            rendered
        });
        let effects = self.due.iter().map(|(at, _)| *at);
        let limit = deadline(&pod, self.start_time).filter(|at| *at > now && !finished);
        let wake_at = effects.chain(wake_at).chain(limit).min();
        Step { status, gone: finished && pod.metadata.deletion_timestamp.is_some(), wake_at }
    }

    fn act(&mut self, spec: &PodSpec, action: Action, now: Timestamp) {
        match action {
            Action::CreateSandbox => self.view.sandbox = Sandbox::Ready { ips: vec![self.address.clone()] },
            Action::StopSandbox => self.view.sandbox = Sandbox::Stopped,
            Action::Start { container, attempt } => {
                let wait = self.about(&container, attempt).about("start").within(self.behaviour.start_after);
                let seen = self.view.containers.entry(container.clone()).or_default();
                seen.activity = Activity::Starting;
                if seen.current.is_some() {
                    seen.crashes.advance(now);
                }
                self.due.push((after(now, wait), Effect::Started { container, attempt }));
            }
            Action::Stop { container, .. } => {
                let attempt = self.attempt(&container);
                let wait = self.about(&container, attempt).about("stop").within(self.behaviour.terminate_after);
                let wait = wait.min(SignedDuration::from_secs(grace_seconds(&self.pod).max(0)));
                self.view.containers.entry(container.clone()).or_default().activity = Activity::Stopping;
                self.forget(&container);
                let code = if spec.restart_policy.as_deref() == Some("Always") { 0 } else { TERMINATED };
                self.due.push((after(now, wait), Effect::Exited { container, code }));
            }
            Action::Abandon { container } => {
                self.forget(&container);
                self.view.containers.entry(container).or_default().activity = Activity::Idle;
            }
            Action::Finish => {}
        }
    }

    /// The decisions about one run of a container.
    fn about(&self, container: &str, attempt: u32) -> Chance {
        self.chance.about(container).nth(u64::from(attempt))
    }

    fn attempt(&self, container: &str) -> u32 {
        let current = self.view.containers.get(container).and_then(|seen| seen.current.as_ref());
        current.map_or(0, |run| run.attempt)
    }

    /// Nothing that was to become of a container does.
    fn forget(&mut self, container: &str) {
        self.due.retain(|(_, effect)| effect.container() != container);
    }

    /// Lets everything come about that is due at `now`, in its order.
    fn come_about(&mut self, spec: &PodSpec, now: Timestamp) {
        while let Some(first) = (0..self.due.len()).min_by_key(|number| self.due[*number].0) {
            if self.due[first].0 > now {
                return;
            }
            let (at, effect) = self.due.remove(first);
            match effect {
                Effect::Started { container, attempt } => {
                    if let Some((role, container)) = containers(spec).find(|(_, own)| own.name == container) {
                        self.started(spec, role, &container, attempt, at);
                    }
                }
                Effect::Ready { container } => {
                    if let Some(seen) = self.view.containers.get_mut(&container) {
                        seen.ready = true;
                    }
                }
                Effect::Exited { container, code } => self.exited(&container, code, at),
            }
        }
    }

    fn started(&mut self, spec: &PodSpec, role: Role, container: &Container, attempt: u32, at: Timestamp) {
        let image = container.image.clone().unwrap_or_default();
        let (high, low) = self.chance.about(self.uid()).about(&container.name).nth(u64::from(attempt)).words();
        let run = Run {
            id: format!("{high:016x}{low:016x}"),
            attempt,
            image_ref: image.clone(),
            image_digest: image,
            spec_hash: spec_hash(container),
            in_current_sandbox: true,
            state: RunState::Running { started_at: whole(at) },
        };
        let seen = self.view.containers.entry(container.name.clone()).or_default();
        seen.previous = seen.current.replace(run);
        seen.activity = Activity::Idle;
        seen.waiting = None;
        (seen.started, seen.ready) = (true, false);
        self.decide(spec, role, container, attempt, at);
    }

    /// Decides what becomes of a run that began at `at`.
    fn decide(&mut self, spec: &PodSpec, role: Role, container: &Container, attempt: u32, at: Timestamp) {
        let (chance, how) = (self.about(&container.name, attempt), &self.behaviour);
        let fails = chance.about("fail").share() < how.fail_rate;
        let code = if fails { FAILED } else { how.exit_code };
        let name = || container.name.clone();
        let ends = |span, code| (after(at, span), Effect::Exited { container: name(), code });
        let ready = |wait| (after(at, wait), Effect::Ready { container: name() });
        let on = role == Role::Main && RestartPolicy::of(spec, role) == RestartPolicy::Always;
        match role {
            Role::Init => self.due.push(ends(chance.about("run").within(how.init_for), if fails { FAILED } else { 0 })),
            Role::Sidecar => self.due.push(ready(SignedDuration::ZERO)),
            // whoever added it ends it
            Role::Ephemeral => {}
            Role::Main if on => {
                let wait = chance.about("ready").within(how.ready_after);
                // one that fails does so where another is ready
                let first = if fails { ends(wait, FAILED) } else { ready(wait) };
                let end = match (how.always_for, how.crash_every) {
                    (RunFor::Time(span), _) => Some(ends(chance.about("run").within(span), code)),
                    (RunFor::Ever, RunFor::Time(span)) => Some(ends(chance.about("crash").within(span), FAILED)),
                    (RunFor::Ever, RunFor::Ever) => None,
                };
                self.due.push(first);
                self.due.extend(end);
            }
            Role::Main => {
                let end = match how.run_for {
                    RunFor::Time(span) => Some(ends(chance.about("run").within(span), code)),
                    RunFor::Ever => None,
                };
                self.due.push(ready(SignedDuration::ZERO));
                self.due.extend(end);
            }
        }
    }

    fn exited(&mut self, container: &str, code: i32, at: Timestamp) {
        self.forget(container);
        let Some(seen) = self.view.containers.get_mut(container) else { return };
        seen.activity = Activity::Idle;
        (seen.started, seen.ready) = (false, false);
        let Some(run) = seen.current.as_mut() else { return };
        let RunState::Running { started_at } = run.state else { return };
        run.state = RunState::Exited(Exit {
            code,
            reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
            started_at: Some(started_at),
            finished_at: whole(at),
            ..Exit::default()
        });
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn note_backing_off(&mut self, decided: &Plan) {
        let metadata = &self.pod.metadata;
        let (name, namespace) = (metadata.name.as_deref(), metadata.namespace.as_deref());
        for (container, seconds) in &decided.backing_off {
            let pod = format!("{}_{}({})", name.unwrap_or_default(), namespace.unwrap_or_default(), self.uid());
            if let Some(seen) = self.view.containers.get_mut(container) {
                seen.waiting = Some(crash_loop(container, &pod, *seconds));
            }
        }
    }
}

#[cfg(test)]
mod tests;
