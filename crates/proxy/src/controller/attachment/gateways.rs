//! Policies at Gateways and ListenerSets: what the rules behind each listener inherit.

use std::collections::BTreeMap;

use kinds::gateway::ParentReference;
use reconcile::Key;

use super::{Attachments, PolicyId, Settled, Target, TargetKind};
use crate::controller::{
    listeners::{GatewayPlan, ListenerId, Source},
    lookup::{Seen, key_of},
};

/// Attaches the policies about a Gateway and its ListenerSets; gives those back of which something else is to be said.
pub(crate) fn attach(
    attachments: &mut Attachments,
    seen: &Seen<'_>,
    key: &Key,
    before: Option<&GatewayPlan>,
    plan: Option<&mut GatewayPlan>,
) -> Vec<PolicyId> {
    let mut changed = Vec::new();
    if let Some(plan) = plan {
        let names = names(plan, &Source::Gateway);
        let target = Target::new(TargetKind::Gateway, key);
        plan.policies = attachments.settle(seen, &target, plan.gateway.metadata.labels.as_ref(), &names);
        for at in 0..plan.sets.len() {
            let meta = &plan.sets[at].set.metadata;
            let of = key_of(meta);
            let names = self::names(plan, &Source::Set(of.clone()));
            let target = Target::new(TargetKind::ListenerSet, &of);
            plan.sets[at].policies = attachments.settle(seen, &target, meta.labels.as_ref(), &names);
        }
        for listener in &mut plan.listeners {
            let name = &listener.listener.name;
            let set = plan.sets.iter().find(|set| listener.source == Source::Set(key_of(&set.set.metadata)));
            let policies = match set {
                None => plan.policies.of(Some(name)),
                Some(set) => {
                    let mut own = set.policies.of(Some(name));
                    let parents = plan.policies.of(None).into_iter();
                    let parents: Vec<_> = parents.filter(|id| own.iter().all(|own| own.kind != id.kind)).collect();
                    own.extend(parents);
                    own
                }
            };
            let id = ListenerId { gateway: key.clone(), source: listener.source.clone(), name: name.clone() };
            let terms = attachments.inherit(&id, policies.into_iter().cloned().collect());
            listener.inherited = attachments.inherited(&id);
            if let Some(terms) = terms {
                listener.treat(&terms);
            }
        }
        let now = all(key, plan);
        let known = before.map(|before| all(key, before)).unwrap_or_default();
        for (target, settled) in &now {
            let ids = known.iter().find(|(of, _)| of == target).map(|(_, settled)| settled.ids()).unwrap_or_default();
            let ancestor = [ancestor(target, None)];
            changed.extend(attachments.report(target, &ids, settled.told(&ancestor, &|_, _| None)));
        }
        for (target, settled) in known.iter().filter(|(target, _)| now.iter().all(|(of, _)| of != target)) {
            changed.extend(attachments.report(target, &settled.ids(), Default::default()));
        }
        for id in before.map(|before| ids(key, before)).unwrap_or_default() {
            if !ids(key, plan).contains(&id) {
                attachments.disinherit(&id);
            }
        }
    } else if let Some(before) = before {
        for (target, settled) in all(key, before) {
            changed.extend(attachments.report(&target, &settled.ids(), Default::default()));
        }
        for id in ids(key, before) {
            attachments.disinherit(&id);
        }
    }
    changed
}

/// The names of the listeners that somebody owns.
fn names<'a>(plan: &'a GatewayPlan, source: &Source) -> Vec<&'a str> {
    let own = plan.listeners.iter().filter(|listener| listener.source == *source);
    own.map(|listener| listener.listener.name.as_str()).collect()
}

fn ids(key: &Key, plan: &GatewayPlan) -> Vec<ListenerId> {
    let id = |(source, name)| ListenerId { gateway: key.clone(), source, name };
    plan.listeners.iter().map(|one| (one.source.clone(), one.listener.name.clone())).map(id).collect()
}

/// The targets of a Gateway that have policies.
pub(crate) fn all(key: &Key, plan: &GatewayPlan) -> Vec<(Target, Settled)> {
    let own = (Target::new(TargetKind::Gateway, key), plan.policies.clone());
    let set = |meta| Target::new(TargetKind::ListenerSet, &key_of(meta));
    let sets = plan.sets.iter().map(|one| (set(&one.set.metadata), one.policies.clone()));
    [own].into_iter().chain(sets).filter(|(_, settled)| !settled.is_empty()).collect()
}

/// How a status names a Gateway or ListenerSet, or a listener there.
pub(crate) fn ancestor(target: &Target, section: Option<&str>) -> ParentReference {
    ParentReference {
        group: Some(kinds::gateway::GROUP.to_owned()),
        kind: Some(target.kind.name().to_owned()),
        namespace: Some(target.key.namespace.clone()),
        name: target.key.name.clone(),
        section_name: section.map(str::to_owned),
        ..ParentReference::default()
    }
}

/// A Gateway and its ListenerSets, with their labels.
pub(crate) fn targets<'a>(key: &Key, plan: &'a GatewayPlan) -> Vec<(Target, Option<&'a BTreeMap<String, String>>)> {
    let own = (Target::new(TargetKind::Gateway, key), plan.gateway.metadata.labels.as_ref());
    let sets = plan.sets.iter().map(|set| &set.set.metadata);
    let sets = sets.map(|meta| (Target::new(TargetKind::ListenerSet, &key_of(meta)), meta.labels.as_ref()));
    [own].into_iter().chain(sets).collect()
}
