//! A cluster to test on without machines: nodes that exist as objects, and pods that start, become ready, fail and end at
//! the times that options, annotations and a seed say.
//!
//! It does for many nodes what `node` does for one, through a [`kube::Client`] alone, so that it works against any cluster;
//! no container runs. What pods do next and what is reported of them is `pod_lifecycle`'s decision, as on a node with
//! containers.
//!
//! - [`run`] is the whole; [`Options`] say what there is, [`Summary`] what came of it.
//! - `nodes` is what a node looks like; `fleet` makes the nodes, keeps their leases and statuses, and lets them fail
//!   (`outage`).
//! - `pod` is one pod as a pure state machine; `pods` steps all of them from one queue of times and writes what they say.
//! - `claims` makes volumes for claims whose pods go to simulated nodes.
//! - `plan` applies `manifests` and finds out what of them has a node; `fit` is what is told of that.
//! - `load` creates pods at a rate and measures how they fare.
//! - `behaviour` is how containers behave; `chance` draws what is left to it.
//!
//! Invariants: one task steps all pods and has at most [`pods`]' bound of writes under way; a pod has at most one write
//! under way; decisions depend on the seed, the options and the pod's owner, name and number, never on the order in which
//! things are asked; nodes that do not carry the fleet's label are never touched.
//!
//! Tested by tables beside the modules, and in `tests/it` against an API server with controllers and scheduler in process.

mod addresses;
mod behaviour;
mod chance;
mod claims;
mod fit;
mod fleet;
mod load;
mod manifests;
mod nodes;
mod outage;
mod plan;
mod pod;
mod pods;
mod span;
mod summary;

use std::{sync::Arc, time::Duration};

use kube::Client;
use reconcile::{Informers, InformersError};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use addresses::{Range, RangeError};
pub use behaviour::{Behaviour, DOMAIN, RunFor, share};
pub use fit::{Amounts, Fit, NodeFit, WorkloadFit};
pub use load::Load;
pub use manifests::{ManifestError, Manifests, Refused};
pub use nodes::{NodeOptions, TaintError, taint};
pub use outage::Outages;
pub use span::{Span, SpanError};
pub use summary::{Fared, Latency, LoadSummary, Reason, Summary};

use claims::Volumes;
use fleet::{Fleet, Standing};
use plan::Planner;
use pods::Pods;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Options {
    /// The nodes.
    pub nodes: NodeOptions,
    /// When nodes fail, if they do by themselves.
    pub outages: Option<Outages>,
    /// Addresses of pods.
    pub pod_range: Range,
    /// How containers behave.
    pub behaviour: Behaviour,
    /// Pods to create.
    pub load: Option<Load>,
    /// Manifests to plan with, in a cluster that has nothing else: everything is theirs there.
    pub manifests: Option<Manifests>,
    /// Ends by itself after this time; without it, when it is stopped.
    pub time: Option<Duration>,
    /// What the decisions depend on.
    pub seed: u64,
    /// Leaves nodes and pods when it ends.
    pub keep: bool,
}

/// How far it is.
#[derive(Clone, Debug)]
pub enum Progress {
    /// All nodes are there and ready.
    NodesReady {
        /// How many.
        nodes: usize,
        /// Those among them that an earlier run had left.
        resumed: usize,
        /// How long it took.
        took: Duration,
    },
    /// It ends; what it made is deleted.
    CleaningUp,
}

/// Why a simulation ended early.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The nodes of an earlier run cannot be looked up.
    #[error("cannot list nodes")]
    ListNodes(#[source] kube::Error),
    /// A node cannot be made.
    #[error("cannot create node {node}")]
    CreateNode {
        /// Which.
        node: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// A node cannot be deleted.
    #[error("cannot delete node {node}")]
    DeleteNode {
        /// Which.
        node: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// A node of this name is somebody else's.
    #[error("node {node} exists and is not one of this fleet: choose another --name-prefix")]
    ForeignNode {
        /// Which.
        node: String,
    },
    /// The namespace for the load cannot be made or removed.
    #[error("cannot prepare namespace {namespace}")]
    Namespace {
        /// Which.
        namespace: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// Manifests cannot be applied, or what became of them cannot be looked up.
    #[error("cannot plan with the manifests")]
    Plan(#[source] kube::Error),
    /// The informers ended.
    #[error("cannot watch")]
    Informers(#[from] InformersError),
    /// A part panicked.
    #[error("a part of the simulation failed")]
    Task(#[from] tokio::task::JoinError),
}

/// What was done besides keeping nodes and pods.
#[derive(Default)]
struct Done {
    load: Option<LoadSummary>,
    fit: Option<Fit>,
}

/// Simulates until `stop`, or for as long as the options say, and removes what it made.
///
/// # Errors
/// [`SimulateError`] when nodes cannot be made or removed. What fails later is tried again.
pub async fn run(
    client: Client,
    options: Options,
    progress: impl Fn(Progress),
    stop: CancellationToken,
) -> Result<Summary, SimulateError> {
    let begun = tokio::time::Instant::now();
    let options = Arc::new(options);
    let informers = Informers::new(client.clone());
    let (standing, seen) = watch::channel(vec![Standing::Absent; options.nodes.count]);
    let fleet = Fleet::new(client.clone(), Arc::clone(&options), &informers, standing);
    let pods = Pods::new(client.clone(), Arc::clone(&options), &informers, seen);
    let counts = pods.counts();
    let volumes = Volumes::new(client.clone(), Arc::clone(&options), &informers);
    let planner = options.manifests.clone().map(|manifests| Planner::new(client.clone(), manifests, &informers));
    let load = options.load.clone().map(|load| load::Generator::new(client.clone(), load, &informers));
    let end = stop.child_token();
    let mut running = JoinSet::new();
    let (watching, ended) = (informers.clone(), end.clone());
    running.spawn(async move { watching.run(ended).await.map_err(SimulateError::from) });
    let working = tokio::select! {
        made = fleet.make() => made,
        () = end.cancelled() => Ok(0),
    };
    let simulated = match working {
        Ok(resumed) => {
            let fleet = fleet.clone();
            let (beating, ended, providing) = (end.clone(), end.clone(), end.clone());
            running.spawn(async move {
                fleet.run(beating).await;
                Ok(())
            });
            running.spawn(async move {
                pods.run(ended).await;
                Ok(())
            });
            running.spawn(async move {
                volumes.run(providing).await;
                Ok(())
            });
            if !end.is_cancelled() {
                progress(Progress::NodesReady { nodes: options.nodes.count, resumed, took: begun.elapsed() });
            }
            go_on(&options, load.as_ref(), planner.as_ref(), &mut running, &end).await
        }
        Err(error) => Err(error),
    };
    end.cancel();
    while running.join_next().await.is_some() {}
    progress(Progress::CleaningUp);
    let removed = async {
        if !options.keep {
            if let Some(load) = &load {
                load.remove().await?;
            }
            fleet.remove().await?;
        }
        Ok(())
    };
    let removed: Result<(), SimulateError> = removed.await;
    let done = simulated?;
    removed?;
    Ok(Summary::new(&options, begun.elapsed(), fleet.failures(), counts.read(), done))
}

/// Lets it run until it is to end; what was done meanwhile.
async fn go_on(
    options: &Options,
    load: Option<&load::Generator>,
    planner: Option<&Planner>,
    running: &mut JoinSet<Result<(), SimulateError>>,
    end: &CancellationToken,
) -> Result<Done, SimulateError> {
    let work = async {
        if let Some(planner) = planner {
            return planner.run(options.time, end).await.map(|fit| Done { fit: Some(fit), ..Done::default() });
        }
        if let Some(load) = load {
            return load.run(options.time, end).await.map(|load| Done { load: Some(load), ..Done::default() });
        }
        let time = async {
            match options.time {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time => {}
            () = end.cancelled() => {}
        }
        Ok(Done::default())
    };
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            Some(part) = running.join_next(), if !running.is_empty() => part??,
        }
    }
}
