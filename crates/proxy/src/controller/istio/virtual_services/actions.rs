//! What becomes of the requests that a rule takes.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use kinds::istio::{
    CorsPolicy, Destination, DirectResponse, FaultAbort, FaultDelay, HTTPFault, HTTPRetries, HTTPRule,
    HTTPRuleDestination, HTTPRuleRedirect, HeaderOperations, Percent, Rest,
};

use reconcile::Key;

use super::{Compiler, service_of};
use crate::{
    controller::{
        backends::ports,
        endpoints::Variant,
        filters::{header_name, unsupported},
        forwarding::PAUSES,
        istio::{destinations::subset, duration},
        verdict::Fault,
    },
    routing::{
        Abort, Action, Backend, Cors, Direct, Disturbance, Filters, HeaderEdits, HostChange, Mirror, Part, PathChange,
        Redirect, Retry, Rewrite, Rule, Security, Share, Target, Timeouts, Traffic, Trigger, Wire,
    },
};

/// What Istio tries again for when a rule does not say it.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled";
/// Copies are a part of this many requests: Envoy's finest.
const PARTS: u32 = 1_000_000;

impl Compiler<'_> {
    /// What a rule does with requests to a port; `whole_path` says what a rewrite replaces.
    pub(super) fn action(
        &self,
        path: &str,
        from: &HTTPRule,
        (port, whole_path): (u16, bool),
        wrong: &mut Vec<String>,
    ) -> Result<Rule, Fault> {
        let mut told = |what: &str, rest: &Rest| {
            wrong.extend(rest.keys().map(|name| format!("{path}{what}.{name} is not followed")));
        };
        told("", &from.rest);
        let direct = from.direct_response.as_ref().map(direct).transpose()?.map(Arc::new);
        let mut filters = Filters { direct, ..Filters::default() };
        if let Some(headers) = &from.headers {
            (filters.request, filters.response) = (edits(headers.request.as_ref())?, edits(headers.response.as_ref())?);
        }
        if let Some(redirect) = &from.redirect {
            filters.redirect = Some(self::redirect(redirect)?);
        }
        if let Some(rewrite) = &from.rewrite {
            told(".rewrite", &rewrite.rest);
            let change =
                |uri: &str| if whole_path { PathChange::Full(uri.into()) } else { PathChange::Prefix(uri.into()) };
            let host = rewrite.authority.as_deref().map(value).transpose()?.map(HostChange::Fixed);
            filters.rewrite = Some(Rewrite { host, path: rewrite.uri.as_deref().map(change), ..Rewrite::default() });
        }
        if let Some(cors) = &from.cors_policy {
            told(".corsPolicy", &cors.rest);
            filters.cors = Some(Arc::new(self::cors(cors)?));
        }
        if let Some(retries) = &from.retries {
            told(".retries", &retries.rest);
        }
        for (rest, what) in [
            (from.fault.as_ref().and_then(|fault| fault.delay.as_ref()).map(|delay| &delay.rest), ".fault.delay"),
            (from.fault.as_ref().and_then(|fault| fault.abort.as_ref()).map(|abort| &abort.rest), ".fault.abort"),
        ] {
            if let Some(rest) = rest {
                told(what, rest);
            }
        }
        self.mirrors(path, from, port, &mut filters, wrong);
        let shares = from.route.iter().map(|to| self.share(path, to, (port, from.route.len() == 1), wrong));
        let shares = shares.collect::<Result<Vec<_>, Fault>>()?;
        let timeouts = Timeouts { request: duration("timeout", from.timeout.as_deref())?, backend: None };
        let retry = from.retries.as_ref().map(retry).transpose()?.map(Arc::new);
        let disturbance = from.fault.as_ref().map(disturbance).transpose()?;
        let traffic =
            disturbance.map(|disturbance| Arc::new(Traffic { disturbance: Some(disturbance), ..Traffic::default() }));
        Ok(Rule { filters, timeouts, retry, traffic, ..Rule::new(self.owner.clone(), Action::Forward(shares)) })
    }

    fn share(
        &self,
        path: &str,
        from: &HTTPRuleDestination,
        (port, alone): (u16, bool),
        wrong: &mut Vec<String>,
    ) -> Result<Share, Fault> {
        let mut filters = Filters::default();
        if let Some(headers) = &from.headers {
            (filters.request, filters.response) = (edits(headers.request.as_ref())?, edits(headers.response.as_ref())?);
        }
        let target = match self.backend(&from.destination, port) {
            Ok(backend) => Target::Service { backend, http2: false },
            Err(fault) => {
                wrong.push(format!("{path}.route: {}", fault.message));
                Target::Invalid
            }
        };
        // One that is alone gets everything, whatever it says.
        let weight = if alone { 1 } else { from.weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or(0) };
        Ok(Share { weight, target, filters })
    }

    /// A port of the Service that a destination names: the one it says, else its only one, else that of the request.
    fn backend(&self, from: &Destination, port: u16) -> Result<Arc<Backend>, Fault> {
        let host = &from.host;
        let key = service_of(host, self.own).ok_or_else(|| unsupported(format!("host {host:?} is no Service")))?;
        let service = self.seen.service(&key).ok_or_else(|| unsupported(format!("Service {key} not found")))?;
        let numbers: Vec<i32> = ports(&service).map(|port| port.port).collect();
        let number = match (&from.port, &*numbers) {
            (Some(port), _) => i32::try_from(port.number).unwrap_or(0),
            (None, [only]) => *only,
            (None, _) => i32::from(port),
        };
        if !numbers.contains(&number) {
            return Err(unsupported(format!("Service {key} has no port {number}")));
        }
        match &from.subset {
            None => Ok(self.seen.backend(&key, number)),
            Some(name) => self.subset(&key, number, name),
        }
    }

    /// The endpoints of a part of a Service.
    fn subset(&self, service: &Key, port: i32, name: &str) -> Result<Arc<Backend>, Fault> {
        let found = subset(self.seen, service, name, port);
        let missing = || unsupported(format!("no DestinationRule of Service {service} has a subset {name:?}"));
        let (labels, upstream) = found.ok_or_else(missing)?;
        if labels.is_empty() {
            let backend = self.seen.backend(service, port);
            return Ok(backend);
        }
        let variant = Variant { name: format!("subset {name}"), labels, ..Variant::default() };
        let backend = self.seen.variant(service, port, &variant, &|| Wire::new(false, Security::Plain));
        backend.set_upstream(upstream);
        Ok(backend)
    }

    fn mirrors(&self, path: &str, from: &HTTPRule, port: u16, filters: &mut Filters, wrong: &mut Vec<String>) {
        let older = from.mirror_percent.map(|percent| Percent { value: f64::from(percent) });
        let one = from.mirror.iter().map(|to| (to, from.mirror_percentage.or(older)));
        let more = from.mirrors.iter().map(|mirror| (&mirror.destination, mirror.percentage));
        for (to, percentage) in one.chain(more) {
            match self.backend(to, port) {
                Ok(backend) => {
                    let part = percentage.map_or(1.0, |percentage| percentage.value.clamp(0.0, 100.0) / 100.0);
                    let part = (part * f64::from(PARTS)).round() as u32;
                    filters.mirrors.push(Mirror::new(backend, false, (part, PARTS)));
                }
                Err(fault) => wrong.push(format!("{path}.mirror: {}", fault.message)),
            }
        }
    }
}

fn value(text: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::try_from(text).map_err(|_| unsupported(format!("{text:?} is no header value")))
}

fn edits(from: Option<&HeaderOperations>) -> Result<HeaderEdits, Fault> {
    let Some(from) = from else { return Ok(HeaderEdits::default()) };
    let pair = |(name, text): (&String, &String)| Ok((header_name(name)?, value(text)?));
    Ok(HeaderEdits {
        remove: from.remove.iter().map(|name| header_name(name)).collect::<Result<_, _>>()?,
        set: from.set.iter().map(pair).collect::<Result<Vec<(HeaderName, HeaderValue)>, Fault>>()?,
        add: from.add.iter().map(pair).collect::<Result<_, Fault>>()?,
    })
}

fn direct(from: &DirectResponse) -> Result<Direct, Fault> {
    let status = u16::try_from(from.status).ok().and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or_else(|| unsupported(format!("directResponse.status: {} is no status", from.status)))?;
    let body = from.body.clone().unwrap_or_default();
    if body.bytes.is_some() {
        return Err(unsupported("directResponse.body.bytes is not followed"));
    }
    let body = body.string.map(|text| (text.into(), HeaderValue::from_static("text/plain")));
    Ok(Direct { body, ..Direct::status(status) })
}

fn redirect(from: &HTTPRuleRedirect) -> Result<Redirect, Fault> {
    let code = from.redirect_code.unwrap_or(301);
    let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.filter(StatusCode::is_redirection);
    let path = match (&from.uri, &from.prefix_rewrite) {
        (Some(uri), _) => Some(PathChange::Full(uri.as_str().into())),
        (None, Some(prefix)) => Some(PathChange::Prefix(prefix.as_str().into())),
        (None, None) => None,
    };
    let port = from.port.map(|port| u16::try_from(port).map_err(|_| unsupported(format!("port {port} is no port"))));
    Ok(Redirect {
        status: status.ok_or_else(|| unsupported(format!("{code} is no status of a redirect")))?,
        scheme: from.scheme.as_deref().map(Into::into),
        host: from.authority.as_deref().map(Into::into),
        port: port.transpose()?,
        path,
    })
}

fn retry(from: &HTTPRetries) -> Result<Retry, Fault> {
    let attempts = u32::try_from(from.attempts)
        .map_err(|_| unsupported(format!("retries.attempts: {} is negative", from.attempts)))?;
    let (mut triggers, mut statuses) = (Vec::new(), Vec::new());
    for name in from.retry_on.as_deref().unwrap_or(RETRY_ON).split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match (name, name.parse::<u16>().ok().and_then(|code| StatusCode::from_u16(code).ok())) {
            // Which statuses these are is said by their numbers.
            ("retriable-status-codes", _) => {}
            (_, Some(status)) => statuses.push(status),
            (name, None) => {
                let trigger = Trigger::of(name);
                triggers.push(trigger.ok_or_else(|| unsupported(format!("retries.retryOn: {name} is not supported")))?);
            }
        }
    }
    if from.retry_on.is_none() {
        statuses.push(StatusCode::SERVICE_UNAVAILABLE);
    }
    let base = duration("retries.backoff", from.backoff.as_deref())?.unwrap_or(PAUSES.0);
    let retry = Retry {
        triggers,
        statuses,
        config: Retry::config(attempts, base, base.saturating_mul(10).min(resilience::retry::PAUSE_MAX)),
        pause: std::time::Duration::ZERO,
        careful: false,
        within: None,
        attempt: duration("retries.perTryTimeout", from.per_try_timeout.as_deref())?,
    };
    retry.validate().map_err(|error| unsupported(format!("retries: {error}")))?;
    Ok(retry)
}

fn disturbance(from: &HTTPFault) -> Result<Disturbance, Fault> {
    // As Istio has it: a fault without a percentage is for all requests.
    let part = |percentage: Option<Percent>| Part::percent(percentage.map_or(100.0, |percentage| percentage.value));
    let mut disturbance = Disturbance::default();
    if let Some(FaultDelay { fixed_delay, percentage, percent, .. }) = &from.delay {
        let older = percent.map(|percent| Percent { value: f64::from(percent) });
        let fixed = duration("fault.delay.fixedDelay", fixed_delay.as_deref())?;
        disturbance.delay = fixed.map(|fixed| (part(percentage.or(older)), fixed));
    }
    if let Some(FaultAbort { http_status, grpc_status, percentage, .. }) = &from.abort {
        let answer = match (http_status, grpc_status) {
            (Some(status), _) => {
                let code = u16::try_from(*status).ok().and_then(|code| StatusCode::from_u16(code).ok());
                Abort::Status(
                    code.ok_or_else(|| unsupported(format!("fault.abort.httpStatus: {status} is no status")))?,
                )
            }
            (None, Some(name)) => {
                let code = name.parse().ok().or_else(|| call_code(name));
                Abort::Call(code.ok_or_else(|| unsupported(format!("fault.abort.grpcStatus: {name:?} is no status")))?)
            }
            (None, None) => return Err(unsupported("fault.abort has neither httpStatus nor grpcStatus")),
        };
        disturbance.abort = Some((part(*percentage), answer));
    }
    Ok(disturbance)
}

/// A code of gRPC by its name.
fn call_code(name: &str) -> Option<u16> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.iter().position(|known| *known == name).and_then(|code| u16::try_from(code).ok())
}

fn cors(from: &CorsPolicy) -> Result<Cors, Fault> {
    let origins = from.allow_origins.iter().map(|origin| {
        origin.exact.clone().ok_or_else(|| unsupported("corsPolicy.allowOrigins: only exact origins are followed"))
    });
    let origins = origins.collect::<Result<Vec<_>, _>>()?;
    let cors = Cors::new(&origins, &from.allow_methods, &from.allow_headers, &from.expose_headers);
    let cors = cors.with_credentials(from.allow_credentials.unwrap_or(false));
    let age = duration("corsPolicy.maxAge", from.max_age.as_deref())?;
    Ok(match age {
        Some(age) => cors.with_max_age(u32::try_from(age.as_secs()).unwrap_or(u32::MAX)),
        None => cors,
    })
}
