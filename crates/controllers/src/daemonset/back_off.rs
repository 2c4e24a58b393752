//! How long a node is left alone on which a daemon pod fails again and again: deleting it at once would only have the
//! kubelet reject the next one.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Upstream's first pause; each failure doubles it.
const FIRST: Duration = Duration::from_secs(1);
/// Upstream's longest pause.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// A node without failures for this long begins anew.
const FORGOTTEN: Duration = Duration::from_secs(2 * 15 * 60);

/// The DaemonSet's uid and generation, and the node: a change of the set begins anew.
type Place = (String, i64, String);

struct Pause {
    length: Duration,
    since: Instant,
}

/// Pauses by node; what is forgotten is dropped when something is added, so there are no more than recent failures.
#[derive(Default)]
pub(super) struct BackOff {
    pauses: Mutex<HashMap<Place, Pause>>,
}

impl BackOff {
    /// How much longer to wait.
    pub(super) fn left(&self, uid: &str, generation: i64, node: &str) -> Option<Duration> {
        let pauses = self.pauses.lock();
        let pause = pauses.get(&(uid.to_owned(), generation, node.to_owned()))?;
        pause.length.checked_sub(pause.since.elapsed()).filter(|left| !left.is_zero())
    }

    /// A failed pod of the node is being deleted.
    pub(super) fn failed(&self, uid: &str, generation: i64, node: &str) {
        let mut pauses = self.pauses.lock();
        pauses.retain(|_, pause| pause.since.elapsed() < FORGOTTEN);
        let place = (uid.to_owned(), generation, node.to_owned());
        let length = pauses.get(&place).map_or(FIRST, |pause| (pause.length * 2).min(LONGEST));
        pauses.insert(place, Pause { length, since: Instant::now() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_and_are_forgotten() {
        let back_off = BackOff::default();
        assert_eq!(back_off.left("u", 1, "a"), None);
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900] {
            back_off.failed("u", 1, "a");
            assert_eq!(back_off.left("u", 1, "a"), Some(Duration::from_secs(seconds)));
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(back_off.left("u", 1, "a"), None);
        }
        assert_eq!(back_off.left("u", 2, "a"), None, "another generation");
        tokio::time::advance(FORGOTTEN).await;
        back_off.failed("u", 1, "b");
        assert_eq!(back_off.pauses.lock().len(), 1);
        back_off.failed("u", 1, "a");
        assert_eq!(back_off.left("u", 1, "a"), Some(FIRST));
    }
}
