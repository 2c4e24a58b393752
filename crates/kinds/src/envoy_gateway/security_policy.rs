//! Who may send requests.

use serde::{Deserialize, Serialize};

use super::{BackendReference, PolicyTargets, Unread};
use crate::gateway::{LocalReference, Reference};

/// Desired state of a `SecurityPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityPolicySpec {
    /// What it is about.
    #[serde(flatten)]
    pub targets: PolicyTargets,
    /// Keys of clients.
    #[serde(rename = "apiKeyAuth", default, skip_serializing_if = "Option::is_none")]
    pub api_key_auth: Option<ApiKeyAuth>,
    /// Which of those who are known may do what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,
    /// Names and passwords.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
    /// Pages of other origins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<SecurityCors>,
    /// From pages of which origins requests may come that change something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csrf: Option<Csrf>,
    /// A service that is asked about every request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ext_auth: Option<ExtAuth>,
    /// JSON web tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Pages of other origins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityCors {
    /// Origins, in which `*` stands for some of it; or `*`.
    #[serde(default)]
    pub allow_origins: Vec<String>,
    /// Methods.
    #[serde(default)]
    pub allow_methods: Vec<String>,
    /// Headers of requests.
    #[serde(default)]
    pub allow_headers: Vec<String>,
    /// Headers of answers that pages may read.
    #[serde(default)]
    pub expose_headers: Vec<String>,
    /// How long browsers keep the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// Whether credentials may be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_credentials: Option<bool>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

/// From pages of which origins requests may come that change something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Csrf {
    /// Origins besides the one that a request is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_origins: Vec<String>,
    /// The part of the requests that is only looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow_fraction: Option<ShadowFraction>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

/// A part of the requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShadowFraction {
    /// So many.
    #[serde(default)]
    pub numerator: i32,
    /// Of so many; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denominator: Option<i32>,
}

/// Names and passwords.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuth {
    /// A Secret with an htpasswd file in `.htpasswd`.
    pub users: Reference,
    /// A header in which the backend is told the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_username_header: Option<String>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Keys of clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyAuth {
    /// Secrets whose entries are clients and their keys.
    #[serde(default)]
    pub credential_refs: Vec<Reference>,
    /// Where keys are looked for.
    #[serde(default)]
    pub extract_from: Vec<KeySource>,
    /// A header in which the backend is told the client.
    #[serde(rename = "forwardClientIDHeader", default, skip_serializing_if = "Option::is_none")]
    pub forward_client_id_header: Option<String>,
    /// Whether the key is taken out of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sanitize: Option<bool>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Where keys are looked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeySource {
    /// Headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Parameters of the query.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<String>,
    /// Cookies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<String>,
}

/// JSON web tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Jwt {
    /// Whether requests without a token pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// Whether requests pass whose token is missing or not valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_open: Option<bool>,
    /// Who issues tokens.
    #[serde(default)]
    pub providers: Vec<JwtProvider>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Somebody who issues tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtProvider {
    /// Name, unique in the policy.
    pub name: String,
    /// What `iss` must be; not looked at when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Of which `aud` must have one; not looked at when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// Keys that are fetched.
    #[serde(rename = "remoteJWKS", default, skip_serializing_if = "Option::is_none")]
    pub remote_jwks: Option<RemoteJwks>,
    /// Keys that are there.
    #[serde(rename = "localJWKS", default, skip_serializing_if = "Option::is_none")]
    pub local_jwks: Option<LocalJwks>,
    /// Claims that the backend is told in headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claim_to_headers: Vec<ClaimToHeader>,
    /// Whether the route is looked for again with those headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recompute_route: Option<bool>,
    /// Where tokens are looked for: in `Authorization` and the parameter `access_token` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract_from: Option<JwtSource>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Keys that are fetched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteJwks {
    /// From where.
    pub uri: String,
    /// The backend to ask; whoever the URI names when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendReference>,
    /// The same; the older way to write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_ref: Option<BackendReference>,
    /// How long they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_duration: Option<String>,
    /// How long after a failure they are fetched again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_refetch_duration: Option<String>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Keys that are there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalJwks {
    /// `Inline` or `ValueRef`.
    #[serde(rename = "type", default)]
    pub type_: String,
    /// The key set as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
    /// A ConfigMap with the key set in `jwks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_ref: Option<LocalReference>,
}

/// A claim that the backend is told in a header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClaimToHeader {
    /// The header.
    pub header: String,
    /// The claim; dots lead into objects.
    pub claim: String,
}

/// Where tokens are looked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JwtSource {
    /// Headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<JwtHeader>,
    /// Cookies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<String>,
    /// Parameters of the query.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<String>,
}

/// A header with a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtHeader {
    /// The header.
    pub name: String,
    /// What stands before the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_prefix: Option<String>,
}

/// A service that is asked about every request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtAuth {
    /// Over gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<ExtAuthService>,
    /// Over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<ExtAuthService>,
    /// Headers that it is told besides the usual.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers_to_ext_auth: Vec<String>,
    /// How much of the body it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_to_ext_auth: Option<BodyToExtAuth>,
    /// Whether requests pass when it cannot be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_open: Option<bool>,
    /// Whether the route is looked for again with the headers that it added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recompute_route: Option<bool>,
    /// How long it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// The answer to the client when it cannot be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_on_error: Option<i32>,
    /// What it is told besides, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context_extensions: Vec<ContextExtension>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

/// How a service is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtAuthService {
    /// Where it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendReference>,
    /// The same; the older way to write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_ref: Option<BackendReference>,
    /// What stands before the path of the request it is asked about; over HTTP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path that it is asked at whatever the request's; over HTTP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_override: Option<String>,
    /// Headers of its answer that the backend is told; over HTTP only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers_to_backend: Vec<String>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

/// How much of the body the service is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BodyToExtAuth {
    /// Bytes; a larger body is refused with 413.
    pub max_request_bytes: u32,
}

/// Something that the service is told besides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContextExtension {
    /// Its name.
    pub name: String,
    /// `Value` or `ValueRef`.
    #[serde(rename = "type", default)]
    pub type_: String,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The entry of a Secret or ConfigMap that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_ref: Option<EntryReference>,
}

/// An entry of a Secret or ConfigMap of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EntryReference {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// The entry.
    pub key: String,
}

/// Who may do what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// The first that a request fulfils decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<AuthorizationRule>,
    /// What happens without one; `Deny` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_action: Option<AuthorizationAction>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorizationAction {
    /// It passes.
    Allow,
    /// It is refused.
    #[default]
    Deny,
}

/// A rule: both what and who must be as it says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AuthorizationRule {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What happens.
    #[serde(default)]
    pub action: AuthorizationAction,
    /// What is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// Who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// One of these; every one when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<OperationPath>,
}

/// A condition on the path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationPath {
    /// `PathPrefix` when absent.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<crate::gateway::PathMatchType>,
    /// The path or pattern.
    #[serde(default)]
    pub value: String,
    /// Whether all others are meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invert: Option<bool>,
}

/// Who asks; every part must be as it says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Principal {
    /// One of these ranges.
    #[serde(rename = "clientCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    pub client_cidrs: Vec<String>,
    /// A token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtPrincipal>,
    /// Headers, each with one of its values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderPrincipal>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

/// A token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JwtPrincipal {
    /// Whose it is, by name of a provider.
    pub provider: String,
    /// What it says; every one must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<JwtClaim>,
    /// What it lets do; it must have every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// A claim, with one of these values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtClaim {
    /// The claim; dots lead into objects.
    pub name: String,
    /// `String` or `StringArray`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_type: Option<String>,
    /// The values.
    #[serde(default)]
    pub values: Vec<String>,
}

/// A header, with one of these values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeaderPrincipal {
    /// The header.
    pub name: String,
    /// The values.
    #[serde(default)]
    pub values: Vec<String>,
}
