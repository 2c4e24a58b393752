//! The vocabulary: CRI's messages as plain Rust types (CRI API v1).

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Identifies a sandbox: 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxId(pub String);

/// Identifies a container: 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerId(pub String);

impl std::fmt::Display for SandboxId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything a pod sandbox needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod UID.
    pub uid: String,
    /// Counts sandboxes made for the same pod.
    pub attempt: u32,
    /// Host name inside the sandbox's UTS namespace.
    pub hostname: String,
    /// Lines of `/etc/resolv.conf` for the pod's containers.
    pub resolv_conf: String,
    /// Directory of the pod's container logs; made when missing.
    pub log_directory: PathBuf,
    /// Use the host's network namespace.
    pub host_network: bool,
    /// Use the host's PID namespace.
    pub host_pid: bool,
    /// Use the host's IPC namespace.
    pub host_ipc: bool,
    /// One PID namespace for all containers of the pod.
    pub share_process_namespace: bool,
    /// Kernel parameters set in the sandbox's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Path of the pod's cgroup below the runtime's root, for example `burstable/pod<uid>`.
    pub cgroup_parent: String,
    /// Labels, returned unchanged.
    pub labels: BTreeMap<String, String>,
    /// Annotations, returned unchanged.
    pub annotations: BTreeMap<String, String>,
}

/// Whether a sandbox can hold containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    /// The shim lives and the namespaces are there.
    Ready,
    /// The shim or its namespaces are gone.
    NotReady,
}

/// What is known of a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// Its id.
    pub id: SandboxId,
    /// What it was made from.
    pub config: SandboxConfig,
    /// Whether it is alive.
    pub state: SandboxState,
    /// Creation time, nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// Path of the network namespace (bind mount), `None` with host network.
    pub netns: Option<PathBuf>,
}

/// A bind mount into a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Source on the host.
    pub host_path: PathBuf,
    /// Target in the container.
    pub container_path: PathBuf,
    /// Mounted read-only.
    pub readonly: bool,
    /// Mount propagation.
    pub propagation: Propagation,
}

/// Mount propagation (CRI `MountPropagation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// `rprivate`.
    #[default]
    Private,
    /// `rslave`.
    HostToContainer,
    /// `rshared`.
    Bidirectional,
}

/// Resource limits as the kernel takes them.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Resources {
    /// CPU shares (cgroup v1 scale, 2 to 262144).
    pub cpu_shares: Option<u64>,
    /// CPU quota in microseconds per period.
    pub cpu_quota_us: Option<i64>,
    /// CPU period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Memory limit in bytes.
    pub memory_limit_bytes: Option<i64>,
    /// Process limit.
    pub pids_limit: Option<i64>,
    /// `oom_score_adj` of the container's processes.
    pub oom_score_adj: Option<i32>,
}

/// Which seccomp profile applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// The runtime's default profile.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A profile file on the node.
    Localhost(PathBuf),
}

/// Security settings of a container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Security {
    /// All devices, all capabilities, no masking.
    pub privileged: bool,
    /// Capabilities added to the default set, without `CAP_`; `ALL` is allowed.
    pub add_capabilities: Vec<String>,
    /// Capabilities removed from the default set; `ALL` is allowed.
    pub drop_capabilities: Vec<String>,
    /// Numeric user; `None` takes the image's.
    pub run_as_user: Option<i64>,
    /// Numeric group; `None` takes the image's.
    pub run_as_group: Option<i64>,
    /// Refuse to run as user 0.
    pub run_as_non_root: bool,
    /// Additional groups.
    pub supplemental_groups: Vec<i64>,
    /// Read-only root filesystem.
    pub readonly_rootfs: bool,
    /// Whether `no_new_privs` is set.
    pub no_new_privileges: bool,
    /// Seccomp profile.
    pub seccomp: Seccomp,
}

/// Everything a container needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Name, unique in its pod.
    pub name: String,
    /// Counts containers made under the same name (the restart count).
    pub attempt: u32,
    /// Image id as `image_status` returned it: `sha256:…` of the image config.
    pub image_id: String,
    /// The reference the user wrote.
    pub image_ref: String,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty.
    pub args: Vec<String>,
    /// Environment, in order, on top of the image's.
    pub env: Vec<(String, String)>,
    /// Replaces the image's working directory.
    pub working_dir: Option<String>,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// Devices of the host made visible.
    pub devices: Vec<PathBuf>,
    /// Limits.
    pub resources: Resources,
    /// Security settings.
    pub security: Security,
    /// Log file, relative to the sandbox's log directory.
    pub log_path: PathBuf,
    /// Keep standard input open for attach.
    pub stdin: bool,
    /// Close standard input after the first attach ends.
    pub stdin_once: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// A running container of the pod whose PID namespace it is in.
    #[serde(default)]
    pub shares_processes_with: Option<ContainerId>,
    /// Labels, returned unchanged.
    pub labels: BTreeMap<String, String>,
    /// Annotations, returned unchanged.
    pub annotations: BTreeMap<String, String>,
}

/// A container's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Running.
    Running {
        /// Host PID of its first process.
        pid: i32,
        /// Nanoseconds since the epoch.
        started_at_ns: i64,
    },
    /// Ended.
    Exited {
        /// Exit code, 128 + signal when killed by one.
        exit_code: i32,
        /// The signal, if one ended it.
        signal: Option<i32>,
        /// Whether the kernel's OOM killer ended it.
        oom_killed: bool,
        /// Nanoseconds since the epoch; 0 when it never started.
        started_at_ns: i64,
        /// Nanoseconds since the epoch.
        finished_at_ns: i64,
        /// Why it could not start, in one line; empty for an ordinary exit.
        message: String,
    },
    /// The shim that held it is gone and its fate is not known.
    Unknown,
}

/// What is known of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its id.
    pub id: ContainerId,
    /// The sandbox it lives in.
    pub sandbox: SandboxId,
    /// What it was made from.
    pub config: ContainerConfig,
    /// Its state.
    pub state: ContainerState,
    /// Creation time, nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// `repo@sha256:…` of the image, or its id when it came without one.
    pub image_digest_ref: String,
    /// Absolute path of the log file.
    pub log_path: PathBuf,
}

/// Something happened to a container or a sandbox; the receiver reads the new status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuntimeEvent {
    /// A container started or exited.
    Container {
        /// The sandbox.
        sandbox: SandboxId,
        /// The container.
        container: ContainerId,
    },
    /// A sandbox's shim died.
    Sandbox {
        /// The sandbox.
        sandbox: SandboxId,
    },
}

/// What is known of an image on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// `sha256:…` of the image config.
    pub id: String,
    /// Tags, fully qualified.
    pub repo_tags: Vec<String>,
    /// Digests, fully qualified.
    pub repo_digests: Vec<String>,
    /// Bytes of all layers, unpacked.
    pub size_bytes: u64,
    /// Numeric user of the image config, when it is numeric.
    pub uid: Option<i64>,
    /// User name of the image config, when it is a name.
    pub username: Option<String>,
}

/// Credentials for one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

/// What runs inside a container next to its first process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Allocate a terminal.
    pub tty: bool,
    /// Give the command a standard input; without, it reads `/dev/null`.
    pub stdin: bool,
    /// Environment on top of the container's.
    pub env: Vec<(String, String)>,
}

/// Which streams an attach wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// Write to the container's standard input; ignored when the container has none.
    pub stdin: bool,
    /// Receive standard output (with a terminal: everything).
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
}

/// The outcome of a command that was run to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code, 128 + signal when killed by one.
    pub exit_code: i32,
    /// The first [`EXEC_OUTPUT_BYTES_MAX`](crate::EXEC_OUTPUT_BYTES_MAX) bytes of standard output.
    pub stdout: Vec<u8>,
    /// The first [`EXEC_OUTPUT_BYTES_MAX`](crate::EXEC_OUTPUT_BYTES_MAX) bytes of standard error.
    pub stderr: Vec<u8>,
}

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// CPU time since the container started, nanoseconds.
    pub cpu_usage_ns: u64,
    /// Memory in use without reclaimable page cache, bytes.
    pub memory_working_set_bytes: u64,
    /// Processes.
    pub pids: u64,
}

/// Where a runtime keeps its things and how it starts shims.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Survives a reboot: images, container records, logs of exits.
    pub state_dir: PathBuf,
    /// Volatile: sockets and pinned namespaces, for example `/run/keelson/<instance>`.
    pub run_dir: PathBuf,
    /// Name of the instance's cgroup below each hierarchy's root; unique on the machine.
    pub cgroup_root: String,
    /// Name of the instance.
    pub instance: String,
    /// The program whose `shim` command is [`crate::shim::main`]; usually `/proc/self/exe`.
    pub shim_executable: PathBuf,
    /// The embedded registry, asked before any remote one.
    pub mirror: Option<std::net::SocketAddr>,
}
