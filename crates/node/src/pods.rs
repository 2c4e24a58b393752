//! Gives every pod of the node its worker, and the workers what they need to know.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Pod;
use reconcile::{Change, Informers, Selector};
use runtime::api::{RuntimeEvent, SandboxId};
use tokio::{
    sync::{Notify, broadcast::error::RecvError, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    followed::{Followed, Kind, Source},
    sources::References,
    worker::{Adopted, Desired, Shared, Worker, clean_up, stop_orphan},
};

/// One pod's worker, seen from outside.
struct Handle {
    desired: watch::Sender<Desired>,
    poke: Arc<Notify>,
    references: References,
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
}

/// The pods of a node.
pub(crate) struct Pods {
    shared: Arc<Shared>,
    informers: Informers,
    followed: Followed,
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
        Self { shared, informers, followed, handles: HashMap::new(), tasks: JoinSet::new(), stop }
    }

    /// Runs until the stop signal; pods live on.
    pub(crate) async fn run(mut self) {
        let selector = Selector::fields(format!("spec.nodeName={}", self.shared.config.name));
        let pods = self.informers.of_selected::<Pod>(selector);
        let mut events = self.shared.runtime.events();
        let stop = self.stop.clone();
        if stop.run_until_cancelled(pods.synced()).await != Some(true) {
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
                self.apply(new, None);
            }
            Change::Deleted(pod) => self.removed(&pod),
        }
    }

    fn removed(&self, pod: &Arc<Pod>) {
        if let Some(handle) = self.handles.get(uid_of(pod)) {
            handle.desired.send_modify(|desired| desired.removed = true);
        }
    }

    fn apply(&mut self, pod: Arc<Pod>, adopted: Option<Adopted>) {
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
        let worker = Worker::new(Arc::clone(&self.shared), wanted, Arc::clone(&poke), adopted.unwrap_or_default());
        self.handles.insert(uid.clone(), Handle { desired, poke, references });
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
            self.apply(Arc::clone(pod), adopted);
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
