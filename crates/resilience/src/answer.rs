//! Rejections as HTTP answers, for servers.
//!
//! Outermost in the stack of a server: what the layers below refuse becomes an answer with the status that says so, and
//! with `Retry-After` where it is known. What is left are the errors of the service itself.
//!
//! **Contains:** the connection that is closed without a word because a handler's stack ended in an error.
//!
//! **Can cause:** nothing; but a client that retries 503 at once needs a [budget](crate::retry::Budget) of its own.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use http::{Request, Response};
//! use resilience::{Failure, answer::AnswerLayer, rate::{RateConfig, RateLayer}};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = ServiceBuilder::new()
//!     .layer(AnswerLayer)
//!     .layer(RateLayer::new(RateConfig { requests: 1, per: Duration::from_secs(60), burst: 1 })?)
//!     .map_err(Failure::<Infallible>::Service)
//!     .service(service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(String::new())) }));
//! assert_eq!(service.clone().oneshot(Request::new(())).await?.status(), 200);
//! let answer = service.oneshot(Request::new(())).await?;
//! assert_eq!(answer.status(), 429);
//! assert_eq!(answer.headers()["retry-after"], "60");
//! # Ok(()) }
//! ```

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Response, header::RETRY_AFTER};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::rejection::{Failure, Rejection};

/// Answers what layers below it refuse.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerLayer;

impl<S> Layer<S> for AnswerLayer {
    type Service = AnswerService<S>;

    fn layer(&self, service: S) -> Self::Service {
        AnswerService { service }
    }
}

/// See [`AnswerLayer`].
#[derive(Clone, Debug)]
pub struct AnswerService<S> {
    service: S,
}

impl<S, Req, B, E> Service<Req> for AnswerService<S>
where
    S: Service<Req, Response = Response<B>, Error = Failure<E>>,
    B: Default,
{
    type Response = S::Response;
    type Error = E;
    type Future = AnswerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        match ready!(self.service.poll_ready(cx)) {
            Err(Failure::Service(error)) => Poll::Ready(Err(error)),
            // layers refuse requests, and none has been seen yet
            Ok(()) | Err(Failure::Rejected(_)) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        AnswerFuture { future: self.service.call(request) }
    }
}

pin_project! {
    /// The future of a request that is answered in any case.
    #[derive(Debug)]
    pub struct AnswerFuture<F> {
        #[pin]
        future: F,
    }
}

impl<F, B, E> Future for AnswerFuture<F>
where
    F: Future<Output = Result<Response<B>, Failure<E>>>,
    B: Default,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.project().future.poll(cx)) {
            Ok(response) => Ok(response),
            Err(Failure::Rejected(rejection)) => Ok(response(rejection)),
            Err(Failure::Service(error)) => Err(error),
        })
    }
}

/// The answer that says a rejection, with an empty body.
pub fn response<B: Default>(rejection: Rejection) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = rejection.status();
    if let Some(time) = rejection.retry_after() {
        // rounded up: whoever comes back a moment too early is refused again
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_rejection_has_its_status_and_says_when_to_come_back() {
        let of = |rejection| {
            let response = response::<()>(rejection);
            let retry_after = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
            (response.status().as_u16(), retry_after)
        };
        let retry_after = Duration::from_millis(1001);
        assert_eq!(of(Rejection::RateLimited { retry_after }), (429, Some("2".to_owned())));
        assert_eq!(of(Rejection::CircuitOpen { retry_after }), (503, Some("2".to_owned())));
        assert_eq!(of(Rejection::DeadlineExceeded), (504, None));
        for rejection in [Rejection::Full, Rejection::QueueTimeout, Rejection::Shed] {
            assert_eq!(of(rejection), (503, None));
        }
    }
}
