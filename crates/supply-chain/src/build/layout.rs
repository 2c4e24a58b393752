//! OCI layout folders: `oci-layout`, `index.json`, and the content under its digest.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::Digest;
use crate::oci::{Descriptor, Manifest, REF_NAME};

const VERSION: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// A layout folder could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}", path = .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// A document does not parse.
    #[error("{path} is not an image document", path = .path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// A layout folder.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Creates the folder, or goes on in one that is there.
    pub(crate) fn create(root: &Path) -> Result<Self, LayoutError> {
        let layout = Self::open(root);
        let blobs = layout.blobs();
        fs::create_dir_all(&blobs).map_err(failed("create", &blobs))?;
        let version = root.join("oci-layout");
        fs::write(&version, VERSION).map_err(failed("write", &version))?;
        Ok(layout)
    }

    /// A folder that is there.
    pub(crate) fn open(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// Where content is.
    pub(crate) fn blob(&self, digest: Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// A file to write content to whose digest is not known yet.
    pub(super) fn temporary(&self) -> Result<(PathBuf, File), LayoutError> {
        let path = self.blobs().join(format!(".{}", uuid::Uuid::new_v4()));
        let file = File::create(&path).map_err(failed("create", &path))?;
        Ok((path, file))
    }

    /// Gives a temporary file its place.
    pub(super) fn adopt(&self, temporary: &Path, digest: Digest) -> Result<(), LayoutError> {
        fs::rename(temporary, self.blob(digest)).map_err(failed("rename", temporary))
    }

    /// Adds a document.
    pub(super) fn add_json(&self, media_type: &str, document: &impl Serialize) -> Result<Descriptor, LayoutError> {
        let content =
            serde_json::to_vec(document).map_err(|source| LayoutError::Document { path: self.root.clone(), source })?;
        let digest = Digest::of(&content);
        let path = self.blob(digest);
        fs::write(&path, &content).map_err(failed("write", &path))?;
        Ok(Descriptor::new(media_type, digest, content.len() as u64))
    }

    /// Makes a manifest the folder's only image, under a name.
    pub(super) fn write_index(&self, manifest: &Descriptor, name: &str) -> Result<(), LayoutError> {
        let mut entry = manifest.clone();
        entry.annotations.insert(REF_NAME.to_owned(), name.to_owned());
        let path = self.root.join("index.json");
        let content = serde_json::to_vec(&Manifest::index(vec![entry]))
            .map_err(|source| LayoutError::Document { path: path.clone(), source })?;
        fs::write(&path, content).map_err(failed("write", &path))
    }

    /// The images of the folder.
    pub(crate) fn index(&self) -> Result<Manifest, LayoutError> {
        self.document(&self.root.join("index.json"))
    }

    /// A document of the folder by its digest.
    pub(crate) fn manifest(&self, digest: Digest) -> Result<(Vec<u8>, Manifest), LayoutError> {
        let path = self.blob(digest);
        let content = fs::read(&path).map_err(failed("read", &path))?;
        let manifest = serde_json::from_slice(&content).map_err(|source| LayoutError::Document { path, source })?;
        Ok((content, manifest))
    }

    fn document(&self, path: &Path) -> Result<Manifest, LayoutError> {
        let content = fs::read(path).map_err(failed("read", path))?;
        serde_json::from_slice(&content).map_err(|source| LayoutError::Document { path: path.to_owned(), source })
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LayoutError {
    let path = path.to_owned();
    move |source| LayoutError::Io { action, path, source }
}
