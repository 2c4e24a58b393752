//! BackendTrafficPolicies: how requests are forwarded.

use std::{sync::Arc, time::Duration};

use super::{
    Effect, Policy, TargetKind,
    reading::{bytes, header, invalid, limit, tell},
};
use crate::{
    controller::{
        forwarding::{PAUSES, RETRIES},
        item::RouteKind,
        lookup::{Seen, namespace},
        verdict::Fault,
    },
    routing::{
        Abort, Balance, Compression, Disturbance, HashKey, Limits, Part, Retry, Timeouts, Traffic, Trigger, Upstream,
        UpstreamConfig,
    },
};
use http::StatusCode;
use kinds::{
    envoy_gateway::{
        BackendTrafficPolicy, BackendTrafficPolicySpec, CircuitBreaker, ConsistentHash, FaultInjection, LoadBalancer,
        PassiveHealthCheck, PolicyTargets, TrafficRetry,
    },
    gateway::PolicyStatus,
};
use kube::Resource as _;
use resilience::{
    balance::SlowStart,
    outlier::{FailurePercentage, OutlierConfig},
};

mod checks;
mod lines;
mod rates;
mod responses;

/// Envoy Gateway's: with fewer than half of the endpoints fit for use, all are used.
const PANIC_PERCENT: u32 = 50;

/// Envoy's: of a hundred requests under way this many may be tried again, and so many in any case.
const RETRY_PERCENT: u32 = 20;
const RETRIES_MIN: u32 = 3;

/// What an endpoint gets at first while it is spared, and how evenly that grows: Envoy's.
const SLOW_START: (f64, f64) = (0.1, 1.0);

impl Policy for BackendTrafficPolicy {
    const PLURAL: &'static str = "backendTrafficPolicies";

    fn targets(&self) -> &PolicyTargets {
        &self.spec.targets
    }

    fn status(&self) -> Option<&PolicyStatus> {
        self.status.as_ref()
    }

    fn suits(&self, target: TargetKind) -> Result<(), Fault> {
        match target {
            TargetKind::Gateway | TargetKind::ListenerSet | TargetKind::Route(RouteKind::Http | RouteKind::Grpc) => {
                Ok(())
            }
            TargetKind::Route(kind) => {
                Err(invalid(format!("a BackendTrafficPolicy has no effect on a {}", kind.name())))
            }
        }
    }

    fn compile(&self, seen: &Seen<'_>) -> Effect {
        let mut warnings = Vec::new();
        let compiled = traffic(&self.spec, &mut warnings).and_then(|traffic| {
            let from = self.spec.response_override.as_deref().unwrap_or_default();
            let instead = responses::compile(seen, namespace(self.meta()), from, &mut warnings)?;
            Ok(Traffic { instead, ..traffic })
        });
        match compiled {
            Ok(traffic) => Effect { traffic: Some(Arc::new(traffic)), warnings, ..Effect::default() },
            Err(fault) => Effect { accepted: Err(fault), warnings, ..Effect::default() },
        }
    }
}

fn traffic(spec: &BackendTrafficPolicySpec, warnings: &mut Vec<String>) -> Result<Traffic, Fault> {
    tell(warnings, "", &spec.unread);
    if spec.dns.is_some() {
        warnings.push("spec.dns has no effect: endpoints are found without DNS".to_owned());
    }
    let mut config = UpstreamConfig { panic_percent: PANIC_PERCENT, ..UpstreamConfig::default() };
    if let Some(from) = &spec.load_balancer {
        balance(from, &mut config, warnings)?;
    }
    if let Some(from) = &spec.circuit_breaker {
        config.limits = limits(from, warnings);
    }
    if let Some(from) = &spec.health_check {
        tell(warnings, "healthCheck.", &from.unread);
        config.panic_percent = from.panic_threshold.unwrap_or(PANIC_PERCENT);
        config.outlier = from.passive.as_ref().map(|passive| outlier(passive, warnings)).transpose()?;
        config.check = from.active.as_ref().map(|active| checks::compile(active, warnings)).transpose()?;
    }
    config.line = lines::compile(spec, warnings)?;
    let upstream = Upstream::new(config).map_err(|error| invalid(format!("spec: {error}")))?;
    let (mut timeouts, mut silence, mut connect) = (Timeouts::default(), None, None);
    if let Some(from) = &spec.timeout {
        tell(warnings, "timeout.", &from.unread);
        if let Some(http) = &from.http {
            tell(warnings, "timeout.http.", &http.unread);
            timeouts.request = limit("timeout.http.requestTimeout", http.request_timeout.as_deref())?;
            let stream = limit("timeout.http.maxStreamDuration", http.max_stream_duration.as_deref())?;
            // Both begin with the head of the request here.
            timeouts.request = timeouts.request.into_iter().chain(stream).min();
            silence = limit("timeout.http.streamIdleTimeout", http.stream_idle_timeout.as_deref())?;
        }
        if let Some(tcp) = &from.tcp {
            tell(warnings, "timeout.tcp.", &tcp.unread);
            connect = limit("timeout.tcp.connectTimeout", tcp.connect_timeout.as_deref())?;
        }
    }
    let retry = spec.retry.as_ref().map(|from| retry(from, warnings)).transpose()?;
    let disturbance = spec.fault_injection.as_ref().map(|from| disturbance(from, warnings)).transpose()?;
    let rates = spec.rate_limit.as_ref().map_or(Ok(Vec::new()), |from| rates::compile(from, warnings))?;
    Ok(Traffic {
        upstream: Some(upstream),
        retry: retry.map(Arc::new),
        timeouts,
        rates,
        disturbance,
        silence,
        connect,
        compression: compression(spec, warnings)?,
        buffer: buffer(spec, warnings)?,
        upgrades: upgrades(spec, warnings),
        as_client: spec.use_client_protocol.unwrap_or(false),
        ..Traffic::default()
    })
}

/// What Envoy takes for the smallest answer that is worth it, and for the smallest that may be named.
const COMPRESSED_BYTES: u64 = 30;

fn compression(spec: &BackendTrafficPolicySpec, warnings: &mut Vec<String>) -> Result<Option<Compression>, Fault> {
    let all = spec.compressor.iter().chain(&spec.compression).flatten();
    let mut compression = None;
    for from in all {
        tell(warnings, "compressor.", &from.unread);
        match from.r#type.as_deref() {
            Some("Gzip") => {
                let range = (COMPRESSED_BYTES, u64::from(u32::MAX));
                let least = bytes("compressor.minContentLength", from.min_content_length.as_ref(), range)?;
                compression = Some(Compression { bytes_min: least.unwrap_or(COMPRESSED_BYTES) });
            }
            other => {
                let name = other.unwrap_or("");
                warnings.push(format!("spec.compressor: {name} is not supported, only Gzip has an effect"));
            }
        }
    }
    Ok(compression)
}

/// Bytes of the longest request that is read into memory before it is sent, whatever a policy says.
const BUFFER_MAX: u64 = 64 << 20;

fn buffer(spec: &BackendTrafficPolicySpec, warnings: &mut Vec<String>) -> Result<Option<usize>, Fault> {
    let Some(from) = &spec.request_buffer else { return Ok(None) };
    tell(warnings, "requestBuffer.", &from.unread);
    let most = bytes("requestBuffer.limit", from.limit.as_ref(), (0, BUFFER_MAX))?;
    Ok(most.map(|most| usize::try_from(most).unwrap_or(usize::MAX)))
}

/// Without a word of it WebSocket may be switched to, unless requests are buffered.
fn upgrades(spec: &BackendTrafficPolicySpec, warnings: &mut Vec<String>) -> Option<Vec<Box<str>>> {
    let Some(named) = &spec.http_upgrade else { return spec.request_buffer.as_ref().map(|_| Vec::new()) };
    let mut all = Vec::new();
    for from in named {
        tell(warnings, "httpUpgrade.", &from.unread);
        match from.r#type.as_deref().unwrap_or("").to_ascii_lowercase() {
            name if name == "connect" => {
                warnings.push("spec.httpUpgrade: CONNECT is not supported and has no effect".to_owned());
            }
            name => all.push(name.into()),
        }
    }
    Some(all)
}

fn balance(from: &LoadBalancer, config: &mut UpstreamConfig, warnings: &mut Vec<String>) -> Result<(), Fault> {
    tell(warnings, "loadBalancer.", &from.unread);
    config.balance = match from.r#type.as_deref() {
        None | Some("LeastRequest") => Balance::LeastRequest,
        Some("RoundRobin") => Balance::Turns,
        Some("Random") => Balance::Random,
        Some("ConsistentHash") => Balance::Hash(key(from.consistent_hash.as_ref(), warnings)?),
        Some(other) => return Err(invalid(format!("spec.loadBalancer.type: {other} is not supported"))),
    };
    let window = from.slow_start.as_ref().and_then(|slow_start| slow_start.window.as_deref());
    let (min_weight, aggression) = SLOW_START;
    config.slow_start =
        limit("loadBalancer.slowStart.window", window)?.map(|window| SlowStart { window, aggression, min_weight });
    Ok(())
}

fn key(from: Option<&ConsistentHash>, warnings: &mut Vec<String>) -> Result<HashKey, Fault> {
    let from = from.ok_or_else(|| invalid("spec.loadBalancer.consistentHash is missing"))?;
    tell(warnings, "loadBalancer.consistentHash.", &from.unread);
    let field = "loadBalancer.consistentHash";
    Ok(match from.r#type.as_deref().unwrap_or("") {
        "SourceIP" => HashKey::Source,
        "Header" | "Headers" => {
            let names = from.header.iter().chain(from.headers.iter().flatten());
            let names = names.map(|named| header(field, named.name.as_deref()));
            HashKey::Headers(names.collect::<Result<_, _>>()?)
        }
        "Cookie" => {
            let cookie = from.cookie.as_ref();
            if let Some(cookie) = cookie {
                // A cookie that the gateway would make for who has none.
                tell(warnings, "loadBalancer.consistentHash.cookie.", &cookie.unread);
            }
            let name = cookie.and_then(|cookie| cookie.name.as_deref());
            HashKey::Cookie(name.ok_or_else(|| invalid(format!("spec.{field}.cookie.name is missing")))?.into())
        }
        "QueryParams" => {
            let names = from.query_params.iter().flatten().filter_map(|named| named.name.as_deref());
            HashKey::Query(names.map(Into::into).collect())
        }
        other => return Err(invalid(format!("spec.{field}.type: {other:?} is not known"))),
    })
}

fn limits(from: &CircuitBreaker, warnings: &mut Vec<String>) -> Limits {
    tell(warnings, "circuitBreaker.", &from.unread);
    Limits {
        connections: from.max_connections,
        pending: from.max_pending_requests,
        requests: from.max_parallel_requests,
        retries: from.max_parallel_retries.filter(|_| from.retry_budget.is_none()),
        endpoint: from.per_endpoint.as_ref().and_then(|each| each.max_connections),
        retry_share: from.retry_budget.as_ref().map(|from| {
            tell(warnings, "circuitBreaker.retryBudget.", &from.unread);
            let part = from.percent.clone().unwrap_or_default();
            let (of, all) = (part.numerator.unwrap_or(RETRY_PERCENT), part.denominator.unwrap_or(100).max(1));
            (f64::from(of) * 100.0 / f64::from(all), from.min_retry_concurrency.unwrap_or(RETRIES_MIN))
        }),
        ..Limits::default()
    }
}

fn outlier(from: &PassiveHealthCheck, warnings: &mut Vec<String>) -> Result<OutlierConfig, Fault> {
    tell(warnings, "healthCheck.passive.", &from.unread);
    let default = OutlierConfig::default();
    let field = |name: &str, text: &Option<String>| limit(&format!("healthCheck.passive.{name}"), text.as_deref());
    let base_ejection_time = field("baseEjectionTime", &from.base_ejection_time)?.unwrap_or(default.base_ejection_time);
    let threshold = from.failure_percentage_threshold.filter(|threshold| *threshold > 0);
    Ok(OutlierConfig {
        consecutive_5xx: from.consecutive_5xx_errors.or(default.consecutive_5xx).filter(|count| *count > 0),
        consecutive_gateway_failure: from.consecutive_gateway_errors.filter(|count| *count > 0),
        // Rates are compared only where the policy names one.
        success_rate: None,
        failure_percentage: threshold.map(|threshold| FailurePercentage { threshold, ..FailurePercentage::default() }),
        interval: field("interval", &from.interval)?.unwrap_or(default.interval),
        base_ejection_time,
        max_ejection_time: default.max_ejection_time.max(base_ejection_time),
        max_ejection_percent: from.max_ejection_percent.unwrap_or(default.max_ejection_percent),
    })
}

fn retry(from: &TrafficRetry, warnings: &mut Vec<String>) -> Result<Retry, Fault> {
    tell(warnings, "retry.", &from.unread);
    let on = from.retry_on.clone().unwrap_or_default();
    tell(warnings, "retry.retryOn.", &on.unread);
    let names = on.triggers.unwrap_or_default();
    let mut triggers = Vec::new();
    for name in &names {
        // Whether statuses count is said by naming some.
        if name != "retriable-status-codes" {
            triggers.push(
                Trigger::of(name).ok_or_else(|| invalid(format!("spec.retry.retryOn: {name} is not supported")))?,
            );
        }
    }
    let codes = on.http_status_codes.unwrap_or_default();
    let status = |code: &u16| {
        StatusCode::from_u16(*code)
            .map_err(|_| invalid(format!("spec.retry.retryOn.httpStatusCodes: {code} is no status")))
    };
    let mut statuses = codes.iter().map(status).collect::<Result<Vec<_>, _>>()?;
    if names.is_empty() && statuses.is_empty() {
        // What Envoy Gateway retries when nothing is named.
        triggers = ["connect-failure", "refused-stream", "unavailable", "cancelled"]
            .iter()
            .filter_map(|name| Trigger::of(name))
            .collect();
        statuses = vec![StatusCode::SERVICE_UNAVAILABLE];
    }
    let each = from.per_retry.clone().unwrap_or_default();
    let pauses = each.back_off.unwrap_or_default();
    let base = limit("retry.perRetry.backOff.baseInterval", pauses.base_interval.as_deref())?;
    let max = limit("retry.perRetry.backOff.maxInterval", pauses.max_interval.as_deref())?;
    let base = base.unwrap_or(PAUSES.0);
    let max = max.unwrap_or_else(|| base.saturating_mul(10)).min(resilience::retry::PAUSE_MAX);
    let retry = Retry {
        triggers,
        statuses,
        config: Retry::config(from.num_retries.unwrap_or(RETRIES), base, max),
        pause: Duration::ZERO,
        attempt: limit("retry.perRetry.timeout", each.timeout.as_deref())?,
        careful: false,
        within: None,
    };
    retry.validate().map_err(|error| invalid(format!("spec.retry: {error}")))?;
    Ok(retry)
}

fn disturbance(from: &FaultInjection, warnings: &mut Vec<String>) -> Result<Disturbance, Fault> {
    tell(warnings, "faultInjection.", &from.unread);
    let part = |percentage: Option<f64>| Part::percent(percentage.unwrap_or(100.0));
    let mut disturbance = Disturbance::default();
    if let Some(delay) = &from.delay {
        let fixed = limit("faultInjection.delay.fixedDelay", delay.fixed_delay.as_deref())?;
        disturbance.delay = fixed.map(|fixed| (part(delay.percentage), fixed));
    }
    if let Some(abort) = &from.abort {
        let answer = match (abort.http_status, abort.grpc_status) {
            (Some(status), _) => Abort::Status(
                StatusCode::from_u16(status)
                    .map_err(|_| invalid(format!("spec.faultInjection.abort.httpStatus: {status} is no status")))?,
            ),
            (None, Some(code)) => Abort::Call(code),
            (None, None) => return Err(invalid("spec.faultInjection.abort has neither httpStatus nor grpcStatus")),
        };
        disturbance.abort = Some((part(abort.percentage), answer));
    }
    Ok(disturbance)
}

#[cfg(test)]
mod tests;
