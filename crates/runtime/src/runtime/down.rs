//! Ending everything of an instance, with or without its help.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{containers::remove_container_dir, sandboxes::SHIM_FILE};
use crate::{cgroup, error::RuntimeError};

/// How long a killed shim may take to end; it holds nothing that takes long to release.
const KILL_TIMEOUT_MS: i32 = 10_000;

/// Ends every shim and container of an instance and removes its mounts, pinned namespaces, cgroups and container
/// records; images stay. Works without a running Keelson and after a crash; idempotent. Blocking.
pub fn down(state_dir: &Path, run_dir: &Path, cgroup_root: &str) -> Result<(), RuntimeError> {
    // Shims first, so that none records or reports what follows.
    let sandboxes = state_dir.join("sandboxes");
    for pid in shims_below(&sandboxes).map_err(RuntimeError::system("list processes"))? {
        kill_and_wait(pid).map_err(RuntimeError::system("kill a shim"))?;
    }
    let group = format!("/{cgroup_root}");
    if !cgroup::kill(&group) {
        return Err(RuntimeError::Shim(format!("processes in control group {group} cannot be killed")));
    }
    for directory in [state_dir, run_dir] {
        unmount_below(directory).map_err(RuntimeError::file("unmount below", directory))?;
    }
    cgroup::remove(&group).map_err(RuntimeError::system("remove control groups"))?;
    let containers = state_dir.join("containers");
    for entry in list(&containers)? {
        remove_container_dir(&entry).map_err(RuntimeError::file("remove", &entry))?;
    }
    for directory in [sandboxes.as_path(), run_dir] {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(RuntimeError::file("remove", directory)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Kills a process and waits until it has ended; one that is gone already is what was wanted.
pub(super) fn kill_and_wait(pid: i32) -> io::Result<()> {
    // SAFETY: a plain system call; the result is checked.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Ok(());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
    let process = unsafe { OwnedFd::from_raw_fd(fd) };
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    let mut polled = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live structure, and its count.
    match unsafe { libc::poll(&raw mut polled, 1, KILL_TIMEOUT_MS) } {
        1 => Ok(()),
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, format!("process {pid} does not end"))),
        _ => Err(io::Error::last_os_error()),
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, RuntimeError> {
    if directory.exists() { super::subdirectories(directory) } else { Ok(Vec::new()) }
}

/// Processes that were started as the shim of a sandbox below this directory.
fn shims_below(sandboxes: &Path) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // A process that has ended meanwhile has no command line.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_shim = line.split(|byte| *byte == 0).any(|argument| {
            let path = Path::new(std::ffi::OsStr::from_bytes(argument));
            path.file_name().is_some_and(|name| name == SHIM_FILE) && path.starts_with(sandboxes)
        });
        if is_shim && pid != std::process::id().cast_signed() {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// Unmounts everything mounted at or below a directory, the innermost first.
fn unmount_below(directory: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for target in mount_points(&mounts).into_iter().rev().filter(|target| target.starts_with(directory)) {
        match umount2(&target, MntFlags::MNT_DETACH) {
            // Already gone with one that contained it.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The fifth field of every line, with its octal escapes undone.
fn mount_points(mountinfo: &str) -> Vec<PathBuf> {
    let unescape = |field: &str| {
        let mut bytes = Vec::with_capacity(field.len());
        let mut rest = field.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            let escaped = (*first == b'\\')
                .then(|| after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok()))
                .flatten()
                .and_then(|digits| u8::from_str_radix(digits, 8).ok());
            match escaped {
                Some(byte) => {
                    bytes.push(byte);
                    rest = &after[3..];
                }
                None => {
                    bytes.push(*first);
                    rest = after;
                }
            }
        }
        PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
    };
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let text = "22 1 0:20 / /sys rw - sysfs sysfs rw\n23 1 0:21 / /a\\040b\\134c rw - tmpfs t rw\n";
        assert_eq!(mount_points(text), [Path::new("/sys"), Path::new("/a b\\c")]);
    }

    #[test]
    fn down_of_nothing_is_fine_and_can_be_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let (state, run) = (directory.path().join("state"), directory.path().join("run"));
        for _ in 0..2 {
            down(&state, &run, "keelson-test-of-nothing").unwrap();
        }
    }
}
