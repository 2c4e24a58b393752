//! What is said about policies in their status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kinds::gateway::{ParentReference, PolicyAncestorStatus, PolicyStatus};
use reconcile::Key;

use super::{Attached, Attachments, PolicyId, Target, TargetKind, TargetReport, gateways, overriding::overridden};
use crate::controller::{
    CONTROLLER_NAME,
    listeners::{GatewayPlan, ListenerId, Source},
    status::ANCESTORS,
    verdict::{Fault, Verdict, conditions},
};

/// What is said about a policy at one Gateway.
struct Told {
    ancestor: ParentReference,
    accepted: Result<(), Fault>,
    overridden: Option<String>,
    merged: Option<String>,
}

/// The status of a policy; `gateway` gives the plans of those that are ours.
pub(crate) fn status<'a>(
    attachments: &Attachments,
    id: &PolicyId,
    gateway: &dyn Fn(&Target) -> Option<(Key, &'a GatewayPlan)>,
    now: Timestamp,
) -> Option<PolicyStatus> {
    let attached = attachments.get(id)?;
    let mut told: Vec<Told> = Vec::new();
    for (target, report) in attachments.reports(id) {
        match target.kind {
            TargetKind::Route(_) => at_route(&mut told, attached, report),
            TargetKind::Gateway | TargetKind::ListenerSet => {
                let plan = gateway(target);
                at_gateway(
                    &mut told,
                    attachments,
                    attached,
                    (target, report),
                    plan.as_ref().map(|(key, plan)| (key, *plan)),
                );
            }
        }
    }
    // What is wrong comes first: the list has an end.
    told.sort_by_key(|told| (told.accepted.is_ok(), told.overridden.is_none()));
    let known = attached.policy.status().map(|known| known.ancestors.as_slice()).unwrap_or_default();
    let mut ancestors: Vec<_> = known.iter().filter(|a| a.controller_name != CONTROLLER_NAME).cloned().collect();
    let (room, all) = (ANCESTORS.saturating_sub(ancestors.len()), told.len());
    for (at, told) in told.into_iter().take(room).enumerate() {
        let before = known.iter().find(|a| a.controller_name == CONTROLLER_NAME && a.ancestor_ref == told.ancestor);
        let before: &[Condition] = before.map(|a| a.conditions.as_slice()).unwrap_or_default();
        let verdicts = verdicts(attached, &told, at + 1 == room && all > room);
        ancestors.push(PolicyAncestorStatus {
            conditions: conditions(before, &verdicts, attached.policy.meta().generation, now),
            ancestor_ref: told.ancestor,
            controller_name: CONTROLLER_NAME.to_owned(),
        });
    }
    Some(PolicyStatus { ancestors })
}

fn verdicts(attached: &Attached, told: &Told, truncated: bool) -> Vec<Verdict> {
    let says = |type_, reason, message: String| Verdict { message, ..Verdict::yes(type_, reason) };
    let mut verdicts = vec![match &told.accepted {
        Ok(()) => says("Accepted", "Accepted", "Policy has been accepted.".to_owned()),
        Err(fault) => Verdict::no("Accepted", fault.reason, fault.message.clone()),
    }];
    if let Some(message) = &told.overridden {
        verdicts.push(says("Overridden", "Overridden", message.clone()));
    }
    if let Some(parent) = &told.merged {
        verdicts.push(says("Merged", "Merged", format!("Merged with policy {parent}")));
    }
    let deprecated = attached.policy.targets().target_ref.is_some();
    let deprecated = deprecated.then(|| "spec.targetRef is deprecated, use spec.targetRefs instead".to_owned());
    let warnings: Vec<_> = deprecated.iter().chain(&attached.effect.warnings).map(String::as_str).collect();
    if !warnings.is_empty() {
        let reason = match (deprecated.is_some(), warnings.len()) {
            (true, 1) => "DeprecatedField",
            (true, _) => "Warnings",
            (false, _) => "UnsupportedField",
        };
        verdicts.push(says("Warning", reason, warnings.join("; ")));
    }
    if truncated {
        let message =
            format!("Ancestors have been truncated because the number of policy ancestors exceeds {ANCESTORS}.");
        verdicts.push(says("Aggregated", "Aggregated", message));
    }
    verdicts
}

/// Adds what is said about an ancestor to what was said about it because of another target; what is wrong stays.
fn add(told: &mut Vec<Told>, new: Told) {
    let Some(known) = told.iter_mut().find(|known| known.ancestor == new.ancestor) else {
        told.push(new);
        return;
    };
    if known.accepted.is_ok() {
        known.accepted = new.accepted;
    }
    known.overridden = known.overridden.take().or(new.overridden);
    known.merged = known.merged.take().or(new.merged);
}

fn at_route(told: &mut Vec<Told>, attached: &Attached, report: &TargetReport) {
    let accepted = report.outcomes.iter().find_map(|(_, outcome)| outcome.clone().err()).map_or(Ok(()), Err);
    let overridden = (!report.overridden.is_empty()).then(|| {
        let (plural, rules) = (attached.policy.plural(), report.overridden.join(" "));
        format!("This policy is being overridden by other {plural} for these route rules: [{rules}]")
    });
    for (ancestor, merged) in &report.ancestors {
        let (ancestor, merged) = (ancestor.clone(), merged.clone().filter(|_| accepted.is_ok()));
        add(told, Told { ancestor, accepted: accepted.clone(), overridden: overridden.clone(), merged });
    }
}

fn at_gateway(
    told: &mut Vec<Told>,
    attachments: &Attachments,
    attached: &Attached,
    (target, report): (&Target, &TargetReport),
    plan: Option<(&Key, &GatewayPlan)>,
) {
    for (section, accepted) in &report.outcomes {
        let counts = accepted.is_ok();
        let message = plan.filter(|_| counts).map(|(gateway, plan)| {
            let own = match target.kind {
                TargetKind::ListenerSet => Some(Source::Set(target.key.clone())),
                TargetKind::Gateway | TargetKind::Route(_) => section.as_ref().map(|_| Source::Gateway),
            };
            let listeners: Vec<_> = { plan.listeners.iter() }
                .filter(|one| own.as_ref().is_none_or(|own| one.source == *own))
                .filter(|one| section.as_ref().is_none_or(|section| one.listener.name == *section))
                .map(|one| ListenerId {
                    gateway: gateway.clone(),
                    source: one.source.clone(),
                    name: one.listener.name.clone(),
                })
                .collect();
            let routes = attachments.overriding.routes(listeners.iter(), attached.policy.kind());
            let sections: Vec<_> = match section {
                None => report.overridden.iter().map(String::as_str).collect(),
                Some(_) => Vec::new(),
            };
            overridden(attached.policy.plural(), &sections, &routes)
        });
        let overridden = message.filter(|message| !message.is_empty());
        let ancestor = gateways::ancestor(target, section.as_deref());
        add(told, Told { ancestor, accepted: accepted.clone(), overridden, merged: None });
    }
}
