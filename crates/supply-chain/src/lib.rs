//! Where images come from: the embedded registry, and the reproducible image builder.
//!
//! [`Registry`] is an OCI distribution 1.1 server over plain HTTP with its content in a folder. [`build`] makes an image
//! from a static binary or a root filesystem; the same input gives the same digest, always. [`RegistryClient`] pushes,
//! lists, inspects and removes images over HTTP for the command line.
//!
//! It does not run Dockerfiles, does not pull for the node (`runtime` does), and knows no users: it listens on loopback.
//!
//! Invariants: a blob that is visible under its digest is complete, verified and on disk; a manifest that is visible
//! refers only to content that is there; what is stored twice is kept once.

mod build;
mod client;
mod digest;
mod oci;
mod reference;
mod registry;

pub use build::{BuildError, BuildSpec, Built, ConfigError, ImageConfig, LayoutError, Port, Source, build, build_into};
pub use client::{ClientError, ImageDetails, ImageSummary, RegistryClient};
pub use digest::{Digest, DigestError};
pub use oci::Descriptor;
pub use reference::{Reference, ReferenceError};
pub use registry::{Collected, Registry, RegistryError, RegistryOptions, StorageError};
