//! Consistent hashing by table.

use super::{ENDPOINTS_MAX, hash};
use crate::{
    config::{ConfigError, check},
    random::mix,
};

/// Places in a table: a prime, so that every step visits all of them. 65,537 is Maglev's small table and Envoy's default.
const PLACES: usize = 65_537;
/// A place nobody has taken yet.
const FREE: u32 = u32::MAX;

/// Maglev's table: each endpoint has taken places in an order of its own, in turn by weight, until all were taken. A key
/// costs one look-up, shares are even to a percent, and when endpoints change, few keys of the others move.
///
/// ```
/// use resilience::balance::{Maglev, hash};
///
/// let table = Maglev::new(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 1)])?;
/// assert!(table.pick(hash(b"user-42", 0)).is_some());
/// # Ok::<_, resilience::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Maglev {
    /// Empty where nobody has a weight.
    places: Box<[u32]>,
}

/// One endpoint while the table is filled.
struct Taker {
    index: u32,
    at: usize,
    step: usize,
    /// Share of a turn per round; the heaviest has 1.
    share: f64,
    turns: f64,
}

impl Maglev {
    /// The table of endpoints, by a name that stays theirs and their weight. One of weight 0 gets nothing.
    ///
    /// # Errors
    /// When there are too many.
    pub fn new(endpoints: &[(impl AsRef<[u8]>, u32)]) -> Result<Self, ConfigError> {
        let most = ENDPOINTS_MAX.min(PLACES);
        check(endpoints.len() <= most, "endpoints", format!("at most {most}"), endpoints.len())?;
        let heaviest = endpoints.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
        if heaviest == 0 {
            return Ok(Self { places: Box::default() });
        }
        let taker = |(index, (name, weight)): (u32, &(_, u32))| {
            let name: &[u8] = AsRef::as_ref(name);
            let at = (hash(name, 0) % PLACES as u64) as usize;
            let step = (hash(name, 1) % (PLACES as u64 - 1)) as usize + 1;
            Taker { index, at, step, share: f64::from(*weight) / f64::from(heaviest), turns: 0.0 }
        };
        let mut takers: Vec<Taker> =
            (0u32..).zip(endpoints).filter(|(_, (_, weight))| *weight > 0).map(taker).collect();
        // the order of turns must not depend on the order of the list
        takers.sort_by_key(|taker| mix(taker.at as u64) ^ mix(taker.step as u64).rotate_left(1));
        let mut places = vec![FREE; PLACES].into_boxed_slice();
        let mut free = PLACES;
        'filling: loop {
            for taker in &mut takers {
                taker.turns += taker.share;
                if taker.turns < 1.0 {
                    continue;
                }
                taker.turns -= 1.0;
                while places[taker.at] != FREE {
                    taker.at = (taker.at + taker.step) % PLACES;
                }
                places[taker.at] = taker.index;
                free -= 1;
                if free == 0 {
                    break 'filling;
                }
            }
        }
        Ok(Self { places })
    }

    /// The endpoint of a key, by its hash.
    pub fn pick(&self, hash: u64) -> Option<usize> {
        self.places.get((hash % PLACES as u64) as usize).map(|endpoint| *endpoint as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> impl Iterator<Item = u64> {
        (0..20_000).map(|n| hash(format!("user-{n}").as_bytes(), 0))
    }

    #[test]
    fn shares_are_even_and_follow_weights() {
        let endpoints: Vec<_> = (0..10).map(|n| (format!("10.0.0.{n}:80"), if n == 9 { 3 } else { 1 })).collect();
        let table = Maglev::new(&endpoints).unwrap();
        let mut counts = [0usize; 10];
        table.places.iter().for_each(|endpoint| counts[*endpoint as usize] += 1);
        let one = PLACES / 12;
        assert!(counts[..9].iter().all(|count| count.abs_diff(one) <= one / 50), "{counts:?}");
        assert!(counts[9].abs_diff(one * 3) <= one / 10, "{counts:?}");
    }

    #[test]
    fn few_keys_of_the_others_move() {
        let endpoints: Vec<_> = (0..10).map(|n| (format!("10.0.0.{n}:80"), 1)).collect();
        let (ten, nine) = (Maglev::new(&endpoints).unwrap(), Maglev::new(&endpoints[..9]).unwrap());
        let moved = keys().filter(|key| ten.pick(*key) != Some(9) && ten.pick(*key) != nine.pick(*key)).count();
        assert!(moved < 1000, "{moved} of 20,000");
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let table = Maglev::new(&[("a", 1), ("b", 2), ("c", 1)]).unwrap();
        let other = Maglev::new(&[("c", 1), ("b", 2), ("a", 1)]).unwrap();
        assert!(keys().all(|key| table.pick(key).map(|n| 2 - n) == other.pick(key)));
    }

    #[test]
    fn without_weights_there_is_nobody() {
        assert_eq!(Maglev::new(&[("a", 0)]).unwrap().pick(3), None);
        assert_eq!(Maglev::new(&[] as &[(&str, u32)]).unwrap().pick(3), None);
    }
}
