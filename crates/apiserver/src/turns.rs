//! One at a time per name: who would only lose a race waits for its turn instead.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

type Lock = tokio::sync::Mutex<()>;

/// Names nobody holds are forgotten once so many are known.
const NAMES_MAX: usize = 256;

/// Who holds which name.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Weak<Lock>>>);

impl Turns {
    /// Waits until nobody else holds `name`; the turn lasts as long as the guard. Turns are given in the order asked for.
    pub(crate) async fn take(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock();
            match locks.get(name).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    if locks.len() >= NAMES_MAX {
                        locks.retain(|_, lock| lock.strong_count() > 0);
                    }
                    let lock = Arc::new(Lock::default());
                    locks.insert(name.to_owned(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_held_one_at_a_time_and_then_forgotten() {
        let turns = Turns::default();
        let held = turns.take("a").await;
        drop(turns.take("b").await);
        let second = turns.take("a");
        tokio::pin!(second);
        assert!(futures::poll!(second.as_mut()).is_pending());
        drop(held);
        drop(second.await);
        for name in 0..2 * NAMES_MAX {
            drop(turns.take(&name.to_string()).await);
        }
        assert!(turns.0.lock().len() <= NAMES_MAX);
    }
}
