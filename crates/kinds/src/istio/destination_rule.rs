//! DestinationRule: how a Service is spoken to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Rest, WorkloadSelector};

/// Desired state of a `DestinationRule`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    /// The Service, by short or full name.
    #[serde(default)]
    pub host: String,
    /// For every subset that does not say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
    /// Parts of the Service by labels of its pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subsets: Vec<Subset>,
    /// Namespaces whose clients it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub export_to: Vec<String>,
    /// Clients that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<WorkloadSelector>,
}

/// A part of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subset {
    /// By what routes name it.
    #[serde(default)]
    pub name: String,
    /// Labels of its pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// In place of the rule's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
}

/// How endpoints are spoken to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// What may be said for single ports too.
    #[serde(flatten)]
    pub settings: TrafficSettings,
    /// In place of the above for single ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_level_settings: Vec<PortTrafficPolicy>,
    /// How many retries are too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<IstioRetryBudget>,
    /// What is not followed.
    #[serde(flatten)]
    pub rest: Rest,
}

/// How the endpoints of one port are spoken to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortTrafficPolicy {
    /// The port of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<PortSelector>,
    /// What is said for it.
    #[serde(flatten)]
    pub settings: TrafficSettings,
}

/// How endpoints are spoken to: what may be said for all ports and for one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficSettings {
    /// Which endpoint is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// How much at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
    /// Which endpoints are left alone for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// Encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
}

/// A port by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSelector {
    /// The number.
    #[serde(default)]
    pub number: u32,
}

/// Which endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancer {
    /// By an algorithm that looks at endpoints only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simple: Option<SimpleBalancer>,
    /// By something in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<IstioConsistentHash>,
    /// Which places are preferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality_lb_setting: Option<LocalityBalancer>,
    /// How long a new endpoint gets less, the older form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_duration_secs: Option<String>,
    /// How a new endpoint is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// What is not followed.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Algorithms that look at endpoints only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleBalancer {
    /// As it would be without.
    #[default]
    Unspecified,
    /// Fewest requests under way, by its older name.
    LeastConn,
    /// Any.
    Random,
    /// Where the client wanted to go.
    Passthrough,
    /// In turn.
    RoundRobin,
    /// Fewest requests under way.
    LeastRequest,
}

/// Choosing by something in the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IstioConsistentHash {
    /// By a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_header_name: Option<String>,
    /// By a cookie, which is set when it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_cookie: Option<HashCookie>,
    /// By the client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_source_ip: Option<bool>,
    /// By a query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_query_parameter_name: Option<String>,
    /// Points on the ring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_hash: Option<RingHash>,
    /// A table in place of a ring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maglev: Option<MaglevHash>,
    /// Points on the ring, the older form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_ring_size: Option<u64>,
}

/// A cookie that decides on the endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// Its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How long it lives; a session when absent or zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// What is not followed.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A ring of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RingHash {
    /// Fewest points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_ring_size: Option<u64>,
}

/// A table of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MaglevHash {
    /// Places in the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table_size: Option<u64>,
}

/// Which places are preferred.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalityBalancer {
    /// Whether any are; so unless it is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// What is not followed.
    #[serde(flatten)]
    pub rest: Rest,
}

/// How a new endpoint is loaded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Warmup {
    /// Until it gets its full share.
    pub duration: String,
    /// What it gets at first, of a hundred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_percent: Option<f64>,
    /// How fast that grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggression: Option<f64>,
}

/// How much at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionPool {
    /// Of connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpPool>,
    /// Of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpPool>,
}

/// How many connections, and how they are opened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpPool {
    /// To all endpoints together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<i32>,
    /// How long opening one may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<String>,
    /// What is not followed.
    #[serde(flatten)]
    pub rest: Rest,
}

/// How many requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPool {
    /// Waiting for a connection.
    #[serde(rename = "http1MaxPendingRequests", skip_serializing_if = "Option::is_none")]
    pub http1_max_pending_requests: Option<i32>,
    /// Under way.
    #[serde(rename = "http2MaxRequests", skip_serializing_if = "Option::is_none")]
    pub http2_max_requests: Option<i32>,
    /// On one connection in its life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_connection: Option<i32>,
    /// Sent again at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i32>,
    /// How long a connection without requests stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
    /// What is not followed.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Which endpoints are left alone for a while.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// After so many errors in a row; zero for never.
    #[serde(rename = "consecutive5xxErrors", skip_serializing_if = "Option::is_none")]
    pub consecutive_5xx_errors: Option<u32>,
    /// After so many errors of a gateway in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_gateway_errors: Option<u32>,
    /// After so many failures to connect or to get an answer in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_local_origin_failures: Option<u32>,
    /// Whether those are counted on their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_external_local_origin_errors: Option<bool>,
    /// After so many errors in a row, the older form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_errors: Option<i32>,
    /// Between two looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// For how long, times how often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_ejection_time: Option<String>,
    /// How many of a hundred at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejection_percent: Option<i32>,
    /// With fewer good ones of a hundred all are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_health_percent: Option<i32>,
    /// What is not followed.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Encryption towards endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTls {
    /// Whether, and by whose certificates.
    pub mode: ClientTlsMode,
    /// What is not followed.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Whether a client encrypts, and by whose certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTlsMode {
    /// It does not.
    #[default]
    Disable,
    /// It does, unknown to the server.
    Simple,
    /// It does, with a certificate that the rule names.
    Mutual,
    /// It does, with the mesh's certificate.
    IstioMutual,
}

/// How many retries are too many.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IstioRetryBudget {
    /// Of a hundred requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// So many are never too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_retry_concurrency: Option<u32>,
    /// What is not followed.
    #[serde(flatten)]
    pub rest: Rest,
}
