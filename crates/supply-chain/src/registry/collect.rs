//! Garbage collection: removes content that no manifest refers to any more.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::error::StorageError;
use super::storage::{Storage, failed};
use crate::digest::Digest;
use crate::oci::Manifest;

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs and manifests removed.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Removes what no manifest refers to and what is older than the grace period, in which a client uploads the blobs of a
/// manifest that comes last.
pub(super) fn collect(storage: &Storage, grace: Duration) -> Result<Collected, StorageError> {
    let _alone = storage.collecting.write();
    let now = SystemTime::now();
    let mut used: HashSet<Digest> = HashSet::new();
    for name in storage.repositories()? {
        let mut used_here = HashSet::new();
        for digest in storage.manifests(&name)? {
            used_here.insert(digest);
            let Some(stored) = storage.manifest(&name, digest)? else { continue };
            if let Ok(manifest) = serde_json::from_slice::<Manifest>(&stored.content) {
                used_here.extend(manifest.blobs().chain(manifest.children()).map(|part| part.digest));
            }
        }
        for (digest, link) in storage.blob_links(&name)? {
            if used_here.contains(&digest) || is_young(&link, now, grace)? {
                used_here.insert(digest);
            } else {
                storage.remove_file(&link)?;
            }
        }
        used.extend(used_here);
    }
    let mut collected = Collected::default();
    let dir = storage.blobs_dir();
    for entry in fs::read_dir(&dir).map_err(failed("list", &dir))? {
        let path = entry.map_err(failed("list", &dir))?.path();
        let digest = path.file_name().and_then(|name| Digest::from_hex(&name.to_string_lossy()));
        if digest.is_some_and(|digest| used.contains(&digest)) || is_young(&path, now, grace)? {
            continue;
        }
        collected.bytes += fs::metadata(&path).map_err(failed("look at", &path))?.len();
        collected.blobs += 1;
        storage.remove_file(&path)?;
    }
    Ok(collected)
}

fn is_young(path: &Path, now: SystemTime, grace: Duration) -> Result<bool, StorageError> {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).map_err(failed("look at", path))?;
    // A time in the future (the clock was set back) counts as young.
    Ok(now.duration_since(modified).is_ok_and(|age| age < grace) || modified > now)
}
