//! Backups: the whole state at one revision in one file, and back again.
//!
//! A backup is a checkpoint: a header, frames with a checksum each, and an end that says how many objects there are, so
//! that one cut short is told from a whole one. What is sealed stays sealed; the keys are not in it. Restoring puts it into
//! an empty directory as the checkpoint from which the next start goes on, with the same revisions.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use crate::{
    OpenError, Revision, Store,
    at_rest::Sealing,
    checkpoint::{self, TEMPORARY},
    disk::{Disk as _, Os, private},
    log,
    record::Names,
    recovery,
};

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupContent {
    /// The revision of the state.
    pub revision: Revision,
    /// How many objects there are.
    pub objects: u64,
    /// Sum of their sizes as kept.
    pub bytes: u64,
}

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup cannot be used. The directory was not touched.
    #[error("the backup cannot be used")]
    Backup(#[source] OpenError),
    /// The directory cannot be used.
    #[error("the directory cannot be used")]
    Directory(#[source] OpenError),
    /// Something lies there that would be lost.
    #[error("{} holds objects already", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot write {}", path.display())]
    Io {
        /// What was being written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Store {
    /// Writes the state at the head, while writes go on. Blocks on `to`.
    ///
    /// # Errors
    /// When `to` fails, or an object cannot be sealed.
    pub fn backup(&self, to: &mut impl io::Write) -> io::Result<Revision> {
        let snapshot = self.snapshot();
        checkpoint::write_to(to, &snapshot, self.sealing(), &AtomicBool::new(false))?;
        Ok(snapshot.revision())
    }
}

/// Reads a backup and checks every checksum in it.
///
/// # Errors
/// Says what is wrong with it, and where.
pub fn verify(file: &Path) -> Result<BackupContent, OpenError> {
    let loaded = checkpoint::read(file, &mut Names::default(), &Sealing::default())?;
    let (revision, bytes) = (loaded.snapshot.revision(), loaded.snapshot.bytes());
    Ok(BackupContent { revision, objects: loaded.count, bytes })
}

/// Puts a backup into the directory of a store that is not open. What lies there is lost, which `force` must allow.
///
/// # Errors
/// When the backup is damaged, the directory is in use or not empty, or the disk refuses.
pub fn restore(file: &Path, dir: &Path, force: bool) -> Result<BackupContent, RestoreError> {
    let content = verify(file).map_err(RestoreError::Backup)?;
    let _lock = recovery::lock(dir).map_err(RestoreError::Directory)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Io { path, source }
    };
    let old = kept(dir).map_err(failed(dir))?;
    if !old.is_empty() && !force {
        return Err(RestoreError::NotEmpty { path: dir.to_owned() });
    }
    let temporary = dir.join(TEMPORARY);
    copy(file, &temporary).map_err(failed(&temporary))?;
    for path in &old {
        fs::remove_file(path).map_err(failed(path))?;
    }
    let place = checkpoint::checkpoint_path(dir, content.revision);
    fs::rename(&temporary, &place).and_then(|()| Os.sync_dir(dir)).map_err(failed(&place))?;
    Ok(content)
}

/// The checkpoints and log segments of a directory.
fn kept(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if checkpoint::checkpoint_revision(name).is_some() || log::segment_base(name).is_some() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut target = private().create(true).truncate(true).open(to)?;
    io::copy(&mut fs::File::open(from)?, &mut target)?;
    target.sync_all()
}
