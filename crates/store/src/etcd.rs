//! The back end that keeps everything in an external etcd, which several servers may share.
//!
//! Reads and watches are served from a mirror in memory (`mirror`), which one watch keeps current; a commit is one etcd
//! transaction (`commit`) and is answered after the mirror holds it; a read that must see what other servers
//! acknowledged first asks how far etcd is (`current`). Revisions are etcd's.
//!
//! Exactly once: a transaction whose answer was lost is sent again without being applied twice (`slots`).
//! A server that no longer leads commits nothing as the leader (`tenure`).

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::ClientConfig;
use tokio::sync::broadcast;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use crate::{
    OpenError, Options, Revision, Snapshot, Unreachable,
    at_rest::Sealing,
    foreign::Foreign,
    store::{Change, Shared},
};

mod client;
mod commit;
mod compactor;
mod connection;
mod current;
mod gap;
mod keys;
mod messages;
mod mirror;
pub(crate) mod restore;
mod slots;
mod tenure;
mod waiters;
mod wire;

use client::Client;
use connection::{CallError, OUT_OF_RANGE};
use current::Current;
use mirror::{LoadError, Mirror, Reader};
use slots::Slots;
use waiters::Waiters;

pub use keys::registry_key;
pub use tenure::Tenure;

/// Changes kept for who follows them, before he has to look at everything again.
const CHANGES: usize = 16 << 10;

/// etcd's port when none is named.
const PORT: u16 = 2379;

/// Where an etcd server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or IP address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

/// An etcd and how to speak to it.
#[derive(Clone)]
pub struct EtcdConfig {
    /// Its servers.
    pub endpoints: Vec<Endpoint>,
    /// Needed where an endpoint speaks TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// How often etcd's history is compacted, by one of the servers.
    pub compact_every: Duration,
}

impl EtcdConfig {
    /// Its servers, for messages.
    pub(crate) fn shown(&self) -> String {
        let servers: Vec<String> = self.endpoints.iter().map(ToString::to_string).collect();
        servers.join(",")
    }

    /// An etcd without TLS, compacted as often as upstream does it.
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        EtcdConfig { endpoints, tls: None, compact_every: Duration::from_secs(300) }
    }
}

/// The servers of `etcd://host:port,host:port`; `https://` speaks TLS. The scheme counts for those behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(pub Vec<Endpoint>);

impl FromStr for Endpoints {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut tls = None;
        let endpoint = |item: &str| {
            let (scheme, address) = item.split_once("://").map_or((None, item), |(s, rest)| (Some(s), rest));
            tls = match scheme {
                Some("etcd" | "http") => Some(false),
                Some("https") => Some(true),
                Some(other) => return Err(format!("unknown scheme {other:?}, known are etcd, http and https")),
                None => tls,
            };
            let tls = tls.ok_or_else(|| format!("{item:?} has no scheme: etcd://HOST:PORT or https://HOST:PORT"))?;
            let address = address.trim_end_matches('/');
            let (host, port) = match address.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => {
                    (host, port.parse().map_err(|_| format!("{item:?} has no valid port"))?)
                }
                _ => (address, PORT),
            };
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            if host.is_empty() || host.contains('/') {
                Err(format!("{item:?} has no valid host"))
            } else {
                Ok(Endpoint { host, port, tls })
            }
        };
        text.split(',').map(str::trim).map(endpoint).collect::<Result<Vec<_>, _>>().map(Endpoints)
    }
}

/// What commits and reads need.
pub(crate) struct Backend {
    shared: Arc<Shared>,
    client: Arc<Client>,
    sealing: Sealing,
    foreign: Option<Arc<dyn Foreign>>,
    slots: Slots,
    waiters: Arc<Waiters>,
    current: Current,
    changes: broadcast::Sender<Change>,
}

/// The back end and its tasks, which end with it.
pub(crate) struct Running {
    pub(crate) backend: Arc<Backend>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Running {
    /// Reads everything and begins to follow.
    pub(crate) async fn start(
        config: EtcdConfig,
        options: &Options,
        share: impl FnOnce(Snapshot) -> Arc<Shared>,
    ) -> Result<Running, OpenError> {
        let client = Arc::new(Client::new(config.endpoints, config.tls));
        let unreachable =
            |error: CallError| OpenError::Etcd { endpoints: client.to_string(), reason: error.to_string() };
        let version = client.version().await.map_err(unreachable)?;
        restore::check_whole(&client).await.map_err(unreachable)?;
        let sealing = Sealing(options.at_rest.clone());
        let foreign = options.foreign.clone();
        let mut reader = Reader::new(sealing.clone(), foreign.clone());
        let loaded = reader.load(&client, (keys::PREFIX.as_bytes(), keys::END.as_bytes()), 0).await;
        let loaded = loaded.map_err(|error| match error {
            LoadError::Call(error) => unreachable(error),
            LoadError::Sealed(key, source) => OpenError::Sealed { path: "etcd".into(), key, source },
        })?;
        info!(etcd = %client, version, revision = %loaded.snapshot.revision(), "etcd's content is read");
        let state = loaded.snapshot.indexed(options.indexes);
        let (shared, waiters) = (share(state.clone()), Arc::new(Waiters::default()));
        waiters.reach(state.revision().0);
        let (changes, _) = broadcast::channel(CHANGES);
        let (current, asking) = Current::new(Arc::clone(&client), Arc::clone(&waiters));
        let mirror = Mirror {
            shared: Arc::clone(&shared),
            client: Arc::clone(&client),
            reader,
            waiters: Arc::clone(&waiters),
            changes: changes.clone(),
            state,
            indexes: options.indexes,
        };
        let compacting = compactor::run(Arc::clone(&client), config.compact_every);
        let slots = Slots::new(unique_name());
        let backend = Arc::new(Backend { shared, client, sealing, foreign, slots, waiters, current, changes });
        let mut tasks = vec![tokio::spawn(mirror.run()), tokio::spawn(asking), tokio::spawn(compacting)];
        if !loaded.stale.is_empty() {
            info!(objects = loaded.stale.len(), "keeping objects anew that are kept in an outdated form");
            tasks.push(tokio::spawn(Arc::clone(&backend).rewrite(loaded.stale)));
        }
        Ok(Running { backend, _tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect() })
    }
}

impl Backend {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Writes that one transaction may have.
    pub(crate) fn writes_max(&self) -> usize {
        commit::WRITES_MAX
    }

    /// Waits until the mirror holds what was acknowledged by any server before this was called.
    pub(crate) async fn latest(&self) -> Result<(), Unreachable> {
        self.current.reached().await.map_err(|error| Unreachable(error.to_string()))
    }

    /// A collection at a past revision, from etcd's own history; `None` when that is gone.
    pub(crate) async fn collection_at(
        &self,
        collection: &str,
        revision: Revision,
    ) -> Result<Option<Snapshot>, Unreachable> {
        let (start, end) = keys::range_of(collection);
        let loaded = Reader::new(self.sealing.clone(), self.foreign.clone())
            .load(&self.client, (&start, &end), revision.0)
            .await;
        match loaded {
            Ok(loaded) => Ok(Some(loaded.snapshot)),
            Err(LoadError::Call(CallError::Refused { code: OUT_OF_RANGE, .. })) => Ok(None),
            Err(error) => Err(Unreachable(error.to_string())),
        }
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

/// A name that no other server has or had, for its slots.
fn unique_name() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = (now.as_nanos(), std::process::id());
    // each of these hashes with random keys of the operating system
    format!("{:016x}{:016x}", RandomState::new().hash_one(seed), RandomState::new().hash_one(seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_with_scheme_and_port() {
        let endpoint = |host: &str, port, tls| Endpoint { host: host.to_owned(), port, tls };
        for (text, expected) in [
            ("etcd://a:1,b:2", vec![endpoint("a", 1, false), endpoint("b", 2, false)]),
            ("https://a:1, https://[::1]:2/", vec![endpoint("a", 1, true), endpoint("::1", 2, true)]),
            ("etcd://[::1]", vec![endpoint("::1", 2379, false)]),
            ("http://a", vec![endpoint("a", 2379, false)]),
        ] {
            assert_eq!(text.parse(), Ok(Endpoints(expected)), "{text}");
        }
        for text in ["", "a:1", "ftp://a:1", "etcd://:1", "etcd://a:b", "etcd://a:1,", "etcd://a/b"] {
            assert!(text.parse::<Endpoints>().is_err(), "{text}");
        }
        assert_eq!(endpoint("::1", 2, true).to_string(), "[::1]:2");
    }
}
