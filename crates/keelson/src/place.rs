//! Where an instance lives on the machine besides its data directory. Everything follows from its network slot, so
//! that `down` finds it after a crash.

use std::path::{Path, PathBuf};

use network::Slot;

/// Root of everything volatile.
pub(crate) const RUN_ROOT: &str = "/run/keelson";

/// The places of one instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(Slot);

impl Place {
    /// The places of a slot.
    pub(crate) fn of(slot: Slot) -> Self {
        Self(slot)
    }

    /// Sockets, network namespaces, and what else must not survive a reboot.
    pub(crate) fn run_dir(self) -> PathBuf {
        Path::new(RUN_ROOT).join(self.0.number().to_string())
    }

    /// Root of the instance's cgroups.
    pub(crate) fn cgroup_root(self) -> String {
        format!("keelson-{}", self.0.number())
    }
}
