//! Policies that attach to Gateways, listeners, routes and rules: which of them count where, and what is said about them.
//!
//! A policy names its targets, by name or by labels. It is compiled once, by itself; what it amounts to ([`Effect`]) is put
//! into the rules of the routes that it is about, or into what all rules behind a listener inherit
//! ([`crate::routing::Inherited`]), which no route has to be compiled again for. The most specific policy of a kind counts
//! (rule, route, listener, ListenerSet, Gateway); among those for the same thing the oldest, then the first by name, and the
//! others are told so.
//!
//! A kind of policy is an implementation of [`Policy`] and a line in [`KINDS`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use kinds::gateway;

mod client_traffic;
mod gateways;
mod kind;
mod overriding;
mod reading;
mod routes;
mod security;
mod settle;
mod status;
mod target;
mod traffic;

pub(crate) use client_traffic::ClientTerms;
pub(crate) use gateways::{all, attach, targets};
pub(crate) use kind::{AnyPolicy, Effect, KINDS, Policy, PolicyId, Source};
use overriding::Overriding;
pub(crate) use routes::RoutePolicies;
pub(crate) use settle::Settled;
use settle::TargetReport;
pub(crate) use status::status;
pub(crate) use target::{Target, TargetKind};

use super::{
    listeners::ListenerId,
    lookup::{Referrer, Seen, key_of, rank, selects},
};
use crate::routing::{Inherited, Rank};

/// A policy, and what it amounts to.
pub(crate) struct Attached {
    pub(crate) policy: Arc<dyn AnyPolicy>,
    pub(crate) effect: Effect,
    rank: Rank,
}

/// All policies.
#[derive(Default)]
pub(crate) struct Attachments {
    policies: HashMap<PolicyId, Attached>,
    /// By what they name.
    by_target: HashMap<Target, BTreeSet<(Rank, PolicyId)>>,
    /// Those that choose by labels.
    selecting: BTreeSet<(Rank, PolicyId)>,
    /// What became of each, target by target.
    reports: HashMap<PolicyId, BTreeMap<Target, TargetReport>>,
    /// What the rules behind each listener inherit.
    inherited: HashMap<ListenerId, Arc<Inherited>>,
    /// The policies behind that.
    parents: HashMap<ListenerId, Vec<PolicyId>>,
    /// Which routes of each listener have policies of their own.
    pub(crate) overriding: Overriding,
}

impl Attachments {
    pub(crate) fn get(&self, id: &PolicyId) -> Option<&Attached> {
        self.policies.get(id)
    }

    /// What became of a policy, target by target.
    pub(crate) fn reports(&self, id: &PolicyId) -> impl Iterator<Item = (&Target, &TargetReport)> {
        self.reports.get(id).into_iter().flatten()
    }

    /// Replaces a policy, or removes it; gives the one before back.
    pub(crate) fn replace(&mut self, id: &PolicyId, now: Option<(Arc<dyn AnyPolicy>, Effect)>) -> Option<Attached> {
        let before = self.policies.remove(id);
        if let Some(before) = &before {
            let place = (before.rank.clone(), id.clone());
            for target in named(&*before.policy) {
                if let Some(policies) = self.by_target.get_mut(&target) {
                    policies.remove(&place);
                    if policies.is_empty() {
                        self.by_target.remove(&target);
                    }
                }
            }
            self.selecting.remove(&place);
        }
        match now {
            None => drop(self.reports.remove(id)),
            Some((policy, effect)) => {
                let rank = rank(policy.meta());
                for target in named(&*policy) {
                    self.by_target.entry(target).or_default().insert((rank.clone(), id.clone()));
                }
                if !policy.targets().target_selectors.is_empty() {
                    self.selecting.insert((rank.clone(), id.clone()));
                }
                self.policies.insert(id.clone(), Attached { policy, effect, rank });
            }
        }
        before
    }

    /// Whether there are policies at all: most clusters have none.
    pub(crate) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// The policies about a target, the oldest first, and the part of it that each is about.
    fn about(&self, seen: &Seen<'_>, target: &Target, labels: &BTreeMap<String, String>) -> Vec<About<'_>> {
        let mut about = Vec::new();
        for (rank, id) in self.by_target.get(target).into_iter().flatten() {
            let Some(attached) = self.policies.get(id) else { continue };
            let references =
                references(&*attached.policy).filter(|reference| is_about(&*attached.policy, reference, target));
            about.extend(references.map(|reference| About {
                rank,
                id,
                attached,
                section: reference.section_name.as_deref().filter(|section| !section.is_empty()),
            }));
        }
        let named = about.len();
        for (rank, id) in &self.selecting {
            let Some(attached) = self.policies.get(id) else { continue };
            let twice = about.iter().any(|about: &About<'_>| about.id == id && about.section.is_none());
            if !twice && is_selected(seen, &*attached.policy, target, labels) {
                about.push(About { rank, id, attached, section: None });
            }
        }
        if about.len() > named {
            about.sort_by_key(|about| about.rank);
        }
        about
    }

    /// Settles which policies count at a target with these sections.
    pub(crate) fn settle(
        &self,
        seen: &Seen<'_>,
        target: &Target,
        labels: Option<&BTreeMap<String, String>>,
        sections: &[&str],
    ) -> Settled {
        if self.is_empty() {
            return Settled::default();
        }
        let none = BTreeMap::new();
        settle::settle(self.about(seen, target, labels.unwrap_or(&none)), target, sections)
    }

    /// Remembers what became of the policies about a target; gives those back of which that changed.
    pub(crate) fn report(
        &mut self,
        target: &Target,
        before: &[PolicyId],
        now: BTreeMap<PolicyId, TargetReport>,
    ) -> Vec<PolicyId> {
        let mut changed = Vec::new();
        for id in before.iter().filter(|id| !now.contains_key(id)) {
            let Some(reports) = self.reports.get_mut(id) else { continue };
            if reports.remove(target).is_some() {
                changed.push(id.clone());
            }
            if reports.is_empty() {
                self.reports.remove(id);
            }
        }
        for (id, report) in now {
            let reports = self.reports.entry(id.clone()).or_default();
            if reports.get(target) != Some(&report) {
                reports.insert(target.clone(), report);
                changed.push(id);
            }
        }
        changed
    }

    /// What the rules behind a listener inherit.
    pub(crate) fn inherited(&mut self, listener: &ListenerId) -> Arc<Inherited> {
        Arc::clone(self.inherited.entry(listener.clone()).or_default())
    }

    /// Changes what the rules behind a listener inherit; how the listener itself treats clients.
    pub(crate) fn inherit(&mut self, listener: &ListenerId, policies: Vec<PolicyId>) -> Option<Arc<ClientTerms>> {
        let mut all = Effect::default();
        for id in &policies {
            if let Some(attached) = self.policies.get(id) {
                all.join(&attached.effect);
            }
        }
        let inherited = self.inherited.entry(listener.clone()).or_default();
        inherited.set(all.policies());
        match policies.is_empty() {
            true => drop(self.parents.remove(listener)),
            false => drop(self.parents.insert(listener.clone(), policies)),
        }
        all.client
    }

    /// Forgets a listener that is gone.
    pub(crate) fn disinherit(&mut self, listener: &ListenerId) {
        self.inherited.remove(listener);
        self.parents.remove(listener);
    }

    /// The policy of a kind behind what the rules of a listener inherit.
    pub(crate) fn parent(&self, listener: &ListenerId, kind: &str) -> Option<&Attached> {
        let id = self.parents.get(listener)?.iter().find(|id| id.kind == kind)?;
        self.policies.get(id)
    }

    /// Whether a policy's selectors choose a target, whatever its namespace permits.
    pub(crate) fn may_select(
        policy: &dyn AnyPolicy,
        target: &Target,
        labels: Option<&BTreeMap<String, String>>,
    ) -> bool {
        let none = BTreeMap::new();
        let labels = labels.unwrap_or(&none);
        policy.targets().target_selectors.iter().any(|selector| target::chooses(selector, target, labels))
    }
}

/// A policy about a target.
pub(crate) struct About<'a> {
    rank: &'a Rank,
    id: &'a PolicyId,
    attached: &'a Attached,
    section: Option<&'a str>,
}

fn references(policy: &dyn AnyPolicy) -> impl Iterator<Item = &kinds::envoy_gateway::TargetReference> {
    let targets = policy.targets();
    targets.target_ref.iter().chain(&targets.target_refs)
}

/// What a policy names, each once.
pub(crate) fn named(policy: &dyn AnyPolicy) -> BTreeSet<Target> {
    let own = key_of(policy.meta()).namespace;
    references(policy).filter_map(|reference| Target::of(reference, &own)).collect()
}

fn is_about(policy: &dyn AnyPolicy, reference: &kinds::envoy_gateway::TargetReference, target: &Target) -> bool {
    Target::of(reference, &key_of(policy.meta()).namespace).as_ref() == Some(target)
}

/// Whether a policy's selectors choose a target, and the target's namespace lets them.
fn is_selected(seen: &Seen<'_>, policy: &dyn AnyPolicy, target: &Target, labels: &BTreeMap<String, String>) -> bool {
    let own = key_of(policy.meta()).namespace;
    let mut selectors = policy.targets().target_selectors.iter().filter(|one| target::chooses(one, target, labels));
    selectors.any(|selector| {
        let (from, of) = selector.namespaces.as_ref().map_or(("", None), |n| (n.from.as_str(), n.selector.as_ref()));
        if target.key.namespace == own {
            return from != "Selector" || of.is_some_and(|of| seen.selects(of, &own));
        }
        let chosen = match from {
            "All" => true,
            "Selector" => of.is_some_and(|of| seen.selects(of, &target.key.namespace)),
            _ => false,
        };
        let referrer = Referrer { group: policy.group(), kind: policy.kind(), namespace: &own };
        chosen && seen.is_granted(referrer, (gateway::GROUP, target.kind.name()), &target.key)
    })
}

/// Whether labels satisfy a selector's own conditions.
fn labelled(selector: &kinds::envoy_gateway::TargetSelector, labels: &BTreeMap<String, String>) -> bool {
    let selector = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector {
        match_labels: Some(selector.match_labels.clone()),
        match_expressions: Some(selector.match_expressions.clone()),
    };
    selects(&selector, labels)
}
