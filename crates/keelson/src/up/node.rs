//! The node role: network, registry, containers, and the gateway in front of them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, anyhow};
use apiserver::{NodeConnectError, NodeConnector, User};
use futures::future::BoxFuture;
use http::{Request, Response};
use network::{DnsConfig, Network, NetworkConfig, PodNetwork, Slot, SlotClaim, SlotError};
use node::{Body, Node, NodeConfig, NodeServer};
use reconcile::Informers;
use runtime::Runtime;
use runtime::api::RuntimeConfig;
use supply_chain::{Registry, RegistryOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{address, api::Api, elected::Office, handover::Listeners, mesh};
use crate::{
    config::Config,
    data_dir::Layout,
    exit::{Exit, Failure},
    place::{Place, RUN_ROOT},
    supervisor::{Fate, Supervisor},
};

/// Port that tools expect a local registry on.
const REGISTRY_PORT: u16 = 5000;
/// The domain of cluster DNS, as in every Kubernetes unless told otherwise.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// Pods on the node at most: upstream's default.
const PODS_MAX: u32 = 110;

/// Where what was started listens.
pub(super) struct Ports {
    /// The registry.
    pub(super) registry: SocketAddr,
    /// The gateways.
    pub(super) gateway_addresses: Vec<IpAddr>,
}

/// Claims the instance's share of the machine's address space.
pub(super) fn claim_slot(layout: &Layout) -> Result<SlotClaim, Failure> {
    Slot::claim(Path::new(RUN_ROOT), &layout.network()).map_err(|error| {
        let exit = match error {
            SlotError::InUse { .. } | SlotError::Exhausted => Exit::InUse,
            _ => Exit::Unsupported,
        };
        exit.because(error)
    })
}

/// What the role is built on.
pub(super) struct Parts<'a> {
    pub(super) config: &'a Config,
    pub(super) layout: &'a Layout,
    pub(super) api: &'a Api,
    pub(super) server_id: Option<&'a str>,
    pub(super) informers: &'a Informers,
}

/// Starts everything of the role; what clients of gateways are served by, under `front`.
pub(super) async fn start(
    parts: &Parts<'_>,
    claim: SlotClaim,
    listeners: &Listeners,
    supervisor: &mut Supervisor,
    front: &mut Supervisor,
) -> Result<Ports, Failure> {
    let Parts { config, layout, api, server_id, informers } = *parts;
    let slot = claim.slot();
    let network = Network::up(NetworkConfig { slot, state_dir: layout.network() })
        .context("set up the pod network (`keelson check` shows what this machine lacks)")
        .map_err(|e| Exit::Unsupported.because(e))?;
    hold(claim, supervisor);
    listen_for_pods(api, slot, listeners, supervisor).await?;
    start_network(config, api, slot, informers, supervisor);
    let registry = start_registry(config, layout, listeners, supervisor).await?;
    let runtime = Runtime::open(RuntimeConfig {
        state_dir: layout.runtime(),
        run_dir: Place::of(slot).run_dir(),
        cgroup_root: Place::of(slot).cgroup_root(),
        instance: slot.number().to_string(),
        shim_executable: "/proc/self/exe".into(),
        mirror: Some(registry),
    })
    .await
    .context("open the container runtime")?;
    let shared = informers.for_client(api.client("keelson:gateway"));
    let routes = proxy::Routes::default();
    let meshed = mesh::start(config, layout, api, (&runtime, &network), (&shared, &routes), supervisor);
    start_node(config, layout, slot, api, runtime, meshed, supervisor)?;
    start_provisioner(config, layout, api, informers, supervisor);
    let mut gateway_addresses = config.gateway_addresses.clone();
    gateway_addresses.push(IpAddr::V4(slot.bridge_ip()));
    let (addresses, sockets) = (gateway_addresses.clone(), listeners.gateway.clone());
    let gateway = proxy::GatewayConfig { addresses, pool: None, answers: layout.answers(), sockets, routes };
    start_gateway(gateway, slot, &shared, supervisor.stop(), front);
    start_load_balancer(config, slot, api, server_id, informers, supervisor);
    Ok(Ports { registry, gateway_addresses })
}

/// Keeps the slot locked for as long as the process runs.
fn hold(claim: SlotClaim, supervisor: &mut Supervisor) {
    let claim = Arc::new(claim);
    supervisor.start("slot", Fate::Essential, move |stop| {
        let claim = claim.clone();
        async move {
            stop.cancelled().await;
            drop(claim);
            anyhow::Ok(())
        }
    });
}

/// Pods reach the API on the bridge: loopback is not theirs.
async fn listen_for_pods(
    api: &Api,
    slot: Slot,
    listeners: &Listeners,
    supervisor: &mut Supervisor,
) -> Result<(), Failure> {
    let bridge = IpAddr::V4(slot.bridge_ip());
    if api.listen.is_unspecified() || api.listen == bridge {
        return Ok(());
    }
    let address = SocketAddr::new(bridge, api.port);
    let listener = listeners.bind("api for pods", address, "--listen").await?;
    api.listen_also("api for pods", listener, supervisor);
    Ok(())
}

fn start_network(config: &Config, api: &Api, slot: Slot, informers: &Informers, supervisor: &mut Supervisor) {
    let (shared, node) = (informers.clone(), config.node_name.clone());
    supervisor.start("services", Fate::Restarted, move |stop| {
        network::run_services(shared.clone(), slot, node.clone(), stop)
    });
    let shared = informers.clone();
    let dns = DnsConfig {
        address: SocketAddr::new(IpAddr::V4(slot.dns_ip()), 53),
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
        range: slot.cidr(),
        resolvers: network::host_resolvers(Path::new("/etc/resolv.conf")),
    };
    supervisor.start("dns", Fate::Restarted, move |stop| network::run_dns(shared.clone(), dns.clone(), stop));
    tracing::info!(pods = %slot.pod_cidr(), services = %slot.service_cidr(), api = api.port, "the pod network is up");
}

async fn start_registry(
    config: &Config,
    layout: &Layout,
    listeners: &Listeners,
    supervisor: &mut Supervisor,
) -> Result<SocketAddr, Failure> {
    let listener = bind_registry(config.registry_listen, listeners).await?;
    let address = listener.local_addr().context("ask for the registry's own address")?;
    let registry = Registry::open(&layout.registry(), RegistryOptions::default()).context("open the registry")?;
    let mut listener = Some(listener);
    supervisor.start("registry", Fate::Essential, move |stop| {
        let (registry, listener) = (registry.clone(), listener.take());
        async move {
            let listener = listener.ok_or_else(|| anyhow!("its socket is gone"))?;
            registry.serve(listener, stop).await?;
            anyhow::Ok(())
        }
    });
    tracing::info!(%address, "the registry answers");
    Ok(address)
}

/// The address that was asked for, or the usual port, or (another instance has it) a free one.
async fn bind_registry(wanted: Option<SocketAddr>, listeners: &Listeners) -> Result<TcpListener, Failure> {
    let bind = |address: SocketAddr| listeners.bind("registry", address, "registry.listen");
    if let Some(address) = wanted {
        return bind(address).await;
    }
    match bind((Ipv4Addr::LOCALHOST, REGISTRY_PORT).into()).await {
        Ok(listener) => Ok(listener),
        Err(_) => bind((Ipv4Addr::LOCALHOST, 0).into()).await,
    }
}

fn start_node(
    config: &Config,
    layout: &Layout,
    slot: Slot,
    api: &Api,
    runtime: Arc<Runtime>,
    network: Arc<dyn PodNetwork>,
    supervisor: &mut Supervisor,
) -> Result<(), Failure> {
    let node_config = NodeConfig {
        name: config.node_name.clone(),
        root_dir: layout.node(),
        node_ip: IpAddr::V4(slot.bridge_ip()),
        cluster_dns: IpAddr::V4(slot.dns_ip()),
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
        labels: std::collections::BTreeMap::new(),
        pods_max: PODS_MAX,
    };
    // Its own informers: they show the node only what a kubelet may see.
    let informers = Informers::new(api.node_client(&config.node_name));
    let watching = informers.clone();
    supervisor.start("node informers", Fate::Essential, move |stop| {
        let informers = watching.clone();
        async move { informers.run(stop).await }
    });
    let node = Node::new(node_config, informers, runtime, network, supervisor.stop().clone())
        .map_err(|e| Exit::Unsupported.because(e))?;
    let connector = InProcess { name: config.node_name.clone(), server: node.server() };
    api.server.set_node_connector(Arc::new(connector));
    let mut node = Some(node);
    supervisor.start("node", Fate::Essential, move |_| {
        let node = node.take();
        async move {
            node.ok_or_else(|| anyhow!("it ran already"))?.run().await;
            anyhow::Ok(())
        }
    });
    Ok(())
}

fn start_provisioner(config: &Config, layout: &Layout, api: &Api, informers: &Informers, supervisor: &mut Supervisor) {
    let (client, shared) = (api.client("keelson:directory-provisioner"), informers.clone());
    let (name, root) = (config.node_name.clone(), layout.node().join("volumes"));
    supervisor.start("directory provisioner", Fate::Restarted, move |stop| {
        let running = node::provisioner::run(shared.clone(), client.clone(), name.clone(), root.clone(), stop);
        async move {
            running.await;
            anyhow::Ok(())
        }
    });
}

/// The gateway follows changes as long as the rest runs, and serves as long as `front` does.
fn start_gateway(
    mut gateway: proxy::GatewayConfig,
    slot: Slot,
    informers: &Informers,
    rest: &CancellationToken,
    front: &mut Supervisor,
) {
    let own = slot.gateway_cidr();
    gateway.pool = Some(proxy::Pool { network: own.network, prefix: own.prefix });
    let (shared, rest) = (informers.clone(), rest.clone());
    front.start("gateway", Fate::Restarted, move |stop| {
        let (informers, gateway, settled) = (shared.clone(), gateway.clone(), rest.child_token());
        async move {
            proxy::run(&informers, gateway, settled, stop).await;
            anyhow::Ok(())
        }
    });
}

/// Services of type LoadBalancer are reached where gateways are or, when those are on loopback and the bridge alone, on the
/// bridge. Where other servers share the store, at the addresses of one of them.
fn start_load_balancer(
    config: &Config,
    slot: Slot,
    api: &Api,
    server_id: Option<&str>,
    informers: &Informers,
    supervisor: &mut Supervisor,
) {
    let mut addresses: Vec<Ipv4Addr> = Vec::new();
    for address in &config.gateway_addresses {
        match address {
            IpAddr::V4(any) if any.is_unspecified() => addresses.extend(balanced(address::of_this_machine())),
            // what is meant for this machine alone is no address for pods
            IpAddr::V4(address) if !address.is_loopback() => addresses.push(*address),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
    }
    if addresses.is_empty() {
        addresses.push(slot.bridge_ip());
    }
    addresses.dedup();
    let user = "keelson:load-balancer";
    let (shared, office) = (informers.clone(), Office::of(config, api, server_id, user));
    supervisor.start("load balancer", Fate::Restarted, move |stop| {
        let (shared, addresses) = (shared.clone(), addresses.clone());
        office.clone().hold(stop, move |writer, stop| {
            let informers = shared.for_client(writer.client(User::new(user, &["system:authenticated"])));
            async move {
                network::run_load_balancer(informers, addresses, stop).await;
                anyhow::Ok(())
            }
        })
    });
}

/// The addresses of this machine by which others reach it.
fn balanced(all: impl IntoIterator<Item = IpAddr>) -> impl Iterator<Item = Ipv4Addr> {
    all.into_iter().filter_map(|address| match address {
        IpAddr::V4(address) if !address.is_loopback() && !address.is_link_local() => Some(address),
        _ => None,
    })
}

/// The way from the API server to the one node of this process.
struct InProcess {
    name: String,
    server: NodeServer,
}

impl NodeConnector for InProcess {
    fn call(&self, node: &str, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, NodeConnectError>> {
        let (server, known, node) = (self.server.clone(), self.name == node, node.to_owned());
        Box::pin(
            async move { if known { Ok(server.call(request).await) } else { Err(NodeConnectError::Unknown(node)) } },
        )
    }
}
