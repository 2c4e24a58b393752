//! What policies and the route itself say of how a request is forwarded, decided before it is sent.

use std::{
    net::{IpAddr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, Request};
use tokio::time::Instant;

use super::exchange::Plan;
use crate::routing::{Action, Backend, Balance, Forward, Session, Target, Timeouts, Token};

/// How a request is forwarded.
pub(crate) struct Course<'a> {
    pub(crate) way: Forward<'a>,
    /// `None` when nothing is said: it goes the short way.
    pub(crate) plan: Option<Plan<'a>>,
    pub(crate) timeouts: Timeouts,
    pub(crate) deadline: Option<Instant>,
    session: Option<Pinned<'a>>,
}

/// The session of a request.
struct Pinned<'a> {
    session: &'a Session,
    sent: Option<Token>,
    now: u64,
}

impl<'a> Course<'a> {
    pub(crate) fn of<B>(mut way: Forward<'a>, request: &Request<B>, client: IpAddr) -> Self {
        let mut timeouts = way.rule.timeouts;
        let (traffic, retry, session) = (way.traffic, way.retry(), way.session());
        if traffic.is_none() && retry.is_none() && session.is_none() {
            let deadline = timeouts.request.map(|limit| Instant::now() + limit);
            return Course { way, plan: None, timeouts, deadline, session: None };
        }
        let (session, endpoint) = match session {
            Some(session) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let sent = session.find(request.headers(), now);
                let endpoint = sent.and_then(|token| pin(&mut way, token));
                (Some(Pinned { session, sent, now }), endpoint)
            }
            None => (None, None),
        };
        if let Some(traffic) = traffic {
            timeouts.request = timeouts.request.or(traffic.timeouts.request);
            timeouts.backend = timeouts.backend.or(traffic.timeouts.backend);
        }
        timeouts.backend = timeouts.backend.or(retry.and_then(|retry| retry.attempt));
        let deadline = timeouts.request.map(|limit| Instant::now() + limit);
        let upstream = traffic.and_then(|traffic| traffic.upstream.as_ref());
        let key = upstream.and_then(|upstream| match &upstream.config.balance {
            Balance::Hash(key) => key.of(request.headers(), request.uri().query(), client),
            _ => None,
        });
        let group = upstream.map(|upstream| way.backend.group(upstream));
        let plan = Plan { group, retry, key, session: endpoint, deadline };
        Course { way, plan: Some(plan), timeouts, deadline, session }
    }

    /// Whether the body must be at hand for another attempt.
    pub(crate) fn repeats(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.retry.is_some())
    }

    /// Tells the client its session, unless it knows it.
    pub(crate) fn remember(&self, endpoint: SocketAddr, headers: &mut HeaderMap) {
        if let Some(Pinned { session, sent, now }) = &self.session {
            let token = Token::endpoint(self.way.backend.name(), endpoint);
            if let Some((name, value)) = session.tell(*sent, token, *now) {
                headers.append(name, value);
            }
        }
    }
}

/// Leads a request to the backend of its session, whatever share was drawn; its endpoint, if it is still there.
fn pin(way: &mut Forward<'_>, token: Token) -> Option<SocketAddr> {
    let Action::Forward(shares) = &way.rule.action else { return None };
    let endpoint = |backend: &Backend| {
        let endpoints = backend.current();
        endpoints.iter().copied().find(|address| Token::endpoint(backend.name(), *address) == token.endpoint)
    };
    shares.iter().find_map(|share| {
        let Target::Service { backend, http2 } = &share.target else { return None };
        let found = endpoint(backend)?;
        (way.share, way.backend, way.http2) = (share, backend, *http2);
        Some(found)
    })
}
