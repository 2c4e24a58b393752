//! The ConfigMaps and Secrets that the node's pods refer to, each followed for itself: a node may see no others.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use reconcile::{Informer, Informers, Object, Selector};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::sources::References;

/// Changes that wait to be looked at; whoever follows waits when there are more.
const CHANGES_WAITING: usize = 64;

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

/// One object that is followed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Source {
    /// What a pod of `namespace` refers to.
    pub(crate) fn of(namespace: &str, references: &References) -> Vec<Self> {
        let source = |kind: Kind, name: &String| Self { kind, namespace: namespace.to_owned(), name: name.clone() };
        let config_maps = references.config_maps.iter().map(|name| source(Kind::ConfigMap, name));
        config_maps.chain(references.secrets.iter().map(|name| source(Kind::Secret, name))).collect()
    }

    fn selector(&self) -> Selector {
        Selector::one(self.namespace.as_str(), &self.name)
    }
}

/// Everything that is followed.
pub(crate) struct Followed {
    informers: Informers,
    following: HashMap<Source, AbortHandle>,
    tasks: JoinSet<()>,
    changed: mpsc::Sender<Source>,
    changes: mpsc::Receiver<Source>,
}

impl Followed {
    pub(crate) fn new(informers: Informers) -> Self {
        let (changed, changes) = mpsc::channel(CHANGES_WAITING);
        Self { informers, following: HashMap::new(), tasks: JoinSet::new(), changed, changes }
    }

    /// The next object that changed or was seen first.
    pub(crate) async fn changed(&mut self) -> Option<Source> {
        self.changes.recv().await
    }

    /// Follows exactly these.
    pub(crate) fn set(&mut self, wanted: HashSet<Source>) {
        while self.tasks.try_join_next().is_some() {}
        let (informers, following) = (&self.informers, &mut self.following);
        following.retain(|source, task| {
            let keep = wanted.contains(source);
            if !keep {
                task.abort();
                match source.kind {
                    Kind::ConfigMap => informers.release::<ConfigMap>(&source.selector()),
                    Kind::Secret => informers.release::<Secret>(&source.selector()),
                }
            }
            keep
        });
        for source in wanted {
            if self.following.contains_key(&source) {
                continue;
            }
            let (selector, changed) = (source.selector(), self.changed.clone());
            let task = match source.kind {
                Kind::ConfigMap => {
                    self.tasks.spawn(follow(self.informers.of_selected::<ConfigMap>(selector), source.clone(), changed))
                }
                Kind::Secret => {
                    self.tasks.spawn(follow(self.informers.of_selected::<Secret>(selector), source.clone(), changed))
                }
            };
            self.following.insert(source, task);
        }
    }
}

async fn follow<O: Object>(informer: Informer<O>, source: Source, changed: mpsc::Sender<Source>) {
    let mut changes = informer.subscribe();
    while changes.next().await.is_some() {
        if changed.send(source.clone()).await.is_err() {
            return;
        }
    }
}
