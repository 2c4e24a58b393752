//! What another program keeps in the same etcd, in a form of its own.

use bytes::Bytes;

/// Turns the values of another program into objects as they are served, so that its etcd can be taken over.
///
/// It is asked about values that are no JSON objects, and about nothing else.
pub trait Foreign: Send + Sync {
    /// The JSON of a value that lies in a collection.
    ///
    /// # Errors
    /// Says why it cannot be served.
    fn translate(&self, collection: &str, value: &Bytes) -> Result<Vec<u8>, ForeignError>;
}

/// Why a value cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ForeignError(pub String);
