//! From a service and its pods to endpoints, grouped by address family and ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

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

/// The wanted groups; `None` for services whose endpoints are not ours to keep. A pod of a node that is not there is left
/// out, unless the service publishes whatever there is.
pub(crate) fn groups(service: &Service, pods: &[Arc<Pod>], place: impl Fn(&str) -> Place) -> Option<Vec<Group>> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty());
    if selector.is_none() || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let families = spec.ip_families.clone().unwrap_or_else(|| vec!["IPv4".into()]);
    let publish_unready = spec.publish_not_ready_addresses == Some(true);
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    for family in families {
        for pod in pods {
            let Some(address) = address(pod, &family) else { continue };
            let zone = match pods::node_name(pod).map_or(Place::Zone(None), &place) {
                Place::Zone(zone) => zone,
                Place::Missing if publish_unready => None,
                Place::Missing => continue,
            };
            let ports = resolved_ports(spec.ports.as_deref().unwrap_or_default(), pod);
            let identity = serde_json::to_string(&ports).unwrap_or_default();
            let group = groups.entry((family.clone(), identity)).or_insert_with(|| Group {
                address_type: family.clone(),
                ports,
                endpoints: Vec::new(),
            });
            group.endpoints.push(endpoint(service, pod, address, zone));
        }
        if !groups.keys().any(|(address_type, _)| *address_type == family) {
            // A service without pods still has one slice, by which readers know that it has none.
            let group = Group { address_type: family.clone(), ports: Vec::new(), endpoints: Vec::new() };
            groups.insert((family, String::new()), group);
        }
    }
    Some(groups.into_values().collect())
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

fn address(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    let wanted = |ip: &&String| match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => family == "IPv4",
        Ok(IpAddr::V6(_)) => family == "IPv6",
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
        hints: hints(service, zone.as_deref(), node_name.as_deref()).filter(|_| ready),
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

/// For whom a ready endpoint is meant, where the service keeps its traffic near: its own zone, or its own node and else
/// its zone.
fn hints(service: &Service, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let distribution = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref());
    let for_zones = || zone.map(|name| vec![ForZone { name: name.to_owned() }]);
    let for_nodes = || node.map(|name| vec![ForNode { name: name.to_owned() }]);
    let hints = match distribution? {
        "PreferClose" | "PreferSameZone" => EndpointHints { for_zones: for_zones(), for_nodes: None },
        "PreferSameNode" => EndpointHints { for_zones: for_zones(), for_nodes: for_nodes() },
        _ => return None,
    };
    (hints.for_zones.is_some() || hints.for_nodes.is_some()).then_some(hints)
}

/// The service's ports as this pod has them; a port name the pod does not know is left out.
fn resolved_ports(ports: &[ServicePort], pod: &Pod) -> Vec<EndpointPort> {
    ports
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                port: Some(target_port(port, pod)?),
                app_protocol: port.app_protocol.clone(),
            })
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
    sidecars
        .chain(&spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|open| open.name.as_ref() == Some(name) && open.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|open| open.container_port)
}
