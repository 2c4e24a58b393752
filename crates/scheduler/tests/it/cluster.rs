//! An API server with a scheduler on it, nodes without machines, and somebody who ends pods as a kubelet would.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, ApiServerConfig, User};
use identity::TokenSigner;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use kube::{Client, Resource, ResourceExt};
use reconcile::{Informer, Informers};
use scheduler::{Configuration, Scheduler};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    /// May do everything.
    pub(crate) client: Client,
    pub(crate) pods: Informer<Pod>,
    pub(crate) events: Informer<Event>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Cluster {
    /// With the standard configuration.
    pub(crate) async fn start() -> Self {
        Self::configured(&Configuration::default()).await
    }

    pub(crate) async fn configured(configuration: &Configuration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = store::Store::open(directory.path().join("store"), store::Options::default()).unwrap();
        let signer = TokenSigner::load_or_create(&directory.path().join("sa.key"), "https://test").unwrap();
        let server = ApiServer::new(store, ApiServerConfig::default(), Arc::new(signer));
        server.bootstrap().await.unwrap();
        let client = server.client(User::new("test", &["system:masters"]));
        let stop = CancellationToken::new();
        // What the scheduler reads and writes, it does as upstream's, with upstream's roles.
        let user = User::new("system:kube-scheduler", &["system:authenticated"]);
        let informers = Informers::new(server.client(user.clone()));
        let seeing = Informers::new(client.clone());
        let (pods, events) = (seeing.of::<Pod>(), seeing.of::<Event>());
        let scheduler = Scheduler::new(&informers, server.client(user), configuration, 1);
        let mut tasks = Vec::new();
        for informers in [informers, seeing] {
            let stop = stop.clone();
            tasks.push(tokio::spawn(async move { informers.run(stop).await.unwrap() }));
        }
        let until = stop.clone();
        tasks.push(tokio::spawn(async move { scheduler.run(until).await.unwrap() }));
        tasks.push(tokio::spawn(end_pods(pods.clone(), client.clone(), stop.clone())));
        let cluster = Self { client, pods, events, stop, tasks, _directory: directory };
        for namespace in ["default", "kube-system"] {
            cluster.service_account(namespace).await;
        }
        cluster
    }

    async fn service_account(&self, namespace: &str) {
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        accounts.create(&PostParams::default(), &account).await.unwrap();
    }

    /// A further namespace, in which pods can be created.
    pub(crate) async fn namespace(&self, name: &str) {
        self.global::<Namespace>(json!({"metadata": {"name": name}})).await;
        self.service_account(name).await;
    }

    /// A node of 4 CPUs, 8 GiB and 110 pods that takes pods; `resources` adds to that.
    pub(crate) async fn node(&self, name: &str, labels: Value, resources: Value) {
        let mut allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        for (resource, amount) in resources.as_object().unwrap() {
            allocatable[resource] = amount.clone();
        }
        let mut all = json!({"kubernetes.io/hostname": name});
        for (label, value) in labels.as_object().unwrap() {
            all[label] = value.clone();
        }
        self.global::<Node>(json!({"metadata": {"name": name, "labels": all}})).await;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let status = json!({"status": {"allocatable": allocatable, "capacity": allocatable}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        // in a whole cluster a controller takes the taint of a new node off once it is ready
        let ready = json!({"spec": {"taints": null}});
        nodes.patch(name, &PatchParams::default(), &Patch::Merge(ready)).await.unwrap();
    }

    pub(crate) async fn global<K>(&self, value: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
    {
        let object: K = serde_json::from_value(value).unwrap();
        Api::<K>::all(self.client.clone()).create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn create<K>(&self, value: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
    {
        let object: K = serde_json::from_value(value).unwrap();
        let namespace = object.meta().namespace.clone().unwrap_or_else(|| "default".into());
        Api::<K>::namespaced(self.client.clone(), &namespace).create(&PostParams::default(), &object).await.unwrap()
    }

    /// A pod of one container with these requests (and as limits), and this spec besides.
    pub(crate) async fn pod(&self, name: &str, requests: Value, spec: Value) -> Pod {
        let resources = json!({"requests": requests, "limits": requests});
        let mut pod = json!({"metadata": {"name": name}, "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "web:1", "resources": resources}]}});
        for (key, value) in spec.as_object().unwrap() {
            if key == "metadata" {
                for (key, value) in value.as_object().unwrap() {
                    pod["metadata"][key] = value.clone();
                }
            } else {
                pod["spec"][key] = value.clone();
            }
        }
        self.create(pod).await
    }

    pub(crate) fn api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// The pod once it is as `wanted`.
    pub(crate) async fn until(&self, name: &str, wanted: impl Fn(&Pod) -> bool) -> Arc<Pod> {
        let mut changes = self.pods.subscribe();
        let found = async {
            loop {
                let pod = self.pods.list().into_iter().find(|pod| pod.name_any() == name && wanted(pod));
                match pod {
                    Some(pod) => return pod,
                    None => changes.next().await.unwrap(),
                };
            }
        };
        let seen = || self.pods.list().into_iter().find(|pod| pod.name_any() == name);
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{name} is {:#?}", seen()))
    }

    /// Waits until the pod is gone.
    pub(crate) async fn until_gone(&self, name: &str) {
        let mut changes = self.pods.subscribe();
        let gone = async {
            while self.pods.list().iter().any(|pod| pod.name_any() == name) {
                changes.next().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap_or_else(|_| panic!("{name} is still there"));
    }

    /// The node the pod gets.
    pub(crate) async fn bound(&self, name: &str) -> String {
        let pod = self.until(name, |pod| node_of(pod).is_some()).await;
        node_of(&pod).unwrap().to_owned()
    }

    /// The reason and message for which the pod has no node.
    pub(crate) async fn unscheduled(&self, name: &str) -> (String, String) {
        let condition = |pod: &Pod| {
            let conditions = pod.status.as_ref()?.conditions.clone()?;
            conditions.into_iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")
        };
        let pod = self.until(name, |pod| condition(pod).is_some()).await;
        assert_eq!(node_of(&pod), None);
        let condition = condition(&pod).unwrap();
        (condition.reason.unwrap_or_default(), condition.message.unwrap_or_default())
    }

    /// The message of the event of that reason about the pod.
    pub(crate) async fn event(&self, reason: &str, pod: &str) -> String {
        let mut changes = self.events.subscribe();
        let about = |event: &Event| {
            event.reason.as_deref() == Some(reason) && event.involved_object.name.as_deref() == Some(pod)
        };
        let found = async {
            loop {
                if let Some(event) = self.events.list().into_iter().find(|event| about(event)) {
                    return event.message.clone().unwrap_or_default();
                }
                changes.next().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no event {reason} about {pod}"))
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Ends pods that are asked to go, as the node's agent would.
async fn end_pods(pods: Informer<Pod>, client: Client, stop: CancellationToken) {
    let mut changes = pods.subscribe();
    loop {
        let change = tokio::select! {
            () = stop.cancelled() => return,
            change = changes.next() => change,
        };
        let Some(reconcile::Change::Applied { new: pod, .. }) = change else { continue };
        if pod.metadata.deletion_timestamp.is_some() && node_of(&pod).is_some() {
            let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
            // It may be gone already.
            let _ = api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
        }
    }
}
