//! The layer that sheds.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use parking_lot::Mutex;
use tower::{Layer, Service};

use super::{Criticality, ShedConfig, Shedder};
use crate::{
    classify::{ByError, Classify},
    config::ConfigError,
    moment::{Moment, now},
    observe::{Ending, Observe, Observed},
    random::Random,
    rejection::Rejection,
};

/// Says how much a request matters; every closure over a request does.
pub trait Prioritise<Request> {
    /// How much it matters.
    fn criticality(&self, request: &Request) -> Criticality;
}

impl<R, F: Fn(&R) -> Criticality> Prioritise<R> for F {
    fn criticality(&self, request: &R) -> Criticality {
        self(request)
    }
}

/// By the [`Criticality`] in the request's extensions, put there by whoever knows; [`Criticality::Critical`] without one.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByExtension;

impl<B> Prioritise<Request<B>> for ByExtension {
    fn criticality(&self, request: &Request<B>) -> Criticality {
        request.extensions().get().copied().unwrap_or_default()
    }
}

/// Sheds load in front of a service. Everything that one layer wraps is one service to it.
#[derive(Clone, Debug)]
pub struct ShedLayer<P> {
    shared: Arc<Shared>,
    prioritise: P,
}

#[derive(Debug)]
struct Shared {
    shedder: Mutex<Shedder>,
    random: Random,
}

impl<P> ShedLayer<P> {
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: ShedConfig, prioritise: P) -> Result<Self, ConfigError> {
        let shedder = Mutex::new(Shedder::new(config)?);
        Ok(Self { shared: Arc::new(Shared { shedder, random: Random::new() }), prioritise })
    }

    /// The share of requests that is shed at the moment.
    pub fn share(&self) -> f64 {
        self.shared.shedder.lock().share()
    }
}

impl<P: Clone, S> Layer<S> for ShedLayer<P> {
    type Service = ShedService<S, P>;

    fn layer(&self, service: S) -> Self::Service {
        ShedService { service, shared: self.shared.clone(), prioritise: self.prioritise.clone() }
    }
}

/// See [`ShedLayer`].
#[derive(Clone, Debug)]
pub struct ShedService<S, P> {
    service: S,
    shared: Arc<Shared>,
    prioritise: P,
}

/// A request that was let through.
#[derive(Debug)]
pub struct Shedding {
    shared: Arc<Shared>,
}

impl Observe for Shedding {
    fn ended(self, now: Moment, took: Duration, _ending: Ending) {
        // one that was given up would have taken at least this long, which is what the fastest is compared with
        self.shared.shedder.lock().answered(now, took);
    }
}

impl<S, P, Req> Service<Req> for ShedService<S, P>
where
    S: Service<Req>,
    S::Error: From<Rejection>,
    P: Prioritise<Req>,
    ByError: Classify<S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Observed<S::Future, ByError, Shedding>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let began = now();
        let criticality = self.prioritise.criticality(&request);
        let random = self.shared.random.draw();
        let admits = self.shared.shedder.lock().admits(began, criticality, random);
        if admits {
            let shedding = Shedding { shared: self.shared.clone() };
            Observed::running(self.service.call(request), ByError, shedding, began)
        } else {
            Observed::refused(Rejection::Shed, ByError)
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;
    use tower::{BoxError, ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::rejection::Fault as _;

    #[tokio::test(start_paused = true)]
    async fn a_service_that_got_slow_serves_what_matters() {
        let layer = ShedLayer::new(ShedConfig::default(), ByExtension).unwrap();
        let service = ServiceBuilder::new().layer(&layer).service(service_fn(|_: Request<()>| async {
            sleep(Duration::from_millis(300)).await;
            Ok::<_, BoxError>(())
        }));
        let request = |criticality: Criticality| Request::builder().extension(criticality).body(()).unwrap();
        for _ in 0..4 {
            service.clone().oneshot(request(Criticality::CriticalPlus)).await.unwrap();
        }
        assert!(layer.share() > 0.25);
        let error = service.clone().oneshot(request(Criticality::Sheddable)).await.unwrap_err();
        assert_eq!(error.rejection(), Some(Rejection::Shed));
        service.oneshot(request(Criticality::CriticalPlus)).await.unwrap();
    }
}
