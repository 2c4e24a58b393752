//! The layer that asks twice.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower::{Layer, Service};

use super::{HedgeConfig, Hedger};
use crate::{
    config::ConfigError,
    moment::{Moment, now},
    retry::{Budget, Repeatable, Rules, Verdict},
};

/// Sends requests a second time that take unusually long. See the [module](super).
#[derive(Debug)]
pub struct HedgeLayer<R> {
    policy: Arc<Policy<R>>,
}

#[derive(Debug)]
struct Policy<R> {
    hedger: Mutex<Hedger>,
    rules: R,
    budget: Arc<Budget>,
}

impl<R> HedgeLayer<R> {
    /// A layer whose hedges are taken from a budget: one of its own, to which it tells of each request. Retries around it
    /// have another.
    ///
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: HedgeConfig, rules: R, budget: Arc<Budget>) -> Result<Self, ConfigError> {
        let hedger = Mutex::new(Hedger::new(config)?);
        Ok(Self { policy: Arc::new(Policy { hedger, rules, budget }) })
    }
}

impl<R> Clone for HedgeLayer<R> {
    fn clone(&self) -> Self {
        Self { policy: self.policy.clone() }
    }
}

impl<R, S> Layer<S> for HedgeLayer<R> {
    type Service = Hedge<S, R>;

    fn layer(&self, service: S) -> Self::Service {
        Hedge { service, policy: self.policy.clone() }
    }
}

/// See [`HedgeLayer`].
#[derive(Debug)]
pub struct Hedge<S, R> {
    service: S,
    policy: Arc<Policy<R>>,
}

impl<S: Clone, R> Clone for Hedge<S, R> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), policy: self.policy.clone() }
    }
}

impl<S, R, Req> Service<Req> for Hedge<S, R>
where
    S: Service<Req> + Clone,
    R: Rules<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = HedgeFuture<S, R, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let policy = self.policy.clone();
        let began = now();
        let (enabled, delay) = {
            let mut hedger = policy.hedger.lock();
            (hedger.enabled(), hedger.delay(began))
        };
        if enabled {
            policy.budget.request(began);
        }
        let wait = delay.filter(|_| policy.rules.repeatable(&request) == Repeatable::Always);
        let copy = wait.and_then(|delay| Some((policy.rules.copy(&request)?, delay)));
        let other = self.service.clone();
        let mut service = mem::replace(&mut self.service, other);
        let first = service.call(request);
        let second = match copy {
            Some((copy, delay)) => Second::Waiting { copy: Some(copy), sleep: sleep(delay) },
            None => Second::None,
        };
        HedgeFuture { service, policy, began, enabled, first: First::Running { future: first }, second }
    }
}

pin_project! {
    /// The future of a request and, where it takes long, of a second one.
    pub struct HedgeFuture<S, R, Req>
    where
        S: Service<Req>,
    {
        service: S,
        policy: Arc<Policy<R>>,
        began: Moment,
        enabled: bool,
        #[pin]
        first: First<S::Future>,
        #[pin]
        second: Second<S::Future, Req>,
    }
}

pin_project! {
    #[project = FirstProjection]
    enum First<F> {
        Running { #[pin] future: F },
        Failed,
    }
}

pin_project! {
    #[project = SecondProjection]
    enum Second<F, Req> {
        // there is none, or there is one no longer
        None,
        Waiting { copy: Option<Req>, #[pin] sleep: Sleep },
        Opening { copy: Option<Req> },
        Running { #[pin] future: F },
    }
}

impl<S, R, Req> Future for HedgeFuture<S, R, Req>
where
    S: Service<Req>,
    R: Rules<Req, S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let (policy, began) = (&**this.policy, *this.began);
        let finish = |result: Self::Output| {
            if *this.enabled && result.is_ok() {
                // of a request whose hedge won this is less than it would have taken, which is all that is known
                policy.hedger.lock().answered(now().since(began));
            }
            Poll::Ready(result)
        };
        if let FirstProjection::Running { future } = this.first.as_mut().project()
            && let Poll::Ready(result) = future.poll(cx)
        {
            let failed = policy.rules.judge(Repeatable::Always, result.as_ref()) != Verdict::Final;
            // the hedge that is under way may do better; one that is not is no retry
            if !(failed && matches!(*this.second, Second::Running { .. })) {
                return finish(result);
            }
            this.first.set(First::Failed);
        }
        loop {
            let next = match this.second.as_mut().project() {
                SecondProjection::None => return Poll::Pending,
                SecondProjection::Waiting { copy, sleep } => {
                    if sleep.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if !policy.budget.withdraw(now()) {
                        this.second.set(Second::None);
                        return Poll::Pending;
                    }
                    Second::Opening { copy: copy.take() }
                }
                SecondProjection::Opening { copy } => match (this.service.poll_ready(cx), copy.take()) {
                    (Poll::Pending, waiting) => {
                        *copy = waiting;
                        return Poll::Pending;
                    }
                    (Poll::Ready(Ok(())), Some(request)) => Second::Running { future: this.service.call(request) },
                    (Poll::Ready(_), _) => Second::None,
                },
                SecondProjection::Running { future } => {
                    let Poll::Ready(result) = future.poll(cx) else { return Poll::Pending };
                    let failed = policy.rules.judge(Repeatable::Always, result.as_ref()) != Verdict::Final;
                    if failed && matches!(*this.first, First::Running { .. }) {
                        this.second.set(Second::None);
                        return Poll::Pending;
                    }
                    return finish(result);
                }
            };
            this.second.set(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use http::{Method, Request, Response};
    use tower::{BoxError, ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::retry::{BudgetConfig, HttpRules};

    /// A hedged service that answers after so many milliseconds as its n-th request says, 10 past the end; and its calls.
    fn service(
        ms: &'static [u64],
        percentile: Option<f64>,
    ) -> (impl Service<Request<()>, Response = Response<()>, Error = BoxError> + Clone, Arc<AtomicU32>) {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = calls.clone();
        let slow = service_fn(move |_: Request<()>| {
            let call = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                sleep(Duration::from_millis(ms.get(call as usize).copied().unwrap_or(10))).await;
                Ok::<_, BoxError>(Response::new(()))
            }
        });
        let config = HedgeConfig { percentile, samples_min: 20, ..HedgeConfig::default() };
        let budget = Arc::new(Budget::new(BudgetConfig { min_per_second: 0, ..BudgetConfig::default() }).unwrap());
        let layer = HedgeLayer::new(config, HttpRules::default(), budget).unwrap();
        (ServiceBuilder::new().layer(layer).service(slow), calls)
    }

    const WARM: usize = 120;

    /// 120 answers of 10 ms, and then one of a second.
    static ONE_SLOW: [u64; WARM + 1] = {
        let mut ms = [10; WARM + 1];
        ms[WARM] = 1000;
        ms
    };

    async fn took<S>(service: &S, method: Method) -> u128
    where
        S: Service<Request<()>, Response = Response<()>, Error = BoxError> + Clone,
    {
        let began = now();
        let request = Request::builder().method(method).body(()).unwrap();
        service.clone().oneshot(request).await.unwrap();
        now().since(began).as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_takes_unusually_long_is_overtaken() {
        let (service, calls) = service(&ONE_SLOW, Some(0.95));
        for _ in 0..WARM {
            assert_eq!(took(&service, Method::GET).await, 10);
        }
        let took = took(&service, Method::GET).await;
        assert!((20..25).contains(&took), "{took} ms: the usual time twice");
        assert_eq!(calls.load(Ordering::Relaxed), WARM as u32 + 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_must_not_happen_twice_is_waited_for() {
        let (service, calls) = service(&ONE_SLOW, Some(0.95));
        for _ in 0..WARM {
            took(&service, Method::POST).await;
        }
        assert_eq!(took(&service, Method::POST).await, 1000);
        assert_eq!(calls.load(Ordering::Relaxed), WARM as u32 + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_hedged_by_default() {
        let (service, calls) = service(&ONE_SLOW, None);
        for _ in 0..=WARM {
            took(&service, Method::GET).await;
        }
        assert_eq!(calls.load(Ordering::Relaxed), WARM as u32 + 1);
    }
}
