//! The layer that tells the detector of one endpoint's answers.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Response, StatusCode};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{Answer, Detector, Endpoint};
use crate::{moment::now, rejection::Fault};

/// Wraps the service of one endpoint. It only watches; whoever chooses endpoints asks [`Endpoint::is_ejected`].
#[derive(Clone, Debug)]
pub struct OutlierLayer {
    detector: Arc<Detector>,
    endpoint: Arc<Endpoint>,
}

impl OutlierLayer {
    /// For an endpoint that has joined the detector.
    pub fn new(detector: Arc<Detector>, endpoint: Arc<Endpoint>) -> Self {
        Self { detector, endpoint }
    }
}

impl<S> Layer<S> for OutlierLayer {
    type Service = OutlierService<S>;

    fn layer(&self, service: S) -> Self::Service {
        OutlierService { service, layer: self.clone() }
    }
}

/// See [`OutlierLayer`].
#[derive(Clone, Debug)]
pub struct OutlierService<S> {
    service: S,
    layer: OutlierLayer,
}

impl<S, Req, B> Service<Req> for OutlierService<S>
where
    S: Service<Req, Response = Response<B>>,
    S::Error: Fault,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Watched<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        Watched { future: self.service.call(request), layer: self.layer.clone() }
    }
}

pin_project! {
    /// The future of a request to an endpoint that is watched.
    #[derive(Debug)]
    pub struct Watched<F> {
        #[pin]
        future: F,
        layer: OutlierLayer,
    }
}

impl<F, B, E> Future for Watched<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Fault,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(cx));
        if let Some(answer) = Answer::of(result.as_ref().map(Response::status)) {
            this.layer.detector.record(now(), &this.layer.endpoint, answer);
        }
        Poll::Ready(result)
    }
}

impl Answer {
    /// What a status or an error says; nothing when the endpoint was not asked.
    pub fn of<E: Fault>(result: Result<StatusCode, &E>) -> Option<Self> {
        match result {
            Ok(StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) => {
                Some(Self::GatewayFailure)
            }
            Ok(status) if status.is_server_error() => Some(Self::Failure),
            Ok(_) => Some(Self::Success),
            Err(error) => match error.rejection() {
                Some(rejection) if rejection.unsent() => None,
                Some(_) | None => Some(Self::GatewayFailure),
            },
        }
    }
}
