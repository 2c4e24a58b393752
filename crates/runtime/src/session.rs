//! The streams of a command run in a container, or of an attach to one.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

use crate::{api::TerminalSize, error::RuntimeError};

/// What is written reaches the command's standard input; dropping it closes that input.
pub type SessionInput = Box<dyn AsyncWrite + Send + Unpin>;
/// What the command prints; ends when the command has closed it.
pub type SessionOutput = Box<dyn AsyncRead + Send + Unpin>;

/// A command running in a container, or an attach to a container's first process. Take the streams out and serve them
/// concurrently; [`Session::wait`] ends when the process has ended. Dropping all of it hangs up.
pub struct Session {
    /// Standard input, when it was asked for.
    pub stdin: Option<SessionInput>,
    /// Standard output; with a terminal, everything.
    pub stdout: Option<SessionOutput>,
    /// Standard error; none with a terminal.
    pub stderr: Option<SessionOutput>,
    resizer: Resizer,
    exit: watch::Receiver<Option<i32>>,
}

impl Session {
    pub(crate) fn new(terminal: Option<OwnedFd>, exit: watch::Receiver<Option<i32>>) -> Self {
        Self { stdin: None, stdout: None, stderr: None, resizer: Resizer { terminal: terminal.map(Arc::new) }, exit }
    }

    /// A handle that changes the terminal's size while the streams are in use.
    pub fn resizer(&self) -> Resizer {
        self.resizer.clone()
    }

    /// Waits for the process to end and returns its exit code (128 + signal when killed by one).
    pub async fn wait(&mut self) -> Result<i32, RuntimeError> {
        match self.exit.wait_for(Option::is_some).await {
            Ok(code) => Ok(code.unwrap_or_default()),
            Err(_) => Err(RuntimeError::Shim("the shim ended before the process did".to_owned())),
        }
    }
}

/// Changes the size of a session's terminal.
#[derive(Clone)]
pub struct Resizer {
    terminal: Option<Arc<OwnedFd>>,
}

impl Resizer {
    /// Sets the size; does nothing without a terminal.
    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        let window = libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is owned and open, and TIOCSWINSZ reads one winsize.
        let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const window) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
