//! Policies at routes: what their rules get, and what is said about the policies.

use std::{collections::BTreeMap, sync::Arc};

use kinds::gateway::ParentReference;
use tracing::debug;

use super::{Attachments, Effect, PolicyId, Settled, Target, TargetKind, TargetReport};
use crate::{
    controller::{
        compiled::Rules,
        item::Dependency,
        listeners::ListenerId,
        lookup::{Route, Seen, key_of},
    },
    routing::{Rule, StreamRule},
};

/// The policies about a route.
#[derive(Default)]
pub(crate) struct RoutePolicies {
    settled: Settled,
    /// Whether one of them only changes what a parent's says.
    merging: bool,
    /// What is said about each.
    pub(crate) told: BTreeMap<PolicyId, TargetReport>,
}

impl RoutePolicies {
    pub(crate) fn ids(&self) -> Vec<PolicyId> {
        self.settled.ids()
    }

    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        self.settled.kinds()
    }

    /// Settles which policies count at a route.
    pub(crate) fn of(attachments: &Attachments, seen: &Seen<'_>, route: &Route) -> Self {
        if attachments.is_empty() {
            return Self::default();
        }
        let target = target(route);
        let sections = route.sections();
        let settled = attachments.settle(seen, &target, route.meta().labels.as_ref(), &sections);
        let merges = |id: &PolicyId| attachments.get(id).is_some_and(|one| one.policy.targets().merge_type.is_some());
        let merging = settled.ids().iter().any(merges);
        RoutePolicies { settled, merging, told: BTreeMap::new() }
    }

    /// Puts into rules what the policies amount to by themselves.
    pub(crate) fn put(&self, attachments: &Attachments, rules: &mut Rules) {
        if !self.settled.is_empty() {
            change(rules, |section| {
                let mut effect = Effect::default();
                for id in self.settled.of(section) {
                    effect.join(&attachments.get(id).map(|attached| attached.effect.clone()).unwrap_or_default());
                }
                effect
            });
        }
    }

    /// The rules for one listener, where what they get depends on what they would inherit there.
    pub(crate) fn merged(
        &self,
        attachments: &Attachments,
        seen: &Seen<'_>,
        rules: &Rules,
        at: &ListenerId,
    ) -> Option<Rules> {
        if !self.merging {
            return None;
        }
        seen.note(Dependency::Inherited(at.gateway.clone()));
        let mut rules = rules.clone();
        change(&mut rules, |section| {
            let mut effect = Effect::default();
            for id in self.settled.of(section) {
                effect.join(&merged(attachments, seen, id, at));
            }
            effect
        });
        Some(rules)
    }

    /// Says what became of the policies at the Gateways that a route is attached to.
    pub(crate) fn tell(&mut self, attachments: &Attachments, parents: &[(ParentReference, Vec<ListenerId>)]) {
        if self.settled.is_empty() {
            return;
        }
        let ancestors: Vec<_> = parents.iter().map(|(reference, _)| reference.clone()).collect();
        let merged = |id: &PolicyId, parent: usize| {
            attachments.get(id)?.policy.targets().merge_type.as_ref()?;
            let at = parents.get(parent)?.1.iter();
            let parent = { at }.find_map(|listener| attachments.parent(listener, id.kind))?;
            Some(key_of(parent.policy.meta()).to_string())
        };
        self.told = self.settled.told(&ancestors, &merged);
    }
}

pub(crate) fn target(route: &Route) -> Target {
    Target::new(TargetKind::Route(route.kind()), &key_of(route.meta()))
}

/// What a policy amounts to at a listener, with what the listener's policy says where it says nothing.
fn merged(attachments: &Attachments, seen: &Seen<'_>, id: &PolicyId, at: &ListenerId) -> Effect {
    let Some(attached) = attachments.get(id) else { return Effect::default() };
    let parent = attachments.parent(at, id.kind).filter(|_| attached.policy.targets().merge_type.is_some());
    let Some(parent) = parent else { return attached.effect.clone() };
    match attached.policy.merged(&parent.policy.spec()) {
        Ok(both) => both.compile(seen),
        Err(error) => {
            // Both are what their definition allows, and so is what one replaces in the other.
            debug!(policy = %id.key, %error, "cannot merge a policy with its parent's");
            attached.effect.clone()
        }
    }
}

/// Puts into each rule what there is for it by name.
fn change(rules: &mut Rules, effect: impl Fn(Option<&str>) -> Effect) {
    match rules {
        Rules::Requests(rules) => {
            for (_, rule) in rules {
                let effect = effect(rule.name.as_deref());
                let rule: &mut Rule = Arc::make_mut(rule);
                (rule.guards, rule.traffic) = (effect.guards, effect.traffic);
            }
        }
        Rules::Stream(Some(rule)) => {
            let effect = effect(None);
            let rule: &mut StreamRule = Arc::make_mut(rule);
            rule.guards = effect.guards;
        }
        Rules::Stream(None) => {}
    }
}
