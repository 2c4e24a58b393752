//! Statuses that may wait. What others act upon is written at once; counts that are only looked at are written once for all
//! changes of a short while, because a burst changes them with every pod.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use reconcile::Key;
use tokio::time::Instant;

/// How far counts may be behind: less than people notice, and longer than the steps of a pod that starts or ends at once.
const BEHIND_MAX: Duration = Duration::from_millis(200);
/// How far they may be behind when others have to wait for their turn, in which each step of a pod takes longer as well.
const BEHIND_BUSY_MAX: Duration = Duration::from_secs(1);

/// Since when a status differs from what is known of it, per key; bounded by the objects being worked on.
#[derive(Default)]
pub(crate) struct Unwritten {
    since: Mutex<HashMap<Key, Instant>>,
}

impl Unwritten {
    /// How long the status of `key`, which has changed, may wait; `None` when it is to be written now. `is_busy` says that
    /// others wait for their turn.
    pub(crate) fn wait(&self, key: &Key, is_urgent: bool, is_busy: bool) -> Option<Duration> {
        let mut since = self.since.lock();
        if !is_urgent {
            let begun = *since.entry(key.clone()).or_insert_with(Instant::now);
            let left = if is_busy { BEHIND_BUSY_MAX } else { BEHIND_MAX }.saturating_sub(begun.elapsed());
            if !left.is_zero() {
                return Some(left);
            }
        }
        since.remove(key);
        None
    }

    /// Notes that the status of `key` is as it should be.
    pub(crate) fn forget(&self, key: &Key) {
        self.since.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_of_a_while_are_written_together_and_urgent_ones_at_once() {
        let (unwritten, key) = (Unwritten::default(), Key::new("default", "web"));
        assert_eq!(unwritten.wait(&key, false, false), Some(BEHIND_MAX));
        tokio::time::advance(BEHIND_MAX / 2).await;
        assert_eq!(unwritten.wait(&key, false, false), Some(BEHIND_MAX / 2), "the first change counts");
        assert_eq!(unwritten.wait(&key, true, false), None);
        assert_eq!(unwritten.wait(&key, false, false), Some(BEHIND_MAX), "with it the others were written");
        tokio::time::advance(BEHIND_MAX).await;
        assert_eq!(unwritten.wait(&key, false, false), None);
        assert_eq!(unwritten.wait(&key, false, false), Some(BEHIND_MAX));
        tokio::time::advance(BEHIND_MAX).await;
        unwritten.forget(&key);
        assert_eq!(unwritten.wait(&key, false, false), Some(BEHIND_MAX), "what had come back to what it was");
        tokio::time::advance(BEHIND_MAX).await;
        assert_eq!(unwritten.wait(&key, false, true), Some(BEHIND_BUSY_MAX - BEHIND_MAX));
    }
}
