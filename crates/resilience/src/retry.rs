//! Retries: a second chance for requests that may have one, as long as few need it.
//!
//! A request that failed is sent again when the [`Rules`] say that doing so is safe, after a pause that grows and is random
//! ([`Backoff`]), within the request's deadline, and only while a [`Budget`] of retries for all requests together lasts.
//!
//! **Contains:** faults that pass: a connection that was cut, an instance that was replaced, one answer in a hundred that
//! fails.
//!
//! **Can cause:** a retry storm. When everything fails, three tries per request are three times the load, on top of what
//! made it fail; layers of retries multiply. The budget is what prevents that: when most requests fail, only a fifth of
//! them is sent again. So retry in one place, the one closest to the failure, and nowhere without a budget. Sending a
//! request twice that changes something can change it twice: only methods that HTTP calls idempotent are sent again, and
//! requests with an `Idempotency-Key`; others only when it is certain that nothing of them was sent.
//!
//! Keeping a request to send it again costs a copy of its head, for those the rules would send again, and of its body, which
//! should be cheap to copy (`Bytes`, `Full<Bytes>`).
//!
//! ```
//! use std::{io, sync::Arc};
//! use http::{Request, Response};
//! use resilience::retry::{Budget, BudgetConfig, HttpRules, RetryConfig, RetryLayer};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // one budget for everything that is sent to the same service
//! let budget = Arc::new(Budget::new(BudgetConfig::default())?);
//! let service = ServiceBuilder::new()
//!     .layer(RetryLayer::new(RetryConfig::default(), HttpRules::default(), budget)?)
//!     .service(service_fn(|_request: Request<()>| async { Ok::<_, io::Error>(Response::new(())) }));
//! service.oneshot(Request::get("http://ledger/days").body(())?).await?;
//! # Ok(()) }
//! ```

use std::time::Duration;

use crate::config::{ConfigError, check, check_duration};

mod backoff;
mod budget;
mod http_rules;
mod layer;
mod rules;

pub use backoff::{Backoff, PAUSE_MAX};
pub use budget::{Budget, BudgetConfig};
pub use http_rules::{HttpRules, IDEMPOTENCY_KEY};
pub use layer::{Retry, RetryFuture, RetryLayer};
pub use rules::{Repeatable, Rules, Verdict};

/// More tries than this in a row find out nothing that the first did not.
pub const TRIES_MAX: u32 = 20;
/// Nobody waits longer than this because a server said so.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// How often and how soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// Tries altogether, the first one included; 1 retries nothing.
    pub tries_max: u32,
    /// Pauses between tries.
    pub backoff: Backoff,
    /// The longest `Retry-After` that is waited for; a server that asks for more gets no retry.
    pub retry_after_max: Duration,
}

impl Default for RetryConfig {
    /// Three tries: of faults that are independent, the third finds almost all that a hundredth would.
    fn default() -> Self {
        Self { tries_max: 3, backoff: Backoff::default(), retry_after_max: Duration::from_secs(5) }
    }
}

/// What comes after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Another one, after a pause.
    Retry {
        /// The pause.
        after: Duration,
    },
    /// Its result is the result.
    Stop(Stop),
}

/// Why there is no further try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The rules say that this answer stands.
    Final,
    /// It was the last one.
    Tries,
    /// The server asked for more patience than there is.
    RetryAfter,
    /// The deadline would pass during the pause.
    Deadline,
    /// Too many requests are being retried already.
    Budget,
}

impl RetryConfig {
    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let tries_max = self.tries_max;
        check((1..=TRIES_MAX).contains(&tries_max), "tries_max", format!("between 1 and {TRIES_MAX}"), tries_max)?;
        check_duration("retry_after_max", self.retry_after_max, RETRY_AFTER_MAX)?;
        self.backoff.validate()
    }

    /// What to do after the try number `tries` (1 is the first), of which the rules say `verdict`.
    ///
    /// `remaining` is what is left of the request's time. `withdraw` is asked last, so that no retry is taken from the
    /// budget that does not happen.
    pub fn decide(
        &self,
        tries: u32,
        verdict: Verdict,
        remaining: Option<Duration>,
        random: u64,
        withdraw: impl FnOnce() -> bool,
    ) -> Decision {
        let Verdict::Again { retry_after } = verdict else { return Decision::Stop(Stop::Final) };
        if tries >= self.tries_max {
            return Decision::Stop(Stop::Tries);
        }
        let pause = self.backoff.pause(tries, random);
        let after = match retry_after {
            Some(asked) if asked > self.retry_after_max => return Decision::Stop(Stop::RetryAfter),
            // on top of it: everybody who was told the same comes back at the same time otherwise
            Some(asked) => asked + pause,
            None => pause,
        };
        if remaining.is_some_and(|remaining| after >= remaining) {
            return Decision::Stop(Stop::Deadline);
        }
        if withdraw() { Decision::Retry { after } } else { Decision::Stop(Stop::Budget) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGAIN: Verdict = Verdict::Again { retry_after: None };

    proptest! {
        #[test]
        fn no_retry_breaks_a_limit(
            tries in 1u32..6, asked_ms in prop::option::of(0u64..10_000), left_ms in prop::option::of(0u64..10_000),
            random: u64,
        ) {
            let config = RetryConfig::default();
            let (asked, left) = (asked_ms.map(Duration::from_millis), left_ms.map(Duration::from_millis));
            let mut withdrawn = 0;
            let decision = config.decide(tries, Verdict::Again { retry_after: asked }, left, random, || {
                withdrawn += 1;
                true
            });
            match decision {
                Decision::Retry { after } => {
                    prop_assert_eq!(withdrawn, 1);
                    prop_assert!(tries < config.tries_max);
                    prop_assert!(after >= asked.unwrap_or_default());
                    prop_assert!(after <= asked.unwrap_or_default() + config.backoff.max);
                    prop_assert!(left.is_none_or(|left| after < left));
                }
                Decision::Stop(_) => prop_assert_eq!(withdrawn, 0, "what does not happen costs nothing"),
            }
        }
    }

    #[test]
    fn every_reason_to_stop_is_told() {
        let config = RetryConfig::default();
        let decide = |tries, verdict, remaining| config.decide(tries, verdict, remaining, u64::MAX, || false);
        assert_eq!(decide(1, Verdict::Final, None), Decision::Stop(Stop::Final));
        assert_eq!(decide(3, AGAIN, None), Decision::Stop(Stop::Tries));
        let long = Verdict::Again { retry_after: Some(Duration::from_secs(60)) };
        assert_eq!(decide(1, long, None), Decision::Stop(Stop::RetryAfter));
        assert_eq!(decide(1, AGAIN, Some(Duration::ZERO)), Decision::Stop(Stop::Deadline));
        assert_eq!(decide(1, AGAIN, None), Decision::Stop(Stop::Budget));
    }

    #[test]
    fn a_policy_without_tries_is_refused() {
        let config = RetryConfig { tries_max: 0, ..RetryConfig::default() };
        assert_eq!(config.validate().unwrap_err().to_string(), "tries_max: must be between 1 and 20, not 0");
    }
}
