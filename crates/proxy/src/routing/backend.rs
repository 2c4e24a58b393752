//! Where requests go: the endpoints of a Service port, and the shares among several.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use http::HeaderValue;
use resilience::{
    Moment, now,
    retry::{Budget, BudgetConfig},
};
use rustls::{ClientConfig, pki_types::ServerName};

use super::{
    rule::Filters,
    traffic::{Group, Upstream},
};

/// The endpoints behind one port of a Service, and how to speak to them. It outlives route tables, so that a change of
/// either recompiles none.
#[derive(Debug)]
pub struct Backend {
    name: Box<str>,
    endpoints: ArcSwap<Vec<SocketAddr>>,
    next: AtomicUsize,
    wire: ArcSwap<Wire>,
    /// How the endpoints are used where a request's own policy does not say it.
    upstream: ArcSwapOption<Upstream>,
    /// One for each way in which traffic policies use the endpoints: a few at most.
    groups: ArcSwap<Vec<Arc<Group>>>,
    budget: OnceLock<Option<Budget>>,
    fallback: AtomicBool,
}

/// What addresses begin with that stand for sockets in the file system: everywhere else endpoints are addresses. Nothing is
/// ever sent to these (RFC 6666).
const STAND_IN: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);

/// How to speak to the endpoints of a backend.
#[derive(Debug)]
pub struct Wire {
    /// Different for each way to speak, so that connections are not shared between two.
    pub id: u64,
    /// HTTP/2 with prior knowledge.
    pub http2: bool,
    /// Encryption.
    pub security: Security,
    /// The name of the endpoints, where they have one in common.
    pub host: Option<HeaderValue>,
    /// Sockets in the file system, by the number in the addresses that stand for them.
    pub sockets: Box<[PathBuf]>,
}

/// Encryption towards endpoints.
#[derive(Clone, Debug)]
pub enum Security {
    /// None.
    Plain,
    /// TLS.
    Tls {
        /// The name that is sent.
        name: ServerName<'static>,
        /// How certificates are verified; without protocols and client certificates, which depend on the request.
        config: Arc<ClientConfig>,
    },
    /// A policy asks for TLS but cannot be followed, so that nothing may be sent.
    Broken,
}

impl Wire {
    /// A way to speak.
    pub fn new(http2: bool, security: Security) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Wire { id: NEXT.fetch_add(1, Ordering::Relaxed), http2, security, host: None, sockets: Box::default() }
    }

    /// The address that stands for a socket.
    pub fn stand_in(number: u16) -> SocketAddr {
        let mut segments = STAND_IN.segments();
        segments[7] = number;
        SocketAddr::new(Ipv6Addr::from(segments).into(), 0)
    }

    /// The socket that an address stands for.
    pub fn socket(&self, address: SocketAddr) -> Option<&Path> {
        if self.sockets.is_empty() {
            return None;
        }
        let IpAddr::V6(address) = address.ip() else { return None };
        let segments = address.segments();
        let number = usize::from(segments[7]);
        (segments[..7] == STAND_IN.segments()[..7]).then(|| self.sockets.get(number).map(PathBuf::as_path))?
    }
}

impl Backend {
    /// A backend without endpoints, which would be spoken to in clear HTTP/1.1.
    pub fn new(name: impl Into<Box<str>>) -> Arc<Self> {
        Arc::new(Backend {
            name: name.into(),
            endpoints: ArcSwap::default(),
            next: AtomicUsize::new(0),
            wire: ArcSwap::from_pointee(Wire::new(false, Security::Plain)),
            upstream: ArcSwapOption::empty(),
            groups: ArcSwap::default(),
            budget: OnceLock::new(),
            fallback: AtomicBool::new(false),
        })
    }

    /// `namespace/service:port`, for logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How to speak to the endpoints.
    pub fn wire(&self) -> Arc<Wire> {
        self.wire.load_full()
    }

    /// Changes how to speak to the endpoints; connections that are open are used no more.
    pub fn set_wire(&self, wire: Wire) {
        self.wire.store(Arc::new(wire));
    }

    /// Changes whether it is used only while the others of a rule cannot be.
    pub fn set_fallback(&self, fallback: bool) {
        self.fallback.store(fallback, Ordering::Relaxed);
    }

    fn is_fallback(&self) -> bool {
        self.fallback.load(Ordering::Relaxed)
    }

    /// Whether there is an endpoint that nobody has taken out of use.
    fn is_usable(&self, now: Moment) -> bool {
        !self.current().is_empty() && !self.groups.load().iter().any(|group| group.is_spent(now))
    }

    /// How the endpoints are used where a request's own policy does not say it.
    pub fn upstream(&self) -> Option<Arc<Upstream>> {
        self.upstream.load_full()
    }

    /// Whether that is said: it mostly is not.
    pub(crate) fn has_upstream(&self) -> bool {
        self.upstream.load().is_some()
    }

    /// Changes how the endpoints are used; what is known of them stays where that is as before.
    pub fn set_upstream(&self, upstream: Option<Arc<Upstream>>) {
        let same = match (&*self.upstream.load(), &upstream) {
            (Some(before), Some(now)) => before.config == now.config,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !same {
            self.upstream.store(upstream);
        }
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

    /// The ready endpoints, for a look at them.
    pub fn current(&self) -> Guard<Arc<Vec<SocketAddr>>> {
        self.endpoints.load()
    }

    /// What those know of the endpoints who use them in this way.
    pub fn group(&self, upstream: &Arc<Upstream>) -> Arc<Group> {
        let find = |groups: &[Arc<Group>]| groups.iter().find(|group| Arc::ptr_eq(group.upstream(), upstream)).cloned();
        if let Some(known) = find(&self.groups.load()) {
            return known;
        }
        let new = Group::new(&self.name, Arc::clone(upstream));
        self.groups.rcu(|groups| {
            // Those of policies that are gone go with them.
            let mut next: Vec<_> = groups.iter().filter(|group| !group.is_orphan()).cloned().collect();
            if find(&next).is_none() {
                next.push(Arc::clone(&new));
            }
            next
        });
        // Two that come at the same time get the same.
        find(&self.groups.load()).unwrap_or(new)
    }

    /// How many requests to it may be tried again, by all rules together.
    pub fn budget(&self) -> Option<&Budget> {
        self.budget.get_or_init(|| Budget::new(BudgetConfig::default()).ok()).as_ref()
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
    Service {
        /// Its endpoints.
        backend: Arc<Backend>,
        /// Whether the route speaks HTTP/2 only, whatever the port says: gRPC does.
        http2: bool,
    },
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
    /// What is changed for this backend only.
    pub filters: Filters,
}

impl Share {
    /// A share without changes of its own.
    pub fn new(backend: Arc<Backend>, weight: u32) -> Self {
        Share { weight, target: Target::Service { backend, http2: false }, filters: Filters::default() }
    }

    fn backend(&self) -> Option<&Backend> {
        match &self.target {
            Target::Service { backend, .. } => Some(backend),
            Target::Invalid => None,
        }
    }

    fn is_fallback(&self) -> bool {
        self.backend().is_some_and(Backend::is_fallback)
    }
}

/// The share that a random number falls on; `None` when all weights are zero. Fallbacks count only while none of the others
/// can be used.
pub(crate) fn choose(shares: &[Share], random: u64) -> Option<&Share> {
    choose_among(shares, None, random)
}

/// The same, among those that are `serving` where not all are.
pub(crate) fn choose_among<'a>(shares: &'a [Share], serving: Option<&[bool]>, random: u64) -> Option<&'a Share> {
    let serves = |index: usize| serving.is_none_or(|serving| serving.get(index).copied().unwrap_or(false));
    let all = shares.iter().enumerate().filter(|(index, _)| serves(*index)).map(|(_, share)| share);
    if !shares.iter().any(Share::is_fallback) {
        return draw(all, random);
    }
    let now = now();
    let usable = |share: &&Share| share.backend().is_some_and(|backend| backend.is_usable(now));
    let first = all.clone().filter(|share| !share.is_fallback());
    draw(first.clone().filter(usable), random)
        .or_else(|| draw(all.clone().filter(|share| share.is_fallback()).filter(usable), random))
        .or_else(|| draw(first, random))
        .or_else(|| draw(all, random))
}

fn draw<'a>(mut shares: impl Iterator<Item = &'a Share> + Clone, random: u64) -> Option<&'a Share> {
    let total: u64 = shares.clone().map(|share| u64::from(share.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut left = random % total;
    shares.find(|share| {
        let weight = u64::from(share.weight);
        let taken = left < weight;
        left = left.saturating_sub(weight);
        taken
    })
}
