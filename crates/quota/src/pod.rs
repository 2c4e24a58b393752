//! What a pod counts for: itself while it has not ended, and what its containers ask for.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{Amounts, amounts::quantity, list, one, text};

/// The resources counted of every pod.
const NAMES: [&str; 11] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "count/pods",
];
/// What every container must name where a quota limits it.
const MUST_BE_NAMED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const HUGE_PAGES: &str = "hugepages-";

/// Whether pods count for a quota's resource.
pub(crate) fn counts_for(name: &str) -> bool {
    let extended = name.strip_prefix("requests.").is_some_and(is_extended);
    let huge = name.strip_prefix("requests.").unwrap_or(name).starts_with(HUGE_PAGES);
    NAMES.contains(&name) || extended || huge
}

/// Whether a resource is one that a device plugin or an operator brought.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// What the pod counts for at `now`.
pub(crate) fn usage(pod: &Value, now: Timestamp) -> Amounts {
    let mut usage = Amounts::default();
    usage.set("count/pods", one());
    if has_ended(pod, now) {
        return usage;
    }
    let computed = named(&total(pod, "requests"), &total(pod, "limits"));
    usage.add(&computed);
    usage.set("pods", one());
    usage
}

/// A pod that has run its course counts no more, nor does one whose node failed to end it in time.
fn has_ended(pod: &Value, now: Timestamp) -> bool {
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return true;
    }
    let marked = text(pod, "/metadata/deletionTimestamp").parse::<Timestamp>();
    let grace = pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    match (marked, grace) {
        (Ok(end), Some(grace)) => end.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now > end),
        _ => false,
    }
}

/// Requests and limits under the names that quotas have for them.
fn named(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut usage = Amounts::default();
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = requests.get(name) {
            usage.set(name, *amount);
            usage.set(&format!("requests.{name}"), *amount);
        }
        if let Some(amount) = limits.get(name) {
            usage.set(&format!("limits.{name}"), *amount);
        }
    }
    for name in requests.names() {
        let Some(amount) = requests.get(name) else { continue };
        if name.starts_with(HUGE_PAGES) {
            usage.set(name, *amount);
        }
        if name.starts_with(HUGE_PAGES) || is_extended(name) {
            usage.set(&format!("requests.{name}"), *amount);
        }
    }
    usage
}

/// What the pod needs at most at one time. Containers and sidecars run together; an init container runs beside the
/// sidecars started before it. Amounts for the pod as a whole stand in for the sum of its containers'.
fn total(pod: &Value, what: &str) -> Amounts {
    let mut running = Amounts::default();
    for container in list(pod, "/spec/containers") {
        running.add(&of_container(pod, container, what, "/status/containerStatuses"));
    }
    let (mut sidecars, mut starting) = (Amounts::default(), Amounts::default());
    for container in list(pod, "/spec/initContainers") {
        let own = of_container(pod, container, what, "/status/initContainerStatuses");
        if text(container, "/restartPolicy") == "Always" {
            running.add(&own);
            sidecars.add(&own);
            starting.raise_to(&sidecars);
        } else {
            starting.raise_to(&own.plus(&sidecars));
        }
    }
    running.raise_to(&starting);
    let whole = Amounts::read(pod.pointer(&format!("/spec/resources/{what}")));
    for name in whole.names().filter(|name| matches!(*name, "cpu" | "memory") || name.starts_with(HUGE_PAGES)) {
        if let Some(amount) = whole.get(name) {
            running.set(name, *amount);
        }
    }
    let overhead = Amounts::read(pod.pointer("/spec/overhead"));
    // what is not limited stays so
    let counted = overhead.masked(|name| what == "requests" || running.get(name).is_some());
    running.add(&counted);
    running
}

/// A container's amounts: while a resize is under way what it wants and what it has, whichever is more.
fn of_container(pod: &Value, container: &Value, what: &str, statuses: &str) -> Amounts {
    let wanted = Amounts::read(container.pointer(&format!("/resources/{what}")));
    let name = text(container, "/name");
    let Some(status) = list(pod, statuses).iter().find(|status| text(status, "/name") == name) else { return wanted };
    let mut actual = Amounts::read(status.pointer(&format!("/resources/{what}")));
    if what == "requests" {
        actual.raise_to(&Amounts::read(status.get("allocatedResources")));
    }
    if actual.is_empty() {
        return wanted;
    }
    let infeasible = |condition: &Value| {
        text(condition, "/type") == "PodResizePending" && text(condition, "/reason") == "Infeasible"
    };
    if list(pod, "/status/conditions").iter().any(infeasible) {
        return actual;
    }
    let mut most = wanted;
    most.raise_to(&actual);
    most
}

/// What containers leave out of [`MUST_BE_NAMED`]; the container is empty where the pod speaks for all of them.
pub(crate) fn unspecified(pod: &Value) -> Vec<(&'static str, String)> {
    let named_by = |holder: &Value, at: &str| {
        let read = |what: &str| Amounts::read(holder.pointer(&format!("{at}/{what}")));
        named(&read("requests"), &read("limits"))
    };
    let whole = named_by(pod, "/spec/resources");
    if MUST_BE_NAMED.iter().any(|name| whole.get(name).is_some()) {
        let computed = named(&total(pod, "requests"), &total(pod, "limits"));
        let missing = MUST_BE_NAMED.into_iter().filter(|name| computed.get(name).is_none());
        return missing.map(|name| (name, String::new())).collect();
    }
    let containers = list(pod, "/spec/containers").iter().chain(list(pod, "/spec/initContainers"));
    containers
        .flat_map(|container| {
            let own = named_by(container, "/resources");
            let missing = MUST_BE_NAMED.into_iter().filter(move |name| own.get(name).is_none());
            missing.map(|name| (name, text(container, "/name").to_owned())).collect::<Vec<_>>()
        })
        .collect()
}

/// Whether no container asks for any CPU or memory.
pub(crate) fn is_best_effort(pod: &Value) -> bool {
    let holders = list(pod, "/spec/containers").iter().chain(list(pod, "/spec/initContainers"));
    let asks = |resources: &Value| {
        ["requests", "limits"].iter().any(|what| {
            ["cpu", "memory"]
                .iter()
                .any(|name| resources[what].get(name).and_then(quantity).is_some_and(|q| !q.is_zero()))
        })
    };
    !holders.filter_map(|container| container.get("resources")).any(asks)
        && !pod.pointer("/spec/resources").is_some_and(asks)
}
