//! The conditions of an HTTPRoute's rules.

use http::{HeaderName, Method};
use kinds::gateway::{HTTPRouteMatch, HTTPRouteRule, HTTPValueMatch, PathMatchType, ValueMatchType};

use super::{
    filters::{header_name, unsupported},
    requests::{RequestRule, conditions},
    verdict::Fault,
};
use crate::routing::{PathMatch, RequestMatch, ValueMatch};

/// What a rule has in common with those of other kinds.
pub(crate) fn rule(from: &HTTPRouteRule) -> RequestRule<'_> {
    RequestRule {
        name: from.name.as_deref(),
        matches: conditions(&from.matches, condition),
        filters: &from.filters,
        backends: &from.backend_refs,
        timeouts: from.timeouts.as_ref(),
        retry: from.retry.as_ref(),
        session: from.session_persistence.as_ref(),
    }
}

fn condition(from: &HTTPRouteMatch) -> Result<RequestMatch, Fault> {
    let path = from.path.clone().unwrap_or_default();
    let value = path.value.as_deref().unwrap_or("/");
    let path = match path.type_.unwrap_or_default() {
        PathMatchType::Exact => PathMatch::Exact(value.into()),
        PathMatchType::PathPrefix => PathMatch::prefix(value),
        PathMatchType::RegularExpression => pattern(value)?,
    };
    let method = from.method.as_deref().map(|name| {
        Method::from_bytes(name.as_bytes()).map_err(|_| unsupported(format!("method {name:?} is no HTTP method")))
    });
    let mut query: Vec<(Box<str>, ValueMatch)> = Vec::new();
    for parameter in &from.query_params {
        // Of several conditions on one name only the first counts.
        if query.iter().all(|(name, _)| **name != *parameter.name) {
            query.push((parameter.name.as_str().into(), value_match(parameter)?));
        }
    }
    Ok(RequestMatch {
        host_labels: None,
        path,
        method: method.transpose()?,
        headers: headers(&from.headers)?,
        query,
        cookies: Vec::new(),
        canary: None,
    })
}

/// A pattern for a whole path.
pub(crate) fn pattern(value: &str) -> Result<PathMatch, Fault> {
    PathMatch::pattern(value).map_err(|e| unsupported(format!("path {value:?} is no regular expression: {e}")))
}

/// Conditions on headers; of several on one name only the first counts.
pub(crate) fn headers(from: &[HTTPValueMatch]) -> Result<Vec<(HeaderName, ValueMatch)>, Fault> {
    let mut headers: Vec<(HeaderName, ValueMatch)> = Vec::new();
    for header in from {
        let name = header_name(&header.name)?;
        if headers.iter().all(|(known, _)| *known != name) {
            headers.push((name, value_match(header)?));
        }
    }
    Ok(headers)
}

pub(crate) fn value_match(from: &HTTPValueMatch) -> Result<ValueMatch, Fault> {
    match from.type_.unwrap_or_default() {
        ValueMatchType::Exact => Ok(ValueMatch::Exact(from.value.as_str().into())),
        ValueMatchType::RegularExpression => ValueMatch::pattern(&from.value)
            .map_err(|e| unsupported(format!("{:?} for {} is no regular expression: {e}", from.value, from.name))),
    }
}
