//! Istio's APIs, groups `security.istio.io` and `networking.istio.io`, version v1: the kinds that the mesh follows.
//!
//! What the mesh does not follow is kept by name in [`Rest`], so that it can be told about and is not silently dropped.

use std::collections::BTreeMap;

use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod destination_rule;
mod security;
mod virtual_service;

pub use destination_rule::*;
pub use security::*;
pub use virtual_service::*;

/// The API group of what decides who may speak to whom.
pub const SECURITY_GROUP: &str = "security.istio.io";

/// The API group of what decides where traffic goes.
pub const NETWORKING_GROUP: &str = "networking.istio.io";

/// Defines a kind of the group that decides who may speak to whom.
macro_rules! security {
    ($($kind:tt)*) => {
        crate::custom::kind!("security.istio.io", "v1", $($kind)*);
    };
}

/// Defines a kind of the group that decides where traffic goes.
macro_rules! networking {
    ($($kind:tt)*) => {
        crate::custom::kind!("networking.istio.io", "v1", $($kind)*);
    };
}

security!(
    /// Whether connections to workloads have to be mutually authenticated.
    PeerAuthentication, "PeerAuthenticationList", "peerauthentications", NamespaceResourceScope, PeerAuthenticationSpec,
    IstioStatus
);
security!(
    /// Who may do what at workloads.
    AuthorizationPolicy, "AuthorizationPolicyList", "authorizationpolicies", NamespaceResourceScope,
    AuthorizationPolicySpec, IstioStatus
);
security!(
    /// Which tokens workloads trust.
    RequestAuthentication, "RequestAuthenticationList", "requestauthentications", NamespaceResourceScope,
    RequestAuthenticationSpec, IstioStatus
);
networking!(
    /// How a Service is spoken to, and its subsets.
    DestinationRule, "DestinationRuleList", "destinationrules", NamespaceResourceScope, DestinationRuleSpec, IstioStatus
);
networking!(
    /// Where requests for hosts go.
    VirtualService, "VirtualServiceList", "virtualservices", NamespaceResourceScope, VirtualServiceSpec, IstioStatus
);

/// Fields that the mesh does not follow, by name.
pub type Rest = BTreeMap<String, Value>;

/// Which pods something is about: those that have all of the labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Labels and their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

/// An object that a policy is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTargetReference {
    /// API group; empty for the core API.
    #[serde(default)]
    pub group: String,
    /// Kind.
    #[serde(default)]
    pub kind: String,
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Namespace, the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Observed state of any of the kinds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IstioStatus {
    /// What is said about the object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<IstioCondition>,
    /// What was found when the object was looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validation_messages: Vec<Value>,
    /// The generation that this is said of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<IntOrString>,
}

/// A condition, of which only the type is certain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IstioCondition {
    /// What it is about.
    #[serde(rename = "type", default)]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// The generation that it is said of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<IntOrString>,
    /// What others wrote into it.
    #[serde(flatten)]
    pub rest: Rest,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_followed_is_kept_by_name() {
        let rule: DestinationRule = serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {"host": "a", "trafficPolicy": {"tunnel": {"targetHost": "b"}, "tls": {"mode": "ISTIO_MUTUAL"}}},
            "status": {"conditions": [{"type": "Reconciled", "lastProbeTime": "2020-01-01T00:00:00Z"}]},
        }))
        .unwrap();
        let policy = rule.spec.traffic_policy.as_ref().unwrap();
        assert_eq!(policy.rest.keys().collect::<Vec<_>>(), ["tunnel"]);
        let written = serde_json::to_value(&rule).unwrap();
        assert_eq!(written["apiVersion"], "networking.istio.io/v1");
        assert_eq!(written["spec"]["trafficPolicy"]["tunnel"]["targetHost"], "b");
        assert_eq!(written["status"]["conditions"][0]["lastProbeTime"], "2020-01-01T00:00:00Z");
    }
}
