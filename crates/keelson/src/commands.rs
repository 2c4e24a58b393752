//! One module per command other than `up`.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod down;
pub(crate) mod explain;
pub(crate) mod image;
pub(crate) mod kubeconfig;
pub(crate) mod status;

use crate::{
    cli::{At, Up},
    config::{self, Config, Explained, Sources},
    exit::{Exit, Failure},
};

/// Resolves the settings for `up` and `config explain`.
pub(crate) fn settings(flags: &Up) -> Result<(Config, Vec<Explained>), Failure> {
    let mut set = Vec::new();
    if let Some(directory) = &flags.at.data_dir {
        set.push(("dataDir", directory.display().to_string()));
    }
    if let Some(listen) = flags.listen {
        set.push(("listen", listen.to_string()));
    }
    if let Some(store) = &flags.store {
        set.push(("store.url", store.clone()));
    }
    if flags.no_node {
        set.push(("node.enabled", "false".to_owned()));
    }
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
