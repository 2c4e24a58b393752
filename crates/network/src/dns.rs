//! Cluster DNS: answers for Services and pods from the API's objects, and hands every other question to the host's
//! resolvers.
//!
//! `records` decides the answers and is pure; `server` speaks UDP and TCP; `forward` asks the host's resolvers.

mod forward;
mod records;
mod server;

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use reconcile::{Index, Informer, Informers};
use tokio_util::sync::CancellationToken;

use crate::services::{SLICES_BY_SERVICE, index_key, slice_service};
use crate::slot::Cidr;
use records::Cluster;
use server::Server;

/// Resolvers that are asked at most; as in the C library.
const RESOLVERS_MAX: usize = 3;

/// What the DNS server needs to know.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Where it listens, over UDP and TCP.
    pub address: SocketAddr,
    /// The cluster's domain, `cluster.local` by convention.
    pub cluster_domain: String,
    /// The range whose reverse names it answers itself.
    pub range: Cidr,
    /// The resolvers of everything else, asked in order.
    pub resolvers: Vec<SocketAddr>,
}

/// Why the DNS server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address could not be listened on.
    #[error("cannot listen on {address} for DNS")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The failure.
        source: io::Error,
    },
    /// The cluster's domain is not a domain name.
    #[error("cluster domain {0:?} is not a domain name")]
    Domain(String),
}

/// The resolvers of the host, from a file in the format of `resolv.conf`; none when the file cannot be read.
pub fn host_resolvers(resolv_conf: &Path) -> Vec<SocketAddr> {
    let content = fs::read_to_string(resolv_conf).unwrap_or_default();
    let addresses = content.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    });
    addresses.take(RESOLVERS_MAX).map(|address| SocketAddr::new(address, 53)).collect()
}

/// Serves DNS until stopped. Until the caches have synced once, cluster names are answered with a server failure, so
/// that nobody takes a name for missing that is only not known yet.
pub async fn run_dns(informers: Informers, config: DnsConfig, stop: CancellationToken) -> Result<(), DnsError> {
    let cluster = Caches::new(&informers);
    let server = Server::bind(&config).await?;
    server.run(Arc::new(cluster), stop).await;
    Ok(())
}

/// The API's objects as the DNS server looks them up.
struct Caches {
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    services_by_ip: Index<Service>,
    slices_by_service: Index<EndpointSlice>,
    slices_by_ip: Index<EndpointSlice>,
}

impl Caches {
    fn new(informers: &Informers) -> Self {
        let services = informers.of::<Service>();
        let slices = informers.of::<EndpointSlice>();
        Self {
            namespaces: informers.of(),
            services_by_ip: services.index("network/cluster-ip", |service: &Service| {
                service.spec.iter().flat_map(|spec| spec.cluster_ip.clone()).collect()
            }),
            slices_by_service: slices
                .index(SLICES_BY_SERVICE, |slice: &EndpointSlice| slice_service(slice).into_iter().collect()),
            slices_by_ip: slices.index("network/address", |slice: &EndpointSlice| {
                slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
            }),
            services,
            slices,
        }
    }
}

impl Cluster for Caches {
    fn ready(&self) -> bool {
        self.namespaces.is_synced() && self.services.is_synced() && self.slices.is_synced()
    }

    fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.get("", name).is_some()
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(namespace, name)
    }

    fn slices(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices_by_service.get(&index_key(namespace, name))
    }

    fn service_at(&self, address: IpAddr) -> Option<Arc<Service>> {
        self.services_by_ip.get(&address.to_string()).into_iter().next()
    }

    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.slices_by_ip.get(&address.to_string())
    }
}

#[cfg(test)]
mod tests;
