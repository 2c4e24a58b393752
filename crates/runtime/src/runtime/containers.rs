//! Containers: creating, starting, stopping, removing.

use std::{fs, io, path::Path, time::Duration};

use nix::mount::{MntFlags, umount2};

use super::{CONTAINER_FILE, Container, ContainerRecord, Runtime, blocking, new_id};
use crate::{
    api::{
        ContainerConfig, ContainerId, ContainerState, ContainerStats, ContainerStatus, RuntimeEvent, SandboxId,
        SandboxState,
    },
    cgroup,
    error::RuntimeError,
    spec::{Launch, stop_signal},
    state::{Durability, LAUNCH_FILE, now_ns, write_json},
    wire::RequestBody,
};

/// How long a killed container may take to be seen as ended; only a process stuck in the kernel takes longer.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

impl Runtime {
    /// Creates a container; its process waits for [`Runtime::start_container`].
    pub async fn create_container(
        &self,
        sandbox: &SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId, RuntimeError> {
        let pod = self.sandbox(sandbox).ok_or_else(|| RuntimeError::SandboxNotFound(sandbox.clone()))?;
        if pod.state != SandboxState::Ready {
            return Err(RuntimeError::ShimGone(sandbox.clone()));
        }
        let image =
            self.images.find(&config.image_id).ok_or_else(|| RuntimeError::ImageNotPresent(config.image_id.clone()))?;
        check_user(&config, &image.process.user)?;
        if config.command_line(&image.process).is_empty() {
            return Err(RuntimeError::Start { message: "no command specified".to_owned(), exit_code: 128 });
        }
        if config.log_path.is_absolute() || config.log_path.components().any(|part| part.as_os_str() == "..") {
            return Err(RuntimeError::Invalid { what: "log path", value: config.log_path.display().to_string() });
        }
        let id = ContainerId(new_id()?);
        let directory = self.config.state_dir.join("containers").join(&id.0);
        let layers: Vec<_> = image.layers.iter().rev().map(|layer| self.images.layer(layer)).collect();
        let cgroup_path = format!("{}/{}", self.pod_cgroup(&pod.config), id.0);
        let status = ContainerStatus {
            id: id.clone(),
            sandbox: sandbox.clone(),
            state: ContainerState::Created,
            created_at_ns: now_ns(),
            image_digest_ref: image.digests.first().cloned().unwrap_or_else(|| image.id.clone()),
            log_path: pod.config.log_directory.join(&config.log_path),
            config,
        };
        let launch = Launch {
            id: id.0.clone(),
            container: status.config.clone(),
            shm_dir: self.shm_source(&pod),
            sandbox: pod.config,
            layers: layers.clone(),
            image: image.process.clone(),
            cgroup_path: cgroup_path.clone(),
            sandbox_dir: self.sandbox_dir(sandbox),
            container_dir: directory.clone(),
            libcontainer_root: self.config.run_dir.join("c"),
        };
        let record =
            ContainerRecord { status, stop_signal: stop_signal(&image.process.stop_signal), cgroup_path, layers };
        // Known before it is on disk, so that its layers stay.
        let mut inventory = self.inventory.lock();
        inventory.containers.insert(id.clone(), Container::new(record.clone(), directory.clone()));
        drop(inventory);
        if let Err(error) = write_container(&directory, &launch, &record) {
            self.inventory.lock().containers.remove(&id);
            // The first failure is the one to tell; what is left is removed when the runtime is opened.
            let _ = fs::remove_dir_all(&directory);
            return Err(RuntimeError::File { action: "write container", path: directory, source: error });
        }
        Ok(id)
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let (record, directory) =
            self.with_container(id, |container| (container.record.clone(), container.directory.display().to_string()))?;
        let status = record.status;
        if status.state != ContainerState::Created {
            return Err(RuntimeError::State { id: id.clone(), state: word(&status.state), operation: "start it" });
        }
        if let Some(parent) = status.log_path.parent() {
            fs::create_dir_all(parent).map_err(RuntimeError::file("make log directory", parent))?;
        }
        let request = RequestBody::Start {
            container: id.0.clone(),
            directory,
            cgroup: record.cgroup_path,
            stdin: status.config.stdin,
            stdin_once: status.config.stdin_once,
            tty: status.config.tty,
            log_path: status.log_path.display().to_string(),
            shares_processes_with: status.config.shares_processes_with.map(|target| target.0),
        };
        match self.shim(&status.sandbox)?.call(request, &[]).await? {
            Ok(_) => Ok(()),
            Err(failure) => Err(RuntimeError::Start {
                message: format!("OCI runtime create failed: unable to start container process: {}", failure.message),
                exit_code: 128,
            }),
        }
    }

    /// Sends the image's stop signal (TERM), and KILL after `grace`; returns when the container has ended. Idempotent.
    pub async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        let Ok((record, exit)) =
            self.with_container(id, |container| (container.record.clone(), container.exit.subscribe()))
        else {
            return Ok(());
        };
        match record.status.state {
            ContainerState::Created | ContainerState::Exited { .. } => return Ok(()),
            ContainerState::Unknown => return self.kill_unknown(&record).await,
            ContainerState::Running { .. } => {}
        }
        let shim = self.shim(&record.status.sandbox)?;
        let signals = [(record.stop_signal, grace), (libc::SIGKILL, KILL_TIMEOUT)];
        for (signal, patience) in signals.into_iter().filter(|(_, patience)| !patience.is_zero()) {
            let request = RequestBody::Signal { container: id.0.clone(), signal };
            if let Err(failure) = shim.call(request, &[]).await? {
                return Err(RuntimeError::Shim(failure.message));
            }
            let mut exit = exit.clone();
            if tokio::time::timeout(patience, exit.wait_for(Option::is_some)).await.is_ok() {
                return Ok(());
            }
        }
        Err(RuntimeError::State { id: id.clone(), state: "still running after SIGKILL", operation: "stop it" })
    }

    /// Kills what is left of a container whose shim is gone.
    async fn kill_unknown(&self, record: &ContainerRecord) -> Result<(), RuntimeError> {
        let group = record.cgroup_path.clone();
        let dead = blocking("kill container", move || Ok(cgroup::kill(&group))).await?;
        if !dead {
            return Err(RuntimeError::Shim(format!("processes in {} cannot be killed", record.cgroup_path)));
        }
        self.settle_unknown(&record.status.sandbox)
    }

    /// Removes a container, killing it first when it runs. Idempotent. The log file stays.
    pub async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.stop_container(id, Duration::ZERO).await?;
        let Ok((record, directory)) =
            self.with_container(id, |container| (container.record.clone(), container.directory.clone()))
        else {
            return Ok(());
        };
        if let Ok(shim) = self.shim(&record.status.sandbox) {
            // A shim that is going away forgets it too.
            let _ = shim.call(RequestBody::Forget { container: id.0.clone() }, &[]).await;
        }
        let (group, libcontainer) = (record.cgroup_path.clone(), self.config.run_dir.join("c").join(&id.0));
        blocking("remove container", move || {
            // A created one may hold nothing of this; what is there is removed.
            cgroup::kill(&group);
            cgroup::remove(&group)?;
            remove_container_dir(&directory)?;
            remove_dir(&libcontainer)
        })
        .await?;
        self.inventory.lock().containers.remove(id);
        let _ = self.events.send(RuntimeEvent::Container { sandbox: record.status.sandbox, container: id.clone() });
        Ok(())
    }

    /// All containers, oldest first.
    pub fn containers(&self) -> Vec<ContainerStatus> {
        let mut all: Vec<ContainerStatus> =
            self.inventory.lock().containers.values().map(|container| container.record.status.clone()).collect();
        all.sort_by_key(|container| container.created_at_ns);
        all
    }

    /// One container.
    pub fn container(&self, id: &ContainerId) -> Option<ContainerStatus> {
        self.with_container(id, |container| container.record.status.clone()).ok()
    }

    /// Makes the shim write to a fresh log file after the current one was moved away.
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let sandbox = self.with_container(id, |container| container.record.status.sandbox.clone())?;
        match self.shim(&sandbox)?.call(RequestBody::ReopenLog { container: id.0.clone() }, &[]).await? {
            Ok(_) => Ok(()),
            Err(failure) => Err(RuntimeError::Shim(failure.message)),
        }
    }

    /// What a container uses now.
    pub fn container_stats(&self, id: &ContainerId) -> Result<ContainerStats, RuntimeError> {
        self.with_container(id, |container| container.record.cgroup_path.clone()).map(|group| cgroup::stats(&group))
    }

    pub(super) fn with_container<T>(
        &self,
        id: &ContainerId,
        read: impl FnOnce(&Container) -> T,
    ) -> Result<T, RuntimeError> {
        let inventory = self.inventory.lock();
        inventory.containers.get(id).map(read).ok_or_else(|| RuntimeError::ContainerNotFound(id.clone()))
    }
}

/// One word for a state.
pub(super) fn word(state: &ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running { .. } => "running",
        ContainerState::Exited { .. } => "exited",
        ContainerState::Unknown => "unknown",
    }
}

/// Refuses root where it must not run; in the kubelet's words.
fn check_user(config: &ContainerConfig, image_user: &str) -> Result<(), RuntimeError> {
    if !config.security.run_as_non_root {
        return Ok(());
    }
    let user = image_user.split(':').next().unwrap_or_default();
    let message = match (config.security.run_as_user, user.parse::<u32>()) {
        (Some(0), _) => "container's runAsUser breaks non-root policy".to_owned(),
        (Some(_), _) => return Ok(()),
        (None, Ok(0)) => "container has runAsNonRoot and image will run as root".to_owned(),
        (None, Ok(_)) => return Ok(()),
        (None, Err(_)) if user.is_empty() => "container has runAsNonRoot and image will run as root".to_owned(),
        (None, Err(_)) => {
            format!(
                "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root"
            )
        }
    };
    Err(RuntimeError::RunAsNonRoot(message))
}

fn write_container(directory: &Path, launch: &Launch, record: &ContainerRecord) -> io::Result<()> {
    fs::create_dir(directory)?;
    for name in ["rootfs", "upper", "work"] {
        fs::create_dir(directory.join(name))?;
    }
    use std::os::unix::fs::PermissionsExt as _;
    // It becomes the container's root directory, whatever the umask is here.
    fs::set_permissions(directory.join("upper"), fs::Permissions::from_mode(0o755))?;
    write_json(&directory.join(LAUNCH_FILE), launch, Durability::Process)?;
    // Last: it makes the directory a container.
    write_json(&directory.join(CONTAINER_FILE), record, Durability::Process)
}

/// Removes a container's directory; its record goes first, so that an interrupted removal is finished later.
pub(super) fn remove_container_dir(directory: &Path) -> io::Result<()> {
    match fs::remove_file(directory.join(CONTAINER_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Only a container with bidirectional mounts has its root mounted where this sees it.
    let _ = umount2(&directory.join("rootfs"), MntFlags::MNT_DETACH);
    remove_dir(directory)
}

fn remove_dir(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
