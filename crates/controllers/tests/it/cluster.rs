//! A cluster in this process.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, ApiServerConfig, User};
use controllers::{ControllersConfig, Keys};
use identity::{Authority, TokenSigner};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use reconcile::{Change, Informers, Key, Object};
use scheduler::Scheduler;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::Store;
use tempfile::TempDir;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes, even on a busy machine; what waits is told when it is over.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    server: Arc<ApiServer>,
    config: ControllersConfig,
    controllers: AbortHandle,
    stop: CancellationToken,
    running: JoinSet<()>,
    _directory: TempDir,
}

impl Cluster {
    /// A cluster with nodes `node-0`…, all controllers and the scheduler.
    pub(crate) async fn start(nodes: usize) -> Self {
        Self::start_with(nodes, ControllersConfig::new("the ca")).await
    }

    pub(crate) async fn start_with(nodes: usize, mut config: ControllersConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store"), store::Options::default()).unwrap();
        let signer = TokenSigner::load_or_create(&directory.path().join("sa.key"), "https://test").unwrap();
        let signer = Arc::new(signer);
        let authority = Authority::load_or_create(directory.path(), jiff::Timestamp::now()).unwrap();
        config.keys = Some(Keys { authority: Arc::new(authority), tokens: signer.clone() });
        let server = ApiServer::new(store, ApiServerConfig::default(), signer);
        server.bootstrap().await.unwrap();
        let client = server.client(User::new("test", &["system:masters"]));
        let informers = Informers::new(client.clone());
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        let (run, token) = (informers.clone(), stop.clone());
        running.spawn(async move { run.run(token).await.unwrap() });
        let controllers = running.spawn(run_controllers(&server, &informers, &config, &stop));
        let work =
            Scheduler::new(&informers, client.clone(), &scheduler::Configuration::default(), 7).run(stop.clone());
        running.spawn(async move { work.await.unwrap() });
        let cluster = Self { client, informers, server, config, controllers, stop, running, _directory: directory };
        for at in 0..nodes {
            cluster.add_node(&format!("node-{at}")).await;
        }
        // Pods are not admitted before their service account is there.
        let in_default = |account: &Arc<ServiceAccount>| account.namespace().as_deref() == Some("default");
        cluster.until::<ServiceAccount>("a default account", |accounts| accounts.iter().any(in_default)).await;
        cluster.play_kubelet()
    }

    /// Ends the controllers wherever they are, and starts new ones that know nothing of what these did.
    pub(crate) fn crash_controllers(&mut self) {
        self.controllers.abort();
        let informers = Informers::new(self.client.clone());
        let (run, token) = (informers.clone(), self.stop.clone());
        let controllers = run_controllers(&self.server, &informers, &self.config, &self.stop);
        self.controllers = self.running.spawn(async move {
            tokio::select! {
                () = controllers => {}
                result = run.run(token) => result.unwrap(),
            }
        });
    }

    pub(crate) async fn add_node(&self, name: &str) {
        let node: Node = object(json!({"metadata": {"name": name}}));
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({"status": {
            "allocatable": {"cpu": "16", "memory": "32Gi", "pods": "110"},
            "capacity": {"cpu": "16", "memory": "32Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready",
                "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        // a new node is tainted until a controller has seen that it is ready
        let open = |node: &Node| node.spec.as_ref().is_none_or(|spec| spec.taints.as_ref().is_none_or(Vec::is_empty));
        self.until_one::<Node>(name, "takes pods", open).await;
    }

    /// Bound pods run and become ready unless their image is `broken`; those whose image is `exit:N` end at once with that
    /// code, those of `odd-fails` with success unless their completion index is odd, of `zero-ends` only the one with index 0; deleted ones
    /// end. Those of `restarts` end with success at their second try.
    fn play_kubelet(mut self) -> Self {
        let mut changes = self.informers.of::<Pod>().subscribe();
        let client = self.client.clone();
        self.running.spawn(async move {
            let mut address = 0u32;
            while let Some(change) = changes.next().await {
                let Change::Applied { new: pod, .. } = change else { continue };
                let spec = pod.spec.as_ref().unwrap();
                let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
                if spec.node_name.is_none() {
                    continue;
                }
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                let over = matches!(phase, Some("Succeeded" | "Failed"));
                if pod.metadata.deletion_timestamp.is_some() {
                    if !over {
                        let status = json!({"status": {"phase": "Failed"}});
                        let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await;
                    }
                    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                    // Somebody else may have removed it.
                    let _ = api.delete(&pod.name_any(), &now).await;
                    continue;
                }
                let started = pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some());
                // a pod that somebody declared over does not begin
                if started || over {
                    continue;
                }
                address += 1;
                let ip = format!("10.1.{}.{}", address / 250, address % 250 + 1);
                if let Some(status) = ended(&pod, &ip) {
                    let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await;
                    continue;
                }
                let ready = if spec.containers[0].image.as_deref() == Some("broken") { "False" } else { "True" };
                // What somebody else has said of the pod meanwhile stands.
                let seen = json!({"resourceVersion": pod.resource_version()});
                let status = json!({"metadata": seen, "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": jiff::Timestamp::now()}]}});
                let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await;
            }
        });
        self
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) async fn create<K>(&self, value: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned + serde::Serialize,
    {
        self.api::<K>().create(&PostParams::default(), &object(value)).await.unwrap()
    }

    /// Waits until the objects of a kind are as wished; looks again at every change.
    pub(crate) async fn until<K>(&self, wish: &str, is: impl Fn(&[Arc<K>]) -> bool) -> Vec<Arc<K>>
    where
        K: Object + Resource<DynamicType = ()>,
    {
        let informer = self.informers.of::<K>();
        let wait = async {
            informer.synced().await;
            let mut changes = informer.subscribe();
            loop {
                let objects = informer.list();
                if is(&objects) {
                    return objects;
                }
                changes.next().await.expect("informers run");
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(objects) => objects,
            Err(_) => panic!("{wish}; there are {:#?}", informer.list()),
        }
    }

    /// Waits until one object is as wished.
    pub(crate) async fn until_one<K>(&self, name: &str, wish: &str, is: impl Fn(&K) -> bool) -> Arc<K>
    where
        K: Object + Resource<DynamicType = ()>,
    {
        let find = |objects: &[Arc<K>]| objects.iter().find(|object| object.name_any() == name).cloned();
        let objects = self.until(wish, |objects| find(objects).is_some_and(|object| is(&object))).await;
        find(&objects).unwrap()
    }

    pub(crate) fn keys<K: Object + Resource<DynamicType = ()>>(&self) -> Vec<Key> {
        self.informers.of::<K>().list().iter().map(|object| Key::of(object.as_ref())).collect()
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            assert!(ended.as_ref().err().is_none_or(JoinError::is_cancelled), "{ended:?}");
        }
    }
}

/// The status of a pod that ends at once, if its image says so.
fn ended(pod: &Pod, ip: &str) -> Option<Value> {
    let image = pod.spec.as_ref()?.containers[0].image.as_deref()?;
    let index = pod.annotations().get("batch.kubernetes.io/job-completion-index");
    let code: i32 = match image.strip_prefix("exit:") {
        Some(code) => code.parse().unwrap(),
        None if image == "restarts" => 0,
        None if image == "odd-fails" => index?.parse::<i32>().unwrap() % 2,
        None if image == "zero-ends" && index?.as_str() == "0" => 0,
        None => return None,
    };
    let now = jiff::Timestamp::now();
    Some(
        json!({"status": {"phase": if code == 0 { "Succeeded" } else { "Failed" }, "podIP": ip, "podIPs": [{"ip": ip}],
        "containerStatuses": [{"name": "c", "image": image, "imageID": "", "ready": false,
            "restartCount": i32::from(image == "restarts"), "state": {"terminated": {"exitCode": code, "startedAt": now, "finishedAt": now}}}]}}),
    )
}

fn run_controllers(
    server: &Arc<ApiServer>,
    informers: &Informers,
    config: &ControllersConfig,
    stop: &CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let server = server.clone();
    let clients = move |account: &str| server.client(User::service_account_of("kube-system", account));
    let work = controllers::run(informers.clone(), clients, config.clone(), stop.clone());
    async move { work.await.unwrap() }
}

pub(crate) fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A deployment of `image`.
pub(crate) fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]}}}})
}
