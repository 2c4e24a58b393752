//! Services and host ports: the loop that keeps the nftables table in step with Services, EndpointSlices and the node's pods.
//!
//! `program` computes what a Service asks for, `host_ports` what a pod does, `ledger` the smallest change from what the table holds, `table` writes
//! it. All three are pure; only this module reads the caches and talks to the kernel.

mod conntrack;
mod host_ports;
mod ledger;
mod program;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use reconcile::{Change as Observed, Index, Informer, Informers, Selector, Subscription};
use tokio::time::Interval;
use tokio_util::sync::CancellationToken;

use crate::netlink::{NetlinkError, Socket};
use crate::nft::{self, Batch};
use crate::slot::Slot;
use host_ports::{host_ports, wants_ports};
use ledger::{Ledger, Update};
use program::{Here, OwnerKey, OwnerKind, programs};
pub(crate) use program::{Protocol, SERVICE_NAME_LABEL};

/// How long the loop waits after a refused batch before it writes the whole table again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How often the loop looks whether the table is still there: firewall programs that flush the whole ruleset take it with
/// them. One small request to the kernel; as often as upstream's proxies do.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Services written in one batch; what is left goes into the next one. Keeps a message to the kernel below some MiB.
const BATCH_SERVICES_MAX: usize = 2048;

/// The index of all EndpointSlices by their Service. Indexes of a kind share their names with every other user of the
/// informers; another one's `service` may leave out slices, so ours has a name of its own.
pub(crate) const SLICES_BY_SERVICE: &str = "network/service";

/// Why the rules can no longer be kept.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// The socket to the kernel could not be opened.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A cache of the API's objects ended.
    #[error("the cache of {0} ended")]
    CacheEnded(&'static str),
}

/// Creates the instance's table, unless it is there.
pub(crate) fn ensure_table(slot: Slot) -> Result<(), NetlinkError> {
    table::ensure(&nft::socket()?, slot)
}

/// Deletes the instance's table, if it is there.
pub(crate) fn remove_table(slot: Slot) -> Result<(), NetlinkError> {
    table::remove(&nft::socket()?, slot)
}

/// What the loop reads.
struct Caches {
    services: Informer<Service>,
    slices: Index<EndpointSlice>,
    /// Those of this node.
    pods: Informer<Pod>,
    here: Here,
}

impl Caches {
    fn wanted(&self, key: &OwnerKey) -> BTreeMap<String, program::Program> {
        match key.kind {
            OwnerKind::Service => {
                let Some(service) = self.services.get(&key.namespace, &key.name) else { return BTreeMap::new() };
                programs(&service, &self.slices.get(&index_key(&key.namespace, &key.name)), &self.here)
            }
            OwnerKind::Pod => self.pods.get(&key.namespace, &key.name).map(|pod| host_ports(&pod)).unwrap_or_default(),
        }
    }

    fn services(&self) -> BTreeSet<OwnerKey> {
        self.services.list().iter().filter_map(|service| service_key(service)).collect()
    }

    fn everything(&self) -> BTreeSet<OwnerKey> {
        let mut all = self.services();
        all.extend(self.pods.list().iter().filter_map(|pod| pod_key(pod)));
        all
    }
}

/// What the loop writes.
struct Table {
    socket: Socket,
    slot: Slot,
    ledger: Ledger,
    /// The handle of the table that holds what the ledger says, once it is written.
    handle: Option<u64>,
}

impl Table {
    /// Writes everything from scratch, in one atomic batch.
    fn rewrite(&mut self, caches: &Caches, keys: BTreeSet<OwnerKey>) -> Result<(), NetlinkError> {
        let mut ledger = Ledger::default();
        let mut batch = Batch::new(&self.slot.table());
        table::replace(&mut batch, self.slot);
        for key in keys {
            let update = ledger.update(&key, caches.wanted(&key));
            update.changes.iter().for_each(|change| table::write(&mut batch, change));
        }
        batch.commit(&self.socket, "write the service rules")?;
        self.handle = nft::table_handle(&self.socket, &self.slot.table())?;
        self.ledger = ledger;
        Ok(())
    }

    /// The kernel still has the table that was written, and not another one of its name.
    fn is_intact(&self) -> Result<bool, NetlinkError> {
        Ok(self.handle.is_some() && self.handle == nft::table_handle(&self.socket, &self.slot.table())?)
    }

    /// Writes what changed for the given Services, in one atomic batch.
    fn apply(&mut self, caches: &Caches, keys: &BTreeSet<OwnerKey>) -> Result<(), NetlinkError> {
        let mut total = Update::default();
        for key in keys {
            let update = self.ledger.update(key, caches.wanted(key));
            total.changes.extend(update.changes);
            total.stale_udp.extend(update.stale_udp);
        }
        if total.changes.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new(&self.slot.table());
        total.changes.iter().for_each(|change| table::write(&mut batch, change));
        batch.commit(&self.socket, "change the service rules")?;
        tracing::debug!(services = keys.len(), changes = total.changes.len(), "service rules changed");
        if !total.stale_udp.is_empty()
            && let Err(error) = conntrack::forget_udp(&self.socket, &total.stale_udp)
        {
            // The rules are right; only flows that already run may go on to a dead endpoint until they time out.
            tracing::warn!(error = &error as &dyn std::error::Error, "UDP flows of removed endpoints not forgotten");
        }
        Ok(())
    }
}

/// What the loop wakes up for.
enum Wake {
    /// It was told to stop.
    Stop,
    /// These Services and pods changed.
    Changed(BTreeSet<OwnerKey>),
    /// The node is in this zone now.
    Moved(Option<String>),
    /// It is time to see whether the table is still there.
    Check,
}

/// What the loop hears of the API's objects.
struct Changes {
    services: Subscription<Service>,
    slices: Subscription<EndpointSlice>,
    pods: Subscription<Pod>,
    node: Subscription<Node>,
    check: Interval,
}

impl Changes {
    /// Waits for the first change; then takes what else is there, without waiting.
    async fn next(&mut self, stop: &CancellationToken) -> Result<Wake, ServicesError> {
        let mut dirty = BTreeSet::new();
        while dirty.len() < BATCH_SERVICES_MAX {
            // what concerns no rule is passed over, and the wait goes on
            let idle = dirty.is_empty();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Wake::Stop),
                change = self.services.next() => match change {
                    Some(change) => dirty.extend(changed(&change, service_key)),
                    None => return Err(ServicesError::CacheEnded("Services")),
                },
                change = self.slices.next() => match change {
                    Some(change) => dirty.extend(changed(&change, slice_owner)),
                    None => return Err(ServicesError::CacheEnded("EndpointSlices")),
                },
                change = self.pods.next() => match change {
                    Some(change) => dirty.extend(changed(&change, pod_key)),
                    None => return Err(ServicesError::CacheEnded("pods")),
                },
                () = std::future::ready(()), if !idle => break,
                change = self.node.next() => match change {
                    Some(Observed::Applied { new, .. }) => return Ok(Wake::Moved(zone(&new))),
                    Some(Observed::Deleted(_)) => {}
                    None => return Err(ServicesError::CacheEnded("the node")),
                },
                _ = self.check.tick() => return Ok(Wake::Check),
            }
        }
        Ok(Wake::Changed(dirty))
    }
}

/// Keeps the rules of the slot's table in step with the Services, EndpointSlices and this node's pods, until stopped. The rules stay when
/// the loop ends, so that pods can talk on while the process is away. `node` is the name of this node, for which endpoints
/// may be meant.
pub async fn run_services(
    informers: Informers,
    slot: Slot,
    node: String,
    stop: CancellationToken,
) -> Result<(), ServicesError> {
    keep_services(informers, slot, node, CHECK_INTERVAL, stop).await
}

/// [`run_services`] with the time between two looks at the table.
pub(crate) async fn keep_services(
    informers: Informers,
    slot: Slot,
    node: String,
    check_interval: Duration,
    stop: CancellationToken,
) -> Result<(), ServicesError> {
    let services = informers.of::<Service>();
    let slices = informers.of::<EndpointSlice>();
    let nodes = informers.of_selected::<Node>(Selector::fields(format!("metadata.name={node}")));
    let pods = informers.of_selected::<Pod>(Selector::fields(format!("spec.nodeName={node}")));
    let mut changes = Changes {
        services: services.subscribe(),
        slices: slices.subscribe(),
        pods: pods.subscribe(),
        node: nodes.subscribe(),
        check: tokio::time::interval(check_interval),
    };
    let mut caches = Caches {
        services: services.clone(),
        slices: slices.index(SLICES_BY_SERVICE, |slice: &EndpointSlice| slice_service(slice).into_iter().collect()),
        pods: pods.clone(),
        here: Here { node: node.clone(), zone: None },
    };
    let mut table = Table { socket: nft::socket()?, slot, ledger: Ledger::default(), handle: None };
    let all = async { services.synced().await && slices.synced().await && nodes.synced().await && pods.synced().await };
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        synced = all => if !synced { return Ok(()) },
    }
    caches.here.zone = nodes.get("", &node).and_then(|node| zone(&node));
    let mut result = table.rewrite(&caches, caches.everything());
    loop {
        if let Err(error) = result {
            tracing::warn!(error = &error as &dyn std::error::Error, "service rules refused, writing them all again");
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(RETRY_DELAY) => {}
            }
            result = table.rewrite(&caches, caches.everything());
            continue;
        }
        result = match changes.next(&stop).await? {
            Wake::Stop => return Ok(()),
            Wake::Changed(keys) => table.apply(&caches, &keys),
            Wake::Moved(zone) if zone == caches.here.zone => Ok(()),
            Wake::Moved(zone) => {
                caches.here.zone = zone;
                table.apply(&caches, &caches.services())
            }
            Wake::Check => match table.is_intact() {
                Ok(true) => Ok(()),
                Ok(false) => {
                    tracing::warn!(
                        table = slot.table(),
                        "nftables table was removed or replaced by another program, restoring it"
                    );
                    table.rewrite(&caches, caches.everything())
                }
                Err(error) => Err(error),
            },
        };
    }
}

/// The Services that a change concerns: that of the object as it is, and as it was.
fn changed<K>(change: &Observed<K>, key: impl Fn(&K) -> Option<OwnerKey>) -> Vec<OwnerKey> {
    match change {
        Observed::Applied { old, new } => old.iter().chain([new]).filter_map(|object| key(object)).collect(),
        Observed::Deleted(object) => key(object).into_iter().collect(),
    }
}

fn zone(node: &Node) -> Option<String> {
    node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").filter(|zone| !zone.is_empty()).cloned()
}

fn service_key(service: &Service) -> Option<OwnerKey> {
    let (namespace, name) = (service.metadata.namespace.clone()?, service.metadata.name.clone()?);
    Some(OwnerKey { kind: OwnerKind::Service, namespace, name })
}

/// The key of a pod that wants ports of its node; few do.
fn pod_key(pod: &Pod) -> Option<OwnerKey> {
    wants_ports(pod).then_some(())?;
    let (namespace, name) = (pod.metadata.namespace.clone()?, pod.metadata.name.clone()?);
    Some(OwnerKey { kind: OwnerKind::Pod, namespace, name })
}

fn slice_owner(slice: &EndpointSlice) -> Option<OwnerKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?.clone();
    Some(OwnerKey { kind: OwnerKind::Service, namespace: slice.metadata.namespace.clone()?, name })
}

/// The key under which a slice is found by its Service.
pub(crate) fn slice_service(slice: &EndpointSlice) -> Option<String> {
    slice_owner(slice).map(|key| index_key(&key.namespace, &key.name))
}

/// The index key of a Service's slices.
pub(crate) fn index_key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

#[cfg(test)]
mod tests;
