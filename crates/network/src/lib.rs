//! The network of one node: pod addresses, Services, and cluster DNS.
//!
//! One bridge per instance connects the pods, each by a veth pair; one nftables table per instance translates Service
//! addresses to endpoints; a DNS server on the cluster IP answers for Services and pods and forwards the rest. Links,
//! routes and rules are set over netlink directly, without helper programs.
//!
//! It is not a CNI plug-in host, has no overlay between nodes, and enforces no NetworkPolicy yet.
//!
//! - [`Slot`] claims this instance's share of the machine's address space, and keeps it.
//! - [`Network`] sets the node up, and attaches and detaches pods ([`PodNetwork`]).
//! - [`run_services`] keeps the rules in step with Services, EndpointSlices and the ports of the node that pods ask for;
//!   [`run_load_balancer`] gives Services of type LoadBalancer addresses of the machine; [`run_dns`] serves DNS.
//! - [`PodNamespace`] is a pod's network namespace for who serves inside it, as the mesh does.
//! - [`down`] removes everything, also after a crash.
//!
//! Invariants: whatever is set up can be set up again without disturbing what lives; a changed Service costs what that
//! Service costs, never the whole table; names and addresses of all objects follow from the slot, so that a process
//! that knows nothing else can adopt or remove them.

mod capture;
mod dns;
mod ipam;
mod link;
mod load_balancer;
mod netlink;
mod nft;
mod pod;
mod services;
mod slot;
mod sys;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;

pub use capture::{Capture, PodNamespace};
pub use dns::{DnsConfig, DnsError, host_resolvers, run_dns};
pub use ipam::IpamError;
pub use load_balancer::run_load_balancer;
pub use netlink::NetlinkError;
pub use pod::PodAddress;
pub use services::{ServicesError, run_services};
pub use slot::{Cidr, SLOT_COUNT, Slot, SlotClaim, SlotError};

use ipam::Ipam;
use link::{Link, Links, index_of};

/// The largest packet where the machine has no default route to take the number from: Ethernet's.
const DEFAULT_MTU: u32 = 1500;
/// The directory of the address table inside the state directory.
const IPAM_DIR: &str = "ipam";

/// What the network of an instance needs to know.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// The instance's share of the machine's address space.
    pub slot: Slot,
    /// Where the address table is kept.
    pub state_dir: PathBuf,
}

/// Why the network could not be set up, changed or taken down.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel could not be told.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The address table failed.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The slot could not be found out or given back.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The state directory could not be cleaned.
    #[error("cannot remove {path}", path = .path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// The pod takes part in a mesh that cannot serve it.
    #[error("the pod cannot join the mesh")]
    Mesh {
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The thread that did the work is gone: the process is shutting down.
    #[error("network work was interrupted by shutdown")]
    Interrupted,
}

/// What a node needs of the network for its pods.
pub trait PodNetwork: Send + Sync {
    /// Gives a pod its address and connects its network namespace. Doing it again changes nothing.
    fn attach<'a>(&'a self, pod_uid: &'a str, netns: &'a Path) -> BoxFuture<'a, Result<PodAddress, NetworkError>>;

    /// Disconnects a pod and frees its address. A pod that is not attached is passed over.
    fn detach<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<(), NetworkError>>;

    /// The address that a pod has, if it has one.
    fn address(&self, pod_uid: &str) -> Option<PodAddress>;

    /// The UIDs of all pods that have an address, to find those that no longer exist.
    fn attached(&self) -> Vec<String>;
}

/// The network of this node.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    ipam: Arc<Ipam>,
}

impl Network {
    /// Sets the node up: forwarding, the bridge with the node's and the DNS address, and the nftables table. What is
    /// there already is adopted, and pods that live keep their connections.
    pub fn up(config: NetworkConfig) -> Result<Arc<Self>, NetworkError> {
        let slot = config.slot;
        let ipam = Arc::new(Ipam::open(config.state_dir.join(IPAM_DIR), slot)?);
        let links = Links::open()?;
        let bridge = slot.bridge();
        let mtu = egress_mtu(&links)?;
        links.ensure_bridge(&bridge, pod::mac_of(slot.bridge_ip()), mtu)?;
        let index = index_of(&bridge).ok_or_else(|| NetlinkError::Io {
            action: format!("find bridge {bridge}"),
            source: io::Error::from_raw_os_error(libc::ENODEV),
        })?;
        // The /16 also gives the host a route to Service addresses, so that its own packets reach the translation.
        links.add_address(index, slot.bridge_ip(), slot.cidr().prefix)?;
        links.add_address(index, slot.dns_ip(), 32)?;
        let gateways = slot.gateway_cidr();
        links.add_local_range(index, gateways.network, gateways.prefix)?;
        pod::write_sysctl("net/ipv4/ip_forward", "1")?;
        // NodePorts on 127.0.0.1 leave through the bridge; the table drops loopback addresses that come in from it.
        pod::write_sysctl(&format!("net/ipv4/conf/{bridge}/route_localnet"), "1")?;
        pod::write_sysctl(&format!("net/ipv4/conf/{bridge}/send_redirects"), "0")?;
        services::ensure_table(slot)?;
        Ok(Arc::new(Self { config, ipam }))
    }

    /// The instance's share of the machine's address space.
    pub fn slot(&self) -> Slot {
        self.config.slot
    }

    fn pod_address(&self, ip: std::net::Ipv4Addr) -> PodAddress {
        PodAddress { ip, gateway: self.config.slot.bridge_ip() }
    }
}

impl PodNetwork for Network {
    fn attach<'a>(&'a self, pod_uid: &'a str, netns: &'a Path) -> BoxFuture<'a, Result<PodAddress, NetworkError>> {
        Box::pin(async move {
            let (slot, uid, netns, ipam) =
                (self.config.slot, pod_uid.to_owned(), netns.to_owned(), Arc::clone(&self.ipam));
            let ip = blocking(move || {
                let ip = ipam.allocate(&uid)?;
                pod::connect(slot, &uid, ip, &netns)?;
                Ok(ip)
            })
            .await?;
            Ok(self.pod_address(ip))
        })
    }

    fn detach<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<(), NetworkError>> {
        Box::pin(async move {
            let (slot, uid, ipam) = (self.config.slot, pod_uid.to_owned(), Arc::clone(&self.ipam));
            blocking(move || {
                if let Some(ip) = ipam.get(&uid) {
                    pod::disconnect(slot, ip)?;
                    ipam.release(&uid)?;
                }
                Ok(())
            })
            .await
        })
    }

    fn address(&self, pod_uid: &str) -> Option<PodAddress> {
        self.ipam.get(pod_uid).map(|ip| self.pod_address(ip))
    }

    fn attached(&self) -> Vec<String> {
        self.ipam.list().into_iter().map(|(uid, _)| uid).collect()
    }
}

/// Removes the network of the instance that has a state directory: veth pairs, bridge, addresses, table and address
/// table. The slot stays the instance's own, so that it comes back with the same addresses.
pub fn down(state_dir: &Path) -> Result<(), NetworkError> {
    let Some(slot) = Slot::recorded(state_dir)? else { return Ok(()) };
    let links = Links::open()?;
    let (bridge, veths) = (slot.bridge(), slot.veth_prefix());
    let is_ours = |link: &Link| link.name == bridge || link.name.starts_with(&veths);
    let ours: Vec<Link> = links.list()?.into_iter().filter(is_ours).collect();
    links.delete(&ours)?;
    services::remove_table(slot)?;
    let path = state_dir.join(IPAM_DIR);
    match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(NetworkError::Remove { path, source }),
        _ => {}
    }
    Ok(())
}

/// Runs kernel work that may take milliseconds off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(NetworkError::Interrupted),
        },
    }
}

/// The largest packet of the link that the default route leads over: pods must not send larger ones.
fn egress_mtu(links: &Links) -> Result<u32, NetlinkError> {
    let default = links.routes()?.into_iter().find(|route| route.destination.1 == 0).and_then(|route| route.link);
    let mtu = links.list()?.into_iter().find(|link| Some(link.index) == default).map(|link| link.mtu);
    Ok(mtu.filter(|mtu| *mtu > 0).unwrap_or(DEFAULT_MTU))
}

#[cfg(test)]
mod tests;
