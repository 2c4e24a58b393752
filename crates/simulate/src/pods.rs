//! All simulated pods: one task steps them as the API shows changes and as times come, and writes what they say.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt as _};
use pod_lifecycle::status::patch;
use reconcile::{Change, EventType, Informers, Key, Recorder, Subscription};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    Options,
    addresses::Addresses,
    chance::Chance,
    fleet::Standing,
    nodes::NodeOptions,
    pod::{Birth, SimulatedPod, Step},
};

use incarnations::Incarnations;
use write::{Write, Written, write};

mod incarnations;
mod write;

/// Writes under way at a time: what a server commits together while the next ones fill, and each needs a connection where
/// there is no HTTP/2.
const WRITES_MAX: usize = 48;
/// Until a write that failed is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(1);
/// Changes taken before writes are started again: a flood of them must not keep the pods waiting.
const CHANGES_AT_ONCE: usize = 256;
/// Outdated times the queue may hold beside one of each pod before it is made anew.
const OUTDATED_MAX: usize = 4096;
/// With nothing to come, only changes wake the task.
const IDLE: Duration = Duration::from_secs(3600);

/// What has happened to pods.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) adopted: AtomicU64,
    pub(crate) running: AtomicU64,
    pub(crate) succeeded: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) deleted: AtomicU64,
    pub(crate) writes: AtomicU64,
}

/// [`Counts`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) adopted: u64,
    pub(crate) running: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) deleted: u64,
    pub(crate) writes: u64,
}

impl Counts {
    pub(crate) fn read(&self) -> Counted {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counted {
            adopted: of(&self.adopted),
            running: of(&self.running),
            succeeded: of(&self.succeeded),
            failed: of(&self.failed),
            deleted: of(&self.deleted),
            writes: of(&self.writes),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One pod and what is being done about it.
struct Entry {
    uid: String,
    node: usize,
    owner: String,
    simulated: SimulatedPod,
    phase: Phase,
    /// A write that waits for its turn.
    waiting: Option<Write>,
    /// A write is under way.
    busy: bool,
    /// When the pod is to be stepped; what the queue says otherwise is outdated.
    wake_at: Option<Timestamp>,
}

/// How far a pod was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Begun,
    Running,
    Over,
}

/// All pods of the fleet.
pub(crate) struct Pods {
    client: Client,
    options: Arc<Options>,
    changes: Subscription<Pod>,
    nodes: watch::Receiver<Vec<Standing>>,
    standing: Vec<Standing>,
    pods: HashMap<Key, Entry>,
    addresses: Addresses,
    incarnations: Incarnations,
    queue: BinaryHeap<Reverse<(Timestamp, Key)>>,
    /// Pods with a write that waits for its turn.
    ready: VecDeque<Key>,
    writes: JoinSet<(Key, Written)>,
    counts: Arc<Counts>,
}

impl Pods {
    pub(crate) fn new(
        client: Client,
        options: Arc<Options>,
        informers: &Informers,
        nodes: watch::Receiver<Vec<Standing>>,
    ) -> Self {
        Self {
            client,
            changes: informers.of::<Pod>().subscribe(),
            standing: vec![Standing::Absent; options.nodes.count],
            nodes,
            pods: HashMap::new(),
            addresses: Addresses::new(options.pod_range),
            incarnations: Incarnations::default(),
            queue: BinaryHeap::new(),
            ready: VecDeque::new(),
            writes: JoinSet::new(),
            counts: Arc::default(),
            options,
        }
    }

    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let recorder = Recorder::new(self.client.clone(), "keelson-simulate");
        loop {
            self.fire(Timestamp::now());
            self.start_writes();
            let wait = self.wait(Timestamp::now());
            tokio::select! {
                () = stop.cancelled() => break,
                change = self.changes.next() => {
                    let Some(change) = change else { break };
                    self.take(change, &recorder);
                    for _ in 1..CHANGES_AT_ONCE {
                        let Some(change) = self.changes.try_next() else { break };
                        self.take(change, &recorder);
                    }
                }
                Some(done) = self.writes.join_next() => match done {
                    Ok((key, written)) => self.take_written(&key, written),
                    Err(error) => tracing::error!(%error, "a write failed"),
                },
                changed = self.nodes.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.take_standing();
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
        recorder.flush().await;
    }

    fn wait(&self, now: Timestamp) -> Duration {
        self.queue
            .peek()
            .map_or(IDLE, |Reverse((at, _))| Duration::try_from(at.duration_since(now)).unwrap_or_default())
    }

    /// Steps the pods whose time has come.
    fn fire(&mut self, now: Timestamp) {
        while let Some(Reverse((at, _))) = self.queue.peek() {
            if *at > now {
                return;
            }
            let Some(Reverse((at, key))) = self.queue.pop() else { return };
            let current = self.pods.get(&key).is_some_and(|entry| entry.wake_at == Some(at));
            if current {
                self.step(&key, now);
            }
        }
    }

    fn take(&mut self, change: Change<Pod>, recorder: &Recorder) {
        match change {
            Change::Deleted(pod) => self.forget(&Key::of(&*pod)),
            Change::Applied { new, .. } => self.applied(new, recorder),
        }
    }

    fn applied(&mut self, pod: Arc<Pod>, recorder: &Recorder) {
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let Some(node) = bound.and_then(|name| self.options.nodes.number(name)) else { return };
        let (key, uid, now) = (Key::of(&*pod), pod.uid().unwrap_or_default(), Timestamp::now());
        match self.pods.get_mut(&key) {
            Some(entry) if entry.uid == uid => {
                // what a write was answered with may be newer
                if is_older(&pod, entry.simulated.pod()) {
                    return;
                }
                entry.simulated.observe(pod, now);
            }
            _ => {
                self.forget(&key);
                self.adopt(key.clone(), uid, node, pod, recorder, now);
            }
        }
        self.step(&key, now);
    }

    fn adopt(&mut self, key: Key, uid: String, node: usize, pod: Arc<Pod>, recorder: &Recorder, now: Timestamp) {
        let (behaviour, faults) = self.options.behaviour.of(pod.metadata.annotations.as_ref());
        for fault in faults {
            recorder.about(&*pod, EventType::Warning, "InvalidSimulation", fault.to_string());
        }
        let owner = incarnations::owner(&pod);
        let number = self.incarnations.next(&owner);
        let host = NodeOptions::address(node);
        let address = self.address(&pod, &host);
        let chance = Chance::new(self.options.seed).about(&owner).nth(number);
        let simulated = SimulatedPod::new(Birth { pod, behaviour, chance, address, host }, now);
        count(&self.counts.adopted);
        let entry =
            Entry { uid, node, owner, simulated, phase: Phase::Begun, waiting: None, busy: false, wake_at: None };
        self.pods.insert(key, entry);
    }

    /// The address a pod has, or one that nobody has.
    fn address(&mut self, pod: &Pod, host: &str) -> String {
        if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
            return host.to_owned();
        }
        let known = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok());
        if let Some(known) = known.filter(|known| self.addresses.reserve(*known)) {
            return known.to_string();
        }
        // with every address taken, pods have to share: what is simulated is not their traffic
        self.addresses.take().map_or_else(|| host.to_owned(), |address| address.to_string())
    }

    fn forget(&mut self, key: &Key) {
        let Some(entry) = self.pods.remove(key) else { return };
        count(&self.counts.deleted);
        self.incarnations.ended(&entry.owner);
        if let Ok(address) = entry.simulated.address().parse() {
            self.addresses.free(address);
        }
    }

    /// Nodes came, went, failed or work again.
    fn take_standing(&mut self) {
        let new = self.nodes.borrow_and_update().clone();
        let back: Vec<bool> =
            new.iter().zip(&self.standing).map(|(new, old)| *new == Standing::Up && *old != Standing::Up).collect();
        self.standing = new;
        if !back.contains(&true) {
            return;
        }
        let keys: Vec<Key> =
            self.pods.iter().filter(|(_, entry)| back[entry.node]).map(|(key, _)| key.clone()).collect();
        let now = Timestamp::now();
        for key in keys {
            self.step(&key, now);
        }
    }

    /// Lets a pod go on, unless its node is silent or the outcome of a write is awaited.
    fn step(&mut self, key: &Key, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(key) else { return };
        entry.wake_at = None;
        if entry.busy || self.standing[entry.node] != Standing::Up {
            return;
        }
        let Step { status, gone, wake_at } = entry.simulated.step(now);
        // how one ends that was told to says nothing of how it fared
        let told_to_end = entry.simulated.pod().metadata.deletion_timestamp.is_some();
        if let Some(status) = status.as_ref().filter(|_| !told_to_end) {
            entry.phase = counted(&self.counts, entry.phase, status.phase.as_deref());
        }
        let waited = entry.waiting.is_some();
        entry.waiting = match (status, entry.waiting.take()) {
            (Some(status), _) => {
                let known = entry.simulated.pod().status.as_ref();
                Some(Write::Status(patch(&entry.uid, known, &status)))
            }
            (None, Some(waiting)) => Some(waiting),
            (None, None) if gone => Some(Write::Delete),
            (None, None) => None,
        };
        if entry.waiting.is_some() && !waited {
            self.ready.push_back(key.clone());
        }
        entry.wake_at = wake_at;
        self.wake(key, wake_at);
    }

    fn wake(&mut self, key: &Key, at: Option<Timestamp>) {
        let Some(at) = at else { return };
        self.queue.push(Reverse((at, key.clone())));
        if self.queue.len() > self.pods.len() + OUTDATED_MAX {
            let pods = &self.pods;
            self.queue.retain(|Reverse((at, key))| pods.get(key).is_some_and(|entry| entry.wake_at == Some(*at)));
        }
    }

    fn start_writes(&mut self) {
        while self.writes.len() < WRITES_MAX
            && let Some(key) = self.ready.pop_front()
        {
            let Some(entry) = self.pods.get_mut(&key) else { continue };
            // a pod that came back under the name of another may wait twice
            let Some(what) = entry.waiting.take() else { continue };
            entry.busy = true;
            count(&self.counts.writes);
            let (client, uid) = (self.client.clone(), entry.uid.clone());
            self.writes.spawn(async move {
                let written = write(client, &key, &uid, what).await;
                (key, written)
            });
        }
    }

    fn take_written(&mut self, key: &Key, written: Written) {
        let now = Timestamp::now();
        let Some(entry) = self.pods.get_mut(key) else { return };
        let retry_at = match written {
            Written::Pod(pod) if pod.metadata.uid.as_deref() == Some(&entry.uid) => {
                entry.busy = false;
                if !is_older(&pod, entry.simulated.pod()) {
                    entry.simulated.observe(Arc::from(pod), now);
                }
                None
            }
            // of an earlier pod of this name
            Written::Pod(_) => return,
            Written::Gone { uid } if uid == entry.uid => {
                // it waits for nothing but the news of its end
                entry.wake_at = None;
                return;
            }
            Written::Gone { .. } => return,
            Written::Failed { uid } if uid == entry.uid => {
                entry.busy = false;
                entry.simulated.unsaid();
                now.checked_add(RETRY).ok()
            }
            Written::Failed { .. } => return,
        };
        match retry_at {
            None => self.step(key, now),
            Some(at) => {
                entry.wake_at = Some(at);
                self.wake(key, Some(at));
            }
        }
    }
}

/// Whether one revision of a pod is older than another; revisions that are no numbers are taken as they come.
fn is_older(one: &Pod, other: &Pod) -> bool {
    let revision = |pod: &Pod| pod.metadata.resource_version.as_ref()?.parse::<u64>().ok();
    match (revision(one), revision(other)) {
        (Some(one), Some(other)) => one < other,
        _ => false,
    }
}

/// Counts what a pod has come to.
fn counted(counts: &Counts, before: Phase, now: Option<&str>) -> Phase {
    match (before, now) {
        (Phase::Begun, Some("Running")) => {
            count(&counts.running);
            Phase::Running
        }
        (Phase::Begun | Phase::Running, Some("Succeeded")) => {
            count(&counts.succeeded);
            Phase::Over
        }
        (Phase::Begun | Phase::Running, Some("Failed")) => {
            count(&counts.failed);
            Phase::Over
        }
        (unchanged, _) => unchanged,
    }
}
