//! Feeds a queue so that what costs more is done less often: a reconcile that looks at all dependents of an object waits a
//! moment for more of their changes, the longer the more dependents there are.

use std::hash::Hash;
use std::time::Duration;

use reconcile::{Change, Informer, Object, Queue};

/// How long changes are gathered for each dependent: many times what it takes to look at one.
const EACH: Duration = Duration::from_micros(20);
/// How long they are gathered at most.
const MAX: Duration = Duration::from_millis(50);

fn pause(dependents: usize) -> Duration {
    EACH.saturating_mul(u32::try_from(dependents).unwrap_or(u32::MAX)).min(MAX)
}

/// Adds to `queue` the keys that `map` names for each change of `informer`, until the informer stops. `dependents` says how
/// many objects a reconcile of a key has to look at.
pub(crate) async fn feed<O, K, I>(
    informer: &Informer<O>,
    queue: &Queue<K>,
    map: impl Fn(&Change<O>) -> I,
    dependents: impl Fn(&K) -> usize,
) where
    O: Object,
    K: Clone + Eq + Hash,
    I: IntoIterator<Item = K>,
{
    let mut changes = informer.subscribe();
    while let Some(change) = changes.next().await {
        for key in map(&change) {
            let pause = pause(dependents(&key));
            queue.add_after(key, pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_dependents_are_gathered_for_longer() {
        assert_eq!((pause(0), pause(usize::MAX)), (Duration::ZERO, MAX));
        assert!(pause(3) < Duration::from_millis(1) && pause(1000) >= Duration::from_millis(10));
    }
}
