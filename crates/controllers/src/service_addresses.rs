//! Keeps the IPAddresses those that Services hold, and tells of Services whose address or node port cannot be theirs alone.
//!
//! The server writes a Service and its IPAddress in one transaction. What is put right here is what others did to the two
//! since: somebody deleted an IPAddress or changed it, or two Services came to hold one address or node port, as after a
//! restore or through a server of another kind.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference, ServiceCIDR};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use reconcile::{Change, EventType, Index, Informer, Key, Queue, Recorder, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, is_already_exists, run_with_feeds, synced};
use crate::service_cidr::is_in_any;

#[cfg(test)]
mod tests;

/// Objects looked at at once.
const WORKERS: usize = 2;
/// Node ports, as the server hands them out.
const NODE_PORTS: RangeInclusive<i32> = 30000..=32767;
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`] for what the server makes for Services.
const MANAGER: &str = "ipallocator.k8s.io";

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    /// Whether a Service's addresses and ports are its own.
    Service(Key),
    /// Whether an IPAddress is that of a Service.
    Address(String),
}

/// What is wrong with a Service's address, or nothing.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Right,
    /// It is in none of the ranges.
    Foreign,
    /// Nothing says that the Service has it.
    Missing,
    /// Something says that it is somebody else's, who has it not.
    Misread,
    /// Another Service has it.
    Taken,
    /// What says so does not say by whom it was made.
    Unmarked,
}

struct Controller {
    context: Context,
    services: Informer<Service>,
    addresses: Informer<IPAddress>,
    ranges: Informer<ServiceCIDR>,
    by_port: Index<Service>,
    recorder: Recorder,
}

/// The addresses that a Service holds.
fn held(service: &Service) -> Vec<&str> {
    let Some(spec) = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName")) else {
        return Vec::new();
    };
    let all = spec.cluster_ips.as_deref().unwrap_or_default().iter();
    let mut held: Vec<&str> = all.chain(&spec.cluster_ip).map(String::as_str).collect();
    held.retain(|address| !matches!(*address, "" | "None"));
    held.dedup();
    held
}

/// The ports that a Service holds on every node.
fn node_ports(service: &Service) -> Vec<i32> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let ports = spec.ports.iter().flatten().filter_map(|port| port.node_port);
    let mut ports: Vec<i32> = ports.chain(spec.health_check_node_port).filter(|port| *port != 0).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let services = context.informers.of::<Service>();
    let addresses = context.informers.of::<IPAddress>();
    let ranges = context.informers.of::<ServiceCIDR>();
    let all = async { services.synced().await && addresses.synced().await && ranges.synced().await };
    if !synced(&stop, all).await {
        return;
    }
    let by_address =
        services.index("cluster-ip", |service| held(service).into_iter().map(str::to_owned).collect::<Vec<_>>());
    let controller = Arc::new(Controller {
        recorder: Recorder::new(context.client.clone(), "ipallocator-repair-controller"),
        by_port: services.index("node-port", |service| node_ports(service).iter().map(ToString::to_string).collect()),
        services: services.clone(),
        addresses: addresses.clone(),
        ranges: ranges.clone(),
        context,
    });
    let queue: Queue<Work> = Queue::new();
    let feeds = futures::future::join3(
        feed(&services, &queue, affected_by_service),
        feed(&addresses, &queue, |change| affected_by_address(&by_address, change)),
        // a range that comes or goes may be that of any Service
        feed(&ranges, &queue, |change| match change {
            Change::Applied { old: Some(_), .. } => Vec::new(),
            _ => services.list().iter().map(|service| Work::Service(Key::of(service.as_ref()))).collect(),
        }),
    );
    let reconcile = |work: Work| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&work).await }
    };
    run_with_feeds(run_controller("service-addresses", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

/// A Service whose addresses or ports are others than before, and what it held before.
fn affected_by_service(change: &Change<Service>) -> Vec<Work> {
    let left =
        |service: &Service| held(service).into_iter().map(|one| Work::Address(one.to_owned())).collect::<Vec<_>>();
    match change {
        Change::Applied { old: Some(old), new } if held(old) == held(new) && node_ports(old) == node_ports(new) => {
            Vec::new()
        }
        Change::Applied { old, new } => {
            let mut work = old.as_deref().map(left).unwrap_or_default();
            work.push(Work::Service(Key::of(new.as_ref())));
            work
        }
        Change::Deleted(last) => left(last),
    }
}

/// An IPAddress, and the Services that hold the address.
fn affected_by_address(by_address: &Index<Service>, change: &Change<IPAddress>) -> Vec<Work> {
    let name = change.object().name_any();
    let holders = by_address.get(&name);
    let mut work: Vec<Work> = holders.iter().map(|service| Work::Service(Key::of(service.as_ref()))).collect();
    if matches!(change, Change::Applied { .. }) {
        work.push(Work::Address(name));
    }
    work
}

/// The Service that an IPAddress names.
fn parent(address: &IPAddress) -> Option<Key> {
    let parent = &address.spec.parent_ref;
    let is_service = parent.resource == "services" && parent.group.as_deref().unwrap_or_default().is_empty();
    is_service.then(|| Key::new(parent.namespace.as_deref().unwrap_or_default(), &parent.name))
}

fn is_managed(address: &IPAddress) -> bool {
    address.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Decides on one address of a Service. `holds` says whether another Service has it.
fn find(
    key: &Key,
    address: IpAddr,
    object: Option<&IPAddress>,
    is_foreign: bool,
    holds: impl Fn(&Key) -> bool,
) -> Finding {
    if is_foreign {
        return Finding::Foreign;
    }
    let Some(object) = object else { return Finding::Missing };
    match parent(object) {
        Some(parent) if parent == *key => {}
        Some(parent) if holds(&parent) => return Finding::Taken,
        _ => return Finding::Misread,
    }
    let says_family = object.labels().get(FAMILY).is_some_and(|said| said == family(address));
    if says_family && is_managed(object) { Finding::Right } else { Finding::Unmarked }
}

impl Controller {
    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>, ReconcileError> {
        match work {
            Work::Service(key) => self.check_service(key).await?,
            Work::Address(name) => self.check_address(name).await?,
        }
        Ok(None)
    }

    async fn check_service(&self, key: &Key) -> Result<(), ReconcileError> {
        let Some(service) = self.services.get(&key.namespace, &key.name) else { return Ok(()) };
        for port in node_ports(&service) {
            self.check_port(&service, port);
        }
        let api = self.context.api_all::<IPAddress>();
        for name in held(&service) {
            let Ok(address) = name.parse::<IpAddr>() else {
                let message = format!("Cluster IP {name} is not a valid IP; please recreate Service");
                self.warn(&service, "ClusterIPNotValid", message);
                continue;
            };
            let is_foreign = !is_in_any(&self.ranges.list(), address);
            let of_cache = self.addresses.get("", name);
            let finding = |object| find(key, address, object, is_foreign, |other| self.holds(other, name));
            if finding(of_cache.as_deref()) == Finding::Right {
                continue;
            }
            // the caches of the two kinds do not move together, but the objects do
            let services = self.context.api::<Service>(&key.namespace);
            let live = services.get_opt(&key.name).await.map_err(failed("read service", key))?;
            if live.is_none_or(|live| live.uid() != service.uid() || !held(&live).contains(&name)) {
                continue;
            }
            let now = api.get_opt(name).await.map_err(failed("read ipaddress", name))?;
            let finding = finding(now.as_ref());
            self.tell(&service, key, address, &finding);
            match (finding, now) {
                (Finding::Missing, _) => self.create(key, address).await?,
                (Finding::Misread | Finding::Unmarked, Some(now)) => {
                    self.delete(&now).await?;
                    self.create(key, address).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn tell(&self, service: &Service, key: &Key, address: IpAddr, finding: &Finding) {
        let family = family(address);
        let (reason, message) = match finding {
            Finding::Right | Finding::Unmarked => return,
            Finding::Foreign => {
                let why = "is not within any configured Service CIDR; please recreate service";
                ("ClusterIPOutOfRange", format!("Cluster IP [{family}]: {address} {why}"))
            }
            Finding::Missing => {
                ("ClusterIPNotAllocated", format!("Cluster IP [{family}]: {address} is not allocated; repairing"))
            }
            Finding::Misread => {
                let message =
                    format!("the ClusterIP [{family}]: {address} for Service {key} has a wrong reference; repairing");
                ("ClusterIPNotAllocated", message)
            }
            Finding::Taken => {
                let why = "was assigned to multiple services; please recreate service";
                ("ClusterIPAlreadyAllocated", format!("Cluster IP [{family}]:{address} {why}"))
            }
        };
        self.warn(service, reason, message);
    }

    fn warn(&self, service: &Service, reason: &str, message: String) {
        self.recorder.about(service, EventType::Warning, reason, message);
    }

    fn holds(&self, key: &Key, address: &str) -> bool {
        self.services.get(&key.namespace, &key.name).is_some_and(|service| held(&service).contains(&address))
    }

    /// Tells of a port that an older Service has too, or that is none.
    fn check_port(&self, service: &Service, port: i32) {
        if !NODE_PORTS.contains(&port) {
            let range = format!("{}-{}", NODE_PORTS.start(), NODE_PORTS.end());
            let message = format!("Port {port} is not within the port range {range}; please recreate service");
            return self.warn(service, "PortOutOfRange", message);
        }
        let age = |service: &Service| (service.creation_timestamp().map(|time| time.0), service.uid());
        let is_older = |other: &Arc<Service>| other.uid() != service.uid() && age(other) < age(service);
        if self.by_port.get(&port.to_string()).iter().any(is_older) {
            let message = format!("Port {port} was assigned to multiple services; please recreate service");
            self.warn(service, "PortAlreadyAllocated", message);
        }
    }

    async fn check_address(&self, name: &str) -> Result<(), ReconcileError> {
        let Some(address) = self.addresses.get("", name).filter(|address| is_managed(address)) else { return Ok(()) };
        let (reason, message) = match parent(&address) {
            Some(key) if self.holds(&key, name) => return Ok(()),
            Some(key) => {
                let api = self.context.api::<Service>(&key.namespace);
                match api.get_opt(&key.name).await.map_err(failed("read service", &key))? {
                    Some(service) if held(&service).contains(&name) => return Ok(()),
                    Some(_) => {
                        let why = "has a wrong reference; cleaning up";
                        ("IPAddressWrongReference", format!("IPAddress: {name} for Service {key} {why}"))
                    }
                    None => {
                        let why = "appears to have leaked: cleaning up";
                        ("IPAddressNotAllocated", format!("IPAddress: {name} for Service {key} {why}"))
                    }
                }
            }
            None => {
                let why = "appears to have been modified, not referencing a Service: cleaning up";
                ("IPAddressNotAllocated", format!("IPAddress {name} {why}"))
            }
        };
        self.recorder.about(address.as_ref(), EventType::Warning, reason, message);
        self.delete(&address).await
    }

    async fn create(&self, key: &Key, address: IpAddr) -> Result<(), ReconcileError> {
        let labels = [(FAMILY, family(address)), (MANAGED_BY, MANAGER)];
        let object = IPAddress {
            metadata: kube::core::ObjectMeta {
                name: Some(address.to_string()),
                labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
                ..Default::default()
            },
            spec: IPAddressSpec {
                parent_ref: ParentReference {
                    group: None,
                    resource: "services".to_owned(),
                    namespace: Some(key.namespace.clone()),
                    name: key.name.clone(),
                },
            },
        };
        match self.context.api_all::<IPAddress>().create(&PostParams::default(), &object).await {
            // somebody was faster: its event has it looked at again
            Err(error) if is_already_exists(&error) => Ok(()),
            other => other.map(drop).map_err(failed("create ipaddress", address)),
        }
    }

    async fn delete(&self, address: &IPAddress) -> Result<(), ReconcileError> {
        let preconditions = Some(Preconditions { uid: address.uid(), resource_version: address.resource_version() });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let name = address.name_any();
        let deleted = self.context.api_all::<IPAddress>().delete(&name, &params).await;
        gone_is_done(deleted).map_err(failed("delete ipaddress", name))
    }
}
