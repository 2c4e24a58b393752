//! What is worked on one by one, and what each depends on.

use reconcile::Key;

use super::{attachment::PolicyId, extensions::ExtensionKind};
use crate::routing::Owner;

/// Something that is compiled on its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Item {
    Class(String),
    /// A backend that is an object of its own: compiled before the routes to it.
    Declared(Key),
    /// A policy that attaches to Gateways and routes: compiled before those that it is about.
    Attached(PolicyId),
    Gateway(Key),
    Route(RouteKind, Key),
    /// How the ports of a Service are spoken to.
    Service(Key),
    Policy(Key),
    Ingress(Key),
    /// A VirtualService.
    Virtual(Key),
    /// A DestinationRule.
    Destination(Key),
}

/// What an item was compiled from besides its own object. A change of it compiles the item again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Dependency {
    Class(String),
    /// What a Gateway offers to routes.
    Offers(Key),
    /// The ListenerSets of a Gateway.
    Sets(Key),
    Set(Key),
    /// The ReferenceGrants of a namespace.
    Grants(String),
    Service(Key),
    Secret(Key),
    ConfigMap(Key),
    /// What rules refer to by `ExtensionRef`.
    Extension(ExtensionKind, Key),
    /// A backend that is an object of its own.
    Declared(Key),
    /// The labels of a namespace.
    Namespace(String),
    /// The BackendTLSPolicies about a Service.
    Policies(Key),
    /// The Gateways that lead to a Service.
    Users(Key),
    /// What the rules behind the listeners of a Gateway inherit.
    Inherited(Key),
    IngressClasses,
    /// The DestinationRules about a Service.
    Destinations(Key),
}

/// The kinds of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum RouteKind {
    Http,
    Grpc,
    Tls,
    Tcp,
    Udp,
}

impl RouteKind {
    /// The kind as objects name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            RouteKind::Http => "HTTPRoute",
            RouteKind::Grpc => "GRPCRoute",
            RouteKind::Tls => "TLSRoute",
            RouteKind::Tcp => "TCPRoute",
            RouteKind::Udp => "UDPRoute",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        [RouteKind::Http, RouteKind::Grpc, RouteKind::Tls, RouteKind::Tcp, RouteKind::Udp]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    pub(crate) fn owner(self, key: &Key) -> Owner {
        Owner { kind: self.name(), name: key.to_string().into() }
    }
}
