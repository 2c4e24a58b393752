use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use controllers::{Clock, ControllersConfig};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// A cluster whose controllers go by a clock that the test puts forward.
struct Later {
    cluster: Cluster,
    seconds: Arc<AtomicI64>,
}

impl Later {
    async fn start() -> Self {
        let seconds = Arc::new(AtomicI64::new(0));
        let mut config = ControllersConfig::new("the ca");
        let shown = Arc::clone(&seconds);
        config.clock = Clock::new(move || Timestamp::now() + SignedDuration::from_secs(shown.load(Ordering::SeqCst)));
        Self { cluster: Cluster::start_with(1, config).await, seconds }
    }

    /// Lets an hour pass, and has the CronJob looked at.
    async fn an_hour_on(&self, name: &str) {
        let now = self.seconds.fetch_add(3600, Ordering::SeqCst);
        let poke = Patch::Merge(json!({"metadata": {"annotations": {"looked-at": now.to_string()}}}));
        self.cluster.api::<CronJob>().patch(name, &PatchParams::default(), &poke).await.unwrap();
    }

    async fn cron(&self, name: &str, image: &str, spec: Value) {
        let mut whole = json!({"schedule": "0 * * * *", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": image}]}}}}});
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        self.cluster.create::<CronJob>(json!({"metadata": {"name": name}, "spec": whole})).await;
    }

    async fn active(&self, name: &str, count: usize) -> Vec<String> {
        let active = |cron: &CronJob| cron.status.as_ref().and_then(|status| status.active.clone()).unwrap_or_default();
        let wish = format!("{count} active");
        let cron = self.cluster.until_one::<CronJob>(name, &wish, |cron| active(cron).len() == count).await;
        active(&cron).into_iter().filter_map(|job| job.name).collect()
    }

    async fn told(&self, reason: &str) {
        let is = |event: &Event| event.reason.as_deref() == Some(reason);
        self.cluster.until::<Event>(reason, |events| events.iter().any(|event| is(event))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_go_side_by_side_where_that_is_allowed() {
    let later = Later::start().await;
    later.cron("both", "web:1", json!({"concurrencyPolicy": "Allow"})).await;
    later.an_hour_on("both").await;
    let first = later.active("both", 1).await;
    later.an_hour_on("both").await;
    let second = later.active("both", 2).await;
    assert!(second.contains(&first[0]));
    later.told("SuccessfulCreate").await;
    // a Job that is deleted by hand is missed
    later.cluster.api::<Job>().delete(&first[0], &kube::api::DeleteParams::background()).await.unwrap();
    later.active("both", 1).await;
    later.told("MissingJob").await;
    later.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_waits_for_the_one_before_where_it_must() {
    let later = Later::start().await;
    later.cron("alone", "web:1", json!({"concurrencyPolicy": "Forbid"})).await;
    later.an_hour_on("alone").await;
    let first = later.active("alone", 1).await;
    later.an_hour_on("alone").await;
    later.told("JobAlreadyActive").await;
    assert_eq!(later.active("alone", 1).await, first);
    later.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_replaces_the_one_before_where_it_may() {
    let later = Later::start().await;
    later.cron("newest", "web:1", json!({"concurrencyPolicy": "Replace"})).await;
    later.an_hour_on("newest").await;
    let first = later.active("newest", 1).await;
    later.an_hour_on("newest").await;
    later.cluster.until::<Job>("the first is replaced", |jobs| jobs.len() == 1 && jobs[0].name_any() != first[0]).await;
    later.told("SuccessfulDelete").await;
    later.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finished_runs_are_noted_and_only_the_latest_kept() {
    let later = Later::start().await;
    later.cron("short", "exit:0", json!({"successfulJobsHistoryLimit": 1})).await;
    later.cron("asleep", "exit:0", json!({"suspend": true})).await;
    let mut last = None;
    for _ in 0..3 {
        later.an_hour_on("asleep").await;
        later.an_hour_on("short").await;
        let ended = |cron: &CronJob| {
            let status = cron.status.clone().unwrap_or_default();
            status.active.is_none() && status.last_successful_time.is_some() && status.last_schedule_time > last
        };
        let cron = later.cluster.until_one::<CronJob>("short", "ran", ended).await;
        last = cron.status.as_ref().unwrap().last_schedule_time.clone();
    }
    later.told("SawCompletedJob").await;
    let jobs = later.cluster.until::<Job>("one is kept", |jobs| jobs.len() == 1).await;
    let minute = last.unwrap().0.as_second() / 60;
    assert_eq!(jobs[0].name_any(), format!("short-{minute}"));
    assert!(jobs[0].annotations().contains_key("batch.kubernetes.io/cronjob-scheduled-timestamp"));
    later.cluster.stop().await;
}
