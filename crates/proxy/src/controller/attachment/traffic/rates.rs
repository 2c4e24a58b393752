//! Rate limits. On one machine there is one gateway, so that what all gateways have together is what it has.

use std::{sync::Arc, time::Duration};

use http::Method;
use kinds::envoy_gateway::{ClientSelector, RateLimit, RateLimitRule, ValueSelector};

use super::super::reading::{header, invalid, tell};
use crate::{
    controller::verdict::Fault,
    routing::{Condition, Distinct, Network, PathMatch, RateRule, Rates, ValueMatch, What},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn compile(from: &RateLimit, warnings: &mut Vec<String>) -> Result<Vec<Arc<Rates>>, Fault> {
    tell(warnings, "rateLimit.", &from.unread);
    let mut all = Vec::new();
    for (limits, name, default_last) in [(&from.local, "local", true), (&from.global, "global", false)] {
        let Some(limits) = limits else { continue };
        let path = format!("rateLimit.{name}.");
        tell(warnings, &path, &limits.unread);
        let rules = limits.rules.iter().flatten().map(|rule| compile_rule(rule, &format!("{path}rules."), warnings));
        all.push(Arc::new(Rates::new(rules.collect::<Result<_, _>>()?, default_last)));
    }
    Ok(all)
}

fn compile_rule(from: &RateLimitRule, path: &str, warnings: &mut Vec<String>) -> Result<RateRule, Fault> {
    tell(warnings, path, &from.unread);
    let limit = from.limit.clone().unwrap_or_default();
    tell(warnings, &format!("{path}limit."), &limit.unread);
    let per = match limit.unit.as_deref().unwrap_or("") {
        "Second" => Duration::from_secs(1),
        "Minute" => Duration::from_secs(60),
        "Hour" => Duration::from_secs(60 * 60),
        "Day" => DAY,
        other => {
            return Err(invalid(format!("spec.{path}limit.unit: {other:?} is not supported, a day is the longest")));
        }
    };
    let (mut conditions, mut distinct) = (Vec::new(), Vec::new());
    for selector in from.client_selectors.iter().flatten() {
        tell(warnings, &format!("{path}clientSelectors."), &selector.unread);
        select(selector, path, &mut conditions, &mut distinct)?;
    }
    if from.shared != Some(true) {
        distinct.push(Distinct::Route);
    }
    let rule = RateRule::new(limit.requests.unwrap_or(0), per, conditions, distinct);
    let mut rule = rule.map_err(|error| invalid(format!("spec.{path}limit: {error}")))?;
    rule.shadow = from.shadow_mode == Some(true);
    if let Some(cost) = &from.cost {
        if cost.response.is_some() {
            warnings.push(format!("spec.{path}cost.response is not supported and has no effect"));
        }
        if let Some(price) = &cost.request {
            match (price.from.as_deref(), price.number) {
                (Some("Number"), number) => rule.cost = number.unwrap_or(1),
                _ => warnings.push(format!("spec.{path}cost.request: only a Number is supported")),
            }
        }
    }
    Ok(rule)
}

fn select(
    from: &ClientSelector,
    path: &str,
    conditions: &mut Vec<Condition>,
    distinct: &mut Vec<Distinct>,
) -> Result<(), Fault> {
    let mut add = |what, of: &ValueSelector| conditions.push(Condition { what, invert: of.invert == Some(true) });
    for of in from.headers.iter().flatten() {
        let name = header(&format!("{path}clientSelectors.headers"), of.name.as_deref())?;
        match value(of, path)? {
            Some(value) => add(What::Header(name, value), of),
            None => distinct.push(Distinct::Header(name)),
        }
    }
    for of in from.query_params.iter().flatten() {
        let name = of.name.as_deref().unwrap_or("").into();
        match value(of, path)? {
            Some(value) => add(What::Query(name, value), of),
            None => distinct.push(Distinct::Query(name)),
        }
    }
    let methods: Vec<_> = from.methods.iter().flatten().collect();
    if let Some(first) = methods.first() {
        let named = methods.iter().map(|of| {
            let name = of.value.as_deref().unwrap_or("");
            Method::from_bytes(name.as_bytes())
                .map_err(|_| invalid(format!("spec.{path}clientSelectors: {name:?} is no method")))
        });
        add(What::Methods(named.collect::<Result<_, _>>()?), first);
    }
    if let Some(of) = &from.path {
        let value = of.value.as_deref().unwrap_or("/");
        let matched = match of.r#type.as_deref() {
            Some("Exact") => PathMatch::Exact(value.into()),
            Some("RegularExpression") => PathMatch::pattern(value)
                .map_err(|error| invalid(format!("spec.{path}clientSelectors.path: {error}")))?,
            _ => PathMatch::prefix(value),
        };
        add(What::Path(matched), of);
    }
    if let Some(of) = &from.source_cidr {
        let text = of.value.as_deref().unwrap_or("");
        let network = Network::parse(text)
            .ok_or_else(|| invalid(format!("spec.{path}clientSelectors.sourceCIDR: {text:?} is no network")))?;
        add(What::Source(network), of);
        if of.r#type.as_deref() == Some("Distinct") {
            distinct.push(Distinct::Source);
        }
    }
    Ok(())
}

/// The condition on a value; `None` where each value counts for itself.
fn value(of: &ValueSelector, path: &str) -> Result<Option<ValueMatch>, Fault> {
    let value = of.value.as_deref().unwrap_or("");
    match of.r#type.as_deref() {
        Some("Distinct") => Ok(None),
        Some("RegularExpression") => ValueMatch::pattern(value)
            .map(Some)
            .map_err(|error| invalid(format!("spec.{path}clientSelectors: {error}"))),
        _ => Ok(Some(ValueMatch::Exact(value.into()))),
    }
}
