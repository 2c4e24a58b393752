//! Exit codes, and the one line an error is reported with. The codes are documented in `docs/cli.md`.

use std::{fmt::Write, process::ExitCode};

/// Why the process ended, as scripts see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something failed that no other code names.
    Failed = 1,
    /// The command line is wrong (clap's own code).
    Usage = 2,
    /// A setting is unknown, malformed or out of range.
    Configuration = 3,
    /// The machine or the user lacks what the command needs.
    Unsupported = 4,
    /// A port or the data directory is taken by another process.
    InUse = 5,
    /// The data directory is damaged or of a newer version.
    Data = 6,
    /// No Keelson answers there.
    NotRunning = 7,
}

/// An error and the exit code it ends the process with.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The code.
    pub exit: Exit,
    /// What failed, with its causes.
    pub error: anyhow::Error,
}

impl Exit {
    /// Joins the code with its error.
    pub(crate) fn because(self, error: impl Into<anyhow::Error>) -> Failure {
        Failure { exit: self, error: error.into() }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Exit::Failed.because(error)
    }
}

impl Failure {
    /// Prints the error as one line on standard error and returns its code.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("keelson: {}", chain(&self.error));
        ExitCode::from(self.exit as u8)
    }
}

/// An error and all its causes on one line.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Some libraries print their source as part of themselves.
        if !line.contains(&cause) {
            let _ = write!(line, ": {cause}");
        }
    }
    line.replace('\n', " ")
}
