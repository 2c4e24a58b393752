//! TLS of the listeners, which can be replaced while they accept.

use std::sync::Arc;

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
pub struct SharedTls(Arc<ArcSwap<Tls>>);

impl SharedTls {
    /// Connections are accepted with `tls` until it is replaced.
    pub fn new(tls: impl Into<Tls>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(tls.into())))
    }

    /// What connections are accepted with now.
    pub fn current(&self) -> Arc<Tls> {
        self.0.load_full()
    }

    /// Connections from now on are accepted with `tls`; open ones go on.
    pub fn replace(&self, tls: impl Into<Tls>) {
        self.0.store(Arc::new(tls.into()));
    }
}

impl From<Arc<ServerConfig>> for SharedTls {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::new(config)
    }
}
