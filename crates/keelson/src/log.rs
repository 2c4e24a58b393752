//! Structured logs on standard output, or on standard error for a command whose output is its result.

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::Config;

/// Installs the process-wide subscriber; a second call changes nothing.
pub(crate) fn install(config: &Config) {
    // The filter was checked when the configuration was resolved.
    let filter = EnvFilter::try_new(&config.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stdout).with_ansi(false);
    let _ = if config.log_json { lines.json().try_init() } else { lines.try_init() };
}

/// As [`install`], on standard error: standard output is the command's result.
pub(crate) fn install_on_stderr(config: &Config) {
    let filter = EnvFilter::try_new(&config.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let _ = if config.log_json { lines.json().try_init() } else { lines.try_init() };
}
