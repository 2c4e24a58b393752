use jiff::Timestamp;
use k8s_openapi::api::batch::v1::JobCondition;
use serde_json::{Value, json};

use super::*;

mod model;

pub(super) fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

/// A Job; `spec` is laid over what the API server would have filled in.
pub(super) fn job(spec: Value, status: Value) -> Job {
    let mut whole = json!({"parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
        "selector": {"matchLabels": {"job": "j"}},
        "template": {"metadata": {"labels": {"job": "j"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "n", "uid": "job"}, "spec": whole,
        "status": status}))
    .unwrap()
}

/// A pod that is still to be counted; a name ending in `-N` has that index.
pub(super) fn pod(name: &str, phase: &str, more: Value) -> Arc<Pod> {
    let mut pod = json!({"metadata": {"name": name, "namespace": "n", "uid": name, "finalizers": [pod::FINALIZER],
            "creationTimestamp": "2026-01-01T11:00:00Z"},
        "spec": {"containers": []}, "status": {"phase": phase}});
    if let Some((_, index)) = name.split_once('-') {
        pod["metadata"]["annotations"] = json!({pod::INDEX: index});
    }
    for (pointer, value) in more.as_object().unwrap() {
        match pointer.split_once('/') {
            Some((part, field)) => pod[part][field] = value.clone(),
            None => pod[pointer] = value.clone(),
        }
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn leaving() -> Value {
    json!({"metadata/deletionTimestamp": "2026-01-01T11:59:59Z"})
}

/// One whole round in which every request succeeds: what was done, and the status before and after finalizers went.
fn round(job: &Job, pods: &[Arc<Pod>]) -> (Operation, JobStatus, JobStatus, Vec<String>) {
    let view = View::of(job, job.spec.as_ref().unwrap(), pods, None, now());
    let (end, operation, _) = decide(&view);
    let acted = match &operation {
        Operation::Keep => Acted::default(),
        Operation::Create(new) => Acted { created: new.len(), ..Acted::default() },
        Operation::End(pods) | Operation::Release(pods) => Acted { deleted: pods.len(), ..Acted::default() },
    };
    let mut tracking = tracking::settle(&view, end, true, acted);
    let first = tracking.status.clone();
    let removed: Vec<String> = tracking.remove.iter().map(|pod| pod::uid(pod).to_owned()).collect();
    tracking.removed(removed);
    let mut told: Vec<String> = tracking.events.iter().map(|(_, reason, _)| reason.clone()).collect();
    told.extend(tracking.finish(view.spec.completions, now()).into_iter().map(|(_, reason, _)| reason));
    (operation, first, tracking.status.clone(), told)
}

fn conditions(status: &JobStatus) -> Vec<(&str, &str)> {
    let of = |condition: &'_ JobCondition| condition.status == "True";
    let list = status.conditions.iter().flatten().filter(|condition| of(condition));
    list.map(|condition| (condition.type_.as_str(), condition.reason.as_deref().unwrap_or_default())).collect()
}

fn created(operation: &Operation) -> usize {
    if let Operation::Create(new) = operation { new.len() } else { 0 }
}

fn deleted(operation: &Operation) -> Vec<&str> {
    match operation {
        Operation::End(pods) | Operation::Release(pods) => pods.iter().map(|pod| pod::uid(pod)).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn as_many_pods_run_as_are_still_needed() {
    let running = |count: usize| (0..count).map(|at| pod(&format!("r{at}"), "Running", json!({}))).collect::<Vec<_>>();
    for (spec, succeeded, active, creates, deletes) in [
        (json!({"parallelism": 2, "completions": 5}), 0, 0, 2, 0),
        (json!({"parallelism": 2, "completions": 5}), 4, 0, 1, 0),
        (json!({"parallelism": 2, "completions": 5}), 4, 2, 0, 1),
        (json!({"parallelism": 2, "completions": 5}), 0, 2, 0, 0),
        (json!({"parallelism": 2, "completions": 5}), 0, 5, 0, 3),
        (json!({"parallelism": 0, "completions": 5}), 0, 3, 0, 3),
        (json!({"parallelism": 3, "completions": null}), 0, 1, 2, 0),
        (json!({"parallelism": 3, "completions": null}), 1, 2, 0, 0),
        (json!({"parallelism": 900, "completions": 900}), 0, 0, 500, 0),
        (json!({"parallelism": 2, "completions": 5, "suspend": true}), 0, 2, 0, 2),
        (json!({"parallelism": 2, "completions": 5, "suspend": true}), 0, 0, 0, 0),
    ] {
        let job = job(spec.clone(), json!({"succeeded": succeeded}));
        let (operation, _, after, _) = round(&job, &running(active));
        let found = (created(&operation), deleted(&operation).len());
        assert_eq!(found, (creates, deletes), "{spec} {succeeded} {active}");
        assert_eq!(after.active.unwrap_or(0), i32::try_from(active + creates - deletes).unwrap());
        assert_eq!(after.terminating, Some(i32::try_from(deletes).unwrap()));
    }
}

#[test]
fn a_pod_is_counted_once_its_uid_is_written_and_its_finalizer_gone() {
    let job = job(
        json!({"parallelism": 3, "completions": 9}),
        json!({"succeeded": 1, "failed": 1,
        "uncountedTerminatedPods": {"succeeded": ["s1", "gone"], "failed": ["f1"]}}),
    );
    let pods = [
        pod("s1", "Succeeded", json!({})),
        pod("s2", "Succeeded", json!({})),
        pod("s3", "Succeeded", json!({"metadata/finalizers": []})),
        pod("f1", "Failed", json!({})),
        pod("f2", "Running", leaving()),
    ];
    let (_, first, after, _) = round(&job, &pods);
    let uncounted = first.uncounted_terminated_pods.unwrap();
    assert_eq!((first.succeeded, first.failed), (Some(2), Some(1)), "the one without finalizer moved to the count");
    assert_eq!(uncounted.succeeded.unwrap(), ["s1", "s2"]);
    assert_eq!(uncounted.failed.unwrap(), ["f1", "f2"]);
    assert_eq!((after.succeeded, after.failed), (Some(4), Some(3)));
    assert_eq!(after.uncounted_terminated_pods, Some(Default::default()));
}

#[test]
fn a_job_ends_only_when_its_pods_have() {
    let met = json!({"conditions": [{"type": "SuccessCriteriaMet", "status": "True", "reason": "CompletionsReached"}]});
    let target = json!({"conditions": [{"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded"}]});
    let done = pod("s", "Succeeded", json!({}));
    for (spec, status, pods, expected, told) in [
        (
            json!({}),
            json!({}),
            vec![done.clone()],
            vec![("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")],
            vec!["Completed"],
        ),
        (
            json!({}),
            json!({}),
            vec![done.clone(), pod("t", "Running", leaving())],
            vec![("SuccessCriteriaMet", "CompletionsReached")],
            vec![],
        ),
        (
            json!({"completions": null, "parallelism": 2}),
            json!({}),
            vec![done.clone(), pod("r", "Running", json!({}))],
            vec![],
            vec![],
        ),
        (
            json!({}),
            met,
            vec![done.clone()],
            vec![("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")],
            vec!["Completed"],
        ),
        (
            json!({"backoffLimit": 0}),
            json!({}),
            vec![pod("f", "Failed", json!({}))],
            vec![("FailureTarget", "BackoffLimitExceeded"), ("Failed", "BackoffLimitExceeded")],
            vec!["BackoffLimitExceeded"],
        ),
        (
            json!({"activeDeadlineSeconds": 60}),
            json!({"startTime": "2026-01-01T11:59:00Z"}),
            vec![pod("r", "Running", json!({}))],
            vec![("FailureTarget", "DeadlineExceeded")],
            vec![],
        ),
        (
            json!({}),
            target,
            vec![],
            vec![("FailureTarget", "DeadlineExceeded"), ("Failed", "DeadlineExceeded")],
            vec!["DeadlineExceeded"],
        ),
    ] {
        let (_, _, after, events) = round(&job(spec.clone(), status.clone()), &pods);
        assert_eq!(conditions(&after), expected, "{spec} {status}");
        assert_eq!(events, told, "{spec} {status}");
        assert_eq!(after.completion_time.is_some(), told == ["Completed"]);
    }
}

#[test]
fn a_failing_job_ends_its_pods_and_counts_them_as_failed() {
    let job = job(json!({"parallelism": 3, "completions": 3, "backoffLimit": 0}), json!({}));
    let pods = [pod("f", "Failed", json!({})), pod("r1", "Running", json!({})), pod("r2", "Pending", json!({}))];
    let (operation, _, after, _) = round(&job, &pods);
    assert_eq!(deleted(&operation), ["r1", "r2"]);
    assert_eq!((after.failed, after.active, after.terminating), (Some(3), None, Some(2)));
    assert_eq!(conditions(&after), [("FailureTarget", "BackoffLimitExceeded")]);
}

#[test]
fn restarts_in_place_count_towards_the_limit() {
    let restarted = |times: i32| {
        pod(
            "r",
            "Running",
            json!({"status/containerStatuses": [{"name": "c", "image": "", "imageID": "",
            "ready": true, "restartCount": times}]}),
        )
    };
    let template = json!({"spec": {"restartPolicy": "OnFailure", "containers": []}});
    for (limit, times, fails) in [(0, 0, false), (0, 1, true), (2, 1, false), (2, 2, true)] {
        let job = job(json!({"backoffLimit": limit, "template": template}), json!({}));
        let (_, first, ..) = round(&job, &[restarted(times)]);
        assert_eq!(!conditions(&first).is_empty(), fails, "{limit} {times}");
    }
}

#[test]
fn suspending_and_resuming_is_told_and_starts_the_clock_anew() {
    let resumed = json!({"startTime": "2026-01-01T10:00:00Z", "conditions": [{"type": "Suspended", "status": "True"}]});
    let (_, _, after, told) = round(&job(json!({"suspend": true}), json!({})), &[]);
    assert_eq!((conditions(&after), told), (vec![("Suspended", "JobSuspended")], vec!["Suspended".to_owned()]));
    assert_eq!(after.start_time, None);
    let (operation, _, after, told) = round(&job(json!({}), resumed), &[]);
    assert_eq!((conditions(&after), told), (vec![], vec!["Resumed".to_owned()]));
    assert_eq!((created(&operation), after.start_time.unwrap().0), (1, now()));
    let (_, _, after, told) = round(&job(json!({}), json!({})), &[]);
    assert_eq!((after.conditions, told.len()), (None, 0), "a Job that never was suspended is not resumed");
    let (operation, first, after, _) =
        round(&job(json!({"suspend": true}), json!({})), &[pod("r", "Running", json!({}))]);
    assert!(matches!(operation, Operation::Release(_)) && first.uncounted_terminated_pods == Some(Default::default()));
    assert_eq!(after.failed, None, "pods of a suspended Job have not failed");
}

#[test]
fn replacements_wait_longer_with_each_failure() {
    let ended = |name: &str, second: u32| {
        let at = format!("2026-01-01T11:59:{second:02}Z");
        pod(
            name,
            "Failed",
            json!({"status/conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": at}]}),
        )
    };
    let job = job(json!({}), json!({}));
    let spec = job.spec.as_ref().unwrap();
    let look = |pods: &[Arc<Pod>]| {
        let view = View::of(&job, spec, pods, None, now());
        let (_, operation, wake) = decide(&view);
        (created(&operation), wake.map(|wake| wake.as_secs()))
    };
    assert_eq!(look(&[ended("a", 55)]), (0, Some(5)));
    assert_eq!(look(&[ended("a", 50)]), (1, None));
    assert_eq!(look(&[ended("a", 30), ended("b", 50)]), (0, Some(10)));
    let counted = |pod: &Arc<Pod>| {
        let mut pod = pod.as_ref().clone();
        pod.metadata.finalizers = None;
        Arc::new(pod)
    };
    let (a, b) = (ended("a", 30), ended("b", 50));
    assert_eq!(look(&[counted(&a), counted(&b)]), (0, Some(10)), "also by a process that has just begun");
}

#[test]
fn indexes_are_filled_from_the_lowest_and_each_once() {
    let spec = json!({"completionMode": "Indexed", "parallelism": 3, "completions": 6});
    let job = job(spec, json!({"completedIndexes": "0,2", "succeeded": 2}));
    let pods =
        [pod("a-1", "Running", json!({})), pod("b-3", "Succeeded", json!({})), pod("c-3", "Succeeded", json!({}))];
    let (operation, first, after, _) = round(&job, &pods);
    let Operation::Create(new) = &operation else { panic!("{operation:?}") };
    assert_eq!(new.iter().map(|new| new.index.unwrap()).collect::<Vec<_>>(), [4, 5]);
    assert_eq!((first.completed_indexes.as_deref(), first.succeeded), (Some("0,2,3"), Some(3)));
    assert_eq!((after.completed_indexes.as_deref(), after.failed), (Some("0,2,3"), None));

    let pods = [
        pod("a-1", "Running", json!({})),
        pod("b-1", "Pending", json!({})),
        pod("c-9", "Running", json!({})),
        pod("d", "Running", json!({})),
    ];
    let (operation, ..) = round(&job, &pods);
    let mut gone = deleted(&operation);
    gone.sort_unstable();
    assert_eq!(gone, ["b-1", "c-9", "d"], "doubles, strangers and pods without an index go");
}

#[test]
fn an_elastic_job_forgets_indexes_out_of_range() {
    let spec = json!({"completionMode": "Indexed", "parallelism": 3, "completions": 3});
    let job = job(spec, json!({"completedIndexes": "0,2-5", "succeeded": 5}));
    let (operation, first, ..) = round(&job, &[pod("a-1", "Running", json!({}))]);
    assert!(matches!(operation, Operation::Keep));
    assert_eq!((first.completed_indexes.as_deref(), first.succeeded), (Some("0,2"), Some(2)));
}

#[test]
fn an_index_fails_by_itself() {
    let spec = json!({"completionMode": "Indexed", "parallelism": 4, "completions": 4, "backoffLimit": i32::MAX,
        "backoffLimitPerIndex": 1});
    let with = |name: &str, failures: &str| {
        pod(
            name,
            "Failed",
            json!({"metadata/annotations":
            {pod::INDEX: name.split_once('-').unwrap().1, pod::FAILURES: failures}}),
        )
    };
    let job = job(spec, json!({}));
    let pods = [with("a-0", "1"), with("b-1", "0"), pod("c-2", "Running", json!({}))];
    let (operation, first, after, _) = round(&job, &pods);
    let Operation::Create(new) = &operation else { panic!("{operation:?}") };
    let expected =
        [(1, (1, 0)), (3, (0, 0))].map(|(index, failures)| NewPod { index: Some(index), failures: Some(failures) });
    assert_eq!(new[..], expected);
    assert_eq!(first.failed_indexes.as_deref(), Some("0"));
    assert_eq!(after.failed, Some(1), "the pod of index 1 stays until its successor knows of it");
    assert_eq!(conditions(&after), []);
}

#[test]
fn failed_indexes_end_the_job_when_all_is_done_or_too_many_failed() {
    let spec = |most: Value| {
        json!({"completionMode": "Indexed", "parallelism": 3, "completions": 3, "backoffLimit": i32::MAX,
            "backoffLimitPerIndex": 0, "maxFailedIndexes": most})
    };
    let pods =
        [pod("a-0", "Failed", json!({})), pod("b-1", "Succeeded", json!({})), pod("c-2", "Succeeded", json!({}))];
    let (_, _, after, _) = round(&job(spec(json!(null)), json!({})), &pods);
    assert_eq!(conditions(&after), [("FailureTarget", "FailedIndexes"), ("Failed", "FailedIndexes")]);
    assert_eq!((after.completed_indexes.as_deref(), after.failed_indexes.as_deref()), (Some("1,2"), Some("0")));
    let (_, _, after, _) = round(&job(spec(json!(0)), json!({})), &pods[..1]);
    assert_eq!(conditions(&after)[0], ("FailureTarget", "MaxFailedIndexesExceeded"));
}

#[test]
fn a_success_policy_ends_the_job_early_and_the_others_have_not_failed() {
    let spec = json!({"completionMode": "Indexed", "parallelism": 3, "completions": 3,
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    let pods = [pod("a-0", "Succeeded", json!({})), pod("b-1", "Running", json!({}))];
    let (operation, _, after, _) = round(&job(spec, json!({})), &pods);
    assert_eq!(deleted(&operation), ["b-1"]);
    assert_eq!(conditions(&after), [("SuccessCriteriaMet", "SuccessPolicy")]);
    assert_eq!((after.succeeded, after.failed), (Some(1), None));
}

#[test]
fn a_failure_policy_ignores_fails_and_waits_for_the_pods_end() {
    let exited = |code: i32| {
        json!({"status/containerStatuses": [{"name": "c", "image": "", "imageID": "",
        "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code}}}]})
    };
    let policy = json!({"rules": [
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [9]}}]});
    let job = job(json!({"backoffLimit": 0, "podFailurePolicy": policy}), json!({}));
    let (operation, _, after, _) = round(&job, &[pod("i", "Failed", exited(7))]);
    assert_eq!(
        (created(&operation), after.failed, conditions(&after)),
        (1, None, vec![]),
        "it is replaced and not counted"
    );
    let (_, _, after, _) = round(&job, &[pod("x", "Failed", exited(9))]);
    assert_eq!(conditions(&after)[1], ("Failed", "PodFailurePolicy"));
    let message = after.conditions.as_ref().unwrap()[1].message.as_deref().unwrap();
    assert_eq!(message, "Container c for pod n/x failed with exit code 9 matching FailJob rule at index 1");
    let (operation, _, after, _) = round(&job, &[pod("t", "Running", leaving())]);
    assert_eq!((created(&operation), after.terminating, after.failed), (0, Some(1), None));
}

#[test]
fn a_pod_of_an_indexed_job_knows_its_index() {
    let job = job(json!({"completionMode": "Indexed"}), json!({}));
    let common = template::common(&job, job.spec.as_ref().unwrap());
    let pod = template::pod(&common, &job, &NewPod { index: Some(4), failures: Some((1, 2)) });
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("j-4-"));
    assert_eq!(pod.metadata.labels.as_ref().unwrap()[pod::INDEX], "4");
    assert_eq!((pod::index(&pod), pod::failures(&pod)), (Some(4), (1, 2)));
    assert!(pod::is_tracked(&pod));
    let spec = pod.spec.unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("j-4"));
    let variable = &spec.containers[0].env.as_ref().unwrap()[0];
    let field = variable.value_from.as_ref().unwrap().field_ref.as_ref().unwrap();
    assert_eq!(
        (variable.name.as_str(), field.field_path.as_str()),
        ("JOB_COMPLETION_INDEX", "metadata.labels['batch.kubernetes.io/job-completion-index']")
    );
    let mut long = job.clone();
    long.metadata.name = Some("x".repeat(63));
    let pod = template::pod(&common, &long, &NewPod { index: Some(123), failures: None });
    assert_eq!(pod.metadata.generate_name.unwrap(), format!("{}-123-", "x".repeat(53)));
}
