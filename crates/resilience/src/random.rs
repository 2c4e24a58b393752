//! Random numbers, as the layers draw them for the state machines, which are only ever handed one.
//!
//! SplitMix64: one atomic addition and a handful of multiplications, of even distribution and repeatable from a seed. It
//! spreads load and delays; it keeps no secret.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// The odd number nearest to 2⁶⁴ divided by the golden ratio: steps of it visit every value once, far from each other.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A source of random numbers that many threads may draw from.
///
/// ```
/// use resilience::Random;
///
/// let (one, other) = (Random::seeded(7), Random::seeded(7));
/// assert_eq!(one.draw(), other.draw());
/// ```
#[derive(Debug)]
pub struct Random(AtomicU64);

impl Random {
    /// A source nobody can foresee, good for everything but secrets.
    pub fn new() -> Self {
        // the standard library seeds its hash maps from the operating system
        Self::seeded(RandomState::new().hash_one(0))
    }

    /// The source that gives the same numbers for the same seed.
    pub const fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next number.
    pub fn draw(&self) -> u64 {
        mix(self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP))
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

/// Spreads the bits of a number over all of it (the finalizer of SplitMix64).
pub(crate) const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A random number as a share of one: at least 0, below 1.
pub(crate) fn unit(random: u64) -> f64 {
    // 53 bits are what an f64 holds exactly
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// A random number as one of the first `count` numbers; 0 for a count of 0.
pub(crate) const fn below(count: u64, random: u64) -> u64 {
    ((count as u128 * random as u128) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_spread_evenly() {
        let random = Random::seeded(1);
        let mut counts = [0u32; 10];
        for _ in 0..10_000 {
            counts[below(10, random.draw()) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn shares_stay_below_one() {
        assert_eq!(unit(0), 0.0);
        assert!(unit(u64::MAX) < 1.0);
        assert_eq!(below(3, u64::MAX), 2);
        assert_eq!(below(0, u64::MAX), 0);
    }
}
