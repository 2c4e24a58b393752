//! The layer that lets so many requests through at a time.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower::{Layer, Service};

use super::{
    BulkheadConfig,
    turn::{Door, Turn},
};
use crate::{
    classify::{Classify, Outcome},
    config::ConfigError,
    moment::{Moment, now},
    observe::{Ending, Observe, Observed},
    rejection::Rejection,
};

/// Puts a bulkhead in front of a service. Everything that one layer wraps shares its places.
///
/// `classify` tells an adaptive limit which answers mean overload ([`Outcome::Failure`]): [`ByOverload`](crate::ByOverload)
/// for HTTP.
#[derive(Clone, Debug)]
pub struct BulkheadLayer<C> {
    door: Arc<Door>,
    queue_timeout: Duration,
    classify: C,
}

impl<C> BulkheadLayer<C> {
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: BulkheadConfig, classify: C) -> Result<Self, ConfigError> {
        let queue_timeout = config.queue_timeout;
        Door::new(config).map(|door| Self { door: Arc::new(door), queue_timeout, classify })
    }

    /// Places, those that are taken, and requests that wait.
    pub fn load(&self) -> (usize, usize, usize) {
        self.door.load()
    }
}

impl<C: Clone, S> Layer<S> for BulkheadLayer<C> {
    type Service = BulkheadService<S, C>;

    fn layer(&self, service: S) -> Self::Service {
        let Self { door, queue_timeout, classify } = self.clone();
        BulkheadService { service, door, queue_timeout, classify }
    }
}

/// See [`BulkheadLayer`].
#[derive(Clone, Debug)]
pub struct BulkheadService<S, C> {
    service: S,
    door: Arc<Door>,
    queue_timeout: Duration,
    classify: C,
}

/// The place of a request under way, free again when it is over.
#[derive(Debug)]
pub struct Place {
    door: Arc<Door>,
}

impl Observe for Place {
    fn ended(self, now: Moment, took: Duration, ending: Ending) {
        let sample = match ending {
            Ending::Answered(Outcome::Success) => Some((took, false)),
            Ending::Answered(Outcome::Failure) => Some((took, true)),
            Ending::Answered(Outcome::Neutral) => None,
            // it would have taken longer, so this is the least that is known of it
            Ending::Abandoned => Some((took, false)),
        };
        self.door.leave(now, sample);
    }
}

impl<S, C, Req> Service<Req> for BulkheadService<S, C>
where
    S: Service<Req> + Clone,
    S::Error: From<Rejection>,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BulkheadFuture<S, C, Req>;

    /// Ready when the service is: whoever has to wait does so in the future, where it can be given up.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let began = now();
        let classify = self.classify.clone();
        match self.door.enter(began) {
            Ok(None) => {
                let place = Place { door: self.door.clone() };
                let future = Observed::running(self.service.call(request), classify, place, began);
                BulkheadFuture { state: State::Running { future } }
            }
            Err(rejection) => {
                BulkheadFuture { state: State::Running { future: Observed::refused(rejection, classify) } }
            }
            Ok(Some(turn)) => {
                let other = self.service.clone();
                let service = mem::replace(&mut self.service, other);
                let visit = Some((service, request, classify, Place { door: self.door.clone() }));
                BulkheadFuture { state: State::Waiting { turn, visit, sleep: sleep(self.queue_timeout) } }
            }
        }
    }
}

pin_project! {
    /// The future of a request that may have to wait for its place.
    pub struct BulkheadFuture<S, C, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, C, Req, S::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, C, Req, F> {
        Waiting {
            turn: Turn,
            visit: Option<(S, Req, C, Place)>,
            #[pin]
            sleep: Sleep,
        },
        Running {
            #[pin]
            future: Observed<F, C, Place>,
        },
    }
}

impl<S, C, Req> Future for BulkheadFuture<S, C, Req>
where
    S: Service<Req>,
    S::Error: From<Rejection>,
    C: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Running { future } => return future.poll(cx),
                StateProjection::Waiting { turn, visit, sleep } => {
                    match turn.poll(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(rejection)) => return Poll::Ready(Err(rejection.into())),
                        Poll::Pending => {
                            ready!(sleep.poll(cx));
                            if turn.give_up() {
                                return Poll::Ready(Err(Rejection::QueueTimeout.into()));
                            }
                            // decided in this very moment: whoever decides wakes us
                            return Poll::Pending;
                        }
                    }
                    let Some((mut service, request, classify, place)) = visit.take() else {
                        unreachable!("a turn comes once");
                    };
                    let began = now();
                    Observed::running(service.call(request), classify, place, began)
                }
            };
            state.set(State::Running { future: next });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::task::JoinSet;
    use tower::{BoxError, ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::{classify::ByError, limit::LimitConfig, rejection::Fault as _};

    fn layer(limit: usize, queue_max: usize) -> BulkheadLayer<ByError> {
        let queue_timeout = Duration::from_millis(250);
        let config = BulkheadConfig { limit: LimitConfig::Fixed(limit), queue_max, queue_timeout, codel: None };
        BulkheadLayer::new(config, ByError).unwrap()
    }

    /// A service that takes 100 ms.
    fn service(
        layer: &BulkheadLayer<ByError>,
    ) -> impl Service<u32, Response = u32, Error = BoxError, Future: Send> + Clone + Send + 'static {
        ServiceBuilder::new().layer(layer).service(service_fn(|n: u32| async move {
            sleep(Duration::from_millis(100)).await;
            Ok::<_, BoxError>(n)
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_place_waits_and_is_refused_in_time() {
        let layer = layer(2, 6);
        let (service, began) = (service(&layer), now());
        let mut calls = JoinSet::new();
        for n in 0..9 {
            let call = service.clone().oneshot(n);
            calls.spawn(
                async move { (n, call.await.map_err(|error| error.rejection()), now().since(began).as_millis()) },
            );
        }
        let mut ends = calls.join_all().await;
        ends.sort_by_key(|(n, ..)| *n);
        let at = |ms| move |n| (n, Ok(n), ms);
        let mut expected: Vec<_> =
            [(0..2, 100), (2..4, 200), (4..6, 300)].into_iter().flat_map(|(numbers, ms)| numbers.map(at(ms))).collect();
        expected.extend([6, 7].map(|n| (n, Err(Some(Rejection::QueueTimeout)), 250)));
        expected.push((8, Err(Some(Rejection::Full)), 0));
        assert_eq!(ends, expected);
        assert_eq!(layer.load(), (2, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_gives_up_leaves_no_gap() {
        let layer = layer(1, 10);
        let service = service(&layer);
        // one runs, one waits and is dropped while it waits, one is dropped with its place decided but not taken
        let mut running = Box::pin(service.clone().oneshot(1));
        let mut waiting = Box::pin(service.clone().oneshot(2));
        let mut chosen = Box::pin(service.clone().oneshot(3));
        let mut cx = Context::from_waker(Waker::noop());
        for call in [&mut running, &mut waiting, &mut chosen] {
            assert!(call.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(layer.load(), (1, 1, 2));
        drop(waiting);
        assert_eq!(layer.load(), (1, 1, 1));
        drop(running);
        assert_eq!(layer.load(), (1, 1, 0), "the place went to the one that waited");
        drop(chosen);
        assert_eq!(layer.load(), (1, 0, 0));
        assert_eq!(service.oneshot(4).await.unwrap(), 4);
    }
}
