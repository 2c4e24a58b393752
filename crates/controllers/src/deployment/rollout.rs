//! The arithmetic of rollouts: how large each ReplicaSet may be now.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::history::{self, DESIRED_REPLICAS, MAX_REPLICAS};
use super::plan::{Bounds, Member, Sets, size};
use crate::percentage::{Round, resolve};

/// Resolves what the deployment asks for. Surge is rounded up and unavailability down; if both come to nothing one pod may
/// be unavailable, or the rollout could never move.
pub(super) fn bounds(spec: &DeploymentSpec) -> Bounds {
    let replicas = spec.replicas.unwrap_or(1);
    let strategy = spec.strategy.clone().unwrap_or_default();
    if strategy.type_.as_deref() == Some("Recreate") {
        return Bounds { replicas, max_surge: 0, max_unavailable: 0 };
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let quarter = IntOrString::String("25%".into());
    let max_surge = resolve(rolling.max_surge.as_ref().unwrap_or(&quarter), replicas, Round::Up);
    let mut max_unavailable = resolve(rolling.max_unavailable.as_ref().unwrap_or(&quarter), replicas, Round::Down);
    if max_surge == 0 && max_unavailable == 0 {
        max_unavailable = 1;
    }
    Bounds { replicas, max_surge, max_unavailable: max_unavailable.min(replicas) }
}

/// Whether the deployment's size changed since its sets were last sized.
pub(super) fn is_scaling_event(sets: &Sets, replicas: i32) -> bool {
    sets.all()
        .filter(|member| member.replicas > 0)
        .filter_map(|member| history::annotated(&member.set, DESIRED_REPLICAS))
        .any(|desired| desired != replicas)
}

/// The size the set of the current template may have now, given it has `current`.
pub(super) fn new_set_size(sets: &Sets, bounds: Bounds, recreate: bool, current: i32) -> i32 {
    if recreate {
        return bounds.replicas;
    }
    let present: i32 = sets.all().map(Member::present).sum();
    let room = bounds.replicas + bounds.max_surge - present;
    if room <= 0 { current } else { current + room.min(bounds.replicas - current) }
}

/// As far as a rolling update may go now. What the old sets give, the new one takes when they have given it.
pub(super) fn roll(sets: &mut Sets, bounds: Bounds) {
    if resize_new(sets, bounds) {
        shrink_old(sets, bounds);
    }
}

/// Gives the new set the size it may have; false when the old ones have to wait for it, because it is only planned.
fn resize_new(sets: &mut Sets, bounds: Bounds) -> bool {
    let Some((current, planned)) = sets.new.as_ref().map(|new| (new.replicas, new.planned)) else { return false };
    if planned {
        return current == 0;
    }
    let wanted = if current < bounds.replicas { new_set_size(sets, bounds, false, current) } else { bounds.replicas };
    if let Some(new) = &mut sets.new {
        new.replicas = wanted;
    }
    true
}

/// The available pods that a set keeps. Its status may be of before it was last shrunk, and what then counted was already
/// spent: it must not be spent again.
fn certain(member: &Member) -> i32 {
    member.available().min(member.replicas)
}

/// Shrinks old sets as far as enough pods stay available: first by pods that are not available anyway.
fn shrink_old(sets: &mut Sets, bounds: Bounds) {
    let min_available = bounds.replicas - bounds.max_unavailable;
    let new_unavailable = sets.new.as_ref().map_or(0, |new| new.replicas - certain(new));
    let mut spare = sets.total() - min_available - new_unavailable;
    if spare <= 0 {
        return;
    }
    for member in &mut sets.old {
        let unhealthy = (member.replicas - certain(member)).clamp(0, spare);
        member.replicas -= unhealthy;
        spare -= unhealthy;
    }
    let available: i32 = sets.all().map(certain).sum();
    let mut surplus = available - min_available;
    for member in &mut sets.old {
        let cut = member.replicas.min(surplus.max(0));
        member.replicas -= cut;
        surplus -= cut;
    }
}

/// First step of a Recreate: all old sets to nothing. True when one had pods left.
pub(super) fn retire_old(sets: &mut Sets) -> bool {
    let mut retired = false;
    for member in sets.old.iter_mut().filter(|member| member.replicas > 0) {
        member.replicas = 0;
        retired = true;
    }
    retired
}

/// Follows a change of the deployment's size: one active set takes it all; in the middle of a rolling update each active
/// set gets its share.
pub(super) fn scale(sets: &mut Sets, bounds: Bounds, recreate: bool, deployment: &Deployment) {
    let active = sets.all().filter(|member| member.replicas > 0).count();
    if active <= 1 {
        let newest_old = sets.old.len().checked_sub(1);
        let Sets { new, old } = sets;
        let only = match (old.iter_mut().position(|member| member.replicas > 0), new) {
            (Some(at), _) => old.get_mut(at),
            (None, Some(new)) => Some(new),
            (None, None) => newest_old.and_then(|at| old.get_mut(at)),
        };
        if let Some(only) = only {
            only.replicas = bounds.replicas;
        }
        return;
    }
    let saturated = sets.new.as_ref().is_some_and(|new| {
        let desired = history::annotated(&new.set, DESIRED_REPLICAS);
        [size(&new.set), desired.unwrap_or(-1), new.available()].iter().all(|count| *count == bounds.replicas)
    });
    if saturated {
        retire_old(sets);
    } else if !recreate {
        share(sets, bounds, deployment);
    }
}

/// Gives each active set its share of the difference; what rounding leaves goes to the largest.
fn share(sets: &mut Sets, bounds: Bounds, deployment: &Deployment) {
    let allowed = if bounds.replicas > 0 { bounds.replicas + bounds.max_surge } else { 0 };
    let mut left = allowed - sets.total();
    if left == 0 {
        return;
    }
    let status_replicas = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let Sets { new, old } = sets;
    let mut active: Vec<_> = old.iter_mut().chain(new.iter_mut()).filter(|member| member.replicas > 0).collect();
    // Largest first; of equal ones the newer when growing, the older when shrinking. One that is only planned is newest.
    active.sort_by_key(|member| {
        let created = member.set.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created.is_none(), created)
    });
    if left > 0 {
        active.reverse();
    }
    active.sort_by_key(|member| std::cmp::Reverse(member.replicas));
    let growing = left > 0;
    for member in &mut active {
        let before = history::annotated(&member.set, MAX_REPLICAS).filter(|most| *most > 0).unwrap_or(status_replicas);
        let grown = f64::from(member.replicas) * f64::from(allowed) / f64::from(before);
        let fraction = match (bounds.replicas, before) {
            (0, _) => -member.replicas,
            (_, 0) => 0,
            _ => grown.round() as i32 - member.replicas,
        };
        let part = match left {
            0 => 0,
            _ if growing => fraction.min(left),
            _ => fraction.max(left),
        };
        member.replicas += part;
        left -= part;
    }
    if let Some(largest) = active.first_mut() {
        largest.replicas = (largest.replicas + left).max(0);
    }
}
