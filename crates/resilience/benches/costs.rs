//! What each mechanism costs a request that goes well: time, and allocations.
//!
//! `cargo bench -p resilience`, or with `-- TEXT` only the lines with that text. One thread, nothing else running; a line is the median of many rounds. The last lines are
//! whole layers around a service that answers at once, each with what the service takes by itself.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    env,
    future::{Future, Ready, ready},
    hint::black_box,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use http::{Request, Response};
use resilience::{
    ByOverload, ByStatus, Failure, Moment, Outcome, Random,
    balance::{Maglev, PeakEwma, Ring, Turns, hash, two_choices},
    breaker::{Breaker, BreakerConfig, BreakerLayer},
    bulkhead::{Bulkhead, BulkheadConfig, BulkheadLayer},
    deadline::{DeadlineConfig, DeadlineLayer},
    hedge::{HedgeConfig, HedgeLayer},
    now,
    observe::Ending,
    outlier::{Answer, Detector, OutlierConfig},
    rate::{Limiter, Limiters, RateConfig, RateLayer},
    retry::{Budget, BudgetConfig, HttpRules, RetryConfig, RetryLayer},
    shed::{ByExtension, Criticality, ShedConfig, ShedLayer, Shedder},
};
use tower::{Layer, Service, service_fn};

const ROUNDS: usize = 51;
const CALLS: u32 = 20_000;

type Outcomes<T> = Result<T, Box<dyn std::error::Error>>;

/// The system's allocator, which counts.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` with this layout, which had it from the system.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn main() -> Outcomes<()> {
    println!("{:<44} {:>8} {:>12}", "", "ns", "allocations");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let _inside = runtime.enter();
    machines()?;
    balancing()?;
    layers()
}

/// Prints what one call costs.
fn measure(what: &str, mut call: impl FnMut(u64)) {
    let mut wanted = env::args().skip(1).filter(|argument| !argument.starts_with("--")).peekable();
    if wanted.peek().is_some() && !wanted.any(|text| what.contains(&text)) {
        return;
    }
    (0..u64::from(CALLS)).for_each(&mut call);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let round = |_| {
        let began = Instant::now();
        (0..u64::from(CALLS)).for_each(&mut call);
        began.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    let mut rounds: Vec<f64> = (0..ROUNDS).map(round).collect();
    // but for the list of rounds
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before - 1;
    rounds.sort_by(f64::total_cmp);
    let per_call = allocations as f64 / (f64::from(CALLS) * ROUNDS as f64);
    println!("{what:<44} {:>8.1} {per_call:>12.2}", rounds[ROUNDS / 2]);
}

fn machines() -> Outcomes<()> {
    const STEP: u64 = 10_000;
    let mut at = 0;
    let mut tick = move || {
        at += STEP;
        Moment::from_nanos(at)
    };
    measure("reading the clock", |_| {
        black_box(now());
    });
    let budget = Budget::new(BudgetConfig::default())?;
    measure("budget: a request", |_| budget.request(tick()));
    let mut breaker = Breaker::new(BreakerConfig::default())?;
    measure("breaker: admit and record", |_| {
        let now = tick();
        if let Ok(permit) = breaker.admit(now) {
            breaker.record(now, permit, Duration::from_millis(1), Ending::Answered(Outcome::Success));
        }
    });
    let mut bulkhead = Bulkhead::new(BulkheadConfig::default())?;
    measure("bulkhead: enter and leave, adaptive limit", |_| {
        let now = tick();
        let _ = black_box(bulkhead.enter(now, || ()));
        bulkhead.leave(now, Some((Duration::from_millis(1), false)));
    });
    let limiter = Limiter::new(RateConfig::per_second(1_000_000))?;
    measure("rate: one bucket", |_| {
        let _ = black_box(limiter.take(tick(), 1));
    });
    let limiters = Limiters::<u64>::new(RateConfig::per_second(1_000_000), 100_000)?;
    measure("rate: one bucket of 10,000 callers", |n| {
        let _ = black_box(limiters.take(tick(), &(n % 10_000), 1));
    });
    let mut shedder = Shedder::new(ShedConfig::default())?;
    measure("shed: admit and answer", |n| {
        let now = tick();
        black_box(shedder.admits(now, Criticality::Critical, n));
        shedder.answered(now, Duration::from_millis(1));
    });
    let detector = Detector::new(OutlierConfig::default())?;
    let endpoints: Vec<_> = (0..10).map(|_| detector.join()).collect();
    measure("outlier: an answer of one of 10 endpoints", |n| {
        detector.record(tick(), &endpoints[(n % 10) as usize], Answer::Success);
    });
    Ok(())
}

fn balancing() -> Outcomes<()> {
    let random = Random::seeded(1);
    let decay = Duration::from_secs(10);
    let ewma = |_| PeakEwma::new(decay, Duration::from_millis(1));
    let latencies = (0..1000).map(ewma).collect::<Result<Vec<_>, _>>()?;
    let mut at = 1 << 40;
    measure("balance: two choices by EWMA of 1,000", |_| {
        at += 100_000;
        let now = Moment::from_nanos(at);
        if let Some(chosen) = two_choices(1000, random.draw(), |n| latencies[n].load(now, 0, 1.0)) {
            latencies[chosen].answered(now, Duration::from_millis(1));
        }
    });
    let names: Vec<(String, u32)> = (0..1000).map(|n| (format!("10.0.{}.{}:80", n / 256, n % 256), 1)).collect();
    let turns = Turns::new(&[1; 1000])?;
    measure("balance: turns of 1,000", |_| {
        black_box(turns.next());
    });
    let (ring, maglev) = (Ring::new(&names)?, Maglev::new(&names)?);
    measure("balance: ring of 1,000", |_| {
        black_box(ring.pick(random.draw()));
    });
    measure("balance: Maglev of 1,000", |_| {
        black_box(maglev.pick(random.draw()));
    });
    measure("balance: hash of 20 bytes", |n| {
        black_box(hash(b"a session of somebody", n));
    });
    Ok(())
}

type Answers = Response<()>;

fn answer(_: Request<()>) -> Ready<Result<Answers, Failure<io::Error>>> {
    ready(Ok(Response::new(())))
}

fn layers() -> Outcomes<()> {
    let budget = Arc::new(Budget::new(BudgetConfig::default())?);
    let bare = service_fn(answer);
    through("a request and its answer, without layers", bare);
    let config = DeadlineConfig { tell: false, ..DeadlineConfig::default() };
    through("layer: deadline, not told", DeadlineLayer::new(config)?.layer(bare));
    through("layer: deadline", DeadlineLayer::new(DeadlineConfig::default())?.layer(bare));
    let retry = RetryLayer::new(RetryConfig::default(), HttpRules::default(), budget.clone())?;
    through("layer: retry", retry.layer(bare));
    through("layer: breaker", BreakerLayer::new(BreakerConfig::default(), ByStatus)?.layer(bare));
    through("layer: bulkhead", BulkheadLayer::new(BulkheadConfig::default(), ByOverload)?.layer(bare));
    through("layer: rate", RateLayer::new(RateConfig::per_second(u32::MAX / 8))?.layer(bare));
    through("layer: shed", ShedLayer::new(ShedConfig::default(), ByExtension)?.layer(bare));
    let hedge = HedgeLayer::new(HedgeConfig::default(), HttpRules::default(), budget)?;
    through("layer: hedge, off", hedge.layer(bare));
    Ok(())
}

/// Prints what a service costs that answers at once.
fn through<S>(what: &str, mut service: S)
where
    S: Service<Request<()>, Response = Answers>,
{
    let mut cx = Context::from_waker(Waker::noop());
    measure(what, |_| {
        if let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) {
            let future = pin!(service.call(Request::new(())));
            // nothing here waits
            black_box(future.poll(&mut cx).is_ready());
        }
    });
}
