//! From a container's configuration to the OCI runtime specification, as pure functions.
//!
//! The specification is written as JSON: its types are libcontainer's business, its defaults (capabilities, masked paths,
//! mounts, seccomp) are those every Kubernetes node has, kept as data in the modules below.

mod capabilities;
mod mounts;
mod seccomp;
mod user;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) use mounts::resolves_in_root;
pub(crate) use seccomp::adapt_profile;
pub(crate) use user::{Identity, UserRequest, resolve_user};

use crate::api::{ContainerConfig, Propagation, SandboxConfig, Seccomp};

/// The `PATH` of an image that sets none.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Open files a container may raise its limit to; what systemd gives services.
const OPEN_FILES_HARD: u64 = 524_288;
/// Open files until a process raises its limit; more breaks programs that use `select` or close every possible file.
const OPEN_FILES_SOFT: u64 = 1_024;

/// What an image says about the process it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageProcess {
    pub(crate) env: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) user: String,
    pub(crate) stop_signal: String,
}

/// Everything needed to launch a container, written beside it so that the shim can read it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) id: String,
    pub(crate) container: ContainerConfig,
    pub(crate) sandbox: SandboxConfig,
    /// Unpacked layers, topmost first.
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) image: ImageProcess,
    pub(crate) cgroup_path: String,
    /// Has `hosts`, `hostname` and `resolv.conf`.
    pub(crate) sandbox_dir: PathBuf,
    /// The `/dev/shm` the pod's containers share.
    pub(crate) shm_dir: PathBuf,
    /// Has `upper`, `work` and `rootfs`.
    pub(crate) container_dir: PathBuf,
    /// Where libcontainer keeps its own state while it creates the container.
    pub(crate) libcontainer_root: PathBuf,
}

/// Paths of the namespaces a container joins; a missing one means the host's.
#[derive(Clone, Debug, Default)]
pub(crate) struct NamespacePaths {
    pub(crate) network: Option<String>,
    pub(crate) ipc: Option<String>,
    pub(crate) uts: Option<String>,
    /// The pod's, when its containers share one.
    pub(crate) pid: Option<String>,
}

/// What only the machine at hand knows.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Capabilities this process could give away, as the kernel's bit mask.
    pub(crate) capabilities: u64,
    /// Whether control groups are the unified kind.
    pub(crate) cgroup_v2: bool,
    /// Whether memory and swap can be limited together (cgroup v1 with swap accounting).
    pub(crate) swap_accounting: bool,
    /// This process's own limit of open files.
    pub(crate) open_files_hard: u64,
    /// Device nodes to show: path, `c` or `b`, major, minor.
    pub(crate) devices: Vec<(PathBuf, char, u64, u64)>,
    /// The profile of [`Seccomp::Localhost`].
    pub(crate) seccomp_profile: Option<Value>,
}

impl ContainerConfig {
    /// The command line: what the pod says, completed by the image as Docker defines it.
    pub(crate) fn command_line(&self, image: &ImageProcess) -> Vec<String> {
        let (first, rest) = match (self.command.is_empty(), self.args.is_empty()) {
            (true, true) => (&image.entrypoint, &image.cmd),
            (true, false) => (&image.entrypoint, &self.args),
            (false, _) => (&self.command, &self.args),
        };
        first.iter().chain(rest).cloned().collect()
    }

    /// The most open propagation among the mounts.
    pub(crate) fn widest_propagation(&self) -> Propagation {
        let has = |wanted| self.mounts.iter().any(|mount| mount.propagation == wanted);
        [Propagation::Bidirectional, Propagation::HostToContainer]
            .into_iter()
            .find(|kind| has(*kind))
            .unwrap_or_default()
    }
}

/// The environment: defaults, the image's, then the pod's; a later value of a name replaces the earlier one in place.
pub(crate) fn environment(launch: &Launch, home: &str) -> Vec<String> {
    let mut env: Vec<String> = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={}", launch.sandbox.hostname)];
    if launch.container.tty {
        env.push("TERM=xterm".to_owned());
    }
    env.push(format!("HOME={home}"));
    let pod = launch.container.env.iter().map(|(name, value)| format!("{name}={value}"));
    for entry in launch.image.env.iter().cloned().chain(pod) {
        set_variable(&mut env, entry);
    }
    env
}

/// Sets `NAME=value` in a list of such entries.
pub(crate) fn set_variable(env: &mut Vec<String>, entry: String) {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    match env.iter_mut().find(|old| name(old) == name(&entry)) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

/// The working directory.
pub(crate) fn working_dir(launch: &Launch) -> &str {
    match &launch.container.working_dir {
        Some(directory) if !directory.is_empty() => directory,
        _ if launch.image.working_dir.is_empty() => "/",
        _ => &launch.image.working_dir,
    }
}

/// The whole specification.
pub(crate) fn build(launch: &Launch, identity: &Identity, namespaces: &NamespacePaths, machine: &Machine) -> Value {
    let security = &launch.container.security;
    let capabilities = capabilities::effective(security, machine.capabilities);
    let open_files = machine.open_files_hard.min(OPEN_FILES_HARD);
    let mut process = json!({
        "terminal": launch.container.tty,
        "user": { "uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups, "umask": 0o022 },
        "args": launch.container.command_line(&launch.image),
        "env": environment(launch, &identity.home),
        "cwd": working_dir(launch),
        "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": open_files, "soft": open_files.min(OPEN_FILES_SOFT) }],
    });
    // libcontainer installs the seccomp filter before it drops privileges only if this is absent, not if it is false.
    if security.no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(adjustment) = launch.container.resources.oom_score_adj {
        process["oomScoreAdj"] = json!(adjustment);
    }
    let mut linux = json!({
        "namespaces": namespace_list(launch, namespaces, machine),
        "cgroupsPath": launch.cgroup_path,
        "resources": resources(launch, machine),
        "devices": machine.devices.iter().map(|(path, kind, major, minor)| json!({
            "path": path, "type": kind.to_string(), "major": major, "minor": minor, "fileMode": 0o660, "uid": 0, "gid": 0,
        })).collect::<Vec<_>>(),
    });
    if !security.privileged {
        linux["maskedPaths"] = json!(mounts::MASKED_PATHS);
        linux["readonlyPaths"] = json!(mounts::READONLY_PATHS);
        let profile = match security.seccomp {
            Seccomp::Unconfined => None,
            Seccomp::RuntimeDefault => Some(seccomp::default_profile(&capabilities)),
            Seccomp::Localhost(_) => machine.seccomp_profile.clone(),
        };
        if let Some(profile) = profile {
            linux["seccomp"] = profile;
        }
    }
    if launch.container.widest_propagation() == Propagation::Bidirectional {
        linux["rootfsPropagation"] = json!("shared");
    }
    json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": { "path": launch.container_dir.join("rootfs"), "readonly": security.readonly_rootfs },
        "mounts": mounts::list(launch),
        "linux": linux,
    })
}

fn namespace_list(launch: &Launch, paths: &NamespacePaths, machine: &Machine) -> Value {
    let mut list = vec![json!({ "type": "mount" })];
    for (kind, path) in [("network", &paths.network), ("ipc", &paths.ipc), ("uts", &paths.uts)] {
        if let Some(path) = path {
            list.push(json!({ "type": kind, "path": path }));
        }
    }
    match (&paths.pid, launch.sandbox.host_pid) {
        (_, true) => {}
        (Some(path), false) => list.push(json!({ "type": "pid", "path": path })),
        (None, false) => list.push(json!({ "type": "pid" })),
    }
    if machine.cgroup_v2 && !launch.container.security.privileged {
        list.push(json!({ "type": "cgroup" }));
    }
    Value::Array(list)
}

fn resources(launch: &Launch, machine: &Machine) -> Value {
    let limits = &launch.container.resources;
    let mut resources = json!({});
    let mut cpu = serde_json::Map::new();
    for (name, value) in [
        ("shares", limits.cpu_shares.map(Value::from)),
        ("quota", limits.cpu_quota_us.map(Value::from)),
        ("period", limits.cpu_period_us.map(Value::from)),
    ] {
        if let Some(value) = value {
            cpu.insert(name.to_owned(), value);
        }
    }
    if !cpu.is_empty() {
        resources["cpu"] = Value::Object(cpu);
    }
    if let Some(limit) = limits.memory_limit_bytes {
        resources["memory"] = json!({ "limit": limit });
        if machine.swap_accounting {
            // Memory and swap together: a container gets no swap beyond its limit, as on every Kubernetes node.
            resources["memory"]["swap"] = json!(limit);
        }
    }
    if let Some(limit) = limits.pids_limit {
        resources["pids"] = json!({ "limit": limit });
    }
    let mut devices = vec![json!({ "allow": launch.container.security.privileged, "access": "rwm" })];
    for (_, kind, major, minor) in &machine.devices {
        devices.push(json!({
            "allow": true, "type": kind.to_string(), "major": major, "minor": minor, "access": "rwm",
        }));
    }
    resources["devices"] = Value::Array(devices);
    resources
}

/// Signal number of an image's stop signal: `SIGTERM`, `TERM` or `15`; TERM when it is none of these.
pub(crate) fn stop_signal(name: &str) -> i32 {
    let upper = name.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>()
        && (1..=64).contains(&number)
    {
        return number;
    }
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    if let Some(offset) = full.strip_prefix("SIGRTMIN+").and_then(|offset| offset.parse::<i32>().ok()) {
        return (34 + offset).min(64);
    }
    full.parse::<nix::sys::signal::Signal>().map_or(libc::SIGTERM, |signal| signal as i32)
}

#[cfg(test)]
mod tests;
