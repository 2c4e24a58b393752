//! EndpointSlices: for each Service with a selector, the addresses of the pods behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use reconcile::{Change, EventType, Index, Informer, Key, Queue, Recorder, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{
    Context, ReconcileError, failed, gone_is_done, is_conflict, is_namespace_terminating, run_with_feeds, synced,
};
use crate::node_lifecycle::by_node;
use crate::pending::{LAG_RETRY, PendingWrites};
use crate::selector::{contains_all, pair};
use crate::{gather, owners, pods};
use hints::Distribution;
use proportions::Proportions;
use slices::Write;

pub(crate) use endpoints::{Group, Place, groups};
pub(crate) use metrics::render as render_metrics;
pub(crate) use slices::set_trigger;
pub(crate) use trigger_times::TriggerTimes;

mod endpoints;
mod hints;
mod metrics;
mod proportions;
mod slices;
#[cfg(test)]
mod tests;
mod topology;
mod trigger_times;

/// Services reconciled at once, upstream's default is 5; in process a few more cost nothing.
const WORKERS: usize = 32;
/// Marks the endpoints of a headless service.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
/// Names the service of a slice.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Names a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Names who keeps a slice.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`] for slices kept here: upstream's, whose work this is.
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Tells when that happened which an object answers.
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

struct Controller {
    context: Context,
    services: Informer<Service>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    pods_by_label: Index<Pod>,
    slices_by_service: Index<EndpointSlice>,
    pending: PendingWrites,
    recorder: Recorder,
    triggers: TriggerTimes,
    proportions: Proportions,
}

/// Every label of the pod.
fn label_pairs(pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    pod.labels().iter().map(|(key, value)| pair(namespace, key, value)).collect()
}

/// The shared index of pods by label.
pub(crate) fn pods_by_label(pods: &Informer<Pod>) -> Index<Pod> {
    pods.index("label", label_pairs)
}

/// The shared index in which a pod's services are found.
pub(crate) fn services_by_pair(services: &Informer<Service>) -> Index<Service> {
    services.index("first-selector-pair", first_pair)
}

/// Whether the service has an address of its own.
pub(crate) fn has_address(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    !matches!(address, "" | "None")
}

/// The first pair of the service's selector: a pod that matches the service has it among its labels.
fn first_pair(service: &Service) -> Vec<String> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.and_then(|selector| selector.first_key_value()).map(|(k, v)| pair(namespace, k, v)).into_iter().collect()
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    if slice.labels().get(MANAGED_BY).is_none_or(|manager| manager != MANAGER) {
        return None;
    }
    Some(Key::new(slice.namespace().unwrap_or_default(), slice.labels().get(SERVICE_NAME)?))
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    let slices = context.informers.of::<EndpointSlice>();
    let all = async { services.synced().await && pods.synced().await && nodes.synced().await && slices.synced().await };
    if !synced(&stop, all).await {
        return;
    }
    let services_by_pair = services_by_pair(&services);
    let pods_by_node = pods.index("node", by_node);
    let controller = Arc::new(Controller {
        pods_by_label: pods_by_label(&pods),
        slices_by_service: slices
            .index("service", |slice| service_of(slice).map(|key| key.to_string()).into_iter().collect()),
        pending: PendingWrites::default(),
        recorder: Recorder::new(context.client.clone(), "endpoint-slice-controller"),
        triggers: TriggerTimes::default(),
        proportions: Proportions::default(),
        services: services.clone(),
        nodes: nodes.clone(),
        slices: slices.clone(),
        context,
    });
    let queue: Queue<Key> = Queue::new();
    let feeds = futures::future::join4(
        feed(&nodes, &queue, |change| {
            let mut keys = affected_by_node(&services_by_pair, &pods_by_node, change);
            keys.extend(controller.proportions.node_changed(change));
            keys
        }),
        feed(&services, &queue, |change| [Key::of(change.object().as_ref())]),
        feed(&slices, &queue, |change| controller.affected_by_slice(change)),
        gather::feed(
            &pods,
            &queue,
            |change| affected_services(&services_by_pair, change),
            |key| candidates(&services, &controller.pods_by_label, key),
        ),
    );
    let reconcile = |key: Key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&key).await }
    };
    run_with_feeds(run_controller("endpointslice", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

fn zone(node: &Node) -> Option<&String> {
    node.labels().get(ZONE).filter(|zone| !zone.is_empty())
}

/// The services with pods on a node that came, or was said to be in another zone. Pods of nodes that go are deleted.
fn affected_by_node(services_by_pair: &Index<Service>, pods_by_node: &Index<Pod>, change: &Change<Node>) -> Vec<Key> {
    let Change::Applied { old, new } = change else { return Vec::new() };
    if old.as_ref().is_some_and(|old| zone(old) == zone(new)) {
        return Vec::new();
    }
    let mut keys = Vec::new();
    for pod in pods_by_node.get(&new.name_any()) {
        let more = services_of(services_by_pair, &pod).into_iter().filter(|key| !keys.contains(key));
        keys.extend(more.collect::<Vec<_>>());
    }
    keys
}

/// The services that select a pod.
fn services_of(services_by_pair: &Index<Service>, pod: &Pod) -> Vec<Key> {
    let candidates = label_pairs(pod).into_iter().flat_map(|pair| services_by_pair.get(&pair));
    let selects = |service: &Arc<Service>| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| contains_all(pod.metadata.labels.as_ref(), selector))
    };
    candidates.filter(selects).map(|service| Key::of(service.as_ref())).collect()
}

/// The services whose endpoints a pod change may alter.
pub(crate) fn affected_services(services_by_pair: &Index<Service>, change: &Change<Pod>) -> Vec<Key> {
    let (old, new) = match change {
        Change::Applied { old, new } => (old.as_ref(), new),
        Change::Deleted(last) => (None, last),
    };
    // one that was no endpoint and is none, as when it waits for its address, concerns nobody
    let concerns = |pod: &Arc<Pod>| endpoints::is_endpoint(pod);
    let is_unseen = matches!(change, Change::Applied { .. }) && !concerns(new) && !old.is_some_and(concerns);
    if is_unseen || old.is_some_and(|old| !endpoints::differs(old, new)) {
        return Vec::new();
    }
    let mut keys = Vec::new();
    for pod in old.into_iter().chain([new]) {
        for key in services_of(services_by_pair, pod) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

/// The pods with the rarest of these labels; `None` where there is no label.
pub(crate) fn with_rarest(
    pods_by_label: &Index<Pod>,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Option<Vec<Arc<Pod>>> {
    owners::rarest(pods_by_label, labels.iter().map(|(key, value)| pair(namespace, key, value)))
}

/// How many pods are looked at for the service of that name.
pub(crate) fn candidates(services: &Informer<Service>, pods_by_label: &Index<Pod>, key: &Key) -> usize {
    let service = services.get(&key.namespace, &key.name);
    let selector = service.as_ref().and_then(|service| service.spec.as_ref()?.selector.as_ref());
    let pairs = selector.into_iter().flatten().map(|(name, value)| pair(&key.namespace, name, value));
    pairs.map(|pair| pods_by_label.count(&pair)).min().unwrap_or(0)
}

/// The pods the service selects, found through its rarest label.
pub(crate) fn pods_of(pods_by_label: &Index<Pod>, service: &Service) -> Vec<Arc<Pod>> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return Vec::new() };
    let Some(mut pods) = with_rarest(pods_by_label, namespace, selector) else { return Vec::new() };
    pods.retain(|pod| contains_all(pod.metadata.labels.as_ref(), selector) && !pods::is_terminal(pod));
    pods
}

impl Controller {
    /// The services that a slice is or was of, unless the change is what was written here.
    fn affected_by_slice(&self, change: &Change<EndpointSlice>) -> Vec<Key> {
        let old = match change {
            Change::Applied { old, .. } => old.as_ref(),
            Change::Deleted(_) => None,
        };
        let mut keys: Vec<Key> = Vec::new();
        for key in old.into_iter().chain([change.object()]).filter_map(|slice| service_of(slice)) {
            if !keys.contains(&key) && !self.pending.is_echo(&key, change) {
                keys.push(key);
            }
        }
        keys
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        if self.pending.lags(key, self.slices.revision(), |name, _| self.slices.get(&key.namespace, name).is_none()) {
            metrics::synced("stale");
            return Ok(Some(LAG_RETRY));
        }
        // Slices of a service that is gone are collected through their owner reference.
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            self.pending.forget(key);
            self.triggers.forget(key);
            self.proportions.forget(key);
            metrics::forget(key);
            return Ok(None);
        };
        let done = self.sync(key, &service).await;
        metrics::synced(if done.is_ok() { "success" } else { "error" });
        if let Err(error) = &done
            && !matches!(error, ReconcileError::Api { source, .. } if is_conflict(source))
        {
            let message = format!("Error updating Endpoint Slices for Service {key}: {}", error.cause());
            self.recorder.about(service.as_ref(), EventType::Warning, "FailedToUpdateEndpointSlices", message);
        }
        done.map(|()| None)
    }

    async fn sync(&self, key: &Key, service: &Service) -> Result<(), ReconcileError> {
        let place = |name: &str| match self.nodes.get("", name) {
            Some(node) => Place::Zone(zone(&node).cloned()),
            None => Place::Missing,
        };
        let pods = pods_of(&self.pods_by_label, service);
        let Some(wanted) = groups(service, &pods, place) else { return Ok(()) };
        let trigger = self.triggers.next(key, service, &pods);
        let distribution = Distribution::of(service);
        let mut plans = slices::decide(service, wanted, &self.slices_by_service.get(&key.to_string()));
        metrics::planned(key, &plans, distribution);
        for plan in &mut plans {
            let said = self.proportions.apply(key, plan, distribution, &self.nodes);
            if let Some((kind, reason, message)) = said {
                self.recorder.about(service, kind, reason, message);
            }
        }
        for plan in plans {
            let changes = plan.changes();
            for write in plan.writes(service, trigger.as_deref()) {
                self.write(key, write).await?;
            }
            metrics::changed(changes, distribution);
        }
        Ok(())
    }

    async fn write(&self, key: &Key, write: Write) -> Result<(), ReconcileError> {
        let api = self.context.api::<EndpointSlice>(&key.namespace);
        match write {
            Write::Create(slice) => match api.create(&PostParams::default(), &slice).await {
                Ok(created) => {
                    self.pending.wrote(key, &created.metadata);
                    metrics::wrote("create");
                }
                Err(error) if is_namespace_terminating(&error) => {}
                Err(error) => return Err(failed("create endpointslice of service", key)(error)),
            },
            Write::Update(slice) => {
                let name = slice.name_any();
                let updated = api.replace(&name, &PostParams::default(), &slice).await;
                let updated = updated.map_err(failed("update endpointslice", Key::new(&key.namespace, name)))?;
                self.pending.wrote(key, &updated.metadata);
                metrics::wrote("update");
            }
            Write::Delete(slice) => {
                let uid = slice.metadata.uid.clone();
                let preconditions = Some(Preconditions { uid, resource_version: None });
                let params = DeleteParams { preconditions, ..DeleteParams::default() };
                let result = gone_is_done(api.delete(&slice.name_any(), &params).await);
                result.map_err(failed("delete endpointslice", Key::of(slice.as_ref())))?;
                self.pending.deleted(key, &slice.metadata);
                metrics::wrote("delete");
            }
        }
        Ok(())
    }
}
