//! Gives every pod of the node its worker, and the workers what they need to know.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use pod_lifecycle::view::Rejection;
use reconcile::{Change, Informer, Informers, Selector};
use runtime::api::{RuntimeEvent, SandboxId};
use tokio::{
    sync::{Notify, broadcast::error::RecvError, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission,
    followed::{Followed, Kind, Source},
    sources::References,
    worker::{Adopted, Desired, Shared, Worker, clean_up, stop_orphan},
};

/// One pod's worker, seen from outside.
struct Handle {
    desired: watch::Sender<Desired>,
    poke: Arc<Notify>,
    references: References,
    /// Whether the node took the pod, so that the pod takes something of it.
    admitted: bool,
}

impl Handle {
    fn namespace(&self) -> String {
        self.desired.borrow().pod.metadata.namespace.clone().unwrap_or_default()
    }
}

/// What has ended.
enum Ended {
    Worker(String),
    Orphan,
    /// A second look at the Node, for a pod that the first one did not suit.
    Look {
        pod: Arc<Pod>,
        node: Option<Box<Node>>,
        rejection: Rejection,
    },
}

/// The pods of a node.
pub(crate) struct Pods {
    shared: Arc<Shared>,
    informers: Informers,
    followed: Followed,
    /// This node, as the API knows it.
    node: Informer<Node>,
    handles: HashMap<String, Handle>,
    tasks: JoinSet<Ended>,
    stop: CancellationToken,
}

fn uid_of(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Everything a pod's containers and volumes refer to.
fn references(pod: &Pod) -> References {
    let mut found = References::of_volumes(pod);
    if let Some(spec) = &pod.spec {
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let more = References::of_environment(container);
            found.config_maps.extend(more.config_maps);
            found.secrets.extend(more.secrets);
        }
    }
    found
}

impl Pods {
    pub(crate) fn new(shared: Arc<Shared>, informers: Informers, stop: CancellationToken) -> Self {
        let followed = Followed::new(informers.clone());
        let node = informers.of_selected::<Node>(crate::own_node(&shared.config));
        Self { shared, informers, followed, node, handles: HashMap::new(), tasks: JoinSet::new(), stop }
    }

    /// Runs until the stop signal; pods live on.
    pub(crate) async fn run(mut self) {
        let selector = Selector::fields(format!("spec.nodeName={}", self.shared.config.name));
        let pods = self.informers.of_selected::<Pod>(selector);
        let mut events = self.shared.runtime.events();
        let stop = self.stop.clone();
        let synced = async { pods.synced().await && self.node.synced().await };
        if stop.run_until_cancelled(synced).await != Some(true) {
            return;
        }
        let mut pod_changes = pods.subscribe();
        self.adopt(&pods.list());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(change) = pod_changes.next() => self.pod_changed(change),
                Some(source) = self.followed.changed() => self.source_changed(&source),
                event = events.recv() => match event {
                    Ok(RuntimeEvent::Container { sandbox, .. } | RuntimeEvent::Sandbox { sandbox }) => self.poke(&sandbox),
                    Err(RecvError::Lagged(_)) => self.handles.values().for_each(|handle| handle.poke.notify_one()),
                    Err(RecvError::Closed) => break,
                },
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(Ended::Worker(uid)) => {
                        self.handles.remove(&uid);
                        self.follow();
                    }
                    Ok(Ended::Orphan) => {}
                    Ok(Ended::Look { pod, node, rejection }) => {
                        let metadata = &pod.metadata;
                        let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
                        let now = pods.get(namespace.unwrap_or_default(), name.unwrap_or_default());
                        self.look_again(&pod, now, node.as_deref(), rejection);
                    }
                    Err(error) => tracing::error!(%error, "a pod's task ended abnormally"),
                },
            }
        }
        // Workers see the same signal and leave their containers running.
        while self.tasks.join_next().await.is_some() {}
    }

    fn poke(&self, sandbox: &SandboxId) {
        let uid = self.shared.runtime.sandbox(sandbox).map(|status| status.config.uid);
        match uid.and_then(|uid| self.handles.get(&uid)) {
            Some(handle) => handle.poke.notify_one(),
            // The sandbox is gone already: whoever it belonged to looks again.
            None => self.handles.values().for_each(|handle| handle.poke.notify_one()),
        }
    }

    fn pod_changed(&mut self, change: Change<Pod>) {
        match change {
            Change::Applied { old, new } => {
                if let Some(old) = old.filter(|old| uid_of(old) != uid_of(&new)) {
                    self.removed(&old);
                }
                self.arrived(new, None);
            }
            Change::Deleted(pod) => self.removed(&pod),
        }
    }

    fn removed(&self, pod: &Arc<Pod>) {
        if let Some(handle) = self.handles.get(uid_of(pod)) {
            handle.desired.send_modify(|desired| desired.removed = true);
        }
    }

    /// What the node has against a pod that is new to it. A Node that the API does not know yet has nothing.
    fn rejection(&self, pod: &Pod, node: Option<&Node>) -> Option<Rejection> {
        let uid = uid_of(pod);
        let others = self.handles.iter().filter(|(other, handle)| *other != uid && handle.admitted);
        let others: Vec<Arc<Pod>> = others.map(|(_, handle)| Arc::clone(&handle.desired.borrow().pod)).collect();
        let others = others.iter().map(AsRef::as_ref).filter(|other| admission::counts(other));
        admission::check(pod, others, node?).err()
    }

    /// Hands news of a pod to its worker; one that has not been on this node before is looked at first.
    fn arrived(&mut self, pod: Arc<Pod>, adopted: Option<Adopted>) {
        let known = self.handles.contains_key(uid_of(&pod)) || adopted.is_some() || admission::was_admitted(&pod);
        let over = pod.metadata.deletion_timestamp.is_some() || !admission::counts(&pod);
        if known || over { self.apply(pod, adopted, None) } else { self.admit(pod) }
    }

    /// Takes a pod that has not been on this node before, or says why not. A label that the pod asks for may have been
    /// given to the Node a moment ago: before a pod is refused for it, the API is asked.
    fn admit(&mut self, pod: Arc<Pod>) {
        let node = self.node.list().pop();
        match self.rejection(&pod, node.as_deref()) {
            Some(rejection) if admission::is_about_labels(&rejection) => {
                let nodes: Api<Node> = Api::all(self.shared.client.clone());
                let name = self.shared.config.name.clone();
                self.tasks.spawn(async move {
                    let node = nodes.get_opt(&name).await.ok().flatten().map(Box::new);
                    Ended::Look { pod, node, rejection }
                });
            }
            rejection => self.apply(pod, None, rejection),
        }
    }

    /// Goes on with a pod, as it is by now, after the API was asked for the Node; without an answer the first look counts.
    fn look_again(&mut self, asked: &Pod, now: Option<Arc<Pod>>, node: Option<&Node>, first: Rejection) {
        let Some(pod) = now.filter(|now| uid_of(now) == uid_of(asked) && !self.handles.contains_key(uid_of(now)))
        else {
            return;
        };
        let rejection = match node {
            Some(node) => self.rejection(&pod, Some(node)),
            None => Some(first),
        };
        self.apply(pod, None, rejection);
    }

    fn apply(&mut self, pod: Arc<Pod>, adopted: Option<Adopted>, rejection: Option<Rejection>) {
        if let Some(handle) = self.handles.get_mut(uid_of(&pod)) {
            let references = references(&pod);
            let same = handle.references == references;
            handle.references = references;
            handle.desired.send_modify(|desired| desired.pod = pod);
            if !same {
                self.follow();
            }
            return;
        }
        let uid = uid_of(&pod).to_owned();
        let references = references(&pod);
        let (desired, wanted) = watch::channel(Desired { pod, removed: false, sources: 0 });
        let poke = Arc::new(Notify::new());
        let admitted = rejection.is_none();
        let shared = Arc::clone(&self.shared);
        let worker = Worker::new(shared, wanted, Arc::clone(&poke), adopted.unwrap_or_default(), rejection);
        self.handles.insert(uid.clone(), Handle { desired, poke, references, admitted });
        self.follow();
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            worker.run(stop).await;
            Ended::Worker(uid)
        });
    }

    /// Follows what the pods that are here refer to.
    fn follow(&mut self) {
        let of = |handle: &Handle| Source::of(&handle.namespace(), &handle.references);
        self.followed.set(self.handles.values().flat_map(of).collect());
    }

    fn source_changed(&self, source: &Source) {
        let refers = |references: &References| match source.kind {
            Kind::ConfigMap => references.config_maps.contains(&source.name),
            Kind::Secret => references.secrets.contains(&source.name),
        };
        for handle in self.handles.values().filter(|handle| refers(&handle.references)) {
            if handle.namespace() == source.namespace {
                handle.desired.send_modify(|desired| desired.sources += 1);
            }
        }
    }

    /// Hands what the runtime still holds to the workers of its pods, and ends what has no pod any more.
    fn adopt(&mut self, pods: &[Arc<Pod>]) {
        let mut found: BTreeMap<String, Adopted> = BTreeMap::new();
        let mut owners: HashMap<SandboxId, String> = HashMap::new();
        for sandbox in self.shared.runtime.sandboxes() {
            owners.insert(sandbox.id.clone(), sandbox.config.uid.clone());
            found.entry(sandbox.config.uid).or_default().sandboxes.push(sandbox.id);
        }
        for container in self.shared.runtime.containers() {
            if let Some(uid) = owners.get(&container.sandbox) {
                let names = &mut found.entry(uid.clone()).or_default().containers;
                names.entry(container.config.name).or_default().push(container.id);
            }
        }
        for pod in pods {
            let adopted = found.remove(uid_of(pod));
            self.arrived(Arc::clone(pod), adopted);
        }
        let known = |uid: &str| pods.iter().any(|pod| uid_of(pod) == uid);
        let mut orphans: Vec<String> = found.into_keys().collect();
        orphans.extend(self.shared.network.attached().into_iter().filter(|uid| !known(uid)));
        orphans.extend(leftover_directories(&self.shared).into_iter().filter(|uid| !known(uid)));
        orphans.sort();
        orphans.dedup();
        for uid in orphans {
            let shared = Arc::clone(&self.shared);
            self.tasks.spawn(async move {
                tracing::info!(pod = uid, "ending a pod that was deleted meanwhile");
                let logs = stop_orphan(&shared, &uid).await;
                clean_up(&shared, &uid, logs).await;
                Ended::Orphan
            });
        }
    }
}

/// UIDs of pods whose directories are still there.
fn leftover_directories(shared: &Shared) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(shared.config.root_dir.join("pods")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}
