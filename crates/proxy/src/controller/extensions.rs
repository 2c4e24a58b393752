//! What a rule refers to by `ExtensionRef`, the point that Gateway API leaves to others. One file per kind.
//!
//! A reference that leads nowhere has the requests of its rule answered with 500, and the route say so in `ResolvedRefs`
//! (GEP-1364): to leave the filter out would be to serve what its author did not want served.

use std::sync::Arc;

use http::StatusCode;
use kinds::{envoy_gateway, gateway::LocalReference, gateway_extensions};
use reconcile::Key;

use super::{
    Controller, STATUS_PAUSE, Work,
    filters::{Filtered, unsupported},
    is_same,
    item::{Dependency, Item},
    lookup::{Route, Seen, namespace},
    verdict::Fault,
};
use crate::routing::Direct;

mod api_version;
mod idempotency;
mod route_filter;

pub(super) use api_version::versions;

/// The kinds that may be referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ExtensionKind {
    /// Envoy Gateway's.
    RouteFilter,
    /// Ours.
    Idempotency,
    /// Ours.
    ApiVersion,
}

impl ExtensionKind {
    /// All of them.
    const ALL: [ExtensionKind; 3] = [ExtensionKind::RouteFilter, ExtensionKind::Idempotency, ExtensionKind::ApiVersion];

    /// Group and kind.
    pub(crate) fn name(self) -> (&'static str, &'static str) {
        match self {
            ExtensionKind::RouteFilter => (envoy_gateway::GROUP, "HTTPRouteFilter"),
            ExtensionKind::Idempotency => (gateway_extensions::GROUP, "IdempotencyFilter"),
            ExtensionKind::ApiVersion => (gateway_extensions::GROUP, "ApiVersionFilter"),
        }
    }

    fn of(reference: &LocalReference) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == (&*reference.group, &*reference.kind))
    }
}

/// An object of one of the kinds.
#[derive(Clone, Debug)]
pub(crate) enum Extension {
    RouteFilter(Arc<envoy_gateway::HTTPRouteFilter>),
    Idempotency(Arc<gateway_extensions::IdempotencyFilter>),
    ApiVersion(Arc<gateway_extensions::ApiVersionFilter>),
}

/// Compiles what a reference leads to.
pub(crate) fn compile(
    seen: &Seen<'_>,
    route: &Route,
    reference: &LocalReference,
    into: &mut Filtered,
    broken: &mut Vec<Fault>,
) -> Result<(), Fault> {
    let key = Key::new(namespace(route.meta()), &reference.name);
    let kind = ExtensionKind::of(reference);
    let Some(extension) = kind.and_then(|kind| seen.extension(kind, &key)) else {
        broken.push(match kind {
            Some(ExtensionKind::RouteFilter) => unsupported(format!("Unable to translate HTTPRouteFilter: {key}")),
            _ => unsupported(format!("Reference {key} not found for filter type: {}", reference.kind)),
        });
        into.filters.direct = Some(Arc::new(Direct::status(StatusCode::INTERNAL_SERVER_ERROR)));
        return Ok(());
    };
    let compiled = match &extension {
        Extension::RouteFilter(filter) => route_filter::compile(seen, filter, into),
        Extension::Idempotency(filter) => idempotency::compile(seen, route, filter, into),
        Extension::ApiVersion(filter) => api_version::compile(filter, into),
    };
    compiled
        .map_err(|fault| Fault { message: format!("invalid filter {}: {}", reference.kind, fault.message), ..fault })
}

impl Controller {
    /// What rules refer to, besides Services.
    pub(super) async fn watch_extensions(&self) {
        let view = &self.view;
        let declared = async {
            let mut changes = view.declared.subscribe();
            while let Some(change) = changes.next().await {
                let key = Key::of(&**change.object());
                if is_same(&change, |old, new| old.spec == new.spec) {
                    self.told.add_after(Item::Declared(key), STATUS_PAUSE);
                    continue;
                }
                self.work.add(Work::Item(Item::Declared(key.clone())));
                self.work.add(Work::Changed(Dependency::Declared(key)));
            }
        };
        tokio::join!(
            declared,
            self.changed(
                &view.versions,
                |old, new| old.spec == new.spec,
                |key| Dependency::Extension(ExtensionKind::ApiVersion, key),
            ),
            self.changed(
                &view.idempotency,
                |old, new| old.spec == new.spec,
                |key| Dependency::Extension(ExtensionKind::Idempotency, key),
            ),
            self.changed(
                &view.route_filters,
                |old, new| old.spec == new.spec,
                |key| { Dependency::Extension(ExtensionKind::RouteFilter, key) }
            ),
        );
    }
}
