//! Backend: endpoints that no Service stands for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};

use super::Unread;
use crate::gateway::{LocalReference, Reference};

/// Desired state of a `Backend`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendSpec {
    /// `Endpoints` or `DynamicResolver`; `Endpoints` when absent.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// Where requests go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<BackendEndpoint>,
    /// What is spoken: `gateway.envoyproxy.io/h2c`, `/ws` or `/wss`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub app_protocols: Vec<String>,
    /// Whether it is used only while the others of a rule cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<bool>,
    /// How it is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
}

/// One of `fqdn`, `ip` and `unix`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendEndpoint {
    /// The name it has, where that is not its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// A name to resolve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fqdn: Option<NameEndpoint>,
    /// An address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<AddressEndpoint>,
    /// A socket in the file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix: Option<SocketEndpoint>,
    /// The zone it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// A name and a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NameEndpoint {
    /// The name.
    pub hostname: String,
    /// The port.
    pub port: i32,
}

/// An address and a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AddressEndpoint {
    /// The address.
    pub address: String,
    /// The port.
    pub port: i32,
}

/// A socket in the file system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SocketEndpoint {
    /// Where it is.
    pub path: String,
}

/// How a backend is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTls {
    /// ConfigMaps and Secrets with roots in `ca.crt`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<LocalReference>,
    /// `System`: the roots of this machine.
    #[serde(rename = "wellKnownCACertificates", default, skip_serializing_if = "Option::is_none")]
    pub well_known_ca_certificates: Option<String>,
    /// Whether any certificate will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure_skip_verify: Option<bool>,
    /// The name that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Whether the endpoint's name is asked for.
    #[serde(rename = "autoSNIFromEndpointHostname", default, skip_serializing_if = "Option::is_none")]
    pub auto_sni_from_endpoint_hostname: Option<bool>,
    /// A Secret with the certificate by which the backend knows the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<Reference>,
    /// The oldest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<String>,
    /// The newest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_version: Option<String>,
    /// The rest.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Observed state of a `Backend`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// `Accepted`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
