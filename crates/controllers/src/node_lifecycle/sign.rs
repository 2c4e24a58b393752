//! When a node was heard of last, and how much longer nobody needs to worry.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

/// The last sign of life of a node, and when it was seen here: the node's own clock may be wrong.
#[derive(Debug, PartialEq)]
pub(super) struct SignOfLife {
    pub(super) lease: Option<Timestamp>,
    pub(super) heartbeat: Option<Timestamp>,
    pub(super) seen: Instant,
    /// How long it may be silent from then on.
    pub(super) grace: Duration,
}

impl SignOfLife {
    /// How much longer nobody needs to worry.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.grace.saturating_sub(now.saturating_duration_since(self.seen))
    }

    pub(super) fn renewed(&mut self, lease: Timestamp, now: Instant) {
        if self.lease != Some(lease) {
            (self.lease, self.seen) = (Some(lease), now);
        }
    }
}

/// When a node says that it renewed its lease.
pub(super) fn renew_time(lease: &Lease) -> Option<Timestamp> {
    lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0)
}
