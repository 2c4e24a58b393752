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

kind!(
    /// One service in several versions of its API.
    ApiVersionFilter, "ApiVersionFilterList", "apiversionfilters", NamespaceResourceScope, ApiVersionFilterSpec
);

/// Desired state of an `ApiVersionFilter`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiVersionFilterSpec {
    /// Where a request may name its version; the first place where it does counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<VersionLocation>,
    /// The version of requests that name none; without it they are refused.
    #[serde(rename = "default", default, skip_serializing_if = "Option::is_none")]
    pub default_: Option<String>,
    /// The header by which the backend is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header: Option<String>,
    /// The versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<ApiVersion>,
}

/// Where a request may name its version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionLocation {
    /// `Path`, `Header` or `MediaType`.
    #[serde(rename = "type", default)]
    pub type_: String,
    /// With `Path`: what comes before the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// With `Header`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// With `MediaType`: the type, with `{version}` in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// With `MediaType`: a parameter of any type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
}

/// A version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiVersion {
    /// What it is called.
    pub name: String,
    /// What else it is called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The backends of the rule that serve it; all when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// Since when, or from when on, it is deprecated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated_at: Option<String>,
    /// When it is no longer served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sunset_at: Option<String>,
    /// `Serve` or `Gone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_sunset: Option<String>,
    /// What there is to read about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<VersionLink>,
}

/// Something to read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VersionLink {
    /// How it is related: `deprecation`, `sunset`, `successor-version`, ….
    pub rel: String,
    /// Where it is.
    pub href: String,
    /// Its media type.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
}
