//! `keelson simulate -f`: capacity planning. A control plane of its own in a folder of its own takes the manifests; both are
//! gone afterwards.

use std::{
    fs::{self, DirEntry},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use serde_json::Value;
use simulate::{Behaviour, Manifests, Options, RunFor, Span, Summary};
use tokio_util::sync::CancellationToken;

use super::{options, print, run};
use crate::{
    cli::{At, Simulate, Up},
    config::{AuditLog, Config, Origin},
    data_dir::DataDir,
    exit::{Exit, Failure},
    supervisor::Supervisor,
    up,
};

/// Files of a folder that are manifests.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Plans, and prints what fits.
///
/// # Errors
/// [`Exit::Usage`] for manifests that are none, [`Exit::Failed`] where not everything fits.
pub(super) fn main(flags: &Simulate) -> Result<(), Failure> {
    let config = settings(flags)?;
    crate::log::install_on_stderr(&config);
    let manifests = manifests(&flags.filename).map_err(|error| Exit::Usage.because(error))?;
    let options = Options {
        manifests: Some(manifests),
        behaviour: at_once(options(flags)?.behaviour),
        // it all goes with the folder
        keep: true,
        ..options(flags)?
    };
    let folder = Folder::make()?;
    let config = Config { data_dir: folder.0.clone(), ..config };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start threads")?;
    let summary = runtime.block_on(plan(&config, options))?;
    drop(folder);
    print(flags, &summary)?;
    match summary.fit {
        Some(fit) if !fit.is_complete() => {
            let (placed, wanted) = fit.pods();
            Err(anyhow!("not everything fits: {placed} of {wanted} pods have a node, {} refused", fit.refused.len())
                .into())
        }
        _ => Ok(()),
    }
}

/// The user's settings of scheduler and admission, and nothing that reaches out of the folder.
fn settings(flags: &Simulate) -> Result<Config, Failure> {
    let at = At { config: flags.cluster.at.config.clone(), data_dir: None };
    let listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let up = Up { at, listen, no_node: true, ..Up::default() };
    let (mut config, explained) = crate::commands::settings(&up)?;
    config.store = None;
    config.encryption_config = None;
    config.audit.log = AuditLog::Off;
    config.audit.webhook = None;
    let unsaid = |key: &str| explained.iter().any(|one| one.setting.key == key && one.origin == Origin::Default);
    if unsaid("log.level") {
        "error".clone_into(&mut config.log_level);
    }
    Ok(config)
}

/// Pods are ready as soon as they have a node, and those that would run to an end stay: what has to fit is what runs at a time.
fn at_once(behaviour: Behaviour) -> Behaviour {
    let now = Span::exactly(jiff::SignedDuration::ZERO);
    Behaviour { start_after: now, ready_after: now, init_for: now, run_for: RunFor::Ever, ..behaviour }
}

async fn plan(config: &Config, options: Options) -> Result<Summary, Failure> {
    let data = DataDir::open(&config.data_dir)?;
    let mut supervisor = Supervisor::new(CancellationToken::new());
    let planned = async {
        let client = up::aside(config, &data, &mut supervisor).await?;
        tokio::select! {
            summary = run(client, options) => summary,
            ended = supervisor.watch() => {
                Err(ended.err().unwrap_or_else(|| anyhow!("the control plane ended")).into())
            }
        }
    };
    let planned = planned.await;
    supervisor.drain(config.shutdown_budget).await;
    planned
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn make() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("keelson-plan-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "cannot remove");
        }
    }
}

fn manifests(paths: &[PathBuf]) -> anyhow::Result<Manifests> {
    let mut manifests = Manifests::default();
    for path in paths {
        for file in files(path)? {
            let shown = file.display().to_string();
            let text = fs::read_to_string(&file).with_context(|| format!("read {shown}"))?;
            let documents: Vec<Value> =
                serde_saphyr::from_multiple(&text).with_context(|| format!("read {shown} as YAML"))?;
            manifests.add(&shown, documents.into_iter().filter(|document| !document.is_null()).collect())?;
        }
    }
    if manifests.is_empty() {
        return Err(anyhow!("there is no manifest in {}", paths[0].display()));
    }
    Ok(manifests)
}

/// The file itself, or those of a folder in the order of their names.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries: Result<Vec<DirEntry>, _> = fs::read_dir(path).and_then(Iterator::collect);
    let entries = entries.with_context(|| format!("read the folder {}", path.display()))?;
    let is_manifest = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        path.is_file() && extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
    };
    let mut files: Vec<PathBuf> = entries.iter().map(DirEntry::path).filter(is_manifest).collect();
    files.sort();
    Ok(files)
}
