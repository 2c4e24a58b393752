//! `keelson check`: what this machine lacks, and the fix.

use std::{fs, path::Path, process::ExitCode};

use crate::exit::{Exit, Failure};

/// How much the lack of something matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Containers cannot run without it.
    Required,
    /// Something works less well.
    Advised,
}

struct Finding {
    what: &'static str,
    present: bool,
    detail: String,
    fix: &'static str,
    need: Need,
}

/// Kernel release below which nftables and overlayfs lack what we use.
const KERNEL_MIN: (u32, u32) = (5, 10);
/// Free space below which images soon stop fitting.
const FREE_BYTES_MIN: u64 = 2 << 30;

/// Prints one line per finding; the exit code says whether something required is missing.
pub(crate) fn main() -> Result<ExitCode, Failure> {
    let findings = findings();
    for finding in &findings {
        let mark = match (finding.present, finding.need) {
            (true, _) => "ok     ",
            (false, Need::Required) => "MISSING",
            (false, Need::Advised) => "advised",
        };
        println!("{mark}  {}  {}", finding.what, finding.detail);
        if !finding.present {
            println!("         fix: {}", finding.fix);
        }
    }
    let missing = findings.iter().filter(|f| !f.present && f.need == Need::Required).count();
    if missing == 0 {
        println!("this machine can run keelson up");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{missing} required thing(s) missing; `keelson up --no-node` still runs the control plane");
    Ok(ExitCode::from(Exit::Unsupported as u8))
}

fn findings() -> Vec<Finding> {
    let required = |what, present, detail: String, fix| Finding { what, present, detail, fix, need: Need::Required };
    let advised = |what, present, detail: String, fix| Finding { what, present, detail, fix, need: Need::Advised };
    let release = read("/proc/sys/kernel/osrelease");
    let root = nix::unistd::geteuid().is_root();
    let user = format!("uid {}", nix::unistd::geteuid());
    let (cgroups_there, cgroups) = cgroups();
    let free = free_bytes(Path::new("/var/lib"));
    vec![
        required("root", root, user, "run keelson with sudo"),
        required(
            "kernel",
            kernel_version(&release).is_some_and(|v| v >= KERNEL_MIN),
            release.clone(),
            "use a distribution with Linux 5.10 or newer",
        ),
        required("cgroups", cgroups_there, cgroups, "mount cgroup2 on /sys/fs/cgroup (systemd does)"),
        required(
            "overlayfs",
            filesystem_known("overlay", &release),
            String::new(),
            "modprobe overlay, and load it at boot from /etc/modules-load.d",
        ),
        required(
            "namespaces",
            namespaces_there(),
            String::new(),
            "use a kernel built with PID, NET, MNT, IPC and UTS namespaces",
        ),
        required(
            "seccomp",
            Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            String::new(),
            "use a kernel built with CONFIG_SECCOMP_FILTER",
        ),
        required("nftables", module_known("nf_tables", &release), String::new(), "modprobe nf_tables nft_nat nft_masq"),
        required("bridge", module_known("bridge", &release), String::new(), "modprobe bridge"),
        required("veth", module_known("veth", &release), String::new(), "modprobe veth"),
        advised(
            "disk",
            free.is_none_or(|free| free >= FREE_BYTES_MIN),
            free.map(|free| format!("{} MiB free in /var/lib", free >> 20)).unwrap_or_default(),
            "free at least 2 GiB, or choose another --data-dir",
        ),
    ]
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn cgroups() -> (bool, String) {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return (true, "v2".to_owned());
    }
    let wanted = ["cpu", "memory", "pids", "freezer", "devices"];
    let missing: Vec<&str> =
        wanted.into_iter().filter(|c| !Path::new("/sys/fs/cgroup").join(c).join("tasks").exists()).collect();
    if missing.is_empty() { (true, "v1".to_owned()) } else { (false, format!("v1 lacks {}", missing.join(", "))) }
}

fn filesystem_known(name: &str, release: &str) -> bool {
    read("/proc/filesystems").lines().any(|l| l.split_whitespace().last() == Some(name)) || module_known(name, release)
}

/// A module that is loaded, built in, or there to be loaded. A kernel without any module support that offers the
/// feature built in shows it in `modules.builtin` or under `/sys/module`.
fn module_known(name: &str, release: &str) -> bool {
    if Path::new("/sys/module").join(name).exists() {
        return true;
    }
    let directory = Path::new("/lib/modules").join(release);
    let listed = |file: &str| {
        let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
        text.lines().any(|l| l.split(':').next().unwrap_or(l).contains(&format!("/{name}.ko")))
    };
    // Without any module list the kernel was built with what it has; only trying tells, and `up` tries.
    !directory.exists() || listed("modules.dep") || listed("modules.builtin")
}

fn namespaces_there() -> bool {
    ["pid", "net", "mnt", "ipc", "uts"].iter().all(|ns| Path::new("/proc/self/ns").join(ns).exists())
}

fn free_bytes(path: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    Some(stat.blocks_available() * stat.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read() {
        assert_eq!(kernel_version("6.18.5-cloud-amd64"), Some((6, 18)));
        assert_eq!(kernel_version("5.4"), Some((5, 4)));
        assert_eq!(kernel_version("x"), None);
    }
}
