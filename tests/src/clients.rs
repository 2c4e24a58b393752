//! Clients that write, read and watch ConfigMaps through whichever server answers, and write down what they were told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ObjectMeta, PostParams, Preconditions, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    Instance,
    history::{Change, Operation, Outcome, What},
};

/// Objects that the writers fight over: few, so that they meet.
const KEYS: u64 = 12;
/// How long an answer may take before its outcome counts as unknown.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failure, so that a server that is away is not flooded.
const PAUSE: Duration = Duration::from_millis(20);
/// Field of the data that holds an object's value.
const VALUE: &str = "value";
/// The object whose creation ends a watch.
const END: &str = "the-end";

/// The servers, as far as they are up.
#[derive(Clone, Default)]
pub struct Servers(Arc<RwLock<Vec<Option<Client>>>>);

impl Servers {
    /// Makes a server known under its number, at the address that it has since its last start.
    pub async fn set_up(&self, number: usize, instance: &Instance) {
        let kubeconfig = Kubeconfig::read_from(instance.kubeconfig()).expect("an instance writes its kubeconfig");
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a kubeconfig");
        self.set(number, Some(Client::try_from(config).expect("a client")));
    }

    /// A server is down.
    pub fn set_down(&self, number: usize) {
        self.set(number, None);
    }

    fn set(&self, number: usize, client: Option<Client>) {
        let mut clients = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if clients.len() <= number {
            clients.resize(number + 1, None);
        }
        clients[number] = client;
    }

    /// A server that is up, from a number on.
    async fn any(&self, from: usize) -> Api<ConfigMap> {
        Api::default_namespaced(self.client(from).await)
    }

    /// A client of whichever server is up, from this number on; waits for one.
    pub async fn client(&self, from: usize) -> Client {
        loop {
            let found = {
                let clients = self.0.read().unwrap_or_else(PoisonError::into_inner);
                (0..clients.len()).find_map(|step| clients[(from + step) % clients.len()].clone())
            };
            if let Some(client) = found {
                return client;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What all writers were told.
#[derive(Clone, Default)]
pub struct Record {
    operations: Arc<Mutex<Vec<Operation>>>,
    values: Arc<AtomicU64>,
}

impl Record {
    /// Everything so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        let done = |operation: &&Operation| matches!(operation.what, What::Write { outcome: Outcome::Done, .. });
        self.operations().iter().filter(done).count()
    }

    fn add(&self, key: &str, begun: Instant, what: What) {
        let operation = Operation { key: key.to_owned(), begun, ended: Instant::now(), what };
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }
}

/// Reads and writes at random until told to stop.
pub async fn write(number: usize, servers: Servers, record: Record, stop: Arc<AtomicBool>) {
    // a fixed sequence for each writer; what makes runs differ is time
    let mut random = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut draw = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    while !stop.load(Ordering::Relaxed) {
        let api = servers.any(number).await;
        let key = format!("key-{}", draw(KEYS));
        let begun = Instant::now();
        let Ok(Ok(found)) = tokio::time::timeout(ANSWER_TIMEOUT, api.get_opt(&key)).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let revision = found.as_ref().map(revision_of);
        let read = found.as_ref().map(|object| (revision_of(object), value_of(object)));
        record.add(&key, begun, What::Read(read));
        let deletes = revision.is_some() && draw(4) == 0;
        let value = (!deletes).then(|| format!("{number}-{}", record.values.fetch_add(1, Ordering::Relaxed)));
        let begun = Instant::now();
        let outcome = change(&api, &key, revision, value.as_deref()).await;
        record.add(&key, begun, What::Write { expected: revision, value, outcome });
        if outcome == Outcome::Unknown {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn change(api: &Api<ConfigMap>, key: &str, revision: Option<u64>, value: Option<&str>) -> Outcome {
    let post = PostParams::default();
    let asked = async {
        match (value, revision) {
            (Some(value), None) => api.create(&post, &object(key, None, value)).await.map(drop),
            (Some(value), Some(_)) => api.replace(key, &post, &object(key, revision, value)).await.map(drop),
            (None, _) => {
                let resource_version = revision.map(|revision| revision.to_string());
                let preconditions = Some(Preconditions { resource_version, uid: None });
                api.delete(key, &DeleteParams { preconditions, ..DeleteParams::default() }).await.map(drop)
            }
        }
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
        Ok(Ok(())) => Outcome::Done,
        Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) => Outcome::Refused,
        _ => Outcome::Unknown,
    }
}

fn object(key: &str, revision: Option<u64>, value: &str) -> ConfigMap {
    let resource_version = revision.map(|revision| revision.to_string());
    let metadata = ObjectMeta { name: Some(key.to_owned()), resource_version, ..ObjectMeta::default() };
    ConfigMap { metadata, data: Some(BTreeMap::from([(VALUE.to_owned(), value.to_owned())])), ..ConfigMap::default() }
}

fn revision_of(object: &ConfigMap) -> u64 {
    object.metadata.resource_version.as_deref().unwrap_or_default().parse().expect("a revision is a number")
}

fn value_of(object: &ConfigMap) -> String {
    object.data.as_ref().and_then(|data| data.get(VALUE)).cloned().unwrap_or_default()
}

/// The revision from which a watch has to begin to see everything from now on.
pub async fn revision_now(servers: &Servers) -> String {
    let api = servers.any(0).await;
    let list = api.list(&kube::api::ListParams::default()).await.expect("a list");
    list.metadata.resource_version.expect("a list has a revision")
}

/// Ends watches.
pub async fn end_watches(servers: &Servers) {
    let api = servers.any(0).await;
    api.create(&PostParams::default(), &object(END, None, "")).await.expect("created");
}

/// Watches from a revision on, going on at whichever server answers where a watch broke off, until [`end_watches`].
pub async fn watch(number: usize, servers: Servers, mut revision: String) -> Vec<Change> {
    let mut changes = Vec::new();
    loop {
        let api = servers.any(number).await;
        let Ok(stream) = api.watch(&WatchParams::default(), &revision).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let mut stream = stream.into_stream().boxed();
        while let Some(Ok(event)) = stream.next().await {
            let (object, deleted) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                WatchEvent::Deleted(object) => (object, true),
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(error) => panic!("the watch cannot go on from {revision}: {error:?}"),
            };
            let key = object.metadata.name.clone().unwrap_or_default();
            if key == END {
                return changes;
            }
            revision = object.metadata.resource_version.clone().unwrap_or_default();
            if key.starts_with("key-") {
                let value = (!deleted).then(|| value_of(&object));
                changes.push(Change { key, revision: revision_of(&object), value });
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
