//! One module per command other than `up`.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod down;
pub(crate) mod explain;
pub(crate) mod gateway;
pub(crate) mod image;
pub(crate) mod kubeconfig;
pub(crate) mod mesh;
pub(crate) mod simulate;
pub(crate) mod status;

use crate::{
    cli::{At, Up},
    config::{self, Config, Explained, Flag, Sources},
    exit::{Exit, Failure},
};

/// Resolves the settings for `up` and `config explain`.
pub(crate) fn settings(flags: &Up) -> Result<(Config, Vec<Explained>), Failure> {
    let mut set = Vec::new();
    let mut give = |key, name, value: Option<String>| set.extend(value.map(|value| Flag { key, name, value }));
    give("dataDir", "data-dir", flags.at.data_dir.as_ref().map(|directory| directory.display().to_string()));
    give("listen", "listen", flags.listen.map(|listen| listen.to_string()));
    give("store.url", "store", flags.store.clone());
    give("scheduler.config", "scheduler-config", flags.scheduler_config.clone());
    give("node.enabled", "no-node", flags.no_node.then(|| "false".to_owned()));
    set.extend(flags.upstream.given());
    let host_name = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .collect();
    let sources = Sources { flags: set, environment, file: flags.at.config.as_deref(), host_name };
    config::resolve(&sources).map_err(|e| Exit::Configuration.because(e))
}

/// Resolves the settings for a command that only needs the data directory.
pub(crate) fn settings_at(at: &At) -> Result<Config, Failure> {
    let at = At { data_dir: at.data_dir.clone(), config: at.config.clone() };
    settings(&Up { at, ..Up::default() }).map(|(config, _)| config)
}

/// A single-threaded runtime for a command that makes a few calls.
pub(crate) fn block_on<T>(task: impl Future<Output = T>) -> anyhow::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task))
}
