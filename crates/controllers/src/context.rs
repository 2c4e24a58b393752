//! What every controller is given, and the errors they share.

use std::fmt::{self, Display};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use identity::{Authority, TokenSigner};
use jiff::Timestamp;
use kube::Client;
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use reconcile::Informers;
use tokio_util::sync::CancellationToken;

use crate::brief::Brief;

/// The keys of the cluster, which never leave the process.
#[derive(Clone)]
pub struct Keys {
    /// Issues certificates.
    pub authority: Arc<Authority>,
    /// Signs service-account tokens.
    pub tokens: Arc<TokenSigner>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// What time it is.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::new(Timestamp::now)
    }

    /// A clock that shows what `now` says.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

/// How fast unready nodes are emptied, with upstream's names and defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct EvictionRates {
    /// Nodes of a zone that begin to be emptied per second (`--node-eviction-rate`).
    pub per_second: f64,
    /// The same where most nodes of a large zone are unready; those of a small one are then left alone
    /// (`--secondary-node-eviction-rate`).
    pub per_second_disrupted: f64,
    /// The share of unready nodes from which on that holds (`--unhealthy-zone-threshold`).
    pub unhealthy_zone_threshold: f64,
    /// A zone with more nodes than these is large (`--large-cluster-size-threshold`).
    pub large_cluster_nodes: usize,
}

impl Default for EvictionRates {
    fn default() -> Self {
        Self { per_second: 0.1, per_second_disrupted: 0.01, unhealthy_zone_threshold: 0.55, large_cluster_nodes: 50 }
    }
}

/// Settings of the controllers.
#[derive(Clone, Debug)]
pub struct ControllersConfig {
    /// The cluster CA's certificate, published to every namespace.
    pub ca_pem: String,
    /// What signs certificates and tokens; without them the controllers that need them stand still.
    pub keys: Option<Keys>,
    /// A node whose lease is not renewed for this long is taken for dead.
    pub node_monitor_grace_period: Duration,
    /// A node that has not said anything since it was created is taken for dead after this long.
    pub node_startup_grace_period: Duration,
    /// How fast unready nodes are emptied.
    pub eviction_rates: EvictionRates,
    /// So many finished pods are kept; the oldest above that are deleted.
    pub terminated_pods_max: usize,
    /// By which Jobs, CronJobs and budgets reckon.
    pub clock: Clock,
}

impl ControllersConfig {
    /// Upstream's default for a node's silence: five missed renewals of a ten second lease.
    pub const NODE_MONITOR_GRACE_PERIOD: Duration = Duration::from_secs(50);
    /// Upstream's default for a node's first words.
    pub const NODE_STARTUP_GRACE_PERIOD: Duration = Duration::from_secs(60);
    /// Upstream's default for finished pods.
    pub const TERMINATED_PODS_MAX: usize = 12_500;

    /// Upstream's defaults, and this CA certificate.
    pub fn new(ca_pem: impl Into<String>) -> Self {
        Self {
            ca_pem: ca_pem.into(),
            keys: None,
            node_monitor_grace_period: Self::NODE_MONITOR_GRACE_PERIOD,
            node_startup_grace_period: Self::NODE_STARTUP_GRACE_PERIOD,
            eviction_rates: EvictionRates::default(),
            terminated_pods_max: Self::TERMINATED_PODS_MAX,
            clock: Clock::system(),
        }
    }
}

/// Why [`crate::run`] ended early.
#[derive(Debug, thiserror::Error)]
pub enum ControllersError {
    /// A controller ended although nobody asked it to, or panicked.
    #[error("controller {0} ended early")]
    Ended(&'static str),
    /// A controller's task could not be joined.
    #[error("a controller task failed")]
    Task(#[source] tokio::task::JoinError),
}

/// What a reconcile could not do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// The API refused or did not answer.
    #[error("cannot {action} {object}: {source}")]
    Api {
        action: &'static str,
        object: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// A ControllerRevision holds something else than a template.
    #[error("cannot read the template of revision {name}: {source}")]
    Revision {
        name: String,
        #[source]
        source: serde_json::Error,
    },
    /// Something has to go first, of whose end an event tells.
    #[error("{0}")]
    Blocked(String),
}

impl ReconcileError {
    /// What went wrong, without what was being done.
    pub(crate) fn cause(&self) -> String {
        match self {
            Self::Api { source, .. } => cause(source),
            Self::Revision { .. } | Self::Blocked(_) => self.to_string(),
        }
    }
}

/// Says what was being done to which object when a request failed.
pub(crate) fn failed(action: &'static str, object: impl Display) -> impl FnOnce(kube::Error) -> ReconcileError {
    move |source| ReconcileError::Api { action, object: object.to_string(), source: Box::new(source) }
}

/// Whether the object a request was about does not exist.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

/// Whether the object is not in the state that the write was made for.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

/// Whether the name is taken.
pub(crate) fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

/// Whether the namespace takes no new objects because it is being deleted.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.is_forbidden()
        && (causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
            || status.message.contains("because it is being terminated"))
}

/// A deletion or clean-up whose object is already gone has succeeded.
pub(crate) fn gone_is_done<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(error) if is_not_found(&error) => Ok(()),
        other => other.map(drop),
    }
}

/// What went wrong in the words of the API server.
pub(crate) fn cause(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Gives the client of a service account in `kube-system`.
pub(crate) type Clients = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// Client, informers and settings; cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    clients: Clients,
    pub(crate) informers: Informers,
    pub(crate) config: Arc<ControllersConfig>,
}

impl Context {
    pub(crate) fn new(informers: &Informers, account: &str, clients: Clients, config: Arc<ControllersConfig>) -> Self {
        let client = clients(account);
        Self { informers: informers.for_client(client.clone()), client, clients, config }
    }

    /// A client for what another account is responsible for.
    pub(crate) fn client_of(&self, account: &str) -> Client {
        (self.clients)(account)
    }

    /// The API of a kind in one namespace.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Writes of a kind in one namespace, of whose answers little is read.
    pub(crate) fn brief<K: kube::Resource<DynamicType = ()>>(&self, namespace: &str) -> Brief {
        Brief::of::<K>(&self.client, &(), namespace)
    }

    /// The API of a cluster-scoped kind, or of all namespaces.
    pub(crate) fn api_all<K: kube::Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }
}

/// Waits until informers are in sync; `false` when the controller is to stop instead.
pub(crate) async fn synced(stop: &CancellationToken, informers: impl Future<Output = bool>) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        synced = informers => synced,
    }
}

/// Runs a controller's loop beside the pumps that feed its queue; over when the loop is.
pub(crate) async fn run_with_feeds(run: impl Future<Output = ()>, feeds: impl Future) {
    tokio::select! {
        () = run => {}
        // The pumps end only with the informers, whose owner then stops the loop too.
        () = async { feeds.await; std::future::pending().await } => {}
    }
}
