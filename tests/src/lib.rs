//! What whole-system tests stand on: an [`Instance`] of the real binary, real kubectl, and HTTP.
//!
//! Every instance has its own data directory, free ports and a loopback address of its own for gateways, so tests run
//! side by side. Dropping an instance takes it down with `keelson down --purge`, also when the test failed; then the
//! end of its log is printed. Tests that need root begin with [`need_root`] and are skipped, with a printed reason,
//! where they do not have it.
//!
//! Environment: `KEELSON_BIN` (default: the binary beside the test), `KUBECTL` (default: the one on PATH), `EXAMPLE_BIN`
//! (folder of the example's static binaries).

pub mod busybox;
pub mod clients;
pub mod etcd;
pub mod example;
pub mod history;
pub mod http;
pub mod instance;
pub mod kubectl;
pub mod leftovers;
pub mod scenario;
pub mod simulation;
pub mod stage;

use std::time::{Duration, Instant};

pub use instance::{Instance, Options};

/// Longest wait for anything; far above what a loaded machine of two cores needs.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Pause between two looks at a condition that nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Whether the test may go on; prints why it is skipped where it may not.
pub fn need_root(test: &str) -> bool {
    // SAFETY: geteuid only reads the process's credentials.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("skipped: {test}: needs root for containers and network namespaces");
    }
    root
}

/// Looks until `condition` gives something, and fails with what was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}
