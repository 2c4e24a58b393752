//! The layer that keeps deadlines, on either side of a connection.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Request;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower::{Layer, Service};

use super::{Deadline, DeadlineConfig, header};
use crate::{config::ConfigError, moment::now, rejection::Rejection};

/// Gives every request a deadline, tells the next hop, and ends what takes longer.
///
/// A server puts it outermost. A client puts it around its retries, for all tries together, and may put a second one with a
/// shorter timeout inside of them, for each.
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    config: Arc<DeadlineConfig>,
}

impl DeadlineLayer {
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: DeadlineConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config: Arc::new(config) })
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, service: S) -> Self::Service {
        DeadlineService { service, config: self.config.clone() }
    }
}

/// See [`DeadlineLayer`].
#[derive(Clone, Debug)]
pub struct DeadlineService<S> {
    service: S,
    config: Arc<DeadlineConfig>,
}

impl<S, B> Service<Request<B>> for DeadlineService<S>
where
    S: Service<Request<B>>,
    S::Error: From<Rejection>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let now = now();
        let told = header::read(request.headers());
        let known = request.extensions().get::<Deadline>().copied();
        let state = match self.config.decide(now, told, known) {
            Err(_) => State::Over,
            Ok(None) => State::Unlimited { future: self.service.call(request) },
            Ok(Some(deadline)) => {
                let remaining = deadline.remaining(now);
                if known != Some(deadline) {
                    request.extensions_mut().insert(deadline);
                }
                if self.config.tell {
                    header::write(request.headers_mut(), remaining.saturating_sub(self.config.margin));
                }
                State::Limited { future: self.service.call(request), sleep: sleep(remaining) }
            }
        };
        DeadlineFuture { state }
    }
}

pin_project! {
    /// The future of a request with a deadline.
    #[derive(Debug)]
    pub struct DeadlineFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        // its time was over when it came
        Over,
        Unlimited { #[pin] future: F },
        Limited { #[pin] future: F, #[pin] sleep: Sleep },
    }
}

impl<F, T, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: From<Rejection>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Over => {}
            StateProjection::Unlimited { future } => return future.poll(cx),
            StateProjection::Limited { future, sleep } => {
                // an answer that is there is given, however late it is looked at
                if let Poll::Ready(result) = future.poll(cx) {
                    return Poll::Ready(result);
                }
                ready!(sleep.poll(cx));
            }
        }
        Poll::Ready(Err(Rejection::DeadlineExceeded.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Response;
    use tower::{BoxError, ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::{deadline::EXPECTED_TIMEOUT_MS, rejection::Fault as _};

    fn layer(timeout_ms: u64) -> DeadlineLayer {
        let timeout = Some(Duration::from_millis(timeout_ms));
        DeadlineLayer::new(DeadlineConfig { timeout, ..DeadlineConfig::default() }).unwrap()
    }

    fn asking(ms: u64) -> Request<()> {
        Request::builder().header(EXPECTED_TIMEOUT_MS, ms).body(()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_ends_and_the_next_hop_knows_less() {
        // two hops in one process: the outer works for 300 ms and passes the request on as it is
        let inner = ServiceBuilder::new().layer(layer(1000)).service(service_fn(|request: Request<()>| async move {
            let told: u64 = request.headers()[EXPECTED_TIMEOUT_MS].to_str().unwrap().parse().unwrap();
            sleep(Duration::from_millis(400)).await;
            Ok::<_, BoxError>(Response::new(told))
        }));
        let outer = ServiceBuilder::new().layer(layer(1000)).service(service_fn(move |mut request: Request<()>| {
            let inner = inner.clone();
            async move {
                sleep(Duration::from_millis(300)).await;
                request.headers_mut().remove(EXPECTED_TIMEOUT_MS);
                inner.oneshot(request).await
            }
        }));
        let told = *outer.clone().oneshot(asking(5000)).await.unwrap().body();
        assert_eq!(told, 699, "1,000 ms are granted, 300 are spent, one is kept for the way");
        let began = now();
        let error = outer.clone().oneshot(asking(600)).await.unwrap_err();
        assert_eq!(error.rejection(), Some(Rejection::DeadlineExceeded));
        assert_eq!(now().since(began), Duration::from_millis(600));
        let error = outer.oneshot(asking(1)).await.unwrap_err();
        assert_eq!(error.rejection(), Some(Rejection::DeadlineExceeded), "too little to begin with");
    }
}
