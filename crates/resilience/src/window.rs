//! Counts over the last while.
//!
//! A window is a ring of [`SLOTS`] slots. Counting is an addition to the newest slot; the oldest is forgotten as a whole when
//! its time is over, so that what a window covers is between nine tenths of its length and all of it.

use std::time::Duration;

use crate::moment::{Moment, nanos};

/// Slots of a window: steps of a tenth are fine enough for every limit that is set on one, and small enough to sum.
pub(crate) const SLOTS: usize = 10;

/// `N` counters, each over the same last while.
#[derive(Clone, Debug)]
pub(crate) struct Window<const N: usize> {
    slot_nanos: u64,
    /// The newest slot's number since the beginning of time.
    newest: u64,
    /// When the newest slot is over, in nanoseconds.
    ends: u64,
    slots: [[u32; N]; SLOTS],
    sums: [u64; N],
}

impl<const N: usize> Window<N> {
    /// An empty window of a length.
    pub(crate) fn new(length: Duration) -> Self {
        let slot_nanos = (nanos(length) / SLOTS as u64).max(1);
        Self { slot_nanos, newest: 0, ends: 0, slots: [[0; N]; SLOTS], sums: [0; N] }
    }

    /// Counts one.
    pub(crate) fn add(&mut self, now: Moment, counter: usize) {
        self.turn(now);
        let slot = &mut self.slots[(self.newest % SLOTS as u64) as usize][counter];
        // a slot that is full counts no further, and neither does the sum, or it would keep what is never taken off
        if *slot < u32::MAX {
            *slot += 1;
            self.sums[counter] += 1;
        }
    }

    /// What was counted over the window's length.
    pub(crate) fn sums(&mut self, now: Moment) -> [u64; N] {
        self.turn(now);
        self.sums
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.slots = [[0; N]; SLOTS];
        self.sums = [0; N];
    }

    /// Forgets what is too old. A moment before the newest slot, which a thread brings that was late, counts as now.
    fn turn(&mut self, now: Moment) {
        if now.as_nanos() < self.ends {
            return;
        }
        let number = now.as_nanos() / self.slot_nanos;
        for step in 1..=(number - self.newest).min(SLOTS as u64) {
            let slot = &mut self.slots[((self.newest + step) % SLOTS as u64) as usize];
            for (sum, count) in self.sums.iter_mut().zip(std::mem::replace(slot, [0; N])) {
                *sum -= u64::from(count);
            }
        }
        self.newest = number;
        self.ends = (number + 1).saturating_mul(self.slot_nanos);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_window_covers_between_nine_tenths_and_all_of_its_length(steps in prop::collection::vec(0u64..400, 1..200)) {
            let length = Duration::from_millis(1000);
            let (mut window, mut now, mut counted) = (Window::<1>::new(length), Moment::default(), Vec::new());
            for step in steps {
                now = now + Duration::from_millis(step);
                window.add(now, 0);
                counted.push(now);
                let younger_than = |age: u64| {
                    counted.iter().filter(|then| now.since(**then) < Duration::from_millis(age)).count() as u64
                };
                let [sum] = window.sums(now);
                prop_assert!((younger_than(900)..=younger_than(1000)).contains(&sum), "{} at {:?}", sum, now);
            }
        }
    }

    #[test]
    fn a_late_thread_counts_as_now() {
        let mut window = Window::<1>::new(Duration::from_secs(1));
        window.add(Moment::from_nanos(5_000_000_000), 0);
        window.add(Moment::from_nanos(1), 0);
        assert_eq!(window.sums(Moment::from_nanos(5_000_000_000)), [2]);
        window.clear();
        assert_eq!(window.sums(Moment::from_nanos(5_000_000_000)), [0]);
    }
}
