//! Nodes without containers on servers that come and go, and the history of all pods as a watch tells of it.
//!
//! A pod that is bound runs and becomes ready at once, or succeeds at once when its image is [`WORK`]; one that is deleted
//! ends at once. What a server that is away did not take is tried again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams},
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};

use crate::{PATIENCE, clients::Servers};

/// Image of pods that do something and end.
pub const WORK: &str = "example/work:1";
/// How long a server may be silent or take for an answer before another one is asked: one may be stopped.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two rounds of the nodes, and after a failure.
const PAUSE: Duration = Duration::from_millis(10);
/// How often nodes say that they live, a fraction of what makes them count as lost.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A change of a pod.
#[derive(Clone, Debug)]
pub struct Event {
    /// The pod after it.
    pub pod: Arc<Pod>,
    /// Whether it is gone.
    pub gone: bool,
}

/// Pods by name.
pub type Pods = BTreeMap<String, Arc<Pod>>;

#[derive(Default)]
struct Known {
    history: Vec<Event>,
    pods: Pods,
}

/// The nodes and what is known of the pods.
pub struct Stage {
    servers: Servers,
    known: Arc<Mutex<Known>>,
    tasks: JoinSet<()>,
}

/// Whether a pod counts for its controller: it is neither over nor on its way out.
pub fn is_live(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether it counts and is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    is_live(pod) && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The image of its first container.
pub fn image(pod: &Pod) -> &str {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    container.and_then(|container| container.image.as_deref()).unwrap_or_default()
}

/// The node it is bound to.
pub fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())
}

/// Whether the pod carries `app=NAME`.
pub fn is_of(pod: &Pod, app: &str) -> bool {
    pod.labels().get("app").is_some_and(|value| value == app)
}

impl Stage {
    /// Nodes `node-0`… of servers that are up, from now on.
    pub async fn start(servers: &Servers, nodes: usize) -> Self {
        let client = servers.client(0).await;
        let names: Vec<String> = (0..nodes).map(|number| format!("node-{number}")).collect();
        for name in &names {
            let node: Node = object(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}));
            Api::all(client.clone()).create(&PostParams::default(), &node).await.expect("a node is made");
        }
        let pods: Api<Pod> = Api::default_namespaced(client);
        let list = pods.list(&ListParams::default()).await.expect("pods are listed");
        let revision = list.metadata.resource_version.expect("a list has a revision");
        let known = Arc::new(Mutex::new(Known::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(servers.clone(), known.clone(), revision));
        tasks.spawn(run_pods(servers.clone(), known.clone()));
        tasks.spawn(keep_alive(servers.clone(), names));
        Self { servers: servers.clone(), known, tasks }
    }

    fn known<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long the history is.
    pub fn now(&self) -> usize {
        self.known(|known| known.history.len())
    }

    /// Waits until so many more changes were seen.
    pub async fn progress(&self, changes: usize) {
        let end = self.now() + changes;
        self.wait("pods change", || self.now() >= end).await;
    }

    /// Waits until the pods are as wished.
    pub async fn until(&self, what: &str, is: impl Fn(&Pods) -> bool) {
        self.wait(what, || self.known(|known| is(&known.pods))).await;
    }

    async fn wait(&self, what: &str, is: impl Fn() -> bool) {
        let wait = async {
            while !is() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        let shown = |pod: &Arc<Pod>| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
            format!("{} {} {phase} {:?} live={}", pod.name_any(), image(pod), node(pod), is_live(pod))
        };
        if timeout(PATIENCE, wait).await.is_err() {
            let pods: Vec<String> = self.known(|known| known.pods.values().map(shown).collect());
            panic!("waited {PATIENCE:?} in vain: {what}; pods: {pods:#?}");
        }
    }

    /// Waits until an object's status is as wished.
    pub async fn until_status<K>(&self, name: &str, is: impl Fn(&Value) -> bool)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
    {
        let wait = async {
            loop {
                let api: Api<K> = Api::default_namespaced(self.servers.client(0).await);
                if let Ok(Ok(object)) = timeout(ANSWER_TIMEOUT, api.get(name)).await
                    && is(&serde_json::to_value(&object).expect("an object is JSON"))
                {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{name} does not get there"));
    }

    /// Every change so far, and after each the pods as they then were.
    pub fn replay(&self, mut judge: impl FnMut(usize, &Event, &Pods)) {
        let history = self.known(|known| known.history.clone());
        let mut pods = Pods::new();
        for (at, event) in history.iter().enumerate() {
            apply(&mut pods, event);
            judge(at, event, &pods);
        }
    }

    /// Names of pods of an app in the order in which they were made, from a moment of the history on.
    pub fn made(&self, since: usize, app: &str) -> Vec<String> {
        let mut seen = std::collections::BTreeSet::new();
        let mut names = Vec::new();
        self.replay(|at, event, _| {
            if seen.insert(event.pod.uid()) && at >= since && is_of(&event.pod, app) {
                names.push(event.pod.name_any());
            }
        });
        names
    }

    /// Fails where a pod was ever moved from one node to another, or its containers were begun twice.
    pub fn nothing_ran_twice(&self) {
        let mut bound: BTreeMap<Option<String>, (String, Option<Timestamp>)> = BTreeMap::new();
        self.replay(|_, event, _| {
            let Some(node) = node(&event.pod) else { return };
            let began = event.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
            let (first, before) = bound.entry(event.pod.uid()).or_insert_with(|| (node.to_owned(), began));
            assert_eq!(first, node, "{} was bound twice", event.pod.name_any());
            assert!(before.is_none() || *before == began, "{} was begun twice", event.pod.name_any());
            *before = began;
        });
    }

    /// Ends the nodes.
    pub async fn end(mut self) {
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

fn apply(pods: &mut Pods, event: &Event) {
    if event.gone {
        pods.remove(&event.pod.name_any());
    } else {
        pods.insert(event.pod.name_any(), event.pod.clone());
    }
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object")
}

/// Writes down what a watch tells, going on at whichever server answers where it broke off.
async fn follow(servers: Servers, known: Arc<Mutex<Known>>, mut revision: String) {
    loop {
        let pods: Api<Pod> = Api::default_namespaced(servers.client(0).await);
        let asked = timeout(ANSWER_TIMEOUT, pods.watch(&WatchParams::default(), &revision)).await;
        let Ok(Ok(stream)) = asked else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let mut stream = stream.boxed();
        while let Ok(Some(Ok(event))) = timeout(ANSWER_TIMEOUT, stream.next()).await {
            let (pod, gone) = match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod, false),
                WatchEvent::Deleted(pod) => (pod, true),
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(error) => panic!("the watch cannot go on from {revision}: {error:?}"),
            };
            revision = pod.resource_version().unwrap_or_default();
            let event = Event { pod: Arc::new(pod), gone };
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            apply(&mut known.pods, &event);
            known.history.push(event);
        }
    }
}

/// What a node does next with a pod.
enum Step {
    Run,
    Remove,
}

fn step(pod: &Pod) -> Option<Step> {
    node(pod)?;
    let status = pod.status.as_ref();
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(Step::Remove);
    }
    let begun = status.is_some_and(|status| status.start_time.is_some());
    (!begun && is_live(pod)).then_some(Step::Run)
}

async fn run_pods(servers: Servers, known: Arc<Mutex<Known>>) {
    // what was asked for is not asked again before the pod changes, or the answer was lost
    let mut asked: BTreeMap<(String, String), tokio::time::Instant> = BTreeMap::new();
    let mut address = 0_u32;
    loop {
        let pods = known.lock().unwrap_or_else(PoisonError::into_inner).pods.clone();
        asked.retain(|_, at| at.elapsed() < ANSWER_TIMEOUT);
        for pod in pods.values() {
            let mark = (pod.uid().unwrap_or_default(), pod.resource_version().unwrap_or_default());
            let Some(step) = step(pod).filter(|_| !asked.contains_key(&mark)) else { continue };
            address += 1;
            let client = servers.client(0).await;
            if let Ok(true) = timeout(ANSWER_TIMEOUT, carry_out(client, pod, &step, address)).await {
                asked.insert(mark, tokio::time::Instant::now());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a server took it, or refused it because the pod is another one by now.
async fn carry_out(client: Client, pod: &Pod, step: &Step, address: u32) -> bool {
    let api: Api<Pod> = Api::default_namespaced(client);
    let answer = match step {
        Step::Remove => {
            let preconditions = Some(Preconditions { uid: pod.uid(), resource_version: None });
            let now = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
            api.delete(&pod.name_any(), &now).await.map(drop)
        }
        Step::Run => {
            let status = Patch::Strategic(running(pod, address));
            api.patch_status(&pod.name_any(), &PatchParams::default(), &status).await.map(drop)
        }
    };
    match answer {
        Ok(()) => true,
        Err(kube::Error::Api(status)) => (400..500).contains(&status.code),
        Err(_) => false,
    }
}

fn running(pod: &Pod, address: u32) -> Value {
    let ip = format!("10.{}.{}.{}", 64 + address / 62_500, address / 250 % 250, address % 250 + 1);
    let now = Timestamp::now();
    let ends = image(pod) == WORK;
    let state = match ends {
        true => json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}),
        false => json!({"running": {"startedAt": now}}),
    };
    let container =
        json!({"name": "c", "image": image(pod), "imageID": "", "ready": !ends, "restartCount": 0, "state": state});
    let ready = json!({"type": "Ready", "status": if ends { "False" } else { "True" }, "lastTransitionTime": now});
    json!({"metadata": {"resourceVersion": pod.resource_version(), "uid": pod.uid()},
        "status": {"phase": if ends { "Succeeded" } else { "Running" }, "startTime": now, "podIP": ip,
            "podIPs": [{"ip": ip}], "conditions": [ready], "containerStatuses": [container]}})
}

async fn keep_alive(servers: Servers, names: Vec<String>) {
    loop {
        let nodes: Api<Node> = Api::all(servers.client(0).await);
        let now = Timestamp::now();
        let room = json!({"cpu": "64", "memory": "256Gi", "pods": "1000"});
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready",
            "lastHeartbeatTime": now, "lastTransitionTime": now});
        let status = json!({"status": {"allocatable": room, "capacity": room, "conditions": [ready]}});
        let mut told = true;
        for name in &names {
            let patch = Patch::Strategic(&status);
            let answer = timeout(ANSWER_TIMEOUT, nodes.patch_status(name, &PatchParams::default(), &patch)).await;
            told &= matches!(answer, Ok(Ok(_)));
        }
        tokio::time::sleep(if told { HEARTBEAT } else { PAUSE }).await;
    }
}
