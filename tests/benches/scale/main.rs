//! Many of everything: how an API server answers at 10,000 pods in 1,000 namespaces, to 1,000 watchers, with 500
//! CustomResourceDefinitions, and while somebody lists all pods every second.
//!
//! It drives any Kubernetes API server over its public API alone, so that two servers can be compared on one machine.
//! `cargo bench -p system-tests --bench scale -- --help` names its parts; `scripts/bench-peer` runs it against Keelson and
//! another server. What it makes it deletes, unless told to leave it.

mod definitions;
mod measure;
mod mixed;
mod objects;
mod population;
mod rows;
mod target;
mod watchers;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use measure::Report;
use target::Target;

const HELP: &str = "\
Usage: scale --kubeconfig FILE [OPTIONS]

  --kubeconfig FILE   the server, and who asks (client certificate or token)
  --pid PID           a process of the server, whose memory and CPU time are shown; may be repeated
  --parts LIST        of rows,watchers,mixed,definitions,objects [all, in this order]
  --namespaces N      namespaces that exist [1000]
  --pods N            pods spread over them [10000]
  --writes N          writes of each row [5000]
  --watchers N        watches open at once [1000]
  --definitions N     CustomResourceDefinitions [500]
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
}

/// How much of everything.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    namespaces: usize,
    pods: usize,
    writes: usize,
    watchers: usize,
    definitions: usize,
    patience: Duration,
}

#[derive(Debug)]
struct Arguments {
    kubeconfig: PathBuf,
    pids: Vec<u32>,
    parts: Vec<Part>,
    size: Size,
    leave: bool,
}

impl Part {
    const ALL: [Self; 5] = [Self::Rows, Self::Watchers, Self::Mixed, Self::Definitions, Self::Objects];

    fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "rows" => Self::Rows,
            "watchers" => Self::Watchers,
            "mixed" => Self::Mixed,
            "definitions" => Self::Definitions,
            "objects" => Self::Objects,
            other => bail!("--parts: no part is called {other:?}"),
        })
    }
}

impl Arguments {
    /// `None` asks for help.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let patience = Duration::from_secs(60);
        let size = Size { namespaces: 1000, pods: 10_000, writes: 5000, watchers: 1000, definitions: 500, patience };
        let mut parsed =
            Self { kubeconfig: PathBuf::new(), pids: Vec::new(), parts: Part::ALL.to_vec(), size, leave: false };
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
                "--patience" => parsed.size.patience = Duration::from_secs(number()? as u64),
                other => bail!("unknown option {other:?}; --help lists them"),
            }
        }
        if parsed.kubeconfig.as_os_str().is_empty() {
            bail!("--kubeconfig is missing");
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
    if !arguments.leave {
        definitions::delete(&target, &arguments.size, &report).await?;
        population::delete(&target, &arguments.size, &report).await?;
    }
    outcome
}

async fn measure(target: &Arc<Target>, arguments: &Arguments, report: &Report) -> Result<()> {
    let size = &arguments.size;
    let needs_pods = arguments.parts.iter().any(|part| !matches!(part, Part::Definitions | Part::Objects));
    let mut heartbeats = None;
    if needs_pods {
        report.title(&format!("{} namespaces, {} pods on {} nodes", size.namespaces, size.pods, objects::NODES));
        population::create(target, size, report).await?;
        heartbeats = Some(population::Heartbeats::start(target));
    }
    for part in &arguments.parts {
        let measured = match part {
            Part::Rows => rows::run(target, size, report).await,
            Part::Watchers => watchers::run(target, size, report).await,
            Part::Mixed => mixed::run(target, size, report).await,
            Part::Definitions => definitions::run(target, size, report).await,
            Part::Objects => definitions::use_all(target, size, report).await,
        };
        // what a server cannot do keeps nobody from seeing what it can
        if let Err(error) = measured {
            report.title(&format!("given up: {error:#}"));
        }
    }
    drop(heartbeats);
    Ok(())
}
