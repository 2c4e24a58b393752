//! The directories behind volumes, below one root that is nobody else's.
//!
//! A pod owns what is *in* its directory and may put symbolic links there; nothing here follows them. A directory that is
//! given up is renamed away first: from then on no mount finds it, and what a crash leaves of it is removed at the next start.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use crate::volumes::host;

/// Only the node itself walks through the root.
const ROOT_MODE: u32 = 0o700;
/// Any user of a container may write: the pod's fsGroup narrows it when the volume is mounted.
const VOLUME_MODE: u32 = 0o777;
/// Where directories wait for their removal.
const REMOVED: &str = ".removed";

/// Volumes' directories.
#[derive(Clone, Debug)]
pub(super) struct Directories {
    root: PathBuf,
}

impl Directories {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where a volume's directory is.
    pub(super) fn path(&self, volume: &str) -> PathBuf {
        self.root.join(volume)
    }

    /// Makes a volume's directory, so that it is still there after a power failure. One that is there stays as it is.
    pub(super) fn make(&self, volume: &str) -> io::Result<()> {
        check_name(volume)?;
        if !self.root.exists() {
            fs::create_dir_all(&self.root)?;
            fs::set_permissions(&self.root, fs::Permissions::from_mode(ROOT_MODE))?;
        }
        let path = self.path(volume);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(&path)?.is_dir() => {}
            made => made?,
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(VOLUME_MODE))?;
        self.sync()
    }

    /// Removes a volume's directory and what is in it. Idempotent.
    pub(super) fn remove(&self, volume: &str) -> io::Result<()> {
        check_name(volume)?;
        let path = self.path(volume);
        let going = self.root.join(REMOVED).join(volume);
        if fs::symlink_metadata(&path).is_ok() {
            // The kernel lists mounts by their real place, and the data directory may be reached through a link.
            if host::has_mounts_below(&fs::canonicalize(&self.root)?.join(volume))? {
                // What is mounted there is not the volume's.
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "something is mounted below the directory"));
            }
            remove_all(&going)?;
            fs::create_dir_all(self.root.join(REMOVED))?;
            fs::rename(&path, &going)?;
            self.sync()?;
        }
        remove_all(&going)
    }

    /// Removes a volume's directory that nobody has ever used. Idempotent; what is in use or has content stays.
    pub(super) fn remove_unused(&self, volume: &str) -> io::Result<()> {
        check_name(volume)?;
        match fs::remove_dir(self.path(volume)) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
            other => other,
        }
    }

    /// Finishes removals that were cut off, and names the volumes that have a directory.
    pub(super) fn survey(&self) -> io::Result<Vec<String>> {
        remove_all(&self.root.join(REMOVED))?;
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.root)?.sync_all()
    }
}

/// A volume's name is a DNS name, which has no way out of the root; this does not rely on who has checked that.
fn check_name(volume: &str) -> io::Result<()> {
    let mut parts = Path::new(volume).components();
    let fine = parts.next() == Some(Component::Normal(OsStr::new(volume))) && !volume.starts_with('.');
    if fine { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{volume:?} names no volume"))) }
}

fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_is_open_to_all_below_a_root_that_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let directories = Directories::new(directory.path().join("volumes"));
        directories.make("pvc-1").unwrap();
        directories.make("pvc-1").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directories.root), mode(&directories.path("pvc-1"))), (0o700, 0o777));
        fs::write(directories.path("pvc-1").join("kept"), "data").unwrap();
        directories.make("pvc-1").unwrap();
        directories.remove_unused("pvc-1").unwrap();
        assert_eq!(fs::read_to_string(directories.path("pvc-1").join("kept")).unwrap(), "data");
    }

    #[test]
    fn removal_follows_no_link_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "x").unwrap();
        let directories = Directories::new(directory.path().join("volumes"));
        directories.make("pvc-1").unwrap();
        symlink(&outside, directories.path("pvc-1").join("way-out")).unwrap();
        fs::create_dir(directories.path("pvc-1").join("deep")).unwrap();
        symlink("../../../outside/precious", directories.path("pvc-1").join("deep/file")).unwrap();
        directories.remove("pvc-1").unwrap();
        directories.remove("pvc-1").unwrap();
        assert!(outside.join("precious").exists());
        assert!(directories.survey().unwrap().is_empty());
        for name in ["..", ".", "", "a/b", "/etc", ".removed", "../outside"] {
            assert!(directories.remove(name).is_err() && directories.make(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_link_in_place_of_a_directory_is_no_volume() {
        let directory = tempfile::tempdir().unwrap();
        let directories = Directories::new(directory.path().join("volumes"));
        directories.make("pvc-1").unwrap();
        symlink("/etc", directories.path("pvc-2")).unwrap();
        assert!(directories.make("pvc-2").is_err());
    }

    #[test]
    fn a_removal_that_was_cut_off_is_finished_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let directories = Directories::new(directory.path().join("volumes"));
        directories.make("pvc-1").unwrap();
        directories.make("pvc-2").unwrap();
        let removed = directories.root.join(REMOVED);
        fs::create_dir(&removed).unwrap();
        fs::rename(directories.path("pvc-1"), removed.join("pvc-1")).unwrap();
        fs::write(removed.join("pvc-1").join("rest"), "x").unwrap();
        assert_eq!(directories.survey().unwrap(), ["pvc-2"]);
        assert!(!removed.exists());
        directories.remove_unused("pvc-2").unwrap();
        directories.remove_unused("pvc-2").unwrap();
        assert!(!directories.path("pvc-2").exists());
    }
}
