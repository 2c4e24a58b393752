//! The streams of an HTTP/2 connection, and where they run.
//!
//! Requests that arrive together are answered side by side, each in a task of its own. One that arrives alone runs with
//! its connection, which spares two changes of tasks, and so does every answer that has nothing to give for now (a watch
//! that is up to date): a change that a hundred watches on eight connections are told wakes eight tasks instead of a
//! hundred, each of them hands over all its frames, and what it gathered leaves in one TLS record.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::future::poll_fn;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::turn::Bell;

/// What a stream does.
pub(super) trait Run: Send + 'static {
    /// Goes on; ready when it is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether it has nothing to give for now.
    fn is_quiet(&self) -> bool;
}

/// The streams that run with their connection; they end with it.
pub(super) struct Streams<S> {
    moving: mpsc::Sender<S>,
    arriving: mpsc::Receiver<S>,
    /// How many run as tasks.
    abroad: Arc<AtomicUsize>,
    /// A stream's place is free once it is over.
    places: Vec<Option<Resident<S>>>,
    free: Vec<usize>,
    ready: Arc<Ready>,
    /// The places of this round; kept for its memory.
    round: Vec<usize>,
}

struct Resident<S> {
    stream: S,
    rope: Arc<Rope>,
    waker: Waker,
}

/// The places whose streams were woken. A rope that is pulled for a place which somebody else has taken over meanwhile
/// costs one poll.
struct Ready {
    places: Mutex<Vec<usize>>,
    bell: Arc<Bell>,
}

/// What wakes one stream.
struct Rope {
    place: usize,
    is_pulled: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_pulled.swap(true, AcqRel) {
            self.ready.places.lock().push(self.place);
            self.ready.bell.ring();
        }
    }
}

/// Counts a stream that runs as a task.
struct Abroad(Arc<AtomicUsize>);

impl Abroad {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count.clone())
    }
}

impl Drop for Abroad {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl<S: Run> Streams<S> {
    /// For a connection with this bell that has up to `streams_max` streams at once.
    pub(super) fn new(bell: Arc<Bell>, streams_max: u32) -> Self {
        let (moving, arriving) = mpsc::channel(streams_max as usize);
        let ready = Arc::new(Ready { places: Mutex::default(), bell });
        let (places, free, round) = (Vec::new(), Vec::new(), Vec::new());
        Self { moving, arriving, abroad: Arc::default(), places, free, ready, round }
    }

    /// Runs a stream as a task until it has nothing to give for now. It ends with its connection, which it learns from
    /// the HTTP/2 library.
    pub(super) fn send_abroad(&self, mut stream: S) {
        let (moving, abroad) = (self.moving.clone(), Abroad::new(&self.abroad));
        tokio::spawn(async move {
            let moves = poll_fn(|cx| match stream.poll(cx) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending if stream.is_quiet() => Poll::Ready(true),
                Poll::Pending => Poll::Pending,
            });
            if moves.await {
                // fails when the connection has ended, and with it the stream
                let _ended = moving.send(stream).await;
            }
            drop(abroad);
        });
    }

    /// Whether there are streams that may be about to send something without the connection's doing.
    pub(super) fn are_abroad(&self) -> bool {
        self.abroad.load(Acquire) > 0
    }

    /// Whether streams wait for [`Streams::poll`].
    pub(super) fn are_ready(&self) -> bool {
        !self.ready.places.lock().is_empty()
    }

    /// Lets every stream that was woken go on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(stream)) = self.arriving.poll_recv(cx) {
            self.add(stream);
        }
        mem::swap(&mut self.round, &mut *self.ready.places.lock());
        let mut round = mem::take(&mut self.round);
        // in the order they were woken: who wrote is answered before those who watch are told
        for place in round.drain(..) {
            self.poll_one(place);
        }
        self.round = round;
    }

    /// Runs a stream with its connection from now on.
    pub(super) fn add(&mut self, stream: S) {
        let place = self.free.pop().unwrap_or(self.places.len());
        let rope = Arc::new(Rope { place, is_pulled: AtomicBool::new(false), ready: self.ready.clone() });
        let resident = Some(Resident { stream, waker: rope.clone().into(), rope: rope.clone() });
        match self.places.get_mut(place) {
            Some(free) => *free = resident,
            None => self.places.push(resident),
        }
        rope.wake();
    }

    fn poll_one(&mut self, place: usize) {
        let Some(Some(resident)) = self.places.get_mut(place) else { return };
        // before the stream looks, so that what comes from here on pulls again
        resident.rope.is_pulled.swap(false, AcqRel);
        let mut cx = Context::from_waker(&resident.waker);
        // a panic ends the one stream, as it would end a task
        let polled = catch_unwind(AssertUnwindSafe(|| resident.stream.poll(&mut cx)));
        if !matches!(polled, Ok(Poll::Pending)) {
            self.places[place] = None;
            self.free.push(place);
        }
    }
}

#[cfg(test)]
mod tests;
