//! The cluster's identities: its certificate authority and the tokens of its service accounts.
//!
//! [`Authority`] is the root of trust of one installation. It signs server and client certificates (ECDSA P-256; a
//! client's user is the common name, its groups the organisations, as Kubernetes reads them), and what somebody else asks
//! for in a [`CertificateRequest`]. [`TokenSigner`] signs and verifies service-account tokens (JWT); [`jwt`] verifies
//! tokens of other issuers. [`workload`] is the same for pods: an authority of its own, whose certificates say which
//! service account a pod runs as. Keys are made at first start and kept in a folder that only the owner can read; a file is
//! written beside its target, synced and renamed, so a crash never leaves half a key.
//!
//! This crate opens no socket and reads no clock: the time is an argument. Whether the objects that a token is bound to
//! still exist is the API server's question.

mod authority;
mod bootstrap_token;
mod certificate_request;
mod der;
pub mod encryption;
mod file;
mod issue;
pub mod jwt;
mod kubeconfig;
mod token;
pub mod workload;

pub use authority::{Authority, AuthorityError, KeyPair, validity};
pub use bootstrap_token::{BootstrapToken, detached_signature};
pub use certificate_request::{CertificateRequest, CertificateRequestError};
pub use file::{FileError, write_private};
pub use issue::{UnknownUsages, Usages};
pub use kubeconfig::{Kubeconfig, KubeconfigError};
pub use token::{BoundObject, Claims, KubernetesClaims, LegacyClaims, TokenError, TokenSigner, Verified};
pub use workload::SpiffeId;
