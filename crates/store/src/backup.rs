//! Backups: the whole state at one revision in one file, and back again.
//!
//! A backup is a checkpoint: a header, frames with a checksum each, and an end that says how many objects there are, so
//! that one cut short is told from a whole one. What is sealed stays sealed; the keys are not in it. Restoring puts it into
//! an empty directory as the checkpoint from which the next start goes on, with the same revisions; or into an etcd, which
//! gives revisions of its own.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use crate::{
    EtcdConfig, OpenError, Options, Revision, Store,
    at_rest::Sealing,
    checkpoint::{self, TEMPORARY},
    disk::{Disk as _, Os, private},
    etcd::restore,
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
    /// An etcd holds objects that would be lost.
    #[error("etcd at {endpoints} holds objects already")]
    EtcdNotEmpty {
        /// Its servers.
        endpoints: String,
    },
    /// An etcd refused; what was written before stays, and no server starts on it.
    #[error("cannot write to etcd at {endpoints} after {written} objects")]
    Etcd {
        /// Its servers.
        endpoints: String,
        /// Objects written before.
        written: usize,
        /// What it said.
        source: io::Error,
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

/// Puts a backup into an etcd that no server uses. What lies there is lost, which `force` must allow. Revisions are etcd's
/// from then on.
///
/// # Errors
/// When the backup is damaged, or etcd is not empty or cannot be used.
pub async fn restore_into_etcd(file: &Path, config: EtcdConfig, force: bool) -> Result<BackupContent, RestoreError> {
    // what is sealed goes over as it is: it is bound to its place, which is the same in both
    let loaded = checkpoint::read(file, &mut Names::default(), &Sealing::default()).map_err(RestoreError::Backup)?;
    let endpoints = config.shown();
    let (revision, bytes) = (loaded.snapshot.revision(), loaded.snapshot.bytes());
    restore::fill(config, &loaded.snapshot, force).await.map_err(|refused| refused.told(&endpoints))?;
    Ok(BackupContent { revision, objects: loaded.count, bytes })
}

/// Writes what an etcd holds, without becoming a server on it. The options name the keys of what is sealed there.
///
/// # Errors
/// When etcd cannot be used, an object cannot be opened, or `to` fails.
pub async fn create_from_etcd(
    config: EtcdConfig,
    options: &Options,
    to: &mut impl io::Write,
) -> Result<Revision, OpenError> {
    let endpoints = config.shown();
    let snapshot = restore::read(config, options).await?;
    checkpoint::write_to(to, &snapshot, &Sealing(options.at_rest.clone()), &AtomicBool::new(false))
        .map_err(|source| OpenError::Io { action: "write a backup of etcd at", path: endpoints.into(), source })?;
    Ok(snapshot.revision())
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
