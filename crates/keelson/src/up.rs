//! `keelson up`: every role in one process.
//!
//! The order is that of dependence: settings, data directory, identities, API, then (with the node role) network,
//! registry and containers, then everything that talks to the API through a client. The API's port is bound before
//! anything is written beyond the lock, so a taken port leaves nothing half done. Readiness is claimed last.

mod address;
mod api;
mod certificates;
mod cluster_objects;
mod elected;
mod front_proxy;
mod mesh;
mod node;
pub(crate) mod store;

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bundled_crds,
    cli::Up,
    commands,
    config::Config,
    data_dir::{DataDir, Layout, RunFile},
    exit::{Exit, Failure, chain},
    log, memory,
    supervisor::{Fate, Supervisor},
};

/// Threads of the runtime at most: more than the cores of a small machine would only add memory.
const WORKER_THREADS_MAX: usize = 8;

/// Runs until a signal.
pub(crate) fn main(flags: &Up) -> Result<(), Failure> {
    let started = Instant::now();
    let (config, _) = commands::settings(flags)?;
    if config.node_enabled && !nix::unistd::geteuid().is_root() {
        return Err(Exit::Unsupported.because(anyhow!(
            "running containers needs root: run with sudo, or without containers: keelson up --no-node"
        )));
    }
    log::install(&config);
    let data = DataDir::open(&config.data_dir)?;
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().min(WORKER_THREADS_MAX));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .on_thread_park(memory::before_sleep)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let outcome = runtime.block_on(run(&config, &data, started));
    // What blocks a thread for longer (a container being made) has its own record on disk.
    runtime.shutdown_timeout(Duration::from_millis(500));
    data.layout().remove_run_file()?;
    outcome
}

async fn run(config: &Config, data: &DataDir, started: Instant) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let listener = address::bind(config.listen).await?;
    let mut supervisor = Supervisor::new(CancellationToken::new());
    let built = tokio::select! {
        built = build(config, data, listener, &mut supervisor) => built,
        () = signals.stop() => Err(anyhow!("stopped before it was ready").into()),
    };
    let watched = match built {
        Ok(run_file) => {
            data.layout().write_run_file(&run_file)?;
            tracing::info!(api = run_file.api, ms = started.elapsed().as_millis(), "keelson is ready");
            tokio::select! {
                watched = supervisor.watch() => watched.map_err(Failure::from),
                () = signals.stop() => Ok(()),
            }
        }
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &watched {
        tracing::error!(error = %chain(&failure.error), "stopping");
    }
    tracing::info!(budget = ?config.shutdown_budget, "draining; a second signal ends at once");
    tokio::select! {
        drained = supervisor.drain(config.shutdown_budget) => tracing::info!(cut = drained.cut, "stopped"),
        () = signals.stop() => tracing::warn!("second signal: ending at once"),
    }
    watched
}

async fn build(
    config: &Config,
    data: &DataDir,
    listener: TcpListener,
    supervisor: &mut Supervisor,
) -> Result<RunFile, Failure> {
    let layout = data.layout();
    let claim = if config.node_enabled { Some(node::claim_slot(&layout)?) } else { None };
    let slot = claim.as_ref().map(network::SlotClaim::slot);
    let server_id = config.store.is_some().then(|| layout.unique_name()).transpose()?;
    let (api, informers) = control_plane(config, &layout, listener, slot, server_id.as_deref(), supervisor).await?;
    let server = api.server.clone();
    supervisor.start("memory", Fate::Restarted, move |stop| {
        let server = server.clone();
        memory::run(move || server.rest(), stop)
    });
    let mut run_file = RunFile {
        pid: std::process::id().cast_signed(),
        api: api.url.clone(),
        registry: None,
        gateway_addresses: Vec::new(),
        ready_at: String::new(),
    };
    if let Some(claim) = claim {
        let ports = node::start(config, &layout, claim, &api, server_id.as_deref(), &informers, supervisor).await?;
        run_file.registry = Some(ports.registry);
        run_file.gateway_addresses = ports.gateway_addresses;
    }
    let states = supervisor.states();
    for name in states.names() {
        let (states, task) = (states.clone(), name.clone());
        api.server.add_readiness_check(&name.replace(' ', "-"), std::sync::Arc::new(move || states.check(&task)));
    }
    api.keep_certificates(&layout, supervisor)?;
    run_file.ready_at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    Ok(run_file)
}

/// The API with all that works on it but a node.
async fn control_plane(
    config: &Config,
    layout: &Layout,
    listener: TcpListener,
    slot: Option<network::Slot>,
    server_id: Option<&str>,
    supervisor: &mut Supervisor,
) -> Result<(api::Api, reconcile::Informers), Failure> {
    let api = api::start(config, layout, listener, slot, supervisor).await?;
    bundled_crds::install(api.administrator()).await?;
    cluster_objects::publish(&api, slot).await.context("publish the objects that every cluster has")?;
    let informers = informers(&api);
    api.server.add_metrics(reconcile::render_metrics);
    if config.store.is_none() {
        api.server.add_metrics(store::size_metric(&layout.store()));
    }
    api.server.add_metrics(controllers::render_metrics);
    elected::start(config, &api, &informers, server_id, supervisor);
    Ok((api, informers))
}

/// A control plane for a command that tries something out and needs an administrator's client.
///
/// # Errors
/// As of `up`.
pub(crate) async fn aside(
    config: &Config,
    data: &DataDir,
    supervisor: &mut Supervisor,
) -> Result<kube::Client, Failure> {
    let listener = address::bind(config.listen).await?;
    let (api, _informers) = control_plane(config, &data.layout(), listener, None, None, supervisor).await?;
    let client = api.administrator();
    // with a node they are published with its other classes
    cluster_objects::publish_storage_classes(&client).await.context("publish the classes of volumes")?;
    Ok(client)
}

/// The informers of everything that runs here but the node. What they keep are the bytes that the store holds.
fn informers(api: &api::Api) -> reconcile::Informers {
    let server = api.server.clone();
    reconcile::Informers::beside(api.client("system:kube-controller-manager"), move |group, version, plural| {
        let server = server.clone();
        let [group, version, plural] = [group, version, plural].map(str::to_owned);
        std::sync::Arc::new(move |namespace, name| {
            let (path, bytes) = server.stored(&group, &version, &plural, namespace, name)?;
            Some(reconcile::Held { path, bytes })
        })
    })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
