use serde_json::{Value, json};

use crate::fixture::*;

fn job() -> Value {
    json!({"metadata": {"name": "j", "namespace": "n", "uid": "u-1"}, "spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
    }})
}

#[test]
fn a_job_selects_its_own_pods() {
    let jobs = resource("batch", "jobs");
    let made = prepared(&jobs, job());
    let spec = &made["spec"];
    assert_eq!(spec["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}));
    assert_eq!(
        spec["template"]["metadata"]["labels"],
        json!({"batch.kubernetes.io/controller-uid": "u-1", "controller-uid": "u-1",
            "batch.kubernetes.io/job-name": "j", "job-name": "j"})
    );
    assert_eq!(
        (&spec["completions"], &spec["parallelism"], &spec["backoffLimit"], &spec["completionMode"]),
        (&json!(1), &json!(1), &json!(6), &json!("NonIndexed"))
    );
    assert_eq!(created(&jobs, job()), "[]");
    let mut always = job();
    always["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
    assert_eq!(
        created(&jobs, always),
        r#"spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never""#
    );
    let mut new = made.clone();
    new["spec"]["template"]["spec"]["containers"][0]["image"] = "j".into();
    assert!(updated(&jobs, new, &made).starts_with("spec.template: Invalid value: "));
}

#[test]
fn schedules() {
    let jobs = resource("batch", "cronjobs");
    let cron = |schedule: &str| json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"schedule": schedule, "jobTemplate": {"spec": job()["spec"]}}});
    assert_eq!(created(&jobs, cron("@daily")), "[]");
    assert_eq!(
        created(&jobs, cron("61 * * * *")),
        r#"spec.schedule: Invalid value: "61 * * * *": end of range (61) above maximum (59): 61"#
    );
    assert_eq!(prepared(&jobs, cron("@daily"))["spec"]["successfulJobsHistoryLimit"], 3);
}

#[test]
fn a_condition_of_a_failure_policy_is_meant_to_be_true() {
    let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]);
    let mut whole = job();
    whole["spec"]["podFailurePolicy"] = json!({"rules": rules});
    whole["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    let made = prepared(&resource("batch", "jobs"), whole);
    assert_eq!(made["spec"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["status"], "True");
}

#[test]
fn a_suspended_job_may_be_placed_differently_but_not_made_another() {
    let jobs = resource("batch", "jobs");
    let mut whole = job();
    whole["spec"]["suspend"] = true.into();
    let made = prepared(&jobs, whole);
    let changed = |path: &str, value: Value| {
        let mut new = made.clone();
        let (parent, key) = path.rsplit_once('/').unwrap();
        new.pointer_mut(parent).unwrap()[key] = value;
        updated(&jobs, new, &made)
    };
    let pod = "/spec/template/spec";
    let resources = json!({"requests": {"cpu": "1"}});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}});
    for (path, value) in [
        (format!("{pod}/nodeSelector"), json!({"a": "b"})),
        (format!("{pod}/tolerations"), json!([{"key": "a", "operator": "Exists"}])),
        (format!("{pod}/affinity"), affinity),
        (format!("{pod}/schedulingGates"), json!([{"name": "a.b/c"}])),
        (format!("{pod}/containers/0/resources"), resources),
        ("/spec/template/metadata/annotations".to_owned(), json!({"a": "b"})),
    ] {
        assert_eq!(changed(&path, value), "[]", "{path}");
    }
    for (path, value) in
        [(format!("{pod}/containers/0/image"), json!("other")), (format!("{pod}/affinity"), json!({"podAffinity": {}}))]
    {
        assert!(changed(&path, value).starts_with("spec.template: Invalid value: "), "{path}");
    }
}

const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-01-02T00:00:00Z";

fn conditions(types: &[&str]) -> Value {
    types.iter().map(|type_| json!({"type": type_, "status": "True"})).collect()
}

/// What is said to a status that follows another; `spec` completes that of the Job.
fn stepped(spec: Value, before: Value, after: Value) -> String {
    let jobs = resource("batch", "jobs");
    let mut whole = job();
    for (key, value) in spec.as_object().unwrap() {
        whole["spec"][key] = value.clone();
    }
    let mut old = prepared(&jobs, whole);
    old["status"] = before;
    let mut new = old.clone();
    new["status"] = after;
    status_updated(&jobs, new, &old)
}

#[test]
fn a_status_says_only_what_can_be() {
    let complete = ["SuccessCriteriaMet", "Complete"];
    for (after, expected) in [
        (json!({"startTime": EARLY, "active": 2, "ready": 1, "terminating": 3}), "[]"),
        (
            json!({"startTime": EARLY, "completionTime": LATE, "succeeded": 1, "conditions": conditions(&complete)}),
            "[]",
        ),
        (json!({"startTime": EARLY, "conditions": conditions(&["FailureTarget", "Failed"])}), "[]"),
        (json!({"active": -1}), "status.active: Invalid value: -1: must be greater than or equal to 0"),
        (json!({"active": 1, "ready": 2}), "status.ready: Invalid value: 2: cannot set more ready pods than active"),
        (
            json!({"uncountedTerminatedPods": {"succeeded": ["a"], "failed": ["a"]}}),
            "status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
        ),
        (
            json!({"uncountedTerminatedPods": {"failed": [""]}}),
            "status.uncountedTerminatedPods.failed[0]: Invalid value: \"\": must not be empty",
        ),
        (
            json!({"startTime": EARLY, "conditions": conditions(&["Failed"])}),
            "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            json!({"startTime": EARLY, "completionTime": LATE, "conditions": conditions(&["Complete"])}),
            "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true \
             condition",
        ),
        (
            json!({"conditions": conditions(&["SuccessCriteriaMet", "FailureTarget"])}),
            "status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
        (
            json!({"startTime": EARLY, "conditions": conditions(&complete)}),
            "status.completionTime: Required value: completionTime is required for Complete jobs",
        ),
        (
            json!({"completionTime": LATE}),
            "status.completionTime: Invalid value: \"2026-01-02T00:00:00Z\": cannot set completionTime when there is no \
             Complete=True condition",
        ),
        (
            json!({"startTime": LATE, "completionTime": EARLY, "conditions": conditions(&complete)}),
            "status.completionTime: Invalid value: \"2026-01-01T00:00:00Z\": completionTime cannot be set before startTime",
        ),
        (
            json!({"conditions": conditions(&["FailureTarget", "Failed"])}),
            "status.startTime: Required value: startTime is required for finished job",
        ),
        (
            json!({"startTime": EARLY, "active": 1, "conditions": conditions(&["FailureTarget", "Failed"])}),
            "status.active: Invalid value: 1: active>0 is invalid for finished job",
        ),
        (
            json!({"startTime": EARLY, "terminating": 1, "conditions": conditions(&["FailureTarget", "Failed"])}),
            "status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",
        ),
        (
            json!({"completedIndexes": "0"}),
            "status.completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed \
             completion mode",
        ),
        (
            json!({"failedIndexes": ""}),
            "status.failedIndexes: Invalid value: \"\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
        ),
    ] {
        assert_eq!(stepped(json!({}), json!({}), after.clone()), expected, "{after}");
    }
}

#[test]
fn indexes_are_failed_or_completed() {
    let spec = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 2, "backoffLimitPerIndex": 1});
    for (after, expected) in [
        (json!({"completedIndexes": "0,2-3", "failedIndexes": "1"}), "[]"),
        (
            json!({"completedIndexes": "0-7"}),
            "status.completedIndexes: Invalid value: \"0-7\": error parsing completedIndexes: too large index: \"7\"",
        ),
        (
            json!({"completedIndexes": "0-2", "failedIndexes": "1"}),
            "status.failedIndexes: Invalid value: \"1\": failedIndexes and completedIndexes overlap at index: 1",
        ),
    ] {
        assert_eq!(stepped(spec.clone(), json!({}), after.clone()), expected, "{after}");
    }
}

#[test]
fn what_was_said_of_a_job_is_not_taken_back() {
    let elastic = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2});
    let done = json!({"startTime": EARLY, "completionTime": LATE, "conditions": conditions(&["SuccessCriteriaMet", "Complete"])});
    let mut later = done.clone();
    later["completionTime"] = "2026-01-03T00:00:00Z".into();
    for (spec, before, after, expected) in [
        (
            json!({}),
            json!({"succeeded": 2}),
            json!({"succeeded": 1}),
            "status.succeeded: Invalid value: 1: cannot decrease the succeeded counter",
        ),
        (elastic, json!({"succeeded": 2}), json!({"succeeded": 1}), "[]"),
        (
            json!({}),
            json!({"failed": 1}),
            json!({}),
            "status.failed: Invalid value: 0: cannot decrease the failed counter",
        ),
        (
            json!({}),
            json!({"conditions": conditions(&["FailureTarget"])}),
            json!({}),
            "status.conditions: Invalid value: cannot disable the terminal FailureTarget=True condition",
        ),
        (
            json!({}),
            json!({"startTime": EARLY}),
            json!({"startTime": LATE}),
            "status.startTime: Required value: startTime cannot be removed for unsuspended job",
        ),
        (json!({"suspend": true}), json!({"startTime": EARLY}), json!({}), "[]"),
        (
            json!({}),
            json!({"startTime": EARLY, "conditions": conditions(&["Suspended"])}),
            json!({"startTime": LATE}),
            "[]",
        ),
        (
            json!({}),
            done,
            later,
            "status.completionTime: Invalid value: \"2026-01-03T00:00:00Z\": completionTime cannot be mutated",
        ),
        // what an older version stored may stay as it is
        (json!({}), json!({"ready": 2}), json!({"ready": 2, "succeeded": 1}), "[]"),
        (json!({}), json!({"completedIndexes": "x"}), json!({"completedIndexes": "x", "failed": 1}), "[]"),
    ] {
        assert_eq!(stepped(spec, before.clone(), after.clone()), expected, "{before} {after}");
    }
}
