//! When and how often a request is tried again.

use std::time::Duration;

use http::StatusCode;
use resilience::{
    ConfigError,
    retry::{Backoff, Decision, RetryConfig, Verdict},
};

/// How a request came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// No connection to an endpoint could be made.
    Connect,
    /// The endpoint would not take it on a connection that it holds.
    Refused,
    /// The connection broke; whether anything of the request was sent.
    Reset {
        /// Some of it was, so that it may have been worked on.
        sent: bool,
    },
    /// One attempt took too long.
    Timeout,
    /// The endpoint answered with this status.
    Status(StatusCode),
    /// The endpoint answered a call with this code of gRPC.
    Call(u16),
}

/// What a request is tried again for, by Envoy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// `5xx`: any answer of the kind, and no answer at all.
    ServerError,
    /// `gateway-error`: 502, 503, 504.
    GatewayError,
    /// `reset`: no answer at all.
    Reset,
    /// `reset-before-request`: no answer, and nothing of the request was sent.
    ResetBeforeRequest,
    /// `connect-failure`.
    ConnectFailure,
    /// `retriable-4xx`: 409.
    Conflict,
    /// `refused-stream`.
    Refused,
    /// nginx's `error`: no connection, or one that broke before an answer came.
    Broken,
    /// nginx's `timeout`: an attempt that took too long.
    Timeout,
    /// `cancelled`, `deadline-exceeded`, `internal`, `resource-exhausted`, `unavailable`: codes of gRPC.
    Call(u16),
}

impl Trigger {
    /// A trigger by Envoy's name; codes of gRPC by theirs.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "5xx" => Trigger::ServerError,
            "gateway-error" => Trigger::GatewayError,
            "reset" => Trigger::Reset,
            "reset-before-request" => Trigger::ResetBeforeRequest,
            "connect-failure" => Trigger::ConnectFailure,
            "retriable-4xx" => Trigger::Conflict,
            "refused-stream" => Trigger::Refused,
            "cancelled" => Trigger::Call(1),
            "deadline-exceeded" => Trigger::Call(4),
            "resource-exhausted" => Trigger::Call(8),
            "internal" => Trigger::Call(13),
            "unavailable" => Trigger::Call(14),
            _ => return None,
        })
    }
}

/// When a request is tried again, how often, and how soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// What for.
    pub triggers: Vec<Trigger>,
    /// Statuses besides.
    pub statuses: Vec<StatusCode>,
    /// How often, and the random part of the pauses.
    pub config: RetryConfig,
    /// The part of the pauses that is not left to chance.
    pub pause: Duration,
    /// How long one attempt may take.
    pub attempt: Option<Duration>,
    /// A request of which something was sent is tried again only where that does no harm.
    pub careful: bool,
    /// No attempt begins so long after the first one.
    pub within: Option<Duration>,
}

impl Retry {
    /// # Errors
    /// When a number makes no sense; it names the field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.config.validate()
    }

    /// Pauses between nothing and a ceiling that doubles up to `max`, so often besides the first attempt.
    pub fn config(retries: u32, base: Duration, max: Duration) -> RetryConfig {
        let retry_after_max = resilience::retry::RETRY_AFTER_MAX;
        RetryConfig { tries_max: retries.saturating_add(1), backoff: Backoff { base, max }, retry_after_max }
    }

    /// Whether another attempt may do better.
    pub fn takes(&self, failed: Failed) -> bool {
        let has = |trigger: Trigger| self.triggers.contains(&trigger);
        let unanswered = || has(Trigger::ServerError) || has(Trigger::Reset);
        match failed {
            Failed::Connect => {
                unanswered() || has(Trigger::Broken) || has(Trigger::ConnectFailure) || has(Trigger::ResetBeforeRequest)
            }
            Failed::Refused => {
                unanswered() || has(Trigger::Broken) || has(Trigger::Refused) || has(Trigger::ResetBeforeRequest)
            }
            Failed::Reset { sent } => {
                unanswered() || has(Trigger::Broken) || (!sent && has(Trigger::ResetBeforeRequest))
            }
            Failed::Timeout => unanswered() || has(Trigger::Timeout) || has(Trigger::GatewayError),
            Failed::Status(status) => {
                self.statuses.contains(&status)
                    || (status.is_server_error() && has(Trigger::ServerError))
                    || (matches!(status.as_u16(), 502..=504) && has(Trigger::GatewayError))
                    || (status == StatusCode::CONFLICT && has(Trigger::Conflict))
            }
            Failed::Call(code) => has(Trigger::Call(code)),
        }
    }

    /// The pause before another attempt after `attempts` of them; `None` when there is to be none. `budget` is asked last.
    pub fn pause(
        &self,
        attempts: u32,
        failed: Failed,
        left: Option<Duration>,
        random: u64,
        budget: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        if !self.takes(failed) {
            return None;
        }
        let retry_after = Some(self.pause).filter(|pause| !pause.is_zero());
        match self.config.decide(attempts, Verdict::Again { retry_after }, left, random, budget) {
            Decision::Retry { after } => Some(after),
            Decision::Stop(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> Failed {
        Failed::Status(StatusCode::from_u16(status).unwrap())
    }

    fn retry(triggers: &[Trigger], statuses: &[u16]) -> Retry {
        Retry {
            triggers: triggers.to_vec(),
            statuses: statuses.iter().map(|status| StatusCode::from_u16(*status).unwrap()).collect(),
            config: Retry::config(2, Duration::from_millis(25), Duration::from_millis(250)),
            pause: Duration::ZERO,
            attempt: None,
            careful: false,
            within: None,
        }
    }

    #[test]
    fn each_trigger_takes_what_it_is_named_after() {
        let (connect, timeout) = (Failed::Connect, Failed::Timeout);
        let (cut, unsent) = (Failed::Reset { sent: true }, Failed::Reset { sent: false });
        for (trigger, taken, left) in [
            (Trigger::ServerError, vec![status(500), status(503), connect, cut, timeout], vec![status(404)]),
            (Trigger::GatewayError, vec![status(502), status(504), timeout], vec![status(500), cut, connect]),
            (Trigger::Reset, vec![cut, unsent, timeout, connect, Failed::Refused], vec![status(503)]),
            (Trigger::ResetBeforeRequest, vec![unsent, connect, Failed::Refused], vec![cut, timeout, status(503)]),
            (Trigger::ConnectFailure, vec![connect], vec![cut, Failed::Refused, status(503)]),
            (Trigger::Conflict, vec![status(409)], vec![status(404), status(500)]),
            (Trigger::Refused, vec![Failed::Refused], vec![cut, connect]),
            (Trigger::Broken, vec![cut, unsent, connect, Failed::Refused], vec![timeout, status(502)]),
            (Trigger::Timeout, vec![timeout], vec![cut, connect, status(504)]),
            (Trigger::Call(14), vec![Failed::Call(14)], vec![Failed::Call(13), status(503)]),
        ] {
            let retry = retry(&[trigger], &[]);
            assert!(taken.iter().all(|failed| retry.takes(*failed)), "{trigger:?} takes {taken:?}");
            assert!(!left.iter().any(|failed| retry.takes(*failed)), "{trigger:?} takes none of {left:?}");
        }
        let by_status = retry(&[], &[404]);
        assert!(by_status.takes(status(404)) && !by_status.takes(status(500)) && !by_status.takes(connect));
    }

    #[test]
    fn a_retry_waits_at_least_as_long_as_it_is_told_and_no_longer_than_there_is_time() {
        let mut retry = retry(&[Trigger::ServerError], &[]);
        let pause = |retry: &Retry, attempts, left| retry.pause(attempts, status(500), left, u64::MAX, || true);
        assert_eq!(pause(&retry, 1, None), Some(Duration::from_millis(25)));
        assert_eq!(pause(&retry, 2, None), Some(Duration::from_millis(50)));
        assert_eq!(pause(&retry, 3, None), None, "two retries are three attempts");
        assert_eq!(pause(&retry, 1, Some(Duration::from_millis(20))), None);
        assert_eq!(retry.pause(1, status(500), None, 0, || false), None, "without a budget there is none");
        retry.pause = Duration::from_millis(100);
        assert_eq!(retry.pause(1, status(500), None, 0, || true), Some(retry.pause));
    }
}
