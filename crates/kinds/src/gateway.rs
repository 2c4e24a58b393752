//! Gateway API, group `gateway.networking.k8s.io`, version v1: the kinds that the gateway serves.
//!
//! Fields that the gateway neither reads nor writes are left out; decoding ignores them.

use std::collections::BTreeMap;

use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector},
};
use serde::{Deserialize, Serialize};

mod backend_tls;
mod forwarding;
mod grpc_route;
mod http_route;
mod listener_set;
mod stream_route;

pub use backend_tls::*;
pub use forwarding::*;
pub use grpc_route::*;
pub use http_route::*;
pub use listener_set::*;
pub use stream_route::*;

/// The API group.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// Defines a kind of this group.
macro_rules! kind {
    ($($kind:tt)*) => {
        crate::custom::kind!("gateway.networking.k8s.io", "v1", $($kind)*);
    };
}

kind!(
    /// A class of gateways, served by the controller that it names.
    GatewayClass, "GatewayClassList", "gatewayclasses", ClusterResourceScope, GatewayClassSpec, GatewayClassStatus
);
kind!(
    /// Listeners that routes attach to.
    Gateway, "GatewayList", "gateways", NamespaceResourceScope, GatewaySpec, GatewayStatus
);
kind!(
    /// Rules for HTTP requests.
    HTTPRoute, "HTTPRouteList", "httproutes", NamespaceResourceScope, HTTPRouteSpec, RouteStatus
);
kind!(
    /// Rules for gRPC calls.
    GRPCRoute, "GRPCRouteList", "grpcroutes", NamespaceResourceScope, GRPCRouteSpec, RouteStatus
);
kind!(
    /// Rules for TLS connections by server name.
    TLSRoute, "TLSRouteList", "tlsroutes", NamespaceResourceScope, TLSRouteSpec, RouteStatus
);
kind!(
    /// Where TCP connections go.
    TCPRoute, "TCPRouteList", "tcproutes", NamespaceResourceScope, StreamRouteSpec, RouteStatus
);
kind!(
    /// Where datagrams go.
    UDPRoute, "UDPRouteList", "udproutes", NamespaceResourceScope, StreamRouteSpec, RouteStatus
);
kind!(
    /// More listeners for a Gateway.
    ListenerSet, "ListenerSetList", "listenersets", NamespaceResourceScope, ListenerSetSpec, ListenerSetStatus
);
kind!(
    /// How connections to Services are encrypted and verified.
    BackendTLSPolicy, "BackendTLSPolicyList", "backendtlspolicies", NamespaceResourceScope, BackendTLSPolicySpec,
    PolicyStatus
);
kind!(
    /// Permission for references into its namespace.
    ReferenceGrant, "ReferenceGrantList", "referencegrants", NamespaceResourceScope, ReferenceGrantSpec
);

/// Desired state of a [`GatewayClass`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassSpec {
    /// Who serves the class, a domain-prefixed path.
    pub controller_name: String,
    /// Parameters of the class, which this controller has none of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters_ref: Option<ParametersReference>,
    /// Text for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A reference to an object that holds parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ParametersReference {
    /// Its API group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Observed state of a [`GatewayClass`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassStatus {
    /// `Accepted` and `SupportedVersion`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// What of the API is served beyond its core, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supported_features: Vec<SupportedFeature>,
}

/// A feature of the API that a class serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SupportedFeature {
    /// Its name in upstream's conformance tests.
    pub name: String,
}

/// Desired state of a [`Gateway`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Name of the class.
    pub gateway_class_name: String,
    /// Where it listens.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Requested addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<GatewayAddress>,
    /// What is passed on to objects that are made for the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infrastructure: Option<GatewayInfrastructure>,
    /// Certificates of the other sides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<GatewayTls>,
    /// Which ListenerSets may add listeners; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_listeners: Option<AllowedListeners>,
}

/// What is passed on to objects that are made for a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayInfrastructure {
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Parameters, which this controller has none of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters_ref: Option<LocalReference>,
}

/// TLS of a whole gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GatewayTls {
    /// Towards backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<GatewayBackendTls>,
    /// Towards clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<FrontendTls>,
}

/// TLS of a gateway towards backends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayBackendTls {
    /// The certificate by which backends know the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<Reference>,
}

/// TLS of a gateway towards clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendTls {
    /// Of ports that are not named.
    #[serde(default)]
    pub default: FrontendPortTls,
    /// Of single ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_port: Vec<FrontendPort>,
}

/// TLS of one port towards clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FrontendPort {
    /// The port.
    pub port: i32,
    /// What counts there.
    #[serde(default)]
    pub tls: FrontendPortTls,
}

/// What is asked of clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FrontendPortTls {
    /// Their certificates; none are asked for when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<FrontendValidation>,
}

/// How certificates of clients are verified.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FrontendValidation {
    /// ConfigMaps with the roots in `ca.crt`.
    #[serde(rename = "caCertificateRefs", default, skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<ObjectReference>,
    /// `AllowValidOnly` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<FrontendValidationMode>,
}

/// What becomes of clients without a valid certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrontendValidationMode {
    /// They are refused.
    #[default]
    AllowValidOnly,
    /// They are served; backends have to tell.
    AllowInsecureFallback,
}

/// A reference to an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectReference {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; the referrer's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Which ListenerSets may add listeners to a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AllowedListeners {
    /// From where; nowhere when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<RouteNamespaces>,
}

/// One port and hostname that a [`Gateway`] listens on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Unique in the gateway; routes name it as `sectionName`.
    pub name: String,
    /// Exact, with a leading `*.`, or absent for every hostname.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Network port.
    #[serde(default)]
    pub port: i32,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `UDP`, or a domain-prefixed name.
    pub protocol: String,
    /// How TLS is terminated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Which routes may attach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_routes: Option<AllowedRoutes>,
}

/// TLS of a [`Listener`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// `Terminate` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<TlsMode>,
    /// Certificates, as Secrets of type `kubernetes.io/tls`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificate_refs: Vec<Reference>,
}

/// What a listener does with TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsMode {
    /// Decrypts.
    Terminate,
    /// Forwards the encrypted stream.
    Passthrough,
}

/// A reference to an object of a group and kind that the referring field knows by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// API group; the field's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind; the field's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name.
    pub name: String,
    /// Namespace; the referrer's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Which routes may attach to a [`Listener`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AllowedRoutes {
    /// From where; the gateway's own namespace when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<RouteNamespaces>,
    /// Of which kinds; those of the protocol when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<RouteGroupKind>,
}

/// Namespaces whose routes may attach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteNamespaces {
    /// `Same` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<FromNamespaces>,
    /// Labels of the namespaces, with [`FromNamespaces::Selector`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// How namespaces are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromNamespaces {
    /// Every namespace.
    All,
    /// By labels.
    Selector,
    /// The gateway's own.
    Same,
    /// No namespace; for ListenerSets only.
    None,
}

/// A kind of route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteGroupKind {
    /// API group; Gateway API's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind.
    pub kind: String,
}

/// An address of a [`Gateway`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GatewayAddress {
    /// `IPAddress` when absent.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// The address; empty in a request for any.
    #[serde(default)]
    pub value: String,
}

/// Observed state of a [`Gateway`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Where it can be reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<GatewayAddress>,
    /// `Accepted` and `Programmed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// One per listener.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerStatus>,
    /// Number of ListenerSets that added listeners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached_listener_sets: Option<i32>,
}

/// Observed state of a [`Listener`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Kinds of routes that may attach.
    #[serde(default)]
    pub supported_kinds: Vec<RouteGroupKind>,
    /// Number of routes that did.
    pub attached_routes: i32,
    /// `Accepted`, `Conflicted`, `Programmed` and `ResolvedRefs`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Desired state of a [`ReferenceGrant`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReferenceGrantSpec {
    /// Who may refer.
    #[serde(default)]
    pub from: Vec<ReferenceGrantFrom>,
    /// To what.
    #[serde(default)]
    pub to: Vec<ReferenceGrantTo>,
}

/// A referrer that a [`ReferenceGrant`] trusts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReferenceGrantFrom {
    /// API group of the referrer.
    pub group: String,
    /// Kind of the referrer.
    pub kind: String,
    /// Namespace of the referrer.
    pub namespace: String,
}

/// What a [`ReferenceGrant`] opens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReferenceGrantTo {
    /// API group of the object.
    pub group: String,
    /// Kind of the object.
    pub kind: String,
    /// Its name; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_carry_their_type_and_keep_their_fields() {
        let manifest = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "parentRefs": [{"name": "edge", "sectionName": "http"}],
                "hostnames": ["shop.example.com"],
                "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": "/cart"}, "method": "GET"}],
                    "filters": [{"type": "RequestRedirect", "requestRedirect": {"statusCode": 301}}],
                    "backendRefs": [{"name": "cart", "port": 80, "weight": 0}],
                    "timeouts": {"request": "10s"},
                }],
            },
        });
        let route: HTTPRoute = serde_json::from_value(manifest.clone()).unwrap();
        assert_eq!(route.spec.rules[0].backend_refs[0].weight, Some(0));
        assert_eq!(serde_json::to_value(&route).unwrap(), manifest);
    }
}
