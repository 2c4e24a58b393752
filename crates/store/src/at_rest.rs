//! What objects look like where they are kept: a hook through which they pass on their way to the disk (or to etcd) and
//! back. Memory, snapshots and watches hold the bytes as served.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

use crate::Key;

/// Seals objects before they are kept, and opens them when they are read back. What it does is its own affair; the store
/// only promises to hand the same collection and path to both sides.
///
/// An object is sealed in the state in which it is kept: in a log or checkpoint its revision is in place, in etcd the
/// revision's gap is still empty.
pub trait AtRest: Send + Sync {
    /// The sealed form of an object; `None` keeps it as it is, which should be decided by the collection alone.
    ///
    /// # Errors
    /// When it must be sealed and cannot: the write is refused.
    fn seal(&self, collection: &str, path: &str, plain: &[u8]) -> Result<Option<Vec<u8>>, AtRestError>;

    /// The object of a kept form; `None` when it was kept as it is.
    ///
    /// # Errors
    /// When the key is unknown, or the bytes are not what was sealed for this collection and path.
    fn open(&self, collection: &str, path: &str, stored: &[u8]) -> Result<Option<Vec<u8>>, AtRestError>;

    /// Whether the object should be kept differently from now on: it is sealed with an older key, or not at all.
    fn stale(&self, collection: &str, path: &str, stored: &[u8]) -> bool;
}

/// Why an object cannot be sealed or opened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct AtRestError(pub String);

/// The hook, or none: then nothing costs anything.
#[derive(Clone, Default)]
pub(crate) struct Sealing(pub(crate) Option<Arc<dyn AtRest>>);

impl Sealing {
    pub(crate) fn seal<'a>(&self, key: &Key, plain: &'a [u8]) -> Result<Cow<'a, [u8]>, AtRestError> {
        let Some(hook) = &self.0 else { return Ok(Cow::Borrowed(plain)) };
        Ok(hook.seal(&key.collection, &key.path, plain)?.map_or(Cow::Borrowed(plain), Cow::Owned))
    }

    pub(crate) fn open(&self, key: &Key, stored: &[u8]) -> Result<Bytes, AtRestError> {
        if let Some(hook) = &self.0
            && let Some(plain) = hook.open(&key.collection, &key.path, stored)?
        {
            return Ok(plain.into());
        }
        Ok(Bytes::copy_from_slice(stored))
    }

    pub(crate) fn is_stale(&self, key: &Key, stored: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|hook| hook.stale(&key.collection, &key.path, stored))
    }
}
