//! A service, its clients, and a fault, as a simulation of events.
//!
//! 800 requests per second go to a service that can do 1,000: fifty workers that take 50 ms for each. From the 20th second
//! to the 30th each takes three times as long. A client waits for a second per try and for three altogether; whoever it
//! does not wait for any more is worked on all the same, unless the service knows the deadline.

use std::{cmp::Reverse, collections::BinaryHeap, fmt::Write as _, time::Duration};

use resilience::{
    Moment, Outcome, Random, Rejection,
    breaker::{Breaker, BreakerConfig, Permit},
    bulkhead::{Bulkhead, BulkheadConfig, Entry, Next},
    codel::CodelConfig,
    limit::LimitConfig,
    observe::Ending,
    retry::{Backoff, Budget, BudgetConfig, Decision, RetryConfig, Verdict},
};

const RATE: u64 = 800;
const WORKERS: usize = 50;
const WORK: Duration = Duration::from_millis(50);
const SLOWER: u32 = 3;
const FAULT: std::ops::Range<u64> = 20..30;
const END: u64 = 120;
const PATIENCE_OF_TRY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(3);
/// A refusal is there and back in this time.
const WAY: Duration = Duration::from_millis(1);
/// Requests that fit into the service's queue where nothing bounds it: as many as memory suffices for.
const QUEUE_MAX: usize = 20_000;
/// Nobody is turned away from that queue for waiting.
const NO_TIMEOUT: Duration = Duration::from_secs(3600);
const SEED: u64 = 42;

/// What clients and service defend themselves with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Defence {
    /// What the table calls it.
    pub(crate) name: &'static str,
    tries: u32,
    backoff: bool,
    budget: bool,
    breaker: bool,
    deadline: bool,
    shedding: bool,
}

/// The lines of the table.
pub(crate) const DEFENCES: [Defence; 8] = {
    const NONE: Defence =
        Defence { name: "", tries: 3, backoff: true, budget: true, breaker: false, deadline: false, shedding: false };
    [
        Defence { name: "no retries", tries: 1, ..NONE },
        Defence { name: "three tries at once", backoff: false, budget: false, ..NONE },
        Defence { name: "… with backoff and jitter", budget: false, ..NONE },
        Defence { name: "… and a retry budget", ..NONE },
        Defence { name: "… and a breaker", breaker: true, ..NONE },
        Defence { name: "budget, and deadlines known to the service", deadline: true, ..NONE },
        Defence { name: "budget, and a bulkhead with CoDel", shedding: true, ..NONE },
        Defence { name: "budget, breaker, deadlines, bulkhead", breaker: true, deadline: true, shedding: true, ..NONE },
    ]
};

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcomes {
    /// Tries for each hundred requests, from the fault until half a minute after it.
    pub(crate) load_percent: u64,
    /// Requests that were answered, of those of the fault.
    pub(crate) during_percent: u64,
    /// And of those of the half minute after it.
    pub(crate) after_percent: u64,
    /// Seconds after the fault until 99 of a hundred requests are answered and stay so; `None` when that never happens.
    pub(crate) recovered_after: Option<u64>,
    /// Work that was done for clients who had gone, from the fault on.
    pub(crate) wasted_percent: u64,
}

/// The table of docs/resilience.md, of what came of each defence.
pub(crate) fn table(outcomes: &[Outcomes; DEFENCES.len()]) -> String {
    let mut table = String::from(
        "| defence | load | answered during the fault | in the 30 s after it | recovered after | work for nobody |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for (defence, outcomes) in DEFENCES.iter().zip(outcomes) {
        let load = format!("{}.{:02}×", outcomes.load_percent / 100, outcomes.load_percent % 100);
        let recovered = match outcomes.recovered_after {
            Some(seconds) => format!("{seconds} s"),
            None => "never".to_owned(),
        };
        let Outcomes { during_percent: during, after_percent: after, wasted_percent: wasted, .. } = outcomes;
        let name = defence.name;
        // writing to a string does not fail
        let _ = writeln!(table, "| {name} | {load} | {during} % | {after} % | {recovered} | {wasted} % |");
    }
    table
}

/// Two minutes with a defence.
pub(crate) fn run(defence: Defence) -> Outcomes {
    let mut world = World::new(defence);
    world.schedule(Moment::default(), Event::Arrive);
    let end = Moment::default() + Duration::from_secs(END) + PATIENCE;
    while let Some(Reverse((now, _, event))) = world.events.pop() {
        if now >= end {
            break;
        }
        world.happen(now, event);
    }
    world.outcomes()
}

/// A try of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Try {
    request: usize,
    number: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    Send(Try),
    Answer(Try),
    Refused(Try),
    TimedOut(Try),
}

#[derive(Debug)]
struct Request {
    arrived: Moment,
    /// The try that is waited for; 0 when none is.
    current: u32,
    sent: Moment,
    permit: Option<Permit>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    arrived: u64,
    answered: u64,
    tries: u64,
    done: u64,
    wasted: u64,
}

struct World {
    defence: Defence,
    events: BinaryHeap<Reverse<(Moment, u64, Event)>>,
    scheduled: u64,
    random: Random,
    requests: Vec<Request>,
    retry: RetryConfig,
    budget: Budget,
    breaker: Breaker,
    service: Bulkhead<Try>,
    seconds: Vec<Second>,
}

impl World {
    fn new(defence: Defence) -> Self {
        let retry = RetryConfig { tries_max: defence.tries, backoff: Backoff::default(), ..RetryConfig::default() };
        let breaker = BreakerConfig {
            open_for: Duration::from_secs(1),
            open_for_max: Duration::from_secs(4),
            ..BreakerConfig::default()
        };
        let service = BulkheadConfig {
            limit: LimitConfig::Fixed(WORKERS),
            queue_max: if defence.shedding { WORKERS * 10 } else { QUEUE_MAX },
            queue_timeout: if defence.shedding { PATIENCE_OF_TRY } else { NO_TIMEOUT },
            codel: defence
                .shedding
                .then(|| CodelConfig { target: Duration::from_millis(50), interval: Duration::from_millis(200) }),
        };
        let valid = "the simulation's configuration is valid";
        Self {
            defence,
            events: BinaryHeap::new(),
            scheduled: 0,
            random: Random::seeded(SEED),
            requests: Vec::new(),
            retry,
            budget: Budget::new(BudgetConfig::default()).expect(valid),
            breaker: Breaker::new(breaker).expect(valid),
            service: Bulkhead::new(service).expect(valid),
            seconds: vec![Second::default(); END as usize + 10],
        }
    }

    fn schedule(&mut self, at: Moment, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, event)));
    }

    fn second(&mut self, at: Moment) -> &mut Second {
        &mut self.seconds[(at.as_nanos() / 1_000_000_000) as usize]
    }

    /// A duration between half of one and one and a half.
    fn about(&self, duration: Duration) -> Duration {
        let nanos = duration.as_nanos() as u64;
        Duration::from_nanos(nanos / 2 + self.random.draw() % nanos)
    }

    fn happen(&mut self, now: Moment, event: Event) {
        match event {
            Event::Arrive => self.arrive(now),
            Event::Send(attempt) => self.send(now, attempt),
            Event::Answer(attempt) => self.answer(now, attempt),
            Event::Refused(attempt) if self.is_awaited(attempt) => self.failed(now, attempt, None),
            Event::TimedOut(attempt) if self.is_awaited(attempt) => self.failed(now, attempt, None),
            Event::Refused(_) | Event::TimedOut(_) => {}
        }
    }

    fn arrive(&mut self, now: Moment) {
        let request = self.requests.len();
        self.requests.push(Request { arrived: now, current: 0, sent: now, permit: None });
        self.second(now).arrived += 1;
        self.budget.request(now);
        self.send(now, Try { request, number: 1 });
        let next = now + self.about(Duration::from_secs(1) / RATE as u32);
        if next < Moment::default() + Duration::from_secs(END) {
            self.schedule(next, Event::Arrive);
        }
    }

    fn send(&mut self, now: Moment, attempt: Try) {
        self.requests[attempt.request].current = attempt.number;
        self.requests[attempt.request].sent = now;
        if self.defence.breaker {
            match self.breaker.admit(now) {
                Ok(permit) => self.requests[attempt.request].permit = Some(permit),
                Err(wait) => return self.failed(now, attempt, Some(wait)),
            }
        }
        self.second(now).tries += 1;
        self.schedule(now + PATIENCE_OF_TRY, Event::TimedOut(attempt));
        match self.service.enter(now, || attempt) {
            Ok(Entry::Admitted) => self.work(now, attempt),
            Ok(Entry::Queued(_)) => {}
            Err(Rejection::Full) => self.schedule(now + WAY, Event::Refused(attempt)),
            Err(other) => unreachable!("nobody is refused at the door because of {other}"),
        }
    }

    /// A worker begins.
    fn work(&mut self, now: Moment, attempt: Try) {
        let second = now.as_nanos() / 1_000_000_000;
        let work = if FAULT.contains(&second) { WORK * SLOWER } else { WORK };
        let done = now + self.about(work);
        self.schedule(done, Event::Answer(attempt));
    }

    /// A worker has done its work, and takes up the next.
    fn answer(&mut self, now: Moment, attempt: Try) {
        let awaited = self.is_awaited(attempt);
        let second = self.second(now);
        second.done += 1;
        second.wasted += u64::from(!awaited);
        if awaited {
            let arrived = self.requests[attempt.request].arrived;
            self.second(arrived).answered += 1;
            self.finish(now, attempt, Outcome::Success);
        }
        self.service.leave(now, None);
        while let Some(next) = self.service.next(now) {
            match next {
                Next::Refuse(attempt, _) => self.schedule(now + WAY, Event::Refused(attempt)),
                Next::Start(attempt) if self.defence.deadline && !self.is_awaited(attempt) => {
                    self.service.leave(now, None);
                }
                Next::Start(attempt) => self.work(now, attempt),
            }
        }
    }

    fn is_awaited(&self, attempt: Try) -> bool {
        self.requests[attempt.request].current == attempt.number
    }

    /// The client waits no longer for a try.
    fn finish(&mut self, now: Moment, attempt: Try, outcome: Outcome) {
        let request = &mut self.requests[attempt.request];
        request.current = 0;
        let took = now.since(request.sent);
        if let Some(permit) = request.permit.take() {
            self.breaker.record(now, permit, took, Ending::Answered(outcome));
        }
    }

    fn failed(&mut self, now: Moment, attempt: Try, retry_after: Option<Duration>) {
        self.finish(now, attempt, Outcome::Failure);
        let remaining = (self.requests[attempt.request].arrived + PATIENCE).since(now);
        let (budget, limited) = (&self.budget, self.defence.budget);
        let random = if self.defence.backoff { self.random.draw() } else { 0 };
        let verdict = Verdict::Again { retry_after };
        let withdraw = || !limited || budget.withdraw(now);
        match self.retry.decide(attempt.number, verdict, Some(remaining), random, withdraw) {
            Decision::Retry { after } => {
                let next = Try { number: attempt.number + 1, ..attempt };
                self.schedule(now + after, Event::Send(next));
            }
            Decision::Stop(_) => {}
        }
    }

    fn outcomes(&self) -> Outcomes {
        let percent = |part: u64, whole: u64| part * 100 / whole.max(1);
        let sum = |range: std::ops::Range<u64>, of: fn(&Second) -> u64| {
            self.seconds[range.start as usize..range.end as usize].iter().map(of).sum::<u64>()
        };
        let answered =
            |range: std::ops::Range<u64>| percent(sum(range.clone(), |s| s.answered), sum(range, |s| s.arrived));
        let well = |second: &Second| second.answered * 100 >= second.arrived * 99;
        let last_bad =
            self.seconds[..END as usize].iter().rposition(|second| !well(second)).map_or(0, |n| n as u64 + 1);
        let (from, to) = (FAULT.start, FAULT.end + 30);
        Outcomes {
            load_percent: percent(sum(from..to, |s| s.tries), sum(from..to, |s| s.arrived)),
            during_percent: answered(FAULT),
            after_percent: answered(FAULT.end..FAULT.end + 30),
            recovered_after: (last_bad < END).then(|| last_bad.saturating_sub(FAULT.end)),
            wasted_percent: percent(sum(FAULT.start..END, |s| s.wasted), sum(FAULT.start..END, |s| s.done)),
        }
    }
}
