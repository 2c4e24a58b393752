//! What objects count for in a namespace's ResourceQuotas, and whether a quota has room for more.
//!
//! Admission charges what a write adds, the controller counts everything anew; both must count alike, so the counting is
//! here. It is pure: objects and quotas are trees, the time is an argument.
//!
//! Main types: [`Item`] is an object as quotas see it, [`Amounts`] is how much of what.

mod amounts;
mod pod;
mod scope;

use jiff::Timestamp;
use schema::quantity::{Format, Quantity};
use serde_json::{Map, Value};

pub use amounts::Amounts;
use scope::Scopes;

/// An object as quotas see it.
#[derive(Clone, Debug)]
pub struct Item {
    kind: Kind,
    /// What it counts for.
    pub usage: Amounts,
    scopes: Scopes,
    /// The pod's containers that leave out what a quota may insist on, by resource.
    unspecified: Vec<(&'static str, String)>,
}

/// How objects of a resource are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Pods, with what their containers ask for.
    Pods,
    /// Services, with their node ports and load balancers.
    Services,
    /// Claims, with their storage.
    Claims,
    /// Only how many there are: `configmaps`, `deployments.apps`.
    Other(String),
}

/// Why a quota refuses an object, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Resources of the core group that quotas also know by their bare name.
const BARE: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
const SERVICES: [&str; 4] = ["services", "services.nodeports", "services.loadbalancers", "count/services"];
const CLAIMS: [&str; 3] = ["persistentvolumeclaims", "requests.storage", "count/persistentvolumeclaims"];
/// Between a storage class' name and what is counted of it.
const CLASS_INFIX: &str = ".storageclass.storage.k8s.io/";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

impl Kind {
    /// How objects of a resource are counted.
    pub fn of(group: &str, plural: &str) -> Self {
        match (group, plural) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::Claims,
            ("", plural) => Self::Other(plural.to_owned()),
            (group, plural) => Self::Other(format!("{plural}.{group}")),
        }
    }

    /// Group and plural.
    pub fn resource(&self) -> (&str, &str) {
        match self {
            Self::Pods => ("", "pods"),
            Self::Services => ("", "services"),
            Self::Claims => ("", "persistentvolumeclaims"),
            Self::Other(name) => match name.split_once('.') {
                Some((plural, group)) => (group, plural),
                None => ("", name),
            },
        }
    }

    /// Whose objects count for the quota's resource `name`; `None` when nobody's do.
    pub fn counting(name: &str) -> Option<Self> {
        if let Some(resource) = name.strip_prefix("count/") {
            let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
            return Some(Self::of(group, plural));
        }
        let other = || BARE.contains(&name).then(|| Self::Other(name.to_owned()));
        [Self::Pods, Self::Services, Self::Claims].into_iter().find(|kind| kind.counts_for(name)).or_else(other)
    }

    /// Whether objects of this kind count for the quota's resource `name`.
    pub fn counts_for(&self, name: &str) -> bool {
        match self {
            Self::Pods => pod::counts_for(name),
            Self::Services => SERVICES.contains(&name),
            Self::Claims => {
                let of_class = name.split_once(CLASS_INFIX).is_some_and(|(class, what)| {
                    !class.is_empty() && matches!(what, "requests.storage" | "persistentvolumeclaims")
                });
                of_class || CLAIMS.contains(&name)
            }
            Self::Other(own) => {
                name.strip_prefix("count/") == Some(own.as_str()) || (own == name && BARE.contains(&name))
            }
        }
    }
}

impl Item {
    /// The object as quotas see it at `now`.
    pub fn of(group: &str, plural: &str, object: &Value, now: Timestamp) -> Self {
        let kind = Kind::of(group, plural);
        let usage = match &kind {
            Kind::Pods => pod::usage(object, now),
            Kind::Services => service_usage(object),
            Kind::Claims => claim_usage(object),
            Kind::Other(name) => {
                let mut usage = Amounts::default();
                usage.set(&format!("count/{name}"), one());
                if BARE.contains(&name.as_str()) {
                    usage.set(name, one());
                }
                usage
            }
        };
        let unspecified = if kind == Kind::Pods { pod::unspecified(object) } else { Vec::new() };
        Self { scopes: Scopes::of(&kind, object), kind, usage, unspecified }
    }

    /// Whether the object is in all of the quota's scopes.
    pub fn in_scope(&self, quota: &Value) -> bool {
        self.scopes.satisfy(quota.get("spec").unwrap_or(&Value::Null))
    }

    /// What the quota's `status.used` becomes when `delta` is charged; `None` when the charge changes nothing.
    ///
    /// `delta` is what the object counts for, less what it counted for before. A quota whose status was not computed yet
    /// limits nothing.
    pub fn charge(&self, quota: &Value, delta: &Amounts) -> Result<Option<Amounts>, Refusal> {
        let name = quota.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let hard = Amounts::read(quota.pointer("/status/hard"));
        let limited: Vec<&str> = hard.names().filter(|name| self.kind.counts_for(name)).collect();
        if limited.is_empty() || !self.in_scope(quota) {
            return Ok(None);
        }
        self.check_specified(name, &limited)?;
        let used = Amounts::read(quota.pointer("/status/used"));
        if limited.iter().any(|name| used.get(name).is_none()) {
            let mut names = limited;
            names.sort_unstable();
            return Err(Refusal(format!("status unknown for quota: {name}, resources: {}", names.join(","))));
        }
        let requested = delta.masked(|name| limited.contains(&name));
        if requested.is_empty() {
            return Ok(None);
        }
        let after = used.plus(&requested);
        // what grows must fit; giving something back is never refused
        let too_much = |name: &str| match (after.get(name), hard.get(name), requested.get(name)) {
            (Some(after), Some(hard), Some(requested)) => after > hard && !requested.is_negative(),
            _ => false,
        };
        let exceeded = requested.masked(too_much);
        if !exceeded.is_empty() {
            let shown = |amounts: &Amounts| amounts.masked(|name| exceeded.get(name).is_some()).to_string();
            return Err(Refusal(format!(
                "exceeded quota: {name}, requested: {exceeded}, used: {}, limited: {}",
                shown(&used),
                shown(&hard)
            )));
        }
        Ok(Some(after))
    }

    /// A quota of CPU or memory makes every container say how much it wants.
    fn check_specified(&self, quota: &str, limited: &[&str]) -> Result<(), Refusal> {
        let mut missing: Vec<(&str, Vec<&str>)> = Vec::new();
        for (resource, container) in self.unspecified.iter().filter(|(resource, _)| limited.contains(resource)) {
            match missing.iter_mut().find(|(known, _)| known == resource) {
                Some((_, containers)) => containers.push(container),
                None => missing.push((resource, vec![container])),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort_unstable();
        let each = |(resource, mut containers): (&str, Vec<&str>)| {
            containers.sort_unstable();
            containers.dedup();
            if containers == [""] { resource.to_owned() } else { format!("{resource} for: {}", containers.join(",")) }
        };
        let what: Vec<String> = missing.into_iter().map(each).collect();
        Err(Refusal(format!("failed quota: {quota}: must specify {}", what.join("; "))))
    }
}

pub(crate) fn one() -> Quantity {
    Quantity::from_units(1, Format::DecimalSi)
}

fn count(number: usize) -> Quantity {
    Quantity::from_units(i64::try_from(number).unwrap_or(i64::MAX), Format::DecimalSi)
}

pub(crate) fn map<'a>(object: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    object.pointer(pointer).and_then(Value::as_object)
}

pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn service_usage(service: &Value) -> Amounts {
    let ports = list(service, "/spec/ports");
    let allocated = service.pointer("/spec/allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false);
    let (node_ports, balancers) = match text(service, "/spec/type") {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" if allocated => (ports.len(), 1),
        "LoadBalancer" => {
            let open = ports.iter().filter(|port| port["nodePort"].as_i64().is_some_and(|port| port != 0));
            (open.count(), 1)
        }
        _ => (0, 0),
    };
    let mut usage = Amounts::default();
    usage.set("count/services", one());
    usage.set("services", one());
    usage.set("services.nodeports", count(node_ports));
    usage.set("services.loadbalancers", count(balancers));
    usage
}

fn claim_usage(claim: &Value) -> Amounts {
    let mut usage = Amounts::default();
    usage.set("count/persistentvolumeclaims", one());
    usage.set("persistentvolumeclaims", one());
    let annotated =
        map(claim, "/metadata/annotations").and_then(|all| all.get(CLASS_ANNOTATION)).and_then(Value::as_str);
    let class = annotated.unwrap_or_else(|| text(claim, "/spec/storageClassName"));
    let of_class = |what: &str| format!("{class}{CLASS_INFIX}{what}");
    if !class.is_empty() {
        usage.set(&of_class("persistentvolumeclaims"), one());
    }
    // a claim whose expansion failed still holds what was allocated for it
    let amounts = ["/spec/resources/requests/storage", "/status/allocatedResources/storage"];
    let storage = amounts.iter().filter_map(|at| claim.pointer(at).and_then(amounts::quantity)).max();
    if let Some(storage) = storage {
        usage.set("requests.storage", storage);
        if !class.is_empty() {
            usage.set(&of_class("requests.storage"), storage);
        }
    }
    usage
}

#[cfg(test)]
mod tests;
