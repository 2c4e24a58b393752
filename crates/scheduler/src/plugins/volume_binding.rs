//! VolumeBinding: a pod goes where its volumes can be reached, or where those that are not bound yet can be had.

use std::sync::Arc;

use super::volume_restrictions::uses;
use crate::node::NodeInfo;
use crate::plugin::{Event, Filter, Filtering, Plugin, Reason, Refusal, Scope};
use crate::shape::{Shape, VolumeUse};
use crate::snapshot::Snapshot;
use crate::snapshot::volumes::{Claim, Provision};

const OUT_OF_REACH: &str = "node(s) didn't match PersistentVolume's node affinity";
const NOTHING_TO_BIND: &str = "node(s) didn't find available persistent volumes to bind";
const VOLUME_GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const UNBOUND: &str = "pod has unbound immediate PersistentVolumeClaims";

pub(crate) struct VolumeBinding;

/// The claims of a pod, by what has to happen to them.
#[derive(Default)]
struct Claims {
    /// Volumes of bound ones.
    bound: Vec<String>,
    /// Those bound when the pod has its node.
    waiting: Vec<(String, Claim)>,
}

struct Reachable {
    namespace: String,
    claims: Claims,
}

impl Claims {
    fn of(snapshot: &Snapshot, shape: &Shape) -> Result<Self, Reason> {
        let lasting = |text: String| Reason { text: text.into(), resolvable: false };
        let mut claims = Self::default();
        let mut unbound = false;
        for volume in &shape.volumes {
            let VolumeUse::Claim { name, made_for } = volume else { continue };
            let Some(claim) = snapshot.volumes.claim(&shape.namespace, name) else {
                return Err(lasting(if made_for.is_some() {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
                } else {
                    format!("persistentvolumeclaim \"{name}\" not found")
                }));
            };
            if let Some(pod) = made_for
                && claim.pod.as_ref() != Some(pod)
            {
                let namespace = &shape.namespace;
                return Err(lasting(format!("PVC {namespace}/{name} was not created for the pod (pod is not owner)")));
            }
            let volume = claim.volume.as_deref().unwrap_or_default();
            if claim.lost {
                return Err(lasting(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
                )));
            }
            if claim.deleting {
                return Err(lasting(format!("persistentvolumeclaim \"{name}\" is being deleted")));
            }
            if claim.is_bound() {
                claims.bound.push(volume.to_owned());
            } else if snapshot.volumes.waits(claim) && claim.volume.is_none() {
                claims.waiting.push((name.clone(), claim.clone()));
            } else {
                unbound = true;
            }
        }
        if unbound {
            return Err(Reason::lasting(UNBOUND));
        }
        // Small ones first: a large volume is not taken by a claim that a small one satisfies.
        claims.waiting.sort_by(|(a, one), (b, other)| (one.bytes, a).cmp(&(other.bytes, b)));
        Ok(claims)
    }
}

/// What has to be done about a pod's claims once it goes to a node.
pub(crate) fn provisions(snapshot: &Snapshot, shape: &Shape, node: &NodeInfo) -> Vec<Provision> {
    if shape.volumes.is_empty() {
        return Vec::new();
    }
    let claims = Claims::of(snapshot, shape).unwrap_or_default();
    let plan = snapshot.volumes.provide(&shape.namespace, &claims.waiting, &node.name, &node.labels);
    plan.unwrap_or_default()
}

impl Plugin for VolumeBinding {
    fn scope(&self) -> Scope {
        Scope::Cluster
    }

    fn stamp(&self, snapshot: &Snapshot, shape: &Shape) -> u64 {
        if shape.volumes.is_empty() { 0 } else { snapshot.volumes.version() }
    }

    fn filter(&self, snapshot: &mut Snapshot, shape: &Arc<Shape>) -> Filtering {
        match Claims::of(snapshot, shape) {
            Err(reason) => Filtering::Refused(reason),
            Ok(claims) if claims.bound.is_empty() && claims.waiting.is_empty() => Filtering::Nothing,
            Ok(claims) => Filtering::check(Reachable { namespace: shape.namespace.clone(), claims }),
        }
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

impl Filter for Reachable {
    fn check(&self, snapshot: &Snapshot, node: &NodeInfo) -> Result<(), Refusal> {
        let mut refusal = Vec::new();
        for name in &self.claims.bound {
            match snapshot.volumes.volume(name) {
                None => refusal.push(Reason::lasting(VOLUME_GONE)),
                Some(volume) if !volume.demand.accepts(&node.name, &node.labels) => {
                    refusal.push(Reason::lasting(OUT_OF_REACH));
                }
                Some(_) => {}
            }
        }
        if !self.claims.waiting.is_empty() {
            let plan = snapshot.volumes.provide(&self.namespace, &self.claims.waiting, &node.name, &node.labels);
            if plan.is_none() {
                refusal.push(Reason::lasting(NOTHING_TO_BIND));
            }
        }
        refusal.sort_unstable();
        refusal.dedup();
        if refusal.is_empty() { Ok(()) } else { Err(refusal) }
    }
}
