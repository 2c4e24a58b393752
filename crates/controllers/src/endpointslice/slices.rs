//! From wanted endpoints and existing slices to the fewest writes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use kube::ResourceExt;

use super::endpoints::Group;
use super::{HEADLESS, MANAGED_BY, MANAGER, SERVICE_NAME, is_headless};
use crate::owners;

/// Endpoints per slice, upstream's default: a changed endpoint rewrites its slice only.
pub(super) const ENDPOINTS_MAX: usize = 100;

/// One write of a slice.
#[derive(Debug)]
pub(super) enum Write {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

/// Who an endpoint is, whatever its state: a changed state changes it in place.
fn identity(endpoint: &Endpoint) -> (Option<String>, Vec<String>) {
    (endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()), endpoint.addresses.clone())
}

/// Decides on the writes for one service.
pub(super) fn decide(service: &Service, wanted: Vec<Group>, existing: &[Arc<EndpointSlice>]) -> Vec<Write> {
    let mut left: Vec<&Arc<EndpointSlice>> =
        existing.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()).collect();
    let labels = labels(service);
    let mut writes = Vec::new();
    for group in wanted {
        let (mine, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|slice| {
            slice.address_type == group.address_type && same_ports(slice.ports.as_deref(), &group.ports)
        });
        left = others;
        writes.extend(fill(service, group, &mine, &labels));
    }
    writes.extend(left.into_iter().map(|slice| Write::Delete(Arc::clone(slice))));
    writes
}

fn same_ports(have: Option<&[EndpointPort]>, want: &[EndpointPort]) -> bool {
    have.unwrap_or_default() == want
}

/// Distributes the group's endpoints over its slices: each stays where it is, new ones go where there is room, first into
/// slices that change anyway.
fn fill(
    service: &Service,
    group: Group,
    existing: &[&Arc<EndpointSlice>],
    labels: &BTreeMap<String, String>,
) -> Vec<Write> {
    let mut wanted: HashMap<_, Endpoint> = HashMap::new();
    let mut order = Vec::new();
    for endpoint in group.endpoints {
        let identity = identity(&endpoint);
        if wanted.insert(identity.clone(), endpoint).is_none() {
            order.push(identity);
        }
    }
    let owner = owners::controller_reference(service);
    let mut kept: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>, bool)> = existing
        .iter()
        .map(|slice| {
            let endpoints: Vec<Endpoint> =
                slice.endpoints.iter().flatten().filter_map(|old| wanted.remove(&identity(old))).collect();
            let changed = endpoints != slice.endpoints.as_deref().unwrap_or_default()
                || slice.labels() != labels
                || owners::controller_of(&slice.metadata).is_none_or(|current| current.uid != owner.uid);
            (*slice, endpoints, changed)
        })
        .collect();
    let mut new: Vec<Endpoint> = order.iter().filter_map(|identity| wanted.remove(identity)).collect();
    kept.sort_by_key(|(_, endpoints, changed)| (!*changed, std::cmp::Reverse(endpoints.len())));
    for (_, endpoints, changed) in &mut kept {
        let room = ENDPOINTS_MAX.saturating_sub(endpoints.len()).min(new.len());
        if room > 0 {
            endpoints.extend(new.drain(..room));
            *changed = true;
        }
    }
    let mut writes = Vec::new();
    let mut chunks: Vec<Vec<Endpoint>> = new.chunks(ENDPOINTS_MAX).map(<[Endpoint]>::to_vec).collect();
    let placeholder_needed = chunks.is_empty() && kept.iter().all(|(_, endpoints, _)| endpoints.is_empty());
    if placeholder_needed && kept.is_empty() {
        chunks.push(Vec::new());
    }
    for (at, (slice, endpoints, changed)) in kept.into_iter().enumerate() {
        if endpoints.is_empty() && !(placeholder_needed && at == 0) {
            writes.push(Write::Delete(Arc::clone(slice)));
        } else if changed {
            let mut updated = EndpointSlice::clone(slice);
            updated.endpoints = Some(endpoints);
            updated.metadata.labels = Some(labels.clone());
            updated.metadata.owner_references = Some(vec![owner.clone()]);
            writes.push(Write::Update(Box::new(updated)));
        }
    }
    for endpoints in chunks {
        writes.push(Write::Create(Box::new(EndpointSlice {
            metadata: kube::core::ObjectMeta {
                generate_name: Some(format!("{}-", service.name_any())),
                namespace: service.namespace(),
                labels: Some(labels.clone()),
                owner_references: Some(vec![owner.clone()]),
                ..Default::default()
            },
            address_type: group.address_type.clone(),
            endpoints: Some(endpoints),
            ports: Some(group.ports.clone()),
        })));
    }
    writes
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}
