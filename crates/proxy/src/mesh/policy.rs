//! Who may speak to whom: PeerAuthentication and AuthorizationPolicy, by Istio's rules.
//!
//! What decides is pure. A [`Judge`] holds the compiled policies and the workloads that they are about; each workload has a
//! [`Guard`], which knows the policies that select it and is asked once per connection or request. A change of a policy
//! concerns the workloads that it selects or selected, and no others.
//!
//! The order is Istio's: a `CUSTOM` policy, then `DENY`, then `ALLOW`; where no policy allows anything, everything is
//! allowed, and where one does, only what one of them allows. What says something about HTTP is decided for requests; for
//! bytes that are not HTTP such a condition never holds in an `ALLOW` policy, and always in the others, so that what
//! cannot be known is never the reason to let something through. The same goes for conditions that cannot be followed.
//!
//! Paths are judged in every form in which a workload may read them ([`crate::routing::path::forms`]); a request is allowed only if it is
//! allowed in each.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde_json::{Map, Value};

use crate::routing::RequestHead;

mod authorization;
mod judge;
mod patterns;
mod peers;
mod posture;
mod tell;
mod test;
#[cfg(test)]
mod tests;

pub use judge::{Judge, Workload};
pub use peers::Mode;
pub use posture::Guard;
pub use tell::run;

/// The namespace whose policies are for the whole mesh.
pub const ROOT_NAMESPACE: &str = "istio-system";

/// Who is at the other end of an authenticated connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `trust-domain/ns/namespace/sa/service-account`.
    principal: Box<str>,
    /// Where the trust domain ends in it, and the namespace.
    ends: (usize, usize),
}

impl Peer {
    /// A service account.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        let principal = format!("{trust_domain}/ns/{namespace}/sa/{service_account}");
        let ends = (trust_domain.len(), trust_domain.len() + "/ns/".len() + namespace.len());
        Peer { principal: principal.into(), ends }
    }

    /// The identity without `spiffe://`.
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.principal[..self.ends.0]
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.principal[self.ends.0 + "/ns/".len()..self.ends.1]
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.principal[self.ends.1 + "/sa/".len()..]
    }
}

/// A connection to a workload.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Who is at the other end; `None` where it was not authenticated.
    pub peer: Option<&'a Peer>,
    /// The address of the other end.
    pub source: IpAddr,
    /// The workload's own address and port.
    pub destination: SocketAddr,
    /// The server name of the client's TLS, if any.
    pub sni: Option<&'a str>,
}

/// A request to a workload.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What it is for.
    pub head: RequestHead<'a>,
    /// Its host as it was sent, with its port.
    pub authority: &'a str,
    /// What tokens of it say.
    pub token: Token<'a>,
}

/// What is known of a request's tokens.
#[derive(Clone, Copy, Debug)]
pub enum Token<'a> {
    /// Nobody has looked: a condition on them cannot be known.
    Unverified,
    /// There is no good one.
    None,
    /// What a good one says.
    Good(&'a Map<String, Value>),
}

/// What is decided, and what besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The decision.
    pub verdict: Verdict,
    /// An `AUDIT` policy that wants it written down.
    pub audit: Option<Arc<str>>,
    /// What would be decided if policies on trial counted, where that differs.
    pub trial: Option<Verdict>,
}

/// Whether something is allowed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is, by a policy or for want of one.
    Allowed(Option<Arc<str>>),
    /// It is not.
    Denied(Denial),
}

impl Verdict {
    /// Whether it is allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Verdict::Allowed(_))
    }
}

/// Why something is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// A policy denies it.
    By(Arc<str>),
    /// There are policies that allow something, but not this.
    NoneAllows,
    /// A policy leaves the decision to a provider that is not there.
    NoProvider(Arc<str>),
    /// The connection has to be mutually authenticated and is not.
    Unauthenticated,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denial::By(policy) => write!(f, "denied by AuthorizationPolicy {policy}"),
            Denial::NoneAllows => f.write_str("no AuthorizationPolicy allows it"),
            Denial::NoProvider(policy) => write!(f, "AuthorizationPolicy {policy} names a provider that is not there"),
            Denial::Unauthenticated => f.write_str("PeerAuthentication asks for mutual TLS"),
        }
    }
}
