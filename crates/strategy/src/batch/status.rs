//! What a Job's status may say, and how it may change: what was counted stays counted, and an end is final.
//!
//! Rules about what a write leaves as it was are not applied: a status that was stored by another version may break them.

use std::collections::HashSet;

use serde_json::Value;

use super::indexes;
use crate::field_error::{FieldErrors, Path};
use crate::tree::{flag, int, list, same, some, text};
use crate::workloads::validate_number;

const STATUS: Path<'static> = Path::new("status");
static NOTHING: Value = Value::Null;

/// A Job before or after the write.
struct State<'a> {
    spec: &'a Value,
    status: &'a Value,
    complete: bool,
    failed: bool,
    failing: bool,
    succeeding: bool,
    suspended: bool,
}

impl<'a> State<'a> {
    fn of(object: &'a Value) -> Self {
        let part = |key: &str| object.get(key).unwrap_or(&NOTHING);
        let status = part("status");
        let is = |type_: &str| {
            let conditions = list(status, "conditions").iter();
            conditions.filter(|condition| text(condition, "type") == type_).any(|c| text(c, "status") == "True")
        };
        Self {
            spec: part("spec"),
            status,
            complete: is("Complete"),
            failed: is("Failed"),
            failing: is("FailureTarget"),
            succeeding: is("SuccessCriteriaMet"),
            suspended: is("Suspended"),
        }
    }

    fn finished(&self) -> bool {
        self.complete || self.failed
    }

    fn count(&self, key: &str) -> i64 {
        int(self.status, key).unwrap_or(0)
    }

    fn time(&self, key: &str) -> Option<&'a str> {
        some(self.status, key).and_then(Value::as_str)
    }

    fn uncounted(&self) -> &'a Value {
        self.status.get("uncountedTerminatedPods").unwrap_or(&NOTHING)
    }
}

/// Checks a write to the status of a Job.
pub(super) fn validate(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (new, old) = (State::of(new), State::of(old));
    for key in ["active", "succeeded", "failed", "ready", "terminating"] {
        validate_number(new.status, key, &STATUS, errors);
    }
    validate_uncounted(&new, errors);
    validate_conditions(&new, &old, errors);
    validate_times(&new, &old, errors);
    validate_end(&new, &old, errors);
    validate_indexes(&new, &old, errors);
    validate_steps(&new, &old, errors);
}

fn validate_uncounted(new: &State<'_>, errors: &mut FieldErrors) {
    let uncounted = new.uncounted();
    let path = STATUS.child("uncountedTerminatedPods");
    let mut seen = HashSet::new();
    for key in ["succeeded", "failed"] {
        let path = path.child(key);
        for (at, uid) in list(uncounted, key).iter().enumerate() {
            let uid = uid.as_str().unwrap_or_default();
            if uid.is_empty() {
                errors.invalid(&path.index(at), uid, "must not be empty");
            } else if !seen.insert(uid) {
                errors.duplicate(&path.index(at), uid);
            }
        }
    }
}

/// Which conditions go together. There is no single value to blame, so none is shown.
fn validate_conditions(new: &State<'_>, old: &State<'_>, errors: &mut FieldErrors) {
    let ends = new.complete != old.complete;
    let fails = new.failed != old.failed;
    let begins_to_fail = new.failing != old.failing;
    let begins_to_succeed = new.succeeding != old.succeeding;
    let policy = some(new.spec, "successPolicy").is_some();
    let rules = [
        ((ends || fails) && new.complete && new.failed, "cannot set Complete=True and Failed=true conditions"),
        (
            (ends || begins_to_fail) && new.complete && new.failing,
            "cannot set Complete=True and FailureTarget=true conditions",
        ),
        (
            (fails || begins_to_fail) && new.failed && !new.failing,
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            (ends || begins_to_succeed) && new.complete && !new.succeeding,
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (new.succeeding && new.failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (new.succeeding && new.failing, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
        (
            policy && new.complete && !new.succeeding,
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
        (old.failed && !new.failed, "cannot disable the terminal Failed=True condition"),
        (old.complete && !new.complete, "cannot disable the terminal Complete=True condition"),
        (old.failing && !new.failing, "cannot disable the terminal FailureTarget=True condition"),
        (old.succeeding && !new.succeeding, "cannot disable the SuccessCriteriaMet=True condition"),
        (
            old.complete && !old.succeeding && new.succeeding,
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
        ),
    ];
    for (_, rule) in rules.into_iter().filter(|(broken, _)| *broken) {
        errors.invalid_whole(&STATUS.child("conditions"), rule);
    }
}

fn validate_times(new: &State<'_>, old: &State<'_>, errors: &mut FieldErrors) {
    let (start, completion) = (new.time("startTime"), new.time("completionTime"));
    let starts = start != old.time("startTime");
    let ends = completion != old.time("completionTime");
    let path = STATUS.child("completionTime");
    if new.complete != old.complete || ends {
        match completion {
            Some(at) if !new.complete => {
                errors.invalid(&path, at, "cannot set completionTime when there is no Complete=True condition");
            }
            None if new.complete => errors.required(&path, "completionTime is required for Complete jobs"),
            _ => {}
        }
    }
    let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
    if let (true, Some(from), Some(to)) = (starts || ends, start, completion)
        && time(to) < time(from)
    {
        errors.invalid(&path, to, "completionTime cannot be set before startTime");
    }
    if let (true, Some(at), Some(_)) = (ends, completion, old.time("completionTime")) {
        errors.invalid(&path, at, "completionTime cannot be mutated");
    }
    // who resumes a Job sets its time anew
    let resumes = old.suspended && start.is_some();
    if starts && old.time("startTime").is_some() && !flag(new.spec, "suspend") && !resumes {
        errors.required(&STATUS.child("startTime"), "startTime cannot be removed for unsuspended job");
    }
    if (starts || new.finished() != old.finished()) && new.finished() && start.is_none() {
        errors.required(&STATUS.child("startTime"), "startTime is required for finished job");
    }
}

/// Nothing goes on when a Job has ended.
fn validate_end(new: &State<'_>, old: &State<'_>, errors: &mut FieldErrors) {
    let ended = new.finished() != old.finished();
    for key in ["active", "terminating"] {
        let count = new.count(key);
        if (ended || !same(new.status, old.status, key)) && new.finished() && count > 0 {
            errors.invalid(&STATUS.child(key), count, format!("{key}>0 is invalid for finished job"));
        }
    }
    let uncounted = new.uncounted();
    let some_uncounted = ["succeeded", "failed"].iter().any(|key| !list(uncounted, key).is_empty());
    if (ended || uncounted != old.uncounted()) && new.finished() && some_uncounted {
        let rule = "uncountedTerminatedPods needs to be empty for finished job";
        errors.invalid(&STATUS.child("uncountedTerminatedPods"), uncounted.clone(), rule);
    }
    let changed = ["ready", "active"].iter().any(|key| !same(new.status, old.status, key));
    if let Some(ready) = int(new.status, "ready").filter(|ready| changed && *ready > new.count("active")) {
        errors.invalid(&STATUS.child("ready"), ready, "cannot set more ready pods than active");
    }
}

fn validate_indexes(new: &State<'_>, old: &State<'_>, errors: &mut FieldErrors) {
    let (completed, failed) = (text(new.status, "completedIndexes"), some(new.status, "failedIndexes"));
    let completed_changed = completed != text(old.status, "completedIndexes");
    let failed_changed = failed != some(old.status, "failedIndexes");
    let failed = failed.and_then(Value::as_str);
    let completions = int(new.spec, "completions");
    let limited = some(new.spec, "backoffLimitPerIndex").is_some();
    let path = STATUS.child("completedIndexes");
    if completed_changed {
        if let Some(Err(reason)) = completions.map(|count| indexes::parse(completed, count)) {
            errors.invalid(&path, completed, format!("error parsing completedIndexes: {reason}"));
        }
        if !completed.is_empty() && text(new.spec, "completionMode") != "Indexed" {
            errors.invalid(&path, completed, "cannot set non-empty completedIndexes when non-indexed completion mode");
        }
    }
    let (path, Some(failed)) = (STATUS.child("failedIndexes"), failed) else { return };
    if failed_changed {
        if let Some(Err(reason)) = completions.filter(|_| limited).map(|count| indexes::parse(failed, count)) {
            errors.invalid(&path, failed, format!("error parsing failedIndexes: {reason}"));
        }
        if !limited {
            errors.invalid(&path, failed, "cannot set non-null failedIndexes when backoffLimitPerIndex is null");
        }
    }
    if (failed_changed || completed_changed)
        && let Some(index) = completions.and_then(|count| indexes::overlap(completed, failed, count))
    {
        errors.invalid(&path, failed, format!("failedIndexes and completedIndexes overlap at index: {index}"));
    }
}

/// Counters only grow; but a Job that is scaled by its completions may have fewer successes than before.
fn validate_steps(new: &State<'_>, old: &State<'_>, errors: &mut FieldErrors) {
    let elastic =
        text(new.spec, "completionMode") == "Indexed" && int(new.spec, "completions") == int(new.spec, "parallelism");
    for (key, grows) in [("failed", true), ("succeeded", !elastic)] {
        if grows && new.count(key) < old.count(key) {
            errors.invalid(&STATUS.child(key), new.count(key), format!("cannot decrease the {key} counter"));
        }
    }
}
