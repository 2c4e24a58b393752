//! Cuts logs that grow: the current file is moved aside and the shim writes to a fresh one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

/// Size at which a log is rotated, as upstream's `containerLogMaxSize`.
const LOG_BYTES_MAX: u64 = 10 << 20;
/// Files kept of one log, the current one included, as upstream's `containerLogMaxFiles`.
const LOG_FILES_MAX: usize = 5;

/// The files moved aside from a log, oldest first.
fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|own| own.starts_with(&prefix)) {
            found.push(entry.path());
        }
    }
    // The names end in a time, so their order is their age.
    found.sort();
    Ok(found)
}

/// Moves the log aside when it is too large and removes the oldest of those moved aside. Returns where it was moved;
/// the writer must then open the log again.
pub(crate) fn rotate(log: &Path, now: Timestamp) -> io::Result<Option<PathBuf>> {
    rotate_at(log, now, LOG_BYTES_MAX)
}

fn rotate_at(log: &Path, now: Timestamp, bytes_max: u64) -> io::Result<Option<PathBuf>> {
    if fs::metadata(log)?.len() < bytes_max {
        return Ok(None);
    }
    let old = rotated(log)?;
    // With the file about to be moved and the fresh one, two of the allowed number are taken.
    let surplus = (old.len() + 2).saturating_sub(LOG_FILES_MAX);
    for path in &old[..surplus] {
        fs::remove_file(path)?;
    }
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{}", now.strftime("%Y%m%d-%H%M%S")));
    let moved = PathBuf::from(name);
    fs::rename(log, &moved)?;
    Ok(Some(moved))
}

/// Removes a log and everything moved aside from it.
pub(crate) fn remove(log: &Path) -> io::Result<()> {
    for path in rotated(log)? {
        fs::remove_file(path)?;
    }
    fs::remove_file(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_its_newest_files_only() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        fs::write(directory.path().join("1.log"), "other").unwrap();
        for second in 0..8 {
            fs::write(&log, format!("{second}")).unwrap();
            assert_eq!(rotate_at(&log, Timestamp::from_second(second).unwrap(), 100).unwrap(), None);
            let moved = rotate_at(&log, Timestamp::from_second(second).unwrap(), 1).unwrap().unwrap();
            assert_eq!(fs::read_to_string(moved).unwrap(), format!("{second}"));
        }
        let kept: Vec<String> = rotated(&log).unwrap().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        assert_eq!(kept, ["4", "5", "6", "7"]);
        fs::write(&log, "").unwrap();
        remove(&log).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "the log of another run stays");
    }
}
