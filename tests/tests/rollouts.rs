//! `kill -9` in the middle of rollouts and of a drain: what a watch saw keeps to the rules at every moment, and what is there
//! in the end is exactly what was asked for.

use std::{collections::BTreeSet, fmt::Debug};

use futures::future::join_all;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    core::v1::{Node, Pod},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt as _,
    api::{EvictParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use system_tests::{
    Instance, Options, PATIENCE,
    clients::Servers,
    stage::{Pods, Stage, image, is_live, is_of, is_ready, node},
};

/// Pod changes between two kills while pods are made, so that they meet different moments; five pods have fifteen.
const MAKING: [usize; 2] = [2, 9];
/// The same while they are replaced.
const REPLACING: [usize; 3] = [2, 9, 5];

/// A server that is killed, and nodes that are not.
struct Scene {
    instance: Instance,
    servers: Servers,
    stage: Stage,
}

impl Scene {
    async fn start(nodes: usize) -> Self {
        let instance = Instance::start(Options::default());
        let servers = Servers::default();
        servers.set_up(0, &instance).await;
        let stage = Stage::start(&servers, nodes).await;
        Self { instance, servers, stage }
    }

    async fn kill(&mut self) {
        self.servers.set_down(0);
        tokio::task::block_in_place(|| {
            self.instance.kill();
            self.instance.resume();
        });
        self.servers.set_up(0, &self.instance).await;
    }

    async fn kill_at_pod_changes(&mut self, strides: &[usize]) {
        for &stride in strides {
            self.stage.progress(stride).await;
            self.kill().await;
        }
    }

    async fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::default_namespaced(self.servers.client(0).await)
    }

    async fn create<K>(&self, object: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
        K: Clone + Debug + serde::de::DeserializeOwned + serde::Serialize,
    {
        let object: K = serde_json::from_value(object).expect("an object");
        self.api::<K>().await.create(&PostParams::default(), &object).await.expect("it is created");
    }

    /// Gives the pods of a template their second image; returns the moment before.
    async fn update<K>(&self, name: &str) -> usize
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
        K: Clone + Debug + serde::de::DeserializeOwned,
    {
        let before = self.stage.now();
        let template = json!({"spec": {"containers": [{"name": "c", "image": "example/app:2"}]}});
        let patch = Patch::Strategic(json!({"spec": {"template": template}}));
        self.api::<K>().await.patch(name, &PatchParams::default(), &patch).await.expect("it is updated");
        before
    }

    async fn count<K>(&self) -> usize
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
        K: Clone + Debug + serde::de::DeserializeOwned,
    {
        self.api::<K>().await.list(&ListParams::default()).await.expect("a list").items.len()
    }
}

/// A workload of `app=NAME`; `spec` is what is special about it.
fn workload(name: &str, mut spec: Value) -> Value {
    let labels = json!({"app": name});
    spec["selector"] = json!({"matchLabels": labels});
    spec["template"] = json!({"metadata": {"labels": labels}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "example/app:1"}]}});
    json!({"metadata": {"name": name}, "spec": spec})
}

/// Whether these are exactly so many pods of an app, all ready with this image.
fn all_run(pods: &Pods, app: &str, count: usize, wanted: &str) -> bool {
    let of_app: Vec<_> = pods.values().filter(|pod| is_of(pod, app)).collect();
    of_app.len() == count && of_app.iter().all(|pod| is_ready(pod) && image(pod) == wanted)
}

fn ready(pods: &Pods, app: &str) -> usize {
    pods.values().filter(|pod| is_of(pod, app) && is_ready(pod)).count()
}

fn live(pods: &Pods, app: &str) -> usize {
    pods.values().filter(|pod| is_of(pod, app) && is_live(pod)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_keeps_its_bounds_although_keelson_is_killed() {
    let (replicas, surge, unavailable) = (10, 2, 1);
    let mut scene = Scene::start(3).await;
    let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
    scene.create::<Deployment>(workload("web", json!({"replicas": replicas, "strategy": strategy}))).await;
    scene.kill_at_pod_changes(&MAKING).await;
    scene.stage.until("all run", |pods| all_run(pods, "web", replicas, "example/app:1")).await;
    assert_eq!(scene.stage.made(0, "web").len(), replicas, "no pod was made twice");

    let updated = scene.update::<Deployment>("web").await;
    scene.kill_at_pod_changes(&REPLACING).await;
    scene.stage.until("all are updated", |pods| all_run(pods, "web", replicas, "example/app:2")).await;
    let complete = |deployment: &Value| {
        let status = &deployment["status"];
        status["observedGeneration"] == 2
            && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|key| status[key] == replicas)
    };
    scene.stage.until_status::<Deployment>("web", complete).await;
    scene.stage.replay(|at, event, pods| {
        let seen = || format!("after {} of {at}", event.pod.name_any());
        assert!(live(pods, "web") <= replicas + surge, "{} pods {}", live(pods, "web"), seen());
        if at >= updated {
            assert!(ready(pods, "web") >= replicas - unavailable, "{} ready {}", ready(pods, "web"), seen());
        }
    });
    assert_eq!(scene.stage.made(updated, "web").len(), replicas, "each was replaced once");
    scene.stage.nothing_ran_twice();
    let sets = scene.api::<ReplicaSet>().await.list(&ListParams::default()).await.unwrap().items;
    let sizes: BTreeSet<_> = sets.iter().map(|set| set.spec.as_ref().unwrap().replicas).collect();
    assert_eq!((sets.len(), sizes), (2, BTreeSet::from([Some(0), Some(replicas as i32)])));
    let current = sets.iter().find(|set| set.spec.as_ref().unwrap().replicas != Some(0)).unwrap().uid();
    let owned = |pod: &Pod| pod.owner_references().iter().any(|owner| Some(&owner.uid) == current.as_ref());
    let pods = scene.api::<Pod>().await.list(&ListParams::default()).await.unwrap().items;
    assert!(pods.len() == replicas && pods.iter().all(owned), "nobody's pods are left");
    scene.stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_is_updated_in_order_although_keelson_is_killed() {
    let replicas = 5;
    let mut scene = Scene::start(3).await;
    scene.create::<StatefulSet>(workload("db", json!({"replicas": replicas, "serviceName": "db"}))).await;
    scene.kill_at_pod_changes(&MAKING).await;
    scene.stage.until("all run", |pods| all_run(pods, "db", replicas, "example/app:1")).await;
    let names = |range: &mut dyn Iterator<Item = usize>| range.map(|n| format!("db-{n}")).collect::<Vec<_>>();
    assert_eq!(scene.stage.made(0, "db"), names(&mut (0..replicas)), "each once, in order");

    let updated = scene.update::<StatefulSet>("db").await;
    scene.kill_at_pod_changes(&REPLACING).await;
    scene.stage.until("all are updated", |pods| all_run(pods, "db", replicas, "example/app:2")).await;
    assert_eq!(scene.stage.made(updated, "db"), names(&mut (0..replicas).rev()), "each once, from the last on");
    scene.stage.replay(|at, event, pods| {
        let name = event.pod.name_any();
        if at >= updated {
            assert!(ready(pods, "db") >= replicas - 1, "{} ready after {name}", ready(pods, "db"));
        }
    });
    scene.stage.nothing_ran_twice();
    let complete = |set: &Value| {
        let status = &set["status"];
        status["currentRevision"] == status["updateRevision"]
            && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|key| status[key] == replicas)
    };
    scene.stage.until_status::<StatefulSet>("db", complete).await;
    assert_eq!(scene.count::<ControllerRevision>().await, 2);
    scene.stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_is_updated_node_by_node_although_keelson_is_killed() {
    let nodes = 6;
    let mut scene = Scene::start(nodes).await;
    scene.create::<DaemonSet>(workload("agent", json!({}))).await;
    scene.kill_at_pod_changes(&MAKING).await;
    scene.stage.until("all run", |pods| all_run(pods, "agent", nodes, "example/app:1")).await;
    assert_eq!(scene.stage.made(0, "agent").len(), nodes, "one for each node");

    let updated = scene.update::<DaemonSet>("agent").await;
    scene.kill_at_pod_changes(&REPLACING).await;
    scene.stage.until("all are updated", |pods| all_run(pods, "agent", nodes, "example/app:2")).await;
    scene.stage.replay(|at, event, pods| {
        let name = event.pod.name_any();
        let mut taken = BTreeSet::new();
        for pod in pods.values().filter(|pod| is_live(pod)) {
            assert!(node(pod).is_none_or(|node| taken.insert(node)), "two on one node after {name}");
        }
        if at >= updated {
            assert!(ready(pods, "agent") >= nodes - 1, "{} ready after {name}", ready(pods, "agent"));
        }
    });
    assert_eq!(scene.stage.made(updated, "agent").len(), nodes, "each was replaced once");
    scene.stage.nothing_ran_twice();
    assert_eq!(scene.count::<ControllerRevision>().await, 2);
    scene.stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_keeps_to_the_budget_although_keelson_is_killed() {
    let (replicas, at_least) = (9, 8);
    let mut scene = Scene::start(2).await;
    scene.create::<Deployment>(workload("web", json!({"replicas": replicas}))).await;
    let budget = json!({"minAvailable": at_least, "selector": {"matchLabels": {"app": "web"}}});
    scene.create::<PodDisruptionBudget>(json!({"metadata": {"name": "web"}, "spec": budget})).await;
    scene.stage.until("all run", |pods| all_run(pods, "web", replicas, "example/app:1")).await;
    scene.stage.until_status::<PodDisruptionBudget>("web", |pdb| pdb["status"]["disruptionsAllowed"] == 1).await;
    let begun = scene.stage.now();
    let nodes: Api<Node> = Api::all(scene.servers.client(0).await);
    nodes.cordon("node-0").await.expect("the node is cordoned");
    let draining = tokio::spawn(drain(scene.servers.clone(), "node-0"));
    for stride in [3, 8, 6] {
        scene.stage.progress(stride).await;
        scene.kill().await;
    }
    tokio::time::timeout(PATIENCE, draining).await.expect("the drain ends").expect("and fails nowhere");
    scene.stage.until("all run again", |pods| all_run(pods, "web", replicas, "example/app:1")).await;
    let mut fewest = replicas;
    scene.stage.replay(|at, event, pods| {
        if at >= begun {
            fewest = fewest.min(ready(pods, "web"));
            assert!(fewest >= at_least, "{fewest} ready after {}", event.pod.name_any());
            assert!(event.gone || is_live(&event.pod) || node(&event.pod) == Some("node-0"), "only these are evicted");
        }
    });
    assert_eq!(fewest, at_least, "as many went at once as may");
    scene.stage.until("the node is empty", |pods| pods.values().all(|pod| node(pod) == Some("node-1"))).await;
    scene.stage.nothing_ran_twice();
    scene.stage.end().await;
}

/// Evicts everything from a node at once, as `kubectl drain` does, again and again through a server that goes away now and
/// then. Its client tries again what a budget refuses.
async fn drain(servers: Servers, from: &str) {
    loop {
        let pods: Api<Pod> = Api::default_namespaced(servers.client(0).await);
        let there = ListParams::default().fields(&format!("spec.nodeName={from}"));
        match pods.list(&there).await {
            Ok(list) if list.items.is_empty() => return,
            Ok(list) => {
                let there = list.items.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
                let (names, parameters) = (there.map(|pod| pod.name_any()).collect::<Vec<_>>(), EvictParams::default());
                // an answer of no is looked at in the next round: a budget, a pod that is gone, a server that is
                join_all(names.iter().map(|name| pods.evict(name, &parameters))).await;
            }
            Err(_) => {}
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
