//! The better of two, and the least busy of all.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use crate::random::below;

/// The less loaded of two endpoints that are drawn at random; of one endpoint that one, and `None` of none.
///
/// Two draws are nearly as good as looking at all, cost the same for two endpoints and for ten thousand, and no two
/// balancers agree on the same victim. A NaN counts as the heaviest load.
///
/// ```
/// use resilience::balance::two_choices;
///
/// let loads = [0.9, 0.1];
/// assert_eq!(two_choices(2, 12345, |endpoint| loads[endpoint]), Some(1));
/// ```
pub fn two_choices(count: usize, random: u64, load: impl Fn(usize) -> f64) -> Option<usize> {
    if count < 2 {
        return (count == 1).then_some(0);
    }
    // one half of the bits for each draw
    let (high, low) = (random & !0xffff_ffff, random << 32);
    let first = below(count as u64, high) as usize;
    let other = below(count as u64 - 1, low) as usize;
    let second = if other >= first { other + 1 } else { other };
    let better = load(second) < load(first) || load(first).is_nan();
    Some(if better { second } else { first })
}

/// The endpoint with the least load of all, the first in turn from a random one where several have it. For few endpoints.
pub fn least_request(count: usize, random: u64, load: impl Fn(usize) -> f64) -> Option<usize> {
    let start = below(count as u64, random) as usize;
    (0..count).map(|step| (start + step) % count).min_by(|a, b| load(*a).total_cmp(&load(*b)))
}

/// Requests that an endpoint has not answered yet.
///
/// ```
/// use std::sync::Arc;
/// use resilience::balance::Active;
///
/// let active = Arc::new(Active::default());
/// let request = active.begin();
/// assert_eq!(active.load(1.0), 2.0);
/// drop(request);
/// assert_eq!(active.load(2.0), 0.5);
/// ```
#[derive(Debug, Default)]
pub struct Active(AtomicU32);

impl Active {
    /// A request is sent; it is over when the answer is dropped.
    pub fn begin(self: &Arc<Self>) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// What one more request would mean for an endpoint of this weight.
    pub fn load(&self, weight: f64) -> f64 {
        f64::from(self.count() + 1) / weight
    }
}

/// A request that is counted.
#[derive(Debug)]
pub struct Counted(Arc<Active>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    proptest! {
        #[test]
        fn the_better_of_two_different_ones_is_taken(count in 2usize..50, random: u64) {
            let seen = std::cell::RefCell::new(Vec::new());
            let chosen = two_choices(count, random, |endpoint| {
                seen.borrow_mut().push(endpoint);
                endpoint as f64
            }).unwrap();
            let mut seen = seen.into_inner();
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), 2);
            prop_assert_eq!(chosen, seen[0]);
        }
    }

    #[test]
    fn every_pair_is_drawn_equally_often() {
        let (random, mut counts) = (Random::seeded(9), [0u32; 5]);
        for _ in 0..10_000 {
            counts[two_choices(5, random.draw(), |_| 1.0).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (1850..2150).contains(count)), "{counts:?}");
    }

    #[test]
    fn two_choices_keep_loads_close_together() {
        // a thousand requests that never end on a hundred endpoints: at random the busiest would have about 20
        let (random, mut loads) = (Random::seeded(4), [0u32; 100]);
        for _ in 0..1000 {
            loads[two_choices(100, random.draw(), |endpoint| f64::from(loads[endpoint])).unwrap()] += 1;
        }
        assert!(loads.iter().all(|load| (7..=13).contains(load)), "{loads:?}");
    }

    #[test]
    fn none_one_and_the_broken_number() {
        assert_eq!(two_choices(0, 1, |_| 0.0), None);
        assert_eq!(two_choices(1, 1, |_| 0.0), Some(0));
        let loads = [f64::NAN, 1.0];
        assert!((0..100).all(|n| two_choices(2, u64::MAX / 100 * n, |endpoint| loads[endpoint]) == Some(1)));
        assert_eq!(least_request(0, 5, |_| 0.0), None);
        assert_eq!(least_request(3, 5, |endpoint| [2.0, 1.0, 3.0][endpoint]), Some(1));
    }
}
