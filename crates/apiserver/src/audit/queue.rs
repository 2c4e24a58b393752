//! The way from requests to the writer of audit events: one bounded queue, emptied in gulps.
//!
//! A request pays for a short lock and, once per gulp, for waking the writer; it waits only while the queue is full, so
//! that nothing is lost while the writer keeps up or catches up. What lies in the queue is lost if the process is
//! killed: that is [`GATHER`] at most while the disk is not behind.

use std::{mem, time::Duration};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Semaphore;

use super::record::Record;

/// Events that may wait. A record has some 600 bytes, so this is 5 MiB of them, and a fifth of a second of creates.
const EVENTS_MAX: usize = 8192;
/// How long the writer lets events gather: one wake-up serves all of them.
const GATHER: Duration = Duration::from_millis(10);
/// So many events are written without waiting any longer.
const GATHERED_MAX: usize = 512;

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Wakes the writer.
    filled: Condvar,
    /// Wakes who waits for everything to be written.
    written: Condvar,
    room: Semaphore,
}

#[derive(Default)]
struct State {
    waiting: Vec<Record>,
    /// How many of those came without waiting for room.
    beyond: usize,
    /// Events ever queued, and ever written.
    queued: u64,
    done: u64,
    hurry: bool,
    closed: bool,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
            room: Semaphore::new(EVENTS_MAX),
        }
    }

    /// Queues an event, waiting for room.
    pub(super) async fn push(&self, record: Record) {
        // only closing the semaphore makes this fail, which nobody does
        if let Ok(permit) = self.room.acquire().await {
            permit.forget();
        }
        self.put(record, 0);
    }

    /// Queues an event from where nobody can wait: the end of a body that was dropped. Their number is bounded by that
    /// of open requests.
    pub(super) fn push_now(&self, record: Record) {
        let beyond = match self.room.try_acquire() {
            Ok(permit) => {
                permit.forget();
                0
            }
            Err(_) => 1,
        };
        self.put(record, beyond);
    }

    fn put(&self, record: Record, beyond: usize) {
        let mut state = self.state.lock();
        state.waiting.push(record);
        state.beyond += beyond;
        state.queued += 1;
        let wakes = matches!(state.waiting.len(), 1 | GATHERED_MAX);
        drop(state);
        if wakes {
            self.filled.notify_one();
        }
    }

    /// Waits for events and moves them into `into`, which is empty; false at the end.
    pub(super) fn take(&self, into: &mut Vec<Record>) -> bool {
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.closed {
                return false;
            }
            self.filled.wait(&mut state);
        }
        if state.waiting.len() < GATHERED_MAX && !state.closed && !state.hurry {
            self.filled.wait_for(&mut state, GATHER);
        }
        mem::swap(&mut state.waiting, into);
        let beyond = mem::take(&mut state.beyond);
        drop(state);
        self.room.add_permits(into.len() - beyond);
        true
    }

    /// Says that `count` events are written.
    pub(super) fn done(&self, count: usize) {
        let mut state = self.state.lock();
        state.done += count as u64;
        state.hurry &= state.done != state.queued;
        drop(state);
        self.written.notify_all();
    }

    /// Waits until everything queued so far is written.
    pub(super) fn flush(&self) {
        let mut state = self.state.lock();
        let until = state.queued;
        state.hurry = state.done < until;
        self.filled.notify_one();
        while state.done < until {
            self.written.wait(&mut state);
        }
    }

    /// Ends the writer once it has written what is queued.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_one();
    }
}
