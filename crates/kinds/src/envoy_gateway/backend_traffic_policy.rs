//! How requests are forwarded.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{PolicyTargets, Unread};

mod health_check;
mod response_override;

pub use health_check::*;
pub use response_override::*;

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
    /// Answers in place of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_override: Option<Vec<ResponseOverride>>,
    /// How answers are compressed; the older way to write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Vec<Compressor>>,
    /// How answers are compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compressor: Option<Vec<Compressor>>,
    /// Connections to endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<BackendConnection>,
    /// How dead connections are found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<super::TcpKeepalive>,
    /// HTTP/2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http2: Option<super::ClientHttp2>,
    /// How names are looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Value>,
    /// A PROXY header before connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<BackendProxyProtocol>,
    /// Requests that are sent when all of them is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_buffer: Option<RequestBuffer>,
    /// Protocols that are switched to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_upgrade: Option<Vec<HttpUpgrade>>,
    /// Whether endpoints are spoken to as the client speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_client_protocol: Option<bool>,
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
        /// Connections.
        tcp: BackendTcpTimeout,
        /// Requests.
        http: HttpTimeout,
    }
);

part!(
    /// How long connections may take.
    BackendTcpTimeout {
        /// Until one is there.
        connect_timeout: String,
    }
);

part!(
    /// How long requests may take.
    HttpTimeout {
        /// From the head of the request to the end of the answer.
        request_timeout: String,
        /// How long a connection may be idle.
        connection_idle_timeout: String,
        /// How long a connection may be used.
        max_connection_duration: String,
        /// From the head of the request to the end of the answer, whatever happens.
        max_stream_duration: String,
        /// Time in which nothing happens to a request.
        stream_idle_timeout: String,
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
        /// Requests that one connection carries.
        max_requests_per_connection: u32,
        /// How many may be tried again, of those under way.
        retry_budget: RetryBudget,
        /// About each endpoint.
        per_endpoint: PerEndpoint,
    }
);

part!(
    /// How many requests may be tried again, of those under way.
    RetryBudget {
        /// Which part.
        percent: Fraction,
        /// So many in any case.
        min_retry_concurrency: u32,
    }
);

part!(
    /// A part of something.
    Fraction {
        /// So many.
        numerator: u32,
        /// Of so many.
        denominator: u32,
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
        /// By what they answer when they are asked.
        active: ActiveHealthCheck,
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

part!(
    /// A way to compress.
    Compressor {
        /// `Gzip`, `Brotli` or `Zstd`.
        r#type: String,
        /// About gzip.
        gzip: Value,
        /// About brotli.
        brotli: Value,
        /// About zstd.
        zstd: Value,
        /// Shorter answers are left alone.
        min_content_length: Value,
    }
);

part!(
    /// Connections to endpoints.
    BackendConnection {
        /// Bytes that are held back for a connection.
        buffer_limit: Value,
        /// The same in the kernel.
        socket_buffer_limit: Value,
    }
);

part!(
    /// A PROXY header before connections.
    BackendProxyProtocol {
        /// `V1` or `V2`.
        version: String,
    }
);

part!(
    /// Requests that are sent when all of them is there.
    RequestBuffer {
        /// Longer ones are refused.
        limit: Value,
    }
);

part!(
    /// A protocol that is switched to.
    HttpUpgrade {
        /// Its name.
        r#type: String,
    }
);
