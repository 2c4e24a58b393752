//! Places without a service around them.

use std::{future::poll_fn, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{BulkheadConfig, turn::Door};
use crate::{config::ConfigError, moment::now, rejection::Rejection};

/// A bulkhead for whoever knows better than a layer when a request is over: a proxy, for which it is when the last byte
/// of the answer has left. An adaptive limit learns nothing from it.
///
/// ```
/// use resilience::{Rejection, bulkhead::{BulkheadConfig, Places}, limit::LimitConfig};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = BulkheadConfig { limit: LimitConfig::Fixed(1), queue_max: 0, ..BulkheadConfig::default() };
/// let places = Places::new(config)?;
/// let place = places.enter().await?;
/// assert_eq!(places.enter().await.unwrap_err(), Rejection::Full);
/// drop(place);
/// assert!(places.enter().await.is_ok());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Places {
    door: Arc<Door>,
    queue_timeout: Duration,
}

impl Places {
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: BulkheadConfig) -> Result<Self, ConfigError> {
        let queue_timeout = config.queue_timeout;
        Door::new(config).map(|door| Self { door: Arc::new(door), queue_timeout })
    }

    /// A place, at once or after a wait.
    ///
    /// # Errors
    /// When there is none and the queue is full, or none was free in time.
    pub async fn enter(&self) -> Result<Taken, Rejection> {
        if let Some(turn) = self.door.enter(now())? {
            let decided = || poll_fn(|context| turn.poll(context));
            match timeout(self.queue_timeout, decided()).await {
                Ok(decided) => decided?,
                Err(_) if turn.give_up() => return Err(Rejection::QueueTimeout),
                // it was decided while it gave up
                Err(_) => decided().await?,
            }
        }
        Ok(Taken { door: self.door.clone() })
    }

    /// Places, those that are taken, and requests that wait.
    pub fn load(&self) -> (usize, usize, usize) {
        self.door.load()
    }
}

/// A place, free again when it is dropped.
#[derive(Debug)]
pub struct Taken {
    door: Arc<Door>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.door.leave(now(), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::LimitConfig;

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_place_that_is_left_or_is_told_in_time() {
        let queue_timeout = Duration::from_secs(1);
        let config = BulkheadConfig { limit: LimitConfig::Fixed(1), queue_max: 1, queue_timeout, codel: None };
        let places = Places::new(config).unwrap();
        let first = places.enter().await.unwrap();
        let (second, third, ()) = tokio::join!(places.enter(), places.enter(), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            drop(first);
        });
        assert_eq!(third.unwrap_err(), Rejection::Full, "one may wait");
        let second = second.unwrap();
        assert_eq!(places.enter().await.unwrap_err(), Rejection::QueueTimeout);
        drop(second);
        assert_eq!(places.load(), (1, 0, 0), "nothing is left behind");
    }
}
