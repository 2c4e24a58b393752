//! From a service and its pods to endpoints, grouped by address family and ports.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

pub(super) const IPV4: &str = "IPv4";
pub(super) const IPV6: &str = "IPv6";

/// Endpoints that belong together in slices: one address family, and one meaning of the service's ports.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    /// `IPv4` or `IPv6`.
    pub(crate) address_type: String,
    pub(crate) ports: Vec<EndpointPort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// What is known of a pod's node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is in this zone, as far as it says so.
    Zone(Option<String>),
    /// There is no such node.
    Missing,
}

/// The address families in which a service has endpoints. One from before services named them has that of its address, or
/// both.
pub(super) fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let named = spec.and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let mut families: Vec<&'static str> =
        [IPV4, IPV6].into_iter().filter(|one| named.iter().any(|n| n == one)).collect();
    // the first one named is the one that the service prefers
    families.sort_by_key(|family| named.iter().position(|name| name == family));
    if !families.is_empty() {
        return families;
    }
    match spec.and_then(|spec| spec.cluster_ip.as_deref()).map(str::parse::<IpAddr>) {
        Some(Ok(IpAddr::V4(_))) => vec![IPV4],
        Some(Ok(IpAddr::V6(_))) => vec![IPV6],
        _ => vec![IPV4, IPV6],
    }
}

/// The wanted groups that have endpoints; `None` for services whose endpoints are not ours to keep. A pod of a node that is
/// not there is left out, unless the service publishes whatever there is.
pub(crate) fn groups(service: &Service, pods: &[Arc<Pod>], place: impl Fn(&str) -> Place) -> Option<Vec<Group>> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty());
    if selector.is_none() || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let publish_unready = spec.publish_not_ready_addresses == Some(true);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut groups: Vec<Group> = Vec::new();
    for family in families(service) {
        // by the numbers that the service's ports have in a pod: what else there is to a port is the same for all
        let mut known: HashMap<Vec<Option<i32>>, usize> = HashMap::new();
        for pod in pods.iter().filter(|pod| !pods::is_terminal(pod)) {
            let Some(address) = address(pod, family) else { continue };
            let zone = match pods::node_name(pod).map_or(Place::Zone(None), &place) {
                Place::Zone(zone) => zone,
                Place::Missing if publish_unready => None,
                Place::Missing => continue,
            };
            let numbers: Vec<Option<i32>> = ports.iter().map(|port| target_port(port, pod)).collect();
            let at = match known.get(&numbers) {
                Some(at) => *at,
                None => {
                    let ports = named_ports(ports, &numbers);
                    groups.push(Group { address_type: family.to_owned(), ports, endpoints: Vec::new() });
                    known.insert(numbers, groups.len() - 1);
                    groups.len() - 1
                }
            };
            groups[at].endpoints.push(endpoint(service, pod, address, zone));
        }
    }
    Some(groups)
}

/// Whether a change of the pod can change an endpoint.
pub(super) fn differs(old: &Pod, new: &Pod) -> bool {
    let ips = |pod: &Pod| pod.status.as_ref().map(|status| (status.pod_ip.clone(), status.pod_ips.clone()));
    let place = |pod: &Pod| pod.spec.as_ref().map(|s| (s.node_name.clone(), s.hostname.clone(), s.subdomain.clone()));
    old.metadata.labels != new.metadata.labels
        || old.metadata.deletion_timestamp.is_some() != new.metadata.deletion_timestamp.is_some()
        || pods::is_ready(old) != pods::is_ready(new)
        || pods::is_terminal(old) != pods::is_terminal(new)
        || ips(old) != ips(new)
        || place(old) != place(new)
}

/// Whether the pod is an endpoint of the services that select it: it has an address, and has not ended.
pub(super) fn is_endpoint(pod: &Pod) -> bool {
    let has_address = pod
        .status
        .as_ref()
        .is_some_and(|status| status.pod_ips.iter().flatten().next().is_some() || status.pod_ip.is_some());
    has_address && !pods::is_terminal(pod)
}

fn address(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    let wanted = |ip: &&String| match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => family == IPV4,
        Ok(IpAddr::V6(_)) => family == IPV6,
        Err(_) => false,
    };
    listed.chain(&status.pod_ip).find(wanted).cloned()
}

fn endpoint(service: &Service, pod: &Pod, address: String, zone: Option<String>) -> Endpoint {
    let publish_unready = service.spec.as_ref().is_some_and(|spec| spec.publish_not_ready_addresses == Some(true));
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let spec = pod.spec.as_ref();
    let own_subdomain = spec.and_then(|spec| spec.subdomain.as_ref()) == service.metadata.name.as_ref();
    let ready = publish_unready || serving && !terminating;
    let node_name = pods::node_name(pod).map(String::from);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: spec.and_then(|spec| spec.hostname.clone()).filter(|name| own_subdomain && !name.is_empty()),
        node_name,
        zone,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// The service's ports under the numbers that they have in a pod; a port name that the pod does not know is left out.
fn named_ports(ports: &[ServicePort], numbers: &[Option<i32>]) -> Vec<EndpointPort> {
    let known = ports.iter().zip(numbers).filter_map(|(port, number)| Some((port, (*number)?)));
    known
        .map(|(port, number)| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            port: Some(number),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|open| open.name.as_ref() == Some(name) && open.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|open| open.container_port)
}
