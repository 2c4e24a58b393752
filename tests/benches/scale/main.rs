//! Many of everything: how an API server answers at 10,000 pods in 1,000 namespaces, to 1,000 watchers, with 500
//! CustomResourceDefinitions, and while somebody lists all pods every second.
//!
//! It drives any Kubernetes API server over its public API alone, so that two servers can be compared on one machine.
//! `cargo bench -p system-tests --bench scale -- --help` names its parts; `scripts/bench-peer` runs it against Keelson and
//! another server. What it makes it deletes, unless told to leave it.

mod definitions;
mod fleet;
mod measure;
mod mixed;
mod objects;
mod population;
mod rows;
mod target;
mod watchers;
mod workloads;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use measure::Report;
use target::Target;

const HELP: &str = "\
Usage: scale --kubeconfig FILE [OPTIONS]

  --kubeconfig FILE   the server, and who asks (client certificate or token)
  --pid PID           a process of the server, whose memory and CPU time are shown; may be repeated
  --parts LIST        of rows,watchers,mixed,definitions,objects [all, in this order], and of workloads,churn,steady,
                      which need controllers, a scheduler and --keelson
  --namespaces N      namespaces that exist [1000]
  --pods N            pods spread over them [10000]
  --writes N          writes of each row [5000]
  --watchers N        watches open at once [1000]
  --definitions N     CustomResourceDefinitions [500]
  --keelson FILE      the binary that simulates nodes for workloads, churn and steady
  --nodes N           simulated nodes [1000]
  --replicas N        replicas of the one Deployment of `workloads` [1000]
  --deployments N     Deployments of `churn` [1000]
  --rounds N          times that `churn` updates all of them [2]
  --patience SECONDS  longest time of one row [60]
  --leave             delete nothing at the end
";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Rows,
    Watchers,
    Mixed,
    Definitions,
    /// Of the definitions, which must be there.
    Objects,
    /// One large Deployment.
    Workloads,
    /// Many Deployments updated at once.
    Churn,
    /// Many pods at rest.
    Steady,
}

/// How much of everything.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    namespaces: usize,
    pods: usize,
    writes: usize,
    watchers: usize,
    definitions: usize,
    nodes: usize,
    replicas: usize,
    deployments: usize,
    rounds: usize,
    patience: Duration,
}

#[derive(Debug)]
struct Arguments {
    kubeconfig: PathBuf,
    keelson: Option<PathBuf>,
    pids: Vec<u32>,
    parts: Vec<Part>,
    size: Size,
    leave: bool,
}

impl Part {
    /// Those that any API server can be asked for.
    const ALL: [Self; 5] = [Self::Rows, Self::Watchers, Self::Mixed, Self::Definitions, Self::Objects];

    /// Whether it needs somebody who acts on workloads, and nodes for them.
    fn is_simulated(self) -> bool {
        matches!(self, Self::Workloads | Self::Churn | Self::Steady)
    }

    fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "rows" => Self::Rows,
            "watchers" => Self::Watchers,
            "mixed" => Self::Mixed,
            "definitions" => Self::Definitions,
            "objects" => Self::Objects,
            "workloads" => Self::Workloads,
            "churn" => Self::Churn,
            "steady" => Self::Steady,
            other => bail!("--parts: no part is called {other:?}"),
        })
    }
}

impl Arguments {
    /// `None` asks for help.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let patience = Duration::from_secs(60);
        let size = Size {
            namespaces: 1000,
            pods: 10_000,
            writes: 5000,
            watchers: 1000,
            definitions: 500,
            nodes: 1000,
            replicas: 1000,
            deployments: 1000,
            rounds: 2,
            patience,
        };
        let (kubeconfig, parts) = (PathBuf::new(), Part::ALL.to_vec());
        let mut parsed = Self { kubeconfig, keelson: None, pids: Vec::new(), parts, size, leave: false };
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--help" | "-h" => return Ok(None),
                // `cargo bench` says so to every bench
                "--bench" => continue,
                "--leave" => {
                    parsed.leave = true;
                    continue;
                }
                _ => {}
            }
            let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
            let number = || value.parse::<usize>().with_context(|| format!("{name}: {value:?} is not a number"));
            match name.as_str() {
                "--kubeconfig" => parsed.kubeconfig = value.into(),
                "--pid" => parsed.pids.push(value.parse().with_context(|| format!("--pid: {value:?}"))?),
                "--parts" => parsed.parts = value.split(',').map(Part::parse).collect::<Result<_>>()?,
                "--namespaces" => parsed.size.namespaces = number()?.max(1),
                "--pods" => parsed.size.pods = number()?.max(1),
                "--writes" => parsed.size.writes = number()?.max(1),
                "--watchers" => parsed.size.watchers = number()?.max(1),
                "--definitions" => parsed.size.definitions = number()?.max(1),
                "--keelson" => parsed.keelson = Some(value.into()),
                "--nodes" => parsed.size.nodes = number()?.max(1),
                "--replicas" => parsed.size.replicas = number()?.max(1),
                "--deployments" => parsed.size.deployments = number()?.max(1),
                "--rounds" => parsed.size.rounds = number()?,
                "--patience" => parsed.size.patience = Duration::from_secs(number()? as u64),
                other => bail!("unknown option {other:?}; --help lists them"),
            }
        }
        if parsed.kubeconfig.as_os_str().is_empty() {
            bail!("--kubeconfig is missing");
        }
        if parsed.keelson.is_none() && parsed.parts.iter().any(|part| part.is_simulated()) {
            bail!("--keelson is missing: who simulates the nodes?");
        }
        Ok(Some(parsed))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1))? else {
        print!("{HELP}");
        return Ok(());
    };
    let target = Target::connect(&arguments.kubeconfig).await?;
    let report = Report::new(arguments.pids.clone());
    let outcome = measure(&target, &arguments, &report).await;
    let plain = arguments.parts.iter().any(|part| !part.is_simulated());
    if !arguments.leave && plain {
        definitions::delete(&target, &arguments.size, &report).await?;
        population::delete(&target, &arguments.size, &report).await?;
    }
    outcome
}

async fn measure(target: &Arc<Target>, arguments: &Arguments, report: &Report) -> Result<()> {
    let size = &arguments.size;
    let needs_pods = |part: &Part| matches!(part, Part::Rows | Part::Watchers | Part::Mixed);
    let needs_pods = arguments.parts.iter().any(needs_pods);
    let mut heartbeats = None;
    if needs_pods {
        report.title(&format!("{} namespaces, {} pods on {} nodes", size.namespaces, size.pods, objects::NODES));
        population::create(target, size, report).await?;
        heartbeats = Some(population::Heartbeats::start(target));
    }
    let simulated = arguments.parts.iter().any(|part| part.is_simulated());
    let mut fleet = None;
    if let Some(keelson) = arguments.keelson.as_ref().filter(|_| simulated) {
        report.memory("memory before");
        let start = std::time::Instant::now();
        fleet = Some(fleet::Fleet::start(keelson, &arguments.kubeconfig, size.nodes)?);
        report.took("simulated nodes made", start.elapsed(), &format!("{} nodes", size.nodes));
    }
    for part in &arguments.parts {
        let measured = match part {
            Part::Rows => rows::run(target, size, report).await,
            Part::Watchers => watchers::run(target, size, report).await,
            Part::Mixed => mixed::run(target, size, report).await,
            Part::Definitions => definitions::run(target, size, report).await,
            Part::Objects => definitions::use_all(target, size, report).await,
            Part::Workloads => workloads::run(target, size, report).await,
            Part::Churn => workloads::churn(target, size, report).await,
            Part::Steady => workloads::steady(target, size, report).await,
        };
        // what a server cannot do keeps nobody from seeing what it can
        if let Err(error) = measured {
            report.title(&format!("given up: {error:#}"));
        }
    }
    drop(heartbeats);
    if simulated && !arguments.leave {
        workloads::delete(target).await?;
    }
    drop(fleet);
    Ok(())
}
