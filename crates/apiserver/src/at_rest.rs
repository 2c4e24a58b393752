//! Encryption at rest: the configuration file, and the store's hook that seals and opens with it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use identity::encryption::{Encryption, EncryptionConfigurationError, EncryptionError};
use parking_lot::Mutex;
use serde_json::Value;
use store::{AtRest, AtRestError, registry_key};

/// Largest configuration that is read; ones with a hundred keys have some KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The configuration of encryption at rest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionFileError {
    /// The file cannot be read.
    #[error("encryption configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not YAML.
    #[error("encryption configuration {}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong where.
        reason: String,
    },
    /// The configuration is wrong.
    #[error("encryption configuration {}: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: EncryptionConfigurationError,
    },
    /// A new file cannot be made.
    #[error("encryption configuration {}: cannot make one: {reason}", path.display())]
    Make {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Seals and opens what the store keeps, by a configuration file.
pub struct EncryptionAtRest {
    encryption: ArcSwap<Encryption>,
    path: PathBuf,
    /// What the file said.
    text: Mutex<String>,
}

impl EncryptionAtRest {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// Says what is wrong with the file, by field.
    pub fn load(path: &Path) -> Result<Self, EncryptionFileError> {
        let text = Self::read(path)?;
        let encryption = ArcSwap::from_pointee(Self::parse(path, &text)?);
        Ok(Self { encryption, path: path.to_owned(), text: Mutex::new(text) })
    }

    /// Reads the file again, and says whether it says something new. What is wrong with it changes nothing.
    ///
    /// # Errors
    /// Says what is wrong with the file, by field.
    pub fn reload(&self) -> Result<bool, EncryptionFileError> {
        let new = Self::read(&self.path)?;
        let mut text = self.text.lock();
        if *text == new {
            return Ok(false);
        }
        self.encryption.store(Arc::new(Self::parse(&self.path, &new)?));
        *text = new;
        Ok(true)
    }

    fn read(path: &Path) -> Result<String, EncryptionFileError> {
        let failed = |source| EncryptionFileError::Read { path: path.to_owned(), source };
        let size = std::fs::metadata(path).map_err(failed)?.len();
        if size > FILE_BYTES_MAX {
            let reason = format!("{size} bytes are more than the {FILE_BYTES_MAX} allowed");
            return Err(EncryptionFileError::Syntax { path: path.to_owned(), reason });
        }
        std::fs::read_to_string(path).map_err(failed)
    }

    fn parse(path: &Path, text: &str) -> Result<Encryption, EncryptionFileError> {
        // what stands in the file is secret and must not be in a message
        let options = serde_saphyr::options! { with_snippet: false };
        let document: Value = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            EncryptionFileError::Syntax { path: path.to_owned(), reason: error.to_string().replace('\n', " ") }
        })?;
        Encryption::parse(document).map_err(|source| EncryptionFileError::Invalid { path: path.to_owned(), source })
    }

    /// Reads the configuration file at `path`, or makes one there that seals Secrets with a new key.
    ///
    /// # Errors
    /// Says what is wrong with the file, or why none can be made.
    pub fn load_or_create(path: &Path) -> Result<Self, EncryptionFileError> {
        if !path.exists() {
            let failed = |reason: String| EncryptionFileError::Make { path: path.to_owned(), reason };
            let document = Encryption::fresh().map_err(|error| failed(error.to_string()))?;
            let text = serde_json::to_string_pretty(&document).map_err(|error| failed(error.to_string()))?;
            // JSON is YAML
            identity::write_private(path, text.as_bytes()).map_err(|error| failed(error.to_string()))?;
        }
        Self::load(path)
    }

    fn failed(&self, collection: &str, path: &str, error: &EncryptionError) -> AtRestError {
        let file = self.path.display();
        AtRestError(format!("{collection} {path}: {error} (encryption configuration {file})"))
    }
}

impl AtRest for EncryptionAtRest {
    fn seal(&self, collection: &str, path: &str, plain: &[u8]) -> Result<Option<Vec<u8>>, AtRestError> {
        let sealed = self.encryption.load().seal(collection, || registry_key(collection, path), plain);
        sealed.map_err(|error| self.failed(collection, path, &error))
    }

    fn open(&self, collection: &str, path: &str, stored: &[u8]) -> Result<Option<Vec<u8>>, AtRestError> {
        let opened = self.encryption.load().open(collection, || registry_key(collection, path), stored);
        opened.map_err(|error| self.failed(collection, path, &error))
    }

    fn stale(&self, collection: &str, _path: &str, stored: &[u8]) -> bool {
        self.encryption.load().is_stale(collection, stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_made_once_and_named_when_it_is_wrong() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("encryption.yaml");
        let first = EncryptionAtRest::load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let sealed = first.seal("core/secrets", "default/a", b"hidden").unwrap().unwrap();
        let again = EncryptionAtRest::load_or_create(&path).unwrap();
        assert_eq!(again.open("core/secrets", "default/a", &sealed).unwrap().unwrap(), b"hidden");
        std::fs::remove_file(&path).unwrap();
        let other = EncryptionAtRest::load_or_create(&path).unwrap();
        let error = other.open("core/secrets", "default/a", &sealed).unwrap_err().to_string();
        assert!(error.contains("sealed with aesgcm key \"key-") && error.contains("encryption.yaml"), "{error}");
        // what is replaced while it is in use counts at once, and what is wrong does not
        let mine = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        EncryptionAtRest::load_or_create(&path).unwrap();
        assert!(other.reload().unwrap() && !other.reload().unwrap());
        let sealed = other.seal("core/secrets", "default/a", b"hidden").unwrap().unwrap();
        std::fs::write(&path, "kind: [").unwrap();
        assert!(other.reload().is_err());
        assert_eq!(other.open("core/secrets", "default/a", &sealed).unwrap().unwrap(), b"hidden");
        std::fs::write(&path, mine).unwrap();
        assert!(other.reload().unwrap() && other.stale("core/secrets", "default/a", &sealed));
        std::fs::write(&path, "kind: [").unwrap();
        assert!(matches!(EncryptionAtRest::load(&path), Err(EncryptionFileError::Syntax { .. })));
    }
}
