//! Small files that outlive the process that wrote them.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::api::ContainerState;

/// Name of a container's state file; only the shim writes it.
pub(crate) const STATE_FILE: &str = "state.json";
/// Name of a container's launch file; written once, when it is created.
pub(crate) const LAUNCH_FILE: &str = "launch.json";

/// Whether a file must have reached the disk before the write returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Survives a crash of the process.
    Process,
    /// Survives a crash of the machine.
    Machine,
}

/// Replaces a file as a whole: a reader sees the old or the new content, never a part.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T, durability: Durability) -> io::Result<()> {
    write_bytes(path, &serde_json::to_vec(value)?, durability)
}

/// Replaces a file as a whole with these bytes.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let mut temporary: PathBuf = path.to_owned();
    temporary.as_mut_os_string().push(".new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    if durability == Durability::Machine {
        file.sync_data()?;
    }
    fs::rename(&temporary, path)?;
    if durability == Durability::Machine
        && let Some(parent) = path.parent()
    {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Reads a file; `None` when it does not exist.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The state a shim last recorded for the container kept in `directory`; created when there is none.
pub(crate) fn container_state(directory: &Path) -> io::Result<ContainerState> {
    Ok(read_json(&directory.join(STATE_FILE))?.unwrap_or(ContainerState::Created))
}

/// Nanoseconds since the epoch.
pub(crate) fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}
