//! The layer that refuses while the breaker is open.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tower::{Layer, Service};

use super::{Breaker, BreakerConfig, Permit, Status};
use crate::{
    classify::Classify,
    config::ConfigError,
    moment::{Moment, now},
    observe::{Ending, Observe, Observed},
    rejection::Rejection,
};

/// A breaker that several layers and threads share.
#[derive(Debug)]
pub struct CircuitBreaker(Mutex<Breaker>);

impl CircuitBreaker {
    /// A closed breaker.
    ///
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: BreakerConfig) -> Result<Self, ConfigError> {
        Breaker::new(config).map(|breaker| Self(Mutex::new(breaker)))
    }

    /// What it did when it was last asked or told something.
    pub fn status(&self) -> Status {
        self.0.lock().status()
    }
}

/// Puts a breaker in front of a service. Everything that one layer wraps shares its breaker.
#[derive(Clone, Debug)]
pub struct BreakerLayer<C> {
    breaker: Arc<CircuitBreaker>,
    classify: C,
}

impl<C> BreakerLayer<C> {
    /// A layer with a breaker of its own.
    ///
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: BreakerConfig, classify: C) -> Result<Self, ConfigError> {
        CircuitBreaker::new(config).map(|breaker| Self::sharing(Arc::new(breaker), classify))
    }

    /// A layer for a breaker that others know as well.
    pub fn sharing(breaker: Arc<CircuitBreaker>, classify: C) -> Self {
        Self { breaker, classify }
    }

    /// The breaker.
    pub fn breaker(&self) -> &Arc<CircuitBreaker> {
        &self.breaker
    }
}

impl<C: Clone, S> Layer<S> for BreakerLayer<C> {
    type Service = BreakerService<S, C>;

    fn layer(&self, service: S) -> Self::Service {
        BreakerService { service, breaker: self.breaker.clone(), classify: self.classify.clone() }
    }
}

/// See [`BreakerLayer`].
#[derive(Clone, Debug)]
pub struct BreakerService<S, C> {
    service: S,
    breaker: Arc<CircuitBreaker>,
    classify: C,
}

/// A call that a breaker has let through, and learns the end of.
#[derive(Debug)]
pub struct Permitted {
    breaker: Arc<CircuitBreaker>,
    permit: Permit,
}

impl Observe for Permitted {
    fn ended(self, now: Moment, took: Duration, ending: Ending) {
        self.breaker.0.lock().record(now, self.permit, took, ending);
    }
}

impl<S, C, Req> Service<Req> for BreakerService<S, C>
where
    S: Service<Req>,
    S::Error: From<Rejection>,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Observed<S::Future, C, Permitted>;

    /// Ready when the service is, open or not: a caller that is refused has to learn so, and not to wait.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let began = now();
        let permit = self.breaker.0.lock().admit(began);
        match permit {
            Ok(permit) => {
                let permitted = Permitted { breaker: self.breaker.clone(), permit };
                Observed::running(self.service.call(request), self.classify.clone(), permitted, began)
            }
            Err(retry_after) => Observed::refused(Rejection::CircuitOpen { retry_after }, self.classify.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tower::{BoxError, ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::{classify::ByError, rejection::Fault as _};

    #[tokio::test(start_paused = true)]
    async fn a_service_that_answers_nobody_is_found_out() {
        // callers give up after a second; no call ever fails
        let config = BreakerConfig { slow_after: Duration::from_millis(500), calls_min: 5, ..BreakerConfig::default() };
        let layer = BreakerLayer::new(config, ByError).unwrap();
        let service = ServiceBuilder::new()
            .layer(&layer)
            .service(service_fn(|()| async { pending::<Result<(), BoxError>>().await }));
        for _ in 0..5 {
            assert_eq!(layer.breaker().status(), Status::Closed);
            let call = service.clone().oneshot(());
            tokio::time::timeout(Duration::from_secs(1), call).await.unwrap_err();
        }
        let began = now();
        let error = service.oneshot(()).await.unwrap_err();
        assert_eq!(error.rejection(), Some(Rejection::CircuitOpen { retry_after: Duration::from_secs(5) }));
        assert_eq!(now(), began, "refused at once");
    }

    #[tokio::test(start_paused = true)]
    async fn it_closes_when_the_service_is_back() {
        let config = BreakerConfig { consecutive_failures: Some(2), probes: 1, ..BreakerConfig::default() };
        let layer = BreakerLayer::new(config, ByError).unwrap();
        let service = ServiceBuilder::new()
            .layer(&layer)
            .service(service_fn(|works: bool| async move { if works { Ok(()) } else { Err(BoxError::from("down")) } }));
        for _ in 0..2 {
            service.clone().oneshot(false).await.unwrap_err();
        }
        assert!(service.clone().oneshot(true).await.unwrap_err().rejection().is_some());
        tokio::time::advance(Duration::from_secs(5)).await;
        service.clone().oneshot(true).await.unwrap();
        assert_eq!(layer.breaker().status(), Status::Closed);
    }
}
