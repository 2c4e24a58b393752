use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

/// A Job; `spec` is laid over one run of `image`.
fn job(name: &str, image: &str, spec: Value) -> Value {
    let mut whole = json!({"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": image}]}}});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": whole})
}

fn status(job: &Job) -> JobStatus {
    job.status.clone().unwrap_or_default()
}

/// Type and reason of the conditions that are true.
fn conditions(job: &Job) -> Vec<(String, String)> {
    let list = status(job).conditions.unwrap_or_default();
    let list = list.into_iter().filter(|condition| condition.status == "True");
    list.map(|condition| (condition.type_, condition.reason.unwrap_or_default())).collect()
}

fn is(job: &Job, type_: &str) -> bool {
    conditions(job).iter().any(|(known, _)| known == type_)
}

async fn done(cluster: &Cluster, name: &str, type_: &str) -> Job {
    cluster.until_one::<Job>(name, type_, |job| is(job, type_)).await.as_ref().clone()
}

async fn told(cluster: &Cluster, reason: &str, about: &str) {
    let is =
        |event: &Event| event.reason.as_deref() == Some(reason) && event.involved_object.name.as_deref() == Some(about);
    cluster.until::<Event>(reason, |events| events.iter().any(|event| is(event))).await;
}

fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

async fn patch(cluster: &Cluster, name: &str, spec: Value) {
    let patch = Patch::Merge(json!({"spec": spec}));
    cluster.api::<Job>().patch(name, &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_as_often_as_asked_and_ends() {
    let cluster = Cluster::start(1).await;
    cluster.create::<Job>(job("pi", "exit:0", json!({"completions": 5, "parallelism": 2}))).await;
    let ended = done(&cluster, "pi", "Complete").await;
    let status = status(&ended);
    assert_eq!((status.succeeded, status.failed, status.active), (Some(5), None, None));
    assert_eq!((status.ready, status.terminating), (Some(0), Some(0)));
    assert_eq!(status.uncounted_terminated_pods, Some(Default::default()));
    assert!(status.start_time.is_some() && status.completion_time.is_some());
    let reached = |type_: &str| (type_.to_owned(), "CompletionsReached".to_owned());
    assert_eq!(conditions(&ended), [reached("SuccessCriteriaMet"), reached("Complete")]);
    let pods = cluster.until::<Pod>("pods are let go", |pods| pods.iter().all(|pod| !is_tracked(pod))).await;
    assert_eq!(pods.len(), 5);
    let labels = pods[0].labels();
    assert_eq!((labels["batch.kubernetes.io/job-name"].as_str(), labels["job-name"].as_str()), ("pi", "pi"));
    assert_eq!(labels["batch.kubernetes.io/controller-uid"], ended.uid().unwrap());
    assert!(!ended.metadata.managed_fields.unwrap_or_default().iter().any(|field| field.manager.is_none()));
    told(&cluster, "SuccessfulCreate", "pi").await;
    told(&cluster, "Completed", "pi").await;
    let live = cluster.api::<Job>().get("pi").await.unwrap();
    assert!(live.metadata.managed_fields.is_some_and(|fields| fields.len() >= 2), "writing the status keeps them");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_that_are_restarted_in_place_get_a_job_to_its_end() {
    let cluster = Cluster::start(1).await;
    let mut tries = job("tries", "restarts", json!({"completions": 4, "parallelism": 2, "backoffLimit": 6}));
    tries["spec"]["template"]["spec"]["restartPolicy"] = json!("OnFailure");
    cluster.create::<Job>(tries).await;
    let ended = done(&cluster, "tries", "Complete").await;
    assert_eq!((status(&ended).succeeded, status(&ended).failed), (Some(4), None));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_indexed_job_has_one_pod_for_each_index() {
    let cluster = Cluster::start(1).await;
    let spec = json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed"});
    cluster.create::<Job>(job("many", "exit:0", spec)).await;
    let ended = done(&cluster, "many", "Complete").await;
    assert_eq!(status(&ended).completed_indexes.as_deref(), Some("0-3"));
    let pods = cluster.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    let mut hosts: Vec<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.hostname.clone()).collect();
    hosts.sort();
    assert_eq!(hosts, ["many-0", "many-1", "many-2", "many-3"]);
    assert!(pods.iter().all(|pod| {
        let index = &pod.annotations()["batch.kubernetes.io/job-completion-index"];
        pod.name_any().starts_with(&format!("many-{index}-"))
            && pod.labels()["batch.kubernetes.io/job-completion-index"] == *index
    }));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_are_adopted_and_pods_that_match_no_more_released() {
    let cluster = Cluster::start(1).await;
    cluster.create::<Job>(job("keep", "web:1", json!({"completions": 4, "parallelism": 2}))).await;
    let pods = cluster.until::<Pod>("two pods run", |pods| pods.len() == 2).await;
    let (orphan, stranger) = (pods[0].name_any(), pods[1].name_any());
    let api = cluster.api::<Pod>();
    let alone = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
    api.patch(&orphan, &PatchParams::default(), &alone).await.unwrap();
    cluster.until_one::<Pod>(&orphan, "is adopted", |pod| pod.owner_references().len() == 1 && is_tracked(pod)).await;
    let other =
        json!({"metadata": {"labels": {"batch.kubernetes.io/controller-uid": null, "controller-uid": "other"}}});
    api.patch(&stranger, &PatchParams::default(), &Patch::Merge(other)).await.unwrap();
    cluster
        .until_one::<Pod>(&stranger, "is released", |pod| pod.owner_references().is_empty() && !is_tracked(pod))
        .await;
    cluster.until::<Pod>("a third pod", |pods| pods.len() == 3).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_policy_fails_early_or_ignores_a_disruption() {
    let cluster = Cluster::start(1).await;
    let on_exit = json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]});
    cluster.create::<Job>(job("early", "exit:1", json!({"backoffLimit": 6, "podFailurePolicy": on_exit}))).await;
    let failed = done(&cluster, "early", "Failed").await;
    assert_eq!(conditions(&failed)[1].1, "PodFailurePolicy");
    assert_eq!(status(&failed).failed, Some(1));
    told(&cluster, "PodFailurePolicy", "early").await;

    let ignore = json!({"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]});
    cluster.create::<Job>(job("late", "web:1", json!({"podFailurePolicy": ignore}))).await;
    let of_late = |pod: &Pod| pod.labels().get("job-name").map(String::as_str) == Some("late");
    cluster.until_one::<Job>("late", "runs", |job| status(job).ready == Some(1)).await;
    let pods = cluster.until::<Pod>("its pod", |pods| pods.iter().any(|pod| of_late(pod))).await;
    let first = pods.iter().find(|pod| of_late(pod)).unwrap().name_any();
    // it ended a while ago, so that its successor need not wait
    let disrupted = json!({"status": {"phase": "Failed", "conditions": [
        {"type": "DisruptionTarget", "status": "True"},
        {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    cluster.api::<Pod>().patch_status(&first, &PatchParams::default(), &Patch::Strategic(disrupted)).await.unwrap();
    let second = |pods: &[std::sync::Arc<Pod>]| pods.iter().any(|pod| of_late(pod) && pod.name_any() != first);
    cluster.until::<Pod>("its successor", second).await;
    let goes_on = cluster.until_one::<Job>("late", "goes on", |job| status(job).active == Some(1)).await;
    assert_eq!((status(&goes_on).failed, conditions(&goes_on).len()), (None, 0));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_fail_by_themselves() {
    let cluster = Cluster::start(1).await;
    let indexed = |more: Value| {
        let mut spec = json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed",
            "backoffLimitPerIndex": 0, "backoffLimit": null});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    cluster.create::<Job>(job("some", "odd-fails", indexed(json!({})))).await;
    let failed = done(&cluster, "some", "Failed").await;
    let found = status(&failed);
    assert_eq!((found.completed_indexes.as_deref(), found.failed_indexes.as_deref()), (Some("0,2"), Some("1,3")));
    assert_eq!((found.succeeded, found.failed, conditions(&failed)[1].1.as_str()), (Some(2), Some(2), "FailedIndexes"));

    cluster.create::<Job>(job("most", "exit:1", indexed(json!({"maxFailedIndexes": 1})))).await;
    let failed = done(&cluster, "most", "Failed").await;
    assert_eq!(conditions(&failed)[1].1, "MaxFailedIndexesExceeded");

    let fail_index = json!({"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}}]});
    let spec = indexed(json!({"backoffLimitPerIndex": 3, "podFailurePolicy": fail_index}));
    cluster.create::<Job>(job("rule", "odd-fails", spec)).await;
    let failed = done(&cluster, "rule", "Failed").await;
    assert_eq!(status(&failed).failed_indexes.as_deref(), Some("1,3"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_success_policy_ends_a_job_before_all_indexes_are_through() {
    let cluster = Cluster::start(1).await;
    for (name, rule, image, completed) in [
        ("all", json!({"succeededIndexes": "0-1"}), "exit:0", "0,1"),
        ("one", json!({"succeededIndexes": "0"}), "zero-ends", "0"),
        ("count", json!({"succeededCount": 1}), "zero-ends", "0"),
    ] {
        let spec = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed",
            "successPolicy": {"rules": [rule]}});
        cluster.create::<Job>(job(name, image, spec)).await;
        let ended = done(&cluster, name, "Complete").await;
        let met = conditions(&ended);
        assert_eq!((met[0].0.as_str(), met[0].1.as_str()), ("SuccessCriteriaMet", "SuccessPolicy"), "{name}");
        let status = status(&ended);
        assert_eq!((status.completed_indexes.as_deref(), status.failed, status.active), (Some(completed), None, None));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_suspended_resumed_and_deleted_with_its_pods() {
    let cluster = Cluster::start(1).await;
    cluster.create::<Job>(job("nap", "web:1", json!({"parallelism": 2, "completions": 2, "suspend": true}))).await;
    let asleep = done(&cluster, "nap", "Suspended").await;
    assert!(status(&asleep).start_time.is_none() && cluster.keys::<Pod>().is_empty());
    patch(&cluster, "nap", json!({"suspend": false})).await;
    let awake = cluster.until_one::<Job>("nap", "is ready", |job| status(job).ready == Some(2)).await;
    assert!(!is(&awake, "Suspended") && status(&awake).start_time.is_some());
    patch(&cluster, "nap", json!({"suspend": true})).await;
    let gone = |job: &Job| status(job).active.is_none() && status(job).terminating == Some(0);
    let asleep = cluster.until_one::<Job>("nap", "sleeps", |job| is(job, "Suspended") && gone(job)).await;
    assert_eq!(status(&asleep).failed, None, "pods of a suspended job have not failed");
    told(&cluster, "Suspended", "nap").await;
    told(&cluster, "Resumed", "nap").await;

    patch(&cluster, "nap", json!({"suspend": false})).await;
    cluster.until_one::<Job>("nap", "runs", |job| status(job).ready == Some(2)).await;
    cluster.api::<Job>().delete("nap", &DeleteParams::foreground()).await.unwrap();
    cluster.until::<Job>("the job is gone", |jobs| jobs.is_empty()).await;
    cluster.until::<Pod>("its pods are gone", |pods| pods.is_empty()).await;

    cluster.create::<Job>(job("left", "web:1", json!({}))).await;
    cluster.until_one::<Job>("left", "runs", |job| status(job).ready == Some(1)).await;
    cluster.api::<Job>().delete("left", &DeleteParams::orphan()).await.unwrap();
    cluster.until::<Pod>("its pod stays", |pods| pods.len() == 1 && !is_tracked(&pods[0])).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_the_deadline_and_the_ttl_end_a_job() {
    let cluster = Cluster::start(1).await;
    cluster.create::<Job>(job("bad", "exit:3", json!({"parallelism": 2, "completions": 2}))).await;
    let failed = done(&cluster, "bad", "Failed").await;
    assert_eq!(conditions(&failed)[1].1, "BackoffLimitExceeded");
    assert_eq!(status(&failed).failed, Some(2));
    cluster.create::<Job>(job("slow", "web:1", json!({"activeDeadlineSeconds": 1}))).await;
    let failed = done(&cluster, "slow", "Failed").await;
    assert_eq!(conditions(&failed)[1].1, "DeadlineExceeded");
    cluster.create::<Job>(job("brief", "exit:0", json!({"ttlSecondsAfterFinished": 0}))).await;
    cluster.until::<Job>("brief is deleted", |jobs| jobs.iter().all(|job| job.name_any() != "brief")).await;
    let of_brief = |pod: &Pod| pod.labels().get("job-name").map(String::as_str) == Some("brief");
    cluster.until::<Pod>("its pod too", |pods| !pods.iter().any(|pod| of_brief(pod))).await;
    cluster.create::<Job>(job("foreign", "exit:0", json!({"managedBy": "example.com/other"}))).await;
    cluster.create::<Job>(job("own", "exit:0", json!({}))).await;
    done(&cluster, "own", "Complete").await;
    assert_eq!(cluster.api::<Job>().get("foreign").await.unwrap().status, Some(JobStatus::default()));
    cluster.stop().await;
}
