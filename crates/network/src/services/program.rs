//! What one Service asks of the rules, computed from the Service and its EndpointSlices.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::nft::ENDPOINTS_MAX;
use crate::slot::Cidr;

/// Source ranges of one Service, each of which is a rule that packets walk through.
const SOURCES_MAX: usize = 256;

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
    /// The protocol by its name in the API; TCP where there is none.
    pub(crate) fn parse(name: Option<&str>) -> Option<Self> {
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

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name().to_uppercase())
    }
}

/// Whose rules they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum OwnerKind {
    /// A Service.
    Service,
    /// A pod of this node that wants ports of it.
    Pod,
}

/// A Service or a pod by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OwnerKey {
    /// Which of both.
    pub(crate) kind: OwnerKind,
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

/// How long a client keeps its endpoint that does not say so, as upstream.
const AFFINITY_TIMEOUT: Duration = Duration::from_secs(10_800);

/// Ends the kind of a chain that remembers clients.
const REMEMBERING: &str = "-by-client";

/// The rules of one chain, which serve one port of a Service or pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// The transport protocol.
    pub(crate) protocol: Protocol,
    /// What leads here.
    pub(crate) matches: Vec<Match>,
    /// What happens to packets.
    pub(crate) action: Action,
}

/// What a chain does with packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// They go to one of several endpoints.
    Spread {
        /// A client keeps its endpoint (`sessionAffinity: ClientIP`) until it has opened no connection for this long.
        affinity: Option<Duration>,
        /// Where packets go, in order and without repetition; never empty.
        targets: Vec<Target>,
    },
    /// Those from the sources go on to another chain of the same Service, all others disappear.
    Admit {
        /// From where packets may come.
        sources: Vec<Cidr>,
        /// The other chain.
        chain: String,
    },
}

impl Program {
    /// The endpoints to which packets go from here.
    pub(crate) fn targets(&self) -> &[Target] {
        match &self.action {
            Action::Spread { targets, .. } => targets,
            Action::Admit { .. } => &[],
        }
    }
}

/// Where this node is, as far as endpoints may be meant for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Here {
    /// The node's name.
    pub(crate) node: String,
    /// Its zone, if it says one.
    pub(crate) zone: Option<String>,
}

/// The programs of a Service by the name of their chain. A port without a usable endpoint has none: its packets match
/// nothing, and the table refuses what is left over.
pub(crate) fn programs(service: &Service, slices: &[Arc<EndpointSlice>], here: &Here) -> BTreeMap<String, Program> {
    let Some(spec) = &service.spec else { return BTreeMap::new() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return BTreeMap::new();
    }
    let address = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
    let Some(address) = address else { return BTreeMap::new() };
    let affinity = affinity(spec);
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let mut programs = BTreeMap::new();
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Ok(number)) = (Protocol::parse(port.protocol.as_deref()), u16::try_from(port.port)) else {
            continue;
        };
        let endpoints = endpoints(port, protocol, slices);
        let internal = vec![Match::Cluster(address, protocol, number)];
        let external = external_matches(service, spec, port, protocol, number);
        let (mut everywhere, mut local) = (Vec::new(), Vec::new());
        for (matches, is_local) in [
            (internal, is_local(&spec.internal_traffic_policy)),
            (external.open, is_local(&spec.external_traffic_policy)),
        ] {
            if is_local { local.extend(matches) } else { everywhere.extend(matches) }
        }
        let admits_to_local = !external.guarded.is_empty() && is_local(&spec.external_traffic_policy);
        let mut put = |kind: &str, matches: Vec<Match>, is_needed: bool, targets: Vec<Target>| {
            let is_put = is_needed && !targets.is_empty();
            if is_put {
                let action = Action::Spread { affinity, targets };
                let kind = remembering(kind, affinity.is_some());
                programs.insert(chain_name(&kind, service, protocol, port), Program { protocol, matches, action });
            }
            is_put
        };
        let admits_to_all = !external.guarded.is_empty() && !admits_to_local;
        let is_needed = admits_to_all || !everywhere.is_empty();
        let has_all = put("service", everywhere, is_needed, usable(near(&endpoints, here)));
        let is_needed = admits_to_local || !local.is_empty();
        let on_node = endpoints.iter().filter(|one| one.endpoint.node_name.as_deref() == Some(here.node.as_str()));
        let has_local = put("local", local, is_needed, usable(on_node.copied().collect()));
        if admits_to_all && has_all || admits_to_local && has_local {
            let kind = remembering(if admits_to_local { "local" } else { "service" }, affinity.is_some());
            let chain = chain_name(&kind, service, protocol, port);
            let action = Action::Admit { sources: external.sources, chain };
            let program = Program { protocol, matches: external.guarded, action };
            programs.insert(chain_name("admit", service, protocol, port), program);
        }
    }
    programs
}

/// For how long a client that opens no connection keeps its endpoint, where clients keep theirs.
fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    let timeout = seconds.filter(|seconds| *seconds > 0).map_or(AFFINITY_TIMEOUT, Duration::from_secs);
    (spec.session_affinity.as_deref() == Some("ClientIP")).then_some(timeout)
}

/// The kind of a chain that spreads packets. One that remembers clients has another name, and a map of that name: who turns
/// affinity on or off gets another chain.
fn remembering(kind: &str, remembers: bool) -> String {
    if remembers { format!("{kind}{REMEMBERING}") } else { kind.to_owned() }
}

/// Whether the chain of this name remembers clients.
pub(crate) fn remembers(chain: &str) -> bool {
    chain.split('/').next().is_some_and(|kind| kind.ends_with(REMEMBERING))
}

/// What leads to a Service port from outside the cluster.
struct External {
    open: Vec<Match>,
    /// Only from the sources.
    guarded: Vec<Match>,
    sources: Vec<Cidr>,
}

fn external_matches(
    service: &Service,
    spec: &ServiceSpec,
    port: &ServicePort,
    protocol: Protocol,
    number: u16,
) -> External {
    let kind = spec.type_.as_deref();
    let mut open = Vec::new();
    let node_port = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let node_port = node_port.filter(|_| matches!(kind, Some("NodePort" | "LoadBalancer")));
    open.extend(node_port.map(|port| Match::Node(protocol, port)));
    let of = |address: &String| Some(Match::Cluster(address.parse().ok()?, protocol, number));
    open.extend(spec.external_ips.iter().flatten().filter_map(of));
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.into_iter().flat_map(|status| status.ingress.iter().flatten());
    // an address that is a proxy's wants to see the packets itself
    let own = ingress.filter(|one| one.ip_mode.as_deref() != Some("Proxy") && kind == Some("LoadBalancer"));
    let balanced: Vec<Match> =
        own.filter_map(|one| of(one.ip.as_ref()?)).filter(|found| !open.contains(found)).collect();
    let mut external = External { open, guarded: Vec::new(), sources: sources(spec) };
    if spec.load_balancer_source_ranges.as_ref().is_none_or(Vec::is_empty) {
        external.open.extend(balanced);
    } else {
        external.guarded = balanced;
    }
    external
}

/// From where a load balancer's packets may come. A range that cannot be read admits nobody.
fn sources(spec: &ServiceSpec) -> Vec<Cidr> {
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    let parsed = ranges.filter_map(|range| {
        let (network, prefix) = range.trim().split_once('/')?;
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        let range = Cidr { network: network.parse().ok()?, prefix };
        Some(Cidr { network: Ipv4Addr::from_bits(range.network.to_bits() & range.mask().to_bits()), prefix })
    });
    let mut sources: Vec<Cidr> = parsed.collect();
    sources.truncate(SOURCES_MAX);
    sources
}

/// An endpoint of a Service port, and its port's number.
#[derive(Clone, Copy)]
struct Reached<'a> {
    endpoint: &'a Endpoint,
    number: u16,
}

fn endpoints<'a>(port: &ServicePort, protocol: Protocol, slices: &'a [Arc<EndpointSlice>]) -> Vec<Reached<'a>> {
    let wanted_name = port.name.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let of_port = slice.ports.iter().flatten().filter(|port| {
            port.name.as_deref().unwrap_or_default() == wanted_name
                && Protocol::parse(port.protocol.as_deref()) == Some(protocol)
        });
        for number in of_port.filter_map(|port| port.port.and_then(|port| u16::try_from(port).ok())) {
            found.extend(slice.endpoints.iter().flatten().map(|endpoint| Reached { endpoint, number }));
        }
    }
    found
}

/// The endpoints that are meant for this node or, where none is, for its zone. Where a ready one is meant for nobody, or
/// none for here, all are.
fn near<'a>(endpoints: &[Reached<'a>], here: &Here) -> Vec<Reached<'a>> {
    let of_node = |one: &Reached<'_>| {
        let nodes = one.endpoint.hints.as_ref()?.for_nodes.as_ref().filter(|nodes| !nodes.is_empty())?;
        Some(nodes.iter().any(|node| node.name == here.node))
    };
    let of_zone = |one: &Reached<'_>| {
        let zones = one.endpoint.hints.as_ref()?.for_zones.as_ref().filter(|zones| !zones.is_empty())?;
        Some(zones.iter().any(|zone| Some(&zone.name) == here.zone.as_ref()))
    };
    let ready = || endpoints.iter().filter(|one| matches!(readiness(one.endpoint), Readiness::Ready));
    let meant = |hint: &dyn Fn(&Reached<'a>) -> Option<bool>| {
        let all: Option<Vec<bool>> = ready().map(hint).collect();
        all.is_some_and(|all| all.contains(&true))
            .then(|| ready().filter(|one| hint(one) == Some(true)).copied().collect())
    };
    meant(&of_node).or_else(|| meant(&of_zone)).unwrap_or_else(|| endpoints.to_vec())
}

/// The endpoints that are ready or, where none is, those that are leaving and still answer.
fn usable(endpoints: Vec<Reached<'_>>) -> Vec<Target> {
    let (mut ready, mut terminating) = (Vec::new(), Vec::new());
    for Reached { endpoint, number } in endpoints {
        let list = match readiness(endpoint) {
            Readiness::Ready => &mut ready,
            Readiness::Terminating => &mut terminating,
            Readiness::Unready => continue,
        };
        let addresses = endpoint.addresses.iter().filter_map(|address| address.parse::<Ipv4Addr>().ok());
        list.extend(addresses.map(|address| (address, number)));
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

/// The name sorts so that a chain comes before those that it leads to.
fn chain_name(kind: &str, service: &Service, protocol: Protocol, port: &ServicePort) -> String {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    // Ports of one protocol differ in name, except that a single one may have none; the number keeps it readable.
    let port_name = port.name.as_deref().filter(|name| !name.is_empty());
    match port_name {
        Some(port_name) => format!("{kind}/{namespace}/{name}/{}/{port_name}", protocol.name()),
        None => format!("{kind}/{namespace}/{name}/{}/{}", protocol.name(), port.port),
    }
}
