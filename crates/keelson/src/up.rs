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
mod handover;
mod mesh;
mod node;
pub(crate) mod store;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use apiserver::ApiServer;
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
use handover::{Desk, Listeners, Predecessor, Successor};

/// Threads of the runtime at most: more than the cores of a small machine would only add memory.
const WORKER_THREADS_MAX: usize = 8;

/// How much longer than its own bound the gateway may take to end requests under way.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// Runs until a signal, or until another instance takes over.
pub(crate) fn main(flags: &Up) -> Result<(), Failure> {
    let started = Instant::now();
    let (config, _) = commands::settings(flags)?;
    if config.node_enabled && !nix::unistd::geteuid().is_root() {
        return Err(Exit::Unsupported.because(anyhow!(
            "running containers needs root: run with sudo, or without containers: keelson up --no-node"
        )));
    }
    log::install(&config);
    let predecessor = match flags.replace {
        true => Predecessor::ask(&Layout::new(&config.data_dir), config.shutdown_budget)?,
        false => None,
    };
    let data = DataDir::open(&config.data_dir)?;
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().min(WORKER_THREADS_MAX));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .on_thread_park(memory::before_sleep)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let outcome = runtime.block_on(run(&config, data, predecessor, started));
    // What blocks a thread for longer (a container being made) has its own record on disk.
    runtime.shutdown_timeout(Duration::from_millis(500));
    outcome
}

/// What ends a running instance.
enum End {
    /// A signal, or a part that failed.
    Stop(Result<(), Failure>),
    /// Somebody takes over.
    Handover(Successor),
}

async fn run(
    config: &Config,
    data: DataDir,
    predecessor: Option<(Predecessor, Listeners)>,
    started: Instant,
) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let (predecessor, listeners) = predecessor.unzip();
    let listeners = listeners.unwrap_or_default();
    let layout = data.layout();
    // The gateway has a supervisor of its own: it goes on when the rest has been handed over.
    let mut engine = Supervisor::new(CancellationToken::new());
    let mut front = Supervisor::new(CancellationToken::new());
    let built = tokio::select! {
        built = build(config, &layout, &listeners, &mut engine, &mut front) => built,
        () = signals.stop() => Err(anyhow!("stopped before it was ready").into()),
    };
    let mut server = None;
    let end = match built {
        Ok((run_file, api)) => {
            server = Some(api);
            layout.write_run_file(&run_file)?;
            tracing::info!(api = run_file.api, ms = started.elapsed().as_millis(), "keelson is ready");
            if let Some(predecessor) = predecessor {
                predecessor.relieve(config.node_enabled.then_some(&listeners.gateway)).await?;
            }
            serve(&layout, &listeners, &mut engine, &mut signals).await
        }
        Err(failure) => End::Stop(Err(failure)),
    };
    let (watched, successor) = match end {
        End::Stop(watched) => (watched, None),
        End::Handover(successor) => (Ok(()), Some(successor)),
    };
    if let Err(failure) = &watched {
        tracing::error!(error = %chain(&failure.error), "stopping");
    }
    listeners.close_roles();
    tracing::info!(budget = ?config.shutdown_budget, "draining; a second signal ends at once");
    let drained = async {
        match successor {
            None => {
                let (engine, front) =
                    tokio::join!(engine.drain(config.shutdown_budget), front.drain(config.shutdown_budget));
                layout.remove_run_file()?;
                handover::remove(&layout)?;
                Ok(engine.cut + front.cut)
            }
            Some(successor) => {
                let cut = engine.drain(config.shutdown_budget).await.cut;
                // The gateway's clients hold the server until the gateway ends.
                tokio::task::spawn_blocking(move || server.iter().for_each(|server| server.close())).await?;
                drop(data);
                let served = successor.release().await;
                let cut = cut + front.drain(proxy::DRAIN + DRAIN_GRACE).await.cut;
                served.map(|()| cut)
            }
        }
    };
    tokio::select! {
        drained = drained => tracing::info!(cut = drained?, "stopped"),
        () = signals.stop() => tracing::warn!("second signal: ending at once"),
    }
    watched
}

/// Waits for what ends the instance.
async fn serve(layout: &Layout, listeners: &Listeners, engine: &mut Supervisor, signals: &mut Signals) -> End {
    let desk = Desk::open(layout)
        .inspect_err(|error| tracing::warn!(error = %chain(error), "no other instance can take over from this one"))
        .ok();
    let watched = engine.watch();
    tokio::pin!(watched);
    let handed = async {
        let Some(desk) = &desk else { return std::future::pending().await };
        loop {
            match desk.give(listeners).await {
                Ok(successor) => return successor,
                Err(error) => tracing::warn!(error = %chain(&error), "nobody took over"),
            }
        }
    };
    tokio::select! {
        watched = &mut watched => End::Stop(watched.map_err(Failure::from)),
        () = signals.stop() => End::Stop(Ok(())),
        successor = handed => {
            tracing::info!("another instance takes over");
            End::Handover(successor)
        }
    }
}

async fn build(
    config: &Config,
    layout: &Layout,
    listeners: &Listeners,
    supervisor: &mut Supervisor,
    front: &mut Supervisor,
) -> Result<(RunFile, Arc<ApiServer>), Failure> {
    let listener = listeners.bind("api", config.listen, "--listen").await?;
    let claim = if config.node_enabled { Some(node::claim_slot(layout)?) } else { None };
    let slot = claim.as_ref().map(network::SlotClaim::slot);
    let server_id = config.store.is_some().then(|| layout.unique_name()).transpose()?;
    let (api, informers) = control_plane(config, layout, listener, slot, server_id.as_deref(), supervisor).await?;
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
        let parts = node::Parts { config, layout, api: &api, server_id: server_id.as_deref(), informers: &informers };
        let ports = node::start(&parts, claim, listeners, supervisor, front).await?;
        run_file.registry = Some(ports.registry);
        run_file.gateway_addresses = ports.gateway_addresses;
    }
    for states in [supervisor.states(), front.states()] {
        for name in states.names() {
            let (states, task) = (states.clone(), name.clone());
            api.server.add_readiness_check(&name.replace(' ', "-"), Arc::new(move || states.check(&task)));
        }
    }
    api.keep_certificates(layout, supervisor)?;
    run_file.ready_at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    Ok((run_file, api.server))
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
    let listener = Listeners::default().bind("api", config.listen, "--listen").await?;
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
        Arc::new(move |namespace, name| {
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
