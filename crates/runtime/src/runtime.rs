//! The service a node uses: sandboxes, containers, streams and images.

mod client;
mod containers;
mod down;
mod sandboxes;
mod streams;

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
};

use client::ShimClient;
pub use down::down;

use crate::{
    api::{
        ContainerId, ContainerState, ContainerStatus, ImageStatus, RegistryAuth, RuntimeConfig, RuntimeEvent,
        SandboxId, SandboxState, SandboxStatus,
    },
    error::{PullError, RuntimeError},
    image::{pull::Puller, store::ImageStore},
    state::{container_state, read_json},
};

/// Events a receiver may lag behind; more, and it reads all statuses again, which a burst of this size makes cheaper anyway.
const EVENTS_MAX: usize = 1024;
/// Name of a sandbox's record.
const SANDBOX_FILE: &str = "sandbox.json";
/// Name of a container's record.
const CONTAINER_FILE: &str = "container.json";

/// What a container is, apart from its state: written once.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ContainerRecord {
    status: ContainerStatus,
    stop_signal: i32,
    cgroup_path: String,
    layers: Vec<PathBuf>,
}

struct Container {
    record: ContainerRecord,
    directory: PathBuf,
    /// Exit code, once it has ended.
    exit: watch::Sender<Option<i32>>,
}

impl Container {
    fn new(record: ContainerRecord, directory: PathBuf) -> Self {
        let exit = watch::channel(exit_code(&record.status.state)).0;
        Self { record, directory, exit }
    }

    fn set_state(&mut self, state: ContainerState) {
        self.exit.send_replace(exit_code(&state));
        self.record.status.state = state;
    }
}

fn exit_code(state: &ContainerState) -> Option<i32> {
    match state {
        ContainerState::Exited { exit_code, .. } => Some(*exit_code),
        ContainerState::Created | ContainerState::Running { .. } | ContainerState::Unknown => None,
    }
}

struct Sandbox {
    status: SandboxStatus,
    client: Option<Arc<ShimClient>>,
}

#[derive(Default)]
struct Inventory {
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    containers: BTreeMap<ContainerId, Container>,
}

/// The embedded runtime of one node.
pub struct Runtime {
    config: RuntimeConfig,
    weak: Weak<Self>,
    events: broadcast::Sender<RuntimeEvent>,
    inventory: Mutex<Inventory>,
    /// One task per connected shim, and one per sandbox being made.
    tasks: Mutex<JoinSet<()>>,
    images: Arc<ImageStore>,
    puller: Arc<Puller>,
}

impl Runtime {
    /// Opens the state, adopts the shims that live and marks the sandboxes of the dead ones not ready. Must be called
    /// inside a tokio runtime.
    pub async fn open(config: RuntimeConfig) -> Result<Arc<Self>, RuntimeError> {
        // Records hold environments, and with them secrets; containers reach their files by mounts, not by these paths.
        let state = ["sandboxes", "containers", "images"].map(|name| config.state_dir.join(name));
        let run = ["netns", "shm", "shim", "c"].map(|name| config.run_dir.join(name));
        for directory in state.iter().chain(&run) {
            fs::create_dir_all(directory).map_err(RuntimeError::file("make directory", directory))?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
                .map_err(RuntimeError::file("set mode of", directory))?;
        }
        let images_dir = config.state_dir.join("images");
        let images =
            Arc::new(ImageStore::open(&images_dir).map_err(RuntimeError::file("open image store", images_dir))?);
        let puller = Arc::new(Puller::new(images.clone(), config.mirror));
        let runtime = Arc::new_cyclic(|weak| Self {
            config,
            weak: weak.clone(),
            events: broadcast::channel(EVENTS_MAX).0,
            inventory: Mutex::default(),
            tasks: Mutex::default(),
            images,
            puller,
        });
        runtime.adopt()?;
        Ok(runtime)
    }

    /// Reads the records, connects to the shims, then reads the states: what happens in between is heard.
    fn adopt(&self) -> Result<(), RuntimeError> {
        let mut inventory = Inventory::default();
        let mut clients = Vec::new();
        for directory in subdirectories(&self.config.state_dir.join("sandboxes"))? {
            let path = directory.join(SANDBOX_FILE);
            let Some(mut status) =
                read_json::<SandboxStatus>(&path).map_err(RuntimeError::file("read sandbox record", &path))?
            else {
                continue;
            };
            let client = self.adopt_shim(&status.id).map(Arc::new);
            status.state = if client.is_some() { SandboxState::Ready } else { SandboxState::NotReady };
            clients.extend(client.clone().map(|client| (status.id.clone(), client)));
            inventory.sandboxes.insert(status.id.clone(), Sandbox { status, client });
        }
        for directory in subdirectories(&self.config.state_dir.join("containers"))? {
            let path = directory.join(CONTAINER_FILE);
            let Some(mut record) =
                read_json::<ContainerRecord>(&path).map_err(RuntimeError::file("read container record", &path))?
            else {
                // Interrupted before it was made, or while it was removed.
                fs::remove_dir_all(&directory).map_err(RuntimeError::file("remove", &directory))?;
                continue;
            };
            let state = container_state(&directory).map_err(RuntimeError::file("read container state", &directory))?;
            let sandbox = inventory.sandboxes.get(&record.status.sandbox);
            let alive = sandbox.is_some_and(|sandbox| sandbox.client.is_some());
            record.status.state = match state {
                ContainerState::Running { .. } if !alive => ContainerState::Unknown,
                state => state,
            };
            inventory.containers.insert(record.status.id.clone(), Container::new(record, directory));
        }
        tracing::info!(
            instance = self.config.instance,
            sandboxes = inventory.sandboxes.len(),
            shims = clients.len(),
            containers = inventory.containers.len(),
            "opened the container runtime"
        );
        *self.inventory.lock() = inventory;
        for (sandbox, client) in clients {
            self.listen(sandbox, client);
        }
        Ok(())
    }

    /// Hears a shim in a task of its own.
    fn listen(&self, sandbox: SandboxId, client: Arc<ShimClient>) {
        let weak = self.weak.clone();
        self.own(async move {
            client
                .run(|container, state| {
                    if let Some(runtime) = weak.upgrade() {
                        runtime.container_changed(&ContainerId(container), state);
                    }
                })
                .await;
            if let Some(runtime) = weak.upgrade() {
                runtime.shim_gone(&sandbox);
            }
        });
    }

    /// Runs a task that ends with the runtime.
    fn own(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn container_changed(&self, id: &ContainerId, state: ContainerState) {
        let mut inventory = self.inventory.lock();
        let Some(container) = inventory.containers.get_mut(id) else { return };
        container.set_state(state);
        let sandbox = container.record.status.sandbox.clone();
        drop(inventory);
        // Nobody listening is fine.
        let _ = self.events.send(RuntimeEvent::Container { sandbox, container: id.clone() });
    }

    fn shim_gone(&self, id: &SandboxId) {
        let mut inventory = self.inventory.lock();
        let Some(sandbox) = inventory.sandboxes.get_mut(id) else { return };
        sandbox.client = None;
        sandbox.status.state = SandboxState::NotReady;
        for container in inventory.containers.values_mut() {
            if container.record.status.sandbox == *id
                && matches!(container.record.status.state, ContainerState::Running { .. })
            {
                container.set_state(ContainerState::Unknown);
            }
        }
        drop(inventory);
        let _ = self.events.send(RuntimeEvent::Sandbox { sandbox: id.clone() });
    }

    /// What happens to containers and sandboxes from now on. A receiver that lags reads all statuses again.
    pub fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    /// Pulls an image, from the mirror if it has it. Concurrent pulls of one reference share one download.
    pub async fn pull(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<ImageStatus, PullError> {
        self.puller.pull(reference, auth).await
    }

    /// The image a reference (or image id) names, if it is on the node.
    pub fn image(&self, reference: &str) -> Option<ImageStatus> {
        self.images.find(reference).map(|image| image.status())
    }

    /// All images on the node.
    pub fn images(&self) -> Vec<ImageStatus> {
        self.images.list().iter().map(crate::image::store::ImageRecord::status).collect()
    }

    /// Removes an image by reference or id; its layers go when no other image and no container needs them. Idempotent.
    pub async fn remove_image(&self, reference: &str) -> Result<(), RuntimeError> {
        let Some(image) = self.images.find(reference) else { return Ok(()) };
        let _alone = self.puller.gate.write().await;
        let in_use = self.layers_in_use();
        let images = self.images.clone();
        blocking("remove image", move || images.remove(&image.id, &in_use)).await
    }

    /// Removes every image that no container uses; returns the ids removed.
    pub async fn remove_unused_images(&self) -> Result<Vec<String>, RuntimeError> {
        let used: HashSet<String> = {
            let inventory = self.inventory.lock();
            inventory.containers.values().map(|container| container.record.status.config.image_id.clone()).collect()
        };
        let unused: Vec<String> =
            self.images.list().into_iter().map(|image| image.id).filter(|id| !used.contains(id)).collect();
        for id in &unused {
            self.remove_image(id).await?;
        }
        Ok(unused)
    }

    fn layers_in_use(&self) -> HashSet<PathBuf> {
        let inventory = self.inventory.lock();
        inventory.containers.values().flat_map(|container| container.record.layers.iter().cloned()).collect()
    }

    fn socket_path(&self, id: &SandboxId) -> PathBuf {
        // Socket addresses are short; sixteen digits are still unique among the pods of a node.
        self.config.run_dir.join("shim").join(format!("{}.sock", id.0.get(..16).unwrap_or(&id.0)))
    }
}

/// Runs blocking file work off the async threads.
async fn blocking<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RuntimeError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(RuntimeError::system(action))
}

fn subdirectories(directory: &Path) -> Result<Vec<PathBuf>, RuntimeError> {
    let entries = fs::read_dir(directory).map_err(RuntimeError::file("read directory", directory))?;
    let entries: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    entries.map_err(RuntimeError::file("read directory", directory))
}

/// A new id: 64 hexadecimal digits.
fn new_id() -> Result<String, RuntimeError> {
    let mut bytes = [0; 32];
    let random = Path::new("/dev/urandom");
    fs::File::open(random)
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes))
        .map_err(RuntimeError::file("read", random))?;
    Ok(hex::encode(bytes))
}
