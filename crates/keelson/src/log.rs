//! Structured logs on standard output, or on standard error for a command whose output is its result.

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::Config;

/// The client logs every answer that is an error, and whoever asked says so too if it matters.
const QUIET: &str = "kube_client=off";

fn filter(config: &Config) -> EnvFilter {
    // The filter was checked when the configuration was resolved.
    EnvFilter::try_new(&config.log_level).unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Installs the process-wide subscriber; a second call changes nothing.
pub(crate) fn install(config: &Config) {
    let lines = fmt().with_env_filter(filter(config)).with_writer(std::io::stdout).with_ansi(false);
    let _ = if config.log_json { lines.json().try_init() } else { lines.try_init() };
}

/// As [`install`], on standard error: standard output is the command's result.
pub(crate) fn install_on_stderr(config: &Config) {
    let mut filter = filter(config);
    if let Ok(quiet) = QUIET.parse() {
        filter = filter.add_directive(quiet);
    }
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let _ = if config.log_json { lines.json().try_init() } else { lines.try_init() };
}
