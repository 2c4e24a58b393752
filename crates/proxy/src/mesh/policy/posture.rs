//! What counts for one workload, and the decisions by it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use kinds::istio::AuthorizationAction;

use super::{
    Connection, Denial, Judgement, Request, Verdict,
    authorization::Policy,
    judge::Workload,
    peers::{Mode, Modes},
    test::Facts,
};
use crate::routing::path;

/// The policies that select a workload.
#[derive(Debug, Default)]
pub(super) struct Posture {
    pub(super) modes: Modes,
    /// By name, so that the first that matches is always the same one.
    pub(super) policies: Vec<Arc<Policy>>,
}

/// Decides about what comes to a workload. It outlives changes of policies; each decision is by those of its moment.
#[derive(Debug)]
pub struct Guard {
    pub(super) workload: Workload,
    pub(super) posture: ArcSwap<Posture>,
}

impl Guard {
    /// Whether connections to a port have to be mutually authenticated.
    pub fn mode(&self, port: u16) -> Mode {
        self.posture.load().modes.at(port)
    }

    /// Whether something about HTTP decides at a port: then connections that carry HTTP are decided about request by
    /// request.
    pub fn needs_http(&self, port: u16) -> bool {
        self.posture.load().policies.iter().any(|policy| policy.needs_http(port))
    }

    /// Whether a connection may be made at all, before its requests are decided about.
    pub fn admits(&self, connection: &Connection<'_>) -> Verdict {
        match self.mode(connection.destination.port()) {
            Mode::Strict if connection.peer.is_none() => Verdict::Denied(Denial::Unauthenticated),
            Mode::Strict | Mode::Permissive => Verdict::Allowed(None),
        }
    }

    /// Decides about a connection that carries anything but HTTP.
    pub fn connection(&self, connection: &Connection<'_>) -> Judgement {
        self.judge(connection, None)
    }

    /// Decides about a request.
    pub fn request(&self, connection: &Connection<'_>, request: &Request<'_>) -> Judgement {
        let (base, deep) = path::forms(request.head.path);
        let judgement = self.judge(connection, Some((request, &base)));
        match deep {
            Some(deep) if judgement.verdict.is_allowed() => self.judge(connection, Some((request, &deep))),
            _ => judgement,
        }
    }

    fn judge(&self, connection: &Connection<'_>, request: Option<(&Request<'_>, &str)>) -> Judgement {
        let posture = self.posture.load();
        let facts = Facts { connection, request };
        if let denied @ Verdict::Denied(_) = self.admits(connection) {
            return Judgement { verdict: denied, audit: None, trial: None };
        }
        if posture.policies.is_empty() {
            return Judgement { verdict: Verdict::Allowed(None), audit: None, trial: None };
        }
        let verdict = posture.verdict(&facts, false);
        let on_trial = posture.policies.iter().any(|policy| policy.trial);
        let trial = on_trial.then(|| posture.verdict(&facts, true)).filter(|trial| *trial != verdict);
        let audit = posture.of(AuthorizationAction::Audit, false).find(|policy| policy.matches(&facts));
        Judgement { verdict, audit: audit.map(|policy| Arc::clone(&policy.name)), trial }
    }
}

impl Posture {
    /// The policies of an action, with those on trial or without.
    fn of(&self, action: AuthorizationAction, trial: bool) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter().filter(move |policy| policy.action == action && (trial || !policy.trial))
    }

    fn verdict(&self, facts: &Facts<'_>, trial: bool) -> Verdict {
        let first = |action| self.of(action, trial).find(|policy| policy.matches(facts));
        if let Some(policy) = first(AuthorizationAction::Custom) {
            return Verdict::Denied(Denial::NoProvider(Arc::clone(&policy.name)));
        }
        if let Some(policy) = first(AuthorizationAction::Deny) {
            return Verdict::Denied(Denial::By(Arc::clone(&policy.name)));
        }
        if self.of(AuthorizationAction::Allow, trial).next().is_none() {
            return Verdict::Allowed(None);
        }
        match first(AuthorizationAction::Allow) {
            Some(policy) => Verdict::Allowed(Some(Arc::clone(&policy.name))),
            None => Verdict::Denied(Denial::NoneAllows),
        }
    }
}
