//! `keelson status`.

use std::{path::Path, time::Duration};

use anyhow::{Context, anyhow};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    cli::At,
    data_dir::{Layout, RunFile},
    exit::{Exit, Failure, chain},
};

/// Longest wait for the API: a healthy one answers in milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Prints what runs and whether it answers.
///
/// # Errors
/// [`Exit::NotRunning`] when nothing holds the data directory or nothing answers.
pub(crate) fn main(at: &At) -> Result<(), Failure> {
    let config = super::settings_at(at)?;
    let layout = Layout::new(&config.data_dir);
    let shown = config.data_dir.display();
    let Some(holder) = layout.holder()? else {
        let not_running = anyhow!("nothing runs from {shown}: start it with `keelson up --data-dir {shown}`");
        return Err(Exit::NotRunning.because(not_running));
    };
    let run = layout.read_run_file()?.filter(|run| run.pid == holder);
    let Some(run) = run else {
        return Err(Exit::NotRunning.because(anyhow!("process {holder} is starting from {shown} and is not ready yet")));
    };
    println!("keelson {}  pid {}  ready since {}", env!("CARGO_PKG_VERSION"), run.pid, run.ready_at);
    println!("api       {}", run.api);
    if let Some(registry) = run.registry {
        println!("registry  http://{registry}");
    }
    if !run.gateway_addresses.is_empty() {
        let addresses: Vec<String> = run.gateway_addresses.iter().map(ToString::to_string).collect();
        println!("gateway   {}", addresses.join(", "));
    }
    super::block_on(live(&layout, &run))?
}

async fn live(layout: &Layout, run: &RunFile) -> Result<(), Failure> {
    let asked = async {
        let client = client(&layout.admin_kubeconfig()).await?;
        let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("list nodes")?;
        let pods = Api::<Pod>::all(client).list(&ListParams::default()).await.context("list pods")?;
        anyhow::Ok((nodes.items, pods.items))
    };
    let (nodes, pods) = match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            return Err(Exit::NotRunning.because(anyhow!("{} does not answer: {}", run.api, chain(&error))));
        }
        Err(_) => {
            return Err(Exit::NotRunning.because(anyhow!("{} did not answer within {ANSWER_TIMEOUT:?}", run.api)));
        }
    };
    let ready = |node: &&Node| {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    let in_phase =
        |phase: &str| pods.iter().filter(|p| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase)).count();
    println!("nodes     {} ready of {}", nodes.iter().filter(ready).count(), nodes.len());
    println!(
        "pods      {} running, {} pending, {} failed of {}",
        in_phase("Running"),
        in_phase("Pending"),
        in_phase("Failed"),
        pods.len()
    );
    Ok(())
}

/// A client of the API that a kubeconfig names.
pub(super) async fn client(path: &Path) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
