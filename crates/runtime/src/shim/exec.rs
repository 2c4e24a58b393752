//! Running a command in a running container, in a helper process forked off the shim.
//!
//! libcontainer's own way loses the seccomp filter, so the namespaces, groups, user and capabilities are taken on here,
//! in the order in which libcontainer does it for the first process.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd},
    path::Path,
};

use libcontainer::{capabilities, oci_spec::runtime::Spec, syscall::syscall::create_syscall};
use nix::{sched::CloneFlags, unistd::dup2};

use super::{
    filter::Filter,
    launch::{HelperMessage, Stdio},
    process,
};
use crate::{
    cgroup,
    spec::set_variable,
    state::read_json,
    wire::{self, Failure},
};

/// What to run, and where.
pub(super) struct Command {
    /// First process of the container.
    pub(super) container_pid: i32,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) tty: bool,
}

/// Body of the helper: starts the command and reports to `shim`.
pub(super) fn run(directory: &Path, command: &Command, stdio: Stdio, shim: RawFd) {
    process::unblock_signals();
    let message = match start(directory, command, stdio, shim) {
        Ok(()) => HelperMessage::Running,
        Err(failure) => HelperMessage::Failed(failure),
    };
    // If the shim is gone there is nobody to tell.
    let _ = wire::send(shim, &message, &[]);
}

fn step<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::other(format!("{what}: {}", error.into()))
}

fn start(directory: &Path, command: &Command, stdio: Stdio, shim: RawFd) -> Result<(), Failure> {
    let spec: Spec = read_json(&directory.join("config.json"))
        .map_err(step("read specification"))?
        .ok_or_else(|| Failure::other("specification is missing"))?;
    let identity = spec
        .process()
        .as_ref()
        .map(|process| (process.user().uid(), process.user().gid()))
        .ok_or_else(|| Failure::other("specification without a process"))?;
    // Before the namespaces are joined: from inside, the directory cannot be seen.
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = profile.map(|profile| Filter::of(directory, profile)).transpose()?;
    cgroup::join_groups_of(command.container_pid).map_err(step("join the control group"))?;
    join_namespaces(command.container_pid).map_err(step("join the namespaces"))?;
    let (master, stdio) = if command.tty {
        let (master, slave) = open_terminal().map_err(step("open a terminal"))?;
        let clone = |slave: &OwnedFd| slave.try_clone().map(Some);
        let stdin = clone(&slave).map_err(step("open a terminal"))?;
        let stdout = clone(&slave).map_err(step("open a terminal"))?;
        (Some(master), Stdio { stdin, stdout, stderr: Some(slave) })
    } else {
        (None, stdio)
    };
    for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten() {
        nix::unistd::fchown(fd.as_raw_fd(), Some(identity.0.into()), Some(identity.1.into()))
            .map_err(step("give the streams to the user"))?;
    }
    let (report_read, report_write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(step("make a pipe"))?;
    match process::fork_raw(libc::CLONE_PARENT).map_err(step("fork"))? {
        0 => {
            drop(report_read);
            let failure = become_command(&spec, command, &stdio, filter.as_ref());
            process::report(report_write.as_raw_fd(), &failure);
            std::process::exit(failure.exit_code())
        }
        pid => {
            drop(report_write);
            drop(stdio);
            let descriptors: Vec<RawFd> = master.iter().map(AsRawFd::as_raw_fd).collect();
            wire::send(shim, &HelperMessage::Process { pid }, &descriptors).map_err(step("tell the shim"))?;
            process::read_report(File::from(report_read))
        }
    }
}

/// Enters all namespaces of a process; those it shares with the host are entered too, which changes nothing.
fn join_namespaces(pid: i32) -> io::Result<()> {
    // SAFETY: a plain system call; the result is checked.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
    let process = unsafe { OwnedFd::from_raw_fd(fd) };
    let flags = CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWNS;
    Ok(nix::sched::setns(process, flags)?)
}

/// Opens a terminal in the container's own devpts.
fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let pty = nix::pty::openpty(None, None)?;
    Ok((pty.master, pty.slave))
}

/// The rest of the way; returns only on failure.
fn become_command(spec: &Spec, command: &Command, stdio: &Stdio, filter: Option<&Filter<'_>>) -> Failure {
    match prepare(spec, command, stdio, filter) {
        Ok((program, env)) => {
            process::reset_signals();
            process::execute(&program, &command.args, &env)
        }
        Err(failure) => failure,
    }
}

fn prepare(
    spec: &Spec,
    command: &Command,
    stdio: &Stdio,
    filter: Option<&Filter<'_>>,
) -> Result<(std::ffi::CString, Vec<String>), Failure> {
    let process = spec.process().as_ref().ok_or_else(|| Failure::other("specification without a process"))?;
    nix::unistd::setsid().map_err(step("start a session"))?;
    for (fd, target) in [(&stdio.stdin, 0), (&stdio.stdout, 1), (&stdio.stderr, 2)] {
        if let Some(fd) = fd {
            dup2(fd.as_raw_fd(), target).map_err(step("connect the streams"))?;
        }
    }
    if command.tty {
        // SAFETY: descriptor 0 is the terminal; the call takes a plain number.
        unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
    }
    let syscall = create_syscall();
    let library = |what: &'static str| {
        move |error: libcontainer::syscall::SyscallError| Failure::other(format!("{what}: {error}"))
    };
    for limit in process.rlimits().iter().flatten() {
        syscall.set_rlimit(limit).map_err(library("set a limit"))?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(process.user().umask().unwrap_or(0o022)));
    nix::unistd::chdir(process.cwd()).map_err(step("change to the working directory"))?;
    let groups: Vec<nix::unistd::Gid> =
        process.user().additional_gids().iter().flatten().map(|gid| (*gid).into()).collect();
    syscall.set_groups(&groups).map_err(library("set the groups"))?;
    syscall.set_id(process.user().uid().into(), process.user().gid().into()).map_err(library("set the user"))?;
    syscall.close_range(0).map_err(library("close descriptors"))?;
    let restrict = || filter.map_or(Ok(()), Filter::install);
    let no_new_privileges = process.no_new_privileges() == Some(true);
    if !no_new_privileges {
        restrict()?;
    }
    capabilities::reset_effective(syscall.as_ref()).map_err(library("set capabilities"))?;
    if let Some(set) = process.capabilities() {
        capabilities::drop_privileges(set, syscall.as_ref()).map_err(library("drop capabilities"))?;
    }
    let mut env = process.env().clone().unwrap_or_default();
    for (name, value) in &command.env {
        set_variable(&mut env, format!("{name}={value}"));
    }
    if command.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    let name = command.args.first().ok_or_else(|| Failure::other("no command specified"))?;
    let program = process::find_program(name, process::path_of(&env))?;
    if no_new_privileges {
        nix::sys::prctl::set_no_new_privs().map_err(step("set no_new_privs"))?;
        restrict()?;
    }
    Ok((program, env))
}
