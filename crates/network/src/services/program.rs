//! What one Service asks of the rules, computed from the Service and its EndpointSlices.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::nft::ENDPOINTS_MAX;

/// The label by which an EndpointSlice names its Service.
pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A transport protocol that Services know and this network carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    fn parse(name: Option<&str>) -> Option<Self> {
        match name.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The protocol's number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A Service by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServiceKey {
    /// The namespace.
    pub(crate) namespace: String,
    /// The name.
    pub(crate) name: String,
}

/// What packets are matched by to reach a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Match {
    /// Destination address, protocol and port.
    Cluster(Ipv4Addr, Protocol, u16),
    /// Protocol and port on any address of the node.
    Node(Protocol, u16),
}

/// An endpoint's address and port.
pub(crate) type Target = (Ipv4Addr, u16);

/// The rules of one Service port that has endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// The transport protocol.
    pub(crate) protocol: Protocol,
    /// What leads here.
    pub(crate) matches: Vec<Match>,
    /// A client keeps its endpoint (`sessionAffinity: ClientIP`).
    pub(crate) affinity: bool,
    /// Where packets go, in order and without repetition; never empty.
    pub(crate) targets: Vec<Target>,
}

/// The programs of a Service by the name of their chain. A port without a usable endpoint has none: its packets match
/// nothing, and the table refuses what is left over.
pub(crate) fn programs(service: &Service, slices: &[Arc<EndpointSlice>]) -> BTreeMap<String, Program> {
    let Some(spec) = &service.spec else { return BTreeMap::new() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return BTreeMap::new();
    }
    let address = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
    let Some(address) = address else { return BTreeMap::new() };
    let with_node_ports = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
    let mut programs = BTreeMap::new();
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Ok(number)) = (Protocol::parse(port.protocol.as_deref()), u16::try_from(port.port)) else {
            continue;
        };
        let targets = targets(port, protocol, slices);
        if targets.is_empty() {
            continue;
        }
        let mut matches = vec![Match::Cluster(address, protocol, number)];
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        matches.extend(node_port.filter(|_| with_node_ports).map(|port| Match::Node(protocol, port)));
        programs.insert(chain_name(service, protocol, port), Program { protocol, matches, affinity, targets });
    }
    programs
}

/// The endpoints that a port's packets may go to: the ready ones, and when there are none those that are shutting down
/// but still serve.
fn targets(port: &ServicePort, protocol: Protocol, slices: &[Arc<EndpointSlice>]) -> Vec<Target> {
    let name = port.name.as_deref().unwrap_or_default();
    let mut ready = Vec::new();
    let mut terminating = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let numbers = slice
            .ports
            .iter()
            .flatten()
            .filter(|port| port.name.as_deref().unwrap_or_default() == name)
            .filter(|port| Protocol::parse(port.protocol.as_deref()) == Some(protocol))
            .filter_map(|port| port.port.and_then(|number| u16::try_from(number).ok()));
        for number in numbers {
            for endpoint in slice.endpoints.iter().flatten() {
                let list = match readiness(endpoint) {
                    Readiness::Ready => &mut ready,
                    Readiness::Terminating => &mut terminating,
                    Readiness::Unready => continue,
                };
                let addresses = endpoint.addresses.iter().filter_map(|address| address.parse::<Ipv4Addr>().ok());
                list.extend(addresses.map(|address| (address, number)));
            }
        }
    }
    let mut targets = if ready.is_empty() { terminating } else { ready };
    targets.sort_unstable();
    targets.dedup();
    targets.truncate(ENDPOINTS_MAX);
    targets
}

/// Whether an endpoint may get packets.
enum Readiness {
    Ready,
    /// Shutting down, and still answering.
    Terminating,
    Unready,
}

fn readiness(endpoint: &Endpoint) -> Readiness {
    let Some(conditions) = &endpoint.conditions else { return Readiness::Ready };
    // Absent means unknown, which the API asks to be taken as ready.
    if conditions.ready.unwrap_or(true) {
        Readiness::Ready
    } else if conditions.serving.unwrap_or(false) && conditions.terminating.unwrap_or(false) {
        Readiness::Terminating
    } else {
        Readiness::Unready
    }
}

fn chain_name(service: &Service, protocol: Protocol, port: &ServicePort) -> String {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    // Ports of one protocol differ in name, except that a single one may have none; the number keeps it readable.
    let port_name = port.name.as_deref().filter(|name| !name.is_empty());
    match port_name {
        Some(port_name) => format!("service/{namespace}/{name}/{}/{port_name}", protocol.name()),
        None => format!("service/{namespace}/{name}/{}/{}", protocol.name(), port.port),
    }
}
