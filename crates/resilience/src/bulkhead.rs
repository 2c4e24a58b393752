//! Bulkheads: so many requests at a time, and a short queue for the next.
//!
//! A bulkhead has places, as many as its [`limit`](crate::limit) says, and a queue in front of them. A request takes a
//! place or waits for one; when the queue is full it is refused with [`Rejection::Full`], when it has waited for too long
//! with [`Rejection::QueueTimeout`], and when the queue stands ([`codel`](crate::codel)) with [`Rejection::Shed`].
//!
//! **Contains:** one slow dependency taking everything: the threads, memory and connections that the others need. And, in
//! front of a server of one's own, more work at a time than it does well.
//!
//! **Can cause:** waiting, where there would have been room. A limit below what a busy hour needs is an outage with
//! machines that idle. A long queue is worse than none: requests get old in it, and whoever is served is served too late;
//! keep it at what is worked off within the patience of a client.
//!
//! A request that finds a place costs two short locks. One that waits costs a small allocation and a timer.
//!
//! ```
//! use std::{io, time::Duration};
//! use http::{Request, Response};
//! use resilience::{ByOverload, Failure, bulkhead::{BulkheadConfig, BulkheadLayer}, limit::LimitConfig};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = BulkheadConfig { limit: LimitConfig::Fixed(64), queue_max: 128, ..BulkheadConfig::default() };
//! let service = ServiceBuilder::new()
//!     .layer(BulkheadLayer::new(config, ByOverload)?)
//!     .map_err(Failure::Service)
//!     .service(service_fn(|_: Request<()>| async { Ok::<_, io::Error>(Response::new(())) }));
//! service.oneshot(Request::get("http://ledger/days").body(())?).await?;
//! # Ok(()) }
//! ```

use std::{collections::VecDeque, time::Duration};

use crate::{
    codel::{Codel, CodelConfig},
    config::{ConfigError, check, check_duration},
    limit::{GradientConfig, Limit, LimitConfig, Sample},
    moment::Moment,
    rejection::Rejection,
};

mod layer;
mod places;
mod turn;

pub use layer::{BulkheadFuture, BulkheadLayer, BulkheadService, Place};
pub use places::{Places, Taken};

/// Nobody finds out what is in a longer queue in time.
pub const QUEUE_MAX: usize = 1_000_000;
/// Nobody waits longer than this.
pub const QUEUE_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// How many places, and how long a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct BulkheadConfig {
    /// How many requests may be under way.
    pub limit: LimitConfig,
    /// How many may wait; 0 refuses what finds no place.
    pub queue_max: usize,
    /// How long each of them may wait.
    pub queue_timeout: Duration,
    /// Whether a queue that stands is cut.
    pub codel: Option<CodelConfig>,
}

impl Default for BulkheadConfig {
    /// An adaptive limit, and up to 100 requests that wait for up to a second, unless the queue stands.
    fn default() -> Self {
        Self {
            limit: LimitConfig::Gradient(GradientConfig::default()),
            queue_max: 100,
            queue_timeout: Duration::from_secs(1),
            codel: Some(CodelConfig::default()),
        }
    }
}

impl BulkheadConfig {
    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.limit.validate()?;
        check(self.queue_max <= QUEUE_MAX, "queue_max", format!("at most {QUEUE_MAX}"), self.queue_max)?;
        check_duration("queue_timeout", self.queue_timeout, QUEUE_TIMEOUT_MAX)?;
        self.codel.as_ref().map_or(Ok(()), CodelConfig::validate)
    }
}

/// What became of a request that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It has a place.
    Admitted,
    /// It waits.
    Queued(Ticket),
}

/// A request's number in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What becomes of a request that waited.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<W> {
    /// It has a place now.
    Start(W),
    /// It gets none.
    Refuse(W, Rejection),
}

#[derive(Debug)]
struct Waiter<W> {
    ticket: Ticket,
    since: Moment,
    who: W,
}

/// The state machine: places and a queue of whatever `W` is to its owner.
///
/// After every [`leave`](Self::leave), [`next`](Self::next) is called until it has nothing more to say.
#[derive(Debug)]
pub struct Bulkhead<W> {
    limit: Limit,
    queue_max: usize,
    queue_timeout: Duration,
    codel: Option<Codel>,
    in_flight: usize,
    queue: VecDeque<Waiter<W>>,
    tickets: u64,
}

impl<W> Bulkhead<W> {
    /// An empty one.
    ///
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: BulkheadConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let BulkheadConfig { limit, queue_max, queue_timeout, codel } = config;
        let codel = codel.map(Codel::new).transpose()?;
        let limit = Limit::new(limit)?;
        Ok(Self { limit, queue_max, queue_timeout, codel, in_flight: 0, queue: VecDeque::new(), tickets: 0 })
    }

    /// How many have a place.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many wait.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How many places there are at the moment.
    pub fn limit(&self) -> usize {
        self.limit.current()
    }

    /// A request comes in. `who` is kept when it has to wait.
    ///
    /// # Errors
    /// When it can do neither.
    pub fn enter(&mut self, now: Moment, who: impl FnOnce() -> W) -> Result<Entry, Rejection> {
        if self.in_flight < self.limit.current() && self.queue.is_empty() {
            if let Some(codel) = &mut self.codel {
                codel.drops(now, Duration::ZERO);
            }
            self.in_flight += 1;
            return Ok(Entry::Admitted);
        }
        if self.queue.len() >= self.queue_max {
            return Err(Rejection::Full);
        }
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        self.queue.push_back(Waiter { ticket, since: now, who: who() });
        Ok(Entry::Queued(ticket))
    }

    /// A request with a place is over; `sample` is what the limit may learn from it, without its `in_flight`.
    pub fn leave(&mut self, now: Moment, sample: Option<(Duration, bool)>) {
        if let Some((took, overloaded)) = sample {
            self.limit.sample(now, Sample { took, in_flight: self.in_flight, overloaded });
        }
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// What becomes of the request at the head of the queue; nothing when it waits on, or nobody does.
    pub fn next(&mut self, now: Moment) -> Option<Next<W>> {
        if self.in_flight >= self.limit.current() {
            return None;
        }
        let Waiter { since, who, .. } = self.queue.pop_front()?;
        let waited = now.since(since);
        if waited >= self.queue_timeout {
            return Some(Next::Refuse(who, Rejection::QueueTimeout));
        }
        if self.codel.as_mut().is_some_and(|codel| codel.drops(now, waited)) {
            return Some(Next::Refuse(who, Rejection::Shed));
        }
        self.in_flight += 1;
        Some(Next::Start(who))
    }

    /// A request waits no longer, for its own reasons; false when it does not wait any more.
    pub fn abandon(&mut self, ticket: Ticket) -> bool {
        match self.queue.binary_search_by_key(&ticket, |waiter| waiter.ticket) {
            Ok(place) => self.queue.remove(place).is_some(),
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fixed(limit: usize, queue_max: usize) -> Bulkhead<u32> {
        let limit = LimitConfig::Fixed(limit);
        let queue_timeout = Duration::from_secs(1);
        Bulkhead::new(BulkheadConfig { limit, queue_max, queue_timeout, codel: None }).unwrap()
    }

    #[test]
    fn who_came_first_starts_first_and_who_waited_too_long_not_at_all() {
        let (mut bulkhead, start) = (fixed(1, 3), Moment::default());
        assert_eq!(bulkhead.enter(start, || 0), Ok(Entry::Admitted));
        let half = start + Duration::from_millis(500);
        let late = start + Duration::from_millis(1200);
        for (who, at) in [(1, start), (2, half), (3, half)] {
            assert!(matches!(bulkhead.enter(at, || who), Ok(Entry::Queued(_))));
        }
        assert_eq!(bulkhead.enter(half, || 4), Err(Rejection::Full));
        assert_eq!(bulkhead.next(half), None);
        bulkhead.leave(late, None);
        assert_eq!(bulkhead.next(late), Some(Next::Refuse(1, Rejection::QueueTimeout)));
        assert_eq!(bulkhead.next(late), Some(Next::Start(2)));
        assert_eq!(bulkhead.next(late), None);
    }

    #[test]
    fn a_standing_queue_is_cut() {
        let codel = Some(CodelConfig::default());
        let config =
            BulkheadConfig { limit: LimitConfig::Fixed(1), queue_max: 100, codel, ..BulkheadConfig::default() };
        let (mut bulkhead, mut now) = (Bulkhead::new(config).unwrap(), Moment::default() + Duration::from_secs(9));
        let mut shed = 0;
        bulkhead.enter(now, || ()).unwrap();
        // twice as many come as are served
        for _ in 0..200 {
            now = now + Duration::from_millis(2);
            let _ = bulkhead.enter(now, || ());
            let _ = bulkhead.enter(now, || ());
            bulkhead.leave(now, None);
            while let Some(next) = bulkhead.next(now) {
                shed += u32::from(next == Next::Refuse((), Rejection::Shed));
            }
        }
        assert!(shed > 100, "{shed}");
        assert!(bulkhead.queued() < 10, "{} wait", bulkhead.queued());
    }

    proptest! {
        #[test]
        fn nobody_is_forgotten_and_no_limit_broken(
            actions in prop::collection::vec((0u8..4, 0u64..400), 1..400), limit in 1usize..4, queue_max in 0usize..5,
        ) {
            let (mut bulkhead, mut now) = (fixed(limit, queue_max), Moment::default());
            let (mut waiting, mut running, mut came) = (Vec::new(), 0usize, 0u32);
            for (action, step) in actions {
                now = now + Duration::from_millis(step);
                match action {
                    0 | 1 => {
                        came += 1;
                        match bulkhead.enter(now, || came) {
                            Ok(Entry::Admitted) => running += 1,
                            Ok(Entry::Queued(ticket)) => waiting.push((came, ticket)),
                            Err(rejection) => {
                                prop_assert_eq!(rejection, Rejection::Full);
                                prop_assert_eq!(waiting.len(), queue_max);
                            }
                        }
                    }
                    2 if running > 0 => {
                        running -= 1;
                        bulkhead.leave(now, None);
                        while let Some(next) = bulkhead.next(now) {
                            let (Next::Start(who) | Next::Refuse(who, _)) = next;
                            prop_assert_eq!(waiting.remove(0).0, who, "in the order they came");
                            running += usize::from(matches!(next, Next::Start(_)));
                        }
                    }
                    3 if !waiting.is_empty() => {
                        let (_, ticket) = waiting.remove(step as usize % waiting.len());
                        prop_assert!(bulkhead.abandon(ticket));
                        prop_assert!(!bulkhead.abandon(ticket));
                    }
                    _ => {}
                }
                prop_assert_eq!((bulkhead.in_flight(), bulkhead.queued()), (running, waiting.len()));
                prop_assert!(running <= limit && waiting.len() <= queue_max);
                prop_assert!(waiting.is_empty() || running == limit, "nobody waits next to a free place");
            }
        }
    }

    #[test]
    fn senseless_bulkheads_are_refused() {
        let config = BulkheadConfig { queue_timeout: Duration::ZERO, ..BulkheadConfig::default() };
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "queue_timeout: must be above 0s and at most 3600s, not 0ns"
        );
    }
}
