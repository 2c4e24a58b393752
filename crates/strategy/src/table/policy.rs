//! Autoscalers, disruption budgets, bindings, signing requests, admission, priority and fairness, and API services.

use serde_json::Value;

use super::{
    AGE, Column, NAME, Printer,
    duration::age,
    format::{NONE, UNSET, count, created, name, or_none},
};
use crate::tree::{at, int, list, some, text, text_at};

static NULL: Value = Value::Null;
/// Most metrics that an autoscaler's cell lists.
const METRICS_MAX: usize = 2;

pub(super) static AUTOSCALER: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Reference", "What is scaled."),
        Column::text("Targets", "Present and desired value of each metric."),
        Column::text("MinPods", "Fewest pods."),
        Column::text("MaxPods", "Most pods."),
        Column::text("Replicas", "Present number of pods."),
        AGE,
    ],
    cells: |object, now| {
        let spec = object.get("spec").unwrap_or(&NULL);
        let least = int(spec, "minReplicas").map_or_else(|| UNSET.into(), Value::from);
        let target = at(spec, &["scaleTargetRef"]).unwrap_or(&NULL);
        vec![
            name(object),
            format!("{}/{}", text(target, "kind"), text(target, "name")).into(),
            autoscaler_targets(object, spec).into(),
            least,
            count(spec, &["maxReplicas"]).into(),
            count(object, &["status", "currentReplicas"]).into(),
            created(object, now),
        ]
    },
};

fn autoscaler_targets(object: &Value, spec: &Value) -> String {
    if let Some(percent) = int(spec, "targetCPUUtilizationPercentage") {
        let now = at(object, &["status", "currentCPUUtilizationPercentage"]).and_then(Value::as_i64);
        let now = now.map_or_else(|| "<unknown>".to_owned(), |now| format!("{now}%"));
        return format!("cpu: {now}/{percent}%");
    }
    let specs = list(spec, "metrics");
    if specs.is_empty() {
        return NONE.to_owned();
    }
    let statuses = object.get("status").map_or(&[][..], |status| list(status, "currentMetrics"));
    let mut shown: Vec<String> = specs
        .iter()
        .take(METRICS_MAX)
        .enumerate()
        .map(|(index, metric)| metric_target(metric, statuses.get(index).unwrap_or(&NULL)))
        .collect();
    if specs.len() > METRICS_MAX {
        shown.push(format!("{} more...", specs.len() - METRICS_MAX));
        return format!("{} + {}", shown[..METRICS_MAX].join(", "), shown[METRICS_MAX]);
    }
    shown.join(", ")
}

fn metric_target(metric: &Value, status: &Value) -> String {
    let (kind, label) = match text(metric, "type") {
        "Resource" => ("resource", text_at(metric, &["resource", "name"])),
        "ContainerResource" => ("containerResource", text_at(metric, &["containerResource", "name"])),
        "Pods" => ("pods", ""),
        "Object" => ("object", ""),
        "External" => ("external", ""),
        _ => return "<unknown type>".to_owned(),
    };
    let target = at(metric, &[kind, "target"]).unwrap_or(&NULL);
    let current = at(status, &[kind, "current"]).unwrap_or(&NULL);
    let prefix = if label.is_empty() { String::new() } else { format!("{label}: ") };
    if let Some(percent) = int(target, "averageUtilization") {
        let now = int(current, "averageUtilization").map_or_else(|| "<unknown>".to_owned(), |now| format!("{now}%"));
        return format!("{prefix}{now}/{percent}%");
    }
    let average = some(target, "averageValue").is_some();
    let key = if average { "averageValue" } else { "value" };
    let now = match text(current, key) {
        "" => "<unknown>",
        now => now,
    };
    let suffix =
        if average && kind != "resource" && kind != "containerResource" && kind != "pods" { " (avg)" } else { "" };
    format!("{prefix}{now}/{}{suffix}", text(target, key))
}

pub(super) static DISRUPTION_BUDGET: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Min Available", "The minimum number of pods that must be available."),
        Column::text("Max Unavailable", "The maximum number of pods that may be unavailable."),
        Column::number("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
        AGE,
    ],
    cells: |object, now| {
        let share = |key: &str| match at(object, &["spec", key]) {
            None => "N/A".into(),
            Some(Value::String(share)) => Value::from(share.as_str()),
            Some(number) => number.to_string().into(),
        };
        let allowed = count(object, &["status", "disruptionsAllowed"]);
        vec![name(object), share("minAvailable"), share("maxUnavailable"), allowed.into(), created(object, now)]
    },
};

pub(super) static ROLE_BINDING: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Role", "Role that is granted."),
        AGE,
        Column::text("Users", "Users that get the role.").wide(),
        Column::text("Groups", "Groups that get the role.").wide(),
        Column::text("ServiceAccounts", "Service accounts that get the role.").wide(),
    ],
    cells: |object, now| {
        let role = object.get("roleRef").unwrap_or(&NULL);
        let subjects = |kind: &str| -> Value {
            let names: Vec<String> = list(object, "subjects")
                .iter()
                .filter(|subject| text(subject, "kind") == kind)
                .map(|subject| match text(subject, "namespace") {
                    "" => text(subject, "name").to_owned(),
                    namespace => format!("{namespace}/{}", text(subject, "name")),
                })
                .collect();
            names.join(", ").into()
        };
        vec![
            name(object),
            format!("{}/{}", text(role, "kind"), text(role, "name")).into(),
            created(object, now),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    },
};

pub(super) static SIGNING_REQUEST: Printer = Printer {
    columns: &[
        NAME,
        AGE,
        Column::text("SignerName", "Who is to sign."),
        Column::text("Requestor", "Who asks."),
        Column::text("RequestedDuration", "How long the certificate is to be valid."),
        Column::text("Condition", "What was decided."),
    ],
    cells: |object, now| {
        let seconds = at(object, &["spec", "expirationSeconds"]).and_then(Value::as_i64);
        vec![
            name(object),
            created(object, now),
            or_none(text_at(object, &["spec", "signerName"])),
            text_at(object, &["spec", "username"]).into(),
            seconds.map_or_else(|| NONE.into(), |seconds| age(seconds).into()),
            signing_state(object).into(),
        ]
    },
};

fn signing_state(object: &Value) -> String {
    let status = object.get("status").unwrap_or(&NULL);
    let has = |kind: &str| list(status, "conditions").iter().any(|condition| text(condition, "type") == kind);
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !text(status, "certificate").is_empty() {
        state.push_str(",Issued");
    }
    state
}

/// Who answers a group-version, and whether they do.
pub(super) static API_SERVICE: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Service", "The reference to the service that hosts this API endpoint."),
        Column::text("Available", "Whether this service is available."),
        AGE,
    ],
    cells: |object, now| {
        let service = match at(object, &["spec", "service"]).filter(|service| service.is_object()) {
            None => "Local".to_owned(),
            Some(service) => format!("{}/{}", text(service, "namespace"), text(service, "name")),
        };
        let conditions = list(object.get("status").unwrap_or(&NULL), "conditions");
        let available = match conditions.iter().find(|condition| text(condition, "type") == "Available") {
            None => "Unknown".to_owned(),
            Some(condition) if text(condition, "status") == "True" => "True".to_owned(),
            Some(condition) => format!("{} ({})", text(condition, "status"), text(condition, "reason")),
        };
        vec![name(object), service.into(), available.into(), created(object, now)]
    },
};

pub(super) static WEBHOOKS: Printer = Printer {
    columns: &[NAME, Column::number("Webhooks", "Number of webhooks."), AGE],
    cells: |object, now| vec![name(object), list(object, "webhooks").len().into(), created(object, now)],
};

const PARAM_KIND: Column = Column::text("ParamKind", "Kind of the objects that parametrise the policy.");

/// `apiVersion/kind` of what parametrises a policy.
fn param_kind(object: &Value) -> Value {
    match at(object, &["spec", "paramKind"]).filter(|kind| kind.is_object()) {
        Some(kind) => format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")).into(),
        None => UNSET.into(),
    }
}

pub(super) static VALIDATING_POLICY: Printer = Printer {
    columns: &[NAME, Column::number("Validations", "Number of validation rules."), PARAM_KIND, AGE],
    cells: |object, now| {
        let rules = list(object.get("spec").unwrap_or(&NULL), "validations").len();
        vec![name(object), rules.into(), param_kind(object), created(object, now)]
    },
};

pub(super) static MUTATING_POLICY: Printer = Printer {
    columns: &[NAME, Column::number("Mutations", "Number of mutations."), PARAM_KIND, AGE],
    cells: |object, now| {
        let rules = list(object.get("spec").unwrap_or(&NULL), "mutations").len();
        vec![name(object), rules.into(), param_kind(object), created(object, now)]
    },
};

pub(super) static POLICY_BINDING: Printer = Printer {
    columns: &[
        NAME,
        Column::text("PolicyName", "Policy that is put in force."),
        Column::text("ParamRef", "Object that parametrises the policy here."),
        AGE,
    ],
    cells: |object, now| {
        let spec = object.get("spec").unwrap_or(&NULL);
        let parameter = match some(spec, "paramRef") {
            None => UNSET.to_owned(),
            Some(parameter) => match text(parameter, "namespace") {
                "" => text(parameter, "name").to_owned(),
                namespace => format!("{namespace}/{}", text(parameter, "name")),
            },
        };
        vec![name(object), text(spec, "policyName").into(), parameter.into(), created(object, now)]
    },
};

pub(super) static FLOW_SCHEMA: Printer = Printer {
    columns: &[
        NAME,
        Column::text("PriorityLevel", "Priority level of the requests."),
        Column::text("MatchingPrecedence", "Which schema is asked first: the lowest number."),
        Column::text("DistinguisherMethod", "What tells flows apart."),
        AGE,
        Column::text("MissingPL", "Whether the priority level is missing."),
    ],
    cells: |object, now| {
        let spec = object.get("spec").unwrap_or(&NULL);
        let conditions = list(object.get("status").unwrap_or(&NULL), "conditions");
        let dangling = conditions.iter().find(|condition| text(condition, "type") == "Dangling");
        vec![
            name(object),
            text_at(spec, &["priorityLevelConfiguration", "name"]).into(),
            count(spec, &["matchingPrecedence"]).into(),
            or_none(text_at(spec, &["distinguisherMethod", "type"])),
            created(object, now),
            dangling.map_or("?", |condition| text(condition, "status")).into(),
        ]
    },
};

pub(super) static PRIORITY_LEVEL: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Type", "Whether the level is limited."),
        Column::text("NominalConcurrencyShares", "The level's part of the server's seats."),
        Column::text("Queues", "Number of queues."),
        Column::text("HandSize", "Number of queues that a flow may use."),
        Column::text("QueueLengthLimit", "Most requests in a queue."),
        AGE,
    ],
    cells: |object, now| {
        let spec = object.get("spec").unwrap_or(&NULL);
        let limit = |path: &[&str]| at(spec, path).filter(|value| !value.is_null()).cloned().unwrap_or(NONE.into());
        let queuing = |key: &str| limit(&["limited", "limitResponse", "queuing", key]);
        vec![
            name(object),
            text(spec, "type").into(),
            limit(&["limited", "nominalConcurrencyShares"]),
            queuing("queues"),
            queuing("handSize"),
            queuing("queueLengthLimit"),
            created(object, now),
        ]
    },
};
