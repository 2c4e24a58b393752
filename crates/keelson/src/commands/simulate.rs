//! `keelson simulate`: nodes without machines, in the running instance or any other cluster, or in one of their own to plan
//! with.

mod plan;

use std::{path::Path, time::Duration};

use anyhow::{Context, anyhow};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use simulate::{Behaviour, Load, NodeOptions, Options, Outages, Progress, RunFor, Summary};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Cluster, LoadFlags, Output, Simulate},
    data_dir::Layout,
    exit::{Exit, Failure},
};

/// A signal this soon after the first is the same one, sent to the process and to its group as `timeout` does.
const SAME_SIGNAL: Duration = Duration::from_millis(500);
/// How long what was made may take to be removed before the process ends all the same.
const CLEAN_UP_MAX: Duration = Duration::from_secs(120);

/// Simulates until a signal, or for as long as it was told to.
///
/// # Errors
/// [`Exit::Usage`] for a template or manifests that are none, [`Exit::NotRunning`] where no cluster answers.
pub(crate) fn main(flags: &Simulate) -> Result<(), Failure> {
    if !flags.filename.is_empty() {
        return plan::main(flags);
    }
    let config = super::settings_at(&flags.cluster.at)?;
    crate::log::install_on_stderr(&config);
    let options = options(flags)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start threads")?;
    let summary = runtime.block_on(async {
        let client = client(&flags.cluster, &Layout::new(&config.data_dir)).await?;
        run(client, options).await
    })?;
    print(flags, &summary)
}

fn print(flags: &Simulate, summary: &Summary) -> Result<(), Failure> {
    match flags.output {
        Output::Text => println!("{summary}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(summary)?),
    }
    Ok(())
}

async fn run(client: Client, options: Options) -> Result<Summary, Failure> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let stop = CancellationToken::new();
    let simulation = simulate::run(client, options, told, stop.clone());
    tokio::pin!(simulation);
    tokio::select! {
        done = &mut simulation => return Ok(done?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    let again = async {
        tokio::time::sleep(SAME_SIGNAL).await;
        for same in [&mut terminate, &mut interrupt] {
            let _ = same.recv().now_or_never();
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        done = simulation => Ok(done?),
        () = again => Err(anyhow!("a second signal: nodes may be left, and the next run finds them").into()),
        () = tokio::time::sleep(CLEAN_UP_MAX) => {
            Err(anyhow!("nodes could not be removed within {CLEAN_UP_MAX:?}: the next run finds them").into())
        }
    }
}

/// Progress is for people, and standard output may be for programs.
fn told(progress: Progress) {
    match progress {
        Progress::NodesReady { nodes, resumed: 0, took } => eprintln!("{nodes} nodes are ready after {took:.1?}"),
        Progress::NodesReady { nodes, resumed, took } => {
            eprintln!("{nodes} nodes are ready after {took:.1?}, {resumed} of them from an earlier run");
        }
        Progress::CleaningUp => eprintln!("ending"),
    }
}

async fn client(cluster: &Cluster, layout: &Layout) -> Result<Client, Failure> {
    let Some(file) = &cluster.kubeconfig else {
        let running = layout.holder()?.is_some();
        let shown = layout.root().display();
        if !running {
            let error = anyhow!(
                "nothing runs from {shown}: start it with `keelson up --data-dir {shown}`, or name a cluster with --kubeconfig"
            );
            return Err(Exit::NotRunning.because(error));
        }
        return Ok(super::status::client(&layout.admin_kubeconfig()).await?);
    };
    let kubeconfig = Kubeconfig::read_from(file).with_context(|| format!("read {}", file.display()))?;
    let choice = KubeConfigOptions { context: cluster.context.clone(), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &choice).await;
    let config = config.with_context(|| format!("use {}", file.display()))?;
    Ok(Client::try_from(config).context("make a client")?)
}

fn options(flags: &Simulate) -> Result<Options, Failure> {
    let (fleet, how) = (&flags.fleet, &flags.behaviour);
    Ok(Options {
        nodes: NodeOptions {
            prefix: fleet.name_prefix.clone(),
            zones: fleet.zones as usize,
            region: fleet.region.clone(),
            cpu: fleet.cpu.clone(),
            memory: fleet.memory.clone(),
            pods: fleet.pods,
            resources: fleet.resource.iter().cloned().collect(),
            labels: fleet.label.iter().cloned().collect(),
            annotations: fleet.annotation.iter().cloned().collect(),
            taints: fleet.taint.clone(),
            architecture: fleet.arch.clone(),
            ..NodeOptions::new(flags.nodes as usize)
        },
        outages: fleet.node_fail_every.map(|every| Outages { every, lasting: fleet.node_down_for }),
        pod_range: fleet.pod_cidr,
        behaviour: Behaviour {
            start_after: how.start_after,
            ready_after: how.ready_after,
            init_for: how.init_for,
            run_for: how.run_for,
            always_for: RunFor::Ever,
            terminate_after: how.terminate_after,
            fail_rate: how.fail_rate,
            crash_every: how.crash_every,
            exit_code: 0,
        },
        load: load(&flags.load)?,
        manifests: None,
        time: flags.time,
        seed: flags.seed,
        keep: flags.keep,
    })
}

fn load(flags: &LoadFlags) -> Result<Option<Load>, Failure> {
    let Some(pods_per_second) = flags.pods_per_second else { return Ok(None) };
    let template = match &flags.template {
        Some(file) => template(file).map_err(|error| Exit::Usage.because(error))?,
        None => serde_json::from_value(json!({"spec": {"containers": [{
            "name": "load",
            "image": "registry.k8s.io/pause:3.10",
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        }]}}))?,
    };
    Ok(Some(Load { pods_per_second, template, namespace: flags.namespace.clone(), stay: flags.stay }))
}

/// The pod that a file describes, itself or as the template of something else.
fn template(file: &Path) -> anyhow::Result<Pod> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let object: Value = serde_saphyr::from_str(&text).with_context(|| format!("read {} as YAML", file.display()))?;
    let kind = object["kind"].as_str().unwrap_or_default();
    let pod = match kind {
        "Pod" => &object,
        "CronJob" => &object["spec"]["jobTemplate"]["spec"]["template"],
        "PodTemplate" => &object["template"],
        _ => &object["spec"]["template"],
    };
    if pod["spec"]["containers"].as_array().is_none_or(Vec::is_empty) {
        return Err(anyhow!("{}: {kind:?} is neither a Pod nor has a pod template with containers", file.display()));
    }
    let pod = json!({"metadata": pod["metadata"], "spec": pod["spec"]});
    serde_json::from_value(pod).with_context(|| format!("{}: the pod template", file.display()))
}
