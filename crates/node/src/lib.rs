//! What a kubelet does: runs the pods that are bound to this node and reports on them.
//!
//! It is not the runtime (`runtime` pulls images and runs containers), not the network (`network` gives pods their
//! addresses), and not a scheduler: it takes every pod whose `spec.nodeName` is its own.
//!
//! - [`Node`] is the whole: [`Node::new`] puts it together, [`Node::run`] runs it.
//! - [`NodeServer`] answers the kubelet's HTTP paths (logs, exec, attach, port-forward); the API server calls it in
//!   process.
//! - `worker` is one task per pod that observes, asks the pure core (`pod_lifecycle`) what to do next and what to report,
//!   acts and writes; `pods` feeds the workers.
//! - `container`, `volumes`, `sources` turn specs into what the runtime takes; `probes` and `logs` are what they say.
//! - `registration` keeps the Node object and its lease; `housekeeping` rotates logs and removes images when the disk
//!   fills.
//!
//! Invariants: a pod is touched only by its own worker; a worker writes nothing but the pod's status, events, and the
//! final deletion; containers never depend on this process, so ending it ends nothing else; what the runtime holds is
//! found again by labels, and a restart of Keelson restarts no container.

mod admission;
mod config;
mod container;
mod followed;
mod housekeeping;
mod limits;
mod logs;
mod pods;
mod probes;
pub mod provisioner;
mod registration;
mod server;
mod sources;
mod volumes;
mod worker;

use std::{io, path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::Service;
use network::PodNetwork;
use reconcile::{Informers, Recorder, Selector};
use runtime::Runtime;
use tokio_util::sync::CancellationToken;

pub use config::NodeConfig;
pub use server::{Body, NodeServer};

use housekeeping::Housekeeping;
use pods::Pods;
use registration::{Machine, Registration};
use server::PodTable;
use worker::Shared;

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A directory of the node cannot be made.
    #[error("cannot create {path}", path = .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Selects the Node of this node alone: it may see no others.
fn own_node(config: &NodeConfig) -> Selector {
    Selector::fields(format!("metadata.name={}", config.name))
}

/// A node, ready to run.
pub struct Node {
    shared: Arc<Shared>,
    informers: Informers,
    registration: Registration,
    housekeeping: Housekeeping,
    server: NodeServer,
    stop: CancellationToken,
}

impl Node {
    /// Puts a node together. `informers` must be run by the caller; call inside a tokio runtime.
    pub fn new(
        config: NodeConfig,
        informers: Informers,
        runtime: Arc<Runtime>,
        network: Arc<dyn PodNetwork>,
        stop: CancellationToken,
    ) -> Result<Self, NodeError> {
        for directory in ["pods", "logs"] {
            let path = config.root_dir.join(directory);
            std::fs::create_dir_all(&path).map_err(|source| NodeError::Directory { path, source })?;
        }
        let client = informers.client().clone();
        let machine = Machine::read(&config.root_dir);
        let table = Arc::new(PodTable::default());
        let shared = Arc::new(Shared {
            client: client.clone(),
            runtime: Arc::clone(&runtime),
            network,
            recorder: Recorder::with_host(client.clone(), "kubelet", &config.name),
            services: informers.of::<Service>(),
            table: Arc::clone(&table),
            memory_bytes: machine.memory_bytes,
            cpus: machine.cpus,
            config: config.clone(),
        });
        let server = NodeServer::new(Arc::clone(&runtime), table, stop.clone());
        let root_dir = config.root_dir.clone();
        let housekeeping = Housekeeping { runtime: Arc::clone(&runtime), machine: machine.clone(), root_dir };
        let node = informers.of_selected(own_node(&config));
        let registration = Registration { config, client, runtime, machine, node };
        Ok(Self { shared, informers, registration, housekeeping, server, stop })
    }

    /// The HTTP service of this node.
    pub fn server(&self) -> NodeServer {
        self.server.clone()
    }

    /// Runs until the stop signal that was given to [`Node::new`]. Containers live on.
    pub async fn run(self) {
        let Self { shared, informers, registration, housekeeping, server, stop } = self;
        let recorder = shared.recorder.clone();
        let pods = Pods::new(shared, informers, stop.clone());
        tokio::join!(pods.run(), registration.run(stop.clone()), housekeeping.run(stop));
        server.drain().await;
        recorder.flush().await;
    }
}
