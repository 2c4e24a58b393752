//! What is made for a Gateway: a name in the cluster's DNS for its address.
//!
//! A headless Service `NAME-keelson` with the Gateway's own address, so that pods reach the Gateway as
//! `NAME-keelson.NAMESPACE.svc`. It carries the labels and annotations of `spec.infrastructure`, and goes with its Gateway.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kinds::gateway::{self, Gateway};
use serde_json::{Value, json};

use super::listeners::GatewayPlan;
use crate::routing::{Place, Protocol};

/// The label by which objects name the Gateway that they were made for.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// Names in DNS, and values of labels, are no longer.
const NAME_LIMIT: usize = 63;

/// The objects made for a Gateway.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Made {
    pub(crate) name: String,
    pub(crate) service: Value,
    pub(crate) slice: Value,
}

/// Whether an object of a made one's name is somebody else's, and is left alone.
pub(crate) fn is_foreign(object: &ObjectMeta, gateway: &Gateway) -> bool {
    let mut owners = object.owner_references.iter().flatten();
    !owners.any(|owner| Some(&owner.uid) == gateway.metadata.uid.as_ref())
}

/// What is to be made; `None` for a Gateway without an address of its own.
pub(crate) fn made(plan: &GatewayPlan) -> Option<Made> {
    let address = plan.located.places.iter().find_map(|place| match place {
        Place::Own(address) => Some(*address),
        Place::Shared => None,
    })?;
    let gateway = &plan.gateway;
    let name = named(gateway.metadata.name.as_deref()?, "-keelson");
    let metadata = metadata(gateway, &name);
    let ports = ports(plan);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {"clusterIP": "None", "ports": ports}});
    let mut metadata = metadata;
    metadata["labels"]["kubernetes.io/service-name"] = name.clone().into();
    let kind = if matches!(address, IpAddr::V4(_)) { "IPv4" } else { "IPv6" };
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": kind, "ports": ports,
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}]});
    Some(Made { name, service, slice })
}

fn metadata(gateway: &Gateway, name: &str) -> Value {
    let infrastructure = gateway.spec.infrastructure.clone().unwrap_or_default();
    let of = gateway.metadata.name.as_deref().unwrap_or_default();
    let mut labels: BTreeMap<String, String> = infrastructure.labels;
    labels.insert(GATEWAY_NAME.to_owned(), named(of, ""));
    let owner = json!({"apiVersion": format!("{}/v1", gateway::GROUP), "kind": "Gateway", "name": of,
        "uid": gateway.metadata.uid, "controller": true});
    json!({"name": name, "namespace": gateway.metadata.namespace, "labels": labels,
        "annotations": infrastructure.annotations, "ownerReferences": [owner]})
}

/// The ports of the listeners that are valid, each once.
fn ports(plan: &GatewayPlan) -> Vec<Value> {
    let mut numbers: Vec<(u16, &str)> = { plan.listeners.iter() }
        .filter(|listener| listener.is_valid())
        .map(|listener| (listener.port, if listener.protocol == Ok(Protocol::Udp) { "UDP" } else { "TCP" }))
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let port = |(number, protocol): (u16, &str)| json!({"name": format!("{}-{number}", protocol.to_ascii_lowercase()), "port": number, "protocol": protocol});
    numbers.into_iter().map(port).collect()
}

/// A name with a suffix; what would be too long ends in a number that stands for the whole.
fn named(name: &str, suffix: &str) -> String {
    if name.len() + suffix.len() <= NAME_LIMIT {
        return format!("{name}{suffix}");
    }
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let tail = format!("-{:08x}{suffix}", hasher.finish() as u32);
    let kept: String = name.chars().take(NAME_LIMIT - tail.len()).collect();
    format!("{}{tail}", kept.trim_end_matches(['-', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_stay_apart() {
        let long = "a".repeat(63);
        let longer = "a".repeat(64);
        assert_eq!(named("edge", "-keelson"), "edge-keelson");
        for (name, suffix) in [(&long, "-keelson"), (&longer, "-keelson"), (&longer, "")] {
            assert!(named(name, suffix).len() <= NAME_LIMIT);
        }
        assert_eq!(named(&long, ""), long);
        assert_ne!(named(&long, "-keelson"), named(&longer, "-keelson"));
    }
}
