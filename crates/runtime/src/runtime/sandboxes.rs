//! Sandboxes: starting and ending shims.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use super::{Runtime, SANDBOX_FILE, Sandbox, blocking, client::ShimClient, down::kill_and_wait, new_id};
use crate::{
    api::{ContainerId, ContainerState, SandboxConfig, SandboxId, SandboxState, SandboxStatus},
    cgroup,
    error::RuntimeError,
    shim::{ShimConfig, unpin},
    state::{Durability, STATE_FILE, now_ns, read_json, write_json},
    wire::{PROTOCOL_VERSION, RequestBody},
};

/// How long a shim may take to serve.
const SHIM_START_TIMEOUT: Duration = Duration::from_secs(30);
/// Name of a shim's configuration in the sandbox's directory.
pub(super) const SHIM_FILE: &str = "shim.json";
/// The names every pod knows; its own address is the node's to add.
const HOSTS: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

impl Runtime {
    /// Starts a sandbox: its shim and namespaces. A caller that gives up does not stop it: the sandbox is then among
    /// [`Runtime::sandboxes`] all the same, never a shim nobody knows of.
    pub async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus, RuntimeError> {
        let runtime =
            self.weak.upgrade().ok_or_else(|| RuntimeError::ShimStart("the runtime is closing".to_owned()))?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.own(async move {
            // The caller may have given up.
            let _ = sender.send(runtime.make_sandbox(config).await);
        });
        receiver.await.unwrap_or_else(|_| Err(RuntimeError::ShimStart("the runtime is closing".to_owned())))
    }

    async fn make_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus, RuntimeError> {
        let parent = Path::new(&config.cgroup_parent);
        if parent.is_absolute() || parent.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Err(RuntimeError::Invalid { what: "cgroup parent", value: config.cgroup_parent });
        }
        let id = SandboxId(new_id()?);
        let status = SandboxStatus {
            netns: (!config.host_network).then(|| self.config.run_dir.join("netns").join(&id.0)),
            id: id.clone(),
            config,
            state: SandboxState::Ready,
            created_at_ns: now_ns(),
        };
        let started = self.start_shim(&status).await;
        let client = match started {
            Ok(client) => Arc::new(client),
            Err(error) => {
                // The first failure is the one to tell.
                if let Err(cleanup) = self.discard_sandbox(&status).await {
                    tracing::warn!(sandbox = %id, error = %cleanup, "clean up after a failed sandbox");
                }
                return Err(error);
            }
        };
        let sandbox = Sandbox { status: status.clone(), client: Some(client.clone()) };
        self.inventory.lock().sandboxes.insert(id.clone(), sandbox);
        self.listen(id, client);
        Ok(status)
    }

    async fn start_shim(&self, status: &SandboxStatus) -> Result<ShimClient, RuntimeError> {
        let directory = self.sandbox_dir(&status.id);
        let config = &status.config;
        let shim = ShimConfig {
            protocol: PROTOCOL_VERSION,
            sandbox_id: status.id.0.clone(),
            sandbox: config.clone(),
            socket: self.socket_path(&status.id),
            pid_file: self.pid_path(&status.id),
            netns: status.netns.clone(),
            shm_mount: (!config.host_ipc).then(|| self.shm_path(&status.id)),
            shim_cgroup: format!("{}/shim", self.config.cgroup_root),
        };
        fs::create_dir_all(&config.log_directory)
            .map_err(RuntimeError::file("make log directory", &config.log_directory))?;
        fs::create_dir_all(&directory).map_err(RuntimeError::file("make directory", &directory))?;
        for (name, content) in [
            ("hosts", HOSTS.to_owned()),
            ("hostname", format!("{}\n", config.hostname)),
            ("resolv.conf", config.resolv_conf.clone()),
        ] {
            let path = directory.join(name);
            fs::write(&path, content).map_err(RuntimeError::file("write", &path))?;
        }
        let shim_file = directory.join(SHIM_FILE);
        write_json(&shim_file, &shim, Durability::Process).map_err(RuntimeError::file("write", &shim_file))?;
        let record = directory.join(SANDBOX_FILE);
        write_json(&record, status, Durability::Process).map_err(RuntimeError::file("write", &record))?;
        let output = tokio::process::Command::new(&self.config.shim_executable)
            .arg("shim")
            .arg("--config")
            .arg(&shim_file)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(SHIM_START_TIMEOUT, output)
            .await
            .map_err(|_| RuntimeError::ShimTimeout("its start"))?
            .map_err(RuntimeError::file("run", &self.config.shim_executable))?;
        if !output.status.success() {
            return Err(RuntimeError::ShimStart(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        ShimClient::connect(&status.id, &shim.socket).map_err(RuntimeError::file("connect to", &shim.socket))
    }

    /// Connects to the shim an earlier run has left, if it lives and speaks our language.
    pub(super) fn adopt_shim(&self, id: &SandboxId) -> Option<ShimClient> {
        let path = self.sandbox_dir(id).join(SHIM_FILE);
        match read_json::<ShimConfig>(&path) {
            Ok(Some(shim)) if shim.protocol == PROTOCOL_VERSION => ShimClient::connect(id, &shim.socket).ok(),
            Ok(Some(shim)) => {
                tracing::warn!(sandbox = %id, protocol = shim.protocol, expected = PROTOCOL_VERSION, "shim is of another version");
                None
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(sandbox = %id, path = %path.display(), %error, "shim's configuration is unreadable");
                None
            }
        }
    }

    fn pid_path(&self, id: &SandboxId) -> PathBuf {
        self.socket_path(id).with_extension("pid")
    }

    fn shm_path(&self, id: &SandboxId) -> PathBuf {
        self.config.run_dir.join("shm").join(&id.0)
    }

    /// What the containers of a sandbox have as `/dev/shm`.
    pub(super) fn shm_source(&self, status: &SandboxStatus) -> PathBuf {
        if status.config.host_ipc { PathBuf::from("/dev/shm") } else { self.shm_path(&status.id) }
    }

    /// Path of a pod's control group.
    pub(super) fn pod_cgroup(&self, config: &SandboxConfig) -> String {
        format!("/{}/{}", self.config.cgroup_root, config.cgroup_parent)
    }

    /// Kills what runs in a sandbox and ends its shim and namespaces; containers stay as exited. Idempotent.
    pub async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let (status, client) = {
            let inventory = self.inventory.lock();
            let Some(sandbox) = inventory.sandboxes.get(id) else { return Ok(()) };
            (sandbox.status.clone(), sandbox.client.clone())
        };
        if let Some(client) = client
            && let Err(error) = client.call(RequestBody::Shutdown, &[]).await
        {
            tracing::warn!(sandbox = %id, %error, "shut down the shim");
        }
        self.end_by_force(&status).await?;
        self.shim_gone(id);
        self.settle_unknown(id)
    }

    /// Makes sure that nothing of a sandbox runs, whether or not its shim has done so.
    async fn end_by_force(&self, status: &SandboxStatus) -> Result<(), RuntimeError> {
        let pid_file = self.pid_path(&status.id);
        let sandbox_dir = self.sandbox_dir(&status.id);
        let groups: Vec<String> = {
            let inventory = self.inventory.lock();
            let containers = inventory.containers.values();
            let own = containers.filter(|container| container.record.status.sandbox == status.id);
            own.map(|container| container.record.cgroup_path.clone()).collect()
        };
        let (netns, socket) = (status.netns.clone(), self.socket_path(&status.id));
        let shm = (!status.config.host_ipc).then(|| self.shm_path(&status.id));
        blocking("end sandbox", move || {
            end_shim(&pid_file, &sandbox_dir)?;
            for group in groups {
                if !cgroup::kill(&group) {
                    return Err(io::Error::other(format!("processes in {group} cannot be killed")));
                }
            }
            unpin(netns.as_deref(), shm.as_deref());
            for file in [socket, pid_file] {
                // The shim removes them itself when it ends in order.
                let _ = fs::remove_file(file);
            }
            Ok(())
        })
        .await
    }

    /// Containers whose end nobody saw are over now.
    pub(super) fn settle_unknown(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let unknown: Vec<(ContainerId, PathBuf)> = {
            let inventory = self.inventory.lock();
            inventory
                .containers
                .iter()
                .filter(|(_, container)| {
                    container.record.status.sandbox == *id && container.record.status.state == ContainerState::Unknown
                })
                .map(|(id, container)| (id.clone(), container.directory.clone()))
                .collect()
        };
        for (container, directory) in unknown {
            // The shim may have written the end and died before it could tell.
            let path = directory.join(STATE_FILE);
            let state = match read_json(&path).map_err(RuntimeError::file("read", &path))? {
                Some(state @ ContainerState::Exited { .. }) => state,
                _ => ContainerState::Exited {
                    exit_code: 255,
                    signal: None,
                    oom_killed: false,
                    started_at_ns: 0,
                    finished_at_ns: now_ns(),
                    message: "its shim ended before it, how the container ended is not known".to_owned(),
                },
            };
            write_json(&path, &state, Durability::Process).map_err(RuntimeError::file("write", &path))?;
            self.container_changed(&container, state);
        }
        Ok(())
    }

    /// Stops a sandbox and removes it with all its containers. Idempotent.
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.stop_sandbox(id).await?;
        let (status, containers): (_, Vec<ContainerId>) = {
            let inventory = self.inventory.lock();
            let Some(sandbox) = inventory.sandboxes.get(id) else { return Ok(()) };
            let containers = inventory.containers.iter();
            let own = containers.filter(|(_, container)| container.record.status.sandbox == *id);
            (sandbox.status.clone(), own.map(|(id, _)| id.clone()).collect())
        };
        for container in containers {
            self.remove_container(&container).await?;
        }
        self.discard_sandbox(&status).await?;
        self.inventory.lock().sandboxes.remove(id);
        Ok(())
    }

    /// Removes what is on disk and in the kernel of a sandbox without containers.
    async fn discard_sandbox(&self, status: &SandboxStatus) -> Result<(), RuntimeError> {
        self.end_by_force(status).await?;
        let directory = self.sandbox_dir(&status.id);
        let pod = self.pod_cgroup(&status.config);
        let root = format!("/{}", self.config.cgroup_root);
        blocking("remove sandbox", move || {
            cgroup::remove_empty_parents(&pod, &root);
            match fs::remove_dir_all(directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .await
    }

    /// All sandboxes, oldest first.
    pub fn sandboxes(&self) -> Vec<SandboxStatus> {
        let mut all: Vec<SandboxStatus> =
            self.inventory.lock().sandboxes.values().map(|sandbox| sandbox.status.clone()).collect();
        all.sort_by_key(|sandbox| sandbox.created_at_ns);
        all
    }

    /// One sandbox.
    pub fn sandbox(&self, id: &SandboxId) -> Option<SandboxStatus> {
        self.inventory.lock().sandboxes.get(id).map(|sandbox| sandbox.status.clone())
    }

    /// The sandbox's own directory: its files `hosts`, `hostname` and `resolv.conf` are what the containers see under
    /// `/etc`. Rewrite them in place (not by renaming) and running containers see the change.
    pub fn sandbox_dir(&self, id: &SandboxId) -> PathBuf {
        self.config.state_dir.join("sandboxes").join(&id.0)
    }

    /// The shim of a sandbox, if it lives.
    pub(super) fn shim(&self, id: &SandboxId) -> Result<Arc<ShimClient>, RuntimeError> {
        let inventory = self.inventory.lock();
        let sandbox = inventory.sandboxes.get(id).ok_or_else(|| RuntimeError::SandboxNotFound(id.clone()))?;
        sandbox.client.clone().ok_or_else(|| RuntimeError::ShimGone(id.clone()))
    }
}

/// Kills the shim a pid file names, if that process really is the shim of this sandbox.
fn end_shim(pid_file: &Path, sandbox_dir: &Path) -> io::Result<()> {
    let pid = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse::<i32>().ok());
    pid.filter(|pid| is_shim_of(*pid, sandbox_dir)).map_or(Ok(()), kill_and_wait)
}

/// Whether a process was started as the shim of the sandbox in this directory.
fn is_shim_of(pid: i32, sandbox_dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let shim_file = sandbox_dir.join(SHIM_FILE);
    fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|byte| *byte == 0).any(|argument| argument == shim_file.as_os_str().as_bytes()))
}
