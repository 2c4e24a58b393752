//! Deadlines: how long an answer is worth waiting for, known to everybody who works on it.
//!
//! A request enters with a budget of time. Each hop takes the smallest of what it was told, what it knew, and what it
//! grants itself; counts down while it works; and tells the next hop what is left, less a margin for the way there and
//! back. When nothing is left, the request ends here with [`Rejection::DeadlineExceeded`] (504), and so does every
//! piece of work that was done on its behalf further down, at about the same time.
//!
//! **Contains:** work for callers that have gone. Without deadlines a slow server keeps answering requests whose clients
//! timed out long ago, and so has no time for those that still wait: it stays overloaded after the cause is over.
//!
//! **Can cause:** failures of requests that would have succeeded a little later, all at once, when a deadline is set
//! below what the service needs on a bad day. A deadline below the time of one try makes retries useless.
//!
//! # On the wire
//!
//! What travels is the time that is left, not a time of day: clocks of two machines differ by more than budgets are long.
//!
//! | header | value | read | written |
//! | --- | --- | --- | --- |
//! | `grpc-timeout` | one to eight digits and a unit `H`, `M`, `S`, `m`, `u`, `n` | always | where the content type is `application/grpc…` |
//! | `x-envoy-expected-rq-timeout-ms` | milliseconds in digits | always | elsewhere |
//!
//! Where both are there, the shorter holds. What cannot be read is ignored: a peer that misspells its budget has none.
//!
//! The layer covers the time until the head of the answer is there; a body that streams has its own pace. It costs a timer,
//! and two small allocations, one for the request's extension and one for the header, where they are wanted.
//!
//! ```
//! use std::{io, time::Duration};
//! use http::{Request, Response};
//! use resilience::{Failure, deadline::{Deadline, DeadlineConfig, DeadlineLayer, EXPECTED_TIMEOUT_MS}};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = DeadlineConfig { timeout: Some(Duration::from_secs(2)), ..DeadlineConfig::default() };
//! let service = ServiceBuilder::new().layer(DeadlineLayer::new(config)?).map_err(Failure::Service).service(service_fn(
//!     |request: Request<()>| async move {
//!         // give this to the requests that are made for this one
//!         let deadline = request.extensions().get::<Deadline>();
//!         assert!(deadline.is_some());
//!         assert!(request.headers().contains_key(EXPECTED_TIMEOUT_MS));
//!         Ok::<_, io::Error>(Response::new(()))
//!     },
//! ));
//! service.oneshot(Request::get("http://ledger/days").body(())?).await?;
//! # Ok(()) }
//! ```

use std::time::Duration;

use crate::{
    config::{ConfigError, check, check_duration},
    moment::Moment,
    rejection::Rejection,
};

mod header;
mod layer;

pub use header::{EXPECTED_TIMEOUT_MS, GRPC_TIMEOUT, read, write};
pub use layer::{DeadlineFuture, DeadlineLayer, DeadlineService};

/// No budget is longer than this; a peer that tells a longer one means "none".
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The moment after which nobody waits for the answer. Requests carry it in their extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Moment);

impl Deadline {
    /// The deadline at a moment.
    pub const fn at(moment: Moment) -> Self {
        Self(moment)
    }

    /// When it is.
    pub const fn moment(self) -> Moment {
        self.0
    }

    /// What is left; zero when it has passed.
    pub const fn remaining(self, now: Moment) -> Duration {
        self.0.since(now)
    }
}

/// How much time a hop gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadlineConfig {
    /// The longest that any request is given here; callers can only ask for less. `None` gives what callers ask for.
    pub timeout: Option<Duration>,
    /// What is kept back of the budget that the next hop is told: the way there and back, and the time to answer that it
    /// was too late. A request that has no more than this left is not sent on.
    pub margin: Duration,
    /// Whether the next hop is told. Off, for servers that would be confused by the headers.
    pub tell: bool,
}

impl Default for DeadlineConfig {
    /// 15 s, which people know as the default of proxies, and a millisecond for the way.
    fn default() -> Self {
        Self { timeout: Some(Duration::from_secs(15)), margin: Duration::from_millis(1), tell: true }
    }
}

impl DeadlineConfig {
    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(timeout) = self.timeout {
            check_duration("timeout", timeout, TIMEOUT_MAX)?;
            check(self.margin < timeout, "margin", "shorter than timeout", format!("{:?}", self.margin))?;
        }
        Ok(())
    }

    /// The deadline of a request that was told a budget, or is known to have a deadline already.
    ///
    /// # Errors
    /// When so little is left that it need not be tried.
    pub fn decide(
        &self,
        now: Moment,
        told: Option<Duration>,
        known: Option<Deadline>,
    ) -> Result<Option<Deadline>, Rejection> {
        let told = told.filter(|told| *told <= TIMEOUT_MAX);
        let granted = [told, self.timeout].into_iter().flatten().min().map(|budget| Deadline(now + budget));
        let deadline = [granted, known].into_iter().flatten().min();
        match deadline {
            Some(deadline) if deadline.remaining(now) <= self.margin => Err(Rejection::DeadlineExceeded),
            other => Ok(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Moment = Moment::from_nanos(1 << 50);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    proptest! {
        #[test]
        fn a_deadline_is_never_later_than_anybody_wants(
            timeout in prop::option::of(2u64..10_000), told in prop::option::of(0u64..10_000),
            known in prop::option::of(0u64..10_000),
        ) {
            let config = DeadlineConfig { timeout: timeout.map(ms), margin: ms(1), tell: true };
            let shortest = [timeout, told, known].into_iter().flatten().min();
            let decided = config.decide(NOW, told.map(ms), known.map(|known| Deadline::at(NOW + ms(known))));
            match shortest {
                None => prop_assert_eq!(decided, Ok(None)),
                Some(0 | 1) => prop_assert_eq!(decided, Err(Rejection::DeadlineExceeded)),
                Some(shortest) => prop_assert_eq!(decided, Ok(Some(Deadline::at(NOW + ms(shortest))))),
            }
        }

        #[test]
        fn budgets_shrink_from_hop_to_hop_until_nothing_is_left(hops in prop::collection::vec(0u64..300, 1..40)) {
            let config = DeadlineConfig { timeout: Some(ms(1000)), margin: ms(1), tell: true };
            let (mut now, mut told, mut spent) = (NOW, None, 0);
            for work in hops {
                let Ok(Some(deadline)) = config.decide(now, told, None) else {
                    prop_assert!(spent >= 999, "refused with {} ms spent", spent);
                    return Ok(());
                };
                prop_assert!(deadline <= Deadline::at(NOW + ms(1000)), "the first hop's deadline holds for all");
                now = now + ms(work);
                spent += work + 1;
                told = Some(deadline.remaining(now).saturating_sub(config.margin));
            }
        }
    }

    #[test]
    fn a_budget_of_days_is_none() {
        let config = DeadlineConfig { timeout: None, ..DeadlineConfig::default() };
        assert_eq!(config.decide(NOW, Some(TIMEOUT_MAX + ms(1)), None), Ok(None));
    }

    #[test]
    fn a_margin_as_long_as_the_timeout_is_refused() {
        let config = DeadlineConfig { timeout: Some(ms(1)), margin: ms(1), tell: true };
        assert_eq!(config.validate().unwrap_err().to_string(), "margin: must be shorter than timeout, not 1ms");
        let config = DeadlineConfig { timeout: Some(Duration::ZERO), margin: Duration::ZERO, tell: true };
        assert_eq!(config.validate().unwrap_err().field(), "timeout");
    }
}
