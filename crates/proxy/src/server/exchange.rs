//! One request and its attempts.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use resilience::{balance::Counted, now, outlier};
use tokio::time::Instant;
use tracing::debug;

use super::{
    Shared,
    answer::call_code,
    body::{Ended, RequestBody},
    upstream::{CONNECT, CONNECT_ELSE, Line, SendError, Way},
};
use crate::routing::{Attempt, Backend, Failed, Group, Guest, Overflow, Permit, Retry, Want};

/// Endpoints that one request is tried on. During a roll-out one or two may be gone; more would only delay the answer
/// that the backend is unavailable.
const ATTEMPTS: usize = 3;

/// Marks a request whose idempotency key is the gateway's business: the backend need not know what it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Single;

/// Whether sending a request twice does no more than sending it once.
pub(crate) fn repeatable<B>(request: &Request<B>) -> bool {
    let keyed = || request.headers().contains_key(resilience::retry::IDEMPOTENCY_KEY);
    request.method().is_idempotent() || keyed() && request.extensions().get::<Single>().is_none()
}

/// How a request is sent to a backend. Without a plan it is tried on other endpoints where that does no harm, and nothing
/// else.
pub(crate) struct Exchange<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) backend: &'a Backend,
    pub(crate) way: Way,
    /// How long one attempt may take.
    pub(crate) limit: Option<Duration>,
    /// How long it may take to connect, if a policy says it.
    pub(crate) connect: Option<Duration>,
    /// How long the backend may be silent once it has the request.
    pub(crate) silence: Option<Duration>,
    /// Whether only a new connection will do.
    pub(crate) fresh: bool,
    /// What policies and the route say.
    pub(crate) plan: Option<Plan<'a>>,
    /// What becomes of the client's body.
    pub(crate) ended: Ended,
}

/// How a request is forwarded that policies or its route say something about.
#[derive(Default)]
pub(crate) struct Plan<'a> {
    /// How the endpoints are used.
    pub(crate) group: Option<Arc<Group>>,
    pub(crate) retry: Option<&'a Retry>,
    /// What the endpoint is chosen by.
    pub(crate) key: Option<u64>,
    /// The endpoint of its session.
    pub(crate) session: Option<SocketAddr>,
    /// When all attempts together must be over.
    pub(crate) deadline: Option<Instant>,
}

/// An endpoint's answer.
pub(crate) struct Answered {
    pub(crate) response: Response<Incoming>,
    pub(crate) line: Line,
    pub(crate) endpoint: SocketAddr,
    /// What counts the request for as long as its answer takes.
    pub(crate) held: Option<Held>,
}

/// What counts a request; it is over when this is dropped.
#[derive(Default)]
pub(crate) struct Held {
    #[expect(dead_code, reason = "it counts by being there")]
    permit: Option<Permit>,
    attempt: Option<Attempt>,
    #[expect(dead_code, reason = "it counts by being there")]
    guest: Option<Guest>,
}

impl Held {
    /// Counts the request among its client's as well.
    pub(crate) fn with(held: Option<Held>, guest: Option<Guest>) -> Option<Held> {
        match guest {
            None => held,
            guest => Some(Held { guest, ..held.unwrap_or_default() }),
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// No endpoint, or none that answers.
    Status(StatusCode),
    /// A limit of the backend is reached.
    Overflow,
}

impl From<StatusCode> for Unanswered {
    fn from(status: StatusCode) -> Self {
        Unanswered::Status(status)
    }
}

impl Exchange<'_> {
    /// Tries endpoints until one answers. A request is sent again only when nothing of it was sent, or when it is
    /// repeatable and its body is at hand.
    pub(crate) async fn run(&self, request: Request<RequestBody>) -> Result<Answered, Unanswered> {
        match &self.plan {
            None => self.simply(request).await,
            Some(plan) => self.planned(plan, request).await,
        }
    }

    /// The same, unless nothing happens for so long: no endpoint answers, and nothing more of the body comes.
    pub(crate) async fn run_unless_silent(
        &self,
        request: Request<RequestBody>,
        silence: Duration,
    ) -> Result<Answered, Unanswered> {
        let mut run = std::pin::pin!(self.run(request));
        loop {
            let before = self.ended.pieces();
            match tokio::time::timeout(silence, run.as_mut()).await {
                Ok(outcome) => return outcome,
                Err(_) if self.ended.pieces() == before => return Err(StatusCode::GATEWAY_TIMEOUT.into()),
                Err(_) => {}
            }
        }
    }

    async fn simply(&self, mut request: Request<RequestBody>) -> Result<Answered, Unanswered> {
        let mut avoid: Vec<SocketAddr> = Vec::new();
        let mut fresh = self.fresh;
        for _ in 0..ATTEMPTS {
            let Some(endpoint) = self.backend.pick(&avoid).or_else(|| self.backend.pick(&[])) else {
                return Err(StatusCode::SERVICE_UNAVAILABLE.into());
            };
            let mut line = match self.line(endpoint, fresh).await {
                Ok(line) => line,
                Err(error) => {
                    debug!(backend = self.backend.name(), %endpoint, %error, "cannot connect to an endpoint");
                    avoid.push(endpoint);
                    continue;
                }
            };
            let mut spare = Spare::of(&request, false);
            let failed = match self.send(&mut line, request).await.ok_or(StatusCode::GATEWAY_TIMEOUT)? {
                Ok(response) => return Ok(Answered { response, line, endpoint, held: None }),
                Err(failed) => failed,
            };
            debug!(backend = self.backend.name(), %endpoint, error = %failed.error, "an endpoint gave no answer");
            if let Some(status) = self.client(&failed) {
                return Err(status.into());
            }
            request = match failed.unsent.or_else(|| spare.take()?.request()) {
                Some(request) => request,
                None => return Err(StatusCode::BAD_GATEWAY.into()),
            };
            // An idle connection that the backend had closed says nothing about the backend.
            if !line.reused() {
                avoid.push(endpoint);
            }
            fresh = true;
        }
        Err(StatusCode::BAD_GATEWAY.into())
    }

    async fn planned(&self, plan: &Plan<'_>, mut request: Request<RequestBody>) -> Result<Answered, Unanswered> {
        if plan.retry.is_some()
            && let Some(budget) = self.backend.budget()
        {
            budget.request(now());
        }
        let mut held = Held { permit: self.enter(plan).await?, ..Held::default() };
        let (mut avoid, mut fresh, mut tries) = (Vec::new(), self.fresh, Tries::new());
        let any = plan.retry.is_some_and(|retry| !retry.careful);
        loop {
            let (endpoint, attempt) = self.pick(plan, &avoid).ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
            let mut spare = Spare::of(&request, any);
            let (failed, again) = match self.attempt(endpoint, fresh, request).await {
                Tried::Answered(response, line) => {
                    let failed = failure(&response);
                    observe(attempt.as_ref(), failed);
                    let pause = failed.and_then(|failed| self.again(plan, &mut tries, failed));
                    let (Some(failed), Some(pause), Some(again)) = (failed, pause, spare.and_then(Spare::request))
                    else {
                        held.attempt = attempt;
                        return Ok(Answered { response, line, endpoint, held: Some(held) });
                    };
                    debug!(backend = self.backend.name(), %endpoint, ?failed, "a request is tried again");
                    drop((response, line, attempt));
                    avoid.push(endpoint);
                    request = again;
                    tokio::time::sleep(pause).await;
                    continue;
                }
                // An idle connection that the backend had closed says nothing about the backend.
                Tried::Stale(Some(again)) if tries.passed < ATTEMPTS => {
                    (tries.passed, fresh, request) = (tries.passed + 1, true, again);
                    continue;
                }
                Tried::Client(status) => return Err(status.into()),
                Tried::Stale(unsent) => (Failed::Reset { sent: unsent.is_none() }, unsent),
                Tried::Failed(failed, unsent) => (failed, unsent),
            };
            observe(attempt.as_ref(), Some(failed));
            drop(attempt);
            avoid.push(endpoint);
            let pause = self.again(plan, &mut tries, failed).ok_or_else(|| unanswered(failed))?;
            request = again.or_else(|| spare.take()?.request()).ok_or_else(|| unanswered(failed))?;
            tokio::time::sleep(pause).await;
        }
    }

    async fn enter(&self, plan: &Plan<'_>) -> Result<Option<Permit>, Unanswered> {
        let Some(group) = &plan.group else { return Ok(None) };
        group.enter(!self.way.http2).await.map(Some).map_err(|overflow| match overflow {
            Overflow::Patience => Unanswered::Status(StatusCode::GATEWAY_TIMEOUT),
            Overflow::Requests | Overflow::Pending => Unanswered::Overflow,
        })
    }

    fn pick(&self, plan: &Plan<'_>, avoid: &[SocketAddr]) -> Option<(SocketAddr, Option<Attempt>)> {
        let Some(group) = &plan.group else {
            let session = plan.session.filter(|session| !avoid.contains(session));
            let next = || self.backend.pick(avoid).or_else(|| self.backend.pick(&[]));
            return session.or_else(next).map(|endpoint| (endpoint, None));
        };
        let endpoints = self.backend.current();
        let pick = |avoid| {
            let want = Want { avoid, key: plan.key, session: plan.session };
            group.pick(now(), &endpoints, &want, rand::random())
        };
        pick(avoid).or_else(|| pick(&[])).map(|attempt| (attempt.address(), Some(attempt)))
    }

    /// The pause before another attempt; `None` when there is to be none.
    fn again(&self, plan: &Plan<'_>, tries: &mut Tries, failed: Failed) -> Option<Duration> {
        tries.made += 1;
        let passed_over = match failed {
            // Nobody has seen anything of it, and another endpoint may be there.
            Failed::Connect => true,
            Failed::Reset { .. } | Failed::Refused => plan.retry.is_none(),
            Failed::Timeout | Failed::Status(_) | Failed::Call(_) => false,
        };
        if passed_over && tries.passed + 1 < ATTEMPTS {
            tries.passed += 1;
            return Some(Duration::ZERO);
        }
        if plan.retry.is_some_and(|retry| retry.within.is_some_and(|within| tries.began.elapsed() >= within)) {
            return None;
        }
        let left = plan.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let mut counted = None;
        let withdraw = || self.backend.budget().is_none_or(|budget| budget.withdraw(now()));
        let budget = || match &plan.group {
            Some(group) if group.limits_retries() => {
                counted = group.retry();
                counted.is_some() && (group.has_budget() || withdraw())
            }
            _ => withdraw(),
        };
        let pause = plan.retry?.pause(tries.made, failed, left, rand::random(), budget);
        tries.retried = counted.or(tries.retried.take());
        pause
    }

    async fn attempt(&self, endpoint: SocketAddr, fresh: bool, request: Request<RequestBody>) -> Tried {
        let mut line = match self.line(endpoint, fresh).await {
            Ok(line) => line,
            Err(error) => {
                debug!(backend = self.backend.name(), %endpoint, %error, "cannot connect to an endpoint");
                return Tried::Failed(Failed::Connect, Some(request));
            }
        };
        // Of what a closed connection may have carried, only what may be repeated is sent on another one.
        let mut spare = if line.reused() { Spare::of(&request, false) } else { None };
        match self.send(&mut line, request).await {
            None => Tried::Failed(Failed::Timeout, None),
            Some(Ok(response)) => Tried::Answered(response, line),
            Some(Err(failed)) => {
                debug!(backend = self.backend.name(), %endpoint, error = %failed.error, "an endpoint gave no answer");
                if let Some(status) = self.client(&failed) {
                    return Tried::Client(status);
                }
                let refused = failed.is_refused();
                match failed.unsent {
                    unsent if refused => Tried::Failed(Failed::Refused, unsent),
                    Some(unsent) if line.reused() => Tried::Stale(Some(unsent)),
                    Some(unsent) => Tried::Failed(Failed::Reset { sent: false }, Some(unsent)),
                    None => match spare.take().and_then(Spare::request) {
                        Some(again) => Tried::Stale(Some(again)),
                        None => Tried::Failed(Failed::Reset { sent: true }, None),
                    },
                }
            }
        }
    }

    /// What the client is told, when its body was the reason: it broke off, was none, or took too long.
    fn client(&self, failed: &SendError) -> Option<StatusCode> {
        self.ended.blame().or_else(|| failed.error.is_user().then_some(StatusCode::BAD_REQUEST))
    }

    async fn line(&self, address: SocketAddr, fresh: bool) -> std::io::Result<Line> {
        let others = self.backend.current().len() > 1;
        let connect = self.connect.unwrap_or(if others { CONNECT_ELSE } else { CONNECT });
        Line::get(self.shared, &self.way, address, fresh, connect).await
    }

    /// `None` when it took too long.
    async fn send(
        &self,
        line: &mut Line,
        request: Request<RequestBody>,
    ) -> Option<Result<Response<Incoming>, SendError>> {
        match (self.limit, self.silence) {
            (None, None) => Some(line.send(request).await),
            (Some(limit), None) => tokio::time::timeout(limit, line.send(request)).await.ok(),
            (None, Some(silence)) => self.listen(silence, line.send(request)).await,
            (Some(limit), Some(silence)) => {
                tokio::time::timeout(limit, self.listen(silence, line.send(request))).await.ok().flatten()
            }
        }
    }

    /// Waits for an answer for as long as the request is on its way, and then until nothing came for so long.
    async fn listen<T>(&self, silence: Duration, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let before = self.ended.pieces();
            if let Ok(answer) = tokio::time::timeout(silence, answer.as_mut()).await {
                return Some(answer);
            }
            if self.ended.pieces() == before {
                return None;
            }
        }
    }
}

/// What came of one attempt; with the request, where it is certain that nothing of it was sent.
enum Tried {
    Answered(Response<Incoming>, Line),
    /// The client's body was the reason, and nobody else.
    Client(StatusCode),
    /// A connection that was used before had been closed.
    Stale(Option<Request<RequestBody>>),
    Failed(Failed, Option<Request<RequestBody>>),
}

/// The attempts of one request so far.
struct Tries {
    began: Instant,
    made: u32,
    /// Those that no endpoint has seen, and that were followed by another one at once.
    passed: usize,
    /// Counts the request among those that are tried again.
    retried: Option<Counted>,
}

impl Tries {
    fn new() -> Self {
        Tries { began: Instant::now(), made: 0, passed: 0, retried: None }
    }
}

/// What the client is told when there is no answer.
fn unanswered(failed: Failed) -> Unanswered {
    Unanswered::Status(match failed {
        Failed::Timeout => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    })
}

/// Whether an answer says that something is wrong.
fn failure(response: &Response<Incoming>) -> Option<Failed> {
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        return Some(Failed::Status(status));
    }
    call_code(response.headers()).filter(|code| *code != 0).map(Failed::Call)
}

/// Tells those who watch the endpoint.
fn observe(attempt: Option<&Attempt>, failed: Option<Failed>) {
    let answer = match failed {
        Some(Failed::Status(status)) if matches!(status.as_u16(), 502..=504) => outlier::Answer::GatewayFailure,
        Some(Failed::Status(status)) if status.is_server_error() => outlier::Answer::Failure,
        None | Some(Failed::Status(_) | Failed::Call(_)) => outlier::Answer::Success,
        Some(Failed::Connect | Failed::Refused | Failed::Reset { .. } | Failed::Timeout) => {
            outlier::Answer::GatewayFailure
        }
    };
    if let Some(attempt) = attempt {
        attempt.answered(now(), answer);
    }
}

/// What it takes to send a request again.
struct Spare {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    version: Version,
    single: Option<Single>,
    body: RequestBody,
}

impl Spare {
    /// `None` for a request that must not be sent twice, unless `any` may, or that cannot be.
    fn of(request: &Request<RequestBody>, any: bool) -> Option<Spare> {
        if !any && !repeatable(request) {
            return None;
        }
        let body = request.body().again()?;
        Some(Spare {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            version: request.version(),
            single: request.extensions().get().copied(),
            body,
        })
    }

    /// `None` when too much of it was sent already.
    fn request(self) -> Option<Request<RequestBody>> {
        let mut request = Request::new(self.body.rewound()?);
        *request.version_mut() = self.version;
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        if let Some(single) = self.single {
            request.extensions_mut().insert(single);
        }
        Some(request)
    }
}
