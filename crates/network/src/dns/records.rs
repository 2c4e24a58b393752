//! What the cluster's domain holds: the names of Kubernetes' DNS-based service discovery, version 1.1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::slot::Cidr;

/// Seconds that an answer may be kept: short, because endpoints come and go.
pub(super) const TTL_SECONDS: u32 = 5;
/// The version of the DNS schema.
const SCHEMA_VERSION: &str = "1.1.0";
/// The priority and weight that SRV records carry: all endpoints alike.
const SRV_PRIORITY: u16 = 0;
const SRV_WEIGHT: u16 = 100;

/// The API's objects as the answers need them.
pub(super) trait Cluster: Send + Sync + 'static {
    /// Everything has been read once.
    fn ready(&self) -> bool;
    /// The namespace is there.
    fn has_namespace(&self, name: &str) -> bool;
    /// A Service.
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The EndpointSlices of a Service.
    fn slices(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>>;
    /// The Service of an address.
    fn service_at(&self, address: IpAddr) -> Option<Arc<Service>>;
    /// The EndpointSlices that hold an address.
    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>>;
}

/// What a question comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// Records, and further ones that save the client a question.
    Records(Vec<Record>, Vec<Record>),
    /// The name stands for another one, which is to be looked up.
    Alias(Name),
    /// The name exists, without records of this type.
    NoData,
    /// The name does not exist.
    NoSuchName,
    /// The name is none of ours.
    Foreign,
    /// The cluster is not known well enough yet.
    NotReady,
}

/// The zone: the cluster's domain and the reverse names of its range.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    /// The cluster's domain, fully qualified and in lower case.
    pub(super) domain: Name,
    range: Cidr,
    address: IpAddr,
}

/// A Service by name, and what was asked below it.
struct Below<'n> {
    namespace: &'n str,
    service: &'n str,
    rest: &'n [String],
}

impl Zone {
    /// A zone whose name server has the given address.
    pub(super) fn new(domain: Name, range: Cidr, address: IpAddr) -> Self {
        Self { domain: domain.to_lowercase(), range, address }
    }

    /// The record that a negative answer carries.
    pub(super) fn soa(&self) -> Record {
        let [mname, rname] = ["ns.dns", "hostmaster"].map(|name| self.below(name));
        // The serial says nothing: there are no secondaries.
        let soa = SOA::new(mname, rname, 1, 7200, 1800, 86400, TTL_SECONDS);
        Record::from_rdata(self.domain.clone(), TTL_SECONDS, RData::SOA(soa))
    }

    /// A name in the domain. What the API's validation lets through always is one; what is not becomes the domain.
    fn below(&self, name: &str) -> Name {
        Name::from_ascii(name).and_then(|name| name.append_domain(&self.domain)).unwrap_or(self.domain.clone())
    }

    /// Answers a question.
    pub(super) fn answer(&self, cluster: &impl Cluster, name: &Name, kind: RecordType) -> Answer {
        if let Ok(network) = name.parse_arpa_name() {
            return self.reverse(cluster, network.addr(), network.prefix_len(), name, kind);
        }
        let lower = name.to_lowercase();
        if !self.domain.zone_of(&lower) {
            return Answer::Foreign;
        }
        if !cluster.ready() {
            return Answer::NotReady;
        }
        let depth = usize::from(lower.num_labels() - self.domain.num_labels());
        let labels: Vec<String> =
            lower.iter().take(depth).map(|label| String::from_utf8_lossy(label).into_owned()).collect();
        let records = |data: Vec<RData>| Answer::Records(own(name, data), Vec::new());
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels.as_slice() {
            [] => match kind {
                RecordType::SOA => Answer::Records(vec![self.soa()], Vec::new()),
                RecordType::NS => records(vec![RData::NS(NS(self.below("ns.dns")))]),
                _ => Answer::NoData,
            },
            ["svc" | "pod" | "dns"] => Answer::NoData,
            ["ns", "dns"] => addresses(name, kind, &[self.address]),
            ["dns-version"] if kind == RecordType::TXT => {
                records(vec![RData::TXT(TXT::new(vec![SCHEMA_VERSION.into()]))])
            }
            ["dns-version"] => Answer::NoData,
            [namespace, "svc" | "pod"] => existing(cluster.has_namespace(namespace)),
            [address, namespace, "pod"] => match dashed(address).filter(|_| cluster.has_namespace(namespace)) {
                Some(address) => addresses(name, kind, &[address]),
                None => Answer::NoSuchName,
            },
            [rest @ .., service, namespace, "svc"] => {
                let rest: Vec<String> = rest.iter().map(|label| (*label).to_owned()).collect();
                self.service(cluster, &Below { namespace, service, rest: &rest }, name, kind)
            }
            _ => Answer::NoSuchName,
        }
    }

    fn service(&self, cluster: &impl Cluster, asked: &Below<'_>, name: &Name, kind: RecordType) -> Answer {
        let Some(service) = cluster.service(asked.namespace, asked.service) else { return Answer::NoSuchName };
        let Some(spec) = &service.spec else { return Answer::NoSuchName };
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec.external_name.as_deref().and_then(|target| Name::from_ascii(target).ok());
            return match (target, asked.rest) {
                (Some(mut target), []) => {
                    target.set_fqdn(true);
                    Answer::Alias(target)
                }
                _ => Answer::NoSuchName,
            };
        }
        let address = spec.cluster_ip.as_deref().and_then(|address| address.parse::<IpAddr>().ok());
        let own_name = self.below(&format!("{}.{}.svc", asked.service, asked.namespace));
        let slices = cluster.slices(asked.namespace, asked.service);
        match (asked.rest, address) {
            ([], Some(address)) if kind == RecordType::SRV => {
                cluster_srv(name, spec.ports.iter().flatten(), &own_name, address)
            }
            ([], Some(address)) => addresses(name, kind, &[address]),
            ([], None) if kind == RecordType::SRV => endpoint_srv(name, &slices, &own_name, |_, _| true),
            ([], None) => match endpoint_addresses(&slices, |_| true).as_slice() {
                [] => Answer::NoSuchName,
                found => addresses(name, kind, found),
            },
            ([endpoint], _) if !endpoint.starts_with('_') => {
                match endpoint_addresses(&slices, |found| host(found) == Some(endpoint.clone())).as_slice() {
                    [] => Answer::NoSuchName,
                    found => addresses(name, kind, found),
                }
            }
            ([port, protocol], address) => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
                    return Answer::NoSuchName;
                };
                let is = |name: Option<&str>, of: Option<&str>| {
                    name == Some(port) && of.unwrap_or("TCP").eq_ignore_ascii_case(protocol)
                };
                let found = match address {
                    Some(address) => {
                        let ports = spec.ports.iter().flatten();
                        let ports = ports.filter(|port| is(port.name.as_deref(), port.protocol.as_deref()));
                        cluster_srv(name, ports, &own_name, address)
                    }
                    None => endpoint_srv(name, &slices, &own_name, is),
                };
                if kind == RecordType::SRV || found == Answer::NoSuchName { found } else { Answer::NoData }
            }
            _ => Answer::NoSuchName,
        }
    }

    fn reverse(&self, cluster: &impl Cluster, address: IpAddr, prefix: u8, name: &Name, kind: RecordType) -> Answer {
        let IpAddr::V4(ipv4) = address else { return Answer::Foreign };
        if prefix < self.range.prefix || !self.range.contains(ipv4) {
            return Answer::Foreign;
        }
        if !cluster.ready() {
            return Answer::NotReady;
        }
        if prefix < 32 {
            return Answer::NoData;
        }
        let mut names = Vec::new();
        if let Some(service) = cluster.service_at(address) {
            names.extend(object_name(&service.metadata.namespace, &service.metadata.name));
        } else {
            for slice in cluster.slices_at(address) {
                let labels = slice.metadata.labels.as_ref();
                let owner = labels.and_then(|labels| labels.get(crate::services::SERVICE_NAME_LABEL)).cloned();
                let Some(owner) = object_name(&slice.metadata.namespace, &owner) else { continue };
                let here = |endpoint: &&Endpoint| endpoint.addresses.first() == Some(&address.to_string());
                let hosts = slice.endpoints.iter().flatten().filter(here).filter_map(host);
                names.extend(hosts.map(|host| format!("{host}.{owner}")));
            }
        }
        if names.is_empty() {
            return Answer::NoSuchName;
        }
        if kind != RecordType::PTR {
            return Answer::NoData;
        }
        let data = names.iter().map(|found| RData::PTR(PTR(self.below(found)))).collect();
        Answer::Records(own(name, data), Vec::new())
    }
}

fn object_name(namespace: &Option<String>, name: &Option<String>) -> Option<String> {
    Some(format!("{}.{}.svc", name.as_deref()?, namespace.as_deref()?))
}

fn existing(exists: bool) -> Answer {
    if exists { Answer::NoData } else { Answer::NoSuchName }
}

fn own(name: &Name, data: Vec<RData>) -> Vec<Record> {
    data.into_iter().map(|data| Record::from_rdata(name.clone(), TTL_SECONDS, data)).collect()
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// The addresses of the type asked for; the name exists either way.
fn addresses(name: &Name, kind: RecordType, found: &[IpAddr]) -> Answer {
    let wanted = found.iter().filter(|address| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        _ => false,
    });
    let data: Vec<RData> = wanted.map(|address| address_data(*address)).collect();
    if data.is_empty() { Answer::NoData } else { Answer::Records(own(name, data), Vec::new()) }
}

/// `1-2-3-4` as an address.
fn dashed(label: &str) -> Option<IpAddr> {
    let ipv4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    ipv4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

/// The name of an endpoint below its Service: its host name, else its address with dashes.
fn host(endpoint: &Endpoint) -> Option<String> {
    let name = endpoint.hostname.clone().filter(|name| !name.is_empty());
    name.or_else(|| endpoint.addresses.first().map(|address| address.replace(['.', ':'], "-")))
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn endpoint_addresses(slices: &[Arc<EndpointSlice>], wanted: impl Fn(&Endpoint) -> bool) -> Vec<IpAddr> {
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let mut found: Vec<IpAddr> = endpoints
        .filter(|endpoint| is_ready(endpoint) && wanted(endpoint))
        .flat_map(|endpoint| endpoint.addresses.iter().filter_map(|address| address.parse().ok()))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn cluster_srv<'p>(name: &Name, ports: impl Iterator<Item = &'p ServicePort>, target: &Name, at: IpAddr) -> Answer {
    let data: Vec<RData> = ports
        .filter_map(|port| u16::try_from(port.port).ok())
        .map(|port| RData::SRV(SRV::new(SRV_PRIORITY, SRV_WEIGHT, port, target.clone())))
        .collect();
    if data.is_empty() {
        return Answer::NoSuchName;
    }
    Answer::Records(own(name, data), own(target, vec![address_data(at)]))
}

fn endpoint_srv(
    name: &Name,
    slices: &[Arc<EndpointSlice>],
    service: &Name,
    wanted: impl Fn(Option<&str>, Option<&str>) -> bool,
) -> Answer {
    let (mut data, mut additional) = (Vec::new(), Vec::new());
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let ports = ports.filter(|port| wanted(port.name.as_deref(), port.protocol.as_deref()));
        for number in ports.filter_map(|port| port.port.and_then(|port| u16::try_from(port).ok())) {
            for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint)) {
                let target = host(endpoint).and_then(|host| service.prepend_label(host).ok());
                let Some(target) = target else { continue };
                data.push(RData::SRV(SRV::new(SRV_PRIORITY, SRV_WEIGHT, number, target.clone())));
                let found = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
                additional.extend(own(&target, found.map(address_data).collect()));
            }
        }
    }
    if data.is_empty() { Answer::NoSuchName } else { Answer::Records(own(name, data), additional) }
}
