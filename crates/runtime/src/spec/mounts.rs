//! The mounts of a container.

use std::path::Path;

use serde_json::{Value, json};

use super::Launch;
use crate::api::{Mount, Propagation};

/// Paths that show too much of the host and are hidden.
pub(super) const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that would change the host and are read-only.
pub(super) const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// All mounts in the order in which they are made: the kernel's, the pod's files, the user's. A user's mount replaces a
/// default one at the same place.
pub(super) fn list(launch: &Launch) -> Value {
    let user = &launch.container.mounts;
    let replaced = |target: &str| user.iter().any(|mount| same_place(&mount.container_path, target));
    let mut mounts: Vec<Value> = kernel_mounts(launch.container.security.privileged)
        .into_iter()
        .chain(pod_files(launch))
        .filter(|mount| !replaced(mount["destination"].as_str().unwrap_or_default()))
        .collect();
    mounts.extend(user.iter().map(user_mount));
    Value::Array(mounts)
}

fn same_place(path: &Path, target: &str) -> bool {
    path.components().eq(Path::new(target).components())
}

fn kernel_mounts(privileged: bool) -> Vec<Value> {
    let access = if privileged { "rw" } else { "ro" };
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": source, "options": options });
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ]
}

fn pod_files(launch: &Launch) -> Vec<Value> {
    let access = if launch.container.security.readonly_rootfs { "ro" } else { "rw" };
    let bind = |source: &Path, target: &str, options: &[&str]| json!({ "destination": target, "type": "bind", "source": source, "options": options });
    let mut mounts = vec![bind(&launch.shm_dir, "/dev/shm", &["rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"])];
    for file in ["hosts", "hostname", "resolv.conf"] {
        mounts.push(bind(&launch.sandbox_dir.join(file), &format!("/etc/{file}"), &["rbind", "rprivate", access]));
    }
    mounts
}

fn user_mount(mount: &Mount) -> Value {
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = if mount.readonly { "ro" } else { "rw" };
    json!({
        "destination": mount.container_path,
        "type": "bind",
        "source": mount.host_path,
        "options": ["rbind", propagation, access],
    })
}

/// Flags that make the kernel resolve a path as if `root` were `/`, so that no link in an image leads out of it.
pub(crate) fn resolves_in_root() -> nix::fcntl::ResolveFlag {
    nix::fcntl::ResolveFlag::RESOLVE_IN_ROOT | nix::fcntl::ResolveFlag::RESOLVE_NO_MAGICLINKS
}
