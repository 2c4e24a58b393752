//! What the node reports of a pod: container states, phase and conditions.

mod conditions;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodIP, PodSpec, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use serde_json::{Value, json};

use crate::{
    plan::{RestartPolicy, is_over},
    qos::qos_class,
    view::{ContainerView, Ending, PodView, Rejection, Role, Run, RunState, Sandbox, containers},
};

/// The pod's phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not all main containers have run yet.
    Pending,
    /// All main containers have run, and it is not over.
    Running,
    /// It is over, without failure.
    Succeeded,
    /// It is over, and something failed.
    Failed,
}

impl Phase {
    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// What the report needs besides pod and view.
pub struct Facts<'a> {
    /// The node's address.
    pub host_ip: &'a str,
    /// When the node first saw the pod.
    pub start_time: Timestamp,
    /// The present moment, in whole seconds as the API's times are.
    pub now: Timestamp,
}

/// Renders the status.
pub fn status(pod: &Pod, view: &PodView, facts: &Facts<'_>) -> PodStatus {
    let Some(spec) = &pod.spec else { return PodStatus::default() };
    let old = pod.status.clone().unwrap_or_default();
    // A final phase is the last word, also when the runtime has forgotten the containers since.
    if matches!(old.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return old;
    }
    if let Some(Ending::Rejected(Rejection { reason, message })) = &view.ending {
        return PodStatus {
            phase: Some(Phase::Failed.name().to_owned()),
            reason: Some(reason.clone()),
            message: Some(format!("Pod was rejected: {message}")),
            start_time: old.start_time.clone().or(Some(Time(facts.start_time))),
            qos_class: Some(qos_class(spec).name().to_owned()),
            observed_generation: pod.metadata.generation,
            ..old
        };
    }
    let phase = phase(spec, view);
    let render = |wanted: fn(Role) -> bool| -> Vec<ContainerStatus> {
        containers(spec)
            .filter(|(role, _)| wanted(*role))
            .map(|(role, container)| container_status(spec, view, role, &container, &old))
            .collect()
    };
    let main = render(|role| role == Role::Main);
    let init = render(|role| matches!(role, Role::Init | Role::Sidecar));
    let ephemeral = render(|role| role == Role::Ephemeral);
    let (reason, message) = match view.ending {
        Some(Ending::DeadlineExceeded) => (
            Some("DeadlineExceeded".to_owned()),
            Some("Pod was active on the node longer than the specified deadline".to_owned()),
        ),
        _ => (old.reason.clone(), old.message.clone()),
    };
    let ips = match &view.sandbox {
        Sandbox::Ready { ips } => ips.clone(),
        // An ended pod keeps its last address in its status, as upstream.
        _ => old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    };
    let conditions = conditions::conditions(pod, spec, view, phase, &main, &init, facts.now);
    PodStatus {
        phase: Some(phase.name().to_owned()),
        conditions: Some(conditions),
        container_statuses: Some(main),
        init_container_statuses: (!init.is_empty()).then_some(init),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        host_ip: Some(facts.host_ip.to_owned()),
        host_ips: Some(vec![HostIP { ip: facts.host_ip.to_owned() }]),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: old.start_time.clone().or(Some(Time(facts.start_time))),
        qos_class: Some(qos_class(spec).name().to_owned()),
        observed_generation: pod.metadata.generation,
        reason,
        message,
        ..old
    }
}

/// The phase. A final one is reported only when nothing of the pod lives any more.
pub fn phase(spec: &PodSpec, view: &PodView) -> Phase {
    let runs = |role: fn(Role) -> bool| {
        containers(spec)
            .filter(move |(own, _)| role(*own))
            .map(|(own, container)| (own, view.containers.get(&container.name)))
    };
    let exit_code = |seen: Option<&ContainerView>| Some(seen?.current.as_ref()?.exit()?.code);
    let live = runs(|_| true).any(|(_, seen)| seen.and_then(|seen| seen.current.as_ref()).is_some_and(Run::is_live));
    let ending = matches!(view.ending, Some(Ending::Deleted | Ending::DeadlineExceeded));
    if (ending || is_over(spec, view)) && !live {
        let failed = view.ending == Some(Ending::DeadlineExceeded)
            || runs(|role| matches!(role, Role::Init | Role::Main))
                .any(|(_, seen)| exit_code(seen).is_none_or(|code| code != 0));
        return if failed { Phase::Failed } else { Phase::Succeeded };
    }
    let begun = runs(|role| role == Role::Main).all(|(_, seen)| seen.is_some_and(|seen| seen.current.is_some()));
    if begun { Phase::Running } else { Phase::Pending }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: (!message.is_empty()).then(|| message.to_owned()),
    };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn state_of(run: &Run) -> ContainerState {
    match &run.state {
        RunState::Created => waiting("ContainerCreating", ""),
        RunState::Running { started_at } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*started_at)) }),
            ..ContainerState::default()
        },
        RunState::Exited(exit) => ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(format!("keelson://{}", run.id)),
                exit_code: exit.code,
                signal: exit.signal,
                reason: Some(exit.reason.clone()),
                message: (!exit.message.is_empty()).then(|| exit.message.clone()),
                started_at: exit.started_at.map(Time),
                finished_at: Some(Time(exit.finished_at)),
            }),
            ..ContainerState::default()
        },
    }
}

fn container_status(
    spec: &PodSpec,
    view: &PodView,
    role: Role,
    container: &Container,
    old: &PodStatus,
) -> ContainerStatus {
    let empty = ContainerView::default();
    let seen = view.containers.get(&container.name).unwrap_or(&empty);
    let run = seen.current.as_ref();
    let known = match role {
        Role::Main => &old.container_statuses,
        Role::Init | Role::Sidecar => &old.init_container_statuses,
        Role::Ephemeral => &old.ephemeral_container_statuses,
    };
    let before = known.iter().flatten().find(|status| status.name == container.name);
    let running = run.is_some_and(Run::is_running);
    let ready = match role {
        // A finished init container stays ready when the runtime has forgotten it.
        Role::Init => match run {
            Some(run) => run.exit().is_some_and(|exit| exit.code == 0),
            None => before.is_some_and(|status| status.ready),
        },
        Role::Sidecar | Role::Main => running && seen.ready,
        Role::Ephemeral => false,
    };
    let (state, last_state) = states(spec, view, role, seen, before);
    ContainerStatus {
        name: container.name.clone(),
        image: run.map(|run| run.image_ref.clone()).or_else(|| container.image.clone()).unwrap_or_default(),
        image_id: run.map(|run| run.image_digest.clone()).unwrap_or_default(),
        container_id: run.map(|run| format!("keelson://{}", run.id)),
        ready,
        started: (role != Role::Ephemeral).then_some(running && seen.started),
        restart_count: run.map_or_else(|| before.map_or(0, |status| status.restart_count), |run| run.attempt as i32),
        state: Some(state),
        last_state,
        ..ContainerStatus::default()
    }
}

/// Present and last state.
fn states(
    spec: &PodSpec,
    view: &PodView,
    role: Role,
    seen: &ContainerView,
    before: Option<&ContainerStatus>,
) -> (ContainerState, Option<ContainerState>) {
    let last_of = |run: Option<&Run>| run.filter(|run| run.exit().is_some()).map(state_of);
    match (&seen.current, &seen.waiting) {
        (None, Some(why)) => (waiting(&why.reason, &why.message), last_of(seen.previous.as_ref())),
        (None, None) => {
            if let Some(state) =
                before.filter(|status| role == Role::Init && status.ready).and_then(|s| s.state.clone())
            {
                return (state, None);
            }
            let blocked = spec.init_containers.iter().flatten().next().is_some();
            let reason = if blocked { "PodInitializing" } else { "ContainerCreating" };
            (waiting(reason, ""), last_of(seen.previous.as_ref()))
        }
        (Some(run), why) => {
            let restarts = view.ending.is_none() && !is_over(spec, view);
            match (run.exit().is_some(), why) {
                (true, Some(why)) if restarts && RestartPolicy::of(spec, role) != RestartPolicy::Never => {
                    (waiting(&why.reason, &why.message), Some(state_of(run)))
                }
                _ => (state_of(run), last_of(seen.previous.as_ref())),
            }
        }
    }
}

/// The strategic merge patch from what the API has, as far as is known: addresses that a pod has no more are replaced as a
/// whole, for they would be merged by address. Where none are, servers before 1.27 take the directive for an address.
pub fn patch(uid: &str, known: Option<&PodStatus>, status: &PodStatus) -> Value {
    let mut rendered = json!(status);
    let before = known.and_then(|known| known.pod_ips.as_deref()).unwrap_or_default();
    let stays = |address: &PodIP| status.pod_ips.iter().flatten().any(|own| own.ip == address.ip);
    if before.iter().any(|address| !stays(address))
        && let Some(items) = rendered.get_mut("podIPs").and_then(Value::as_array_mut)
    {
        items.push(json!({"$patch": "replace"}));
    }
    for condition in rendered.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        for field in ["reason", "message"] {
            // A merged condition keeps what the patch does not name.
            if let Some(condition) = condition.as_object_mut() {
                condition.entry(field).or_insert(Value::Null);
            }
        }
    }
    json!({"metadata": {"uid": uid}, "status": rendered})
}

#[cfg(test)]
mod tests;
