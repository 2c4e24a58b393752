//! NodeVolumeLimits: a node attaches no more volumes of a CSI driver than the driver says it can.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::volume_restrictions::uses;
use crate::node::NodeInfo;
use crate::plugin::{Event, Filter, Filtering, Plugin, Reason, Refusal, Scope};
use crate::shape::{Shape, VolumeUse};
use crate::snapshot::Snapshot;

pub(crate) struct NodeVolumeLimits;

/// The CSI volumes a pod brings, by driver.
struct Room(BTreeMap<String, BTreeSet<String>>);

/// Driver and name of what is mounted, where a CSI driver provides it.
fn csi_volume(snapshot: &Snapshot, namespace: &str, volume: &VolumeUse) -> Option<(String, String)> {
    match volume {
        VolumeUse::Claim { name, .. } => {
            let claim = snapshot.volumes.claim(namespace, name)?;
            snapshot.volumes.volume(claim.volume.as_deref()?)?.csi.clone()
        }
        VolumeUse::Disk { .. } | VolumeUse::InlineCsi { .. } => None,
    }
}

impl Plugin for NodeVolumeLimits {
    fn scope(&self) -> Scope {
        Scope::Cluster
    }

    fn stamp(&self, snapshot: &Snapshot, shape: &Shape) -> u64 {
        if shape.volumes.is_empty() { 0 } else { snapshot.volumes.version() }
    }

    fn filter(&self, snapshot: &mut Snapshot, shape: &Arc<Shape>) -> Filtering {
        let mut brings: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for volume in &shape.volumes {
            if let Some((driver, handle)) = csi_volume(snapshot, &shape.namespace, volume) {
                brings.entry(driver).or_default().insert(handle);
            }
        }
        if brings.is_empty() { Filtering::Nothing } else { Filtering::check(Room(brings)) }
    }

    fn may_help(&self, _: &Snapshot, shape: &Shape, event: &Event) -> bool {
        match event {
            Event::Node { change, .. } => change.added,
            Event::PodGone { shape: gone, .. } => !gone.volumes.is_empty(),
            Event::Claim { namespace, name } => uses(shape, namespace, name),
            Event::Storage => true,
            _ => false,
        }
    }
}

impl Filter for Room {
    fn check(&self, snapshot: &Snapshot, node: &NodeInfo) -> Result<(), Refusal> {
        for (driver, brought) in &self.0 {
            let Some(limit) = snapshot.volumes.limit(&node.name, driver) else { continue };
            let here = node.volumes.iter().filter_map(|(ns, volume)| csi_volume(snapshot, ns, volume));
            let mut all: BTreeSet<String> = here.filter(|(of, _)| of == driver).map(|(_, handle)| handle).collect();
            let before = all.len();
            all.extend(brought.iter().cloned());
            if all.len() > before && i64::try_from(all.len()).is_ok_and(|count| count > limit) {
                return Err(vec![Reason::passing("node(s) exceed max volume count")]);
            }
        }
        Ok(())
    }
}
