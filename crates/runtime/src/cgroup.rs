//! Control groups, v1, hybrid and v2: paths, killing, removal, usage.
//!
//! libcontainer makes a container's group and sets its limits; this is the rest.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::api::ContainerStats;

/// Where the hierarchies are mounted on every distribution.
const CGROUP_MOUNT: &str = "/sys/fs/cgroup";
/// How often a removal is tried, ten seconds in all: a killed process leaves its group a moment after its exit was seen,
/// on a busy machine a long moment.
const REMOVE_ATTEMPTS_MAX: u32 = 1_000;
/// Between two attempts to kill or to remove.
const PAUSE: Duration = Duration::from_millis(10);
/// How often killing is repeated, ten seconds in all: a forking process can be faster than one round, and one that waits
/// for the disk ends when it has it.
const KILL_ROUNDS_MAX: u32 = 1_000;

/// Roots of all mounted hierarchies; the first is the one whose process lists are complete for our groups.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(CGROUP_MOUNT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let mut found: Vec<PathBuf> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    // The memory hierarchy first: libcontainer always makes the group there.
    found.sort_by_key(|path| (!path.ends_with("memory"), path.clone()));
    found
}

/// Directories of the group `path` (absolute, from the hierarchy's root) that exist.
fn directories(path: &str) -> Vec<PathBuf> {
    hierarchies().into_iter().map(|root| root.join(path.trim_start_matches('/'))).filter(|dir| dir.is_dir()).collect()
}

/// Processes in a group and the groups below it.
pub(crate) fn processes(path: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    let mut pending = directories(path);
    while let Some(directory) = pending.pop() {
        let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        pids.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        pending.extend(subdirectories(&directory));
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Kills every process in a group and the groups below it; returns whether none is left.
pub(crate) fn kill(path: &str) -> bool {
    for _ in 0..KILL_ROUNDS_MAX {
        let pids = processes(path);
        if pids.is_empty() {
            return true;
        }
        for pid in pids {
            // The process may have ended since it was listed, which is what is wanted.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        std::thread::sleep(PAUSE);
    }
    processes(path).is_empty()
}

/// Removes a group and the groups below it from every hierarchy. A group that is not there is fine.
pub(crate) fn remove(path: &str) -> io::Result<()> {
    for directory in directories(path) {
        remove_tree(&directory)?;
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for below in subdirectories(directory) {
        remove_tree(&below)?;
    }
    let mut attempt = 0;
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                attempt += 1;
                if attempt == REMOVE_ATTEMPTS_MAX {
                    return Err(error);
                }
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Removes the empty groups from `path` up to, and with, `root`; stops at the first that is in use.
pub(crate) fn remove_empty_parents(path: &str, root: &str) {
    for hierarchy in hierarchies() {
        let top = hierarchy.join(root.trim_start_matches('/'));
        let mut directory = hierarchy.join(path.trim_start_matches('/'));
        while directory.starts_with(&top) && directory != hierarchy {
            // A group in use cannot be removed, and then its parents are in use too.
            if fs::remove_dir(&directory).is_err() && directory.exists() {
                break;
            }
            if !directory.pop() {
                break;
            }
        }
    }
}

/// Puts the calling process into a group of its own making, in every hierarchy that lets it.
pub(crate) fn enter(path: &str) {
    for hierarchy in hierarchies() {
        let directory = hierarchy.join(path.trim_start_matches('/'));
        // A cpuset group needs its CPUs set first, and a shim needs no cpuset of its own.
        if hierarchy.ends_with("cpuset") || fs::create_dir_all(&directory).is_err() {
            continue;
        }
        // A hierarchy that refuses keeps the process where it is, which only costs accounting.
        let _ = fs::write(directory.join("cgroup.procs"), "0");
    }
}

/// Puts the calling process into the same groups as the process `pid`.
pub(crate) fn join_groups_of(pid: i32) -> io::Result<()> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let unified_root = Path::new(CGROUP_MOUNT).join("cgroup.controllers").exists();
    for (controllers, path) in parse_groups(&text) {
        let root = match controllers {
            "" if unified_root => PathBuf::from(CGROUP_MOUNT),
            "" => Path::new(CGROUP_MOUNT).join("unified"),
            named => Path::new(CGROUP_MOUNT).join(named.trim_start_matches("name=")),
        };
        let procs = root.join(path.trim_start_matches('/')).join("cgroup.procs");
        match fs::write(&procs, "0") {
            Err(error) if controllers.is_empty() && !unified_root => {
                // The unified part of a hybrid set-up carries no limits.
                tracing::debug!(%error, "join unified group");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Splits the lines `id:controllers:path` of `/proc/PID/cgroup`.
fn parse_groups(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'))
}

/// How many processes of a group the kernel has killed for want of memory.
pub(crate) fn oom_kills(path: &str) -> u64 {
    directories(path)
        .iter()
        .flat_map(|dir| ["memory.events", "memory.oom_control"].map(|file| dir.join(file)))
        .filter_map(|file| fs::read_to_string(file).ok())
        .map(|text| field(&text, "oom_kill"))
        .max()
        .unwrap_or(0)
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// What the processes of a group use.
pub(crate) fn stats(path: &str) -> ContainerStats {
    let directories = directories(path);
    let read = |name: &str| directories.iter().find_map(|dir| fs::read_to_string(dir.join(name)).ok());
    let number = |name: &str| read(name).and_then(|text| text.trim().parse::<u64>().ok());
    let memory_stat = read("memory.stat").unwrap_or_default();
    let inactive_file = field(&memory_stat, "total_inactive_file").max(field(&memory_stat, "inactive_file"));
    let memory = number("memory.usage_in_bytes").or_else(|| number("memory.current")).unwrap_or(0);
    ContainerStats {
        cpu_usage_ns: number("cpuacct.usage")
            .or_else(|| read("cpu.stat").map(|text| field(&text, "usage_usec") * 1_000))
            .unwrap_or(0),
        memory_working_set_bytes: memory.saturating_sub(inactive_file),
        pids: number("pids.current").unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_lines_split_into_controllers_and_path() {
        let text = "4:cpu,cpuacct:/a\n1:name=systemd:/b:c\n0::/d\n";
        assert_eq!(
            parse_groups(text).collect::<Vec<_>>(),
            [("cpu,cpuacct", "/a"), ("name=systemd", "/b:c"), ("", "/d")]
        );
    }

    #[test]
    fn field_needs_the_whole_name() {
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), 3);
        assert_eq!(field("oom 1\n", "oom_kill"), 0);
    }
}
