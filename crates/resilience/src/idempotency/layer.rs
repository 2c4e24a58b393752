//! The layer that answers from the store.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::{Layer, Service, ServiceExt as _};

use super::{
    Caller, IdempotencyConfig,
    body::Buffered,
    keeper::{Begun, Keeper},
    key::Key,
    store::Store,
};
use crate::config::ConfigError;

/// Does requests with the same key once. See the [module](super).
#[derive(Debug)]
pub struct IdempotencyLayer<St, C> {
    shared: Arc<Shared<St, C>>,
}

#[derive(Debug)]
struct Shared<St, C> {
    keeper: Keeper<St>,
    caller: C,
}

impl<St: Store, C: Caller> IdempotencyLayer<St, C> {
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: IdempotencyConfig, store: St, caller: C) -> Result<Self, ConfigError> {
        Ok(Self { shared: Arc::new(Shared { keeper: Keeper::new(config, store)?, caller }) })
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
        let key = self.shared.keeper.key(request.method(), request.headers());
        let state = match key {
            Ok(None) => State::Passing { future: self.service.call(request.map(Buffered::unread)) },
            Ok(Some(key)) => {
                let other = self.service.clone();
                let service = mem::replace(&mut self.service, other);
                let keyed = Keyed { shared: self.shared.clone(), service };
                State::Keyed { future: Box::pin(keyed.answer(key, request)) }
            }
            Err(problem) => {
                State::Keyed { future: Box::pin(async move { Ok(problem.response().map(Buffered::whole)) }) }
            }
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

impl<S, St: Store, C: Caller> Keyed<S, St, C> {
    async fn answer<B, R>(self, key: Key, request: Request<B>) -> Result<Response<Buffered<R>>, S::Error>
    where
        S: Service<Request<Buffered<B>>, Response = Response<R>>,
        B: Body<Data = Bytes> + Unpin,
        R: Body<Data = Bytes> + Unpin,
    {
        let (parts, body) = request.into_parts();
        let caller = self.shared.caller.caller(&parts);
        match self.shared.keeper.begin(&key, &caller, &parts, body).await {
            Ok(Begun::Done(answer)) => Ok(answer.map(Buffered::whole)),
            Err(problem) => Ok(problem.response().map(Buffered::whole)),
            Ok(Begun::Ours(claim, body)) => {
                drop(caller);
                match self.service.oneshot(Request::from_parts(parts, Buffered::whole(body))).await {
                    Ok(response) => Ok(claim.finish(response).await),
                    Err(error) => {
                        claim.release().await;
                        Err(error)
                    }
                }
            }
        }
    }
}
