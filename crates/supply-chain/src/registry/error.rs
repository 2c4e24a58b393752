//! What goes wrong, and how each kind is answered.

use std::io;
use std::path::PathBuf;

use http::StatusCode;

use crate::digest::Digest;

/// The registry's folder could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
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
    /// The folder was written in another format.
    #[error("registry folder {path} has format {found:?}, this version reads {wanted:?}", path = .path.display())]
    Format {
        /// The folder.
        path: PathBuf,
        /// The format found.
        found: String,
        /// The format that this version reads.
        wanted: &'static str,
    },
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("blob {0} is not in the repository")]
    BlobUnknown(Digest),
    #[error("upload {0} is not known")]
    UploadUnknown(String),
    #[error("{0}")]
    UploadInvalid(String),
    #[error("chunk does not start at byte {offset}, where the upload stands")]
    ChunkOutOfOrder { location: String, offset: u64 },
    #[error("{0}")]
    DigestInvalid(String),
    #[error("manifest refers to {0}, which is not in the repository")]
    ManifestBlobUnknown(Digest),
    #[error("{0}")]
    ManifestInvalid(String),
    #[error("manifest {0} is not in the repository")]
    ManifestUnknown(String),
    #[error("{0:?} is not a repository name")]
    NameInvalid(String),
    #[error("repository {0} is not known")]
    NameUnknown(String),
    #[error("content exceeds {0} bytes")]
    TooLarge(u64),
    #[error("{0}")]
    Unsupported(&'static str),
    #[error("too many uploads are open")]
    TooManyUploads,
    #[error("range {range:?} does not lie in the {size} bytes of the blob")]
    RangeInvalid { range: String, size: u64 },
    #[error("the request's body ended early or stood still")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Refusal {
    /// The HTTP status and the code of the OCI distribution specification.
    pub(crate) fn answer(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BlobUnknown(_) => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            Self::UploadUnknown(_) => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            Self::UploadInvalid(_) | Self::Body(_) => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
            Self::ChunkOutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
            Self::DigestInvalid(_) => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            Self::ManifestBlobUnknown(_) => (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
            Self::ManifestInvalid(_) => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            Self::ManifestUnknown(_) => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Self::NameInvalid(_) => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            Self::NameUnknown(_) => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
            Self::Unsupported(_) => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
            Self::TooManyUploads => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            Self::RangeInvalid { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID"),
            Self::Storage(_) => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        }
    }
}
