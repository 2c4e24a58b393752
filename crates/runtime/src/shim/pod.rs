//! What a shim holds for its pod: the namespaces, the shared `/dev/shm`, the first process of a shared PID namespace.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::signal::{SigHandler, Signal, signal},
};

use super::ShimConfig;
use crate::spec::NamespacePaths;

/// Size of the pod's `/dev/shm`, as containerd and Docker have it.
const SHM_BYTES: u64 = 64 * 1024 * 1024;

/// The namespaces of a pod; dropping it lets go of them, [`Pod::unpin`] removes what is visible of them.
pub(super) struct Pod {
    ipc: Option<OwnedFd>,
    uts: Option<OwnedFd>,
    /// First process of the shared PID namespace.
    pub(super) pause: Option<i32>,
}

impl Pod {
    /// Makes the namespaces. The calling process is in the host's before and after.
    pub(super) fn create(config: &ShimConfig) -> io::Result<Self> {
        let mut flags = CloneFlags::empty();
        if config.netns.is_some() {
            flags |= CloneFlags::CLONE_NEWNET;
        }
        if !config.sandbox.host_ipc {
            flags |= CloneFlags::CLONE_NEWIPC;
        }
        // A pod on the host's network keeps the host's name too.
        if config.netns.is_some() {
            flags |= CloneFlags::CLONE_NEWUTS;
        }
        let host = [CloneFlags::CLONE_NEWNET, CloneFlags::CLONE_NEWIPC, CloneFlags::CLONE_NEWUTS]
            .into_iter()
            .filter(|flag| flags.contains(*flag))
            .map(|flag| Ok((flag, File::open(own_namespace(flag))?)))
            .collect::<io::Result<Vec<_>>>()?;
        unshare(flags)?;
        let made = Self::fill(config, flags);
        for (flag, namespace) in &host {
            setns(namespace, *flag)?;
        }
        let mut pod = made?;
        if config.sandbox.share_process_namespace && !config.sandbox.host_pid {
            pod.pause = Some(start_pause()?);
        }
        Ok(pod)
    }

    /// Inside the new namespaces: sets them up and pins them.
    fn fill(config: &ShimConfig, flags: CloneFlags) -> io::Result<Self> {
        let open = |flag| flags.contains(flag).then(|| File::open(own_namespace(flag)).map(OwnedFd::from)).transpose();
        let pod = Self { ipc: open(CloneFlags::CLONE_NEWIPC)?, uts: open(CloneFlags::CLONE_NEWUTS)?, pause: None };
        if pod.uts.is_some() {
            nix::unistd::sethostname(&config.sandbox.hostname)?;
        }
        if let Some(path) = &config.netns {
            loopback_up()?;
            File::create(path)?;
            mount(
                Some(&own_namespace(CloneFlags::CLONE_NEWNET)[..]),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
            // As on every recent containerd: any user in the pod may bind low ports and ping.
            sysctl("net.ipv4.ip_unprivileged_port_start", "0")?;
            sysctl("net.ipv4.ping_group_range", "0 2147483647")?;
        }
        for (name, value) in &config.sandbox.sysctls {
            sysctl(name, value)
                .map_err(|error| io::Error::new(error.kind(), format!("set sysctl {name}={value}: {error}")))?;
        }
        if let Some(path) = &config.shm_mount {
            fs::create_dir_all(path)?;
            let options = format!("mode=1777,size={SHM_BYTES}");
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("shm"), path, Some("tmpfs"), flags, Some(&options[..]))?;
        }
        Ok(pod)
    }

    /// Paths by which a child of this process joins the namespaces.
    pub(super) fn paths(&self, config: &ShimConfig) -> NamespacePaths {
        let held = |fd: &Option<OwnedFd>| fd.as_ref().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()));
        NamespacePaths {
            network: config.netns.as_ref().map(|path| path.display().to_string()),
            ipc: held(&self.ipc),
            uts: held(&self.uts),
            pid: self.pause.map(|pid| format!("/proc/{pid}/ns/pid")),
        }
    }
}

/// Removes the mounts of a pod; those that are gone are fine.
pub(crate) fn unpin(netns: Option<&Path>, shm: Option<&Path>) {
    for path in [netns, shm].into_iter().flatten() {
        // Not mounted is what is wanted, and a busy one leaves with its last user.
        let _ = umount2(path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
    }
}

fn own_namespace(flag: CloneFlags) -> String {
    let name = match flag {
        CloneFlags::CLONE_NEWNET => "net",
        CloneFlags::CLONE_NEWIPC => "ipc",
        _ => "uts",
    };
    format!("/proc/self/ns/{name}")
}

fn sysctl(name: &str, value: &str) -> io::Result<()> {
    // Both spellings are in use: dots between, or slashes between with dots inside names.
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a kernel parameter"));
    }
    fs::write(Path::new("/proc/sys").join(path), value)
}

/// Brings up `lo` in the current network namespace.
fn loopback_up() -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the descriptor is open and SIOCSIFFLAGS reads one ifreq.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Starts the first process of a new PID namespace: it reaps what is orphaned there and does nothing else.
fn start_pause() -> io::Result<i32> {
    match super::process::fork_raw(libc::CLONE_NEWPID)? {
        0 => {
            // SAFETY: closing descriptors of this process, which holds none that anything depends on.
            unsafe { libc::close_range(0, libc::c_uint::MAX, 0) };
            // SAFETY: plain prctl and sigaction calls; ignoring SIGCHLD makes the kernel reap.
            unsafe {
                libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr());
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                let _ = signal(Signal::SIGCHLD, SigHandler::SigIgn);
            }
            loop {
                nix::unistd::pause();
            }
        }
        pid => Ok(pid),
    }
}
