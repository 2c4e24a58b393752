//! A node with an API server of its own that leaves nothing behind.

use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc, sync::OnceLock, time::Duration};

use apiserver::{ApiServer, ApiServerConfig, User};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use identity::TokenSigner;
use k8s_openapi::api::{
    core::v1::{Event, Node as ApiNode, Pod},
    node::v1::RuntimeClass,
};
use kube::{Api, Client, api::DynamicObject, api::PostParams, runtime::watcher};
use network::{Network, NetworkConfig, PodNetwork, Slot, SlotClaim};
use node::{Node, NodeConfig, NodeServer};
use reconcile::Informers;
use runtime::{Runtime, api::RuntimeConfig};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};
use tokio_util::sync::CancellationToken;

use crate::registry;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Where all instances of a machine agree on their slots.
const RUN_ROOT: &str = "/run/keelson";
const NODE: &str = "node-a";

/// Whether the tests can run here; says why not.
pub(crate) fn possible() -> bool {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return false;
    }
    if probe().is_none() {
        println!("skipped: needs a C compiler with a static C library");
        return false;
    }
    true
}

/// The runtime tests' probe program, compiled once.
fn probe() -> Option<&'static [u8]> {
    static PROBE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let build = || {
        let directory = tempfile::tempdir().unwrap();
        let (source, program) = (directory.path().join("probe.c"), directory.path().join("probe"));
        std::fs::write(&source, include_str!("../../../runtime/tests/containers/probe.c")).unwrap();
        let status = Command::new("cc").arg("-static").arg("-o").arg(&program).arg(&source).status();
        status.is_ok_and(|status| status.success()).then(|| std::fs::read(&program).unwrap())
    };
    PROBE.get_or_init(build).as_deref()
}

/// What runs between two restarts.
struct Running {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    server: NodeServer,
    runtime: Arc<Runtime>,
}

pub(crate) struct Cluster {
    directory: tempfile::TempDir,
    _claim: SlotClaim,
    network: Arc<Network>,
    slot: Slot,
    config: RuntimeConfig,
    client: Client,
    running: Option<Running>,
    _registry: JoinSet<()>,
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let signer = TokenSigner::load_or_create(&root.join("sa.key"), "https://kubernetes.default.svc").unwrap();
        let store = store::Store::open(root.join("store"), store::Options::default()).unwrap();
        let api = ApiServer::new(store, ApiServerConfig::default(), Arc::new(signer));
        api.bootstrap().await.unwrap();
        let client = api.client(User::new("admin", &["system:masters"]));
        let claim = Slot::claim(Path::new(RUN_ROOT), &root.join("network")).unwrap();
        let slot = claim.slot();
        let network = Network::up(NetworkConfig { slot, state_dir: root.join("network") }).unwrap();
        let mut tasks = JoinSet::new();
        let mirror = registry::serve("probe", probe().unwrap(), &mut tasks).await;
        let name = format!("keelson-node-test-{}", slot.bridge());
        let config = RuntimeConfig {
            state_dir: root.join("runtime"),
            run_dir: root.join("run"),
            cgroup_root: name.clone(),
            instance: name,
            shim_executable: env!("CARGO_BIN_EXE_node-shim").into(),
            mirror: Some(mirror),
        };
        let mut cluster =
            Self { directory, _claim: claim, network, slot, config, client, running: None, _registry: tasks };
        cluster.start().await;
        cluster.create(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
        cluster
    }

    async fn start(&mut self) {
        let runtime = Runtime::open(self.config.clone()).await.unwrap();
        let informers = Informers::new(self.client.clone());
        let config = NodeConfig {
            name: NODE.to_owned(),
            root_dir: self.directory.path().join("node"),
            node_ip: self.slot.bridge_ip().into(),
            cluster_dns: self.slot.dns_ip().into(),
            cluster_domain: "cluster.local".to_owned(),
            labels: BTreeMap::new(),
            pods_max: 10,
        };
        let stop = CancellationToken::new();
        let network: Arc<dyn PodNetwork> = self.network.clone();
        let node = Node::new(config, informers.clone(), runtime.clone(), network, stop.clone()).unwrap();
        let server = node.server();
        let mut tasks = JoinSet::new();
        tasks.spawn(node.run());
        let informers_stop = stop.clone();
        tasks.spawn(async move { informers.run(informers_stop).await.unwrap() });
        self.running = Some(Running { stop, tasks, server, runtime });
    }

    /// Ends the node as a stop of Keelson would, and starts it again over what the runtime holds.
    pub(crate) async fn restart(&mut self) {
        self.halt().await;
        self.start().await;
    }

    async fn halt(&mut self) {
        let Some(Running { stop, mut tasks, server, runtime }) = self.running.take() else { return };
        stop.cancel();
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        drop(server);
        // A task that hears a shim holds the runtime for a moment at a time.
        while Arc::strong_count(&runtime) > 1 {
            tokio::task::yield_now().await;
        }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) async fn create(&self, object: Value) {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let types = object.types.clone().unwrap();
        let resource = kube::api::ApiResource::from_gvk(&kube::api::GroupVersionKind::gvk("", "v1", &types.kind));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), "default", &resource);
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    /// Creates a pod bound to the node.
    pub(crate) async fn pod(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = NODE.into();
        spec["automountServiceAccountToken"] = false.into();
        for container in spec["containers"].as_array_mut().unwrap() {
            container["imagePullPolicy"] = "IfNotPresent".into();
        }
        self.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})).await;
    }

    /// Creates a RuntimeClass.
    pub(crate) async fn runtime_class(&self, name: &str, handler: &str) {
        let class = serde_json::from_value(json!({"metadata": {"name": name}, "handler": handler})).unwrap();
        Api::<RuntimeClass>::all(self.client.clone()).create(&PostParams::default(), &class).await.unwrap();
    }

    /// Waits until an event about a pod says something.
    pub(crate) async fn until_event(&self, pod: &str, reason: &str, wanted: &str) {
        let events = watcher(Api::<Event>::namespaced(self.client.clone(), "default"), Default::default());
        let told = |event: &Event| {
            event.involved_object.name.as_deref() == Some(pod)
                && event.reason.as_deref() == Some(reason)
                && event.message.as_deref().is_some_and(|message| message.contains(wanted))
        };
        let wait = async {
            let mut events = Box::pin(events);
            while let Some(seen) = events.next().await {
                if let Ok(watcher::Event::Apply(event) | watcher::Event::InitApply(event)) = seen
                    && told(&event)
                {
                    return;
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "no event {reason} about {pod} says {wanted:?}");
    }

    /// Gives a pod a label.
    pub(crate) async fn label(&self, name: &str, label: &str, value: &str) {
        let patch = kube::api::Patch::Merge(json!({"metadata": {"labels": {label: value}}}));
        self.pods().patch(name, &kube::api::PatchParams::default(), &patch).await.unwrap();
    }

    /// Adds an ephemeral container to a pod, about one of its containers or about none.
    pub(crate) async fn debug(&self, pod: &str, name: &str, mut container: Value, target: Option<&str>) {
        container["name"] = name.into();
        if let Some(target) = target {
            container["targetContainerName"] = target.into();
        }
        let patch = kube::api::Patch::Strategic(json!({"spec": {"ephemeralContainers": [container]}}));
        let parameters = kube::api::PatchParams::default();
        self.pods().patch_ephemeral_containers(pod, &parameters, &patch).await.unwrap();
    }

    /// Waits until a file in a container says something.
    pub(crate) async fn until_file(&self, pod: &str, container: &str, path: &str, wanted: &str) {
        let wait = async {
            while self.exec(pod, container, &["/probe", "cat", path]).await.0 != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{path} of {pod} never says {wanted:?}");
    }

    /// Waits until the pod looks as wanted.
    pub(crate) async fn until(&self, name: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let mut last = None;
        let wait = async {
            let mut changes = Box::pin(watcher::watch_object(self.pods(), name));
            while let Some(seen) = changes.next().await {
                if let Ok(Some(pod)) = seen {
                    if wanted(&pod) {
                        return pod;
                    }
                    last = Some(pod);
                }
            }
            panic!("the watch ended");
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(pod) => pod,
            Err(_) => panic!("{name}: {:#?}", last.and_then(|pod| pod.status)),
        }
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.pods().delete(name, &kube::api::DeleteParams::default()).await.unwrap();
    }

    pub(crate) async fn until_gone(&self, name: &str) {
        let wait = async {
            let mut changes = Box::pin(watcher::watch_object(self.pods(), name));
            while let Some(seen) = changes.next().await {
                if let Ok(None) = seen {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }

    /// Waits until the node has registered and renewed its lease.
    pub(crate) async fn until_registered(&self) {
        let nodes: Api<ApiNode> = Api::all(self.client.clone());
        let wait = async {
            let mut changes = Box::pin(watcher::watch_object(nodes, NODE));
            while let Some(seen) = changes.next().await {
                let conditions = seen.ok().flatten().and_then(|node| node.status?.conditions).unwrap_or_default();
                if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }

    /// Waits until nothing of any pod is left on the node.
    pub(crate) async fn until_clean(&self) {
        let root = self.directory.path().join("node");
        let wait = async {
            loop {
                let entries = |name: &str| std::fs::read_dir(root.join(name)).unwrap().count();
                let left = self.running().runtime.sandboxes().len() + self.network.attached().len();
                if left + entries("pods") + entries("logs") == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = root.to_str().unwrap();
        assert!(!mounts.contains(own), "mounts are left in {own}");
    }

    /// Everything a container has printed.
    pub(crate) async fn log(&self, pod: &str, container: &str) -> String {
        let body = http_body_util::Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
        let request = http::Request::get(format!("/containerLogs/default/{pod}/{container}")).body(body).unwrap();
        let answer = self.running().server.call(request).await;
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    /// Runs a command over a WebSocket; returns standard output and the exit code.
    pub(crate) async fn exec(&self, pod: &str, container: &str, command: &[&str]) -> (String, Option<i32>) {
        let words: String = command.iter().map(|word| format!("&command={}", word.replace(',', "%2C"))).collect();
        self.session(&format!("/exec/default/{pod}/{container}?output=1{words}"), None).await
    }

    /// Attaches to a container over a WebSocket, says something, and closes standard input.
    pub(crate) async fn attach(&self, pod: &str, container: &str, input: &str) -> (String, Option<i32>) {
        self.session(&format!("/attach/default/{pod}/{container}?input=1&output=1"), Some(input)).await
    }

    async fn session(&self, path: &str, input: Option<&str>) -> (String, Option<i32>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.running().server.clone();
        let serving = async {
            let (socket, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| {
                let server = server.clone();
                async move {
                    let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                    Ok::<_, std::convert::Infallible>(server.call(request).await)
                }
            });
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .with_upgrades()
                .await
                .unwrap();
        };
        let talking = async {
            let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
            request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
            let socket = TcpStream::connect(address).await.unwrap();
            let (mut socket, _) = tokio_tungstenite::client_async(request, socket).await.unwrap();
            if let Some(input) = input {
                let channel_0 = [b"\0", input.as_bytes()].concat();
                socket.send(Message::Binary(channel_0.into())).await.unwrap();
                socket.send(Message::Binary(Bytes::from_static(&[255, 0]))).await.unwrap();
            }
            let (mut output, mut code) = (String::new(), None);
            while let Some(Ok(message)) = socket.next().await {
                let Message::Binary(bytes) = message else { continue };
                match bytes[0] {
                    1 => output.push_str(std::str::from_utf8(&bytes[1..]).unwrap()),
                    3 => code = Some(exit_code(&serde_json::from_slice(&bytes[1..]).unwrap())),
                    channel => panic!("unexpected channel {channel}"),
                }
            }
            (output, code)
        };
        let (_, result) = tokio::time::timeout(PATIENCE, async { tokio::join!(serving, talking) }).await.unwrap();
        result
    }

    /// What a server says to whoever connects.
    pub(crate) async fn dial(&self, address: &str) -> String {
        let mut text = String::new();
        let mut socket = TcpStream::connect(address).await.unwrap();
        tokio::time::timeout(PATIENCE, socket.read_to_string(&mut text)).await.unwrap().unwrap();
        text
    }
}

fn exit_code(status: &Value) -> i32 {
    match status["status"].as_str() {
        Some("Success") => 0,
        _ => status["details"]["causes"][0]["message"].as_str().unwrap().parse().unwrap(),
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
        }
        let down = runtime::down(&self.config.state_dir, &self.config.run_dir, &self.config.cgroup_root);
        let network = network::down(&self.directory.path().join("network"));
        // Volumes in memory of pods that a failed test left running.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
            if Path::new(mount).starts_with(self.directory.path()) {
                let _ = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH);
            }
        }
        if !std::thread::panicking() {
            down.unwrap();
            network.unwrap();
        }
    }
}
