//! A priority level: so many seats, and queues for who finds none free.
//!
//! As long as seats are free and nobody waits, taking one is a compare-and-swap and giving it back a subtraction. Who
//! waits does so on a channel of its own, in the queues behind a lock; whoever gives seats back hands them on.

use std::sync::{
    Arc,
    atomic::{
        AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
};

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    allocation::Claim,
    queues::{Queues, Queuing},
};

/// Whether a level counts at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// Everybody goes on at once.
    Exempt,
    /// Who finds no seat is refused.
    Reject,
    /// Who finds no seat waits.
    Queue(Queuing),
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// No seat, and the level does not queue.
    ConcurrencyLimit,
    QueueFull,
    TimeOut,
}

impl Rejected {
    pub(super) const ALL: [Self; 3] = [Self::ConcurrencyLimit, Self::QueueFull, Self::TimeOut];

    /// The label of the metric.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ConcurrencyLimit => "concurrency-limit",
            Self::QueueFull => "queue-full",
            Self::TimeOut => "time-out",
        }
    }
}

/// A priority level.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) name: String,
    pub(super) uid: HeaderValue,
    response: Mutex<Response>,
    exempt: bool,
    /// Seats it has now.
    limit: AtomicU32,
    taken: AtomicU32,
    /// Requests in the queues.
    waiting: AtomicU32,
    waiting_seats: AtomicU32,
    /// The most seats taken and wanted since the last look.
    demand: AtomicU32,
    nominal: AtomicU32,
    queues: Mutex<Queues<oneshot::Sender<Seats>>>,
    claim: Mutex<Claim>,
}

/// Seats held; given back when dropped.
#[derive(Debug)]
pub(super) struct Seats {
    level: Arc<Level>,
    count: u32,
}

impl Drop for Seats {
    fn drop(&mut self) {
        if self.count > 0 {
            self.level.give_back(self.count);
        }
    }
}

/// A request in a queue; leaves it when dropped.
pub(super) struct InQueue {
    level: Arc<Level>,
    ticket: u64,
    seats: u32,
    turn: oneshot::Receiver<Seats>,
}

impl InQueue {
    /// Waits for the turn.
    pub(super) async fn turn(&mut self) -> Option<Seats> {
        (&mut self.turn).await.ok()
    }
}

impl Drop for InQueue {
    fn drop(&mut self) {
        // seats that were handed over and not taken are in the channel, and go back with it
        if self.level.queues.lock().leave(self.ticket) {
            self.level.waiting.fetch_sub(1, SeqCst);
            self.level.waiting_seats.fetch_sub(self.seats, Relaxed);
        }
    }
}

/// What comes of asking for seats.
pub(super) enum Asked {
    Seated(Seats),
    Queued(InQueue),
    Refused(Rejected),
}

impl Level {
    pub(super) fn new(name: &str, uid: HeaderValue, response: Response, claim: Claim) -> Self {
        Self {
            name: name.to_owned(),
            uid,
            exempt: response == Response::Exempt,
            response: Mutex::new(response),
            limit: AtomicU32::new(claim.nominal),
            taken: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            waiting_seats: AtomicU32::new(0),
            demand: AtomicU32::new(0),
            nominal: AtomicU32::new(claim.nominal),
            queues: Mutex::new(Queues::new(queuing(response))),
            claim: Mutex::new(claim),
        }
    }

    /// Takes over another configuration; who is seated or waits is not disturbed.
    pub(super) fn reconfigure(self: &Arc<Self>, response: Response, claim: Claim) {
        *self.response.lock() = response;
        self.queues.lock().reconfigure(queuing(response));
        let before = std::mem::replace(&mut *self.claim.lock(), claim);
        self.nominal.store(claim.nominal, Relaxed);
        if before.nominal != claim.nominal {
            self.set_limit(claim.nominal);
        }
    }

    /// Asks for seats in the name of a flow.
    pub(super) fn ask(self: &Arc<Self>, flow: u64, seats: u32) -> Asked {
        if self.exempt {
            return Asked::Seated(Seats { level: self.clone(), count: 0 });
        }
        if self.waiting.load(SeqCst) == 0 && self.take(seats) {
            return Asked::Seated(Seats { level: self.clone(), count: seats });
        }
        self.wait_or_refuse(flow, seats)
    }

    /// Takes seats when they are free; a request wider than the level goes when it is alone.
    fn take(&self, seats: u32) -> bool {
        let limit = self.limit.load(SeqCst);
        let taken = self.taken.fetch_update(SeqCst, SeqCst, |taken| {
            (taken.saturating_add(seats) <= limit || taken == 0).then_some(taken.saturating_add(seats))
        });
        if let Ok(before) = taken {
            self.demand.fetch_max(before + seats, Relaxed);
        }
        taken.is_ok()
    }

    fn wait_or_refuse(self: &Arc<Self>, flow: u64, seats: u32) -> Asked {
        if *self.response.lock() == Response::Reject {
            return Asked::Refused(Rejected::ConcurrencyLimit);
        }
        let (sender, turn) = oneshot::channel();
        let ticket = {
            let mut queues = self.queues.lock();
            let Ok(ticket) = queues.join(flow, seats, sender) else { return Asked::Refused(Rejected::QueueFull) };
            self.waiting.fetch_add(1, SeqCst);
            ticket
        };
        let wanted = self.waiting_seats.fetch_add(seats, Relaxed) + seats + self.taken.load(Relaxed);
        self.demand.fetch_max(wanted, Relaxed);
        let queued = InQueue { level: self.clone(), ticket, seats, turn };
        // seats may have come free between the look at them and the wait
        self.hand_on();
        Asked::Queued(queued)
    }

    fn give_back(self: &Arc<Self>, seats: u32) {
        self.taken.fetch_sub(seats, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.hand_on();
        }
    }

    /// Gives free seats to those who wait, in fair order.
    fn hand_on(self: &Arc<Self>) {
        loop {
            let (sender, seats) = {
                let mut queues = self.queues.lock();
                let Some(wanted) = queues.next_seats() else { return };
                if !self.take(wanted) {
                    return;
                }
                let Some(next) = queues.dispatch() else { return };
                self.waiting.fetch_sub(1, SeqCst);
                self.waiting_seats.fetch_sub(wanted, Relaxed);
                (next.item, Seats { level: self.clone(), count: wanted })
            };
            if let Err(mut unwanted) = sender.send(seats) {
                // whoever waited is gone: not through the drop, which would come back here once per such request
                let count = std::mem::take(&mut unwanted.count);
                self.taken.fetch_sub(count, SeqCst);
            }
        }
    }

    fn set_limit(self: &Arc<Self>, limit: u32) {
        let before = self.limit.swap(limit, SeqCst);
        if limit > before && self.waiting.load(SeqCst) > 0 {
            self.hand_on();
        }
    }

    /// What the level may get, with what it wanted since the last call; `None` when it has no limit.
    pub(super) fn claim(&self) -> Option<Claim> {
        let now = self.taken.load(Relaxed) + self.waiting_seats.load(Relaxed);
        let demand = self.demand.swap(now, Relaxed).max(now);
        (!self.exempt).then(|| Claim { demand, ..*self.claim.lock() })
    }

    /// Gives it so many seats from now on.
    pub(super) fn allot(self: &Arc<Self>, seats: u32) {
        self.set_limit(seats);
    }

    /// Its seats by configuration.
    pub(super) fn nominal(&self) -> u32 {
        self.nominal.load(Relaxed)
    }

    pub(super) fn is_exempt(&self) -> bool {
        self.exempt
    }

    pub(super) fn state(&self) -> State {
        State {
            limit: self.limit.load(Relaxed),
            taken: self.taken.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            claim: *self.claim.lock(),
        }
    }

    /// Length and seats of each queue in which somebody waits.
    pub(super) fn lengths(&self) -> Vec<(usize, usize, u64)> {
        self.queues.lock().lengths().collect()
    }
}

/// How a level is doing.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    pub(super) limit: u32,
    pub(super) taken: u32,
    pub(super) waiting: u32,
    pub(super) claim: Claim,
}

fn queuing(response: Response) -> Queuing {
    match response {
        Response::Queue(queuing) => queuing,
        Response::Exempt | Response::Reject => Queuing { queues: 1, hand_size: 1, length_max: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUING: Queuing = Queuing { queues: 16, hand_size: 2, length_max: 100 };

    fn level(seats: u32, response: Response) -> Arc<Level> {
        let claim = Claim { nominal: seats, least: seats, most: seats, demand: 0 };
        Arc::new(Level::new("test", HeaderValue::from_static("u"), response, claim))
    }

    fn seated(asked: Asked) -> Seats {
        match asked {
            Asked::Seated(seats) => seats,
            Asked::Queued(_) | Asked::Refused(_) => panic!("no seat"),
        }
    }

    fn queued(asked: Asked) -> InQueue {
        match asked {
            Asked::Queued(queued) => queued,
            Asked::Seated(_) | Asked::Refused(_) => panic!("not queued"),
        }
    }

    #[tokio::test]
    async fn a_noisy_tenant_does_not_starve_another() {
        let level = level(3, Response::Queue(QUEUING));
        let held: Vec<Seats> = (0..3).map(|_| seated(level.ask(1, 1))).collect();
        let mut noisy: Vec<InQueue> = (0..100).map(|_| queued(level.ask(1, 1))).collect();
        let mut quiet = queued(level.ask(5, 1));
        drop(held);
        // of three seats the flood got one for each of its two queues, the quiet tenant the third, although it came last
        let _served = quiet.turn.try_recv().unwrap();
        let seats: Vec<Seats> = noisy.iter_mut().filter_map(|queued| queued.turn.try_recv().ok()).collect();
        assert_eq!(seats.len(), 2);
    }

    #[tokio::test]
    async fn seats_go_from_hand_to_hand_and_none_is_lost() {
        let level = level(3, Response::Queue(QUEUING));
        let tasks: Vec<_> = (0..200_u64)
            .map(|flow| {
                let level = level.clone();
                tokio::spawn(async move {
                    let seats = match level.ask(flow, 1 + (flow % 3) as u32) {
                        Asked::Seated(seats) => seats,
                        Asked::Queued(mut queued) => queued.turn().await.unwrap(),
                        Asked::Refused(rejected) => panic!("{rejected:?}"),
                    };
                    assert!(level.state().taken <= 3);
                    tokio::task::yield_now().await;
                    drop(seats);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!((level.state().taken, level.state().waiting), (0, 0));
    }

    #[test]
    fn who_gives_up_waiting_leaves_no_trace() {
        let level = level(1, Response::Queue(QUEUING));
        let held = seated(level.ask(1, 1));
        let (given_up, mut patient) = (queued(level.ask(1, 1)), queued(level.ask(1, 1)));
        drop(given_up);
        assert_eq!(level.state().waiting, 1);
        drop(held);
        let handed = patient.turn.try_recv().unwrap();
        drop(patient);
        drop(handed);
        assert_eq!((level.state().taken, level.state().waiting), (0, 0));
    }

    #[test]
    fn seats_handed_to_somebody_who_is_gone_come_back() {
        let level = level(1, Response::Queue(QUEUING));
        let held = seated(level.ask(1, 1));
        let waiting = queued(level.ask(1, 1));
        drop(held);
        assert_eq!(level.state().taken, 1);
        drop(waiting);
        assert_eq!(level.state().taken, 0);
    }

    #[test]
    fn limits_refuse_and_exempt_levels_do_not_count() {
        let strict = level(1, Response::Reject);
        let _held = seated(strict.ask(1, 1));
        assert!(matches!(strict.ask(1, 1), Asked::Refused(Rejected::ConcurrencyLimit)));
        let short = level(1, Response::Queue(Queuing { queues: 1, hand_size: 1, length_max: 0 }));
        let _held = seated(short.ask(1, 1));
        assert!(matches!(short.ask(1, 1), Asked::Refused(Rejected::QueueFull)));
        let free = level(0, Response::Exempt);
        let held: Vec<Seats> = (0..1000).map(|flow| seated(free.ask(flow, 1))).collect();
        assert_eq!(free.state().taken, 0);
        drop(held);
    }

    #[test]
    fn wide_requests_go_when_they_are_alone_and_a_larger_limit_lets_others_in() {
        let level = level(2, Response::Queue(QUEUING));
        let wide = seated(level.ask(1, 10));
        let mut waiting = queued(level.ask(2, 1));
        level.allot(11);
        assert!(waiting.turn.try_recv().is_ok());
        drop(wide);
        assert_eq!(level.claim().unwrap().demand, 11);
    }
}
