//! `kill -9` in the middle of Jobs: what is counted in the end is exactly what ran.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{
    batch::v1::{Job, JobStatus},
    core::v1::Pod,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use system_tests::{Instance, Options, PATIENCE, clients::Servers};

const COMPLETIONS: i32 = 500;
const KILLS: i32 = 5;
/// One pod in so many fails.
const FAILS: u64 = 40;
/// How often the pods are looked through for one to finish.
const PAUSE: Duration = Duration::from_millis(20);

fn job(name: &str, mode: &str) -> Job {
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
        "completions": COMPLETIONS, "parallelism": 40, "completionMode": mode, "backoffLimit": 10_000,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "example/work:1"}]}}}}))
    .expect("a job")
}

/// Finishes pods as if nodes ran them, through whichever server is up. Its failures are that the server is not.
async fn finish_pods(servers: Servers, stop: Arc<AtomicBool>) {
    let mut finished = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let pods: Api<Pod> = Api::default_namespaced(servers.client(0).await);
        let pending = ListParams::default().fields("status.phase=Pending");
        for pod in pods.list(&pending).await.map(|list| list.items).unwrap_or_default() {
            finished += 1;
            let phase = if finished.is_multiple_of(FAILS) { "Failed" } else { "Succeeded" };
            // A failure that lies back needs no pause before its pod is replaced.
            let ready = json!({"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            let status = Patch::Strategic(json!({"status": {"phase": phase, "conditions": [ready]}}));
            let _ = pods.patch_status(&pod.name_any(), &PatchParams::default(), &status).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn status(client: &Client, name: &str) -> Option<JobStatus> {
    Api::<Job>::default_namespaced(client.clone()).get(name).await.ok()?.status
}

/// Waits until a Job's status is as wished.
async fn until(servers: &Servers, name: &str, is: impl Fn(&JobStatus) -> bool) -> JobStatus {
    let wait = async {
        loop {
            if let Some(status) = status(&servers.client(0).await, name).await.filter(|status| is(status)) {
                return status;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(4 * PATIENCE, wait).await.unwrap_or_else(|_| panic!("{name} does not get on"))
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_500_completions_are_counted_exactly_although_keelson_is_killed() {
    let mut instance = Instance::start(Options::default());
    let servers = Servers::default();
    servers.set_up(0, &instance).await;
    let modes = BTreeMap::from([("each", "Indexed"), ("many", "NonIndexed")]);
    let jobs: Api<Job> = Api::default_namespaced(servers.client(0).await);
    for (name, mode) in &modes {
        jobs.create(&PostParams::default(), &job(name, mode)).await.expect("a job is created");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let kubelet = tokio::spawn(finish_pods(servers.clone(), stop.clone()));
    for round in 0..KILLS {
        until(&servers, "many", |status| status.succeeded.unwrap_or(0) > round * COMPLETIONS / (KILLS + 1) + 13).await;
        instance.kill();
        servers.set_down(0);
        tokio::task::block_in_place(|| instance.resume());
        servers.set_up(0, &instance).await;
    }
    for (name, mode) in &modes {
        let ended = until(&servers, name, |status| status.completion_time.is_some()).await;
        let pods: Api<Pod> = Api::default_namespaced(servers.client(0).await);
        let list =
            pods.list(&ListParams::default().labels(&format!("job-name={name}"))).await.expect("pods are listed");
        let phase = |wanted: &str| {
            let is = |pod: &&Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(wanted);
            i32::try_from(list.items.iter().filter(is).count()).expect("a number of pods")
        };
        let (succeeded, failed) = (phase("Succeeded"), phase("Failed"));
        assert_eq!((ended.succeeded, ended.failed.unwrap_or(0)), (Some(succeeded), failed), "{name}");
        assert_eq!((succeeded, list.items.len()), (COMPLETIONS, (succeeded + failed) as usize), "{name}");
        assert!(failed > 0, "{name} saw no failure");
        assert!(list.items.iter().all(|pod| pod.finalizers().is_empty()), "{name} let its pods go");
        assert_eq!(ended.uncounted_terminated_pods, Some(Default::default()), "{name}");
        if *mode == "Indexed" {
            assert_eq!(ended.completed_indexes, Some(format!("0-{}", COMPLETIONS - 1)));
            let mut indexes: Vec<&String> = list
                .items
                .iter()
                .filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded"))
                .map(|pod| &pod.annotations()["batch.kubernetes.io/job-completion-index"])
                .collect();
            indexes.sort_unstable();
            indexes.dedup();
            assert_eq!(indexes.len(), COMPLETIONS as usize, "each index ran once");
        }
    }
    stop.store(true, Ordering::Relaxed);
    kubelet.await.expect("pods are finished");
}
