//! The data path: listeners, TLS, forwarding of requests, connections and datagrams.
//!
//! [`Server::install`] swaps the table; [`Server::run`] binds and unbinds what it asks for, without touching accepted
//! connections. Which addresses could be bound is told through [`Server::bindings`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::routing::{Place, RouteTable, Site, Transport};

mod account;
mod answer;
mod arrival;
mod body;
mod compress;
mod connection;
mod datagram;
mod exchange;
mod forward;
mod guards;
mod headers;
mod health;
pub(crate) mod hello;
mod listener;
mod mirror;
mod once;
mod origin;
mod pace;
mod pages;
mod proxied;
mod replay;
mod silence;
mod sockets;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod told;
mod traffic;
mod tunnel;
mod upstream;
mod visit;
mod workers;

pub use account::{Exchanged, Observer, Went};
pub use origin::{Expected, Trust, client, unverified, verification};
pub use proxied::{Beginning, beginning};
pub use sockets::Sockets;
pub use tls::{CertificateError, Clients, Demands, Terms, certificate, roots, termination, termination_by};
pub use visit::{Connection, Dial, Dialed, Dialing, Gate, Visit};

use self::{listener::Binding, upstream::Pool, workers::Workers};

/// How often a port that another process holds is tried again. Nothing tells when it is freed.
const BIND_RETRY: Duration = Duration::from_secs(2);

/// How often connections that were idle for too long are closed.
const REAP_INTERVAL: Duration = Duration::from_secs(10);

/// How long requests under way may take once their listener is gone or the server stops.
pub const DRAIN: Duration = Duration::from_secs(30);

/// Where the server listens.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Local addresses that all Gateways share; each listener's port is bound on every one of them.
    pub addresses: Vec<IpAddr>,
    /// Lets the kernel choose each port instead of the listener: for tests, and where the ports belong to others.
    pub ephemeral: bool,
    /// What is listened on; with sockets of a server before this one they are taken over.
    pub sockets: Sockets,
    /// Threads of its own that serve connections, eight at most; with none the caller's runtime does.
    pub threads: usize,
}

/// A port of an address.
pub type Bind = (IpAddr, u16, Transport);

/// What became of each address and port: where it is bound, or why it is not.
pub type Bindings = BTreeMap<Bind, Result<SocketAddr, Arc<str>>>;

/// The data path of a gateway. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

/// The table that servers serve by. Clones are the same one.
#[derive(Clone, Default)]
pub struct Routes {
    table: Arc<ArcSwap<RouteTable>>,
    loaded: CancellationToken,
}

impl Routes {
    /// Waits until a table was installed at all.
    pub async fn loaded(&self) {
        self.loaded.cancelled().await;
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").field("loaded", &self.loaded.is_cancelled()).finish_non_exhaustive()
    }
}

impl ServerConfig {
    /// Where a listener's port is bound.
    fn at(&self, (address, port, _): Bind) -> SocketAddr {
        SocketAddr::new(address, if self.ephemeral { 0 } else { port })
    }
}

pub(crate) struct Shared {
    config: ServerConfig,
    table: Arc<ArcSwap<RouteTable>>,
    pool: Pool,
    /// Copies of requests that are under way.
    mirrors: Arc<Semaphore>,
    /// Upgraded connections, streams of HTTP/2 and copies of requests, which outlive the future that accepted them.
    tasks: TaskTracker,
    /// Connections to backends that several requests share; they have no end of their own.
    lines: TaskTracker,
    /// Ends what is left when draining takes too long, and the shared connections to backends when it is done.
    kill: CancellationToken,
    /// Asks endpoints whether they are well.
    checks: TaskTracker,
    installed: watch::Sender<u64>,
    /// Cancelled once a table was installed at all.
    loaded: CancellationToken,
    bindings: watch::Sender<Bindings>,
}

impl Server {
    /// A server with an empty table.
    pub fn new(config: ServerConfig) -> Self {
        Server::by(config, Routes::default())
    }

    /// A server by a table that others may serve by too.
    pub fn by(config: ServerConfig, routes: Routes) -> Self {
        let shared = Shared {
            config,
            table: routes.table,
            pool: Pool::default(),
            mirrors: Arc::new(Semaphore::new(mirror::AT_ONCE)),
            tasks: TaskTracker::new(),
            lines: TaskTracker::new(),
            kill: CancellationToken::new(),
            checks: TaskTracker::new(),
            installed: watch::Sender::new(0),
            loaded: routes.loaded,
            bindings: watch::Sender::default(),
        };
        Server { shared: Arc::new(shared) }
    }

    /// The addresses that all Gateways share.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.shared.config.addresses
    }

    /// Serves requests that begin from now on by this table.
    pub fn install(&self, table: RouteTable) {
        let before = self.shared.table.swap(Arc::new(table));
        let first = !self.shared.loaded.is_cancelled();
        self.shared.loaded.cancel();
        if first || !before.sites().eq(self.shared.table.load().sites()) {
            self.shared.installed.send_modify(|generation| *generation += 1);
        }
    }

    /// The addresses and ports of the table, and what became of them.
    pub fn bindings(&self) -> watch::Receiver<Bindings> {
        self.shared.bindings.subscribe()
    }

    /// Listens where the table says until `stop`, then lets requests under way end.
    pub async fn run(&self, stop: CancellationToken) {
        let workers = Arc::new(Workers::start(self.shared.config.threads));
        let mut installed = self.shared.installed.subscribe();
        let mut reap = tokio::time::interval(REAP_INTERVAL);
        reap.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bound: BTreeMap<Bind, Binding> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            installed.mark_unchanged();
            // Before the table is looked at: what is bound next is then at least what the first one asks for.
            let loaded = self.shared.loaded.is_cancelled();
            let failed = self.bind(&workers, &mut bound, &mut tasks, &stop).await;
            if loaded {
                self.shared.config.sockets.served(|bind| bound.contains_key(bind));
            }
            tokio::select! {
                () = stop.cancelled() => break,
                _ = installed.changed() => {}
                () = tokio::time::sleep(BIND_RETRY), if failed => {}
                _ = reap.tick() => self.shared.pool.reap(),
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
        self.shared.config.sockets.clear();
        self.drain(&mut tasks).await;
    }

    /// What has to be bound for a table, and the addresses that another one's socket serves too: an unspecified address
    /// takes its port on every address of the machine.
    fn wanted(&self, table: &RouteTable) -> (BTreeSet<Bind>, BTreeMap<Bind, Bind>) {
        let addresses = &self.shared.config.addresses;
        let (mut wanted, mut covered) = (BTreeSet::new(), BTreeMap::new());
        let any = |ip: IpAddr| {
            let covers = |any: &&IpAddr| any.is_unspecified() && **any != ip && (any.is_ipv6() || ip.is_ipv4());
            addresses.iter().find(covers).copied()
        };
        for Site { place, port, transport } in table.sites() {
            let shared = table.port(Site { place: Place::Shared, port, transport }).is_some();
            let own;
            let at: &[IpAddr] = match place {
                Place::Shared => addresses,
                Place::Own(address) => {
                    own = [address];
                    &own
                }
            };
            for address in at {
                let bind = (*address, port, transport);
                match any(*address).filter(|_| shared) {
                    Some(any) => drop(covered.insert(bind, (any, port, transport))),
                    None => drop(wanted.insert(bind)),
                }
            }
        }
        (wanted, covered)
    }

    /// Brings what is bound in line with the table; says whether an address could not be bound.
    async fn bind(
        &self,
        workers: &Arc<Workers>,
        bound: &mut BTreeMap<Bind, Binding>,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> bool {
        let (wanted, covered) = self.wanted(&self.shared.table.load_full());
        // Removed ones go first: their ports may be needed again.
        bound.retain(|key, binding| {
            let keep = wanted.contains(key);
            if !keep {
                info!(address = %binding.local, "gateway listener closed");
                binding.stop.cancel();
                self.shared.config.sockets.close(key);
            }
            keep
        });
        let mut report = Bindings::new();
        for key in wanted {
            if let Some(binding) = bound.get(&key) {
                report.insert(key, Ok(binding.local));
                continue;
            }
            let opened = match key.2 {
                Transport::Tcp => listener::bind(&self.shared, workers, key, tasks, stop.child_token()),
                Transport::Udp => datagram::bind(&self.shared, key, tasks, stop.child_token()),
            };
            match opened {
                Ok(binding) => {
                    info!(address = %binding.local, "gateway listener opened");
                    report.insert(key, Ok(binding.local));
                    bound.insert(key, binding);
                }
                Err(error) => {
                    let known = matches!(self.shared.bindings.borrow().get(&key), Some(Err(_)));
                    if !known {
                        warn!(address = %key.0, port = key.1, %error, "cannot open a gateway listener");
                    }
                    report.insert(key, Err(error.to_string().into()));
                }
            }
        }
        let failed = report.values().any(Result::is_err);
        for (key, by) in covered {
            if let Some(result) = report.get(&by).cloned() {
                report.insert(key, result);
            }
        }
        self.shared.bindings.send_if_modified(|bindings| {
            let changed = *bindings != report;
            *bindings = report;
            changed
        });
        failed
    }

    /// Waits for what is under way, up to the drain's bound, and then ends it.
    async fn drain(&self, tasks: &mut JoinSet<()>) {
        self.shared.tasks.close();
        let ended = async {
            while tasks.join_next().await.is_some() {}
            self.shared.tasks.wait().await;
        };
        let in_time = tokio::time::timeout(DRAIN, ended).await.is_ok();
        self.shared.kill.cancel();
        if !in_time {
            warn!("gateway connections did not end in time and are cut");
            tasks.shutdown().await;
        }
        self.end().await;
    }

    /// Ends at once what is left.
    pub(crate) async fn end(&self) {
        self.shared.kill.cancel();
        for left in [&self.shared.tasks, &self.shared.lines, &self.shared.checks] {
            left.close();
            left.wait().await;
        }
    }
}
