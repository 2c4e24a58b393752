//! What to do next with a pod.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::view::{Activity, ContainerView, PodView, Role, RunState, Sandbox, containers, spec_hash};

/// Why a container is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The pod ends.
    PodEnds,
    /// A probe wants it restarted; the text is the event's.
    Unhealthy(String),
    /// Its image in the spec changed.
    SpecChanged,
}

/// One step the worker takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a sandbox and attach the network.
    CreateSandbox,
    /// Pull, create and start; the number is the restart count of the new run.
    Start {
        /// Its name.
        container: String,
        /// The restart count.
        attempt: u32,
    },
    /// Run the preStop hook, then stop.
    Stop {
        /// Its name.
        container: String,
        /// Why.
        reason: StopReason,
    },
    /// Give up starting: the pod ends.
    Abandon {
        /// Its name.
        container: String,
    },
    /// Nothing lives any more: end the sandbox.
    StopSandbox,
    /// All is over.
    Finish,
}

/// The decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to do now.
    pub actions: Vec<Action>,
    /// Look again at this time even if nothing happens.
    pub wake_at: Option<Timestamp>,
    /// Containers whose restart is held back, with the wait in seconds.
    pub backing_off: Vec<(String, i64)>,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// The restart policy that applies to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever its exit code.
    Always,
    /// When its exit code is not 0.
    OnFailure,
    /// Never.
    Never,
}

impl RestartPolicy {
    /// Of a container that plays this role in a pod.
    pub fn of(spec: &PodSpec, role: Role) -> Self {
        match (role, spec.restart_policy.as_deref()) {
            (Role::Sidecar, _) => Self::Always,
            (Role::Ephemeral, _) | (_, Some("Never")) => Self::Never,
            (_, Some("OnFailure")) => Self::OnFailure,
            // An init container that has succeeded is never run again.
            (Role::Init, _) => Self::OnFailure,
            (Role::Main, _) => Self::Always,
        }
    }

    fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// Whether the pod has run its course: its main containers are done for good, or an init container failed for good.
pub fn is_over(spec: &PodSpec, view: &PodView) -> bool {
    let done = |role: Role, container: &Container| {
        let exit = view.containers.get(&container.name).and_then(|seen| seen.current.as_ref()?.exit());
        exit.is_some_and(|exit| !RestartPolicy::of(spec, role).restarts(exit.code))
    };
    let init_failed = containers(spec).filter(|(role, _)| *role == Role::Init).any(|(role, container)| {
        done(role, &container)
            && view.containers[&container.name]
                .current
                .as_ref()
                .is_some_and(|run| run.exit().is_some_and(|e| e.code != 0))
    });
    init_failed || spec.containers.iter().all(|container| done(Role::Main, container))
}

/// Decides the next steps.
pub fn plan(spec: &PodSpec, view: &PodView, now: Timestamp) -> Plan {
    if view.ending.is_some() || is_over(spec, view) {
        return plan_end(spec, view);
    }
    let mut plan = Plan::default();
    match &view.sandbox {
        Sandbox::Absent | Sandbox::Stopped => plan.actions.push(Action::CreateSandbox),
        Sandbox::Pending { making: true, .. } | Sandbox::Stopping => {}
        Sandbox::Pending { retry_at: Some(at), .. } if *at > now => plan.wake(*at),
        Sandbox::Pending { .. } => plan.actions.push(Action::CreateSandbox),
        Sandbox::Ready { .. } => plan_run(spec, view, now, &mut plan),
    }
    plan
}

fn plan_run(spec: &PodSpec, view: &PodView, now: Timestamp, plan: &mut Plan) {
    let empty = ContainerView::default();
    let seen = |container: &Container| view.containers.get(&container.name).unwrap_or(&empty);
    // Whoever looks into a pod wants to also while it does not get on.
    for (role, container) in containers(spec).filter(|(role, _)| *role == Role::Ephemeral) {
        plan_container(RestartPolicy::of(spec, role), &container, seen(&container), now, plan);
    }
    // Once a main container was made in this sandbox, initialisation is over for good.
    let initialized = spec.containers.iter().any(|container| {
        let seen = seen(container);
        seen.current.as_ref().is_some_and(|run| run.in_current_sandbox)
    });
    for (role, container) in containers(spec) {
        let container = &*container;
        let state = seen(container);
        match role {
            Role::Init if initialized => {}
            Role::Init => {
                let succeeded = state
                    .current
                    .as_ref()
                    .is_some_and(|run| run.in_current_sandbox && run.exit().is_some_and(|exit| exit.code == 0));
                if !succeeded {
                    // What had succeeded in an earlier sandbox runs again for the new one, whatever the policy.
                    let again = state.current.as_ref().and_then(|run| run.exit()).is_some_and(|exit| exit.code == 0);
                    let policy = if again { RestartPolicy::OnFailure } else { RestartPolicy::of(spec, role) };
                    plan_container(policy, container, state, now, plan);
                    return;
                }
            }
            Role::Sidecar => {
                plan_container(RestartPolicy::Always, container, state, now, plan);
                let up = state.current.as_ref().is_some_and(|run| run.in_current_sandbox && run.is_running());
                let passed = initialized || (up && state.started);
                if !passed {
                    return;
                }
            }
            Role::Main => plan_container(RestartPolicy::of(spec, role), container, state, now, plan),
            Role::Ephemeral => {}
        }
    }
}

fn plan_container(policy: RestartPolicy, container: &Container, seen: &ContainerView, now: Timestamp, plan: &mut Plan) {
    if seen.activity != Activity::Idle {
        return;
    }
    let name = container.name.clone();
    let attempt = seen.current.as_ref().map_or(0, |run| run.attempt + 1);
    let Some(run) = &seen.current else {
        start(name, 0, seen, now, plan);
        return;
    };
    match &run.state {
        RunState::Running { .. } => {
            if let Some(text) = &seen.unhealthy {
                plan.actions.push(Action::Stop { container: name, reason: StopReason::Unhealthy(text.clone()) });
            } else if run.spec_hash != spec_hash(container) {
                plan.actions.push(Action::Stop { container: name, reason: StopReason::SpecChanged });
            }
        }
        // Left over from a crash between making and starting it: the same attempt is made again.
        RunState::Created => start(name, run.attempt, seen, now, plan),
        RunState::Exited(exit) => {
            // A container of an earlier sandbox that had succeeded counts only if it need not run again.
            if !policy.restarts(exit.code) && (run.in_current_sandbox || policy == RestartPolicy::Never) {
                return;
            }
            let ready_at = seen.crashes.ready_at(exit.finished_at);
            if ready_at > now {
                plan.backing_off.push((name, seen.crashes.delay(exit.finished_at).as_secs()));
                plan.wake(ready_at);
            } else {
                start(name, attempt, seen, now, plan);
            }
        }
    }
}

fn start(container: String, attempt: u32, seen: &ContainerView, now: Timestamp, plan: &mut Plan) {
    match seen.retry_at {
        Some(at) if at > now => plan.wake(at),
        _ => plan.actions.push(Action::Start { container, attempt }),
    }
}

/// Ends the pod: main containers together, then the sidecars in reverse order, then the sandbox.
fn plan_end(spec: &PodSpec, view: &PodView) -> Plan {
    let mut plan = Plan::default();
    let mut busy = false;
    let mut sidecar_stops = false;
    for (role, container) in containers(spec).rev() {
        let Some(seen) = view.containers.get(&container.name) else { continue };
        let live = seen.current.as_ref().is_some_and(|run| run.is_live());
        let name = container.name.clone();
        match seen.activity {
            Activity::Starting => {
                plan.actions.push(Action::Abandon { container: name });
                busy = true;
            }
            Activity::Stopping => {
                busy = true;
                sidecar_stops |= role == Role::Sidecar;
            }
            Activity::Idle if !live => {}
            Activity::Idle if role == Role::Sidecar && (busy || sidecar_stops) => busy = true,
            Activity::Idle => {
                busy = true;
                sidecar_stops |= role == Role::Sidecar;
                plan.actions.push(Action::Stop { container: name, reason: StopReason::PodEnds });
            }
        }
    }
    if busy {
        return plan;
    }
    match view.sandbox {
        Sandbox::Ready { .. } => plan.actions.push(Action::StopSandbox),
        Sandbox::Pending { making: true, .. } | Sandbox::Stopping => {}
        Sandbox::Absent | Sandbox::Pending { .. } | Sandbox::Stopped => plan.actions.push(Action::Finish),
    }
    plan
}

#[cfg(test)]
mod tests;
