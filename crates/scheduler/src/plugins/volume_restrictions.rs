//! VolumeRestrictions: a disk that only one pod of a node may write, and a claim that only one pod at all may use.

use std::sync::Arc;

use crate::node::NodeInfo;
use crate::plugin::{Event, Filter, Filtering, Plugin, Reason, Refusal, Scope};
use crate::shape::{Shape, VolumeUse};
use crate::snapshot::Snapshot;

const ONE_POD: &str = "ReadWriteOncePod";
const DISK_TAKEN: &str = "node(s) had no available disk";
const CLAIM_TAKEN: &str =
    "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

pub(crate) struct VolumeRestrictions;

struct Free {
    shape: Arc<Shape>,
    /// Claims that only one pod may use.
    exclusive: Vec<String>,
    /// Whether such a claim is in use.
    taken: bool,
}

impl Plugin for VolumeRestrictions {
    fn scope(&self) -> Scope {
        Scope::Cluster
    }

    fn stamp(&self, snapshot: &Snapshot, shape: &Shape) -> u64 {
        if shape.volumes.is_empty() { 0 } else { snapshot.volumes.version() }
    }

    fn filter(&self, snapshot: &mut Snapshot, shape: &Arc<Shape>) -> Filtering {
        let exclusive = shape.volumes.iter().filter_map(|volume| match volume {
            VolumeUse::Claim { name, .. } => {
                let claim = snapshot.volumes.claim(&shape.namespace, name)?;
                claim.modes.iter().any(|mode| mode == ONE_POD).then(|| name.clone())
            }
            VolumeUse::Disk { .. } | VolumeUse::InlineCsi { .. } => None,
        });
        let exclusive: Vec<_> = exclusive.collect();
        let disks = shape.volumes.iter().any(|volume| matches!(volume, VolumeUse::Disk { .. }));
        if exclusive.is_empty() && !disks {
            return Filtering::Nothing;
        }
        Filtering::check(Free { shape: Arc::clone(shape), exclusive, taken: false })
    }

    fn may_help(&self, _: &Snapshot, shape: &Shape, event: &Event) -> bool {
        match event {
            Event::Node { change, .. } => change.added,
            Event::PodGone { shape: gone, .. } => gone.volumes.iter().any(|freed| {
                shape.volumes.iter().any(|wanted| conflicts(wanted, freed))
                    || gone.namespace == shape.namespace && shape.volumes.contains(freed)
            }),
            Event::Claim { namespace, name } => uses(shape, namespace, name),
            _ => false,
        }
    }
}

/// Whether pods of that shape mount a claim.
pub(super) fn uses(shape: &Shape, namespace: &str, claim: &str) -> bool {
    let mounts = |volume: &VolumeUse| matches!(volume, VolumeUse::Claim { name, .. } if name == claim);
    shape.namespace == namespace && shape.volumes.iter().any(mounts)
}

fn conflicts(one: &VolumeUse, other: &VolumeUse) -> bool {
    match (one, other) {
        (VolumeUse::Disk { id, shared }, VolumeUse::Disk { id: other, shared: too }) => {
            id == other && !(*shared && *too)
        }
        _ => false,
    }
}

impl Filter for Free {
    fn begin(&mut self, snapshot: &Snapshot) {
        self.taken = self.exclusive.iter().any(|claim| snapshot.claim_users(&self.shape.namespace, claim) > 0);
    }

    fn check(&self, _: &Snapshot, node: &NodeInfo) -> Result<(), Refusal> {
        let taken = |wanted: &VolumeUse| node.volumes.iter().any(|(_, used)| conflicts(wanted, used));
        if self.shape.volumes.iter().any(taken) {
            return Err(vec![Reason::passing(DISK_TAKEN)]);
        }
        if self.taken { Err(vec![Reason::passing(CLAIM_TAKEN)]) } else { Ok(()) }
    }
}
