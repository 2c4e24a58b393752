//! From a TLSRoute, TCPRoute or UDPRoute to its one rule.

use std::sync::Arc;

use kinds::gateway::StreamRule as Rule;

use super::{
    backends,
    compiled::{Compiled, Rules, first},
    lookup::{Route, Seen, key_of},
};
use crate::routing::StreamRule;

/// Compiles the first rule; the API allows no more.
pub(crate) fn compile(seen: &Seen<'_>, route: &Route, rules: &[Rule]) -> Compiled {
    let mut broken = Vec::new();
    let owner = route.kind().owner(&key_of(route.meta()));
    let rule = rules.first().map(|rule| backends::shares(seen, route, &rule.backend_refs, &mut broken));
    let (rule, accepted) = match rule {
        None => (None, Ok(())),
        Some(Ok(shares)) => (Some(Arc::new(StreamRule::new(owner, shares))), Ok(())),
        Some(Err(fault)) => (None, Err(fault)),
    };
    Compiled { rules: Rules::Stream(rule), accepted, partially: None, references: first(broken) }
}
