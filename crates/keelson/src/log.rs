//! Structured logs on standard output.

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::Config;

/// Installs the process-wide subscriber; a second call changes nothing.
pub(crate) fn install(config: &Config) {
    // The filter was checked when the configuration was resolved.
    let filter = EnvFilter::try_new(&config.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stdout).with_ansi(false);
    let _ = if config.log_json { lines.json().try_init() } else { lines.try_init() };
}
