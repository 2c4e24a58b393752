//! Who waits until the mirror has reached a revision.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

/// The revision reached, and those who wait for a later one, by that revision: reaching one wakes only whom it concerns.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    reached: u64,
    waiting: BTreeMap<u64, Vec<oneshot::Sender<()>>>,
}

impl Waiters {
    pub(super) fn reached(&self) -> u64 {
        self.0.lock().reached
    }

    /// Everything up to this revision is visible.
    pub(super) fn reach(&self, revision: u64) {
        let mut state = self.0.lock();
        let reached = state.reached.max(revision);
        state.reached = reached;
        let later = state.waiting.split_off(&(reached + 1));
        let now = std::mem::replace(&mut state.waiting, later);
        drop(state);
        for waiter in now.into_values().flatten() {
            // who went away does not mind
            let _ = waiter.send(());
        }
    }

    /// Waits until a revision is visible; false when that takes longer than `patience`.
    pub(super) async fn wait(&self, revision: u64, patience: Duration) -> bool {
        let receiver = {
            let mut state = self.0.lock();
            if state.reached >= revision {
                return true;
            }
            let (sender, receiver) = oneshot::channel();
            let same = state.waiting.entry(revision).or_default();
            // those who gave up are not kept
            same.retain(|waiter| !waiter.is_closed());
            same.push(sender);
            receiver
        };
        timeout(patience, receiver).await.is_ok_and(|told| told.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_revision_wakes_those_who_wait_for_it_or_an_earlier_one() {
        let waiters = Waiters::default();
        waiters.reach(5);
        assert!(waiters.wait(5, Duration::ZERO).await);
        assert!(!waiters.wait(6, Duration::ZERO).await);
        let (six, seven) = (waiters.wait(6, Duration::from_secs(60)), waiters.wait(7, Duration::from_secs(60)));
        tokio::pin!(six, seven);
        assert!(futures::poll!(&mut six).is_pending() && futures::poll!(&mut seven).is_pending());
        waiters.reach(6);
        assert!(six.await);
        assert!(futures::poll!(&mut seven).is_pending());
        waiters.reach(9);
        assert!(seven.await);
        assert_eq!(waiters.reached(), 9);
    }
}
