//! The queues of a priority level: shuffle sharding of flows over them, and fair dispatch. Pure: no clock, no waiting.
//!
//! A flow is dealt a hand of queues by its hash and joins the one with the fewest waiting seats, so that a flow which
//! floods its hand leaves most other flows a queue of their own. Dispatch is start-time fair queueing: each queue has a
//! virtual start time that grows with the seats it was given; the queue with the smallest one is next. A queue that was
//! empty begins at the present virtual time, so that nobody saves up turns.

use std::collections::VecDeque;

/// How a level queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queuing {
    pub(super) queues: usize,
    pub(super) hand_size: usize,
    /// Requests one queue holds at most.
    pub(super) length_max: usize,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    /// Which one, for taking it out again.
    pub(super) ticket: u64,
    pub(super) seats: u32,
    /// Who waits.
    pub(super) item: T,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<Waiting<T>>,
    seats: u64,
    /// Virtual time at which the request at its head is due.
    start: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), seats: 0, start: 0 }
    }
}

/// All queues of one level.
#[derive(Debug)]
pub(super) struct Queues<T> {
    queuing: Queuing,
    queues: Vec<Queue<T>>,
    /// Virtual time: the start of what was dispatched last.
    now: u64,
    /// Where to look first among equals.
    turn: usize,
    tickets: u64,
}

impl<T> Queues<T> {
    pub(super) fn new(queuing: Queuing) -> Self {
        let queues = std::iter::repeat_with(Queue::default).take(queuing.queues.max(1)).collect();
        Self { queuing, queues, now: 0, turn: 0, tickets: 0 }
    }

    /// Takes over other numbers; what waits goes on waiting.
    pub(super) fn reconfigure(&mut self, queuing: Queuing) {
        if queuing == self.queuing {
            return;
        }
        let old = std::mem::replace(self, Self { tickets: self.tickets, ..Self::new(queuing) });
        let count = self.queues.len();
        for (index, queue) in old.queues.into_iter().enumerate() {
            let into = &mut self.queues[index % count];
            into.seats += queue.seats;
            into.waiting.extend(queue.waiting);
        }
    }

    /// Lets a request of the flow with this hash wait; gives its ticket, or the item back when its queue is full.
    pub(super) fn join(&mut self, flow: u64, seats: u32, item: T) -> Result<u64, T> {
        let hand = deal(flow, self.queues.len(), self.queuing.hand_size);
        let Some(index) = hand.min_by_key(|index| self.queues[*index].seats) else { return Err(item) };
        let queue = &mut self.queues[index];
        if queue.waiting.len() >= self.queuing.length_max {
            return Err(item);
        }
        if queue.waiting.is_empty() {
            queue.start = queue.start.max(self.now);
        }
        self.tickets += 1;
        queue.seats += u64::from(seats);
        queue.waiting.push_back(Waiting { ticket: self.tickets, seats, item });
        Ok(self.tickets)
    }

    /// Seats the request that is next wants.
    pub(super) fn next_seats(&self) -> Option<u32> {
        self.next().and_then(|index| self.queues[index].waiting.front()).map(|waiting| waiting.seats)
    }

    /// Takes out the request that is next.
    pub(super) fn dispatch(&mut self) -> Option<Waiting<T>> {
        let index = self.next()?;
        let queue = &mut self.queues[index];
        let waiting = queue.waiting.pop_front()?;
        queue.seats -= u64::from(waiting.seats);
        self.now = queue.start;
        queue.start += u64::from(waiting.seats.max(1));
        self.turn = (index + 1) % self.queues.len();
        Some(waiting)
    }

    /// Takes out a request that gave up.
    pub(super) fn leave(&mut self, ticket: u64) -> bool {
        for queue in &mut self.queues {
            if let Some(at) = queue.waiting.iter().position(|waiting| waiting.ticket == ticket) {
                let left = queue.waiting.remove(at);
                queue.seats -= left.map_or(0, |waiting| u64::from(waiting.seats));
                return true;
            }
        }
        false
    }

    /// Number of requests and seats waiting in each queue that has any.
    pub(super) fn lengths(&self) -> impl Iterator<Item = (usize, usize, u64)> + '_ {
        let queues = self.queues.iter().enumerate();
        queues.filter(|(_, queue)| !queue.waiting.is_empty()).map(|(at, queue)| (at, queue.waiting.len(), queue.seats))
    }

    fn next(&self) -> Option<usize> {
        let count = self.queues.len();
        let in_turn = (0..count).map(|offset| (self.turn + offset) % count);
        in_turn.filter(|index| !self.queues[*index].waiting.is_empty()).min_by_key(|index| self.queues[*index].start)
    }
}

/// Deals `hand` different cards of a deck, the same for the same hash.
fn deal(mut hash: u64, deck: usize, hand: usize) -> impl Iterator<Item = usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(hand.min(deck));
    for taken in 0..hand.min(deck) {
        let left = (deck - taken) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // the card counts among those not dealt yet
        for earlier in &dealt {
            if card >= *earlier {
                card += 1;
            }
        }
        let at = dealt.partition_point(|earlier| *earlier < card);
        dealt.insert(at, card);
    }
    dealt.into_iter()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const FEW: Queuing = Queuing { queues: 8, hand_size: 2, length_max: 100 };

    /// Two flows whose hands have no card in common.
    fn apart(queuing: Queuing) -> (u64, u64) {
        let hand = |flow| deal(flow, queuing.queues, queuing.hand_size).collect::<HashSet<_>>();
        let second = (1..).find(|flow| hand(0).is_disjoint(&hand(*flow))).unwrap();
        (0, second)
    }

    #[test]
    fn hands_are_of_different_cards() {
        for hash in 0..5000_u64 {
            let hand: Vec<usize> = deal(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15), 16, 4).collect();
            assert_eq!(hand.iter().collect::<HashSet<_>>().len(), 4);
            assert!(hand.iter().all(|card| *card < 16));
        }
        assert_eq!(deal(7, 3, 8).count(), 3);
    }

    #[test]
    fn a_quiet_flow_is_next_after_one_request_of_a_flood() {
        let mut queues = Queues::new(FEW);
        let (noisy, quiet) = apart(FEW);
        for _ in 0..100 {
            queues.join(noisy, 1, "noisy").unwrap();
        }
        assert_eq!(queues.dispatch().unwrap().item, "noisy");
        queues.join(quiet, 1, "quiet").unwrap();
        let first: Vec<&str> = (0..3).map(|_| queues.dispatch().unwrap().item).collect();
        assert!(first.contains(&"quiet"), "{first:?}");
    }

    #[test]
    fn seats_not_requests_are_shared_evenly() {
        let one = Queuing { hand_size: 1, ..FEW };
        let mut queues = Queues::new(one);
        let (wide, narrow) = apart(one);
        for _ in 0..40 {
            queues.join(wide, 10, "wide").unwrap();
            queues.join(narrow, 1, "narrow").unwrap();
        }
        let dispatched: Vec<&str> = (0..33).map(|_| queues.dispatch().unwrap().item).collect();
        let wide = dispatched.iter().filter(|item| **item == "wide").count();
        assert!((3..=4).contains(&wide), "{wide}");
    }

    #[test]
    fn an_idle_flow_saves_nothing_up() {
        let one = Queuing { hand_size: 1, ..FEW };
        let mut queues = Queues::new(one);
        let (busy, late) = apart(one);
        for _ in 0..50 {
            queues.join(busy, 1, "busy").unwrap();
        }
        for _ in 0..30 {
            queues.dispatch();
        }
        for _ in 0..20 {
            queues.join(late, 1, "late").unwrap();
        }
        let next: Vec<&str> = (0..10).map(|_| queues.dispatch().unwrap().item).collect();
        assert_eq!(next.iter().filter(|item| **item == "late").count(), 5, "{next:?}");
    }

    #[test]
    fn full_queues_refuse_and_who_leaves_makes_room() {
        let mut queues = Queues::new(Queuing { queues: 1, hand_size: 1, length_max: 2 });
        let first = queues.join(1, 1, 'a').unwrap();
        queues.join(2, 3, 'b').unwrap();
        assert_eq!(queues.join(3, 1, 'c'), Err('c'));
        assert!(queues.leave(first) && !queues.leave(first));
        queues.join(3, 1, 'c').unwrap();
        assert_eq!(queues.lengths().collect::<Vec<_>>(), [(0, 2, 4)]);
        assert_eq!(queues.next_seats(), Some(3));
    }

    #[test]
    fn other_numbers_lose_nobody() {
        let mut queues = Queues::new(FEW);
        for flow in 0..30 {
            queues.join(flow, 1, flow).unwrap();
        }
        queues.reconfigure(Queuing { queues: 2, hand_size: 1, length_max: 1 });
        let mut left: Vec<u64> = std::iter::from_fn(|| queues.dispatch()).map(|waiting| waiting.item).collect();
        left.sort_unstable();
        assert_eq!(left, (0..30).collect::<Vec<_>>());
    }
}
