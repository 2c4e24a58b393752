//! VolumeZone: a bound volume with zone labels is mounted in its zone only.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::volume_restrictions::uses;
use crate::node::NodeInfo;
use crate::plugin::{Event, Filter, Filtering, Plugin, Reason, Refusal, Scope};
use crate::shape::{Shape, VolumeUse};
use crate::snapshot::Snapshot;

/// Labels of places, with the name each has today.
const PLACES: [(&str, &str); 4] = [
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
];
/// Between the zones of a volume that is in several.
const SEPARATOR: &str = "__";

pub(crate) struct VolumeZone;

/// Place labels and the values that will do.
struct Zones(Vec<(&'static str, &'static str, BTreeSet<String>)>);

impl Plugin for VolumeZone {
    fn scope(&self) -> Scope {
        Scope::Cluster
    }

    fn stamp(&self, snapshot: &Snapshot, shape: &Shape) -> u64 {
        if shape.volumes.is_empty() { 0 } else { snapshot.volumes.version() }
    }

    fn filter(&self, snapshot: &mut Snapshot, shape: &Arc<Shape>) -> Filtering {
        let mut zones = Vec::new();
        for volume in &shape.volumes {
            let VolumeUse::Claim { name, .. } = volume else { continue };
            let claim = snapshot.volumes.claim(&shape.namespace, name);
            let bound = claim.and_then(|claim| snapshot.volumes.volume(claim.volume.as_deref()?));
            for (label, today) in PLACES {
                if let Some(value) = bound.and_then(|volume| volume.labels.get(label)) {
                    zones.push((label, today, value.split(SEPARATOR).map(str::to_owned).collect()));
                }
            }
        }
        if zones.is_empty() { Filtering::Nothing } else { Filtering::check(Zones(zones)) }
    }

    fn may_help(&self, _: &Snapshot, shape: &Shape, event: &Event) -> bool {
        match event {
            Event::Node { change, .. } => change.added || change.labels,
            Event::Claim { namespace, name } => uses(shape, namespace, name),
            Event::Storage => true,
            _ => false,
        }
    }
}

impl Filter for Zones {
    fn check(&self, _: &Snapshot, node: &NodeInfo) -> Result<(), Refusal> {
        if !PLACES.iter().any(|(label, _)| node.labels.contains_key(*label)) {
            return Ok(());
        }
        let fits = |(label, today, values): &(&str, &str, BTreeSet<String>)| {
            node.labels.get(*label).or_else(|| node.labels.get(*today)).is_some_and(|value| values.contains(value))
        };
        if self.0.iter().all(fits) {
            Ok(())
        } else {
            Err(vec![Reason::lasting("node(s) had no available volume zone")])
        }
    }
}
