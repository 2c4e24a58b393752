//! Images, snapshots, containers and the shim, in CRI's verbs.
//!
//! The embedded implementation pulls over the OCI distribution API, mounts overlayfs snapshots and runs containers with
//! libcontainer inside one shim process per pod, which holds their stdio and exit codes so that containers outlive
//! Keelson. It knows nothing of the Kubernetes API: [`api`] is its whole vocabulary. Networking of the sandbox's
//! namespace is the caller's.

pub mod api;
mod cgroup;
mod error;
mod image;
mod runtime;
mod session;
pub mod shim;
mod spec;
mod state;
mod wire;

pub use error::{PullError, PullErrorKind, RuntimeError};
pub use runtime::{Runtime, down};
pub use session::{Resizer, Session, SessionInput, SessionOutput};

/// How much of each stream [`Runtime::exec_sync`] keeps; more than a probe's message ever shows, as CRI keeps it.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 16 * 1024;
