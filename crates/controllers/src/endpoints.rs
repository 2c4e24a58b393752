//! Endpoints: the older form of EndpointSlices, one object per Service, for clients that still read it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::Endpoint;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use reconcile::{Index, Informer, Key, Queue, feed, run_controller};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, is_namespace_terminating, run_with_feeds, synced};
use crate::endpointslice::{self, Group, HEADLESS, Place};

/// Services reconciled at once, upstream's default is 5.
const WORKERS: usize = 4;
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
        context,
    });
    let queue: Queue<Key> = Queue::new();
    let feeds = futures::future::join3(
        feed(&services, &queue, |change| [Key::of(change.object().as_ref())]),
        feed(&endpoints, &queue, |change| managed(change.object()).then(|| Key::of(change.object().as_ref()))),
        feed(&pods, &queue, |change| endpointslice::affected_services(&services_by_pair, change)),
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

/// The object a service should have.
fn wanted(service: &Service, groups: Vec<Group>) -> Endpoints {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if endpointslice::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    // Endpoints have one address per pod: the service's first family.
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let first = families.first().or(groups.first().map(|group| &group.address_type)).cloned().unwrap_or_default();
    let groups: Vec<Group> = groups.into_iter().filter(|group| group.address_type == first).collect();
    let ready = groups.iter().flat_map(|group| &group.endpoints).filter(|endpoint| is_ready(endpoint)).count();
    // What is ready comes first where there is not room for all.
    let mut room = Room { ready: ADDRESSES_MAX, unready: ADDRESSES_MAX.saturating_sub(ready), truncated: false };
    let subsets: Vec<EndpointSubset> = groups.into_iter().filter_map(|group| subset(group, &mut room)).collect();
    let truncated = room.truncated;
    let annotations = truncated.then(|| BTreeMap::from([(OVER_CAPACITY.into(), "truncated".into())]));
    Endpoints {
        metadata: kube::core::ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations,
            ..Default::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

/// For how many more addresses there is room.
struct Room {
    ready: usize,
    unready: usize,
    /// Something was left out.
    truncated: bool,
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
}

fn subset(group: Group, room: &mut Room) -> Option<EndpointSubset> {
    let (mut ready, mut unready) = (Vec::new(), Vec::new());
    for endpoint in group.endpoints {
        let is_ready = is_ready(&endpoint);
        // A pod that is on its way out is no endpoint at all here, unless the service publishes all.
        let terminating = endpoint.conditions.as_ref().is_some_and(|conditions| conditions.terminating == Some(true));
        if terminating && !is_ready {
            continue;
        }
        let (list, left) = if is_ready { (&mut ready, &mut room.ready) } else { (&mut unready, &mut room.unready) };
        let Some(fewer) = left.checked_sub(1) else {
            room.truncated = true;
            continue;
        };
        *left = fewer;
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
    let some = |addresses: Vec<EndpointAddress>| (!addresses.is_empty()).then_some(addresses);
    let ports: Vec<EndpointPort> = ports.collect();
    let ports = (!ports.is_empty()).then_some(ports);
    Some(EndpointSubset { addresses: some(ready), not_ready_addresses: some(unready), ports })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let current = self.endpoints.get(&key.namespace, &key.name);
        let api = self.context.api::<Endpoints>(&key.namespace);
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            if current.is_some_and(|current| managed(&current)) {
                let result = gone_is_done(api.delete(&key.name, &DeleteParams::default()).await);
                result.map_err(failed("delete endpoints", key))?;
            }
            return Ok(None);
        };
        let pods = endpointslice::pods_of(&self.pods_by_label, &service);
        let Some(groups) = endpointslice::groups(&service, &pods, |_| Place::Zone(None)) else { return Ok(None) };
        let wanted = wanted(&service, groups);
        let Some(current) = current else {
            return match api.create(&PostParams::default(), &wanted).await {
                Err(error) if is_namespace_terminating(&error) => Ok(None),
                Err(error) => Err(failed("create endpoints", key)(error)),
                Ok(_) => Ok(None),
            };
        };
        let over_capacity = |endpoints: &Endpoints| endpoints.annotations().get(OVER_CAPACITY).cloned();
        if current.subsets == wanted.subsets
            && current.metadata.labels == wanted.metadata.labels
            && over_capacity(&current) == over_capacity(&wanted)
        {
            return Ok(None);
        }
        let mut labels: BTreeMap<&String, Option<&String>> = current.labels().keys().map(|key| (key, None)).collect();
        labels.extend(wanted.labels().iter().map(|(key, value)| (key, Some(value))));
        let patch = json!({
            "metadata": {"uid": current.metadata.uid, "resourceVersion": current.metadata.resource_version,
                "labels": labels, "annotations": {OVER_CAPACITY: over_capacity(&wanted)}},
            "subsets": wanted.subsets});
        let result = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        gone_is_done(result).map_err(failed("update endpoints", key))?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(count: usize, ready: impl Fn(usize) -> (bool, bool)) -> Group {
        let endpoints = (0..count).map(|at| {
            let (ready, terminating) = ready(at);
            serde_json::from_value(json!({"addresses": [format!("10.0.{}.{}", at / 250, at % 250)],
                "conditions": {"ready": ready, "serving": ready, "terminating": terminating}}))
            .unwrap()
        });
        let ports = serde_json::from_value(json!([{"name": "", "port": 8080, "protocol": "TCP"}])).unwrap();
        Group { address_type: "IPv4".into(), ports, endpoints: endpoints.collect() }
    }

    #[test]
    fn addresses_are_parted_by_readiness_and_leaving_pods_left_out() {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "web", "labels": {"a": "b"}},
            "spec": {"clusterIP": "None"}}))
        .unwrap();
        let endpoints = wanted(&service, vec![group(3, |at| (at == 0, at == 2))]);
        let subset = &endpoints.subsets.as_ref().unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "10.0.0.0");
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap()[0].ip, "10.0.0.1");
        assert_eq!(
            (subset.not_ready_addresses.as_ref().unwrap().len(), subset.ports.as_ref().unwrap()[0].port),
            (1, 8080)
        );
        assert!(endpoints.labels().contains_key(HEADLESS) && endpoints.labels()["a"] == "b");
        assert!(wanted(&service, vec![group(0, |_| (true, false))]).subsets.is_none());
    }

    #[test]
    fn too_many_addresses_are_cut_and_it_is_said() {
        let service = Service::default();
        let endpoints = wanted(&service, vec![group(1001, |_| (true, false))]);
        assert_eq!(endpoints.subsets.as_ref().unwrap()[0].addresses.as_ref().unwrap().len(), ADDRESSES_MAX);
        assert_eq!(endpoints.annotations()[OVER_CAPACITY], "truncated");
        let endpoints = wanted(&service, vec![group(1500, |at| (at >= 600, false))]);
        let subset = &endpoints.subsets.as_ref().unwrap()[0];
        let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
        assert_eq!((count(&subset.addresses), count(&subset.not_ready_addresses)), (900, 100), "the ready ones first");
    }
}
