//! Endpoints: the older form of EndpointSlices, one object per Service, for clients that still read it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::Endpoint;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use reconcile::{EventType, Index, Informer, Key, Queue, Recorder, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{
    Context, ReconcileError, failed, gone_is_done, is_conflict, is_namespace_terminating, run_with_feeds, synced,
};
use crate::endpointslice::{self, Group, HEADLESS, Place, TriggerTimes};
use crate::endpointslice_mirroring::LEADER;
use crate::gather;
use crate::pending::{LAG_RETRY, PendingWrites};

#[cfg(test)]
mod tests;

/// Services reconciled at once, upstream's default is 5; in process a few more cost nothing.
const WORKERS: usize = 32;
/// Addresses per object, upstream's limit: the object is rewritten as a whole for each change.
const ADDRESSES_MAX: usize = 1000;
/// Says that not all addresses are listed.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

struct Controller {
    context: Context,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    pods_by_label: Index<Pod>,
    pending: PendingWrites,
    triggers: TriggerTimes,
    recorder: Recorder,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let endpoints = context.informers.of::<Endpoints>();
    let all = async { services.synced().await && pods.synced().await && endpoints.synced().await };
    if !synced(&stop, all).await {
        return;
    }
    let services_by_pair = endpointslice::services_by_pair(&services);
    let controller = Arc::new(Controller {
        pods_by_label: endpointslice::pods_by_label(&pods),
        services: services.clone(),
        endpoints: endpoints.clone(),
        pending: PendingWrites::default(),
        triggers: TriggerTimes::default(),
        recorder: Recorder::new(context.client.clone(), "endpoint-controller"),
        context,
    });
    let queue: Queue<Key> = Queue::new();
    let feeds = futures::future::join3(
        feed(&services, &queue, |change| [Key::of(change.object().as_ref())]),
        feed(&endpoints, &queue, |change| {
            let key = Key::of(change.object().as_ref());
            (managed(change.object()) && !controller.pending.is_echo(&key, change)).then_some(key)
        }),
        gather::feed(
            &pods,
            &queue,
            |change| endpointslice::affected_services(&services_by_pair, change),
            |key| endpointslice::candidates(&services, &controller.pods_by_label, key),
        ),
    );
    let reconcile = |key: Key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&key).await }
    };
    run_with_feeds(run_controller("endpoints", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

fn managed(endpoints: &Endpoints) -> bool {
    endpoints.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

/// What a service's object should say.
#[derive(Debug)]
struct Wanted {
    labels: BTreeMap<String, String>,
    subsets: Vec<EndpointSubset>,
    /// There are more addresses than it says.
    is_truncated: bool,
}

fn wanted(service: &Service, groups: Vec<Group>) -> Wanted {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if !endpointslice::has_address(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let spec = service.spec.as_ref();
    // Endpoints have one address per pod: of the service's first family
    let families = spec.and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let first = families.first().or(groups.first().map(|group| &group.address_type)).cloned().unwrap_or_default();
    let has_ports = spec.is_some_and(|spec| spec.ports.as_ref().is_some_and(|ports| !ports.is_empty()));
    let groups = groups.into_iter().filter(|group| group.address_type == first);
    // a pod that knows none of the service's ports is no endpoint here
    let groups = groups.filter(|group| !group.ports.is_empty() || !has_ports && !endpointslice::has_address(service));
    let mut subsets: Vec<EndpointSubset> = groups.filter_map(subset).collect();
    let is_truncated = truncate(&mut subsets);
    Wanted { labels, subsets, is_truncated }
}

/// Leaves out what is too much: of what is not ready, and only then of what is, the same part of each subset.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| count(&subset.addresses)).sum();
    let unready: usize = subsets.iter().map(|subset| count(&subset.not_ready_addresses)).sum();
    if ready + unready <= ADDRESSES_MAX {
        return false;
    }
    let (total, room) = if ready > ADDRESSES_MAX { (ready, ADDRESSES_MAX) } else { (unready, ADDRESSES_MAX - ready) };
    let mut left = room;
    for subset in subsets {
        let list = if ready > ADDRESSES_MAX {
            subset.not_ready_addresses = None;
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        let part = (count(list) * room).div_ceil(total.max(1)).min(left);
        if let Some(addresses) = list {
            addresses.truncate(part);
            left -= addresses.len();
        }
        if count(list) == 0 {
            *list = None;
        }
    }
    true
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
}

fn subset(group: Group) -> Option<EndpointSubset> {
    let (mut ready, mut unready) = (Vec::new(), Vec::new());
    for endpoint in group.endpoints {
        let is_ready = is_ready(&endpoint);
        // A pod that is on its way out is no endpoint at all here, unless the service publishes all.
        let terminating = endpoint.conditions.as_ref().is_some_and(|conditions| conditions.terminating == Some(true));
        if terminating && !is_ready {
            continue;
        }
        let list = if is_ready { &mut ready } else { &mut unready };
        list.push(EndpointAddress {
            ip: endpoint.addresses.into_iter().next().unwrap_or_default(),
            hostname: endpoint.hostname,
            node_name: endpoint.node_name,
            target_ref: endpoint.target_ref,
        });
    }
    if ready.is_empty() && unready.is_empty() {
        return None;
    }
    let ports = group.ports.into_iter().map(|port| EndpointPort {
        app_protocol: port.app_protocol,
        name: port.name.filter(|name| !name.is_empty()),
        port: port.port.unwrap_or_default(),
        protocol: port.protocol,
    });
    let uid = |address: &EndpointAddress| address.target_ref.as_ref().and_then(|target| target.uid.clone());
    let some = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|one, other| one.ip.cmp(&other.ip).then_with(|| uid(one).cmp(&uid(other))));
        (!addresses.is_empty()).then_some(addresses)
    };
    let ports: Vec<EndpointPort> = ports.collect();
    let ports = (!ports.is_empty()).then_some(ports);
    Some(EndpointSubset { addresses: some(ready), not_ready_addresses: some(unready), ports })
}

impl Wanted {
    /// The object as it should be; `None` when it is.
    fn applied(self, service: &Service, current: Option<&Endpoints>, trigger: Option<&str>) -> Option<Endpoints> {
        let is_marked = current.is_some_and(|current| current.annotations().contains_key(OVER_CAPACITY));
        if let Some(current) = current
            && current.subsets.as_deref().unwrap_or_default() == self.subsets
            && *current.labels() == self.labels
            && is_marked == self.is_truncated
        {
            return None;
        }
        let mut metadata = match current {
            Some(current) => current.metadata.clone(),
            None => kube::core::ObjectMeta {
                name: service.metadata.name.clone(),
                namespace: service.metadata.namespace.clone(),
                ..Default::default()
            },
        };
        metadata.labels = Some(self.labels);
        endpointslice::set_trigger(&mut metadata, trigger);
        let annotations = metadata.annotations.get_or_insert_default();
        if self.is_truncated {
            annotations.insert(OVER_CAPACITY.into(), "truncated".into());
        } else {
            annotations.remove(OVER_CAPACITY);
        }
        Some(Endpoints { metadata, subsets: (!self.subsets.is_empty()).then_some(self.subsets) })
    }
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        if self.pending.lags(key, self.endpoints.revision(), |_, _| true) {
            return Ok(Some(LAG_RETRY));
        }
        let current = self.endpoints.get(&key.namespace, &key.name);
        let api = self.context.api::<Endpoints>(&key.namespace);
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            self.pending.forget(key);
            self.triggers.forget(key);
            // what was kept by hand goes with its service too, unless it is a lock
            if current.is_some_and(|current| !current.annotations().contains_key(LEADER)) {
                let result = gone_is_done(api.delete(&key.name, &DeleteParams::default()).await);
                result.map_err(failed("delete endpoints", key))?;
            }
            return Ok(None);
        };
        let pods = endpointslice::pods_of(&self.pods_by_label, &service);
        let Some(groups) = endpointslice::groups(&service, &pods, |_| Place::Zone(None)) else { return Ok(None) };
        let trigger = self.triggers.next(key, &service, &pods);
        let wanted = wanted(&service, groups);
        let Some(endpoints) = wanted.applied(&service, current.as_deref(), trigger.as_deref()) else { return Ok(None) };
        let (written, reason, action) = match current {
            None => {
                let created = api.create(&PostParams::default(), &endpoints).await;
                (created, "FailedToCreateEndpoint", "create endpoint for service")
            }
            Some(_) => {
                let updated = api.replace(&key.name, &PostParams::default(), &endpoints).await;
                (updated, "FailedToUpdateEndpoint", "update endpoint")
            }
        };
        match written {
            Ok(written) => self.pending.wrote(key, &written.metadata),
            Err(error) if is_namespace_terminating(&error) => {}
            Err(error) => {
                let is_conflict = is_conflict(&error);
                let error = failed(action, key)(error);
                if !is_conflict {
                    let message = format!("Failed to {action} {key}: {}", error.cause());
                    self.recorder.about(&endpoints, EventType::Warning, reason, message);
                }
                return Err(error);
            }
        }
        Ok(None)
    }
}
