//! Garbage collector: deletes what has lost all its owners, and carries out foreground and orphaning deletion.
//!
//! It watches the metadata of every kind the server has, pods with the controllers that work on them, and keeps a graph of
//! objects by uid.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, DynamicObject};
use parking_lot::Mutex;
use reconcile::{Change, EventType, Informers, Metadata, Object, Queue, Recorder, Subscription, run_controller};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::batch;
use crate::brief::Brief;
use crate::context::{Context, ReconcileError, failed, gone_is_done, is_not_found};
use crate::discovery::{self, Kind};
use crate::metrics::Family;
use graph::{FOREGROUND, Graph, Node, ORPHAN, OwnerState, Step};

mod graph;
#[cfg(test)]
mod tests;

/// Objects worked on at once. Upstream has 20; in process what is deleted together is also committed together.
const WORKERS: usize = 64;
/// CRDs come in bunches; this long after one the kinds are read again.
const DISCOVERY_DELAY: Duration = Duration::from_millis(200);
/// How soon a failed discovery is tried again.
const DISCOVERY_RETRY: Duration = Duration::from_secs(1);
/// Kinds nobody owns things with and that change all the time, upstream's list.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

static SYNC_FAILURES: Family = Family::counter(
    "garbagecollector_controller_resources_sync_error_total",
    "Times the kinds to be watched could not be read.",
    &[],
);

/// Appends the metrics in Prometheus' text format.
pub(crate) fn render_metrics(out: &mut String) {
    SYNC_FAILURES.render(out);
}

struct Collector {
    context: Context,
    recorder: Recorder,
    graph: Mutex<Graph>,
    kinds: Mutex<HashMap<String, Arc<Kind>>>,
    /// Group-versions and kinds that references may name.
    served: Mutex<HashSet<(String, String)>>,
    queue: Queue<String>,
}

/// Whether a kind is the pods: others look at whole pods in any case, and no other objects come and change as often, so that
/// a watch of their metadata beside it would be the dearest of all.
fn is_pods(kind: &Kind) -> bool {
    kind.resource.group.is_empty() && kind.resource.plural == "pods"
}

/// Identifies a kind: group and plural.
fn identity(resource: &ApiResource) -> String {
    format!("{}/{}", resource.group, resource.plural)
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let collector = Arc::new(Collector {
        recorder: Recorder::new(context.client.clone(), "garbage-collector-controller"),
        context,
        graph: Mutex::default(),
        kinds: Mutex::default(),
        served: Mutex::default(),
        queue: Queue::new(),
    });
    let mut watches = JoinSet::new();
    tokio::select! {
        () = stop.cancelled() => return,
        () = collector.first_sync(&mut watches) => {}
    }
    let worker = Arc::clone(&collector);
    let reconcile = |uid: String| {
        let collector = Arc::clone(&worker);
        async move { collector.reconcile(&uid).await }
    };
    tokio::select! {
        () = run_controller("garbage-collector", collector.queue.clone(), WORKERS, stop, reconcile) => {}
        () = collector.follow_kinds(&mut watches) => {}
    }
}

impl Collector {
    /// Watches all kinds and waits until the graph is complete: deciding earlier would ask the server for owners that are
    /// merely not listed yet.
    async fn first_sync(self: &Arc<Self>, watches: &mut JoinSet<()>) {
        while let Err(error) = self.refresh_kinds(watches).await {
            tracing::debug!(%error, "cannot discover kinds");
            tokio::time::sleep(DISCOVERY_RETRY).await;
        }
        let kinds: Vec<Arc<Kind>> = self.kinds.lock().values().cloned().collect();
        for kind in kinds {
            match is_pods(&kind) {
                true => self.context.informers.of::<Pod>().synced().await,
                false => self.context.informers.metadata(&kind.resource).synced().await,
            };
        }
    }

    /// Reads the kinds again whenever a definition or a server of some changes.
    async fn follow_kinds(self: &Arc<Self>, watches: &mut JoinSet<()>) {
        let definition = ApiResource::erase::<
            k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        >(&());
        let service =
            ApiResource::erase::<k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService>(&());
        let mut definitions = self.context.informers.metadata(&definition).subscribe();
        let mut services = self.context.informers.metadata(&service).subscribe();
        loop {
            let changed = tokio::select! {
                change = definitions.next() => change,
                change = services.next() => change,
            };
            if changed.is_none() {
                break;
            }
            loop {
                tokio::time::sleep(DISCOVERY_DELAY).await;
                while definitions.try_next().is_some() || services.try_next().is_some() {}
                match self.refresh_kinds(watches).await {
                    Ok(()) => break,
                    Err(error) => tracing::debug!(%error, "cannot discover kinds"),
                }
                tokio::time::sleep(DISCOVERY_RETRY).await;
            }
        }
        std::future::pending().await
    }

    async fn refresh_kinds(self: &Arc<Self>, watches: &mut JoinSet<()>) -> Result<(), kube::Error> {
        let discovered =
            discovery::discover(&self.context.client).await.inspect_err(|_| SYNC_FAILURES.increase(&[]))?;
        let mut served: HashMap<String, Arc<Kind>> = discovered
            .kinds
            .into_iter()
            .filter(|kind| {
                let name = (kind.resource.group.as_str(), kind.resource.plural.as_str());
                kind.can_be_watched() && !IGNORED.contains(&name)
            })
            .map(|kind| (identity(&kind.resource), Arc::new(kind)))
            .collect();
        // A server that does not answer now still has what it had.
        for (name, kind) in self.kinds.lock().iter() {
            if discovered.stale.contains(&kind.resource.api_version) {
                served.entry(name.clone()).or_insert_with(|| Arc::clone(kind));
            }
        }
        *self.served.lock() = discovered.served;
        let known = std::mem::replace(&mut *self.kinds.lock(), served.clone());
        for (_, kind) in known.iter().filter(|(name, _)| !served.contains_key(*name)) {
            self.context.informers.release_metadata(&kind.resource);
        }
        for (_, kind) in served.into_iter().filter(|(name, _)| !known.contains_key(name)) {
            let collector = Arc::clone(self);
            let informers = self.context.informers.clone();
            watches.spawn(async move { collector.follow(informers, kind).await });
        }
        // Ended watches of kinds that are not served any more.
        while watches.try_join_next().is_some() {}
        Ok(())
    }

    /// Takes the changes of one kind into the graph until the kind is released.
    async fn follow(self: Arc<Self>, informers: Informers, kind: Arc<Kind>) {
        match is_pods(&kind) {
            true => self.take(informers.of::<Pod>().subscribe(), &kind).await,
            false => self.take(informers.metadata(&kind.resource).subscribe(), &kind).await,
        }
        let affected = self.graph.lock().remove_kind(&kind);
        for uid in affected {
            self.queue.add(uid);
        }
    }

    async fn take<K: Object>(&self, mut changes: Subscription<K>, kind: &Arc<Kind>) {
        while let Some(change) = changes.next().await {
            let affected = match change {
                Change::Applied { new, .. } => match Node::of(kind, &*new) {
                    Some(node) => self.graph.lock().apply(node),
                    None => continue,
                },
                Change::Deleted(last) => self.graph.lock().remove(last.meta().uid.as_deref().unwrap_or_default(), true),
            };
            for uid in affected {
                self.queue.add(uid);
            }
        }
    }

    async fn reconcile(&self, uid: &str) -> Result<Option<Duration>, ReconcileError> {
        let Some(node) = self.graph.lock().get(uid) else { return Ok(None) };
        let mut states = Vec::with_capacity(node.owners().len());
        for owner in node.owners() {
            let known = self.graph.lock().owner_state(&node, owner);
            states.push(match known {
                Some(state) => state,
                None => self.look_up(&node, owner).await?,
            });
        }
        let (step, dependents) = {
            let graph = self.graph.lock();
            let dependents = graph.dependents(uid);
            (graph::decide(&node, &states, &dependents), dependents)
        };
        match step {
            Step::Nothing => {}
            Step::DeleteDependents => {
                for dependent in dependents.iter().filter(|dependent| !dependent.deleting) {
                    self.queue.add(dependent.uid().to_owned());
                }
            }
            Step::RemoveFinalizer(finalizer) => self.remove_finalizer(&node, finalizer).await?,
            Step::OrphanDependents => {
                let gone = [uid.to_owned()];
                let gone = &gone;
                batch::all(dependents, |dependent| async move { self.remove_owners(&dependent, gone).await }).await?;
                self.remove_finalizer(&node, ORPHAN).await?;
            }
            Step::RemoveOwners(gone) => self.remove_owners(&node, &gone).await?,
            Step::Unblock => self.unblock_owners(&node).await?,
            Step::Delete(policy) => self.delete(&node, policy).await?,
        }
        Ok(None)
    }

    /// Asks the server for an owner the graph does not know.
    async fn look_up(&self, node: &Node, owner: &OwnerReference) -> Result<OwnerState, ReconcileError> {
        let namespace = node.namespace();
        if self.graph.lock().is_out_of_reach(node, owner) {
            self.tell_of_reference(node, owner);
        }
        let version = (owner.api_version.clone(), owner.kind.clone());
        let is_served = self.served.lock().contains(&version);
        let kind = self.kind_of(owner).filter(|_| is_served);
        // Of a kind nobody serves nothing is known, least of all that the owner is gone.
        let Some(kind) = kind else { return Ok(OwnerState::Solid) };
        if kind.namespaced() && namespace.is_empty() {
            tracing::debug!(object = %node.key(), owner = owner.name, "cluster-scoped object names a namespaced owner");
            return Ok(OwnerState::Solid);
        }
        let scope = if kind.namespaced() { namespace } else { "" };
        let found = self.api(&kind, scope).get_metadata_opt(&owner.name).await;
        let found = found.map_err(failed("look up owner", format!("{} {}", owner.kind, owner.name)))?;
        match found.filter(|found| found.metadata.uid.as_deref() == Some(&owner.uid)) {
            Some(found)
                if found.metadata.deletion_timestamp.is_some()
                    && found.finalizers().iter().any(|f| f == FOREGROUND) =>
            {
                Ok(OwnerState::Waiting)
            }
            Some(_) => Ok(OwnerState::Solid),
            None => {
                self.graph.lock().note_absent(owner, scope);
                Ok(OwnerState::Absent)
            }
        }
    }

    /// The kind a reference names, in whatever version it is watched.
    fn kind_of(&self, owner: &OwnerReference) -> Option<Arc<Kind>> {
        let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let kinds = self.kinds.lock();
        kinds.values().find(|kind| kind.resource.kind == owner.kind && kind.resource.group == group).cloned()
    }

    /// Says on the object that it names an owner which its namespace does not have.
    fn tell_of_reference(&self, node: &Node, owner: &OwnerReference) {
        let namespace = node.namespace();
        let OwnerReference { api_version, kind, name, uid, .. } = owner;
        let message = format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in namespace \
             {namespace:?}"
        );
        let resource = &node.kind.resource;
        let about = ObjectReference {
            api_version: Some(resource.api_version.clone()),
            kind: Some(resource.kind.clone()),
            name: Some(node.name().to_owned()),
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            uid: Some(node.uid().to_owned()),
            ..ObjectReference::default()
        };
        self.recorder.event(&about, EventType::Warning, "OwnerRefInvalidNamespace", "", message);
    }

    fn api(&self, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
        match namespace {
            "" => Api::all_with(self.context.client.clone(), &kind.resource),
            namespace => Api::namespaced_with(self.context.client.clone(), namespace, &kind.resource),
        }
    }

    async fn delete(&self, node: &Node, policy: PropagationPolicy) -> Result<(), ReconcileError> {
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(node.uid().to_owned()),
                // Owners added meanwhile must save the object.
                resource_version: node.resource_version().map(str::to_owned),
            }),
            ..DeleteParams::default()
        };
        tracing::debug!(kind = node.kind.resource.kind, object = %node.key(), "deleting object without owners");
        let objects = Brief::of::<DynamicObject>(&self.context.client, &node.kind.resource, node.namespace());
        let result = objects.delete(node.name(), &params).await;
        gone_is_done(result).map_err(failed("collect", node.key()))
    }

    async fn remove_finalizer(&self, node: &Node, finalizer: &str) -> Result<(), ReconcileError> {
        let live = self.live(node).await?;
        let Some(live) = live.filter(|live| live.finalizers().iter().any(|f| f == finalizer)) else { return Ok(()) };
        let left: Vec<&String> = live.finalizers().iter().filter(|f| *f != finalizer).collect();
        let patch = json!({"metadata": {
            "uid": node.uid(), "resourceVersion": live.metadata.resource_version, "finalizers": left}});
        self.patch(node, patch).await
    }

    async fn remove_owners(&self, node: &Node, gone: &[String]) -> Result<(), ReconcileError> {
        let Some(live) = self.live(node).await? else { return Ok(()) };
        let left: Vec<_> = live.owner_references().iter().filter(|owner| !gone.contains(&owner.uid)).collect();
        if left.len() == live.owner_references().len() {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "uid": node.uid(), "resourceVersion": live.metadata.resource_version, "ownerReferences": left}});
        self.patch(node, patch).await
    }

    /// The change of the references has the object looked at again, which then deletes it.
    async fn unblock_owners(&self, node: &Node) -> Result<(), ReconcileError> {
        let Some(live) = self.live(node).await? else { return Ok(()) };
        let mut owners = live.owner_references().to_vec();
        for owner in &mut owners {
            owner.block_owner_deletion = Some(false);
        }
        let patch = json!({"metadata": {
            "uid": node.uid(), "resourceVersion": live.metadata.resource_version, "ownerReferences": owners}});
        self.patch(node, patch).await
    }

    async fn live(&self, node: &Node) -> Result<Option<Metadata>, ReconcileError> {
        let found = self.api(&node.kind, node.namespace()).get_metadata_opt(node.name()).await;
        let found = found.map_err(failed("read", node.key()))?.map(|found| Metadata { metadata: found.metadata });
        Ok(found.filter(|found| found.metadata.uid.as_deref() == Some(node.uid())))
    }

    async fn patch(&self, node: &Node, patch: serde_json::Value) -> Result<(), ReconcileError> {
        let api = self.api(&node.kind, node.namespace());
        match api.patch_metadata(node.name(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if !is_not_found(&error) => Err(failed("patch", node.key())(error)),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
