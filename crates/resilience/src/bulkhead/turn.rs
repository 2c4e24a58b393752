//! Waiting for a place, as a future may be dropped at any time.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;

use super::{Bulkhead, BulkheadConfig, Entry, Next, Ticket};
use crate::{
    config::ConfigError,
    moment::{Moment, now},
    rejection::Rejection,
};

/// A bulkhead that many wait at.
#[derive(Debug)]
pub(super) struct Door(Mutex<Bulkhead<Arc<Waiter>>>);

/// One who waits, seen from both sides.
#[derive(Debug)]
pub(super) struct Waiter(Mutex<Slot>);

#[derive(Debug)]
enum Slot {
    /// Nobody has decided yet.
    Waiting(Option<Waker>),
    /// Whether there is a place.
    Decided(Result<(), Rejection>),
    /// Nobody wants to know any more.
    Gone,
}

impl Door {
    pub(super) fn new(config: BulkheadConfig) -> Result<Self, ConfigError> {
        Bulkhead::new(config).map(|bulkhead| Self(Mutex::new(bulkhead)))
    }

    /// A place at once, or a turn to wait for.
    pub(super) fn enter(self: &Arc<Self>, now: Moment) -> Result<Option<Turn>, Rejection> {
        let mut waiter = None;
        let mut wait = || waiter.insert(Arc::new(Waiter(Mutex::new(Slot::Waiting(None))))).clone();
        let entry = self.0.lock().enter(now, &mut wait)?;
        Ok(match (entry, waiter) {
            (Entry::Queued(ticket), Some(waiter)) => Some(Turn { door: self.clone(), waiter, ticket }),
            _ => None,
        })
    }

    /// A place becomes free; whoever can have it is told.
    pub(super) fn leave(&self, now: Moment, sample: Option<(Duration, bool)>) {
        self.0.lock().leave(now, sample);
        // without the lock: waking runs code that is not ours
        loop {
            let next = self.0.lock().next(now);
            match next {
                None => return,
                Some(Next::Refuse(waiter, rejection)) => {
                    waiter.decide(Err(rejection));
                }
                Some(Next::Start(waiter)) => {
                    if !waiter.decide(Ok(())) {
                        self.0.lock().leave(now, None);
                    }
                }
            }
        }
    }

    /// Places, those that are taken, and requests that wait.
    pub(super) fn load(&self) -> (usize, usize, usize) {
        let bulkhead = self.0.lock();
        (bulkhead.limit(), bulkhead.in_flight(), bulkhead.queued())
    }
}

impl Waiter {
    /// False when nobody wants to know any more.
    fn decide(&self, decision: Result<(), Rejection>) -> bool {
        let mut slot = self.0.lock();
        let Slot::Waiting(waker) = &mut *slot else { return false };
        let waker = waker.take();
        *slot = Slot::Decided(decision);
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }
}

/// A place in the queue.
#[derive(Debug)]
pub(super) struct Turn {
    door: Arc<Door>,
    waiter: Arc<Waiter>,
    ticket: Ticket,
}

impl Turn {
    /// Whether there is a place, as soon as that is decided.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        let mut slot = self.waiter.0.lock();
        match &mut *slot {
            Slot::Waiting(waker) => {
                match waker {
                    Some(known) => known.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            Slot::Decided(decision) => {
                let decision = *decision;
                // the place is the caller's from here on
                *slot = Slot::Gone;
                Poll::Ready(decision)
            }
            Slot::Gone => Poll::Pending,
        }
    }

    /// Leaves the queue; false when it was decided meanwhile, which the next poll tells.
    pub(super) fn give_up(&self) -> bool {
        let left = self.door.0.lock().abandon(self.ticket);
        if left {
            *self.waiter.0.lock() = Slot::Gone;
        }
        left
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let slot = std::mem::replace(&mut *self.waiter.0.lock(), Slot::Gone);
        match slot {
            Slot::Waiting(_) => {
                // not in the queue any more means that a decision is on its way, which will find nobody
                self.door.0.lock().abandon(self.ticket);
            }
            Slot::Decided(Ok(())) => self.door.leave(now(), None),
            Slot::Decided(Err(_)) | Slot::Gone => {}
        }
    }
}
