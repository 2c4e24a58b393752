//! TLS of the listeners, which can be replaced while they accept.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;

/// What new connections are accepted with. Clones are one: a replacement is seen by all.
#[derive(Clone)]
pub struct SharedTls(Arc<ArcSwap<ServerConfig>>);

impl SharedTls {
    /// Connections are accepted with `config` until it is replaced.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self(Arc::new(ArcSwap::new(config)))
    }

    /// What connections are accepted with now.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.0.load_full()
    }

    /// Connections from now on are accepted with `config`; open ones go on.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        self.0.store(config);
    }
}

impl From<Arc<ServerConfig>> for SharedTls {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::new(config)
    }
}
