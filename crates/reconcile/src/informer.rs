//! The registry of shared informers, and the handle to one of them.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures::future::BoxFuture;
use kube::core::{ApiResource, DynamicObject};
use kube::{Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Phase};
use crate::kept::Original;
use crate::watch::Watcher;
use crate::{Facts, Index, Metadata, Subscription};

#[cfg(test)]
mod tests;

/// What an informer can hold: any type kube can decode.
pub trait Object: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

impl<K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static> Object for K {}

/// Restricts an informer to part of a kind, evaluated by the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Label selector, for example `app=web`.
    pub labels: Option<String>,
    /// Field selector, for example `spec.nodeName=node-a`.
    pub fields: Option<String>,
    /// The one namespace that is looked at.
    pub namespace: Option<String>,
}

impl Selector {
    /// Objects matching a field selector.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { fields: Some(selector.into()), ..Self::default() }
    }

    /// Objects matching a label selector.
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { labels: Some(selector.into()), ..Self::default() }
    }

    /// The one object of that name in a namespace.
    pub fn one(namespace: impl Into<String>, name: &str) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::fields(format!("metadata.name={name}")) }
    }
}

/// Why [`Informers::run`] ended early.
#[derive(Debug, thiserror::Error)]
pub enum InformersError {
    /// `run` was called twice.
    #[error("informers are already running")]
    AlreadyRunning,
    /// A watch task panicked.
    #[error("an informer task failed")]
    Task(#[source] tokio::task::JoinError),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Identity {
    object: TypeId,
    url: String,
    selector: Selector,
}

struct Registered {
    cache: Arc<dyn Any + Send + Sync>,
    stop: CancellationToken,
}

type WatchTask = BoxFuture<'static, ()>;

/// Finds the [`Original`]s of a kind, given by group, version and plural name.
type Originals = Box<dyn Fn(&str, &str, &str) -> Original + Send + Sync>;

struct Registry {
    client: Client,
    originals: Option<Originals>,
    informers: Mutex<HashMap<Identity, Registered>>,
    // As many entries as kinds were asked for.
    start: mpsc::UnboundedSender<WatchTask>,
    started: Mutex<Option<mpsc::UnboundedReceiver<WatchTask>>>,
}

/// The informers of a process: at most one watch per kind and selector, however many controllers ask for it.
#[derive(Clone)]
pub struct Informers {
    registry: Arc<Registry>,
    client: Client,
}

impl Informers {
    /// An empty registry; nothing is watched before [`Informers::run`] is polled.
    pub fn new(client: Client) -> Self {
        Self::build(client, None)
    }

    /// The same in a process that holds the objects itself: the bytes of each are then held once. `originals` finds those
    /// of a kind, given by group, version and plural name.
    pub fn beside(client: Client, originals: impl Fn(&str, &str, &str) -> Original + Send + Sync + 'static) -> Self {
        Self::build(client, Some(Box::new(originals)))
    }

    fn build(client: Client, originals: Option<Originals>) -> Self {
        let (start, started) = mpsc::unbounded_channel();
        let started = Mutex::new(Some(started));
        let registry = Registry { client: client.clone(), originals, informers: Mutex::default(), start, started };
        Self { registry: Arc::new(registry), client }
    }

    /// The client for whoever holds this handle: the one the informers read through, unless it was given its own.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The same informers for somebody who writes under a name of their own.
    pub fn for_client(&self, client: Client) -> Self {
        Self { registry: Arc::clone(&self.registry), client }
    }

    /// The shared informer of all objects of a kind.
    pub fn of<K: Object + Resource<DynamicType = ()>>(&self) -> Informer<K> {
        self.of_selected(Selector::default())
    }

    /// The shared informer of the objects of a kind that match `selector`.
    pub fn of_selected<K: Object + Resource<DynamicType = ()>>(&self, selector: Selector) -> Informer<K> {
        self.register(&(), selector)
    }

    /// The shared informer of whole objects whose kind is known at run time only.
    pub fn dynamic(&self, resource: &ApiResource) -> Informer<DynamicObject> {
        self.register(resource, Selector::default())
    }

    /// The shared informer of the metadata of any kind.
    pub fn metadata(&self, resource: &ApiResource) -> Informer<Metadata> {
        self.register(resource, Selector::default())
    }

    /// Ends the metadata informer of a kind that is not served any more.
    pub fn release_metadata(&self, resource: &ApiResource) {
        let url = Metadata::url_path(resource, None);
        let identity = Identity { object: TypeId::of::<Metadata>(), url, selector: Selector::default() };
        if let Some(registered) = self.registry.informers.lock().remove(&identity) {
            registered.stop.cancel();
        }
    }

    /// Ends the informer of selected objects; whoever still has it is told no more.
    pub fn release<K: Object + Resource<DynamicType = ()>>(&self, selector: &Selector) {
        let url = K::url_path(&(), selector.namespace.as_deref());
        let identity = Identity { object: TypeId::of::<K>(), url, selector: selector.clone() };
        if let Some(registered) = self.registry.informers.lock().remove(&identity) {
            registered.stop.cancel();
        }
    }

    fn register<K: Object>(&self, resource: &K::DynamicType, selector: Selector) -> Informer<K> {
        let url = K::url_path(resource, selector.namespace.as_deref());
        let identity = Identity { object: TypeId::of::<K>(), url: url.clone(), selector: selector.clone() };
        let mut informers = self.registry.informers.lock();
        if let Some(registered) = informers.get(&identity)
            && let Ok(cache) = Arc::clone(&registered.cache).downcast::<Cache<K>>()
        {
            return Informer { cache };
        }
        let original = self
            .registry
            .originals
            .as_ref()
            .map(|originals| originals(&K::group(resource), &K::version(resource), &K::plural(resource)));
        let cache = Arc::new(Cache::<K>::new(original));
        let stop = CancellationToken::new();
        informers.insert(
            identity,
            Registered { cache: Arc::clone(&cache) as Arc<dyn Any + Send + Sync>, stop: stop.clone() },
        );
        let watcher = Watcher::new(self.registry.client.clone(), url, selector, Arc::clone(&cache));
        if self.registry.start.send(Box::pin(watcher.run(stop))).is_err() {
            tracing::debug!("informer requested after shutdown");
        }
        Informer { cache }
    }

    /// Runs all watches, also those of informers requested later, until `stop`.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), InformersError> {
        let mut started = self.registry.started.lock().take().ok_or(InformersError::AlreadyRunning)?;
        let mut watches = JoinSet::new();
        let result = loop {
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                Some(task) = started.recv() => {
                    watches.spawn(task);
                }
                Some(ended) = watches.join_next(), if !watches.is_empty() => if let Err(error) = ended {
                    break Err(InformersError::Task(error));
                },
            }
        };
        watches.shutdown().await;
        result
    }
}

/// A shared cache of one kind.
pub struct Informer<K> {
    cache: Arc<Cache<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { cache: Arc::clone(&self.cache) }
    }
}

impl<K: Object> Informer<K> {
    /// Waits until the first list is complete; `false` when the informers stopped before.
    pub async fn synced(&self) -> bool {
        let mut phase = self.cache.phase();
        phase.wait_for(|phase| *phase != Phase::Filling).await.is_ok_and(|phase| *phase == Phase::Synced)
    }

    /// Whether the first list is complete.
    pub fn is_synced(&self) -> bool {
        *self.cache.phase().borrow() == Phase::Synced
    }

    /// The object of that name; the namespace of cluster-scoped objects is empty.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.cache.get(namespace, name)
    }

    /// All objects, in the order of namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.cache.list()
    }

    /// All objects of a namespace, in the order of their names.
    pub fn namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.cache.namespace(namespace)
    }

    /// How many objects the cache holds.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest resource version the cache has seen of this kind; 0 where resource versions are not numbers.
    ///
    /// A controller that has just written an object knows its effect is in the cache once this is not smaller than the
    /// resource version of the answer.
    pub fn revision(&self) -> u64 {
        self.cache.revision()
    }

    /// The index of this name and function, made when it does not exist yet. Who asks with the same name and the same
    /// function shares it; the same name with another function is another index. The function must capture nothing.
    pub fn index(&self, name: &str, keys_of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Index<K> {
        self.cache.index(name, keys_of)
    }

    /// What `fact_of` says of each object, by what `value_of` says; it is also given what was said of another object with
    /// the same value, whose parts it may share. Each call makes one, which is kept current for as long as the informer runs.
    pub fn facts<F: Clone + Send + Sync + 'static>(
        &self,
        value_of: impl Fn(&K) -> Option<String> + Send + Sync + 'static,
        fact_of: impl Fn(&K, Option<&F>) -> F + Send + Sync + 'static,
    ) -> Facts<K, F> {
        let facts = Facts::new(value_of, fact_of);
        self.cache.follow(facts.follower());
        facts
    }

    /// All current objects, then every change.
    pub fn subscribe(&self) -> Subscription<K> {
        self.cache.subscribe()
    }
}
