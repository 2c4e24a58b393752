//! What the node sees of a pod at one moment.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::backoff::Backoff;

/// The part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the main containers and ends after them.
    Sidecar,
    /// An ordinary container.
    Main,
}

/// All containers of a pod in starting order.
pub(crate) fn containers(spec: &PodSpec) -> impl DoubleEndedIterator<Item = (Role, &Container)> {
    let early = spec.init_containers.iter().flatten().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        (if sidecar { Role::Sidecar } else { Role::Init }, container)
    });
    early.chain(spec.containers.iter().map(|container| (Role::Main, container)))
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Timestamp,
}

/// The state of one run of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RunState {
    /// Made but not started.
    Created,
    Running {
        started_at: Timestamp,
    },
    Exited(Exit),
}

/// One container the runtime made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) image_ref: String,
    pub(crate) image_digest: String,
    /// Hash of the spec it was made from.
    pub(crate) spec_hash: String,
    /// Whether it lives in the pod's present sandbox.
    pub(crate) in_current_sandbox: bool,
    pub(crate) state: RunState,
}

impl Run {
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, RunState::Created | RunState::Running { .. })
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, RunState::Running { .. })
    }

    pub(crate) fn exit(&self) -> Option<&Exit> {
        match &self.state {
            RunState::Exited(exit) => Some(exit),
            RunState::Created | RunState::Running { .. } => None,
        }
    }
}

/// What the worker is doing with a container right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Activity {
    #[default]
    Idle,
    Starting,
    Stopping,
}

/// Why a container waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// One container as the node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerView {
    pub(crate) current: Option<Run>,
    pub(crate) previous: Option<Run>,
    pub(crate) activity: Activity,
    /// Set by the last attempt to start that failed.
    pub(crate) waiting: Option<Waiting>,
    /// Before this, no new attempt to start (image pulls, configuration errors).
    pub(crate) retry_at: Option<Timestamp>,
    pub(crate) crashes: Backoff,
    /// The startup probe passed, or there is none and postStart is done.
    pub(crate) started: bool,
    /// The readiness probe passes, or there is none.
    pub(crate) ready: bool,
    /// Why a probe wants it restarted.
    pub(crate) unhealthy: Option<String>,
}

/// The pod's sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// None yet, or its shim is gone.
    #[default]
    Absent,
    /// Being made, before this no new attempt.
    Pending { retry_at: Option<Timestamp>, making: bool },
    /// Ready, with the pod's addresses.
    Ready { ips: Vec<String> },
    /// Being stopped.
    Stopping,
    /// Stopped for good.
    Stopped,
}

/// Why a pod must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is being deleted.
    Deleted,
    /// It ran longer than `activeDeadlineSeconds`.
    DeadlineExceeded,
    /// Its phase in the API is already final.
    AlreadyFinal,
}

/// Everything the decision needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodView {
    pub(crate) sandbox: Sandbox,
    pub(crate) containers: BTreeMap<String, ContainerView>,
    pub(crate) ending: Option<Ending>,
}

/// Identifies the fields of a container whose change means a restart: its name and image, as upstream.
pub(crate) fn spec_hash(container: &Container) -> String {
    // FNV-1a, because the value is kept on disk across versions of the standard library's hasher.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in container.name.bytes().chain([0]).chain(container.image.iter().flat_map(|image| image.bytes())) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{hash:016x}")
}
