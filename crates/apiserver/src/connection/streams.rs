//! The streams of an HTTP/2 connection, and where they run.
//!
//! A stream begins as a task of its own, so that the requests of one connection are answered side by side. Once its
//! answer has nothing to give for now (a watch that is up to date) it moves in with its connection: a change that a
//! hundred watches on eight connections are told then wakes eight tasks instead of a hundred, each of them hands over all
//! its frames without anybody contending for the connection's locks, and what it gathered leaves in one TLS record.

use std::{
    mem,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, poll_fn},
    task::AtomicWaker,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::stall::Attended;

/// How often the streams that are ready are polled in one turn of the connection. Twice serves those that woke
/// themselves, as the HTTP/2 library makes every stream do that sends; who goes on waits for the next turn.
const ROUNDS_MAX: usize = 2;

/// Runs the streams of one connection.
#[derive(Clone)]
pub(super) struct StreamExecutor {
    quiet: mpsc::Sender<Attended>,
}

/// The streams that have moved in with their connection; they end with it.
pub(super) struct QuietStreams {
    arriving: mpsc::Receiver<Attended>,
    /// A stream's place is free once it is over.
    places: Vec<Option<Resident>>,
    free: Vec<usize>,
    ready: Arc<Ready>,
    /// The places of this round; kept for its memory.
    round: Vec<usize>,
}

struct Resident {
    stream: BoxFuture<'static, ()>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// The places whose streams were woken. A bell that rings for a place which somebody else has taken over meanwhile costs
/// one poll.
#[derive(Default)]
struct Ready {
    places: Mutex<Vec<usize>>,
    connection: AtomicWaker,
}

/// What wakes one stream.
struct Bell {
    place: usize,
    has_rung: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.has_rung.swap(true, AcqRel) {
            self.ready.places.lock().push(self.place);
            self.ready.connection.wake();
        }
    }
}

/// For a connection that has up to `streams_max` streams at once.
pub(super) fn streams(streams_max: u32) -> (StreamExecutor, QuietStreams) {
    let (quiet, arriving) = mpsc::channel(streams_max as usize);
    let (places, free, round) = (Vec::new(), Vec::new(), Vec::new());
    (StreamExecutor { quiet }, QuietStreams { arriving, places, free, ready: Arc::default(), round })
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let quiet = self.quiet.clone();
        tokio::spawn(async move {
            let mut stream = Attended::new(Box::pin(stream));
            let moves = poll_fn(|cx| match stream.poll_unpin(cx) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending if stream.is_quiet() => Poll::Ready(true),
                Poll::Pending => Poll::Pending,
            });
            if moves.await {
                // fails when the connection has ended, and with it the stream
                let _ended = quiet.send(stream).await;
            }
        });
    }
}

impl QuietStreams {
    /// Lets every stream that was woken go on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        self.ready.connection.register(cx.waker());
        while let Poll::Ready(Some(stream)) = self.arriving.poll_recv(cx) {
            self.add(stream);
        }
        for _ in 0..ROUNDS_MAX {
            mem::swap(&mut self.round, &mut *self.ready.places.lock());
            if self.round.is_empty() {
                return;
            }
            while let Some(place) = self.round.pop() {
                self.poll_one(place);
            }
        }
        if !self.ready.places.lock().is_empty() {
            cx.waker().wake_by_ref();
        }
    }

    fn add(&mut self, stream: Attended) {
        let place = self.free.pop().unwrap_or(self.places.len());
        let bell = Arc::new(Bell { place, has_rung: AtomicBool::new(false), ready: self.ready.clone() });
        // a panic ends the one stream, as it would end a task
        let stream = AssertUnwindSafe(stream).catch_unwind().map(drop).boxed();
        let resident = Some(Resident { stream, waker: bell.clone().into(), bell: bell.clone() });
        match self.places.get_mut(place) {
            Some(free) => *free = resident,
            None => self.places.push(resident),
        }
        bell.wake();
    }

    fn poll_one(&mut self, place: usize) {
        let Some(Some(resident)) = self.places.get_mut(place) else { return };
        // before the stream looks, so that what comes from here on rings again
        resident.bell.has_rung.swap(false, AcqRel);
        if resident.stream.as_mut().poll(&mut Context::from_waker(&resident.waker)).is_ready() {
            self.places[place] = None;
            self.free.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use tokio::sync::Notify;

    use super::*;

    fn attended(stream: impl Future<Output = ()> + Send + 'static) -> Attended {
        Attended::new(Box::pin(stream))
    }

    async fn turn(streams: &mut QuietStreams) {
        poll_fn(|cx| {
            streams.poll(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// What the HTTP/2 library makes of a stream that sends.
    async fn wakes_itself() {
        let mut has_woken = false;
        poll_fn(|cx| {
            if mem::replace(&mut has_woken, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[tokio::test]
    async fn all_that_a_change_wakes_go_on_in_one_turn_and_the_others_sleep() {
        let (_, mut streams) = streams(8);
        let (news, polls) = (Arc::<Notify>::default(), Arc::<AtomicUsize>::default());
        for _ in 0..5 {
            let (news, polls) = (news.clone(), polls.clone());
            streams.add(attended(async move {
                loop {
                    polls.fetch_add(1, Relaxed);
                    news.notified().await;
                    wakes_itself().await;
                }
            }));
        }
        turn(&mut streams).await;
        assert_eq!(polls.load(Relaxed), 5);
        news.notify_waiters();
        turn(&mut streams).await;
        assert_eq!(polls.load(Relaxed), 10);
        turn(&mut streams).await;
        assert_eq!(polls.load(Relaxed), 10);
    }

    #[tokio::test]
    async fn places_of_streams_that_are_over_or_panicked_are_taken_again() {
        let (_, mut streams) = streams(8);
        streams.add(attended(async {}));
        streams.add(attended(async { panic!("a bug in an answer") }));
        streams.add(attended(std::future::pending()));
        turn(&mut streams).await;
        streams.add(attended(std::future::pending()));
        streams.add(attended(std::future::pending()));
        turn(&mut streams).await;
        assert_eq!((streams.places.len(), streams.free.len()), (3, 0));
    }
}
