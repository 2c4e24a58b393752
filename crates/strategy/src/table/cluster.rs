//! Nodes, namespaces, events, configuration and what else belongs to the cluster.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE, Column, NAME, Printer,
    format::{condition, count, created, is_going, name, or_none, since},
};
use crate::tree::{flag, int, list, map, some, text, text_at};

static NULL: Value = Value::Null;
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

pub(super) static NODE: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Status", "The status of the node."),
        Column::text("Roles", "The roles of the node."),
        AGE,
        Column::text("Version", "Version that the node reports."),
        Column::text("Internal-IP", "Address within the cluster.").wide(),
        Column::text("External-IP", "Address outside the cluster.").wide(),
        Column::text("OS-Image", "Operating system of the node.").wide(),
        Column::text("Kernel-Version", "Kernel of the node.").wide(),
        Column::text("Container-Runtime", "What runs the containers of the node.").wide(),
    ],
    cells: |object, now| {
        let info = |key: &str| text_at(object, &["status", "nodeInfo", key]);
        let known = |text: &str| if text.is_empty() { "<unknown>".into() } else { Value::from(text) };
        let address = |kind: &str| {
            let addresses = object.get("status").map_or(&[][..], |status| list(status, "addresses"));
            let found = addresses.iter().find(|address| text(address, "type") == kind);
            or_none(found.map_or("", |address| text(address, "address")))
        };
        vec![
            name(object),
            node_status(object).into(),
            or_none(&node_roles(object)),
            created(object, now),
            info("kubeletVersion").into(),
            address("InternalIP"),
            address("ExternalIP"),
            known(info("osImage")),
            known(info("kernelVersion")),
            known(info("containerRuntimeVersion")),
        ]
    },
};

fn node_status(node: &Value) -> String {
    let ready = match condition(node, "Ready") {
        "" => "Unknown",
        "True" => "Ready",
        _ => "NotReady",
    };
    if node.get("spec").is_some_and(|spec| flag(spec, "unschedulable")) {
        format!("{ready},SchedulingDisabled")
    } else {
        ready.to_owned()
    }
}

fn node_roles(node: &Value) -> String {
    let mut roles: Vec<&str> = map(node.get("metadata").unwrap_or(&NULL), "labels")
        .iter()
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role),
            None => value.as_str().filter(|_| key == ROLE_LABEL),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    roles.join(",")
}

pub(super) static NAMESPACE: Printer = Printer {
    columns: &[NAME, Column::text("Status", "The status of the namespace."), AGE],
    cells: |object, now| vec![name(object), text_at(object, &["status", "phase"]).into(), created(object, now)],
};

pub(super) static EVENT: Printer = Printer {
    columns: &[
        Column::text("Last Seen", "Time since the event was last seen."),
        Column::text("Type", "Type of the event: Normal or Warning."),
        Column::text("Reason", "Why it was recorded, for programs."),
        Column::text("Object", "What the event is about."),
        Column::text("Subobject", "Part of the object that the event is about.").wide(),
        Column::text("Source", "Component that reported the event.").wide(),
        Column::text("Message", "What happened, for people."),
        Column::text("First Seen", "Time since the event was first seen.").wide(),
        Column::number("Count", "How often the event was seen.").wide(),
        Column { priority: 1, ..NAME },
    ],
    cells: event_cells,
};

fn event_cells(event: &Value, now: Timestamp) -> Vec<Value> {
    // The fields have other names in `events.k8s.io`.
    let either = |one: &'static str, other: &'static str| {
        let value = text(event, one);
        if value.is_empty() { text(event, other) } else { value }
    };
    let subject = some(event, "involvedObject").or_else(|| some(event, "regarding")).unwrap_or(&NULL);
    let source = some(event, "source").or_else(|| some(event, "deprecatedSource")).unwrap_or(&NULL);
    let time = text(event, "eventTime");
    let first = either("firstTimestamp", "deprecatedFirstTimestamp");
    let mut last = either("lastTimestamp", "deprecatedLastTimestamp");
    let mut times = int(event, "count").or_else(|| int(event, "deprecatedCount")).unwrap_or(0).max(1);
    if let Some(series) = some(event, "series") {
        last = text(series, "lastObservedTime");
        times = int(series, "count").unwrap_or(times);
    }
    let kind = text(subject, "kind").to_lowercase();
    let target = match text(subject, "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let instant = |instant: &str| since(if instant.is_empty() { time } else { instant }, now);
    let mut reporter = text(source, "component").to_owned();
    if reporter.is_empty() {
        either("reportingComponent", "reportingController").clone_into(&mut reporter);
    }
    let host = text(source, "host");
    if !host.is_empty() {
        reporter = format!("{reporter}, {host}");
    }
    vec![
        instant(last).into(),
        text(event, "type").into(),
        text(event, "reason").into(),
        target.into(),
        text(subject, "fieldPath").into(),
        reporter.into(),
        either("message", "note").trim().into(),
        instant(first).into(),
        times.into(),
        name(event),
    ]
}

pub(super) static CONFIG_MAP: Printer = Printer {
    columns: &[NAME, Column::text("Data", "Number of keys."), AGE],
    cells: |object, now| {
        let keys = map(object, "data").len() + map(object, "binaryData").len();
        vec![name(object), keys.into(), created(object, now)]
    },
};

pub(super) static COMPONENT_STATUS: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Status", "Whether the component is healthy."),
        Column::text("Message", "What the component says of its health."),
        Column::text("Error", "Why the component cannot be asked."),
    ],
    cells: |object, _| {
        let of_health = |condition: &&Value| text(condition, "type") == "Healthy";
        let healthy = list(object, "conditions").iter().find(of_health).unwrap_or(&NULL);
        let status = match text(healthy, "status") {
            "True" => "Healthy",
            "" => "Unknown",
            _ => "Unhealthy",
        };
        vec![name(object), status.into(), text(healthy, "message").into(), text(healthy, "error").into()]
    },
};

pub(super) static SECRET: Printer = Printer {
    columns: &[NAME, Column::text("Type", "What the secret is for."), Column::text("Data", "Number of keys."), AGE],
    cells: |object, now| {
        vec![name(object), text(object, "type").into(), map(object, "data").len().into(), created(object, now)]
    },
};

pub(super) static SERVICE_ACCOUNT: Printer = Printer {
    columns: &[NAME, Column::text("Secrets", "Number of secrets that pods of the account may use."), AGE],
    cells: |object, now| vec![name(object), list(object, "secrets").len().into(), created(object, now)],
};

pub(super) static RESOURCE_QUOTA: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Request", "Use and limit of what is requested."),
        Column::text("Limit", "Use and limit of what is limited."),
        AGE,
    ],
    cells: |object, now| {
        let status = object.get("status").unwrap_or(&NULL);
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, hard) in map(status, "hard") {
            let shown = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("0").to_owned();
            let used = shown(map(status, "used").get(resource));
            let text = format!("{resource}: {used}/{}", shown(Some(hard)));
            if resource.starts_with("limits") { limits.push(text) } else { requests.push(text) }
        }
        vec![name(object), requests.join(", ").into(), limits.join(", ").into(), created(object, now)]
    },
};

pub(super) static LEASE: Printer = Printer {
    columns: &[NAME, Column::text("Holder", "Who holds the lease."), AGE],
    cells: |object, now| vec![name(object), text_at(object, &["spec", "holderIdentity"]).into(), created(object, now)],
};

pub(super) static PRIORITY_CLASS: Printer = Printer {
    columns: &[
        NAME,
        Column::number("Value", "Priority of the class' pods."),
        Column::flag("Global-Default", "Whether pods that name no class get this one."),
        AGE,
        Column::text("PreemptionPolicy", "Whether the class' pods push others out."),
    ],
    cells: |object, now| {
        vec![
            name(object),
            count(object, &["value"]).into(),
            flag(object, "globalDefault").into(),
            created(object, now),
            text(object, "preemptionPolicy").into(),
        ]
    },
};

pub(super) static RUNTIME_CLASS: Printer = Printer {
    columns: &[NAME, Column::text("Handler", "What runs the class' pods."), AGE],
    cells: |object, now| vec![name(object), text(object, "handler").into(), created(object, now)],
};

/// The phase, or that the object is going.
pub(super) fn phase(object: &Value) -> Value {
    if is_going(object) { "Terminating".into() } else { text_at(object, &["status", "phase"]).into() }
}
