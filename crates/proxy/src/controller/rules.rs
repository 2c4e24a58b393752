//! From the rules of an HTTPRoute to rules of the table.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use k8s_openapi::api::core::v1::Service;
use kinds::gateway::{
    self, FilterType, HTTPBackendRef, HTTPHeader, HTTPHeaderFilter, HTTPPathModifier, HTTPRequestRedirectFilter,
    HTTPRoute, HTTPRouteFilter, HTTPRouteMatch, HTTPRouteRule, HTTPValueMatch, PathMatchType, PathModifierType,
    ValueMatchType,
};

use super::{
    verdict::Fault,
    world::{Lookup, Referrer, World, full_name, is, namespace},
};
use crate::routing::{
    Action, HeaderEdits, PathChange, PathMatch, Redirect, RequestMatch, Rewrite, Rule, Share, Target, Timeouts,
    ValueMatch,
};

/// The rules of a route, and the first reference among them that leads nowhere.
pub(crate) struct Rules {
    pub(crate) rules: Vec<(Vec<RequestMatch>, Arc<Rule>)>,
    pub(crate) references: Result<(), Fault>,
}

/// Compiles a route. An error means that it asks for something that is not served, and takes no request at all.
pub(crate) fn compile(world: &World, lookup: &dyn Lookup, route: &HTTPRoute) -> Result<Rules, Fault> {
    let mut references = Ok(());
    let rules = route.spec.rules.iter().map(|rule| {
        let matches: Vec<_> = if rule.matches.is_empty() {
            vec![RequestMatch::prefix("/")]
        } else {
            rule.matches.iter().map(condition).collect::<Result<_, _>>()?
        };
        Ok((matches, Arc::new(compile_rule(world, lookup, route, rule, &mut references)?)))
    });
    Ok(Rules { rules: rules.collect::<Result<_, Fault>>()?, references })
}

fn unsupported(message: impl Into<String>) -> Fault {
    Fault::new("UnsupportedValue", message)
}

fn condition(from: &HTTPRouteMatch) -> Result<RequestMatch, Fault> {
    let path = from.path.clone().unwrap_or_default();
    let value = path.value.as_deref().unwrap_or("/");
    let path = match path.type_.unwrap_or_default() {
        PathMatchType::Exact => PathMatch::Exact(value.into()),
        PathMatchType::PathPrefix => PathMatch::prefix(value),
        PathMatchType::RegularExpression => PathMatch::pattern(value)
            .map_err(|e| unsupported(format!("path {value:?} is no regular expression: {e}")))?,
    };
    let method = from.method.as_deref().map(|name| {
        Method::from_bytes(name.as_bytes()).map_err(|_| unsupported(format!("method {name:?} is no HTTP method")))
    });
    let headers = from.headers.iter().map(|header| Ok((header_name(&header.name)?, value_match(header)?)));
    let query = from.query_params.iter().map(|query| Ok((query.name.as_str().into(), value_match(query)?)));
    // Of several conditions on one name only the first counts.
    let mut headers: Vec<(HeaderName, ValueMatch)> = headers.collect::<Result<_, Fault>>()?;
    let mut seen = Vec::new();
    headers.retain(|(name, _)| {
        !seen.contains(name) && {
            seen.push(name.clone());
            true
        }
    });
    Ok(RequestMatch {
        host_labels: None,
        path,
        method: method.transpose()?,
        headers,
        query: query.collect::<Result<_, Fault>>()?,
    })
}

fn value_match(from: &HTTPValueMatch) -> Result<ValueMatch, Fault> {
    match from.type_.unwrap_or_default() {
        ValueMatchType::Exact => Ok(ValueMatch::Exact(from.value.as_str().into())),
        ValueMatchType::RegularExpression => ValueMatch::pattern(&from.value)
            .map_err(|e| unsupported(format!("{:?} for {} is no regular expression: {e}", from.value, from.name))),
    }
}

fn compile_rule(
    world: &World,
    lookup: &dyn Lookup,
    route: &HTTPRoute,
    rule: &HTTPRouteRule,
    references: &mut Result<(), Fault>,
) -> Result<Rule, Fault> {
    let filters = Filters::of(&rule.filters)?;
    let action = match filters.redirect {
        Some(redirect) => Action::Redirect(redirect),
        None => {
            let mut shares = Vec::new();
            for reference in &rule.backend_refs {
                let own = Filters::of(&reference.filters)?;
                if own.redirect.is_some() || own.rewrite.is_some() {
                    return Err(unsupported("a backendRef may only change headers"));
                }
                let target = match resolve(world, lookup, route, reference) {
                    Ok(target) => target,
                    Err(fault) => {
                        if references.is_ok() {
                            *references = Err(fault);
                        }
                        Target::Invalid
                    }
                };
                let weight = u32::try_from(reference.weight.unwrap_or(1)).unwrap_or(0);
                shares.push(Share { weight, target, request: own.request, response: own.response });
            }
            Action::Forward { shares, rewrite: filters.rewrite.unwrap_or_default() }
        }
    };
    let timeouts = rule.timeouts.clone().unwrap_or_default();
    let timeouts =
        Timeouts { request: limit(timeouts.request.as_deref())?, backend: limit(timeouts.backend_request.as_deref())? };
    let route = full_name(&route.metadata).into();
    Ok(Rule { route, request: filters.request, response: filters.response, action, timeouts })
}

/// The backend that a reference names.
fn resolve(world: &World, lookup: &dyn Lookup, route: &HTTPRoute, reference: &HTTPBackendRef) -> Result<Target, Fault> {
    let own = namespace(&route.metadata);
    let (target, name) = (reference.namespace.as_deref().unwrap_or(own), reference.name.as_str());
    if !is(reference.group.as_deref(), reference.kind.as_deref(), ("", "Service")) {
        let kind = reference.kind.as_deref().unwrap_or("Service");
        return Err(Fault::new(
            "InvalidKind",
            format!("backendRef {name}: only a Service can be a backend, not {kind}"),
        ));
    }
    world.permit(Referrer { group: gateway::GROUP, kind: "HTTPRoute", namespace: own }, "Service", target, name)?;
    let missing = |message: String| Fault::new("BackendNotFound", message);
    let service = lookup.service(target, name).ok_or_else(|| missing(format!("Service {target}/{name} not found")))?;
    let port = reference.port.ok_or_else(|| missing(format!("backendRef {name} names no port")))?;
    match port_protocol(&service, port) {
        None => Err(missing(format!("Service {target}/{name} has no port {port}"))),
        Some(Some("kubernetes.io/h2c")) => {
            let message =
                format!("port {port} of Service {target}/{name} speaks HTTP/2 without TLS, which is not served");
            Err(Fault::new("UnsupportedProtocol", message))
        }
        Some(_) => Ok(Target::Service(lookup.backend(target, name, port))),
    }
}

/// The application protocol of a port; the outer `None` when the Service has no such port.
fn port_protocol(service: &Service, port: i32) -> Option<Option<&str>> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    ports.into_iter().flatten().find(|p| p.port == port).map(|p| p.app_protocol.as_deref())
}

#[derive(Default)]
struct Filters {
    request: HeaderEdits,
    response: HeaderEdits,
    redirect: Option<Redirect>,
    rewrite: Option<Rewrite>,
}

impl Filters {
    fn of(filters: &[HTTPRouteFilter]) -> Result<Filters, Fault> {
        let mut compiled = Filters::default();
        for filter in filters {
            match filter.type_ {
                FilterType::RequestHeaderModifier => {
                    compiled.request = edits(filter.request_header_modifier.as_ref())?;
                }
                FilterType::ResponseHeaderModifier => {
                    compiled.response = edits(filter.response_header_modifier.as_ref())?;
                }
                FilterType::RequestRedirect => {
                    compiled.redirect = Some(redirect(&filter.request_redirect.clone().unwrap_or_default())?);
                }
                FilterType::UrlRewrite => {
                    let from = filter.url_rewrite.clone().unwrap_or_default();
                    let host = from.hostname.as_deref().map(header_value).transpose()?;
                    compiled.rewrite = Some(Rewrite { host, path: from.path.as_ref().map(path_change) });
                }
                FilterType::RequestMirror | FilterType::ExtensionRef | FilterType::Cors => {
                    return Err(unsupported(format!("filter {:?} is not served", filter.type_)));
                }
            }
        }
        Ok(compiled)
    }
}

fn redirect(from: &HTTPRequestRedirectFilter) -> Result<Redirect, Fault> {
    let code = from.status_code.unwrap_or(302);
    let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.filter(StatusCode::is_redirection);
    let port = from.port.map(|port| u16::try_from(port).map_err(|_| unsupported(format!("port {port} is no port"))));
    Ok(Redirect {
        status: status.ok_or_else(|| unsupported(format!("{code} is no status of a redirect")))?,
        scheme: from.scheme.as_deref().map(Into::into),
        host: from.hostname.as_deref().map(Into::into),
        port: port.transpose()?,
        path: from.path.as_ref().map(path_change),
    })
}

fn path_change(from: &HTTPPathModifier) -> PathChange {
    match from.type_ {
        PathModifierType::ReplaceFullPath => PathChange::Full(from.replace_full_path.as_deref().unwrap_or("/").into()),
        PathModifierType::ReplacePrefixMatch => {
            PathChange::Prefix(from.replace_prefix_match.as_deref().unwrap_or("/").into())
        }
    }
}

fn edits(from: Option<&HTTPHeaderFilter>) -> Result<HeaderEdits, Fault> {
    let Some(from) = from else { return Ok(HeaderEdits::default()) };
    let pairs = |headers: &[HTTPHeader]| {
        headers.iter().map(|h| Ok((header_name(&h.name)?, header_value(&h.value)?))).collect::<Result<_, Fault>>()
    };
    let remove = from.remove.iter().map(|name| header_name(name)).collect::<Result<_, _>>()?;
    Ok(HeaderEdits { remove, set: pairs(&from.set)?, add: pairs(&from.add)? })
}

fn header_name(name: &str) -> Result<HeaderName, Fault> {
    HeaderName::try_from(name).map_err(|_| unsupported(format!("{name:?} is no header name")))
}

fn header_value(value: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::try_from(value).map_err(|_| unsupported(format!("{value:?} is no header value")))
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
