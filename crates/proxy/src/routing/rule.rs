//! What happens to the requests and connections that a rule takes.

use std::{fmt, sync::Arc, time::Duration};

use http::StatusCode;

use super::{
    backend::{Backend, Share, Target},
    cors::Cors,
    direct::{Credential, Direct},
    edit::HeaderEdits,
    guards::{Guards, Inherited},
    mirror::Mirror,
    once::Once,
    pages::ErrorPages,
    redirect::{Redirect, Rewrite},
    template::Template,
    traffic::{Retry, Session, Traffic},
    versions::Versions,
};

/// The object that a rule comes from: its kind, and `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// The kind.
    pub kind: &'static str,
    /// `namespace/name`.
    pub name: Arc<str>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// What happens to the requests that one of its conditions takes.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Whose it is.
    pub owner: Owner,
    /// Its own name there, for people.
    pub name: Option<Box<str>>,
    /// What is changed on the way.
    pub filters: Filters,
    /// What is done.
    pub action: Action,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// What its own route says of trying again; before what a policy says.
    pub retry: Option<Arc<Retry>>,
    /// How requests of one client find the same endpoint again; before what a policy says.
    pub session: Option<Arc<Session>>,
    /// What a policy says of how its requests are forwarded; in place of what one says for the listener.
    pub traffic: Option<Arc<Traffic>>,
    /// What requests have to pass; what the listener has when absent.
    pub guards: Option<Arc<Guards>>,
    /// Who has pages in place of errors.
    pub pages: Option<Arc<ErrorPages>>,
}

impl Rule {
    /// A rule that changes nothing on the way.
    pub fn new(owner: Owner, action: Action) -> Self {
        Rule {
            owner,
            name: None,
            filters: Filters::default(),
            action,
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            traffic: None,
            guards: None,
            pages: None,
        }
    }

    /// The backends that requests are sent to.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let shares = match &self.action {
            Action::Forward(shares) => shares.as_slice(),
            Action::Redirect { .. } | Action::Fail(_) => &[],
        };
        shares.iter().filter_map(|share| match &share.target {
            Target::Service { backend, .. } => Some(backend),
            Target::Invalid => None,
        })
    }
}

/// What a rule, or one of its shares, changes on the way.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// Header changes to requests.
    pub request: HeaderEdits,
    /// Header changes to responses.
    pub response: HeaderEdits,
    /// Changes of host and path.
    pub rewrite: Option<Rewrite>,
    /// An answer in place of a backend's.
    pub redirect: Option<Redirect>,
    /// An answer of the route's own.
    pub direct: Option<Arc<Direct>>,
    /// A credential that the backend gets.
    pub credential: Option<Credential>,
    /// How requests with the same idempotency key are done once.
    pub once: Option<Arc<Once>>,
    /// The versions of the service's API.
    pub versions: Option<Arc<Versions>>,
    /// Which pages of other origins may read answers.
    pub cors: Option<Arc<Cors>>,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
}

/// What a rule does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends requests to backends, by weight.
    Forward(Vec<Share>),
    /// Sends the client elsewhere.
    Redirect {
        /// The status of the answer.
        status: StatusCode,
        /// The `Location`.
        to: Template,
    },
    /// Answers with an error, for a rule that cannot be served as it was written.
    Fail(StatusCode),
}

/// How long a request may take; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's head to the end of the answer.
    pub request: Option<Duration>,
    /// One attempt, from its start to the head of the answer.
    pub backend: Option<Duration>,
}

/// Where connections or datagrams go that are not HTTP.
#[derive(Clone, Debug)]
pub struct StreamRule {
    /// Whose it is.
    pub owner: Owner,
    /// Backends by weight.
    pub shares: Vec<Share>,
    /// What connections have to pass; what the listener has when absent.
    pub guards: Option<Arc<Guards>>,
    /// What it gets from its listener where it has nothing of its own.
    pub inherited: Option<Arc<Inherited>>,
}

impl StreamRule {
    /// A rule without policies.
    pub fn new(owner: Owner, shares: Vec<Share>) -> Self {
        StreamRule { owner, shares, guards: None, inherited: None }
    }
}
