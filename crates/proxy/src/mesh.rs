//! The mesh: connections between pods that take part are encrypted, and each side knows who the other one is.
//!
//! Pods take part by a label of their namespace or their own, while they run, without a change of theirs. Inside the
//! network namespace of each, this process listens on three ports; rules in the namespace lead the pod's connections
//! there. What the pod opens is carried to the other pod's proxy in a tunnel ([`hbone`]), what is opened to the pod comes
//! out of one, or as it is. The parts:
//!
//! - [`enrolment`] says who takes part, [`capture`] has it so, pod by pod;
//! - [`directory`] knows who is behind an address, [`identities`] who shows which certificate;
//! - [`policy`] decides who may speak to whom;
//! - [`outbound`] and [`inbound`] are the two ways of a connection, [`carry`] its bytes, [`sockets`] its ends, [`observe`] what is
//!   told of it;
//! - [`sniff`] finds out whether it carries HTTP, where somebody wants to know.
//!
//! Invariants: while rules lead a pod's connections here and nobody serves, they are refused, not let through; a pod's
//! rules are in place before its first process starts; nothing is sent to a pod that takes part before its proxy has
//! proved to be that pod's. Who has no pod that takes part pays for two watches, and for a pod's start one look at labels.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::{Namespace, Pod as Object};
use parking_lot::{Mutex, RwLock};
use reconcile::{Informer, Informers, Key};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

mod capture;
mod carry;
pub mod directory;
mod enrolment;
mod follow;
mod hbone;
mod identities;
mod inbound;
mod observe;
mod outbound;
pub mod policy;
mod sniff;
mod sockets;
pub(crate) mod status;
mod unserved;

pub use hbone::PORT as TUNNEL_PORT;
pub use identities::{IdentityError, OpenAuthority};
pub use sockets::MARK;

use self::{
    capture::{Command, Keeper},
    directory::{Directory, Workload},
    hbone::client::Tunnels,
    identities::Identities,
    policy::{Guard, Judge},
};
use crate::{
    controller::Endpoints,
    routing::{Backend, PortTable, plain},
    server::{Routes, Server, ServerConfig, Sockets},
};

/// The loopback port inside a pod to which its own connections are led. Istio's numbers, as policies and tools know them.
pub const OUTBOUND_PORT: u16 = 15001;
/// The port inside a pod to which connections from outside are led.
pub const INBOUND_PORT: u16 = 15006;
/// Orders that wait for the keeper: the node starts a few pods at a time.
const COMMANDS: usize = 64;
/// How long a pod that the node starts may be unknown here: both hear of it at the same time, but for the machine's load.
const SEEN: Duration = Duration::from_secs(5);
/// Ports of a pod that connections are kept open to: clients choose which they ask for, and a pod serves a few.
const PORTS: usize = 64;
/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// A pod of this node that has a network namespace of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPlace {
    /// UID.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

/// The pods of this node, as the node knows them.
pub trait PodNamespaces: Send + Sync + 'static {
    /// All pods that have a network namespace of their own now.
    fn places(&self) -> Vec<PodPlace>;

    /// A pod's network namespace.
    ///
    /// # Errors
    /// When the pod is not there, or its namespace cannot be opened.
    fn open(&self, uid: &str) -> io::Result<Arc<dyn PodNetns>>;
}

/// The network namespace of a pod.
pub trait PodNetns: Send + Sync + 'static {
    /// Runs something on this thread inside the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    fn within(&self, run: &mut dyn FnMut()) -> io::Result<()>;

    /// Leads the pod's connections to this mesh's ports.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn capture(&self) -> io::Result<()>;

    /// Leads no further ones there; those that were go on.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn release(&self) -> io::Result<()>;

    /// Removes every trace.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn forget(&self) -> io::Result<()>;

    /// Whether a process before this one has left rules there.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn is_captured(&self) -> io::Result<bool>;
}

/// What becomes of the connections of pods that take part while this process does not serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenDown {
    /// They are refused.
    #[default]
    Refuse,
    /// They are let through as they are, from an orderly stop on. After a crash they are refused all the same.
    LetThrough,
}

/// How the mesh is set up.
#[derive(Clone)]
pub struct MeshConfig {
    /// In whose name identities are.
    pub trust_domain: String,
    /// Opens the authority of workloads.
    pub authority: OpenAuthority,
    /// The pods of this node.
    pub namespaces: Arc<dyn PodNamespaces>,
    /// What happens when this process stops.
    pub when_down: WhenDown,
    /// What routes say of Services.
    pub routes: Routes,
}

/// The mesh on this node. Cheap to clone.
#[derive(Clone)]
pub struct Mesh {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    waiting: Arc<tokio::sync::Mutex<mpsc::Receiver<Command>>>,
    namespaces: Informer<Namespace>,
    pods: Informer<Object>,
}

/// A pod that takes part could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It has no certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its names cannot be part of an identity.
    #[error("service account {service_account} of namespace {namespace} cannot be part of an identity")]
    Name {
        /// Namespace.
        namespace: String,
        /// Service account.
        service_account: String,
    },
    /// Sockets or rules inside its namespace could not be made.
    #[error("cannot {action} inside the pod's network namespace")]
    Namespace {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The API does not show the pod.
    #[error("the pod is not known yet")]
    Unknown,
    /// The policies are not known.
    #[error("the policies of the mesh are not known yet")]
    Policies,
    /// The mesh is stopping, or starting again.
    #[error("the mesh is not running")]
    Stopped,
}

/// What all pods of the mesh share.
pub(crate) struct Shared {
    config: MeshConfig,
    directory: Directory,
    endpoints: Endpoints,
    identities: Identities,
    judge: Arc<Judge>,
    telemetry: observe::Telemetry,
    captured: RwLock<Captured>,
    /// Serves requests; each run of the mesh has its own.
    server: ArcSwap<Server>,
}

/// The pods that are captured.
#[derive(Default)]
struct Captured {
    by_address: HashMap<IpAddr, Arc<Pod>>,
    by_uid: HashMap<String, Arc<Pod>>,
}

/// A pod that is captured.
pub(crate) struct Pod {
    /// Different for each.
    pub(crate) number: u64,
    pub(crate) place: PodPlace,
    pub(crate) netns: Arc<dyn PodNetns>,
    pub(crate) identity: Arc<identities::Identity>,
    pub(crate) tunnels: Tunnels,
    workload: ArcSwap<Workload>,
    guard: ArcSwap<Guard>,
    /// The pod's own ports whose requests were looked at.
    ports: Mutex<HashMap<u16, Arc<PortTable>>>,
}

impl Pod {
    /// A port of the pod itself, whose requests all go there.
    pub(crate) fn own_port(&self, at: SocketAddr) -> Arc<PortTable> {
        let mut ports = self.ports.lock();
        if let Some(known) = ports.get(&at.port()) {
            return Arc::clone(known);
        }
        let backend = Backend::new(format!("{}/{}:{}", self.place.namespace, self.place.name, at.port()));
        backend.set_endpoints(vec![at]);
        let table = plain(backend);
        if ports.len() < PORTS {
            ports.insert(at.port(), Arc::clone(&table));
        }
        table
    }

    /// The pod as it was last seen.
    pub(crate) fn workload(&self) -> Arc<Workload> {
        self.workload.load_full()
    }

    /// Who decides about connections to the pod.
    pub(crate) fn guard(&self) -> Arc<Guard> {
        self.guard.load_full()
    }

    /// The pod has become this.
    fn update(&self, shared: &Shared, workload: Arc<Workload>) {
        self.guard.store(shared.guard(&workload));
        self.workload.store(workload);
    }
}

impl Shared {
    /// Who serves requests.
    pub(crate) fn server(&self) -> Server {
        Server::clone(&self.server.load())
    }

    /// Begins anew; what the server before was doing is not ended by this.
    fn renew_server(&self) {
        self.server.store(Arc::new(server(&self.config.routes)));
    }

    /// Who decides about connections to a pod.
    fn guard(&self, pod: &Workload) -> Arc<Guard> {
        let (namespace, labels) = (pod.namespace.to_string(), pod.labels.clone());
        let selected = policy::Workload { namespace, labels, services: self.directory.services_of(pod) };
        self.judge.workload(&Key::new(&*pod.namespace, &*pod.name), selected)
    }

    /// The captured pod that has an address.
    pub(crate) fn captured(&self, address: IpAddr) -> Option<Arc<Pod>> {
        self.captured.read().by_address.get(&address).cloned()
    }
}

/// A server that listens nowhere.
fn server(routes: &Routes) -> Server {
    let config = ServerConfig { addresses: Vec::new(), ephemeral: false, sockets: Sockets::default(), threads: 0 };
    Server::by(config, routes.clone())
}

impl Mesh {
    /// The mesh of this node; it works while [`Mesh::run`] does. Somebody else runs the informers.
    pub fn new(informers: &Informers, config: MeshConfig) -> Self {
        let (commands, waiting) = mpsc::channel(COMMANDS);
        let shared = Shared {
            directory: Directory::default(),
            endpoints: Endpoints::new(informers),
            identities: Identities::new(Arc::clone(&config.authority)),
            judge: Judge::new(policy::ROOT_NAMESPACE),
            telemetry: observe::Telemetry::default(),
            captured: RwLock::default(),
            server: ArcSwap::from_pointee(server(&config.routes)),
            config,
        };
        Mesh {
            shared: Arc::new(shared),
            commands,
            waiting: Arc::new(tokio::sync::Mutex::new(waiting)),
            namespaces: informers.of(),
            pods: informers.of(),
        }
    }

    /// Serves the pods that take part, until `stop`.
    pub async fn run(&self, informers: &Informers, stop: CancellationToken) {
        let mut commands = self.waiting.lock().await;
        Keeper::new(Arc::clone(&self.shared), informers).run(&mut commands, stop).await;
    }

    /// A pod of this node has got its network, and [`PodNamespaces::places`] tells of it. Returns once it is captured, if
    /// it is to be; nothing of it may run before.
    ///
    /// # Errors
    /// When it is to be captured and cannot be.
    pub async fn attached(&self, place: PodPlace) -> Result<(), CaptureError> {
        let pod = self.seen(&place).await?;
        let namespace = self.namespaces.get("", &place.namespace);
        let labels = namespace.and_then(|namespace| namespace.metadata.labels.clone()).unwrap_or_default();
        // a label that is set after this look finds the pod among the node's
        if !enrolment::takes_part(&labels, &pod) {
            return Ok(());
        }
        let (done, outcome) = oneshot::channel();
        self.commands.send(Command::Attached { place, pod, done }).await.map_err(|_| CaptureError::Stopped)?;
        outcome.await.unwrap_or(Err(CaptureError::Stopped))
    }

    /// The pod, which the node may know before we do.
    async fn seen(&self, place: &PodPlace) -> Result<Arc<Object>, CaptureError> {
        let synced = async { self.namespaces.synced().await && self.pods.synced().await };
        if !tokio::time::timeout(SEEN, synced).await.unwrap_or(false) {
            return Err(CaptureError::Unknown);
        }
        let deadline = tokio::time::Instant::now() + SEEN;
        loop {
            let pod = self.pods.get(&place.namespace, &place.name);
            if let Some(pod) = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&*place.uid)) {
                return Ok(pod);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(CaptureError::Unknown);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A pod of this node is about to lose its network.
    pub async fn detached(&self, uid: &str) {
        // who does not run has nothing to forget
        let _sent = self.commands.send(Command::Detached { uid: uid.to_owned() }).await;
    }

    /// Adds what was counted in Prometheus' text form; nothing while no pod takes part.
    pub fn render_metrics(&self, out: &mut String) {
        self.shared.telemetry.render(out);
    }

    /// Who is behind an address. Empty while no pod takes part.
    pub fn directory(&self) -> &Directory {
        &self.shared.directory
    }
}
