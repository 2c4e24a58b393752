//! `keelson down`: stops what runs from a data directory and removes what it made on the machine. Every step finds its
//! work in the kernel or on disk, so it also cleans up after a crash, and a second run finds nothing to do.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use network::Slot;
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cli::Down,
    data_dir::{DataDir, Layout},
    exit::{Exit, Failure},
    place::{Place, RUN_ROOT},
};

/// How much longer than its own shutdown budget a process may take before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Pause between two looks at a process that ends.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Runs the command.
pub(crate) fn main(flags: &Down) -> Result<(), Failure> {
    let config = super::settings_at(&flags.at)?;
    let root = &config.data_dir;
    let layout = Layout::new(root);
    if !root.exists() {
        release_slots()?;
        println!("nothing is there: {}", root.display());
        return Ok(());
    }
    stop_process(&layout, config.shutdown_budget + STOP_GRACE)?;
    let held = DataDir::open(root)?;
    if let Some(slot) = Slot::recorded(&layout.network())? {
        if !nix::unistd::geteuid().is_root() {
            return Err(Exit::Unsupported.because(anyhow!(
                "{} holds containers and a network, which only root can remove: run with sudo",
                root.display()
            )));
        }
        remove_node(&layout, slot)?;
    }
    layout.remove_run_file()?;
    if flags.purge {
        fs::remove_dir_all(root).with_context(|| format!("remove {}", root.display()))?;
    }
    release_slots()?;
    drop(held);
    println!("{} {}", if flags.purge { "removed" } else { "stopped what ran from" }, root.display());
    Ok(())
}

/// Ends the process that holds the directory: first asked, then killed.
fn stop_process(layout: &Layout, patience: Duration) -> Result<(), Failure> {
    let Some(pid) = layout.holder()? else { return Ok(()) };
    let process = Pid::from_raw(pid);
    if pid <= 1 {
        return Err(anyhow!("the lock of {} names no process", layout.root().display()).into());
    }
    for (signal, patience) in [(Signal::SIGTERM, patience), (Signal::SIGKILL, STOP_GRACE)] {
        match kill(process, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => {
                return Err(Exit::Unsupported.because(anyhow!(errno).context(format!("stop process {pid}"))));
            }
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if layout.holder()?.is_none() {
                return Ok(());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
    Err(anyhow!("process {pid} did not end although it was killed").into())
}

fn remove_node(layout: &Layout, slot: Slot) -> anyhow::Result<()> {
    let place = Place::of(slot);
    runtime::down(&layout.runtime(), &place.run_dir(), &place.cgroup_root()).context("remove the containers")?;
    network::down(&layout.network()).context("remove the network")?;
    for root in [layout.root(), &place.run_dir()] {
        unmount_below(root)?;
    }
    match fs::remove_dir_all(place.run_dir()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(anyhow!(e).context(format!("remove {}", place.run_dir().display())))
        }
        _ => Ok(()),
    }
}

/// Gives back the slots of directories that are gone: a stopped instance keeps the addresses its store speaks of for as
/// long as the store is there. Only root has slots to give back.
fn release_slots() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Slot::release_abandoned(Path::new(RUN_ROOT)).context("give back network slots")
}

/// Unmounts what is mounted below a folder, the innermost first.
fn unmount_below(root: &Path) -> anyhow::Result<()> {
    let Ok(root) = fs::canonicalize(root) else { return Ok(()) };
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let mut mounts: Vec<String> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|mount| Path::new(mount).starts_with(&root) && Path::new(mount) != root)
        .collect();
    mounts.sort_by_key(|mount| std::cmp::Reverse(mount.len()));
    for mount in mounts {
        match umount2(mount.as_str(), MntFlags::MNT_DETACH) {
            // gone with the mount that it was on
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => return Err(anyhow!(errno).context(format!("unmount {mount}"))),
        }
    }
    Ok(())
}

/// The kernel writes space, tab, newline and backslash of a path as octal (`proc(5)`).
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
