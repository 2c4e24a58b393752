//! What a policy says of how requests are forwarded: compiled, immutable, shared by all rules that it is attached to.
//!
//! A request of a rule without any of this pays for one look at three empty fields. What changes while requests are under
//! way (load, ejections, limits that are used up) lives in the [`Group`] that a [`Backend`](super::Backend) keeps for
//! each [`Upstream`], and so outlives tables.

use std::{sync::Arc, time::Duration};

mod balance;
mod check;
mod compression;
mod crowd;
mod disturb;
mod group;
mod instead;
mod limits;
mod line;
mod rate;
mod retry;
mod session;

pub use balance::{Balance, HashKey, Keyed};
pub use check::{Check, Health, Question, Reply};
pub use compression::{Compression, head_in_gzip, takes_gzip, vary};
pub use crowd::{Crowd, Guest};
pub use disturb::{Abort, Disturbance, Part};
pub use group::{Attempt, Group, Member, Want};
pub use instead::{Elsewhere, Instead, Whose};
pub use limits::{Limits, Overflow, Permit};
pub use line::{LineTerms, ProxyVersion};
pub use rate::{Condition, Distinct, Network, RateRule, Rates, What};
pub use retry::{Failed, Retry, Trigger};
pub use session::{Carrier, Session, Token};

use resilience::{ConfigError, balance::SlowStart, outlier::OutlierConfig};

use super::Timeouts;

/// How the requests of a rule, or of all rules of a listener, are forwarded.
#[derive(Debug, Default)]
pub struct Traffic {
    /// How the endpoints of a backend are used.
    pub upstream: Option<Arc<Upstream>>,
    /// How often a request is tried again.
    pub retry: Option<Arc<Retry>>,
    /// How requests of one client find the same endpoint again.
    pub session: Option<Arc<Session>>,
    /// How long requests may take whose rule does not say it.
    pub timeouts: Timeouts,
    /// How many requests there may be of whom: each of these is asked.
    pub rates: Vec<Arc<Rates>>,
    /// Faults on purpose.
    pub disturbance: Option<Disturbance>,
    /// Answers in place of others; the first that takes one replaces it.
    pub instead: Vec<Instead>,
    /// How long it may take to connect to an endpoint.
    pub connect: Option<Duration>,
    /// How long a backend may be silent once it has the request, and between two pieces of its answer.
    pub silence: Option<Duration>,
    /// Bytes of the longest body of a request.
    pub body_max: Option<u64>,
    /// How many requests of one client there may be at once.
    pub crowd: Option<Arc<Crowd>>,
    /// How answers are compressed.
    pub compression: Option<Compression>,
    /// Bytes of the longest request that is sent only when all of it is there.
    pub buffer: Option<usize>,
    /// The protocols that may be switched to, in lower case; any where none is named.
    pub upgrades: Option<Vec<Box<str>>>,
    /// Whether endpoints are spoken to in the version of HTTP that the client speaks.
    pub as_client: bool,
}

/// How the endpoints of a backend are used. Each of these has its own view of every backend it is used for.
#[derive(Debug)]
pub struct Upstream {
    /// Different for each, so that connections are not shared between two.
    pub id: u64,
    /// What it was made from.
    pub config: UpstreamConfig,
}

/// See [`Upstream`].
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    /// Which endpoint a request goes to.
    pub balance: Balance,
    /// How endpoints that are new are spared.
    pub slow_start: Option<SlowStart>,
    /// Which endpoints are ejected, by what they answer.
    pub outlier: Option<OutlierConfig>,
    /// With fewer percent of the endpoints fit for use all are used: the few that are left would only fail as well.
    pub panic_percent: u32,
    /// How much may be under way at a time.
    pub limits: Limits,
    /// How endpoints are asked whether they are well.
    pub check: Option<Check>,
    /// How connections are made, and how long they are used.
    pub line: LineTerms,
}

/// Envoy's: with fewer than half of the endpoints fit for use, all are used.
const PANIC_PERCENT: u32 = 50;

impl Default for UpstreamConfig {
    fn default() -> Self {
        UpstreamConfig {
            balance: Balance::LeastRequest,
            slow_start: None,
            outlier: None,
            panic_percent: PANIC_PERCENT,
            limits: Limits::default(),
            check: None,
            line: LineTerms::default(),
        }
    }
}

impl Upstream {
    /// # Errors
    /// When a number makes no sense; it names the field.
    pub fn new(config: UpstreamConfig) -> Result<Arc<Self>, ConfigError> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(1);
        config.slow_start.as_ref().map_or(Ok(()), SlowStart::validate)?;
        config.outlier.as_ref().map_or(Ok(()), OutlierConfig::validate)?;
        config.limits.validate()?;
        Ok(Arc::new(Upstream { id: NEXT.fetch_add(1, Ordering::Relaxed), config }))
    }
}
