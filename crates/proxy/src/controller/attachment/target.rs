//! What policies can be about.

use std::collections::BTreeMap;

use kinds::{
    envoy_gateway::{TargetReference, TargetSelector},
    gateway,
};
use reconcile::Key;

use crate::controller::item::RouteKind;

/// A kind of thing that policies can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum TargetKind {
    Gateway,
    ListenerSet,
    Route(RouteKind),
}

impl TargetKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            TargetKind::Gateway => "Gateway",
            TargetKind::ListenerSet => "ListenerSet",
            TargetKind::Route(kind) => kind.name(),
        }
    }

    /// What messages call its sections.
    pub(crate) fn section(self) -> &'static str {
        match self {
            TargetKind::Gateway | TargetKind::ListenerSet => "Listener",
            TargetKind::Route(_) => "RouteRule",
        }
    }

    fn of(group: &str, kind: &str) -> Option<TargetKind> {
        match kind {
            _ if group != gateway::GROUP => None,
            "Gateway" => Some(TargetKind::Gateway),
            "ListenerSet" => Some(TargetKind::ListenerSet),
            kind => RouteKind::of(kind).map(TargetKind::Route),
        }
    }
}

/// Something that policies can be about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) kind: TargetKind,
    pub(crate) key: Key,
}

impl Target {
    pub(crate) fn new(kind: TargetKind, key: &Key) -> Self {
        Target { kind, key: key.clone() }
    }

    /// What a reference in a namespace leads to, where that can have policies.
    pub(super) fn of(reference: &TargetReference, namespace: &str) -> Option<Target> {
        let kind = TargetKind::of(&reference.group, &reference.kind)?;
        Some(Target { kind, key: Key::new(namespace, &reference.name) })
    }
}

/// Whether a selector chooses a target by kind and labels.
pub(super) fn chooses(selector: &TargetSelector, target: &Target, labels: &BTreeMap<String, String>) -> bool {
    let group = selector.group.as_deref().unwrap_or(gateway::GROUP);
    TargetKind::of(group, &selector.kind) == Some(target.kind) && super::labelled(selector, labels)
}
