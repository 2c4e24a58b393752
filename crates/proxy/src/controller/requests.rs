//! From the rules of a route for requests to rules of the table, whatever the route's kind.

use std::sync::Arc;

use http::StatusCode;
use kinds::gateway::{HTTPBackendRef, HTTPRouteFilter, HTTPRouteRetry, HTTPRouteTimeouts, SessionPersistence};

use super::{
    backends,
    compiled::{Compiled, Rules, first},
    duration, extensions,
    filters::{self, Filtered},
    forwarding,
    lookup::{Route, Seen, key_of},
    verdict::Fault,
};
use crate::routing::{Action, Owner, RequestMatch, Rule, Timeouts, ValueMatch};

/// What the rules of all kinds have in common, once their own conditions were read.
pub(crate) struct RequestRule<'a> {
    pub(crate) name: Option<&'a str>,
    /// The requests that it is for; an error when they are not even known.
    pub(crate) matches: Result<Vec<RequestMatch>, Fault>,
    pub(crate) filters: &'a [HTTPRouteFilter],
    pub(crate) backends: &'a [HTTPBackendRef],
    pub(crate) timeouts: Option<&'a HTTPRouteTimeouts>,
    pub(crate) retry: Option<&'a HTTPRouteRetry>,
    pub(crate) session: Option<&'a SessionPersistence>,
}

/// The conditions of a rule; without any it is for every request.
pub(crate) fn conditions<M>(
    matches: &[M],
    condition: fn(&M) -> Result<RequestMatch, Fault>,
) -> Result<Vec<RequestMatch>, Fault> {
    match matches {
        [] => Ok(vec![RequestMatch::prefix("/")]),
        matches => matches.iter().map(condition).collect(),
    }
}

/// Compiles the rules of a route, of which some may be wrong: a wrong rule is answered with an error, the others are
/// served.
pub(crate) fn compile<'a>(
    seen: &Seen<'_>,
    route: &Route,
    from: impl ExactSizeIterator<Item = RequestRule<'a>>,
) -> Compiled {
    let owner = route.kind().owner(&key_of(route.meta()));
    let (mut rules, mut broken, mut fault, mut good) = (Vec::new(), Vec::new(), None, from.len() == 0);
    for (order, from) in from.enumerate() {
        match &from.matches {
            Ok(matches) => {
                let rule = compile_rule(seen, route, (&owner, order), &from, &mut broken);
                good |= rule.is_ok();
                let (rule, cookies) = rule.unwrap_or_else(|wrong| {
                    fault.get_or_insert(wrong);
                    (failing(&owner, from.name), Vec::new())
                });
                rules.push((with_cookies(matches.clone(), &cookies), Arc::new(rule)));
            }
            Err(wrong) => {
                fault.get_or_insert_with(|| wrong.clone());
            }
        }
    }
    let (accepted, partially) = match (fault, good) {
        (None, _) => (Ok(()), None),
        (Some(fault), true) => (Ok(()), Some(fault)),
        (Some(fault), false) => (Err(fault), None),
    };
    Compiled { rules: Rules::Requests(rules), accepted, partially, references: first(broken) }
}

fn compile_rule(
    seen: &Seen<'_>,
    route: &Route,
    (owner, order): (&Owner, usize),
    from: &RequestRule<'_>,
    broken: &mut Vec<Fault>,
) -> Result<(Rule, Vec<Cookies>), Fault> {
    let Filtered { mut filters, cookies, versions, .. } = filters::compile(seen, route, from.filters, broken)?;
    let versions = versions.map(|spec| extensions::versions(&spec, from.backends)).transpose()?;
    filters.versions = versions.map(Arc::new);
    let shares = backends::shares(seen, route, from.backends, broken)?;
    let timeouts = from.timeouts.map_or(Ok(Timeouts::default()), timeouts)?;
    let retry = from.retry.map(forwarding::retry).transpose()?.map(Arc::new);
    let session = from.session.map(|session| forwarding::session(session, owner, order)).transpose()?.map(Arc::new);
    let name = from.name.map(Into::into);
    let rule = Rule { name, filters, timeouts, retry, session, ..Rule::new(owner.clone(), Action::Forward(shares)) };
    Ok((rule, cookies))
}

/// Conditions on cookies that must hold together.
type Cookies = Vec<(Box<str>, ValueMatch)>;

/// The conditions of a rule, each with each of those that a filter adds.
fn with_cookies(matches: Vec<RequestMatch>, cookies: &[Cookies]) -> Vec<RequestMatch> {
    if cookies.is_empty() {
        return matches;
    }
    let with = |condition: &RequestMatch| {
        let condition = condition.clone();
        cookies.iter().map(move |cookies| RequestMatch { cookies: cookies.clone(), ..condition.clone() })
    };
    matches.iter().flat_map(with).collect()
}

/// A rule that cannot be served as it is written.
fn failing(owner: &Owner, name: Option<&str>) -> Rule {
    let name = name.map(Into::into);
    Rule { name, ..Rule::new(owner.clone(), Action::Fail(StatusCode::INTERNAL_SERVER_ERROR)) }
}

fn timeouts(from: &HTTPRouteTimeouts) -> Result<Timeouts, Fault> {
    Ok(Timeouts {
        request: duration::limit(from.request.as_deref())?,
        backend: duration::limit(from.backend_request.as_deref())?,
    })
}
