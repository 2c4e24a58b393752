//! How requests are forwarded.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{PolicyTargets, Unread};

/// Desired state of a `BackendTrafficPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTrafficPolicySpec {
    /// What it is about.
    #[serde(flatten)]
    pub targets: PolicyTargets,
    /// Which endpoint a request goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// When a request is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<TrafficRetry>,
    /// How long things may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TrafficTimeout>,
    /// How much may be under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Which endpoints are fit for use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Faults on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_injection: Option<FaultInjection>,
    /// How many requests there may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

part!(
    /// Which endpoint a request goes to.
    LoadBalancer {
        /// `ConsistentHash`, `LeastRequest`, `Random` or `RoundRobin`.
        r#type: String,
        /// By what, with `ConsistentHash`.
        consistent_hash: ConsistentHash,
        /// How new endpoints are spared.
        slow_start: TrafficSlowStart,
    }
);

part!(
    /// What requests to the same endpoint have in common.
    ConsistentHash {
        /// `SourceIP`, `Header`, `Headers`, `Cookie` or `QueryParams`.
        r#type: String,
        /// A header.
        header: Named,
        /// Headers.
        headers: Vec<Named>,
        /// A cookie.
        cookie: Named,
        /// Query parameters.
        query_params: Vec<Named>,
    }
);

part!(
    /// Something by its name.
    Named {
        /// The name.
        name: String,
    }
);

part!(
    /// How new endpoints are spared.
    TrafficSlowStart {
        /// Until when.
        window: String,
    }
);

part!(
    /// When a request is tried again.
    TrafficRetry {
        /// How often at most.
        num_retries: u32,
        /// What for.
        retry_on: RetryOn,
        /// About one attempt.
        per_retry: PerRetry,
    }
);

part!(
    /// What a request is tried again for.
    RetryOn {
        /// By Envoy's names.
        triggers: Vec<String>,
        /// Statuses.
        http_status_codes: Vec<u16>,
    }
);

part!(
    /// About one attempt.
    PerRetry {
        /// How long it may take.
        timeout: String,
        /// Pauses.
        back_off: BackOff,
    }
);

part!(
    /// Pauses between attempts.
    BackOff {
        /// The first.
        base_interval: String,
        /// The longest.
        max_interval: String,
    }
);

part!(
    /// How long things may take.
    TrafficTimeout {
        /// Requests.
        http: HttpTimeout,
    }
);

part!(
    /// How long requests may take.
    HttpTimeout {
        /// From the head of the request to the end of the answer.
        request_timeout: String,
    }
);

part!(
    /// How much may be under way.
    CircuitBreaker {
        /// Connections.
        max_connections: u32,
        /// Requests that wait for one.
        max_pending_requests: u32,
        /// Requests.
        max_parallel_requests: u32,
        /// Requests that are tried again.
        max_parallel_retries: u32,
        /// About each endpoint.
        per_endpoint: PerEndpoint,
    }
);

part!(
    /// About each endpoint.
    PerEndpoint {
        /// Connections.
        max_connections: u32,
    }
);

part!(
    /// Which endpoints are fit for use.
    HealthCheck {
        /// By what they answer.
        passive: PassiveHealthCheck,
        /// With fewer percent of them fit, all are used.
        panic_threshold: u32,
    }
);

part!(
    /// Which endpoints are ejected.
    PassiveHealthCheck {
        /// After so many gateway failures in a row.
        consecutive_gateway_errors: u32,
        /// After so many failures in a row.
        #[serde(rename = "consecutive5XxErrors")]
        consecutive_5xx_errors: u32,
        /// How often endpoints are compared.
        interval: String,
        /// How long the first ejection is.
        base_ejection_time: String,
        /// How many of the endpoints are ejected at most.
        max_ejection_percent: u32,
        /// With so many failures of a hundred.
        failure_percentage_threshold: u32,
    }
);

part!(
    /// Faults on purpose.
    FaultInjection {
        /// Requests that wait.
        delay: FaultDelay,
        /// Requests that are answered with an error.
        abort: FaultAbort,
    }
);

part!(
    /// Requests that wait.
    FaultDelay {
        /// How long.
        fixed_delay: String,
        /// How many of a hundred.
        percentage: f64,
    }
);

part!(
    /// Requests that are answered with an error.
    FaultAbort {
        /// With this status.
        http_status: u16,
        /// With this code of gRPC.
        grpc_status: u16,
        /// How many of a hundred.
        percentage: f64,
    }
);

part!(
    /// How many requests there may be.
    RateLimit {
        /// Limits of each gateway.
        local: RateLimits,
        /// Limits of all gateways together.
        global: RateLimits,
        /// `Local` or `Global`, the older way to say which is meant.
        r#type: String,
    }
);

part!(
    /// Limits.
    RateLimits {
        /// Each is for whom it selects.
        rules: Vec<RateLimitRule>,
    }
);

part!(
    /// A limit, and whom it is for.
    RateLimitRule {
        /// All of them must hold; everybody when there are none.
        client_selectors: Vec<ClientSelector>,
        /// How many.
        limit: RateLimitValue,
        /// What a request costs.
        cost: RateLimitCost,
        /// Whether it refuses nobody.
        shadow_mode: bool,
        /// Whether all targets share it.
        shared: bool,
    }
);

part!(
    /// Whom a limit is for.
    ClientSelector {
        /// By headers.
        headers: Vec<ValueSelector>,
        /// By methods, any of which will do.
        methods: Vec<ValueSelector>,
        /// By the path.
        path: ValueSelector,
        /// By address.
        #[serde(rename = "sourceCIDR")]
        source_cidr: ValueSelector,
        /// By query parameters.
        query_params: Vec<ValueSelector>,
    }
);

part!(
    /// A condition on something of a request.
    ValueSelector {
        /// What.
        name: String,
        /// `Exact`, `RegularExpression`, `Distinct`; for paths also `PathPrefix`.
        r#type: String,
        /// The value.
        value: String,
        /// Whether the opposite is meant.
        invert: bool,
    }
);

part!(
    /// How many requests in which time.
    RateLimitValue {
        /// How many.
        requests: u32,
        /// `Second`, `Minute`, `Hour`, `Day` and more.
        unit: String,
    }
);

part!(
    /// What a request costs.
    RateLimitCost {
        /// When it comes.
        request: RateLimitPrice,
        /// When it is answered.
        response: Value,
    }
);

part!(
    /// What something costs.
    RateLimitPrice {
        /// `Number` or `Metadata`.
        from: String,
        /// With `Number`.
        number: u32,
    }
);
