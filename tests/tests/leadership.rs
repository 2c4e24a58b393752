//! Two servers on one etcd: one leads, and when it is killed, stopped for a while or told to end, the other goes on. Nothing is
//! done twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::{CronJob, Job},
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use system_tests::{
    Instance,
    clients::Servers,
    etcd::{Etcd, need_etcd},
    eventually,
    stage::{Pods, Stage, WORK, image, is_live, is_of, is_ready},
};

/// How long a leader's Lease is good for in these tests, which wait for it to run out.
const LEASE: Duration = Duration::from_secs(4);
/// That of servers that nobody told anything else, as upstream's.
const LEASE_BY_DEFAULT: Duration = Duration::from_secs(15);
const DEPLOYMENTS: usize = 3;
const REPLICAS: usize = 6;
const SURGE: usize = 2;
const SETS: usize = 2;
const MEMBERS: usize = 4;
const COMPLETIONS: usize = 40;
const CRON_JOBS: usize = 3;
/// Pause before a request is sent again that a server which went away did not answer.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a server may take for an answer: one may be stopped.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

fn holder(asked: &Instance, lease: &str) -> Option<String> {
    let lease = asked.get(&["lease", lease, "-n", "kube-system"])?;
    lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
}

/// Which of the servers runs the controllers, asked of one that is up; it must not be `not`.
fn leader(instances: &[Instance], asked: usize, not: Option<usize>) -> usize {
    eventually("a server leads", || {
        let holder = holder(&instances[asked], "kube-controller-manager")?;
        let id = |instance: &Instance| std::fs::read_to_string(instance.data_dir().join("server-id")).ok();
        let leads = |instance: &Instance| id(instance).is_some_and(|id| holder.ends_with(&id));
        instances.iter().position(leads).filter(|leader| Some(*leader) != not)
    })
}

/// A stopped process, which goes on when this is dropped.
struct Stopped(i32);

impl Stopped {
    fn stop(instance: &Instance) -> Self {
        // SAFETY: kill has no memory effects; the pid is of a child that this test started and has not reaped.
        unsafe { libc::kill(instance.pid(), libc::SIGSTOP) };
        Self(instance.pid())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::kill(self.0, libc::SIGCONT) };
    }
}

/// Sends requests until a server answered.
struct Clients(Servers);

impl Clients {
    async fn ask<K, T>(&self, ask: impl AsyncFn(Api<K>) -> Result<T, kube::Error>) -> T
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        loop {
            let api = Api::default_namespaced(self.0.client(0).await);
            match tokio::time::timeout(ANSWER_TIMEOUT, ask(api)).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) => panic!("{status:?}"),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn create<K>(&self, object: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned + Serialize,
    {
        let object: K = serde_json::from_value(object).expect("an object");
        self.ask(async |api: Api<K>| match api.create(&PostParams::default(), &object).await {
            // an earlier try, whose answer was lost
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            answer => answer.map(drop),
        })
        .await;
    }

    async fn update<K>(&self, name: &str)
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned,
    {
        let template = json!({"spec": {"containers": [{"name": "c", "image": "example/app:2"}]}});
        let patch = Patch::Strategic(json!({"spec": {"template": template}}));
        self.ask(async |api: Api<K>| api.patch(name, &PatchParams::default(), &patch).await).await;
    }

    /// Everything that controllers have to do something about; names begin with `prefix`.
    async fn begin(&self, prefix: &str) {
        let template = |app: &str, image: &str, restart: &str| {
            json!({"metadata": {"labels": {"app": app}}, "spec": {"restartPolicy": restart,
                "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": image}]}})
        };
        let app = |name: &str, mut spec: Value| {
            spec["selector"] = json!({"matchLabels": {"app": name}});
            spec["template"] = template(name, "example/app:1", "Always");
            json!({"metadata": {"name": name}, "spec": spec})
        };
        let work = |name: &str| template(name, WORK, "Never");
        for number in 0..CRON_JOBS {
            let name = format!("{prefix}-cron-{number}");
            let spec = json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": work(&name)}}});
            self.create::<CronJob>(json!({"metadata": {"name": name}, "spec": spec})).await;
            // It missed a run, which is made up for at once.
            let before = json!({"status": {"lastScheduleTime": Timestamp::now() - Duration::from_secs(90)}});
            let before = Patch::Merge(before);
            self.ask(async |api: Api<CronJob>| api.patch_status(&name, &PatchParams::default(), &before).await).await;
        }
        let job = format!("{prefix}-job");
        let spec = json!({"completions": COMPLETIONS, "parallelism": 8, "template": work(&job)});
        self.create::<Job>(json!({"metadata": {"name": job}, "spec": spec})).await;
        for number in 0..SETS {
            let policy = ["OrderedReady", "Parallel"][number % 2];
            let name = format!("{prefix}-set-{number}");
            let spec = json!({"replicas": MEMBERS, "serviceName": name, "podManagementPolicy": policy});
            self.create::<StatefulSet>(app(&name, spec)).await;
        }
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": SURGE, "maxUnavailable": 1}});
        for number in 0..DEPLOYMENTS {
            let spec = json!({"replicas": REPLICAS, "strategy": rolling});
            self.create::<Deployment>(app(&format!("{prefix}-web-{number}"), spec)).await;
        }
    }
}

/// Names of the long-running workloads, and how many pods each has.
fn workloads(prefix: &str) -> Vec<(String, usize)> {
    let sets = (0..SETS).map(|number| (format!("{prefix}-set-{number}"), MEMBERS));
    sets.chain((0..DEPLOYMENTS).map(|number| (format!("{prefix}-web-{number}"), REPLICAS))).collect()
}

/// Whether all workloads have exactly their pods, ready with this image, and the Job all of its own.
fn is_done(pods: &Pods, prefix: &str, wanted: &str) -> bool {
    let of = |app: &str| pods.values().filter(|pod| is_of(pod, app)).collect::<Vec<_>>();
    let runs = |(app, count): (String, usize)| {
        let pods = of(&app);
        pods.len() == count && pods.iter().all(|pod| is_ready(pod) && image(pod) == wanted)
    };
    let over = of(&format!("{prefix}-job")).iter().filter(|pod| !is_live(pod)).count();
    workloads(prefix).into_iter().all(runs) && over >= COMPLETIONS
}

/// Judges the history of everything with this prefix, of which `updated` is the moment of its update.
async fn nothing_was_done_twice(stage: &Stage, clients: &Clients, prefix: &str, updated: Option<usize>) {
    stage.nothing_ran_twice();
    let times = if updated.is_some() { 2 } else { 1 };
    for (app, count) in workloads(prefix) {
        let made = stage.made(0, &app);
        assert_eq!(made.len(), times * count, "{app}: {made:?}");
        let mut by_name: BTreeMap<&String, usize> = BTreeMap::new();
        made.iter().for_each(|name| *by_name.entry(name).or_default() += 1);
        let wanted = if app.contains("-set-") { times } else { 1 };
        assert!(by_name.values().all(|often| *often == wanted), "{app}: {by_name:?}");
    }
    stage.replay(|at, event, pods| {
        for (app, count) in workloads(prefix) {
            let live = pods.values().filter(|pod| is_of(pod, &app) && is_live(pod)).count();
            let ready = pods.values().filter(|pod| is_of(pod, &app) && is_ready(pod)).count();
            let surge = if app.contains("-web-") { SURGE } else { 0 };
            assert!(live <= count + surge, "{live} pods of {app} after {}", event.pod.name_any());
            // a set of parallel management replaces one after the other as well
            assert!(updated.is_none_or(|updated| at < updated) || ready >= count - 1, "{ready} ready of {app}");
        }
    });
    let name = format!("{prefix}-job");
    assert_eq!(stage.made(0, &name).len(), COMPLETIONS, "each completion once");
    let counted = |job: &Value| job["status"]["succeeded"] == COMPLETIONS && job["status"]["failed"].is_null();
    stage.until_status::<Job>(&name, counted).await;
    let jobs = clients.ask(async |api: Api<Job>| api.list(&ListParams::default()).await).await.items;
    for number in 0..CRON_JOBS {
        let cron = format!("{prefix}-cron-{number}");
        let runs: Vec<_> =
            jobs.iter().filter(|job| job.owner_references().iter().any(|owner| owner.name == cron)).collect();
        let moments: BTreeSet<_> =
            runs.iter().map(|job| &job.annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"]).collect();
        assert!(!runs.is_empty() && moments.len() == runs.len(), "{cron}: {moments:?}");
        assert_eq!(stage.made(0, &cron).len(), runs.len(), "each run of {cron} has one pod");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_twice_when_the_leader_is_killed_or_stopped() {
    if !need_etcd("nothing_is_done_twice_when_the_leader_is_killed_or_stopped") {
        return;
    }
    let etcd = Etcd::start();
    let lease = ("KEELSON_LEADER_ELECTION_LEASE_SECONDS".to_owned(), LEASE.as_secs().to_string());
    let mut instances = etcd.servers(2, &[lease]);
    let servers = Servers::default();
    for (number, instance) in instances.iter().enumerate() {
        servers.set_up(number, instance).await;
    }
    let (stage, clients) = (Stage::start(&servers, 3).await, Clients(servers.clone()));

    // Killed while everything is made.
    let first = tokio::task::block_in_place(|| leader(&instances, 0, None));
    clients.begin("a").await;
    stage.progress(20).await;
    servers.set_down(first);
    instances[first].kill();
    let killed = Instant::now();
    let second = tokio::task::block_in_place(|| leader(&instances, 1 - first, Some(first)));
    assert!(killed.elapsed() < 2 * LEASE, "it took {:?} to go on", killed.elapsed());
    stage.until("all is made", |pods| is_done(pods, "a", "example/app:1")).await;
    nothing_was_done_twice(&stage, &clients, "a", None).await;
    tokio::task::block_in_place(|| instances[first].resume());
    servers.set_up(first, &instances[first]).await;

    // Stopped while everything is updated and more is made, until another one has led for a while.
    let updated = stage.now();
    for (name, _) in workloads("a") {
        match name.contains("-set-") {
            true => clients.update::<StatefulSet>(&name).await,
            false => clients.update::<Deployment>(&name).await,
        }
    }
    stage.progress(10).await;
    servers.set_down(second);
    let stopped = Stopped::stop(&instances[second]);
    clients.begin("b").await;
    let third = tokio::task::block_in_place(|| leader(&instances, first, Some(second)));
    assert_eq!(third, first);
    stage.progress(40).await;
    drop(stopped);
    servers.set_up(second, &instances[second]).await;
    stage.until("all is updated", |pods| is_done(pods, "a", "example/app:2")).await;
    stage.until("all is made", |pods| is_done(pods, "b", "example/app:1")).await;
    nothing_was_done_twice(&stage, &clients, "a", Some(updated)).await;
    nothing_was_done_twice(&stage, &clients, "b", None).await;
    assert_eq!(tokio::task::block_in_place(|| leader(&instances, second, None)), first, "it knows that it lost");
    stage.end().await;
}

#[test]
fn a_leader_that_is_told_to_end_hands_over_at_once() {
    if !need_etcd("a_leader_that_is_told_to_end_hands_over_at_once") {
        return;
    }
    let etcd = Etcd::start();
    let mut instances = etcd.servers(2, &[]);
    let first = leader(&instances, 0, None);
    let told = Instant::now();
    assert!(instances[first].terminate().success());
    let second = leader(&instances, 1 - first, Some(first));
    // It would have had to wait for the Lease to run out.
    assert!(told.elapsed() < LEASE_BY_DEFAULT * 2 / 3, "it took {:?}", told.elapsed());
    instances[second].kubectl(&["create", "deployment", "web", "--image=example/web:1"]);
    eventually("its controllers make a pod", || {
        let pods = instances[second].get(&["pods", "-l", "app=web"])?;
        pods["items"].as_array().filter(|items| !items.is_empty()).map(|_| ())
    });
}
