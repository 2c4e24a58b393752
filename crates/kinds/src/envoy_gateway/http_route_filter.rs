//! HTTPRouteFilter: what a rule of an HTTPRoute refers to by `ExtensionRef`.

use serde::{Deserialize, Serialize};

use crate::gateway::{HTTPHeaderFilter, HTTPValueMatch, LocalReference, Reference};

/// Desired state of an `HTTPRouteFilter`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HTTPRouteFilterSpec {
    /// Further conditions on the requests of the rule; one of them must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<FilterMatch>,
    /// A change of host and path on the way to the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<UrlRewrite>,
    /// An answer in place of a backend's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_response: Option<DirectResponse>,
    /// A credential that backends get and clients never see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_injection: Option<CredentialInjection>,
}

/// All conditions of a match must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FilterMatch {
    /// On cookies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<HTTPValueMatch>,
}

/// A change of host and path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UrlRewrite {
    /// Of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostnameRewrite>,
    /// Of the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
    /// Whether the backend is told the host that the client asked for; it is when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append_x_forwarded_host: Option<bool>,
}

/// Where the new host comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostnameRewrite {
    /// `Header`, `Backend` or `PathRegex`.
    #[serde(rename = "type", default)]
    pub type_: String,
    /// The header, with `Header`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// What becomes of the path to be the host, with `PathRegex`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_regex: Option<RegexSubstitution>,
}

/// How the path is changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathRewrite {
    /// `ReplaceRegexMatch`.
    #[serde(rename = "type", default)]
    pub type_: String,
    /// What is replaced by what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_regex_match: Option<RegexSubstitution>,
}

/// A pattern, and what takes the place of what it finds; `\1` to `\9` stand for what its groups caught.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RegexSubstitution {
    /// The pattern.
    pub pattern: String,
    /// What takes its place.
    pub substitution: String,
}

/// An answer in place of a backend's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectResponse {
    /// Type of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<CustomBody>,
    /// 200 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<i32>,
    /// Headers besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HTTPHeaderFilter>,
}

/// A body, here or in a ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomBody {
    /// `Inline` or `ValueRef`; `Inline` when absent.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// The body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
    /// A ConfigMap with the body in `response.body`, else in the first of its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_ref: Option<LocalReference>,
}

/// A credential that requests get on their way to the backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CredentialInjection {
    /// The header that carries it; `Authorization` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Whether it replaces what the client sent; that stays when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrite: Option<bool>,
    /// Where it is.
    pub credential: InjectedCredential,
}

/// Where a credential is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectedCredential {
    /// A Secret with the header's value in `credential`.
    pub value_ref: Reference,
}
