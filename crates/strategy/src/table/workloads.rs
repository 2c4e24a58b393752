//! Controllers of pods, and jobs.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE, CONTAINERS, Column, IMAGES, NAME, Printer, SELECTOR,
    duration::age,
    format::{condition, containers, count, created, is_going, labels, name, or_none, selector, since},
};
use crate::tree::{at, flag, list, map, text, text_at};

const DESIRED: Column = Column::number("Desired", "Number of desired pods.");
const CURRENT: Column = Column::number("Current", "Number of pods that exist.");
const READY: Column = Column::number("Ready", "Number of pods that are ready.");

static NULL: Value = Value::Null;

fn template(object: &Value) -> [Value; 2] {
    containers(at(object, &["spec", "template", "spec"]))
}

fn pod_selector(object: &Value) -> Value {
    selector(at(object, &["spec", "selector"]).unwrap_or(&NULL))
}

pub(super) static POD_TEMPLATE: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Containers", "Names of each container in the template."),
        Column::text("Images", "Images referenced by each container in the template."),
        Column::text("Pod Labels", "The labels for the pod template."),
    ],
    cells: |object, _| {
        let [names, images] = containers(at(object, &["template", "spec"]));
        let own = labels(map(at(object, &["template", "metadata"]).unwrap_or(&NULL), "labels"));
        vec![name(object), names, images, own]
    },
};

const REPLICAS: &[Column] = &[NAME, DESIRED, CURRENT, READY, AGE, CONTAINERS, IMAGES, SELECTOR];

fn replicas(object: &Value, now: Timestamp, selector: Value) -> Vec<Value> {
    let [names, images] = template(object);
    vec![
        name(object),
        count(object, &["spec", "replicas"]).into(),
        count(object, &["status", "replicas"]).into(),
        count(object, &["status", "readyReplicas"]).into(),
        created(object, now),
        names,
        images,
        selector,
    ]
}

pub(super) static REPLICATION_CONTROLLER: Printer = Printer {
    columns: REPLICAS,
    cells: |object, now| {
        let selector = labels(map(object.get("spec").unwrap_or(&NULL), "selector"));
        replicas(object, now, selector)
    },
};

pub(super) static REPLICA_SET: Printer =
    Printer { columns: REPLICAS, cells: |object, now| replicas(object, now, pod_selector(object)) };

pub(super) static DEPLOYMENT: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Ready", "Number of the pod with ready state."),
        Column::number("Up-to-date", "Number of pods of the present template."),
        Column::number("Available", "Number of pods that have been ready long enough."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let [names, images] = template(object);
        let ready = count(object, &["status", "readyReplicas"]);
        vec![
            name(object),
            format!("{ready}/{}", count(object, &["spec", "replicas"])).into(),
            count(object, &["status", "updatedReplicas"]).into(),
            count(object, &["status", "availableReplicas"]).into(),
            created(object, now),
            names,
            images,
            pod_selector(object),
        ]
    },
};

pub(super) static STATEFUL_SET: Printer = Printer {
    columns: &[NAME, Column::text("Ready", "Number of the pod with ready state."), AGE, CONTAINERS, IMAGES],
    cells: |object, now| {
        let [names, images] = template(object);
        let ready = count(object, &["status", "readyReplicas"]);
        let ready = format!("{ready}/{}", count(object, &["spec", "replicas"]));
        vec![name(object), ready.into(), created(object, now), names, images]
    },
};

pub(super) static DAEMON_SET: Printer = Printer {
    columns: &[
        NAME,
        Column::number("Desired", "Number of nodes that should run the pod."),
        Column::number("Current", "Number of nodes that should and do run the pod."),
        Column::number("Ready", "Number of nodes on which the pod is ready."),
        Column::number("Up-to-date", "Number of nodes that run the pod of the present template."),
        Column::number("Available", "Number of nodes on which the pod has been ready long enough."),
        Column::text("Node Selector", "Labels of the nodes that run the pod."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let [names, images] = template(object);
        let status = |key: &str| Value::from(count(object, &["status", key]));
        vec![
            name(object),
            status("desiredNumberScheduled"),
            status("currentNumberScheduled"),
            status("numberReady"),
            status("updatedNumberScheduled"),
            status("numberAvailable"),
            labels(map(at(object, &["spec", "template", "spec"]).unwrap_or(&NULL), "nodeSelector")),
            created(object, now),
            names,
            images,
            pod_selector(object),
        ]
    },
};

pub(super) static CONTROLLER_REVISION: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Controller", "Controller of the object."),
        Column::number("Revision", "Number of the revision."),
        AGE,
    ],
    cells: |object, now| {
        let owners = object.get("metadata").map_or(&[][..], |metadata| list(metadata, "ownerReferences"));
        let controller = owners.iter().find(|owner| flag(owner, "controller")).map_or_else(String::new, |owner| {
            let group = text(owner, "apiVersion").split_once('/').map_or("", |(group, _)| group);
            let kind = text(owner, "kind").to_lowercase();
            let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
            format!("{kind}/{}", text(owner, "name"))
        });
        vec![name(object), or_none(&controller), count(object, &["revision"]).into(), created(object, now)]
    },
};

pub(super) static JOB: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Status", "Status of the job."),
        Column::text("Completions", "Pods that succeeded, of those that must."),
        Column::text("Duration", "Time required to complete the job."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let [names, images] = template(object);
        let done = count(object, &["status", "succeeded"]);
        let completions = match at(object, &["spec", "completions"]).and_then(Value::as_i64) {
            Some(completions) => format!("{done}/{completions}"),
            None => match count(object, &["spec", "parallelism"]) {
                parallelism if parallelism > 1 => format!("{done}/1 of {parallelism}"),
                _ => format!("{done}/1"),
            },
        };
        vec![
            name(object),
            job_status(object).into(),
            completions.into(),
            job_duration(object, now).into(),
            created(object, now),
            names,
            images,
            pod_selector(object),
        ]
    },
};

fn job_status(job: &Value) -> &'static str {
    let is = |kind: &str| condition(job, kind) == "True";
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if is_going(job) {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn job_duration(job: &Value, now: Timestamp) -> String {
    let instant = |key: &str| text_at(job, &["status", key]).parse::<Timestamp>().ok();
    match (instant("startTime"), instant("completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => age(end.unwrap_or(now).duration_since(start).as_secs()),
    }
}

pub(super) static CRON_JOB: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Schedule", "When jobs start, in Cron format."),
        Column::text("Timezone", "Time zone of the schedule."),
        Column::flag("Suspend", "Whether no further jobs start."),
        Column::number("Active", "Number of jobs that run."),
        Column::text("Last Schedule", "Time since a job was last started."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let job = at(object, &["spec", "jobTemplate", "spec"]).unwrap_or(&NULL);
        let [names, images] = containers(at(job, &["template", "spec"]));
        let last = text_at(object, &["status", "lastScheduleTime"]);
        let suspended = object.get("spec").is_some_and(|spec| flag(spec, "suspend"));
        vec![
            name(object),
            text_at(object, &["spec", "schedule"]).into(),
            or_none(text_at(object, &["spec", "timeZone"])),
            if suspended { "True" } else { "False" }.into(),
            object.get("status").map_or(0, |status| list(status, "active").len()).into(),
            if last.is_empty() { or_none("") } else { since(last, now).into() },
            created(object, now),
            names,
            images,
            selector(at(job, &["selector"]).unwrap_or(&NULL)),
        ]
    },
};
