//! The pod conditions the node owns; those of others are kept.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod, PodCondition, PodSpec},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::Phase;
use crate::view::{PodView, Role, Sandbox, containers};

/// Status, reason and message of one condition.
struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes() -> Self {
        Self { holds: true, reason: "", message: String::new() }
    }

    fn no(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }
}

pub(super) fn conditions(
    pod: &Pod,
    spec: &PodSpec,
    view: &PodView,
    phase: Phase,
    main: &[ContainerStatus],
    init: &[ContainerStatus],
    now: Timestamp,
) -> Vec<PodCondition> {
    let old: &[PodCondition] = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let containers_ready = containers_ready(spec, phase, main, init);
    let ready = ready(spec, &containers_ready, old);
    let verdicts = [
        (
            "PodReadyToStartContainers",
            Verdict { holds: matches!(view.sandbox, Sandbox::Ready { .. }), ..Verdict::yes() },
        ),
        ("Initialized", initialized(spec, phase, main, init)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::yes()),
    ];
    let foreign = old.iter().filter(|condition| verdicts.iter().all(|(type_, _)| *type_ != condition.type_)).cloned();
    let own = verdicts.iter().map(|(type_, verdict)| {
        let status = if verdict.holds { "True" } else { "False" };
        let before = old.iter().find(|condition| condition.type_ == *type_);
        let since = before.filter(|condition| condition.status == status).and_then(|c| c.last_transition_time.clone());
        PodCondition {
            type_: (*type_).to_owned(),
            status: status.to_owned(),
            reason: (!verdict.reason.is_empty()).then(|| verdict.reason.to_owned()),
            message: (!verdict.message.is_empty()).then(|| verdict.message.clone()),
            last_transition_time: since.or(Some(Time(now))),
            observed_generation: pod.metadata.generation,
            last_probe_time: None,
        }
    });
    own.chain(foreign).collect()
}

fn list(names: &[String]) -> String {
    format!("[{}]", names.join(" "))
}

fn initialized(spec: &PodSpec, phase: Phase, main: &[ContainerStatus], init: &[ContainerStatus]) -> Verdict {
    if phase == Phase::Succeeded {
        return Verdict { reason: "PodCompleted", ..Verdict::yes() };
    }
    // Once a main container exists, initialisation is over.
    if main.iter().any(|status| status.container_id.is_some()) {
        return Verdict::yes();
    }
    let incomplete: Vec<String> = containers(spec)
        .filter_map(|(role, container)| {
            let status = init.iter().find(|status| status.name == container.name);
            let complete = match role {
                Role::Main | Role::Ephemeral => true,
                Role::Init => status.is_some_and(|status| status.ready),
                Role::Sidecar => status.is_some_and(|status| status.started == Some(true)),
            };
            (!complete).then(|| container.name.clone())
        })
        .collect();
    if incomplete.is_empty() {
        return Verdict::yes();
    }
    Verdict::no("ContainersNotInitialized", format!("containers with incomplete status: {}", list(&incomplete)))
}

fn containers_ready(spec: &PodSpec, phase: Phase, main: &[ContainerStatus], init: &[ContainerStatus]) -> Verdict {
    match phase {
        Phase::Succeeded => return Verdict::no("PodCompleted", String::new()),
        Phase::Failed => return Verdict::no("PodFailed", String::new()),
        Phase::Pending | Phase::Running => {}
    }
    let unready: Vec<String> = containers(spec)
        .filter(|(role, _)| !matches!(role, Role::Init | Role::Ephemeral))
        .filter(|(_, container)| !main.iter().chain(init).any(|status| status.name == container.name && status.ready))
        .map(|(_, container)| container.name.clone())
        .collect();
    if unready.is_empty() {
        return Verdict::yes();
    }
    Verdict::no("ContainersNotReady", format!("containers with unready status: {}", list(&unready)))
}

fn ready(spec: &PodSpec, containers_ready: &Verdict, old: &[PodCondition]) -> Verdict {
    if !containers_ready.holds {
        return Verdict::no(containers_ready.reason, containers_ready.message.clone());
    }
    let unmet: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let type_ = &gate.condition_type;
            match old.iter().find(|condition| condition.type_ == *type_) {
                None => Some(format!("corresponding condition of pod readiness gate {type_:?} does not exist.")),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate {type_:?} is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if unmet.is_empty() { Verdict::yes() } else { Verdict::no("ReadinessGatesNotReady", unmet.join(", ")) }
}
