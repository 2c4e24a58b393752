//! Keelson's own kinds for what a rule of an HTTPRoute refers to by `ExtensionRef`, group `gateway.keelson.dev`: only where
//! no other project has one.

use k8s_openapi::NamespaceResourceScope;
use serde::{Deserialize, Serialize};

use crate::gateway::LocalReference;

/// The API group.
pub const GROUP: &str = "gateway.keelson.dev";

/// Defines a kind of this group.
macro_rules! kind {
    ($($kind:tt)*) => {
        crate::custom::kind!("gateway.keelson.dev", "v1alpha1", $($kind)*);
    };
}

kind!(
    /// Requests with the same idempotency key are done once.
    IdempotencyFilter, "IdempotencyFilterList", "idempotencyfilters", NamespaceResourceScope, IdempotencyFilterSpec
);

/// Desired state of an `IdempotencyFilter`. What is absent has the default of its definition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdempotencyFilterSpec {
    /// Whether requests must have a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// Methods whose requests may have a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// How long an answer is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_for: Option<String>,
    /// How long a request may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// What becomes of a request whose key is being worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<ConcurrentRequests>,
    /// The headers that say who a caller is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caller_headers: Vec<String>,
    /// Bytes of a request's body, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_request_bytes: Option<i64>,
    /// Bytes of an answer's body that are kept, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_response_bytes: Option<i64>,
    /// Where answers are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<AnswerStore>,
}

/// What becomes of a request whose key is being worked on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConcurrentRequests {
    /// `Wait` or `Conflict`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// How long it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// Where answers are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerStore {
    /// `Embedded` or `Redis`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// With `Redis`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisServer>,
}

/// A Redis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisServer {
    /// `redis://host[:port][/database]`, or `rediss://` with TLS.
    pub url: String,
    /// A Secret with `username` and `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<LocalName>,
    /// ConfigMaps with roots in `ca.crt`; those of the machine when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<LocalReference>,
    /// What keys begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_prefix: Option<String>,
}

/// An object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LocalName {
    /// Name.
    pub name: String,
}
