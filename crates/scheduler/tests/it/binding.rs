//! Bindings behind a gate that can refuse them, lose their answers, or keep them waiting.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver::{ApiServer, ApiServerConfig, User};
use http::{Method, Request, Response};
use identity::TokenSigner;
use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use reconcile::{Informer, Informers};
use scheduler::{Metrics, Scheduler, SchedulerError};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::cluster::node_of;

/// Far more than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the gate does with a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passed,
    Refused,
    /// It is done, and its answer never arrives.
    Lost,
    /// It never arrives.
    Held,
}

/// A client whose bindings meet the fate that their number, from 0 on, gives them.
fn gated(server: &Arc<ApiServer>, fate: impl Fn(usize) -> Fate + Send + Sync + 'static) -> Client {
    let service = server.service(Some(User::new("test", &["system:masters"])));
    let (seen, fate) = (Arc::new(AtomicUsize::new(0)), Arc::new(fate));
    let gate = tower::service_fn(move |request: Request<Body>| {
        let (mut service, seen, fate) = (service.clone(), Arc::clone(&seen), Arc::clone(&fate));
        async move {
            let binding = request.method() == Method::POST && request.uri().path().ends_with("/binding");
            let fate = if binding { fate(seen.fetch_add(1, Ordering::SeqCst)) } else { Fate::Passed };
            match fate {
                Fate::Passed => service.call(request).await,
                Fate::Refused => {
                    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500,
                        "reason": "InternalError", "message": "refused by the test"});
                    let body = apiserver::full(status.to_string());
                    Ok::<_, Infallible>(Response::builder().status(500).body(body).unwrap())
                }
                Fate::Lost => {
                    service.call(request).await.unwrap();
                    std::future::pending().await
                }
                Fate::Held => std::future::pending().await,
            }
        }
    });
    Client::new(gate, "default")
}

async fn create<K>(client: &Client, value: Value)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    let object: K = serde_json::from_value(value).unwrap();
    Api::<K>::namespaced(client.clone(), "default").create(&PostParams::default(), &object).await.unwrap();
}

/// A server with nodes, on which schedulers come and go.
struct World {
    server: Arc<ApiServer>,
    client: Client,
    _directory: tempfile::TempDir,
}

impl World {
    /// With nodes of 2 CPUs of these names.
    async fn with_nodes(names: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = store::Store::open(directory.path().join("store"), store::Options::default()).unwrap();
        let signer = TokenSigner::load_or_create(&directory.path().join("sa.key"), "https://test").unwrap();
        let server = ApiServer::new(store, ApiServerConfig::default(), Arc::new(signer));
        server.bootstrap().await.unwrap();
        let client = server.client(User::new("test", &["system:masters"]));
        create::<ServiceAccount>(&client, json!({"metadata": {"name": "default"}})).await;
        let nodes: Api<Node> = Api::all(client.clone());
        for name in names {
            let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            nodes.create(&PostParams::default(), &node).await.unwrap();
            let room = json!({"status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}}});
            nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(room)).await.unwrap();
            // in a whole cluster a controller takes the taint of a new node off once it is ready
            let ready = json!({"spec": {"taints": null}});
            nodes.patch(name, &PatchParams::default(), &Patch::Merge(ready)).await.unwrap();
        }
        Self { server, client, _directory: directory }
    }

    /// A pod that asks for half a CPU.
    async fn pod(&self, name: &str) {
        let resources = json!({"requests": {"cpu": "500m"}});
        let container = json!({"name": "c", "image": "web:1", "resources": resources});
        create::<Pod>(&self.client, json!({"metadata": {"name": name}, "spec": {"containers": [container]}})).await;
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    fn schedule(&self, client: Client) -> Running {
        let informers = Informers::new(self.client.clone());
        let stop = CancellationToken::new();
        let metrics = Arc::new(Metrics::new());
        let scheduler = Scheduler::new(&informers, client, &scheduler::Configuration::default(), 1);
        let scheduling = tokio::spawn(scheduler.counting(Arc::clone(&metrics)).run(stop.clone()));
        let (watching, until) = (informers.clone(), stop.clone());
        let watches = tokio::spawn(async move { watching.run(until).await.unwrap() });
        Running { pods: informers.of(), metrics, stop, scheduling, watches }
    }
}

/// A scheduler at work.
struct Running {
    pods: Informer<Pod>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    scheduling: JoinHandle<Result<(), SchedulerError>>,
    watches: JoinHandle<()>,
}

impl Running {
    async fn until(&self, wanted: impl Fn(&[Arc<Pod>]) -> bool) {
        let mut changes = self.pods.subscribe();
        let fulfilled = async {
            while !wanted(&self.pods.list()) {
                changes.next().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, fulfilled).await.unwrap_or_else(|_| panic!("{:#?}", self.pods.list()));
    }

    async fn until_bound(&self, count: usize) {
        self.until(|pods| pods.iter().filter(|pod| node_of(pod).is_some()).count() == count).await;
    }

    fn shows(&self, line: &str) -> bool {
        let mut out = String::new();
        self.metrics.render(&mut out);
        out.lines().any(|shown| shown == line)
    }

    async fn end(self) {
        self.stop.cancel();
        self.scheduling.await.unwrap().unwrap();
        self.watches.await.unwrap();
    }

    /// As by the death of its process.
    async fn die(self) {
        self.scheduling.abort();
        assert!(self.scheduling.await.unwrap_err().is_cancelled());
        self.stop.cancel();
        self.watches.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_bindings_give_their_room_back_and_are_tried_again() {
    let world = World::with_nodes(&["only"]).await;
    // Exactly as much as the node has: room that is not given back would leave one waiting.
    for at in 0..4 {
        world.pod(&format!("p{at}")).await;
    }
    let foreign = json!({"metadata": {"name": "foreign"}, "spec": {"schedulerName": "other",
        "containers": [{"name": "c", "image": "web:1"}]}});
    create::<Pod>(&world.client, foreign).await;
    let client = gated(&world.server, |number| if number < 3 { Fate::Refused } else { Fate::Passed });
    let running = world.schedule(client);
    running.until_bound(4).await;
    let foreign = running.pods.get("default", "foreign").unwrap();
    assert_eq!(node_of(&foreign), None, "another scheduler's pod is left alone");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_says_that_it_could_not_be_bound() {
    let world = World::with_nodes(&["only"]).await;
    world.pod("p").await;
    let running = world.schedule(gated(&world.server, |number| if number == 0 { Fate::Refused } else { Fate::Passed }));
    let told = |pods: &[Arc<Pod>]| {
        let conditions = pods.first().and_then(|pod| pod.status.as_ref()?.conditions.clone()).unwrap_or_default();
        conditions.iter().any(|condition| {
            condition.reason.as_deref() == Some("SchedulerError")
                && condition.message.as_deref() == Some("running Bind plugin \"DefaultBinder\": refused by the test")
        })
    };
    running.until(told).await;
    running.until_bound(1).await;
    let profile = "profile=\"default-scheduler\"";
    assert!(running.shows(&format!("scheduler_schedule_attempts_total{{{profile},result=\"error\"}} 1")));
    running.end().await;
    let events: Api<Event> = Api::namespaced(world.client.clone(), "default");
    let events = events.list(&ListParams::default()).await.unwrap();
    let failed = events.iter().find(|event| event.reason.as_deref() == Some("FailedScheduling")).unwrap();
    assert!(failed.message.as_deref().unwrap().ends_with(": refused by the test"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_scheduler_goes_on_where_one_has_died() {
    let names = ["a", "b", "c"];
    let world = World::with_nodes(&names).await;
    for at in 0..12 {
        world.pod(&format!("p{at}")).await;
    }
    // of each three bindings one is done, one is done unknown to the scheduler, and one is never done
    let fates = [Fate::Passed, Fate::Lost, Fate::Held];
    let first = world.schedule(gated(&world.server, move |number| fates[number % 3]));
    first.until_bound(8).await;
    first.die().await;
    let second = world.schedule(world.client.clone());
    second.until_bound(12).await;
    let mut on: BTreeMap<String, usize> = BTreeMap::new();
    for pod in second.pods.list() {
        *on.entry(node_of(&pod).unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(on, names.into_iter().map(|name| (name.to_owned(), 4)).collect(), "no node has more than it can take");
    second.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_deleted_before_it_is_bound_gives_its_room_back() {
    let world = World::with_nodes(&["only"]).await;
    for at in 0..4 {
        world.pod(&format!("p{at}")).await;
    }
    let held = Arc::new(Semaphore::new(0));
    let count = Arc::clone(&held);
    let running = world.schedule(gated(&world.server, move |number| {
        count.add_permits(1);
        if number < 4 { Fate::Held } else { Fate::Passed }
    }));
    let _all = tokio::time::timeout(PATIENCE, held.acquire_many(4)).await.expect("four bindings are tried").unwrap();
    world.pod("late").await;
    let assumed = "scheduler_cache_size{type=\"assumed_pods\"} 4";
    let refused = |pods: &[Arc<Pod>]| {
        let late = pods.iter().find(|pod| pod.name_any() == "late");
        let conditions = late.and_then(|pod| pod.status.as_ref()?.conditions.clone());
        conditions.is_some_and(|all| all.iter().any(|condition| condition.reason.as_deref() == Some("Unschedulable")))
    };
    running.until(refused).await;
    assert!(running.shows(assumed));
    world.pods().delete("p0", &DeleteParams::default()).await.unwrap();
    let late_bound = |pods: &[Arc<Pod>]| pods.iter().any(|pod| pod.name_any() == "late" && node_of(pod).is_some());
    running.until(late_bound).await;
    running.die().await;
}
