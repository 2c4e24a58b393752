//! From Endpoints to the slices that mirror them: one for each address family and set of ports.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::ResourceExt;

use super::MANAGER;
use crate::endpointslice::{MANAGED_BY, SERVICE_NAME};
use crate::owners;

/// Addresses mirrored of each subset, upstream's default: what does not fit one slice is left out.
pub(super) const ADDRESSES_MAX: usize = 1000;
/// Annotations that tell of the Endpoints object itself.
const OWN_ANNOTATIONS: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

/// One write of a slice.
#[derive(Debug)]
pub(super) enum Write {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

/// What to write, and what cannot be mirrored.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
    /// Addresses that are none.
    pub(super) invalid: usize,
    /// Addresses for which there is no room.
    pub(super) beyond: usize,
}

/// Endpoints that belong into one slice.
struct Group {
    address_type: &'static str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
    seen: HashSet<String>,
}

/// Decides on the slices that mirror `endpoints`.
pub(super) fn decide(endpoints: &Endpoints, existing: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let mut left: Vec<&Arc<EndpointSlice>> =
        existing.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()).collect();
    for group in groups(endpoints, &mut plan) {
        let (mine, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|slice| {
            slice.address_type == group.address_type && slice.ports.as_deref().unwrap_or_default() == group.ports
        });
        left = others;
        let mut mine = mine.into_iter();
        match mine.next() {
            Some(slice) => plan.writes.extend(update(endpoints, slice, group)),
            None if endpoints.metadata.deletion_timestamp.is_none() => {
                plan.writes.push(Write::Create(Box::new(create(endpoints, group))));
            }
            None => {}
        }
        left.extend(mine);
    }
    for slice in left {
        let reused = reuse(endpoints, slice, &mut plan.writes);
        plan.writes.push(reused.unwrap_or_else(|| Write::Delete(Arc::clone(slice))));
    }
    plan
}

/// A slice that is needed no more takes the place of one that would be created.
fn reuse(endpoints: &Endpoints, slice: &EndpointSlice, writes: &mut Vec<Write>) -> Option<Write> {
    let owner = owners::controller_of(&slice.metadata)?;
    let is_alike = |write: &Write| match write {
        Write::Create(new) => new.address_type == slice.address_type,
        Write::Update(_) | Write::Delete(_) => false,
    };
    let at = writes.iter().position(is_alike).filter(|_| Some(&owner.uid) == endpoints.metadata.uid.as_ref())?;
    let Write::Create(mut new) = writes.remove(at) else { return None };
    let metadata = slice.metadata.clone();
    let made = new.metadata;
    new.metadata = kube::core::ObjectMeta { labels: made.labels, annotations: made.annotations, ..metadata };
    Some(Write::Update(new))
}

fn groups(endpoints: &Endpoints, plan: &mut Plan) -> Vec<Group> {
    let mut groups: BTreeMap<(&'static str, String), Group> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port.port),
                protocol: port.protocol.clone(),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let identity = serde_json::to_string(&ports).unwrap_or_default();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut room = ADDRESSES_MAX;
        for (address, ready) in ready.chain(unready) {
            if room == 0 {
                plan.beyond += 1;
                continue;
            }
            let address_type = match address.ip.parse() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => {
                    plan.invalid += 1;
                    continue;
                }
            };
            room -= 1;
            let group = groups.entry((address_type, identity.clone())).or_insert_with(|| Group {
                address_type,
                ports: ports.clone(),
                endpoints: Vec::new(),
                seen: HashSet::new(),
            });
            if group.endpoints.len() < ADDRESSES_MAX && group.seen.insert(address.ip.clone()) {
                group.endpoints.push(endpoint(address, ready));
            }
        }
    }
    groups.into_values().collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), endpoints.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn annotations(endpoints: &Endpoints) -> Option<BTreeMap<String, String>> {
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
    (!annotations.is_empty()).then_some(annotations)
}

fn create(endpoints: &Endpoints, group: Group) -> EndpointSlice {
    EndpointSlice {
        metadata: kube::core::ObjectMeta {
            generate_name: Some(format!("{}-", endpoints.name_any())),
            namespace: endpoints.namespace(),
            labels: Some(labels(endpoints)),
            annotations: annotations(endpoints),
            owner_references: Some(vec![owners::controller_reference(endpoints)]),
            ..Default::default()
        },
        address_type: group.address_type.to_owned(),
        endpoints: Some(group.endpoints),
        ports: Some(group.ports),
    }
}

/// The slice as it should be, if it is not. Endpoints that it has keep their places.
fn update(endpoints: &Endpoints, slice: &Arc<EndpointSlice>, group: Group) -> Option<Write> {
    let mut wanted: BTreeMap<String, Endpoint> =
        group.endpoints.into_iter().map(|endpoint| (endpoint.addresses[0].clone(), endpoint)).collect();
    let known = slice.endpoints.iter().flatten();
    let mut list: Vec<Endpoint> = known.filter_map(|old| wanted.remove(old.addresses.first()?)).collect();
    list.extend(wanted.into_values());
    let mut changed = EndpointSlice::clone(slice);
    changed.metadata.labels = Some(labels(endpoints));
    changed.metadata.annotations = annotations(endpoints);
    changed.metadata.owner_references = Some(vec![owners::controller_reference(endpoints)]);
    changed.endpoints = Some(list);
    let same = changed.metadata.labels == slice.metadata.labels
        && changed.metadata.annotations == slice.metadata.annotations
        && owners::controller_of(&slice.metadata).map(|owner| &owner.uid) == endpoints.metadata.uid.as_ref()
        && changed.endpoints.as_deref().unwrap_or_default() == slice.endpoints.as_deref().unwrap_or_default();
    (!same).then(|| Write::Update(Box::new(changed)))
}
