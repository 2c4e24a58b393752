//! Consistent hashing on a ring.

use super::{ENDPOINTS_MAX, hash, turns::greatest_divisor};
use crate::config::{ConfigError, check};

/// Points of an endpoint of the least weight: with them, shares of endpoints that should be equal differ by some percent.
/// The number does not depend on the others, or their keys would move, too, when an endpoint leaves.
const POINTS: u64 = 160;
/// Points of all endpoints, 16 bytes each; where there would be more, each has fewer.
const POINTS_MAX: u64 = 1 << 20;

/// Endpoints on a ring, each at many points in proportion to its weight; a key goes to the next point after its hash. When
/// an endpoint leaves, only its keys move; when one joins, it takes its share from all.
///
/// ```
/// use resilience::balance::{Ring, hash};
///
/// let ring = Ring::new(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 1)])?;
/// let endpoint = ring.pick(hash(b"user-42", 0));
/// assert_eq!(ring.pick(hash(b"user-42", 0)), endpoint);
/// # Ok::<_, resilience::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ring {
    /// In the order of their hashes.
    points: Vec<(u64, u32)>,
    endpoints: usize,
}

impl Ring {
    /// A ring of endpoints, by a name that stays theirs and their weight. One of weight 0 gets nothing.
    ///
    /// # Errors
    /// When there are too many, or too heavy ones.
    pub fn new(endpoints: &[(impl AsRef<[u8]>, u32)]) -> Result<Self, ConfigError> {
        let rule = format!("at most {ENDPOINTS_MAX}");
        check(endpoints.len() <= ENDPOINTS_MAX, "endpoints", rule, endpoints.len())?;
        let divisor = endpoints.iter().fold(0, |divisor, (_, weight)| greatest_divisor(divisor, *weight)).max(1);
        let total = endpoints.iter().map(|(_, weight)| u64::from(weight / divisor)).sum::<u64>().saturating_mul(POINTS);
        let count = |weight: u32| match u64::from(weight / divisor) {
            0 => 0,
            weight if total <= POINTS_MAX => weight * POINTS,
            weight => ((weight * POINTS) as f64 / total as f64 * POINTS_MAX as f64).max(1.0) as u64,
        };
        let mut points = Vec::with_capacity(total.min(POINTS_MAX) as usize + endpoints.len());
        for (index, (name, weight)) in (0u32..).zip(endpoints) {
            points.extend((0..count(*weight)).map(|point| (hash(name.as_ref(), point), index)));
        }
        points.sort_unstable();
        Ok(Self { points, endpoints: endpoints.len() })
    }

    /// The endpoint of a key, by its hash.
    pub fn pick(&self, hash: u64) -> Option<usize> {
        self.walk(hash).next()
    }

    /// The endpoint of a key, or the next on the ring whose load is below `factor` times the average (1.25, say), counting
    /// the request itself. So a hot key spills over to the same few endpoints, in the same order. `total` is the load of
    /// all endpoints together.
    pub fn pick_bounded(&self, hash: u64, factor: f64, total: u64, load: impl Fn(usize) -> u32) -> Option<usize> {
        let most = ((total + 1) as f64 * factor.max(1.0) / self.endpoints.max(1) as f64).ceil();
        self.walk(hash).find(|endpoint| f64::from(load(*endpoint)) < most).or_else(|| self.pick(hash))
    }

    /// The endpoints of the points from a hash on, once around.
    fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let start = self.points.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.points.split_at(start);
        after.iter().chain(before).map(|(_, endpoint)| *endpoint as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<(String, u32)> {
        (0..count).map(|n| (format!("10.0.0.{n}:80"), 1)).collect()
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..10_000).map(|n| hash(format!("user-{n}").as_bytes(), 0))
    }

    #[test]
    fn only_the_keys_of_an_endpoint_that_leaves_move() {
        let (ten, nine) = (Ring::new(&names(10)).unwrap(), Ring::new(&names(9)).unwrap());
        for key in keys() {
            let before = ten.pick(key).unwrap();
            assert!(before == 9 || nine.pick(key) == Some(before));
        }
    }

    #[test]
    fn shares_follow_weights() {
        let ring = Ring::new(&[("a", 1), ("b", 3), ("c", 0)]).unwrap();
        let mut counts = [0u32; 3];
        keys().for_each(|key| counts[ring.pick(key).unwrap()] += 1);
        assert!((2000..3000).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
        assert_eq!(Ring::new(&[("a", 0)]).unwrap().pick(1), None);
    }

    #[test]
    fn a_hot_key_spills_over() {
        let (ring, key) = (Ring::new(&names(10)).unwrap(), hash(b"hot", 0));
        let mut loads = [0u32; 10];
        for total in 0..1000 {
            loads[ring.pick_bounded(key, 1.25, total, |endpoint| loads[endpoint]).unwrap()] += 1;
        }
        assert!(loads.iter().all(|load| *load <= 126), "{loads:?}");
        assert!(loads[ring.pick(key).unwrap()] >= 124);
    }
}
