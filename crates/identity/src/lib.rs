//! The cluster's identities: its certificate authority and the tokens of its service accounts.
//!
//! [`Authority`] is the root of trust of one installation. It signs server and client certificates (ECDSA P-256; a
//! client's user is the common name, its group the organisation, as Kubernetes reads them). [`TokenSigner`] signs and
//! verifies service-account tokens (JWT, ES256). Both are made at first start and kept in a folder that only the owner
//! can read; a file is written beside its target, synced and renamed, so a crash never leaves half a key.
//!
//! This crate opens no socket and reads no clock: the time is an argument. Whether the objects that a token is bound to
//! still exist is the API server's question.

mod authority;
mod file;
mod kubeconfig;
mod token;

pub use authority::{Authority, AuthorityError, KeyPair};
pub use file::{FileError, write_private};
pub use kubeconfig::{Kubeconfig, KubeconfigError};
pub use token::{BoundObject, Claims, KubernetesClaims, TokenError, TokenSigner};
