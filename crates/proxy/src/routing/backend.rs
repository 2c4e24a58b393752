//! Where requests go: the endpoints of a Service port, and the shares among several.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;

use super::edit::HeaderEdits;

/// The endpoints behind one port of a Service. It outlives route tables, so that a change of endpoints recompiles none.
#[derive(Debug)]
pub struct Backend {
    name: Box<str>,
    endpoints: ArcSwap<Vec<SocketAddr>>,
    next: AtomicUsize,
}

impl Backend {
    /// A backend without endpoints.
    pub fn new(name: impl Into<Box<str>>) -> Arc<Self> {
        Arc::new(Backend { name: name.into(), endpoints: ArcSwap::default(), next: AtomicUsize::new(0) })
    }

    /// `namespace/service:port`, for logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Replaces the ready endpoints; says whether they differ from those before.
    pub fn set_endpoints(&self, mut endpoints: Vec<SocketAddr>) -> bool {
        endpoints.sort_unstable();
        endpoints.dedup();
        if **self.endpoints.load() == endpoints {
            return false;
        }
        self.endpoints.store(Arc::new(endpoints));
        true
    }

    /// The ready endpoints.
    pub fn endpoints(&self) -> Arc<Vec<SocketAddr>> {
        self.endpoints.load_full()
    }

    /// The next endpoint in turn that is not in `avoid`; `None` when there is none. A further attempt, which avoids what
    /// failed, takes no turn: else every turn after a failure would fall on the endpoint that failed.
    pub fn pick(&self, avoid: &[SocketAddr]) -> Option<SocketAddr> {
        let endpoints = self.endpoints.load();
        let count = endpoints.len();
        let start = match avoid {
            [] => self.next.fetch_add(1, Ordering::Relaxed),
            _ => self.next.load(Ordering::Relaxed),
        };
        (0..count).map(|step| endpoints[start.wrapping_add(step) % count]).find(|address| !avoid.contains(address))
    }
}

/// What a reference to a backend leads to.
#[derive(Clone, Debug)]
pub enum Target {
    /// A Service port; without ready endpoints its share is answered with 503.
    Service(Arc<Backend>),
    /// Nothing: the reference cannot be followed, and its share is answered with 500.
    Invalid,
}

/// A backend's share of a rule's requests.
#[derive(Clone, Debug)]
pub struct Share {
    /// Relative to the other shares.
    pub weight: u32,
    /// Where the share goes.
    pub target: Target,
    /// Header changes for this backend only.
    pub request: HeaderEdits,
    /// Header changes to its responses.
    pub response: HeaderEdits,
}

/// The share that a random number falls on; `None` when all weights are zero.
pub(crate) fn choose(shares: &[Share], random: u64) -> Option<&Share> {
    let total: u64 = shares.iter().map(|s| u64::from(s.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut left = random % total;
    shares.iter().find(|share| {
        let weight = u64::from(share.weight);
        let taken = left < weight;
        left = left.saturating_sub(weight);
        taken
    })
}
