//! How much may be under way towards a backend at a time.

use std::{sync::Arc, time::Duration};

use resilience::{
    ConfigError, Rejection,
    balance::{Active, Counted},
    bulkhead::{BulkheadConfig, Places, QUEUE_MAX, QUEUE_TIMEOUT_MAX, Taken},
    limit::{LIMIT_MAX, LimitConfig},
};

/// How much may be under way at a time; `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Connections in HTTP/1.1, which carry one request each.
    pub connections: Option<u32>,
    /// Requests that wait for one of these connections.
    pub pending: Option<u32>,
    /// How long each of them waits.
    pub patience: Option<Duration>,
    /// Requests.
    pub requests: Option<u32>,
    /// Requests that are being tried again.
    pub retries: Option<u32>,
    /// The same as a share of the requests under way, in percent, and how many may be in any case.
    pub retry_share: Option<(f64, u32)>,
    /// Requests of one endpoint.
    pub endpoint: Option<u32>,
}

/// Which limit a request ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// There are enough requests.
    Requests,
    /// No connection, and enough requests that wait for one.
    Pending,
    /// It waited for a connection for too long.
    Patience,
}

impl Limits {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.places().map_or(Ok(()), |config| config.validate())
    }

    /// How connections are given out; `None` when there may be any number, or none.
    fn places(&self) -> Option<BulkheadConfig> {
        let connections = self.connections.filter(|connections| *connections > 0)?;
        let queue_max = self.pending.map_or(QUEUE_MAX, |pending| pending as usize).min(QUEUE_MAX);
        let queue_timeout = self.patience.unwrap_or(QUEUE_TIMEOUT_MAX);
        let limit = LimitConfig::Fixed((connections as usize).min(LIMIT_MAX));
        Some(BulkheadConfig { limit, queue_max, queue_timeout, codel: None })
    }
}

/// What is under way towards one backend.
#[derive(Debug, Default)]
pub(super) struct Gate {
    requests: Arc<Active>,
    retries: Arc<Active>,
    places: Option<Places>,
}

/// A request under way; it is over when this is dropped.
#[derive(Debug)]
pub struct Permit {
    _request: Counted,
    _place: Option<Taken>,
}

impl Gate {
    /// # Errors
    /// When a number makes no sense.
    pub(super) fn new(limits: &Limits) -> Result<Self, ConfigError> {
        Ok(Gate { places: limits.places().map(Places::new).transpose()?, ..Gate::default() })
    }

    /// Lets a request in, which may take a while; `single` says whether it takes a connection of its own.
    pub(super) async fn enter(&self, limits: &Limits, single: bool) -> Result<Permit, Overflow> {
        let request = self.requests.begin();
        // It counts itself.
        if limits.requests.is_some_and(|most| self.requests.count() > most) {
            return Err(Overflow::Requests);
        }
        if single && limits.connections == Some(0) {
            return Err(Overflow::Pending);
        }
        let place = match &self.places {
            Some(places) if single => Some(places.enter().await.map_err(|rejection| match rejection {
                Rejection::QueueTimeout => Overflow::Patience,
                _ => Overflow::Pending,
            })?),
            _ => None,
        };
        Ok(Permit { _request: request, _place: place })
    }

    /// Whether one more request may be tried again: it is counted until what is given out is dropped.
    pub(super) fn retry(&self, limits: &Limits) -> Option<Counted> {
        let retry = self.retries.begin();
        let under_way = self.retries.count();
        let (share, least) = limits.retry_share.unwrap_or((0.0, u32::MAX));
        let fair = f64::from(self.requests.count()) * share / 100.0;
        let most = limits.retries.unwrap_or(u32::MAX);
        (under_way <= most && (under_way <= least || f64::from(under_way) <= fair)).then_some(retry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_a_connection_until_too_many_do_or_for_too_long() {
        let patience = Some(Duration::from_secs(1));
        let limits = Limits { connections: Some(1), pending: Some(1), patience, ..Limits::default() };
        let gate = Gate::new(&limits).unwrap();
        let first = gate.enter(&limits, true).await.unwrap();
        let (second, third) = tokio::join!(gate.enter(&limits, true), gate.enter(&limits, true));
        assert_eq!((second.unwrap_err(), third.unwrap_err()), (Overflow::Patience, Overflow::Pending));
        gate.enter(&limits, false).await.expect("who shares a connection needs none");
        drop(first);
        gate.enter(&limits, true).await.expect("there is one again");
    }

    #[tokio::test]
    async fn requests_beyond_the_limit_are_refused_at_once() {
        let limits = Limits { requests: Some(2), ..Limits::default() };
        let gate = Gate::new(&limits).unwrap();
        let held = [gate.enter(&limits, true).await.unwrap(), gate.enter(&limits, false).await.unwrap()];
        assert_eq!(gate.enter(&limits, true).await.unwrap_err(), Overflow::Requests);
        drop(held);
        gate.enter(&limits, true).await.unwrap();
        let none = Limits { connections: Some(0), ..Limits::default() };
        let gate = Gate::new(&none).unwrap();
        assert_eq!(gate.enter(&none, true).await.unwrap_err(), Overflow::Pending);
    }

    #[tokio::test]
    async fn retries_are_a_share_of_the_requests() {
        let limits = Limits { retry_share: Some((50.0, 1)), ..Limits::default() };
        let gate = Gate::new(&limits).unwrap();
        let first = gate.retry(&limits).expect("one in any case");
        assert!(gate.retry(&limits).is_none());
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(gate.enter(&limits, false).await.unwrap());
        }
        let _second = gate.retry(&limits).expect("half of four");
        assert!(gate.retry(&limits).is_none());
        drop(first);
        assert!(gate.retry(&limits).is_some());
        let few = Limits { retries: Some(0), ..Limits::default() };
        assert!(Gate::new(&few).unwrap().retry(&few).is_none());
    }
}
