//! The layer that tries again.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower::{Layer, Service};

use super::{Budget, Decision, Repeatable, RetryConfig, Rules};
use crate::{config::ConfigError, deadline::Deadline, moment::now, random::Random};

/// Sends requests again that failed. See the [module](super).
#[derive(Debug)]
pub struct RetryLayer<R> {
    policy: Arc<Policy<R>>,
}

#[derive(Debug)]
struct Policy<R> {
    config: RetryConfig,
    rules: R,
    budget: Arc<Budget>,
    random: Random,
}

impl<R> RetryLayer<R> {
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: RetryConfig, rules: R, budget: Arc<Budget>) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { policy: Arc::new(Policy { config, rules, budget, random: Random::new() }) })
    }
}

impl<R> Clone for RetryLayer<R> {
    fn clone(&self) -> Self {
        Self { policy: self.policy.clone() }
    }
}

impl<R, S> Layer<S> for RetryLayer<R> {
    type Service = Retry<S, R>;

    fn layer(&self, service: S) -> Self::Service {
        Retry { service, policy: self.policy.clone() }
    }
}

/// See [`RetryLayer`].
#[derive(Debug)]
pub struct Retry<S, R> {
    service: S,
    policy: Arc<Policy<R>>,
}

impl<S: Clone, R> Clone for Retry<S, R> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), policy: self.policy.clone() }
    }
}

impl<S, R, Req> Service<Req> for Retry<S, R>
where
    S: Service<Req> + Clone,
    R: Rules<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RetryFuture<S, R, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let policy = self.policy.clone();
        policy.budget.request(now());
        let repeatable = policy.rules.repeatable(&request);
        let copied = policy.config.tries_max > 1 && repeatable != Repeatable::Never;
        let copy = copied.then(|| policy.rules.copy(&request)).flatten();
        let deadline = policy.rules.deadline(&request);
        // the service that was ready is the one to use; a clone of it need not be
        let other = self.service.clone();
        let mut service = mem::replace(&mut self.service, other);
        let state = State::Trying { future: service.call(request) };
        RetryFuture { service, policy, repeatable, deadline, copy, tries: 1, state }
    }
}

pin_project! {
    /// The future of a request and its tries.
    pub struct RetryFuture<S, R, Req>
    where
        S: Service<Req>,
    {
        service: S,
        policy: Arc<Policy<R>>,
        repeatable: Repeatable,
        deadline: Option<Deadline>,
        // what is sent next, if anything is
        copy: Option<Req>,
        tries: u32,
        #[pin]
        state: State<S::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Trying { #[pin] future: F },
        Pausing { #[pin] sleep: Sleep },
        Opening,
    }
}

impl<S, R, Req> Future for RetryFuture<S, R, Req>
where
    S: Service<Req>,
    R: Rules<Req, S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProjection::Trying { future } => {
                    let result = ready!(future.poll(cx));
                    if this.copy.is_none() {
                        return Poll::Ready(result);
                    }
                    let now = now();
                    let verdict = this.policy.rules.judge(*this.repeatable, result.as_ref());
                    let remaining = this.deadline.map(|deadline| deadline.remaining(now));
                    let Policy { config, budget, random, .. } = &**this.policy;
                    match config.decide(*this.tries, verdict, remaining, random.draw(), || budget.withdraw(now)) {
                        Decision::Stop(_) => return Poll::Ready(result),
                        Decision::Retry { after } => State::Pausing { sleep: sleep(after) },
                    }
                }
                StateProjection::Pausing { sleep } => {
                    ready!(sleep.poll(cx));
                    State::Opening
                }
                StateProjection::Opening => {
                    if let Err(error) = ready!(this.service.poll_ready(cx)) {
                        return Poll::Ready(Err(error));
                    }
                    let Some(request) = this.copy.take() else {
                        unreachable!("a pause begins only while there is a copy, which only this takes");
                    };
                    *this.tries += 1;
                    if *this.tries < this.policy.config.tries_max {
                        *this.copy = this.policy.rules.copy(&request);
                    }
                    State::Trying { future: this.service.call(request) }
                }
            };
            this.state.set(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use http::{Method, Request, Response};
    use tower::{ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::retry::{BudgetConfig, HttpRules, IDEMPOTENCY_KEY};

    /// A service whose first answers are these statuses, 0 for a cut connection, and 200 after them; and the calls it had.
    fn failing(
        statuses: &'static [u16],
        budget: BudgetConfig,
    ) -> (impl Service<Request<()>, Response = Response<()>, Error = io::Error> + Clone, Arc<AtomicU32>) {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = calls.clone();
        let service = service_fn(move |_: Request<()>| {
            let call = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                match statuses.get(call as usize).copied().unwrap_or(200) {
                    0 => Err(io::ErrorKind::ConnectionReset.into()),
                    status => Ok(Response::builder().status(status).header("retry-after", "2").body(()).unwrap()),
                }
            }
        });
        let budget = Arc::new(Budget::new(budget).unwrap());
        let layer = RetryLayer::new(RetryConfig::default(), HttpRules::default(), budget).unwrap();
        (ServiceBuilder::new().layer(layer).service(service), calls)
    }

    fn request(method: Method) -> Request<()> {
        Request::builder().method(method).body(()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_that_passes_is_not_seen() {
        let (service, calls) = failing(&[0, 503], BudgetConfig::default());
        let began = now();
        assert_eq!(service.oneshot(request(Method::GET)).await.unwrap().status(), 200);
        assert_eq!(calls.load(Ordering::Relaxed), 3);
        assert!(now().since(began) >= Duration::from_secs(2), "the server asked for two seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_failure_is_the_answer() {
        let (service, calls) = failing(&[503, 503, 502, 503], BudgetConfig::default());
        assert_eq!(service.oneshot(request(Method::GET)).await.unwrap().status(), 502);
        assert_eq!(calls.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_safe_is_sent_once() {
        let (service, calls) = failing(&[0], BudgetConfig::default());
        service.clone().oneshot(request(Method::POST)).await.unwrap_err();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        let (service, calls) = failing(&[0], BudgetConfig::default());
        let mut keyed = request(Method::POST);
        keyed.headers_mut().insert(IDEMPOTENCY_KEY, "\"k\"".parse().unwrap());
        assert_eq!(service.oneshot(keyed).await.unwrap().status(), 200);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn retries_end_with_the_budget_and_before_the_deadline() {
        let (service, calls) = failing(&[503; 100], BudgetConfig { min_per_second: 0, ..BudgetConfig::default() });
        for _ in 0..10 {
            service.clone().oneshot(request(Method::GET)).await.unwrap();
        }
        assert_eq!(calls.load(Ordering::Relaxed), 12, "a fifth of ten requests");
        let (service, calls) = failing(&[503; 100], BudgetConfig::default());
        let mut hasty = request(Method::GET);
        hasty.extensions_mut().insert(Deadline::at(now() + Duration::from_secs(1)));
        service.oneshot(hasty).await.unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 1, "two seconds of Retry-After are more than the one that is left");
    }
}
