//! How much of the cluster's CPU lies in each zone, and how many of a service's endpoints each zone should have for it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use quota::Amounts;
use serde_json::json;

use super::zone;

/// How much more traffic an endpoint may get than its share, upstream's value.
const OVERLOAD: f64 = 0.2;
/// Nodes with these labels take no part, as the services' clients do not run there.
const EXCLUDED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// The share of all CPUs in each zone.
pub(super) type Ratios = BTreeMap<String, f64>;

/// What a node adds to the zones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// It takes no part.
    Excluded,
    /// It does not say where it is, or how much it has: then nobody knows the shares.
    Unknown,
    /// So many thousandths of a CPU.
    In { zone: String, cpu_milli: i64 },
}

impl Share {
    pub(super) fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let mut conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
        let is_ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
        if !is_ready || EXCLUDED.iter().any(|label| node.labels().contains_key(*label)) {
            return Self::Excluded;
        }
        let cpu = status.and_then(|status| status.allocatable.as_ref()?.get("cpu"));
        let cpu_milli = cpu.map_or(0, |cpu| {
            Amounts::read(Some(&json!({"cpu": cpu.0}))).get("cpu").map_or(0, |quantity| quantity.millis())
        });
        match zone(node) {
            Some(zone) if cpu_milli > 0 => Self::In { zone: zone.clone(), cpu_milli },
            _ => Self::Unknown,
        }
    }
}

/// The zones' shares; nothing where a node does not say its own, or there are not two zones.
pub(super) fn ratios(nodes: impl IntoIterator<Item = Share>) -> Option<Ratios> {
    let mut by_zone: BTreeMap<String, i64> = BTreeMap::new();
    for share in nodes {
        match share {
            Share::Excluded => {}
            Share::Unknown => return None,
            Share::In { zone, cpu_milli } => *by_zone.entry(zone).or_default() += cpu_milli,
        }
    }
    let total: i64 = by_zone.values().sum();
    let ratio = |milli: i64| milli as f64 / total as f64;
    (by_zone.len() >= 2).then(|| by_zone.into_iter().map(|(zone, milli)| (zone, ratio(milli))).collect())
}

/// How many endpoints are meant for a zone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Allocation {
    pub(super) minimum: usize,
    pub(super) maximum: usize,
    pub(super) desired: f64,
}

/// What each zone should have of so many endpoints, or why that cannot be had.
pub(super) fn allocations(ratios: Option<&Ratios>, endpoints: usize) -> Result<BTreeMap<String, Allocation>, String> {
    let Some(ratios) = ratios else {
        return Err(
            "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes".to_owned()
        );
    };
    let numbers = format!("({endpoints} endpoints, {} zones)", ratios.len());
    if ratios.len() > endpoints {
        return Err(format!("Insufficient number of endpoints {numbers}"));
    }
    let minimum = |desired: f64| (desired / (1.0 + OVERLOAD)).ceil() as usize;
    let desired = |ratio: f64| ratio * endpoints as f64;
    let total: usize = ratios.values().map(|ratio| minimum(desired(*ratio))).sum();
    let Some(spare) = endpoints.checked_sub(total) else {
        let why = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";
        return Err(format!("{why} {numbers}"));
    };
    let allocation = |ratio: f64| {
        let (desired, minimum) = (desired(ratio), minimum(desired(ratio)));
        Allocation { minimum, maximum: minimum + spare, desired: desired.max(minimum as f64) }
    };
    Ok(ratios.iter().map(|(zone, ratio)| (zone.clone(), allocation(*ratio))).collect())
}

/// How many endpoints zones that have more than they should give, and those that have fewer receive.
pub(super) fn exchange(
    allocations: &BTreeMap<String, Allocation>,
    meant: &BTreeMap<String, usize>,
) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let (mut surplus, mut lack): (BTreeMap<&str, f64>, BTreeMap<&str, f64>) = Default::default();
    for (zone, allocation) in allocations {
        let more = meant.get(zone).copied().unwrap_or(0) as f64 - allocation.desired;
        if more > 0.0 {
            surplus.insert(zone, more);
        } else if more < 0.0 {
            lack.insert(zone, -more);
        }
    }
    let (mut giving, mut receiving) = (BTreeMap::new(), BTreeMap::new());
    while let (Some((from, give)), Some((to, receive))) = (most(&mut surplus), most(&mut lack)) {
        // half an endpoint is worth moving only for one who lacks a whole one, or has one too many
        if (*give < 1.0 && *receive < 1.0) || *give < 0.5 || *receive < 0.5 {
            break;
        }
        *give -= 1.0;
        *receive -= 1.0;
        *giving.entry(from.to_owned()).or_default() += 1;
        *receiving.entry(to.to_owned()).or_default() += 1;
    }
    (giving, receiving)
}

fn most<'a, 'z>(zones: &'a mut BTreeMap<&'z str, f64>) -> Option<(&'z str, &'a mut f64)> {
    zones.iter_mut().max_by(|one, other| one.1.total_cmp(other.1)).map(|(zone, amount)| (*zone, amount))
}
