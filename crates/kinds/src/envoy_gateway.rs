//! Envoy Gateway's kinds, group `gateway.envoyproxy.io`, version v1alpha1: what Gateway API leaves open.
//!
//! A field that has no member here is kept in its object's [`Unread`] fields, so that whoever reads a policy can say
//! which of its fields it does not follow.

use std::collections::BTreeMap;

use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::gateway::PolicyStatus;

/// Defines an object all of whose members may be absent, and which keeps those that it does not know.
macro_rules! part {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $member:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $(
                $(#[$about])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $member: Option<$type>,
            )*
            /// The rest.
            #[serde(flatten)]
            pub unread: crate::envoy_gateway::Unread,
        }
    };
}

mod backend;
mod backend_traffic_policy;
mod client_traffic_policy;
mod http_route_filter;
mod security_policy;

pub use backend::*;
pub use backend_traffic_policy::*;
pub use client_traffic_policy::*;
pub use http_route_filter::*;
pub use security_policy::*;

/// The API group.
pub const GROUP: &str = "gateway.envoyproxy.io";

/// Defines a kind of this group.
macro_rules! kind {
    ($($kind:tt)*) => {
        crate::custom::kind!("gateway.envoyproxy.io", "v1alpha1", $($kind)*);
    };
}

kind!(
    /// How requests are forwarded.
    BackendTrafficPolicy, "BackendTrafficPolicyList", "backendtrafficpolicies", NamespaceResourceScope,
    BackendTrafficPolicySpec, PolicyStatus
);

kind!(
    /// How a listener treats its clients.
    ClientTrafficPolicy, "ClientTrafficPolicyList", "clienttrafficpolicies", NamespaceResourceScope,
    ClientTrafficPolicySpec, PolicyStatus
);

kind!(
    /// Who may send requests: authentication, authorisation, CORS.
    SecurityPolicy, "SecurityPolicyList", "securitypolicies", NamespaceResourceScope, SecurityPolicySpec, PolicyStatus
);

kind!(
    /// Endpoints that no Service stands for.
    Backend, "BackendList", "backends", NamespaceResourceScope, BackendSpec, BackendStatus
);

kind!(
    /// What a rule of an HTTPRoute does beyond Gateway API.
    HTTPRouteFilter, "HTTPRouteFilterList", "httproutefilters", NamespaceResourceScope, HTTPRouteFilterSpec
);

/// Fields that have no member of their own, by name.
pub type Unread = BTreeMap<String, Value>;

/// What a policy is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTargets {
    /// One object; the older way to write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetReference>,
    /// Objects by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<TargetReference>,
    /// Objects by labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_selectors: Vec<TargetSelector>,
    /// How it joins the policy of the Gateway or listener that the route is attached to: `StrategicMerge` or `JSONMerge`; it
    /// replaces it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge_type: Option<String>,
}

/// An object of the policy's namespace, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetReference {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// A listener of a Gateway or ListenerSet, or a named rule of a route; all of it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// Objects by labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetSelector {
    /// API group; Gateway API's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind.
    pub kind: String,
    /// Labels and their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Further conditions on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelSelectorRequirement>,
    /// In which namespaces; the policy's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<TargetNamespaces>,
}

/// Namespaces in which objects are selected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetNamespaces {
    /// `Same`, `All` or `Selector`.
    #[serde(default)]
    pub from: String,
    /// Labels of the namespaces, with `Selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// A backend, and its share where there are several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendReference {
    /// API group; the core group when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind; `Service` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name.
    pub name: String,
    /// Namespace; the policy's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// Relative to the others; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// Whether it is used only while the others cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<bool>,
}
