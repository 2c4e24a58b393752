//! Whom policies have asked: the backends that they refer to.

use kinds::{envoy_gateway::BackendReference, gateway::HTTPBackendRef};

use super::{From, invalid};
use crate::{
    controller::{backends, item::RouteKind, verdict::Fault},
    routing::{Filters, Share},
};

/// The backends of a list of references, or of the one that older policies write, for requests of a kind.
pub(super) fn shares(
    from: &From<'_>,
    kind: RouteKind,
    (several, one): (&[BackendReference], Option<&BackendReference>),
) -> Result<Vec<Share>, Fault> {
    let references = if several.is_empty() { one.into_iter().collect() } else { several.iter().collect::<Vec<_>>() };
    let shares = references.into_iter().map(|reference| {
        let same = HTTPBackendRef {
            group: reference.group.clone(),
            kind: reference.kind.clone(),
            name: reference.name.clone(),
            namespace: reference.namespace.clone(),
            port: reference.port,
            weight: reference.weight,
            filters: Vec::new(),
        };
        let target = backends::resolve_for(from.seen, (from.referrer(), kind), &same, &|_| false);
        let target = target.map_err(|fault| invalid(fault.message))?;
        let weight = u32::try_from(reference.weight.unwrap_or(1)).unwrap_or(0);
        Ok(Share { weight, target, filters: Filters::default() })
    });
    shares.collect()
}
