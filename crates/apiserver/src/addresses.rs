//! IPAddress objects, which say who holds which cluster IP, and the ServiceCIDRs that cluster IPs come from.
//!
//! An IPAddress is written and deleted in the transaction of its Service, so that the two agree at any time. Only what
//! others do to it is repaired: at start what was done meanwhile, and later by a controller, which tells of it too.

use std::{net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use serde_json::{Value, json};
use store::{CommitError, Key, Mutation, Precondition, Snapshot, Write};
use strategy::tree;

use crate::{
    allocation::{Block, Claim, address_of},
    body,
    bootstrap::BootstrapError,
    codec, meta,
    server::{ApiServer, SERVICES},
};

/// Where IPAddresses lie.
pub(crate) const ADDRESSES: &str = "networking.k8s.io/ipaddresses";
/// Where ServiceCIDRs lie.
pub(crate) const RANGES: &str = "networking.k8s.io/servicecidrs";
const RANGES_PATH: &str = "/apis/networking.k8s.io/v1/servicecidrs";
/// The ServiceCIDR of the configured range.
const DEFAULT_RANGE: &str = "kubernetes";
/// Keeps a ServiceCIDR while addresses of it are in use.
const RANGE_FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGER: &str = "ipallocator.k8s.io";

/// The object that says that a Service holds an address.
fn object(address: Ipv4Addr, namespace: &str, name: &str, now: jiff::Timestamp) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(), "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": meta::time(now),
            "labels": {"ipaddress.kubernetes.io/ip-family": "IPv4", MANAGED_BY: MANAGER},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}},
    })
}

fn key(address: Ipv4Addr) -> Key {
    Key { collection: Arc::from(ADDRESSES), path: Arc::from(address.to_string()) }
}

fn take(address: Ipv4Addr, namespace: &str, name: &str, now: jiff::Timestamp) -> Write {
    let object = object(address, namespace, name, now);
    Write { key: key(address), precondition: Precondition::Absent, mutation: Mutation::Put(codec::encode(&object)) }
}

/// Deletes the object of an address, if it is the Service's.
fn free(snapshot: &Snapshot, address: Ipv4Addr, namespace: &str, name: &str) -> Option<Write> {
    let stored = snapshot.get(ADDRESSES, &address.to_string())?;
    let object = codec::stored(&stored.bytes).ok()?;
    if parent(&object) != Some((namespace, name)) {
        return None;
    }
    let mutation = Mutation::Delete(codec::encode(&object));
    Some(Write { key: key(address), precondition: Precondition::Revision(stored.revision), mutation })
}

/// Namespace and name of the Service that an address belongs to.
fn parent(address: &Value) -> Option<(&str, &str)> {
    let parent = tree::at(address, &["spec", "parentRef"])?;
    let of_service = tree::text(parent, "resource") == "services" && tree::text(parent, "group").is_empty();
    of_service.then(|| (tree::text(parent, "namespace"), tree::text(parent, "name")))
}

/// What is written besides a Service that takes and gives up addresses.
pub(crate) fn writes(
    snapshot: &Snapshot,
    claim: &Claim,
    namespace: &str,
    name: &str,
    now: jiff::Timestamp,
) -> Vec<Write> {
    let taken = claim.taken_addresses().iter().map(|address| take(*address, namespace, name, now));
    let freed = claim.freed_addresses().iter().filter_map(|address| free(snapshot, *address, namespace, name));
    taken.chain(freed).collect()
}

/// What is written besides the deletion of the Service at `path`.
pub(crate) fn writes_of_deletion(snapshot: &Snapshot, path: &str) -> Option<Write> {
    let service = codec::stored(&snapshot.get(SERVICES, path)?.bytes).ok()?;
    let (namespace, name) = path.split_once('/')?;
    free(snapshot, address_of(&service)?, namespace, name)
}

/// Whether somebody holds an address, with a Service or without.
pub(crate) fn is_held(snapshot: &Snapshot, address: Ipv4Addr) -> bool {
    snapshot.get(ADDRESSES, &address.to_string()).is_some()
}

/// The IPv4 blocks of a ServiceCIDR and whether addresses of them may be given out.
fn blocks(range: &Value) -> Vec<(Block, bool)> {
    let conditions = tree::at(range, &["status", "conditions"]).and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    // who adds a range where no controller runs wants it used all the same
    let is_ready = ready.is_none_or(|ready| ready["status"] == "True") && !meta::is_terminating(range);
    let cidrs = tree::at(range, &["spec", "cidrs"]).and_then(Value::as_array).into_iter().flatten();
    cidrs.filter_map(|cidr| Some((block(cidr.as_str()?)?, is_ready))).collect()
}

fn block(text: &str) -> Option<Block> {
    let (network, prefix) = text.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix))?;
    Some(Block { network: network.parse().ok()?, prefix })
}

impl ApiServer {
    /// Gives out addresses of the ranges that ServiceCIDRs name.
    pub(crate) fn follow_ranges(&self) {
        let snapshot = self.snapshot();
        let objects = |collection: &'static str| {
            snapshot.range(collection, "", None).filter_map(|(_, object)| codec::stored(&object.bytes).ok())
        };
        let ranges: Vec<(Block, bool)> = objects(RANGES).flat_map(|range| blocks(&range)).collect();
        let services: Vec<Value> = objects(SERVICES).collect();
        self.services.follow(&ranges, services.iter());
    }

    /// Makes the ServiceCIDR of the configured range, which is ready from the beginning.
    pub(crate) async fn ensure_default_range(self: &Arc<Self>) -> Result<(), BootstrapError> {
        let metadata = json!({"name": DEFAULT_RANGE, "finalizers": [RANGE_FINALIZER]});
        let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": metadata,
            "spec": {"cidrs": [self.services.block().to_string()]}});
        self.ensure(RANGES_PATH, &range).await?;
        let snapshot = self.snapshot();
        let stored = snapshot.get(RANGES, DEFAULT_RANGE).and_then(|stored| codec::stored(&stored.bytes).ok());
        if stored.is_none_or(|range| range["status"]["conditions"].is_array() || meta::is_terminating(&range)) {
            return Ok(());
        }
        let ready = json!({"type": "Ready", "status": "True", "reason": "",
            "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": meta::time(jiff::Timestamp::now())});
        let patch = json!({"status": {"conditions": [ready]}});
        let mut request = Request::new(body::full(Bytes::from(patch.to_string())));
        *request.method_mut() = Method::PATCH;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/merge-patch+json"));
        self.ask_itself(&format!("{RANGES_PATH}/{DEFAULT_RANGE}/status"), request).await
    }

    /// Makes the IPAddresses be those of the Services there are.
    pub(crate) async fn repair_addresses(&self, now: jiff::Timestamp) -> Result<(), CommitError> {
        let snapshot = self.snapshot();
        let mut repairs: Vec<Write> = Vec::new();
        for (path, stored) in snapshot.range(SERVICES, "", None) {
            let Some((namespace, name)) = path.split_once('/') else { continue };
            let address = codec::stored(&stored.bytes).ok().as_ref().and_then(address_of);
            if let Some(address) = address.filter(|address| !is_held(&snapshot, *address)) {
                repairs.push(take(address, namespace, name, now));
            }
        }
        for (_, stored) in snapshot.range(ADDRESSES, "", None) {
            let Ok(object) = codec::stored(&stored.bytes) else { continue };
            let Ok(address) = meta::name(&object).parse::<Ipv4Addr>() else { continue };
            let Some((namespace, name)) = parent(&object) else { continue };
            let is_ours = object["metadata"]["labels"][MANAGED_BY] == MANAGER;
            let service = snapshot.get(SERVICES, &format!("{namespace}/{name}"));
            let holds = service.and_then(|stored| codec::stored(&stored.bytes).ok()).as_ref().and_then(address_of);
            if is_ours && holds != Some(address) {
                repairs.extend(free(&snapshot, address, namespace, name));
            }
        }
        for repair in repairs {
            match self.store.commit(vec![repair]).await {
                // somebody was faster: the next round sees what is left
                Ok(_) | Err(CommitError::Precondition { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
