//! The compiled table: ports, listeners, rules.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::StatusCode;
use rustls::sign::CertifiedKey;

use super::{
    backend::{Backend, Share, Target, choose},
    edit::HeaderEdits,
    hosts::Hosts,
    matching::{Rank, RequestHead, RequestMatch},
    redirect::{Origin, Redirect, Rewrite},
};

/// A certificate and its key.
pub type Certificate = Arc<CertifiedKey>;

/// Everything that the gateway serves, by port. Immutable; a request sees one table from start to end.
#[derive(Debug, Default)]
pub struct RouteTable {
    ports: BTreeMap<u16, PortTable>,
}

/// One port.
#[derive(Debug)]
pub struct PortTable {
    tls: bool,
    listeners: Hosts<ListenerRoutes>,
}

/// The routes of the listeners of one hostname on one port.
#[derive(Debug, Default)]
pub struct ListenerRoutes {
    certificate: Option<Certificate>,
    hosts: Hosts<Vec<(RequestMatch, Rank, Arc<Rule>)>>,
}

/// What happens to the requests that one of its matches takes.
#[derive(Debug)]
pub struct Rule {
    /// `namespace/name` of the route, for logs.
    pub route: Box<str>,
    /// Header changes to requests.
    pub request: HeaderEdits,
    /// Header changes to responses.
    pub response: HeaderEdits,
    /// What is done.
    pub action: Action,
    /// How long it may take.
    pub timeouts: Timeouts,
}

/// What a rule does.
#[derive(Debug)]
pub enum Action {
    /// Sends requests to backends.
    Forward {
        /// By weight.
        shares: Vec<Share>,
        /// Changed on the way.
        rewrite: Rewrite,
    },
    /// Sends clients elsewhere.
    Redirect(Redirect),
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

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Decision<'a> {
    /// Send it to an endpoint of the backend.
    Forward {
        /// The rule.
        rule: &'a Rule,
        /// The share that was drawn, with its own header changes.
        share: &'a Share,
        /// Its backend.
        backend: &'a Arc<Backend>,
        /// Changes of host and path.
        rewrite: &'a Rewrite,
        /// Length of the matched path prefix.
        matched: usize,
    },
    /// Answer with a redirect.
    Redirect {
        /// The rule.
        rule: &'a Rule,
        /// The status.
        status: StatusCode,
        /// The `Location`.
        location: String,
    },
    /// Answer with an error.
    Fail(StatusCode),
}

impl RouteTable {
    /// A table of these ports.
    pub fn new(ports: BTreeMap<u16, PortBuilder>) -> Self {
        RouteTable { ports: ports.into_iter().map(|(port, builder)| (port, builder.build())).collect() }
    }

    /// The ports to listen on, and whether they speak TLS.
    pub fn ports(&self) -> impl Iterator<Item = (u16, bool)> {
        self.ports.iter().map(|(port, table)| (*port, table.tls))
    }

    /// The certificate for a server name on a port: that of the most specific listener.
    pub fn certificate(&self, port: u16, server_name: &str) -> Option<Certificate> {
        let listeners = &self.ports.get(&port)?.listeners;
        let host = server_name.to_ascii_lowercase();
        listeners.matching(&host).next().and_then(|listener| listener.certificate.clone())
    }

    /// Decides about a request that came in on `port`. `random` draws among weighted backends.
    pub fn route<'a>(&'a self, port: u16, head: &RequestHead<'_>, random: u64) -> Decision<'a> {
        let Some(table) = self.ports.get(&port) else { return Decision::Fail(StatusCode::NOT_FOUND) };
        // Only the most specific listener's routes count: a request never falls through to another listener.
        let found = table.listeners.matching(head.host).next().and_then(|listener| listener.find(head));
        let Some((condition, rule)) = found else { return Decision::Fail(StatusCode::NOT_FOUND) };
        let matched = condition.path.prefix_len();
        match &rule.action {
            Action::Fail(status) => Decision::Fail(*status),
            Action::Redirect(redirect) => {
                let origin = Origin { tls: table.tls, host: head.host, port, path: head.path, query: head.query };
                Decision::Redirect { rule, status: redirect.status, location: redirect.location(origin, matched) }
            }
            Action::Forward { shares, rewrite } => match choose(shares, random) {
                Some(share) => match &share.target {
                    Target::Service(backend) => Decision::Forward { rule, share, backend, rewrite, matched },
                    Target::Invalid => Decision::Fail(StatusCode::INTERNAL_SERVER_ERROR),
                },
                // No backend at all, or none that may be sent anything.
                None => Decision::Fail(StatusCode::INTERNAL_SERVER_ERROR),
            },
        }
    }
}

impl ListenerRoutes {
    fn find<'a>(&'a self, head: &RequestHead<'_>) -> Option<(&'a RequestMatch, &'a Rule)> {
        let rules = self.hosts.matching(head.host).flatten();
        rules.map(|(condition, _, rule)| (condition, &**rule)).find(|(condition, _)| condition.takes(head))
    }
}

/// A port being compiled.
#[derive(Debug)]
pub struct PortBuilder {
    table: PortTable,
}

impl PortBuilder {
    /// A port without listeners.
    pub fn new(tls: bool) -> Self {
        PortBuilder { table: PortTable { tls, listeners: Hosts::default() } }
    }

    /// Whether the port speaks TLS.
    pub fn tls(&self) -> bool {
        self.table.tls
    }

    /// Adds a listener for a hostname pattern. The first certificate for a pattern stays.
    pub fn listener(&mut self, hostname: Option<&str>, certificate: Option<Certificate>) {
        let listener = self.table.listeners.entry(hostname, ListenerRoutes::default);
        listener.certificate = listener.certificate.take().or(certificate);
    }

    /// Adds a rule for the requests of `host` that `condition` takes, behind the listener of pattern `listener`.
    pub fn rule(
        &mut self,
        listener: Option<&str>,
        host: Option<&str>,
        condition: RequestMatch,
        rank: Rank,
        rule: Arc<Rule>,
    ) {
        let listener = self.table.listeners.entry(listener, ListenerRoutes::default);
        listener.hosts.entry(host, Vec::new).push((condition, rank, rule));
    }

    fn build(mut self) -> PortTable {
        for listener in self.table.listeners.values_mut() {
            for rules in listener.hosts.values_mut() {
                rules.sort_by_cached_key(|(condition, rank, _)| condition.rank(rank.clone()));
            }
        }
        self.table
    }
}
