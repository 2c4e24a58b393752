//! The registry's folder.
//!
//! ```text
//! format                                   the format's version
//! uploads/<id>                             what is on its way in
//! blobs/sha256/<hex>                       content: blobs and manifests, kept once for all repositories
//! repositories/<name>/_blobs/<hex>         the repository has the blob (empty)
//! repositories/<name>/_manifests/<hex>     the repository has the manifest (its media type)
//! repositories/<name>/_tags/<tag>          what a tag points to (a digest)
//! repositories/<name>/_referrers/<hex>/<hex>  the second manifest refers to the first (empty)
//! ```
//!
//! Every file appears by a rename of a synced file, and the folder is synced after; content comes before what points to
//! it. A crash therefore leaves nothing worse than content that nothing points to, which garbage collection removes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::RwLock;

use super::error::{Refusal, StorageError};
use crate::digest::Digest;
use crate::oci::Manifest;

/// The format of the folder.
const FORMAT: &str = "1";
const BLOBS: &str = "_blobs";
const MANIFESTS: &str = "_manifests";
const TAGS: &str = "_tags";
const REFERRERS: &str = "_referrers";

/// The folder. Its functions block on the disk.
#[derive(Debug)]
pub(crate) struct Storage {
    root: PathBuf,
    /// Held for reading while content is linked, for writing while unlinked content is collected.
    pub(super) collecting: RwLock<()>,
}

/// A manifest as stored.
#[derive(Debug)]
pub(crate) struct StoredManifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) content: Vec<u8>,
}

impl Storage {
    /// Opens the folder, creating what is missing. Uploads of an earlier process are dropped: what they had hashed so far
    /// is gone with it, and clients start over.
    pub(crate) fn open(root: &Path) -> Result<Self, StorageError> {
        let storage = Self { root: root.to_owned(), collecting: RwLock::new(()) };
        let uploads = root.join("uploads");
        ignore_missing(fs::remove_dir_all(&uploads)).map_err(failed("remove", &uploads))?;
        for dir in [uploads, root.join("blobs/sha256"), root.join("repositories")] {
            fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
        }
        let path = root.join("format");
        match read_optional(&path)? {
            None => storage.write_file(&path, FORMAT.as_bytes())?,
            Some(found) if found == FORMAT.as_bytes() => {}
            Some(found) => {
                let found = String::from_utf8_lossy(&found).into_owned();
                return Err(StorageError::Format { path: root.to_owned(), found, wanted: FORMAT });
            }
        }
        Ok(storage)
    }

    /// Where an upload is written.
    pub(crate) fn upload_path(&self, id: &str) -> PathBuf {
        self.root.join("uploads").join(id)
    }

    /// Where a blob's content is.
    pub(crate) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.blobs_dir().join(digest.hex())
    }

    pub(super) fn blobs_dir(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(super) fn repository(&self, name: &str) -> PathBuf {
        self.root.join("repositories").join(name)
    }

    fn link(&self, name: &str, kind: &str, digest: Digest) -> PathBuf {
        self.repository(name).join(kind).join(digest.hex())
    }

    /// Makes a finished, synced upload visible as a blob of a repository.
    pub(crate) fn commit_upload(&self, id: &str, name: &str, digest: Digest) -> Result<(), StorageError> {
        let _linking = self.collecting.read();
        let (from, to) = (self.upload_path(id), self.blob_path(digest));
        fs::rename(&from, &to).map_err(failed("rename", &from))?;
        sync_dir(&self.blobs_dir())?;
        self.write_file(&self.link(name, BLOBS, digest), b"")
    }

    /// Gives a repository a blob of another one (of any, when none is named). False when it is not there.
    pub(crate) fn mount(&self, name: &str, from: Option<&str>, digest: Digest) -> Result<bool, StorageError> {
        let _linking = self.collecting.read();
        let path = self.blob_path(digest);
        let there = match from {
            Some(from) => self.link(from, BLOBS, digest).exists(),
            None => path.exists(),
        };
        let Some(file) = there.then(|| File::open(&path).ok()).flatten() else { return Ok(false) };
        // Garbage collection leaves young content alone; the blob becomes young again.
        file.set_modified(SystemTime::now()).map_err(failed("touch", &path))?;
        self.write_file(&self.link(name, BLOBS, digest), b"")?;
        Ok(true)
    }

    /// The length of a repository's blob.
    pub(crate) fn blob_size(&self, name: &str, digest: Digest) -> Result<u64, Refusal> {
        if !self.link(name, BLOBS, digest).exists() {
            return Err(Refusal::BlobUnknown(digest));
        }
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Refusal::BlobUnknown(digest)),
            Err(error) => Err(failed("look at", &path)(error).into()),
        }
    }

    /// Takes a blob from a repository.
    pub(crate) fn unlink_blob(&self, name: &str, digest: Digest) -> Result<(), Refusal> {
        match self.remove_file(&self.link(name, BLOBS, digest))? {
            true => Ok(()),
            false => Err(Refusal::BlobUnknown(digest)),
        }
    }

    /// Stores a manifest, whose parts must be there, and points a tag to it.
    pub(crate) fn put_manifest(
        &self,
        name: &str,
        tag: Option<&str>,
        media_type: &str,
        content: &[u8],
        manifest: &Manifest,
    ) -> Result<Digest, Refusal> {
        let _linking = self.collecting.read();
        for blob in manifest.blobs() {
            if !self.link(name, BLOBS, blob.digest).exists() {
                return Err(Refusal::ManifestBlobUnknown(blob.digest));
            }
        }
        for child in manifest.children() {
            if !self.link(name, MANIFESTS, child.digest).exists() {
                return Err(Refusal::ManifestBlobUnknown(child.digest));
            }
        }
        let digest = Digest::of(content);
        self.write_file(&self.blob_path(digest), content)?;
        self.write_file(&self.link(name, MANIFESTS, digest), media_type.as_bytes())?;
        if let Some(subject) = &manifest.subject {
            let dir = self.link(name, REFERRERS, subject.digest);
            self.write_file(&dir.join(digest.hex()), b"")?;
        }
        if let Some(tag) = tag {
            self.write_file(&self.repository(name).join(TAGS).join(tag), digest.to_string().as_bytes())?;
        }
        Ok(digest)
    }

    /// The digest that a tag points to.
    pub(crate) fn tag(&self, name: &str, tag: &str) -> Result<Option<Digest>, StorageError> {
        let content = read_optional(&self.repository(name).join(TAGS).join(tag))?;
        Ok(content.and_then(|content| String::from_utf8_lossy(&content).parse().ok()))
    }

    /// A repository's manifest.
    pub(crate) fn manifest(&self, name: &str, digest: Digest) -> Result<Option<StoredManifest>, StorageError> {
        let Some(media_type) = read_optional(&self.link(name, MANIFESTS, digest))? else { return Ok(None) };
        let Some(content) = read_optional(&self.blob_path(digest))? else { return Ok(None) };
        Ok(Some(StoredManifest { digest, media_type: String::from_utf8_lossy(&media_type).into_owned(), content }))
    }

    /// Removes a tag. False when there is none.
    pub(crate) fn remove_tag(&self, name: &str, tag: &str) -> Result<bool, StorageError> {
        self.remove_file(&self.repository(name).join(TAGS).join(tag))
    }

    /// Removes a manifest with the tags that point to it. False when there is none.
    pub(crate) fn remove_manifest(&self, name: &str, digest: Digest) -> Result<bool, StorageError> {
        let Some(stored) = self.manifest(name, digest)? else { return Ok(false) };
        for tag in self.tags(name)?.unwrap_or_default() {
            if self.tag(name, &tag)? == Some(digest) {
                self.remove_tag(name, &tag)?;
            }
        }
        let manifest = serde_json::from_slice::<Manifest>(&stored.content).ok();
        if let Some(subject) = manifest.and_then(|manifest| manifest.subject) {
            self.remove_file(&self.link(name, REFERRERS, subject.digest).join(digest.hex()))?;
        }
        self.remove_file(&self.link(name, MANIFESTS, digest))
    }

    /// A repository's tags in order; none when there is no such repository.
    pub(crate) fn tags(&self, name: &str) -> Result<Option<Vec<String>>, StorageError> {
        let dir = self.repository(name);
        if !dir.join(MANIFESTS).exists() && !dir.join(BLOBS).exists() {
            return Ok(None);
        }
        Ok(Some(entries(&dir.join(TAGS))?.into_iter().collect()))
    }

    /// The digests of a repository's manifests.
    pub(crate) fn manifests(&self, name: &str) -> Result<Vec<Digest>, StorageError> {
        let names = entries(&self.repository(name).join(MANIFESTS))?;
        Ok(names.iter().filter_map(|name| Digest::from_hex(name)).collect())
    }

    /// The digests of a repository's blobs.
    pub(super) fn blob_links(&self, name: &str) -> Result<Vec<(Digest, PathBuf)>, StorageError> {
        let dir = self.repository(name).join(BLOBS);
        let names = entries(&dir)?;
        Ok(names.iter().filter_map(|name| Some((Digest::from_hex(name)?, dir.join(name)))).collect())
    }

    /// The digests of the manifests that refer to one.
    pub(crate) fn referrers(&self, name: &str, subject: Digest) -> Result<Vec<Digest>, StorageError> {
        let names = entries(&self.link(name, REFERRERS, subject))?;
        Ok(names.iter().filter_map(|name| Digest::from_hex(name)).collect())
    }

    /// The names of all repositories in order.
    pub(crate) fn repositories(&self) -> Result<Vec<String>, StorageError> {
        let mut found = BTreeSet::new();
        let mut open = vec![String::new()];
        while let Some(name) = open.pop() {
            for entry in entries(&self.repository(&name))? {
                if entry == MANIFESTS || entry == BLOBS {
                    found.insert(name.clone());
                } else if !entry.starts_with('_') {
                    open.push(if name.is_empty() { entry } else { format!("{name}/{entry}") });
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Writes a file whole: a reader, or a crash, sees the old content or the new one.
    fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), StorageError> {
        let dir = path.parent().unwrap_or(&self.root);
        if !dir.exists() {
            fs::create_dir_all(dir).map_err(failed("create", dir))?;
            // Each new folder is an entry of its parent.
            for parent in dir.ancestors().skip(1).take_while(|parent| parent.starts_with(&self.root)) {
                sync_dir(parent)?;
            }
        }
        let temporary = self.upload_path(&uuid::Uuid::new_v4().to_string());
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        });
        if let Err(source) = written {
            // Best effort: opening the folder the next time clears the uploads as well.
            let _ = fs::remove_file(&temporary);
            return Err(StorageError::Io { action: "write", path: path.to_owned(), source });
        }
        sync_dir(dir)
    }

    /// Removes a file durably. False when there was none.
    pub(super) fn remove_file(&self, path: &Path) -> Result<bool, StorageError> {
        match fs::remove_file(path) {
            Ok(()) => sync_dir(path.parent().unwrap_or(&self.root)).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("remove", path)(error)),
        }
    }
}

/// The names in a folder in order; none when it is not there.
fn entries(dir: &Path) -> Result<BTreeSet<String>, StorageError> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(failed("list", dir)(error)),
    };
    listing.map(|entry| Ok(entry.map_err(failed("list", dir))?.file_name().to_string_lossy().into_owned())).collect()
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Names the file in an I/O error.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::Io { action, path, source }
}
