//! A limit for each of many callers.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    time::Duration,
};

use parking_lot::Mutex;

use super::{Bucket, RateConfig};
use crate::{
    config::{ConfigError, check},
    moment::Moment,
};

/// Independent parts, so that callers on different threads rarely wait for each other. A power of two.
const SHARDS: usize = 16;
/// Looking for places that are free again costs a look at every caller of a shard, so it is not done more often than this,
/// however many callers are invented.
const SWEEP_PAUSE: u64 = 100_000_000;
/// The most callers that may be remembered: some hundred megabytes with short keys.
const KEYS_MAX: usize = 1 << 22;

/// The same limit for each key, of at most so many keys.
///
/// A key whose bucket is full again is as good as unknown, so it is forgotten when its place is needed. While more callers
/// than there are places for use their limits at the same time, those that find no place share one bucket: whoever invents
/// callers faces one limit for all of them, and takes nothing from those that are known.
#[derive(Debug)]
pub struct Limiters<K> {
    bucket: Bucket,
    keys_max: usize,
    hasher: RandomState,
    shards: Box<[Mutex<Shard<K>>]>,
}

#[derive(Debug)]
struct Shard<K> {
    full: HashMap<K, u64>,
    /// Of those that find no place.
    others: u64,
    /// Before this moment no place is looked for: no bucket fills up, or one was looked for just now.
    sweep: u64,
}

impl<K: Hash + Eq> Limiters<K> {
    /// Limits for up to about `keys_max` keys at a time.
    ///
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: RateConfig, keys_max: usize) -> Result<Self, ConfigError> {
        let bucket = Bucket::new(&config)?;
        let rule = format!("between {SHARDS} and {KEYS_MAX}");
        check((SHARDS..=KEYS_MAX).contains(&keys_max), "keys_max", rule, keys_max)?;
        let shard = || Mutex::new(Shard { full: HashMap::new(), others: 0, sweep: 0 });
        let shards = (0..SHARDS).map(|_| shard()).collect();
        Ok(Self { bucket, keys_max: keys_max / SHARDS, hasher: RandomState::new(), shards })
    }

    /// Takes tokens out of a caller's bucket; `key` is only made into its own when the caller is new.
    ///
    /// # Errors
    /// With the time until there are enough, as [`Limiter::take`](super::Limiter::take) has it.
    pub fn take<Q>(&self, now: Moment, key: &Q, tokens: u32) -> Result<(), Duration>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let now = now.as_nanos();
        let mut shard = self.shards[self.hasher.hash_one(key) as usize % SHARDS].lock();
        if let Some(full) = shard.full.get_mut(key) {
            *full = self.bucket.take(*full, now, tokens)?;
            return Ok(());
        }
        if shard.full.len() >= self.keys_max && now >= shard.sweep {
            shard.full.retain(|_, full| *full > now);
            shard.sweep = shard.full.values().min().copied().unwrap_or(now).max(now + SWEEP_PAUSE);
        }
        if shard.full.len() >= self.keys_max {
            shard.others = self.bucket.take(shard.others, now, tokens)?;
        } else {
            let full = self.bucket.take(0, now, tokens)?;
            shard.full.insert(key.to_owned(), full);
        }
        Ok(())
    }

    /// Callers that are remembered.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().full.len()).sum()
    }

    /// Whether no caller is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_have_limits_of_their_own() {
        let limiters = Limiters::<String>::new(RateConfig::per_second(2), 1000).unwrap();
        let now = Moment::default();
        for caller in ["a", "b"] {
            assert_eq!([(); 3].map(|()| limiters.take(now, caller, 1).is_ok()), [true, true, false], "{caller}");
        }
    }

    #[test]
    fn inventing_callers_costs_neither_memory_nor_the_others() {
        let limiters = Limiters::<u32>::new(RateConfig::per_second(1), 160).unwrap();
        let now = Moment::default();
        let passed = (0..10_000).filter(|caller| limiters.take(now, caller, 1).is_ok()).count();
        assert!(limiters.len() <= 160);
        assert!(passed <= 160 + SHARDS, "{passed} passed");
        let known: Vec<u32> = (0..10_000).filter(|caller| is_known(&limiters, *caller)).collect();
        let later = now + Duration::from_secs(1);
        assert!(known.iter().all(|caller| limiters.take(later, caller, 1).is_ok()));
        assert!(limiters.take(later + Duration::from_secs(1), &70_000, 1).is_ok(), "places are found again");
    }

    fn is_known(limiters: &Limiters<u32>, caller: u32) -> bool {
        limiters.shards.iter().any(|shard| shard.lock().full.contains_key(&caller))
    }

    #[test]
    fn too_few_places_are_refused() {
        let error = Limiters::<u32>::new(RateConfig::per_second(1), 1).unwrap_err();
        assert_eq!(error.to_string(), "keys_max: must be between 16 and 4194304, not 1");
    }
}
