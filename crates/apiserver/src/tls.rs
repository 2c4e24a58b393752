//! TLS of the listeners, which can be replaced while they accept.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use crate::authentication::ClientKinds;

/// How connections are accepted.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate, and who is accepted.
    pub config: Arc<ServerConfig>,
    /// Tells clients from front proxies; `None` where every certificate that is accepted is a client's.
    pub kinds: Option<ClientKinds>,
}

impl From<Arc<ServerConfig>> for Tls {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self { config, kinds: None }
    }
}

/// What new connections are accepted with. Clones are one: a replacement is seen by all.
#[derive(Clone)]
pub struct SharedTls(Arc<Replaceable>);

struct Replaceable {
    tls: ArcSwap<Tls>,
    generation: AtomicU64,
}

impl SharedTls {
    /// Connections are accepted with `tls` until it is replaced.
    pub fn new(tls: impl Into<Tls>) -> Self {
        Self(Arc::new(Replaceable { tls: ArcSwap::from_pointee(tls.into()), generation: AtomicU64::new(0) }))
    }

    /// What connections are accepted with now.
    pub fn current(&self) -> Arc<Tls> {
        self.0.tls.load_full()
    }

    /// How often it was replaced.
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Connections from now on are accepted with `tls`. Open ones go on, as whom it takes their certificates for.
    pub fn replace(&self, tls: impl Into<Tls>) {
        self.0.tls.store(Arc::new(tls.into()));
        self.0.generation.fetch_add(1, Ordering::Release);
    }
}

impl From<Arc<ServerConfig>> for SharedTls {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::new(config)
    }
}
