//! Simulated nodes and pods against an API server in this process, without controllers: pods are bound by hand.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{sync::Arc, time::Duration};

use apiserver::{ApiServer, ApiServerConfig, User};
use identity::TokenSigner;
use jiff::SignedDuration;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use simulate::{Behaviour, NodeOptions, Options, Range, SimulateError, Span, Summary};
use store::Store;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    client: Client,
    _server: Arc<ApiServer>,
    _directory: TempDir,
}

/// A simulation that is under way.
struct Running {
    stop: CancellationToken,
    done: JoinHandle<Result<Summary, SimulateError>>,
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store"), store::Options::default()).unwrap();
        let signer = TokenSigner::load_or_create(&directory.path().join("sa.key"), "https://test").unwrap();
        let server = ApiServer::new(store, ApiServerConfig::default(), Arc::new(signer));
        server.bootstrap().await.unwrap();
        let client = server.client(User::new("test", &["system:masters"]));
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::default_namespaced(client.clone());
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        accounts.create(&PostParams::default(), &account).await.unwrap();
        Self { client, _server: server, _directory: directory }
    }

    async fn simulate(&self, options: Options) -> Running {
        let stop = CancellationToken::new();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let ready = std::sync::Mutex::new(Some(ready));
        let told = move |_progress| {
            if let Some(ready) = ready.lock().unwrap().take() {
                let _ = ready.send(());
            }
        };
        let done = tokio::spawn(simulate::run(self.client.clone(), options, told, stop.clone()));
        // it may also end with an error
        let _ = is_ready.await;
        Running { stop, done }
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    async fn create(&self, name: &str, node: &str, policy: &str) -> Pod {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "restartPolicy": policy,
            "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "any"}]}});
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap()
    }

    async fn until(&self, wish: &str, name: &str, is: impl Fn(Option<&Pod>) -> bool) -> Option<Pod> {
        let start = std::time::Instant::now();
        loop {
            let pod = self.pods().get_opt(name).await.unwrap();
            if is(pod.as_ref()) {
                return pod;
            }
            assert!(start.elapsed() < PATIENCE, "{wish}; there is {pod:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_phase(&self, name: &str, phase: &str) -> Pod {
        let is =
            |pod: Option<&Pod>| pod.is_some_and(|pod| pod.status.as_ref().unwrap().phase.as_deref() == Some(phase));
        self.until(phase, name, is).await.unwrap()
    }
}

impl Running {
    async fn end(self) -> Summary {
        self.stop.cancel();
        self.done.await.unwrap().unwrap()
    }
}

fn options(nodes: usize) -> Options {
    let now = Span::exactly(SignedDuration::ZERO);
    Options {
        nodes: NodeOptions::new(nodes),
        outages: None,
        pod_range: Range::PODS,
        behaviour: Behaviour {
            start_after: now,
            ready_after: now,
            run_for: simulate::RunFor::Time(now),
            terminate_after: now,
            ..Behaviour::default()
        },
        load: None,
        manifests: None,
        time: None,
        seed: 1,
        keep: false,
    }
}

#[tokio::test]
async fn pods_bound_to_a_node_run_end_and_go() {
    let cluster = Cluster::start().await;
    let running = cluster.simulate(options(2)).await;
    cluster.create("web", "sim-0001", "Always").await;
    cluster.create("task", "sim-0000", "Never").await;
    cluster.create("elsewhere", "machine", "Always").await;
    let web = cluster.until_phase("web", "Running").await;
    let status = web.status.unwrap();
    assert_eq!(status.host_ip.as_deref(), Some("198.18.0.2"));
    assert!(status.pod_ip.unwrap().starts_with("100.64."));
    cluster.until_phase("task", "Succeeded").await;
    cluster.pods().delete("web", &DeleteParams::default()).await.unwrap();
    cluster.until("the pod goes", "web", |pod| pod.is_none()).await;
    let elsewhere = cluster.pods().get("elsewhere").await.unwrap();
    assert_eq!(elsewhere.status.unwrap().pod_ip, None, "another node's pods are nobody's here");
    let summary = running.end().await;
    assert_eq!((summary.pods.begun, summary.pods.succeeded), (2, 1), "{summary:?}");
    assert!(cluster.nodes().list(&ListParams::default()).await.unwrap().items.is_empty());
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    assert!(leases.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_node_that_is_down_does_nothing_for_its_pods_until_it_is_back() {
    let cluster = Cluster::start().await;
    let mut all_down = options(2);
    all_down.nodes.annotations.insert("simulate.keelson.dev/down".into(), "true".into());
    let running = cluster.simulate(all_down).await;
    let back = Patch::Merge(json!({"metadata": {"annotations": {"simulate.keelson.dev/down": null}}}));
    cluster.create("silent", "sim-0000", "Always").await;
    cluster.create("other", "sim-0001", "Always").await;
    cluster.nodes().patch("sim-0001", &PatchParams::default(), &back).await.unwrap();
    cluster.until_phase("other", "Running").await;
    let status = cluster.pods().get("silent").await.unwrap().status.unwrap();
    assert_eq!((status.phase.as_deref(), status.pod_ip), (Some("Pending"), None));
    cluster.nodes().patch("sim-0000", &PatchParams::default(), &back).await.unwrap();
    cluster.until_phase("silent", "Running").await;
    running.end().await;
}

#[tokio::test]
async fn somebody_elses_node_ends_the_run_and_stays() {
    let cluster = Cluster::start().await;
    let foreign: Node = serde_json::from_value(json!({"metadata": {"name": "sim-0001"}})).unwrap();
    cluster.nodes().create(&PostParams::default(), &foreign).await.unwrap();
    let running = cluster.simulate(options(2)).await;
    let error = running.done.await.unwrap().unwrap_err();
    assert!(matches!(&error, SimulateError::ForeignNode { node } if node == "sim-0001"), "{error}");
    let left: Vec<String> =
        cluster.nodes().list(&ListParams::default()).await.unwrap().items.iter().map(|node| node.name_any()).collect();
    assert_eq!(left, ["sim-0001"]);
}

#[tokio::test]
async fn pods_and_nodes_of_an_earlier_run_go_on() {
    let cluster = Cluster::start().await;
    let kept = Options { keep: true, ..options(3) };
    let running = cluster.simulate(kept).await;
    cluster.create("web", "sim-0001", "Always").await;
    let before = cluster.until_phase("web", "Running").await;
    running.end().await;
    cluster.pods().delete("web", &DeleteParams::default()).await.unwrap();
    cluster.create("later", "sim-0001", "Always").await;
    let running = cluster.simulate(options(2)).await;
    cluster.until("what was deleted meanwhile goes", "web", |pod| pod.is_none()).await;
    cluster.until_phase("later", "Running").await;
    assert!(cluster.nodes().get_opt("sim-0002").await.unwrap().is_none(), "the surplus goes");
    assert!(before.status.unwrap().pod_ip.is_some());
    running.end().await;
}

#[tokio::test]
async fn what_is_written_into_a_nodes_capacity_is_for_pods() {
    let cluster = Cluster::start().await;
    let running = cluster.simulate(options(1)).await;
    let until = async |wanted: Option<&str>| loop {
        let status = cluster.nodes().get("sim-0000").await.unwrap().status.unwrap();
        let found = status.allocatable.unwrap().get("example.com/dongle").map(|amount| amount.0.clone());
        if found.as_deref() == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for told in [Some("4"), None] {
        let patch = Patch::Merge(json!({"status": {"capacity": {"example.com/dongle": told}}}));
        cluster.nodes().patch_status("sim-0000", &PatchParams::default(), &patch).await.unwrap();
        tokio::time::timeout(PATIENCE, until(told)).await.unwrap();
    }
    running.end().await;
}
