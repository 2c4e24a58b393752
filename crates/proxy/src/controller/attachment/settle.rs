//! Which of the policies about a target count.

use std::collections::BTreeMap;

use kinds::gateway::ParentReference;

use super::{About, PolicyId, Target};
use crate::controller::verdict::Fault;

/// The policies that count at a target, and what is said about all that are about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settled {
    /// The policy of each kind for all of the target.
    whole: Vec<PolicyId>,
    /// The policy of each kind for a section.
    sections: Vec<(String, PolicyId)>,
    /// What became of each.
    pub(crate) reports: Vec<Report>,
}

/// What became of a policy at a target, or at a section of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    pub(crate) id: PolicyId,
    pub(crate) section: Option<String>,
    pub(crate) outcome: Result<(), Fault>,
}

/// What became of a policy at a target.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TargetReport {
    /// The Gateways through which it has an effect there, each with the policy that it was merged with.
    pub(crate) ancestors: Vec<(ParentReference, Option<String>)>,
    pub(crate) outcomes: Vec<(Option<String>, Result<(), Fault>)>,
    /// The sections of the target that have policies of their own; not those of a Gateway, which are looked up.
    pub(crate) overridden: Vec<String>,
}

pub(super) fn settle(about: Vec<About<'_>>, target: &Target, sections: &[&str]) -> Settled {
    let mut settled = Settled::default();
    for About { id, attached, section, .. } in about {
        let outcome = attached.policy.suits(target.kind).and_then(|()| match section {
            Some(section) if !sections.contains(&section) => {
                let message = format!("No section name {section} found for {} {}", target.kind.name(), target.key);
                Err(Fault::new("TargetNotFound", message))
            }
            section => settled.take(id, section, target),
        });
        let outcome = outcome.and_then(|()| attached.effect.accepted.clone());
        settled.reports.push(Report { id: id.clone(), section: section.map(str::to_owned), outcome });
    }
    settled
}

impl Settled {
    /// Whether no policy is about the target.
    pub(crate) fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// Gives a policy its place, if no other of its kind has it.
    fn take(&mut self, id: &PolicyId, section: Option<&str>, target: &Target) -> Result<(), Fault> {
        let taken = match section {
            None => self.whole.iter().any(|other| other.kind == id.kind),
            Some(section) => self.sections.iter().any(|(of, other)| of == section && other.kind == id.kind),
        };
        if taken {
            let (kind, name) = (target.kind, &target.key.name);
            let what = match section {
                None => format!("{} {name}", kind.name()),
                Some(section) => format!("{} {name}/{section}", kind.section()),
            };
            let message = format!("Unable to target {what}, another {} has already attached to it", id.kind);
            return Err(Fault::new("Conflicted", message));
        }
        match section {
            None => self.whole.push(id.clone()),
            Some(section) => self.sections.push((section.to_owned(), id.clone())),
        }
        Ok(())
    }

    /// The policies for a section: its own before those for all of the target.
    pub(crate) fn of(&self, section: Option<&str>) -> Vec<&PolicyId> {
        let own = self.sections.iter().filter(|(of, _)| Some(of.as_str()) == section).map(|(_, id)| id);
        let mut policies: Vec<_> = own.collect();
        let whole = self.whole.iter().filter(|id| policies.iter().all(|own| own.kind != id.kind));
        let whole: Vec<_> = whole.collect();
        policies.extend(whole);
        policies
    }

    /// Everything about the target, each once.
    pub(crate) fn ids(&self) -> Vec<PolicyId> {
        let mut ids: Vec<_> = self.reports.iter().map(|report| report.id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The kinds of which a policy counts here.
    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        let mut kinds: Vec<_> =
            self.whole.iter().chain(self.sections.iter().map(|(_, id)| id)).map(|id| id.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// The sections with a policy of a kind.
    pub(crate) fn sections(&self, kind: &str) -> Vec<&str> {
        let mut sections: Vec<_> =
            self.sections.iter().filter(|(_, id)| id.kind == kind).map(|(section, _)| section.as_str()).collect();
        sections.sort_unstable();
        sections
    }

    /// What is said about each policy, given the Gateways through which it has an effect; `merged` names the policy of
    /// each Gateway that it was merged with.
    pub(crate) fn told(
        &self,
        ancestors: &[ParentReference],
        merged: &dyn Fn(&PolicyId, usize) -> Option<String>,
    ) -> BTreeMap<PolicyId, TargetReport> {
        let mut told: BTreeMap<PolicyId, TargetReport> = BTreeMap::new();
        for report in &self.reports {
            let entry = told.entry(report.id.clone()).or_insert_with(|| {
                let ancestors = ancestors.iter().enumerate();
                let ancestors = ancestors.map(|(index, reference)| (reference.clone(), merged(&report.id, index)));
                TargetReport { ancestors: ancestors.collect(), ..TargetReport::default() }
            });
            if report.section.is_none() && report.outcome.is_ok() {
                entry.overridden = self.sections(report.id.kind).into_iter().map(str::to_owned).collect();
            }
            entry.outcomes.push((report.section.clone(), report.outcome.clone()));
        }
        told
    }
}
