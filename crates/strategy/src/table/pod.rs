//! Pods.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Column, NAME, Printer, format};
use crate::tree::{at, int, list, some, text, text_at};

pub(super) static POD: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
        Column::text("Status", "The aggregate status of the containers in this pod."),
        Column::text(
            "Restarts",
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        ),
        AGE,
        Column::text("IP", "Address of the pod.").wide(),
        Column::text("Node", "Node that the pod is bound to.").wide(),
        Column::text("Nominated Node", "Node on which room is being made for the pod.").wide(),
        Column::text("Readiness Gates", "Further conditions that the pod's readiness waits for.").wide(),
    ],
    cells,
};

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarise(pod);
    let restarts = match summary.last_restart {
        Some(instant) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, format::since(instant, now))
        }
        _ => summary.restarts.to_string(),
    };
    let status = pod.get("status").unwrap_or(&Value::Null);
    let ip = list(status, "podIPs").first().map_or_else(|| text(status, "podIP"), |ip| text(ip, "ip"));
    let gates = pod.get("spec").map_or(&[][..], |spec| list(spec, "readinessGates"));
    let open = gates.iter().filter(|gate| format::condition(pod, text(gate, "conditionType")) == "True").count();
    vec![
        format::name(pod),
        format!("{}/{}", summary.ready, summary.containers).into(),
        summary.reason.into(),
        restarts.into(),
        format::created(pod, now),
        format::or_none(ip),
        format::or_none(text_at(pod, &["spec", "nodeName"])),
        format::or_none(text(status, "nominatedNodeName")),
        if gates.is_empty() { format::NONE.into() } else { format!("{open}/{}", gates.len()).into() },
    ]
}

/// What the containers' states amount to.
struct Summary<'a> {
    ready: usize,
    containers: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<&'a str>,
}

impl<'a> Summary<'a> {
    fn count_restarts(&mut self, status: &'a Value) {
        self.restarts += int(status, "restartCount").unwrap_or(0);
        let finished = text_at(status, &["lastState", "terminated", "finishedAt"]);
        // Instants in one format compare as text.
        if !finished.is_empty() && self.last_restart.is_none_or(|last| last < finished) {
            self.last_restart = Some(finished);
        }
    }
}

fn is_sidecar(spec: &Value, name: &str) -> bool {
    list(spec, "initContainers")
        .iter()
        .any(|container| text(container, "name") == name && text(container, "restartPolicy") == "Always")
}

fn summarise(pod: &Value) -> Summary<'_> {
    let (spec, status) = (pod.get("spec").unwrap_or(&Value::Null), pod.get("status").unwrap_or(&Value::Null));
    let phase = text(status, "phase");
    let own_reason = text(status, "reason");
    let sidecars =
        list(spec, "initContainers").iter().filter(|container| text(container, "restartPolicy") == "Always").count();
    let mut summary = Summary {
        ready: 0,
        containers: list(spec, "containers").len() + sidecars,
        reason: if own_reason.is_empty() { phase } else { own_reason }.to_owned(),
        restarts: 0,
        last_restart: None,
    };
    let gated = list(status, "conditions")
        .iter()
        .any(|condition| text(condition, "type") == "PodScheduled" && text(condition, "reason") == "SchedulingGated");
    if gated {
        "SchedulingGated".clone_into(&mut summary.reason);
    }
    let initialising = summarise_init(spec, status, &mut summary);
    if !initialising || format::condition(pod, "Initialized") == "True" {
        summarise_main(pod, spec, status, &mut summary);
    }
    if format::is_going(pod) {
        if own_reason == "NodeLost" {
            "Unknown".clone_into(&mut summary.reason);
        } else if !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut summary.reason);
        }
    }
    summary
}

/// Looks at the init containers in order; whether one of them holds the pod up.
fn summarise_init<'a>(spec: &Value, status: &'a Value, summary: &mut Summary<'a>) -> bool {
    let total = list(spec, "initContainers").len();
    for (index, container) in list(status, "initContainerStatuses").iter().enumerate() {
        summary.count_restarts(container);
        let terminated = at(container, &["state", "terminated"]);
        if let Some(terminated) = terminated {
            match (int(terminated, "exitCode").unwrap_or(0), text(terminated, "reason")) {
                (0, _) => continue,
                (_, "") => summary.reason = format!("Init:{}", exit(terminated)),
                (_, reason) => summary.reason = format!("Init:{reason}"),
            }
            return true;
        }
        if is_sidecar(spec, text(container, "name")) && container.get("started") == Some(&Value::Bool(true)) {
            summary.ready += usize::from(container.get("ready") == Some(&Value::Bool(true)));
            continue;
        }
        let waiting = text_at(container, &["state", "waiting", "reason"]);
        summary.reason = if waiting.is_empty() || waiting == "PodInitializing" {
            format!("Init:{index}/{total}")
        } else {
            format!("Init:{waiting}")
        };
        return true;
    }
    false
}

fn summarise_main<'a>(pod: &'a Value, spec: &Value, status: &'a Value, summary: &mut Summary<'a>) {
    // From here on only the restarts of what runs beside the containers count.
    (summary.restarts, summary.last_restart) = (0, None);
    for container in list(status, "initContainerStatuses") {
        if is_sidecar(spec, text(container, "name")) {
            summary.count_restarts(container);
        }
    }
    let mut running = false;
    for container in list(status, "containerStatuses").iter().rev() {
        summary.count_restarts(container);
        let waiting = text_at(container, &["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            waiting.clone_into(&mut summary.reason);
        } else if let Some(terminated) = at(container, &["state", "terminated"]) {
            let reason = text(terminated, "reason");
            summary.reason = if reason.is_empty() { exit(terminated) } else { reason.to_owned() };
        } else if container.get("ready") == Some(&Value::Bool(true))
            && container.get("state").is_some_and(|state| some(state, "running").is_some())
        {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = format::condition(pod, "Ready") == "True";
        (if ready { "Running" } else { "NotReady" }).clone_into(&mut summary.reason);
    }
}

/// How a container ended, when it gives no reason.
fn exit(terminated: &Value) -> String {
    match int(terminated, "signal").unwrap_or(0) {
        0 => format!("ExitCode:{}", int(terminated, "exitCode").unwrap_or(0)),
        signal => format!("Signal:{signal}"),
    }
}
