//! The layer that refuses what exceeds a rate.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{Limiter, RateConfig};
use crate::{config::ConfigError, moment::now, rejection::Rejection};

/// Limits the rate of a service's requests. Everything that one layer wraps shares the limit. For one limit per caller, ask
/// [`Limiters`](super::Limiters) where callers are known.
#[derive(Clone, Debug)]
pub struct RateLayer {
    limiter: Arc<Limiter>,
}

impl RateLayer {
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: RateConfig) -> Result<Self, ConfigError> {
        Limiter::new(config).map(|limiter| Self { limiter: Arc::new(limiter) })
    }
}

impl<S> Layer<S> for RateLayer {
    type Service = RateService<S>;

    fn layer(&self, service: S) -> Self::Service {
        RateService { service, limiter: self.limiter.clone() }
    }
}

/// See [`RateLayer`].
#[derive(Clone, Debug)]
pub struct RateService<S> {
    service: S,
    limiter: Arc<Limiter>,
}

impl<S, Req> Service<Req> for RateService<S>
where
    S: Service<Req>,
    S::Error: From<Rejection>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RateFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let state = match self.limiter.take(now(), 1) {
            Ok(()) => State::Running { future: self.service.call(request) },
            Err(retry_after) => State::Refused { rejection: Rejection::RateLimited { retry_after } },
        };
        RateFuture { state }
    }
}

pin_project! {
    /// The future of a request within the rate, or of one above it.
    #[derive(Debug)]
    pub struct RateFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        Refused { rejection: Rejection },
        Running { #[pin] future: F },
    }
}

impl<F, T, E> Future for RateFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: From<Rejection>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Refused { rejection } => Poll::Ready(Err((*rejection).into())),
            StateProjection::Running { future } => future.poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tower::{BoxError, ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::rejection::Fault as _;

    #[tokio::test(start_paused = true)]
    async fn what_exceeds_the_rate_is_told_when_to_come_back() {
        let layer = RateLayer::new(RateConfig { requests: 2, per: Duration::from_secs(1), burst: 1 }).unwrap();
        let service = ServiceBuilder::new().layer(layer).service(service_fn(|()| async { Ok::<_, BoxError>(()) }));
        service.clone().oneshot(()).await.unwrap();
        let error = service.clone().oneshot(()).await.unwrap_err();
        let retry_after = Duration::from_millis(500);
        assert_eq!(error.rejection(), Some(Rejection::RateLimited { retry_after }));
        tokio::time::advance(retry_after).await;
        service.oneshot(()).await.unwrap();
    }
}
