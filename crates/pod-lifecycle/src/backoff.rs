//! Back-off of container restarts and image pulls, with upstream's numbers.

use jiff::{SignedDuration, Timestamp};

use crate::view::Waiting;

/// The first wait.
const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// The longest wait.
const MAX: SignedDuration = SignedDuration::from_secs(300);
/// A container that ran this long starts afresh: twice the longest wait.
const RESET_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// Doubles from 10 s to 300 s; the first failure costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    step: Option<(SignedDuration, Timestamp)>,
}

impl Backoff {
    /// The wait that follows a failure at `failed_at`, zero before the first step was taken.
    pub fn delay(&self, failed_at: Timestamp) -> SignedDuration {
        match self.step {
            Some((delay, at)) if failed_at.duration_since(at) <= RESET_AFTER => delay,
            _ => SignedDuration::ZERO,
        }
    }

    /// When the next try may begin after a failure at `failed_at`.
    pub fn ready_at(&self, failed_at: Timestamp) -> Timestamp {
        failed_at.checked_add(self.delay(failed_at)).unwrap_or(Timestamp::MAX)
    }

    /// Notes that a try begins at `now`: the next wait is longer.
    pub fn advance(&mut self, now: Timestamp) {
        let next = match self.step {
            Some((delay, at)) if now.duration_since(at) <= RESET_AFTER => (delay * 2).min(MAX),
            _ => INITIAL,
        };
        self.step = Some((next, now));
    }
}

/// What a container that waits `seconds` for its restart shows; `pod` is the pod's name, namespace and UID as the node
/// writes them.
pub fn crash_loop(container: &str, pod: &str, seconds: i64) -> Waiting {
    let delay = if seconds % 60 == 0 {
        format!("{}m0s", seconds / 60)
    } else if seconds > 60 {
        format!("{}m{}s", seconds / 60, seconds % 60)
    } else {
        format!("{seconds}s")
    };
    let message = format!("back-off {delay} restarting failed container={container} pod={pod}");
    Waiting { reason: "CrashLoopBackOff".to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_written_as_upstream_writes_it() {
        let waits = [(10, "10s"), (60, "1m0s"), (80, "1m20s"), (300, "5m0s")];
        for (seconds, text) in waits {
            let message = crash_loop("c", "p_ns(u)", seconds).message;
            assert_eq!(message, format!("back-off {text} restarting failed container=c pod=p_ns(u)"));
        }
    }

    #[test]
    fn waits_double_up_to_five_minutes_and_reset_after_ten() {
        let mut backoff = Backoff::default();
        let mut now = Timestamp::from_second(1_000_000).unwrap();
        let mut seen = Vec::new();
        for _ in 0..8 {
            let ready = backoff.ready_at(now);
            seen.push(ready.duration_since(now).as_secs());
            now = ready;
            backoff.advance(now);
        }
        assert_eq!(seen, [0, 10, 20, 40, 80, 160, 300, 300]);
        let later = now + SignedDuration::from_secs(601);
        assert_eq!(backoff.ready_at(later), later);
        backoff.advance(later);
        assert_eq!(backoff.delay(later), INITIAL);
    }
}
