//! From the rules of an HTTPRoute to rules of the table.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method, StatusCode};
use kinds::gateway::{HTTPRoute, HTTPRouteMatch, HTTPRouteRule, HTTPValueMatch, PathMatchType, ValueMatchType};

use super::{
    backends,
    compiled::{Compiled, Outcome},
    filters::{self, header_name, unsupported},
    lookup::{Route, Seen, key_of},
    verdict::Fault,
};
use crate::routing::{Action, Filters, Owner, PathMatch, RequestMatch, Rule, Timeouts, ValueMatch};

pub(crate) fn compile(seen: &Seen<'_>, route: &Route, object: &Arc<HTTPRoute>) -> Compiled {
    let owner = route.kind().owner(&key_of(route.meta()));
    let mut broken = Vec::new();
    let outcomes = object.spec.rules.iter().map(|rule| outcome(seen, route, &owner, rule, &mut broken));
    let outcomes = outcomes.collect();
    Compiled::of_requests(outcomes, broken)
}

fn outcome(seen: &Seen<'_>, route: &Route, owner: &Owner, rule: &HTTPRouteRule, broken: &mut Vec<Fault>) -> Outcome {
    let matches: Result<Vec<_>, _> = match &*rule.matches {
        [] => Ok(vec![RequestMatch::prefix("/")]),
        matches => matches.iter().map(condition).collect(),
    };
    let matches = match matches {
        Ok(matches) => matches,
        Err(fault) => return Outcome::Dropped(fault),
    };
    match compile_rule(seen, route, owner, rule, broken) {
        Ok(compiled) => Outcome::Served(matches, compiled),
        Err(fault) => Outcome::Failing(matches, failing(owner, rule.name.as_deref()), fault),
    }
}

/// A rule that cannot be served as it is written.
pub(crate) fn failing(owner: &Owner, name: Option<&str>) -> Rule {
    Rule {
        owner: owner.clone(),
        name: name.map(Into::into),
        filters: Filters::default(),
        action: Action::Fail(StatusCode::INTERNAL_SERVER_ERROR),
        timeouts: Timeouts::default(),
    }
}

fn compile_rule(
    seen: &Seen<'_>,
    route: &Route,
    owner: &Owner,
    rule: &HTTPRouteRule,
    broken: &mut Vec<Fault>,
) -> Result<Rule, Fault> {
    let filters = filters::compile(seen, route, &rule.filters, broken)?;
    let shares = backends::shares(seen, route, &rule.backend_refs, broken)?;
    let timeouts = rule.timeouts.clone().unwrap_or_default();
    let timeouts =
        Timeouts { request: limit(timeouts.request.as_deref())?, backend: limit(timeouts.backend_request.as_deref())? };
    let name = rule.name.as_deref().map(Into::into);
    Ok(Rule { owner: owner.clone(), name, filters, action: Action::Forward(shares), timeouts })
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
    Ok(RequestMatch { host_labels: None, path, method: method.transpose()?, headers: headers(&from.headers)?, query })
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

fn value_match(from: &HTTPValueMatch) -> Result<ValueMatch, Fault> {
    match from.type_.unwrap_or_default() {
        ValueMatchType::Exact => Ok(ValueMatch::Exact(from.value.as_str().into())),
        ValueMatchType::RegularExpression => ValueMatch::pattern(&from.value)
            .map_err(|e| unsupported(format!("{:?} for {} is no regular expression: {e}", from.value, from.name))),
    }
}

/// A limit out of a Gateway API duration; zero is none.
fn limit(text: Option<&str>) -> Result<Option<Duration>, Fault> {
    let Some(text) = text else { return Ok(None) };
    let parsed = duration(text).ok_or_else(|| unsupported(format!("{text:?} is no duration")))?;
    Ok(Some(parsed).filter(|d| !d.is_zero()))
}

/// Up to four numbers of up to five digits, each with its unit: `1h30m`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|digits| (1..=5).contains(digits))?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        total += match &rest[digits..digits + unit] {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = &rest[digits + unit..];
        parts += 1;
    }
    (1..=4).contains(&parts).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_gateway_api() {
        for (text, expected) in [
            ("10s", Some(10_000)),
            ("1h30m", Some(5_400_000)),
            ("1s500ms", Some(1500)),
            ("0s", Some(0)),
            ("", None),
            ("10", None),
            ("1.5s", None),
            ("-1s", None),
            ("100000s", None),
            ("1s1s1s1s1s", None),
        ] {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text}");
        }
    }
}
