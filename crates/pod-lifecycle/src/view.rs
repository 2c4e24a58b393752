//! What the node sees of a pod at one moment.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

use crate::backoff::Backoff;

/// The part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the main containers and ends after them.
    Sidecar,
    /// An ordinary container.
    Main,
    /// Added to a pod that runs, to look into it: starts whatever the others do, once, and counts for nothing.
    Ephemeral,
}

/// All containers of a pod in starting order, but for ephemeral ones, which wait for none.
pub fn containers(spec: &PodSpec) -> impl DoubleEndedIterator<Item = (Role, Cow<'_, Container>)> {
    let early = spec.init_containers.iter().flatten().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        (if sidecar { Role::Sidecar } else { Role::Init }, Cow::Borrowed(container))
    });
    let main = spec.containers.iter().map(|container| (Role::Main, Cow::Borrowed(container)));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    early.chain(main).chain(ephemeral.map(|container| (Role::Ephemeral, Cow::Owned(ordinary(container)))))
}

/// An ephemeral container as one of the others, which have the same fields and more.
fn ordinary(ephemeral: &EphemeralContainer) -> Container {
    let own = ephemeral.clone();
    Container {
        name: own.name,
        image: own.image,
        image_pull_policy: own.image_pull_policy,
        command: own.command,
        args: own.args,
        working_dir: own.working_dir,
        env: own.env,
        env_from: own.env_from,
        volume_mounts: own.volume_mounts,
        volume_devices: own.volume_devices,
        security_context: own.security_context,
        stdin: own.stdin,
        stdin_once: own.stdin_once,
        tty: own.tty,
        termination_message_path: own.termination_message_path,
        termination_message_policy: own.termination_message_policy,
        // the API takes none of the others for an ephemeral container
        ..Container::default()
    }
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// The exit code.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// One word for why.
    pub reason: String,
    /// What it said last.
    pub message: String,
    /// When it began, if it did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// The state of one run of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Made but not started.
    Created,
    /// It runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// It has ended.
    Exited(Exit),
}

/// One container the runtime made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The runtime's name for it.
    pub id: String,
    /// How many runs of the container came before.
    pub attempt: u32,
    /// The image as it was asked for.
    pub image_ref: String,
    /// The image that was found.
    pub image_digest: String,
    /// Hash of the spec it was made from.
    pub spec_hash: String,
    /// Whether it lives in the pod's present sandbox.
    pub in_current_sandbox: bool,
    /// What became of it.
    pub state: RunState,
}

impl Run {
    /// Whether it has not ended.
    pub fn is_live(&self) -> bool {
        matches!(self.state, RunState::Created | RunState::Running { .. })
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self.state, RunState::Running { .. })
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            RunState::Exited(exit) => Some(exit),
            RunState::Created | RunState::Running { .. } => None,
        }
    }
}

/// What the worker is doing with a container right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// Nothing.
    #[default]
    Idle,
    /// A run is being made.
    Starting,
    /// The run is being stopped.
    Stopping,
}

/// Why a container waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// One container as the node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerView {
    /// The newest run.
    pub current: Option<Run>,
    /// The one before.
    pub previous: Option<Run>,
    /// What is being done with it.
    pub activity: Activity,
    /// Set by the last attempt to start that failed.
    pub waiting: Option<Waiting>,
    /// Before this, no new attempt to start (image pulls, configuration errors).
    pub retry_at: Option<Timestamp>,
    /// Back-off of restarts.
    pub crashes: Backoff,
    /// The startup probe passed, or there is none and postStart is done.
    pub started: bool,
    /// The readiness probe passes, or there is none.
    pub ready: bool,
    /// Why a probe wants it restarted.
    pub unhealthy: Option<String>,
}

/// The pod's sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// None yet, or its shim is gone.
    #[default]
    Absent,
    /// Being made, before this no new attempt.
    Pending {
        /// When to try again.
        retry_at: Option<Timestamp>,
        /// Whether a try is under way.
        making: bool,
    },
    /// Ready, with the pod's addresses.
    Ready {
        /// The addresses.
        ips: Vec<String>,
    },
    /// Being stopped.
    Stopping,
    /// Stopped for good.
    Stopped,
}

/// Why a node does not take a pod, as `status.reason` and `status.message` tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For example `OutOfcpu`.
    pub reason: String,
    /// What the user reads.
    pub message: String,
}

/// Why a pod must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is being deleted.
    Deleted,
    /// It ran longer than `activeDeadlineSeconds`.
    DeadlineExceeded,
    /// Its phase in the API is already final.
    AlreadyFinal,
    /// The node did not take it: nothing of it has run.
    Rejected(Rejection),
}

/// Everything the decision needs.
#[derive(Clone, Debug, Default)]
pub struct PodView {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// The containers by name; one nobody has looked at yet may be missing.
    pub containers: BTreeMap<String, ContainerView>,
    /// Why the pod must end, if it must.
    pub ending: Option<Ending>,
}

/// Identifies the fields of a container whose change means a restart: its name and image, as upstream.
pub fn spec_hash(container: &Container) -> String {
    // FNV-1a, because the value is kept on disk across versions of the standard library's hasher.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in container.name.bytes().chain([0]).chain(container.image.iter().flat_map(|image| image.bytes())) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{hash:016x}")
}
