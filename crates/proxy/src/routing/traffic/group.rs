//! What is known of the endpoints of one backend by those who use it in one way: load, latency, ejections, health.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use resilience::{
    ConfigError, Moment,
    balance::{Active, Counted, Maglev, PeakEwma, hash, two_choices},
    outlier::{self, Answer, Detector},
};
use tracing::{info, warn};

use super::{
    Balance, Check, Upstream,
    limits::{Gate, Overflow, Permit},
};

/// How long a list of the endpoints that are fit for use holds. An ejection by what an endpoint answered makes a new one
/// at once; this is how late one is noticed that came of comparing endpoints, or that is over.
const FIT_FOR: Duration = Duration::from_millis(100);

/// Other endpoints that are drawn when one is not usable, before all are looked at.
const DRAWS: u64 = 3;

/// How far back latencies count, as Finagle's and Linkerd's balancers have it.
const LATENCY_DECAY: Duration = Duration::from_secs(10);

/// What an endpoint counts for that has not answered yet: little, so that it is tried at once.
const LATENCY_INITIAL: Duration = Duration::from_millis(1);

/// The endpoints of a backend as one [`Upstream`] sees them.
#[derive(Debug)]
pub struct Group {
    upstream: Arc<Upstream>,
    backend: Box<str>,
    members: ArcSwap<Members>,
    /// Held while members are replaced.
    replacing: Mutex<()>,
    detector: Option<Detector>,
    /// The list of fit members is out of date.
    stale: AtomicBool,
    next: AtomicUsize,
    gate: Gate,
    /// Somebody asks the endpoints whether they are well.
    asked: AtomicBool,
}

/// An endpoint, and what is known of it.
#[derive(Debug)]
pub struct Member {
    /// Where it is.
    pub address: SocketAddr,
    active: Arc<Active>,
    latency: Option<PeakEwma>,
    joined: Moment,
    watched: Option<Arc<outlier::Endpoint>>,
    sick: AtomicBool,
}

#[derive(Debug, Default)]
struct Members {
    /// What they were made from.
    source: Arc<Vec<SocketAddr>>,
    all: Vec<Arc<Member>>,
    fit: ArcSwap<Fit>,
}

/// The members that are fit for use.
#[derive(Debug, Default)]
struct Fit {
    until: Moment,
    indices: Vec<u32>,
    table: Arc<OnceLock<Option<Maglev>>>,
}

/// Which endpoint a request would have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Want<'a> {
    /// None of these, where it has been already.
    pub avoid: &'a [SocketAddr],
    /// The one for this key.
    pub key: Option<u64>,
    /// This one, if it is fit.
    pub session: Option<SocketAddr>,
}

/// A request that an endpoint has; it is over when this is dropped.
#[derive(Debug)]
pub struct Attempt {
    group: Arc<Group>,
    member: Arc<Member>,
    _active: Counted,
    began: Moment,
}

impl Group {
    pub(in crate::routing) fn new(backend: &str, upstream: Arc<Upstream>) -> Arc<Self> {
        // Both were validated with the upstream.
        let told = |error: &ConfigError| warn!(backend, %error, "a part of a traffic policy is not applied");
        let detector = upstream.config.outlier.clone().map(Detector::new).transpose();
        let detector = detector.inspect_err(told).unwrap_or_default();
        let gate = Gate::new(&upstream.config.limits).inspect_err(told).unwrap_or_default();
        Arc::new(Group {
            backend: backend.into(),
            members: ArcSwap::default(),
            replacing: Mutex::new(()),
            detector,
            stale: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            gate,
            asked: AtomicBool::new(false),
            upstream,
        })
    }

    /// Whose view it is.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Whether no policy asks for it any more.
    pub(crate) fn is_orphan(&self) -> bool {
        Arc::strong_count(&self.upstream) == 1
    }

    /// Lets a request in; `single` says whether it takes a connection of its own.
    pub async fn enter(&self, single: bool) -> Result<Permit, Overflow> {
        self.gate.enter(&self.upstream.config.limits, single).await
    }

    /// Whether the policy says how many requests may be tried again.
    pub fn limits_retries(&self) -> bool {
        let limits = &self.upstream.config.limits;
        limits.retries.is_some() || limits.retry_share.is_some()
    }

    /// Whether what it says is a share of the requests under way, in place of what is held without a policy: a number
    /// alone, which its definition fills in, is no budget.
    pub fn has_budget(&self) -> bool {
        self.upstream.config.limits.retry_share.is_some()
    }

    /// How the endpoints are to be asked whether they are well, for the first who wants to know.
    pub fn begin_checks(&self) -> Option<Check> {
        let check = self.upstream.config.check.as_ref()?;
        let first = !self.asked.load(Ordering::Relaxed) && !self.asked.swap(true, Ordering::AcqRel);
        first.then(|| check.clone())
    }

    /// Remembers which endpoints are not well.
    pub fn set_sick(&self, is_sick: impl Fn(SocketAddr) -> bool) {
        for member in &self.members.load().all {
            let sick = is_sick(member.address);
            if member.sick.swap(sick, Ordering::Relaxed) != sick {
                self.stale.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Whether one more request may be tried again; see [`Limits::retries`](super::Limits::retries).
    pub fn retry(&self) -> Option<Counted> {
        self.gate.retry(&self.upstream.config.limits)
    }

    /// The endpoint for a request, of those in `source`.
    pub fn pick(
        self: &Arc<Self>,
        now: Moment,
        source: &Arc<Vec<SocketAddr>>,
        want: &Want<'_>,
        random: u64,
    ) -> Option<Attempt> {
        let members = self.members(now, source);
        let fit = self.fit(now, &members);
        let member = Arc::clone(self.choose(now, &members, &fit, want, random)?);
        Some(Attempt { group: Arc::clone(self), _active: member.active.begin(), member, began: now })
    }

    /// Whether the requests of an endpoint are sent to others, by what it answered.
    pub fn is_ejected(&self, now: Moment, address: SocketAddr) -> bool {
        let members = self.members.load();
        members.all.iter().any(|member| member.address == address && member.is_ejected(now))
    }

    /// Whether every endpoint is out of use, by what it answered.
    pub(in crate::routing) fn is_spent(&self, now: Moment) -> bool {
        let members = self.members.load();
        !members.all.is_empty() && members.all.iter().all(|member| member.is_ejected(now) || member.is_sick())
    }

    fn members(&self, now: Moment, source: &Arc<Vec<SocketAddr>>) -> Guard<Arc<Members>> {
        let known = self.members.load();
        if Arc::ptr_eq(&known.source, source) {
            return known;
        }
        let replacing = self.replacing.lock();
        let known = self.members.load();
        if Arc::ptr_eq(&known.source, source) {
            return known;
        }
        let mut old: HashMap<_, _> = known.all.iter().map(|member| (member.address, member)).collect();
        let all = source.iter().map(|address| match old.remove(address) {
            Some(member) => Arc::clone(member),
            None => self.join(now, *address),
        });
        let all = all.collect();
        for gone in old.values() {
            if let (Some(detector), Some(watched)) = (&self.detector, &gone.watched) {
                detector.leave(watched);
            }
        }
        self.members.store(Arc::new(Members { source: Arc::clone(source), all, fit: ArcSwap::default() }));
        drop(replacing);
        self.members.load()
    }

    fn join(&self, now: Moment, address: SocketAddr) -> Arc<Member> {
        let latency = match self.upstream.config.balance {
            Balance::Fastest => PeakEwma::new(LATENCY_DECAY, LATENCY_INITIAL).ok(),
            Balance::Turns | Balance::Random | Balance::LeastRequest | Balance::Hash(_) | Balance::Few(..) => None,
        };
        let watched = self.detector.as_ref().map(Detector::join);
        Arc::new(Member {
            address,
            active: Arc::default(),
            latency,
            joined: now,
            watched,
            sick: AtomicBool::new(false),
        })
    }

    fn fit(&self, now: Moment, members: &Members) -> Guard<Arc<Fit>> {
        let known = members.fit.load();
        if now < known.until && !self.stale.load(Ordering::Relaxed) {
            return known;
        }
        self.stale.store(false, Ordering::Relaxed);
        let numbered = || (0u32..).zip(&members.all);
        let mut indices: Vec<_> =
            numbered().filter(|(_, member)| !member.is_ejected(now) && !member.is_sick()).map(|(at, _)| at).collect();
        if indices.len() * 100 < members.all.len() * self.upstream.config.panic_percent as usize {
            indices = numbered().map(|(at, _)| at).collect();
        }
        let table = if indices == known.indices { Arc::clone(&known.table) } else { Arc::default() };
        members.fit.store(Arc::new(Fit { until: now + FIT_FOR, indices, table }));
        members.fit.load()
    }

    fn choose<'a>(
        &self,
        now: Moment,
        members: &'a Members,
        fit: &Fit,
        want: &Want<'_>,
        random: u64,
    ) -> Option<&'a Arc<Member>> {
        let count = fit.indices.len();
        let at = |index: usize| &members.all[fit.indices[index] as usize];
        let most = self.upstream.config.limits.endpoint.unwrap_or(u32::MAX);
        let usable = |member: &&Arc<Member>| member.active.count() < most && !want.avoid.contains(&member.address);
        if let Some(session) = want.session {
            let pinned = (0..count).map(at).find(|member| member.address == session).filter(usable);
            if pinned.is_some() {
                return pinned;
            }
        }
        let from = |start: usize| (0..count).map(move |step| at(start.wrapping_add(step) % count));
        let share = |member: &Member| self.share(now, member);
        let drawn = |draw: u64| hash(&draw.to_le_bytes(), random);
        // A new endpoint is passed over as often as its share is short of a whole one.
        let warm =
            |member: &&Arc<Member>| share(member) * u64::MAX as f64 >= drawn(u64::from(member.address.port())) as f64;
        let best = |load: &dyn Fn(&Member) -> f64| {
            let drawn = (0..DRAWS).map(drawn).filter_map(|random| two_choices(count, random, |index| load(at(index))));
            drawn.map(at).find(usable).or_else(|| from(random as usize).find(usable))
        };
        match &self.upstream.config.balance {
            Balance::Turns | Balance::Random => {
                let start = match (&self.upstream.config.balance, want.avoid) {
                    (Balance::Random, _) => random as usize,
                    // A further attempt takes no turn: else every turn after a failure would fall on who failed.
                    (_, []) => self.next.fetch_add(1, Ordering::Relaxed),
                    _ => self.next.load(Ordering::Relaxed),
                };
                let cold = || from(start).find(usable);
                from(start).filter(usable).find(warm).or_else(cold)
            }
            Balance::LeastRequest => best(&|member| member.active.load(share(member))),
            Balance::Fastest => best(&|member| {
                let (under_way, share) = (member.active.count(), share(member));
                member.latency.as_ref().map_or(0.0, |latency| latency.load(now, under_way, share))
            }),
            Balance::Hash(_) | Balance::Few(..) => {
                let Some(key) = want.key else { return from(random as usize).find(usable) };
                let table = fit.table.get_or_init(|| {
                    let named: Vec<_> = (0..count).map(|index| (at(index).address.to_string(), 1)).collect();
                    Maglev::new(&named).ok()
                });
                // Where the first does not do, every request of the key finds the same next one.
                let keys = (0..DRAWS).map(|draw| if draw == 0 { key } else { hash(&key.to_le_bytes(), draw) });
                let found = keys.filter_map(|key| table.as_ref()?.pick(key)).map(at).find(usable);
                found.or_else(|| from(key as usize).find(usable))
            }
        }
    }

    /// The part of a full share that an endpoint gets while it is new.
    fn share(&self, now: Moment, member: &Member) -> f64 {
        self.upstream.config.slow_start.as_ref().map_or(1.0, |slow_start| slow_start.factor(now, member.joined))
    }
}

impl Member {
    fn is_ejected(&self, now: Moment) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.is_ejected(now))
    }

    fn is_sick(&self) -> bool {
        self.sick.load(Ordering::Relaxed)
    }
}

impl Attempt {
    /// Where the request goes.
    pub fn address(&self) -> SocketAddr {
        self.member.address
    }

    /// What came of it.
    pub fn answered(&self, now: Moment, answer: Answer) {
        let Attempt { group, member, began, .. } = self;
        if let Some(latency) = &member.latency {
            latency.answered(now, now.since(*began));
        }
        if let (Some(detector), Some(watched)) = (&group.detector, &member.watched)
            && detector.record(now, watched, answer)
        {
            group.stale.store(true, Ordering::Relaxed);
            info!(backend = &*group.backend, endpoint = %member.address, "an endpoint fails and is ejected for a while");
        }
    }
}

#[cfg(test)]
mod tests;
