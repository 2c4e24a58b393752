//! Makes the nodes, keeps their leases and statuses, lets them fail, and removes them.
//!
//! What a kubelet does once in ten seconds is done here for a part of the nodes every second, all of them together, so that
//! a server that commits many writes at once has few of them to commit.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeStatus},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use reconcile::{Change, Informer, Informers, Selector};
use serde_json::json;
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    Options, SimulateError,
    chance::Chance,
    nodes::{NodeOptions, is_ready},
    outage::Schedule,
};

/// Namespace of the leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How often the nodes whose turn it is are looked after.
const TURN: Duration = Duration::from_secs(1);
/// Turns until it is a node's again: its lease is renewed every ten seconds, as upstream.
const LEASE_TURNS: u64 = 10;
/// How often an unchanged status is written, as upstream.
const STATUS_PERIOD: SignedDuration = SignedDuration::from_mins(5);
/// Requests about nodes under way at a time: enough for a server to commit them together, few enough to leave it air.
const REQUESTS_MAX: usize = 32;
/// Nodes of a page when an earlier run's are looked up.
const PAGE_NODES: u32 = 500;
/// Tries of one request about a node while the fleet is made or removed.
const TRIES_MAX: u32 = 5;
/// The first wait between tries; doubled each time.
const TRY_WAIT: Duration = Duration::from_millis(200);

/// What is known of a node by those who look after its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is not in the API.
    Absent,
    /// It works.
    Up,
    /// It is silent.
    Down,
}

/// One node.
#[derive(Default)]
struct Kept {
    uid: String,
    /// The user says that it is down.
    told_down: bool,
    outages: Option<Schedule>,
    status: Option<NodeStatus>,
    status_due: Option<Timestamp>,
    lease: Option<Lease>,
}

struct Inner {
    client: Client,
    options: Arc<Options>,
    nodes: Informer<Node>,
    kept: Mutex<HashMap<usize, Kept>>,
    standing: watch::Sender<Vec<Standing>>,
    failures: AtomicU64,
}

/// The nodes.
#[derive(Clone)]
pub(crate) struct Fleet(Arc<Inner>);

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// Tries a request some times; what the server refuses is not tried again.
async fn tried<T, F: Future<Output = Result<T, kube::Error>>>(request: impl Fn() -> F) -> Result<T, kube::Error> {
    let mut wait = TRY_WAIT;
    for _ in 1..TRIES_MAX {
        match request().await {
            Err(error) if matches!(code(&error), 0 | 429 | 500..) => {}
            answered => return answered,
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    request().await
}

impl Fleet {
    pub(crate) fn new(
        client: Client,
        options: Arc<Options>,
        informers: &Informers,
        standing: watch::Sender<Vec<Standing>>,
    ) -> Self {
        let own = format!("{}={}", NodeOptions::fleet_label(), options.nodes.prefix);
        let nodes = informers.of_selected(Selector::labels(own));
        let (kept, failures) = (Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Inner { client, options, nodes, kept, standing, failures }))
    }

    fn options(&self) -> &NodeOptions {
        &self.0.options.nodes
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.0.client.clone())
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.0.client.clone(), LEASE_NAMESPACE)
    }

    /// How often nodes have failed.
    pub(crate) fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Makes the nodes that are not there yet, takes over those that are, and removes those that are too many; returns how
    /// many were there.
    pub(crate) async fn make(&self) -> Result<usize, SimulateError> {
        let left = self.left().await?;
        let surplus: Vec<String> = left.keys().filter(|name| self.options().number(name).is_none()).cloned().collect();
        self.delete(surplus).await?;
        let resumed = left.keys().filter(|name| self.options().number(name).is_some()).count();
        let made = stream::iter(0..self.options().count).map(|number| {
            let known = left.get(&self.options().name(number)).cloned();
            async move { self.make_one(number, known).await }
        });
        made.buffer_unordered(REQUESTS_MAX).try_collect::<Vec<()>>().await?;
        Ok(resumed)
    }

    /// The nodes of this fleet that an earlier run has left, by name.
    async fn left(&self) -> Result<HashMap<String, Node>, SimulateError> {
        let labels = format!("{}={}", NodeOptions::fleet_label(), self.options().prefix);
        let mut params = ListParams::default().labels(&labels).limit(PAGE_NODES);
        let mut left = HashMap::new();
        loop {
            let page = tried(|| async { self.nodes().list(&params).await }).await.map_err(SimulateError::ListNodes)?;
            left.extend(page.items.into_iter().map(|node| (node.name_any(), node)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(left),
            }
        }
    }

    async fn make_one(&self, number: usize, known: Option<Node>) -> Result<(), SimulateError> {
        let name = self.options().name(number);
        let failed = |source| SimulateError::CreateNode { node: name.clone(), source };
        let now = Timestamp::now();
        let fresh = known.is_none();
        let node = match known {
            Some(node) => node,
            None => {
                let wanted = self.options().node(number, now);
                match tried(|| async { self.nodes().create(&PostParams::default(), &wanted).await }).await {
                    Err(error) if code(&error) == 409 => {
                        let found = tried(|| async { self.nodes().get(&name).await }).await.map_err(failed)?;
                        if found.labels().get(&NodeOptions::fleet_label()) != Some(&self.options().prefix) {
                            return Err(SimulateError::ForeignNode { node: name });
                        }
                        found
                    }
                    created => created.map_err(failed)?,
                }
            }
        };
        let chance = Chance::new(self.0.options.seed).about("node").nth(number as u64);
        // nodes take turns with their statuses
        let turn = chance.share();
        let due = if fresh { now.checked_add(STATUS_PERIOD.mul_f64(turn)).unwrap_or(now) } else { now };
        let outages = self.0.options.outages.map(|outages| Schedule::new(outages, chance, now));
        let mut kept = Kept {
            uid: node.uid().unwrap_or_default(),
            told_down: is_told_down(&node),
            outages,
            status: node.status,
            status_due: Some(due),
            lease: None,
        };
        let lease = self.options().lease(number, &kept.uid, now);
        kept.lease = match tried(|| async { self.leases().create(&PostParams::default(), &lease).await }).await {
            Ok(created) => Some(created),
            // an earlier run's; it is looked up when it is renewed
            Err(error) if code(&error) == 409 => None,
            Err(error) => return Err(failed(error)),
        };
        let standing = if kept.told_down { Standing::Down } else { Standing::Up };
        self.0.kept.lock().insert(number, kept);
        self.0.standing.send_modify(|all| all[number] = standing);
        Ok(())
    }

    /// Looks after the nodes until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut changes = self.0.nodes.subscribe();
        let mut turns = tokio::time::interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                change = changes.next() => match change {
                    Some(change) => self.take(&change),
                    None => return,
                },
                _ = turns.tick() => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.beat(turn) => turn += 1,
                    }
                }
            }
        }
    }

    /// Takes note of a change that somebody made to a node.
    fn take(&self, change: &Change<Node>) {
        let node = change.object();
        let Some(number) = self.options().number(&node.name_any()) else { return };
        let mut all = self.0.kept.lock();
        match change {
            Change::Deleted(_) => {
                all.remove(&number);
            }
            Change::Applied { new, .. } => {
                let kept = all.entry(number).or_default();
                kept.uid = new.uid().unwrap_or_default();
                kept.told_down = is_told_down(new);
                let wrong = new.status.as_ref().map(|status| self.options().corrections(status)).unwrap_or_default();
                if !is_ready(new.status.as_ref()) || !wrong.is_empty() {
                    kept.status_due = Some(Timestamp::UNIX_EPOCH);
                }
                kept.status.clone_from(&new.status);
            }
        }
        drop(all);
        self.judge(number, Timestamp::now());
    }

    /// Finds out how a node stands, and tells those who look after its pods when that has changed.
    fn judge(&self, number: usize, now: Timestamp) -> Standing {
        let standing = match self.0.kept.lock().get_mut(&number) {
            None => Standing::Absent,
            Some(kept) => {
                let silent = kept.outages.as_mut().is_some_and(|outages| outages.is_silent(now));
                if silent || kept.told_down { Standing::Down } else { Standing::Up }
            }
        };
        let before = self.0.standing.borrow()[number];
        if before != standing {
            if standing == Standing::Down {
                self.0.failures.fetch_add(1, Ordering::Relaxed);
            }
            tracing::info!(node = self.options().name(number), ?before, now = ?standing, "simulated node");
            self.0.standing.send_modify(|all| all[number] = standing);
        }
        standing
    }

    /// One turn: renews the leases whose turn it is, and writes the statuses that are due.
    async fn beat(&self, turn: u64) {
        let now = Timestamp::now();
        let up: Vec<usize> =
            (0..self.options().count).filter(|number| self.judge(*number, now) == Standing::Up).collect();
        let leases = up.iter().filter(|number| **number as u64 % LEASE_TURNS == turn % LEASE_TURNS);
        stream::iter(leases).for_each_concurrent(REQUESTS_MAX, |number| self.renew(*number)).await;
        let due = |number: &&usize| {
            let kept = self.0.kept.lock();
            kept.get(*number).and_then(|kept| kept.status_due).is_some_and(|due| due <= now)
        };
        let due: Vec<usize> = up.iter().filter(due).copied().collect();
        stream::iter(due).for_each_concurrent(REQUESTS_MAX, |number| self.write_status(number)).await;
    }

    async fn renew(&self, number: usize) {
        let now = Timestamp::now();
        let Some((uid, known)) = self.0.kept.lock().get(&number).map(|kept| (kept.uid.clone(), kept.lease.clone()))
        else {
            return;
        };
        let name = self.options().name(number);
        let renewed = async {
            let mut lease = match known {
                Some(lease) => lease,
                None => match self.leases().get_opt(&name).await? {
                    Some(lease) => lease,
                    None => {
                        let fresh = self.options().lease(number, &uid, now);
                        return self.leases().create(&PostParams::default(), &fresh).await;
                    }
                },
            };
            if let Some(spec) = &mut lease.spec {
                spec.renew_time = Some(MicroTime(now));
            }
            self.leases().replace(&name, &PostParams::default(), &lease).await
        };
        let lease = match renewed.await {
            Ok(lease) => Some(lease),
            Err(error) => {
                tracing::debug!(node = name, %error, "cannot renew lease");
                None
            }
        };
        if let Some(kept) = self.0.kept.lock().get_mut(&number) {
            kept.lease = lease;
        }
    }

    async fn write_status(&self, number: usize) {
        let now = Timestamp::now();
        let Some(old) = self.0.kept.lock().get(&number).map(|kept| kept.status.clone()) else { return };
        let mut status = json!(self.options().status(number, old.as_ref(), now));
        for (name, amount) in old.iter().flat_map(|old| self.options().corrections(old)) {
            status["allocatable"][name] = json!(amount);
        }
        let patch = Patch::Strategic(json!({"status": status}));
        let name = self.options().name(number);
        match self.nodes().patch_status(&name, &PatchParams::default(), &patch).await {
            Ok(node) => {
                if let Some(kept) = self.0.kept.lock().get_mut(&number) {
                    kept.status = node.status;
                    kept.status_due = now.checked_add(STATUS_PERIOD).ok();
                }
            }
            Err(error) => tracing::debug!(node = name, %error, "cannot write node status"),
        }
    }

    /// Deletes all nodes of the fleet.
    pub(crate) async fn remove(&self) -> Result<(), SimulateError> {
        let names = self.left().await?.into_keys().filter(|name| self.options().any_number(name).is_some()).collect();
        self.delete(names).await
    }

    async fn delete(&self, names: Vec<String>) -> Result<(), SimulateError> {
        let deleted = stream::iter(names).map(|name| async move {
            let gone = |result: Result<(), kube::Error>| match result {
                Err(error) if code(&error) == 404 => Ok(()),
                other => other.map_err(|source| SimulateError::DeleteNode { node: name.clone(), source }),
            };
            let params = DeleteParams::default();
            gone(tried(|| async { self.nodes().delete(&name, &params).await.map(drop) }).await)?;
            gone(tried(|| async { self.leases().delete(&name, &params).await.map(drop) }).await)
        });
        deleted.buffer_unordered(REQUESTS_MAX).try_collect().await
    }
}

/// Whether the user says that a node is down.
fn is_told_down(node: &Node) -> bool {
    node.annotations().get(&NodeOptions::down_annotation()).is_some_and(|value| value == "true")
}
