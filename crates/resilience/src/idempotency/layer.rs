//! The layer that answers from the store.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response,
    header::{CONNECTION, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::timeout;
use tower::{Layer, Service, ServiceExt as _};

use super::{
    Caller, Duplicate, IdempotencyConfig,
    body::{self, Buffered, Read},
    fingerprint,
    key::Key,
    problem::Problem,
    record_id,
    store::{Answer, Begin, Fingerprint, Lease, RecordId, Store},
};
use crate::{config::ConfigError, moment::now};

/// Says that an answer was given before.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Headers of one connection, which mean nothing in another.
const HOP_BY_HOP: [HeaderName; 6] =
    [CONNECTION, HeaderName::from_static("keep-alive"), TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Does requests with the same key once. See the [module](super).
#[derive(Debug)]
pub struct IdempotencyLayer<St, C> {
    shared: Arc<Shared<St, C>>,
}

#[derive(Debug)]
struct Shared<St, C> {
    config: IdempotencyConfig,
    store: St,
    caller: C,
}

impl<St: Store, C: Caller> IdempotencyLayer<St, C> {
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: IdempotencyConfig, store: St, caller: C) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { shared: Arc::new(Shared { config, store, caller }) })
    }
}

impl<St, C> Clone for IdempotencyLayer<St, C> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<S, St, C> Layer<S> for IdempotencyLayer<St, C> {
    type Service = Idempotency<S, St, C>;

    fn layer(&self, service: S) -> Self::Service {
        Idempotency { service, shared: self.shared.clone() }
    }
}

/// See [`IdempotencyLayer`].
#[derive(Debug)]
pub struct Idempotency<S, St, C> {
    service: S,
    shared: Arc<Shared<St, C>>,
}

impl<S: Clone, St, C> Clone for Idempotency<S, St, C> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), shared: self.shared.clone() }
    }
}

impl<S, St, C, B, R> Service<Request<B>> for Idempotency<S, St, C>
where
    S: Service<Request<Buffered<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    St: Store,
    C: Caller + Send + Sync + 'static,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Send,
    R: Body<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send,
{
    type Response = Response<Buffered<R>>;
    type Error = S::Error;
    type Future = IdempotencyFuture<S::Future, Response<Buffered<R>>, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let config = &self.shared.config;
        let key = match Key::read(request.headers()) {
            _ if !config.methods.contains(request.method()) => Ok(None),
            Ok(None) if config.required => Err(Problem::Missing),
            read => read.map_err(Problem::from),
        };
        let state = match key {
            Ok(None) => State::Passing { future: self.service.call(request.map(Buffered::unread)) },
            Ok(Some(key)) => {
                let other = self.service.clone();
                let service = mem::replace(&mut self.service, other);
                let keyed = Keyed { shared: self.shared.clone(), service };
                State::Keyed { future: Box::pin(keyed.answer(key, request)) }
            }
            Err(problem) => State::Keyed { future: Box::pin(async move { Ok(problem.response()) }) },
        };
        IdempotencyFuture { state }
    }
}

type BoxFuture<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

pin_project! {
    /// The future of a request with or without a key.
    pub struct IdempotencyFuture<F, T, E> {
        #[pin]
        state: State<F, T, E>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, T, E> {
        Passing { #[pin] future: F },
        Keyed { future: BoxFuture<T, E> },
    }
}

impl<F, R, E> Future for IdempotencyFuture<F, Response<Buffered<R>>, E>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<Buffered<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Passing { future } => future.poll(cx).map_ok(|response| response.map(Buffered::unread)),
            StateProjection::Keyed { future } => future.as_mut().poll(cx),
        }
    }
}

/// A request with a key on its way.
struct Keyed<S, St, C> {
    shared: Arc<Shared<St, C>>,
    service: S,
}

/// A record that is ours to fill, given up when that does not happen.
struct Claim<'a, St: Store> {
    store: &'a St,
    id: RecordId,
    lease: Lease,
    kept: bool,
}

impl<St: Store> Drop for Claim<'_, St> {
    fn drop(&mut self) {
        if !self.kept {
            self.store.give_up(self.id, self.lease);
        }
    }
}

impl<S, St: Store, C: Caller> Keyed<S, St, C> {
    async fn answer<B, R>(self, key: Key, request: Request<B>) -> Result<Response<Buffered<R>>, S::Error>
    where
        S: Service<Request<Buffered<B>>, Response = Response<R>>,
        B: Body<Data = Bytes> + Unpin,
        R: Body<Data = Bytes> + Unpin,
    {
        let Self { shared, service } = self;
        let Shared { config, store, caller } = &*shared;
        let (parts, body) = request.into_parts();
        let body = match body::read(body, config.request_bytes_max).await {
            Ok(Read::Whole(body)) => body,
            Ok(Read::TooLarge(_)) => return Ok(Problem::TooLarge(config.request_bytes_max).response()),
            Err(_) => return Ok(Problem::Request.response()),
        };
        let id = record_id(host(&parts), &caller.caller(&parts), &key);
        let lease = match claim(config, store, id, fingerprint(&parts, &body)).await {
            Ok(Claimed::Ours(lease)) => lease,
            Ok(Claimed::Done(answer)) => return Ok(replay(answer)),
            Err(problem) => return Ok(problem.response()),
        };
        let mut claim = Claim { store, id, lease, kept: false };
        let response = service.oneshot(Request::from_parts(parts, Buffered::whole(body))).await?;
        let (parts, body) = response.into_parts();
        if !(parts.status.is_success() || parts.status.is_redirection()) {
            return Ok(Response::from_parts(parts, Buffered::unread(body)));
        }
        let (kept, body) = match body::read(body, config.answer_bytes_max).await {
            Ok(Read::Whole(body)) => (Some(body.clone()), Buffered::whole(body)),
            Ok(Read::TooLarge(body)) => (None, body),
            Err(_) => return Ok(Problem::Answer.response()),
        };
        let answer = Answer { status: parts.status, headers: end_to_end(&parts.headers), body: kept };
        // a store that fails now leaves the claim to run out: the client has its answer, and asks again only much later
        claim.kept = true;
        let _ = store.finish(now(), id, lease, answer).await;
        Ok(Response::from_parts(parts, body))
    }
}

enum Claimed {
    Ours(Lease),
    Done(Answer),
}

/// Claims a record, or waits for the answer of who has.
async fn claim<St: Store>(
    config: &IdempotencyConfig,
    store: &St,
    id: RecordId,
    fingerprint: Fingerprint,
) -> Result<Claimed, Problem> {
    let begin = async || store.begin(now(), id, fingerprint, config.lease).await.map_err(|_| Problem::Store);
    let decide = |begin: Begin| match begin {
        Begin::Claimed(lease) => Ok(Some(Claimed::Ours(lease))),
        Begin::Done(answer) => Ok(Some(Claimed::Done(answer))),
        Begin::Mismatch => Err(Problem::Mismatch),
        Begin::InProgress => Ok(None),
    };
    if let Some(claimed) = decide(begin().await?)? {
        return Ok(claimed);
    }
    let Duplicate::Wait(patience) = config.duplicate else { return Err(Problem::InProgress) };
    let wait = async {
        loop {
            store.changed(id).await;
            if let Some(claimed) = decide(begin().await?)? {
                return Ok(claimed);
            }
        }
    };
    timeout(patience, wait).await.unwrap_or(Err(Problem::InProgress))
}

fn replay<R>(answer: Answer) -> Response<Buffered<R>> {
    let Answer { status, headers, body: Some(body) } = answer else { return Problem::NotKept.response() };
    let mut response = Response::new(Buffered::whole(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

fn host(request: &Parts) -> &[u8] {
    match request.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => request.headers.get(HOST).map_or(b"", |host| host.as_bytes()),
    }
}

fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers
}
