//! All policies and all workloads, and who is selected by what.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;
use kinds::istio::{AuthorizationPolicy, PeerAuthentication, PolicyTargetReference, WorkloadSelector};
use parking_lot::Mutex;
use reconcile::Key;
use tokio::sync::watch;

use super::{
    authorization::Policy,
    peers::{Authentication, Modes},
    posture::{Guard, Posture},
};
use crate::routing::Rank;

/// A workload, as policies select it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The Services of its namespace that it is an endpoint of.
    pub services: BTreeSet<String>,
}

/// Decides who may speak to whom. Cheap to share, and asked through the [`Guard`] of each workload.
#[derive(Debug)]
pub struct Judge {
    root: Box<str>,
    state: Mutex<State>,
    ready: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    authentications: Shelf<Authentication>,
    policies: Shelf<Policy>,
    workloads: BTreeMap<Key, Arc<Guard>>,
}

/// Compiled objects of one kind, by namespace and name.
#[derive(Debug)]
struct Shelf<T> {
    namespaces: HashMap<String, BTreeMap<String, Kept<T>>>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Shelf { namespaces: HashMap::new() }
    }
}

#[derive(Debug)]
struct Kept<T> {
    scope: Scope,
    object: Arc<T>,
}

/// Which workloads an object is about, in its namespace or, in the root namespace, everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Labels(BTreeMap<String, String>),
    /// The endpoints of Services.
    Services(BTreeSet<String>),
    /// None.
    Nothing,
}

impl Scope {
    fn takes(&self, workload: &Workload) -> bool {
        match self {
            Scope::All => true,
            Scope::Labels(labels) => labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value)),
            Scope::Services(services) => !services.is_disjoint(&workload.services),
            Scope::Nothing => false,
        }
    }

    fn of(selector: Option<&WorkloadSelector>, targets: &[&PolicyTargetReference], wrong: &mut Vec<String>) -> Scope {
        if targets.is_empty() {
            return match selector {
                Some(selector) if !selector.match_labels.is_empty() => Scope::Labels(selector.match_labels.clone()),
                _ => Scope::All,
            };
        }
        if selector.is_some() {
            wrong.push("selector and targetRefs exclude each other: the selector does not count".to_owned());
        }
        let mut services = BTreeSet::new();
        for target in targets {
            if target.group.is_empty() && target.kind == "Service" {
                services.insert(target.name.clone());
            } else {
                wrong.push(format!("targetRef {} {}: only a Service can be a target", target.kind, target.name));
            }
        }
        if services.is_empty() { Scope::Nothing } else { Scope::Services(services) }
    }
}

impl<T> Shelf<T> {
    /// The scopes of an object before and now.
    fn put(&mut self, key: &Key, kept: Option<Kept<T>>) -> Vec<Scope> {
        let now = kept.as_ref().map(|kept| kept.scope.clone());
        let before = match kept {
            Some(kept) => self.namespaces.entry(key.namespace.clone()).or_default().insert(key.name.clone(), kept),
            None => {
                let namespace = self.namespaces.get_mut(&key.namespace);
                let before = namespace.and_then(|objects| objects.remove(&key.name));
                if self.namespaces.get(&key.namespace).is_some_and(BTreeMap::is_empty) {
                    self.namespaces.remove(&key.namespace);
                }
                before
            }
        };
        before.map(|kept| kept.scope).into_iter().chain(now).collect()
    }

    fn namespace(&self, namespace: &str) -> impl Iterator<Item = &Kept<T>> {
        self.namespaces.get(namespace).into_iter().flat_map(BTreeMap::values)
    }
}

impl Judge {
    /// A judge without policies, for whom those of the namespace `root` are for the whole mesh.
    pub fn new(root: &str) -> Arc<Self> {
        Arc::new(Judge { root: root.into(), state: Mutex::default(), ready: watch::Sender::new(false) })
    }

    /// The guard of a workload, which is made or learns what the workload has become.
    pub fn workload(&self, key: &Key, workload: Workload) -> Arc<Guard> {
        let mut state = self.state.lock();
        if let Some(known) = state.workloads.get(key).filter(|known| known.workload == workload) {
            return Arc::clone(known);
        }
        let posture = state.posture(&self.root, &workload);
        let guard = Arc::new(Guard { workload, posture: ArcSwap::from_pointee(posture) });
        state.workloads.insert(key.clone(), Arc::clone(&guard));
        guard
    }

    /// Forgets a workload that is gone.
    pub fn forget(&self, key: &Key) {
        self.state.lock().workloads.remove(key);
    }

    /// Waits until the policies that there were at the start are known: nothing should be decided before.
    pub async fn ready(&self) {
        // The sender lives as long as the judge.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    pub(super) fn set_ready(&self) {
        self.ready.send_replace(true);
    }

    /// Puts an AuthorizationPolicy in place of what it was; says what of it cannot be followed.
    pub(super) fn authorize(&self, key: &Key, object: Option<&AuthorizationPolicy>) -> Vec<String> {
        let mut wrong = Vec::new();
        let kept = object.map(|object| {
            let targets: Vec<_> = object.spec.target_refs.iter().chain(&object.spec.target_ref).collect();
            let scope = Scope::of(object.spec.selector.as_ref(), &targets, &mut wrong);
            Kept { scope, object: Arc::new(Policy::compile(object, &mut wrong)) }
        });
        let mut state = self.state.lock();
        let scopes = state.policies.put(key, kept);
        state.refresh(&self.root, key, &scopes);
        wrong
    }

    /// Puts a PeerAuthentication in place of what it was; says what of it cannot be followed.
    pub(super) fn authenticate(&self, key: &Key, rank: Rank, object: Option<&PeerAuthentication>) -> Vec<String> {
        let mut wrong = Vec::new();
        let kept = object.map(|object| {
            let mut scope = Scope::of(object.spec.selector.as_ref(), &[], &mut wrong);
            let selects = scope != Scope::All;
            if selects && *key.namespace == *self.root {
                wrong.push("a selector does not count in the namespace that is for the whole mesh".to_owned());
                scope = Scope::Nothing;
            }
            Kept { scope, object: Arc::new(Authentication::compile(object, rank, selects, &mut wrong)) }
        });
        let mut state = self.state.lock();
        let scopes = state.authentications.put(key, kept);
        state.refresh(&self.root, key, &scopes);
        wrong
    }
}

impl State {
    /// Finds anew what counts for the workloads in one of the scopes of an object.
    fn refresh(&self, root: &str, key: &Key, scopes: &[Scope]) {
        let everywhere = key.namespace == root;
        let first = Key::new(if everywhere { "" } else { &key.namespace }, "");
        let here =
            self.workloads.range(first..).take_while(|(other, _)| everywhere || other.namespace == key.namespace);
        for (_, guard) in here {
            if scopes.iter().any(|scope| scope.takes(&guard.workload)) {
                guard.posture.store(Arc::new(self.posture(root, &guard.workload)));
            }
        }
    }

    fn posture(&self, root: &str, workload: &Workload) -> Posture {
        let own = Some(&*workload.namespace).filter(|own| *own != root);
        let policies = [Some(root), own].into_iter().flatten().flat_map(|namespace| self.policies.namespace(namespace));
        let policies =
            policies.filter(|kept| kept.scope.takes(workload)).map(|kept| Arc::clone(&kept.object)).collect();
        let oldest = |namespace: Option<&str>, selects: bool| {
            let there = namespace.into_iter().flat_map(|namespace| self.authentications.namespace(namespace));
            let there = there.filter(|kept| (kept.scope != Scope::All) == selects && kept.scope.takes(workload));
            there.map(|kept| &*kept.object).min_by_key(|object| &object.rank)
        };
        Posture { modes: Modes::of(oldest(Some(root), false), oldest(own, false), oldest(own, true)), policies }
    }
}
