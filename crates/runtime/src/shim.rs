//! The shim: one small single-threaded process per sandbox that outlives Keelson.
//!
//! It holds the sandbox's namespaces, is the parent of its containers' first processes, writes their output to the log
//! files and their fate to state files, and answers Keelson over a socket. It never runs threads or an async runtime, so
//! that it may fork and call libcontainer in the fork.

mod container;
mod exec;
mod filter;
mod launch;
mod log;
mod pod;
mod process;
mod server;

use std::{
    ffi::OsString,
    fs, io,
    io::{Read as _, Write as _},
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    process::ExitCode,
};

use nix::{
    sys::signal::{SigHandler, Signal, signal},
    unistd::{ForkResult, fork, pipe2, setsid},
};
use serde::{Deserialize, Serialize};

pub(crate) use pod::unpin;

use crate::{api::SandboxConfig, cgroup, state::read_json, wire};

/// What a shim is started with, in a file of the sandbox's directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShimConfig {
    /// What the shim speaks: [`wire::PROTOCOL_VERSION`] of the program it was started from.
    pub(crate) protocol: u32,
    pub(crate) sandbox_id: String,
    pub(crate) sandbox: SandboxConfig,
    /// Where it listens.
    pub(crate) socket: PathBuf,
    /// Where it writes its process id.
    pub(crate) pid_file: PathBuf,
    /// Where the network namespace is pinned; none on the host's network.
    pub(crate) netns: Option<PathBuf>,
    /// Where the pod's `/dev/shm` is mounted; none when it is the host's.
    pub(crate) shm_mount: Option<PathBuf>,
    /// Control group of the shim itself.
    pub(crate) shim_cgroup: String,
}

/// What the started shim says when it serves; anything else is the reason why it does not.
const READY: &str = "ready";

/// Entry of `keelson shim --config FILE`: starts the shim in the background and returns when it serves. Must be called
/// before any thread is started. `args` are those after `shim`.
pub fn main(args: &[OsString]) -> ExitCode {
    let [flag, path] = args else {
        eprintln!("usage: shim --config FILE");
        return ExitCode::from(2);
    };
    if flag != "--config" {
        eprintln!("usage: shim --config FILE");
        return ExitCode::from(2);
    }
    match detach(PathBuf::from(path)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Forks twice, so that the shim has a session of its own and no living parent; reports what became of it.
fn detach(path: PathBuf) -> io::Result<ExitCode> {
    let (ready_read, ready_write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: the process has one thread.
    if let ForkResult::Parent { child } = unsafe { fork() }? {
        drop(ready_write);
        let mut said = String::new();
        fs::File::from(ready_read).read_to_string(&mut said)?;
        nix::sys::wait::waitpid(child, None)?;
        if said == READY {
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("{}", if said.is_empty() { "the shim ended without a word" } else { &said });
        return Ok(ExitCode::FAILURE);
    }
    drop(ready_read);
    setsid()?;
    // SAFETY: the process has one thread.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        return Ok(ExitCode::SUCCESS);
    }
    let mut ready = fs::File::from(ready_write);
    match start(&path, &ready) {
        Ok((config, pod, listener)) => {
            // The reader may be gone; the shim serves all the same.
            let _ = ready.write_all(READY.as_bytes());
            drop(ready);
            Ok(server::serve(config, pod, listener))
        }
        Err(error) => {
            let _ = ready.write_all(error.to_string().as_bytes());
            Ok(ExitCode::FAILURE)
        }
    }
}

fn start(path: &std::path::Path, ready: &fs::File) -> io::Result<(ShimConfig, pod::Pod, OwnedFd)> {
    let config: ShimConfig = read_json(path)?.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("shim configuration {} does not exist", path.display()))
    })?;
    become_daemon(ready)?;
    cgroup::enter(&config.shim_cgroup);
    let pod = match pod::Pod::create(&config) {
        Ok(pod) => pod,
        Err(error) => {
            unpin(config.netns.as_deref(), config.shm_mount.as_deref());
            return Err(error);
        }
    };
    fs::write(&config.pid_file, std::process::id().to_string())?;
    let listener = wire::listener(&config.socket)?;
    Ok((config, pod, listener))
}

/// Lets go of everything that was inherited.
fn become_daemon(ready: &fs::File) -> io::Result<()> {
    let keep = ready.as_raw_fd();
    // SAFETY: closes inherited descriptors only; of our own, `ready` lies between the ranges.
    unsafe {
        if keep > 3 {
            libc::close_range(3, keep as libc::c_uint - 1, 0);
        }
        libc::close_range(keep as libc::c_uint + 1, libc::c_uint::MAX, 0);
    }
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for target in 0..3 {
        nix::unistd::dup2(null.as_raw_fd(), target)?;
    }
    std::env::set_current_dir("/")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    for ignored in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    nix::sys::prctl::set_child_subreaper(true)?;
    nix::sys::prctl::set_name(c"keelson-shim")?;
    Ok(())
}
