//! What is said about an object, before it becomes a condition of its status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// One condition: its type, whether it holds, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) type_: &'static str,
    pub(crate) holds: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Verdict {
    pub(crate) fn yes(type_: &'static str, reason: &'static str) -> Self {
        Verdict { type_, holds: true, reason, message: String::new() }
    }

    pub(crate) fn no(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Verdict { type_, holds: false, reason, message: message.into() }
    }

    /// `Err` with reason and message is no, `Ok` is yes with the reason of upstream's positive case.
    pub(crate) fn of(type_: &'static str, good: &'static str, result: Result<(), Fault>) -> Self {
        match result {
            Ok(()) => Verdict::yes(type_, good),
            Err(fault) => Verdict::no(type_, fault.reason, fault.message),
        }
    }
}

/// Why something is not as it should be, in upstream's reason and our words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Fault { reason, message: message.into() }
    }
}

/// Types of conditions that are there only while they hold.
const PASSING: [&str; 8] = [
    "Aggregated",
    "InsecureFrontendValidationMode",
    "Merged",
    "Overridden",
    "OverlappingTLSConfig",
    "PartiallyInvalid",
    "ResolvedRefs",
    "Warning",
];

/// The conditions of a status after these verdicts: those of others stay, and a condition keeps its transition time
/// while its status stays.
pub(crate) fn conditions(
    known: &[Condition],
    verdicts: &[Verdict],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let foreign = |known: &&Condition| {
        !PASSING.contains(&known.type_.as_str()) && verdicts.iter().all(|verdict| verdict.type_ != known.type_)
    };
    let mut conditions: Vec<_> = known.iter().filter(foreign).cloned().collect();
    for verdict in verdicts {
        let status = if verdict.holds { "True" } else { "False" };
        let before = known.iter().find(|c| c.type_ == verdict.type_ && c.status == status);
        conditions.push(Condition {
            last_transition_time: before.map_or(Time(now), |c| c.last_transition_time.clone()),
            message: verdict.message.clone(),
            observed_generation: generation,
            reason: verdict.reason.to_owned(),
            status: status.to_owned(),
            type_: verdict.type_.to_owned(),
        });
    }
    conditions
}
