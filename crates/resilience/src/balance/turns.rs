//! Round robin by weight.

use std::sync::atomic::{AtomicU64, Ordering};

use super::ENDPOINTS_MAX;
use crate::config::{ConfigError, check};

/// Turns in a table, at most; weights are scaled down to it.
const TURNS_MAX: usize = 1 << 16;

/// Endpoints in turn, each as often as its weight says and as evenly as possible: 3 and 1 are `a a b a`, not `a a a b`.
///
/// ```
/// use resilience::balance::Turns;
///
/// let turns = Turns::new(&[3, 1])?;
/// let four: Vec<_> = (0..4).filter_map(|_| turns.next()).collect();
/// assert_eq!(four, [0, 0, 1, 0]);
/// # Ok::<_, resilience::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct Turns {
    order: Box<[u32]>,
    at: AtomicU64,
}

impl Turns {
    /// The order of endpoints of these weights. One of weight 0 gets no turn.
    ///
    /// # Errors
    /// When there are too many.
    pub fn new(weights: &[u32]) -> Result<Self, ConfigError> {
        let most = ENDPOINTS_MAX.min(TURNS_MAX);
        check(weights.len() <= most, "endpoints", format!("at most {most}"), weights.len())?;
        let divisor = weights.iter().fold(0, |a, b| greatest_divisor(a, *b)).max(1);
        let mut weights: Vec<u64> = weights.iter().map(|weight| u64::from(weight / divisor)).collect();
        let mut total: u64 = weights.iter().sum();
        if total > TURNS_MAX as u64 {
            let scale = (TURNS_MAX - weights.len()) as f64 / total as f64;
            for weight in weights.iter_mut().filter(|weight| **weight > 0) {
                *weight = ((*weight as f64 * scale) as u64).max(1);
            }
            total = weights.iter().sum();
        }
        // each turn goes to the one that is furthest behind its share, which sorting by due times is the short way to
        let due = |(endpoint, weight): (u32, &u64)| {
            let weight = *weight;
            (0..weight).map(move |turn| ((2 * turn + 1) * total / weight, endpoint))
        };
        let mut order: Vec<(u64, u32)> = (0u32..).zip(&weights).flat_map(due).collect();
        order.sort_unstable();
        Ok(Self { order: order.into_iter().map(|(_, endpoint)| endpoint).collect(), at: AtomicU64::new(0) })
    }

    /// Whose turn it is; nobody's when no endpoint has a weight.
    pub fn next(&self) -> Option<usize> {
        let count = self.order.len() as u64;
        if count == 0 {
            return None;
        }
        let turn = self.at.fetch_add(1, Ordering::Relaxed) % count;
        Some(self.order[turn as usize] as usize)
    }
}

/// The greatest number that divides both; the other where one is 0.
pub(super) const fn greatest_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nobody_is_ever_more_than_a_turn_from_its_share(weights in prop::collection::vec(0u32..20, 1..8)) {
            let turns = Turns::new(&weights).unwrap();
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0u32; weights.len()];
            for turn in 1..=total {
                counts[turns.next().unwrap()] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let share = f64::from(turn) * f64::from(*weight) / f64::from(total);
                    prop_assert!((f64::from(*count) - share).abs() <= 1.5, "{:?} of {:?}", counts, weights);
                }
            }
            prop_assert_eq!(counts, weights, "after a round all are even");
        }
    }

    #[test]
    fn the_largest_weights_make_a_table_of_bounded_size() {
        let turns = Turns::new(&[u32::MAX, u32::MAX - 1, 1, 0]).unwrap();
        assert!(turns.order.len() <= TURNS_MAX);
        assert_eq!(turns.order.iter().filter(|endpoint| **endpoint == 2).count(), 1);
        assert_eq!(Turns::new(&[0, 0]).unwrap().next(), None);
    }
}
