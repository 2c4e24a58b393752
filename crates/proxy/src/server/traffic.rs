//! What policies and the route itself say of how a request is forwarded, decided before it is sent.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use resilience::now;
use tokio::time::Instant;

use super::{
    answer::{Answer, called, own},
    body::ResponseBody,
    exchange::Plan,
};
use crate::routing::{
    Abort, Action, Backend, Forward, Group, Guest, Instead, Keyed, Owner, RequestHead, Session, Target, Timeouts,
    Token, Traffic,
};

/// Says that a request was refused because there were too many, as Envoy has it.
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// Holds a request up as the policy says; what counts it, or the answer to one that goes no further. `length` is of its
/// body, where that is known.
pub(crate) async fn bar(
    traffic: &Traffic,
    head: &RequestHead<'_>,
    length: Option<u64>,
    (client, route): (IpAddr, &Owner),
    grpc: bool,
) -> Result<Option<Guest>, Box<Answer>> {
    if length.zip(traffic.body_max).is_some_and(|(length, most)| length > most) {
        return Err(Box::new(own(StatusCode::PAYLOAD_TOO_LARGE, grpc)));
    }
    let guest = traffic.crowd.as_ref().map_or(Ok(None), |crowd| crowd.enter(client));
    let guest = guest.map_err(|status| Box::new(own(status, grpc)))?;
    match beyond(traffic, head, client, route, grpc) {
        Some(answer) => Err(Box::new(answer)),
        None => disturbed(traffic, grpc).await.map_or(Ok(guest), |answer| Err(Box::new(answer))),
    }
}

/// The answer to a request that is one too many.
fn beyond(traffic: &Traffic, head: &RequestHead<'_>, client: IpAddr, route: &Owner, grpc: bool) -> Option<Answer> {
    let mut refused: Option<(Duration, StatusCode)> = None;
    for rates in &traffic.rates {
        if let Err(wait) = rates.admit(now(), head, client, route)
            && refused.is_none_or(|(longest, _)| wait > longest)
        {
            refused = Some((wait, rates.status));
        }
    }
    let (wait, status) = refused?;
    let mut answer = own(status, grpc);
    answer.headers_mut().insert(RATE_LIMITED, HeaderValue::from_static("true"));
    if wait != Duration::MAX {
        // Rounded up: who comes back earlier is refused again.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    Some(answer)
}

/// What clients have to bear on purpose.
async fn disturbed(traffic: &Traffic, grpc: bool) -> Option<Answer> {
    let (delay, abort) = traffic.disturbance?.of([rand::random(), rand::random()]);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    Some(match abort? {
        Abort::Status(status) => own(status, grpc),
        Abort::Call(code) => called(code),
    })
}

/// What answers in place of others need of the request.
pub(crate) struct Replacing<'a> {
    instead: &'a [Instead],
    tls: bool,
    authority: HeaderValue,
    target: String,
}

impl<'a> Replacing<'a> {
    /// `None` where a policy says nothing of that.
    pub(crate) fn of<B>(
        traffic: Option<&'a Arc<Traffic>>,
        tls: bool,
        authority: &HeaderValue,
        request: &Request<B>,
    ) -> Option<Box<Self>> {
        let instead = traffic.map(|traffic| &*traffic.instead).filter(|instead| !instead.is_empty())?;
        // Only redirects tell where the client was.
        let needed = instead.iter().any(|instead| instead.elsewhere.is_some());
        let target = request.uri().path_and_query().filter(|_| needed).map(ToString::to_string).unwrap_or_default();
        Some(Box::new(Replacing { instead, tls, authority: authority.clone(), target }))
    }

    /// The answer that a policy wants in place of one that is the gateway's `own`, or a backend's.
    pub(crate) fn apply(&self, own: bool, mut answer: Answer) -> Answer {
        let found = self.instead.iter().find(|other| other.takes(own, answer.status(), answer.headers()));
        let Some(instead) = found else { return answer };
        if let Some(elsewhere) = &instead.elsewhere {
            let location = elsewhere.location(self.tls, self.authority.to_str().unwrap_or_default(), &self.target);
            let mut answer = super::answer::own(elsewhere.status, false);
            if let Ok(location) = HeaderValue::try_from(location) {
                answer.headers_mut().insert(header::LOCATION, location);
            }
            return answer;
        }
        if let Some(status) = instead.status {
            *answer.status_mut() = status;
        }
        if let Some(text) = &instead.body {
            *answer.body_mut() = ResponseBody::Own(Some(text.clone()));
            for described in [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_TYPE] {
                answer.headers_mut().remove(described);
            }
        }
        if let Some(kind) = &instead.kind {
            answer.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
        }
        instead.edits.apply(answer.headers_mut());
        answer
    }
}

/// How a request is forwarded.
pub(crate) struct Course<'a> {
    pub(crate) way: Forward<'a>,
    /// `None` when nothing is said: it goes the short way.
    pub(crate) plan: Option<Plan<'a>>,
    pub(crate) timeouts: Timeouts,
    pub(crate) deadline: Option<Instant>,
    /// How long nothing may happen to the request.
    pub(crate) silence: Option<Duration>,
    session: Option<Pinned<'a>>,
}

/// The session of a request.
struct Pinned<'a> {
    session: &'a Session,
    sent: Option<Token>,
    /// The endpoint that it names is there.
    found: bool,
    now: u64,
    tls: bool,
}

impl<'a> Course<'a> {
    pub(crate) fn of(mut way: Forward<'a>, keyed: Keyed<'_>) -> Self {
        let mut timeouts = way.rule.timeouts;
        let (traffic, retry, session) = (way.traffic, way.retry(), way.session());
        if let Some(traffic) = traffic {
            timeouts.request = timeouts.request.or(traffic.timeouts.request);
            timeouts.backend = timeouts.backend.or(traffic.timeouts.backend);
        }
        let said = traffic.and_then(|traffic| traffic.upstream.as_ref());
        if said.is_none() && retry.is_none() && session.is_none() && !way.backend.has_upstream() {
            let deadline = timeouts.request.map(|limit| Instant::now() + limit);
            return Course { way, plan: None, timeouts, deadline, silence: None, session: None };
        }
        let (session, endpoint) = match session {
            Some(session) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let sent = session.find(keyed.head.headers, now);
                let endpoint = sent.and_then(|token| pin(&mut way, token));
                (Some(Pinned { session, sent, found: endpoint.is_some(), now, tls: keyed.at.0 }), endpoint)
            }
            None => (None, None),
        };
        let own = way.backend.upstream();
        let upstream = said.or(own.as_ref());
        timeouts.backend = timeouts.backend.or(retry.and_then(|retry| retry.attempt));
        let deadline = timeouts.request.map(|limit| Instant::now() + limit);
        let key = upstream.and_then(|upstream| upstream.config.balance.key(keyed, rand::random()));
        let group = upstream.map(|upstream| way.backend.group(upstream));
        let plan = Plan { group, retry, key, session: endpoint, deadline };
        Course { way, plan: Some(plan), timeouts, deadline, silence: None, session }
    }

    /// How the endpoints of its backend are used.
    pub(crate) fn group(&self) -> Option<&Arc<Group>> {
        self.plan.as_ref()?.group.as_ref()
    }

    /// Lets it take no longer than this in all, and be silent for no longer than this.
    pub(crate) fn shorten(&mut self, limit: Option<Duration>, silence: Option<Duration>) {
        if let Some(limit) = limit {
            let at = Instant::now() + limit;
            self.deadline = Some(self.deadline.map_or(at, |deadline| deadline.min(at)));
            if let Some(plan) = &mut self.plan {
                plan.deadline = self.deadline;
            }
        }
        self.silence = self.silence.or(silence);
    }

    /// Whether the body must be at hand for another attempt.
    pub(crate) fn repeats(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.retry.is_some())
    }

    /// Tells the client its session, unless it knows it.
    pub(crate) fn remember(&self, endpoint: SocketAddr, headers: &mut HeaderMap) {
        if let Some(Pinned { session, sent, found, now, tls }) = &self.session {
            if *found && session.keeps {
                return;
            }
            let token = Token::endpoint(self.way.backend.name(), endpoint);
            if let Some((name, value)) = session.tell(*sent, token, *now, *tls) {
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
    let serving: Vec<_> = shares.iter().enumerate().filter(|(index, _)| way.serves(*index)).collect();
    serving.into_iter().find_map(|(_, share)| {
        let Target::Service { backend, http2 } = &share.target else { return None };
        let found = endpoint(backend)?;
        (way.share, way.backend, way.http2) = (share, backend, *http2);
        Some(found)
    })
}
