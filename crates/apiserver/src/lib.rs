//! The Kubernetes HTTP API over the store.
//!
//! It turns requests into reads of store snapshots and into commits: connections and who is at their other end, access
//! rules, decoding, admission, validation, patches, watches, discovery. Kinds are rows of a table ([`kinds`]) with a
//! schema ([`schema`]) and rules of their own ([`strategy`]); no kind has a handler of its own.
//! CustomResourceDefinitions add rows while the server runs.
//!
//! It is no controller: nothing here runs by itself. The one thing done besides answering is that a
//! CustomResourceDefinition establishes itself, and takes its objects along when it goes.
//!
//! [`ApiServer`] is the server; [`ApiServer::serve`] answers on sockets, [`ApiServer::service`] and
//! [`ApiServer::client`] in process. [`NodeConnector`] is how it reaches kubelets.
//!
//! Invariants: an object is serialised once, and every reader and watcher gets those bytes; a read never waits for a
//! writer; what a write changed of the server's own memory (access rules, definitions, allocations) is in place before
//! the writer is answered.

mod addresses;
pub mod admission;
pub mod allocation;
pub mod audit;
pub mod authorization;
pub mod bootstrap_policy;

mod aggregation;
mod at_rest;
mod authentication;
mod backup;
mod body;
mod bootstrap;
mod codec;
mod columns;
mod connection;
mod conversion;
mod convert;
mod crd;
mod decoded;
mod deletion;
mod discovery;
mod dispatch;
mod events;
mod flow;
mod foreign;
mod handlers;
mod health;
mod impersonation;
mod indented;
mod indexes;
mod matching;
mod meta;
mod metrics;
mod negotiation;
mod node;
mod openapi;
mod options;
mod outbound;
mod outline;
mod output;
mod passage;
mod path;
mod policies;
mod proxy;
mod resources;
mod selection;
mod server;
mod status;
mod tenure;
#[cfg(test)]
mod testing;
mod tls;
mod turns;
mod warnings;
mod webhooks;
mod websocket;
mod written;

pub use at_rest::{EncryptionAtRest, EncryptionFileError};
pub use authentication::{ClientKinds, OidcConfig, RequestHeaderConfig};
pub use body::{Body, BoxError, REQUEST_BYTES_MAX, empty, full};
pub use bootstrap::BootstrapError;
pub use flow::SEATS;
pub use foreign::KubeApiserver;
pub use handlers::FRAMES;
pub use health::Check;
pub use indexes::INDEXES;
pub use node::{NodeConnectError, NodeConnector};
pub use server::{ApiServer, ApiServerConfig, ApiService};
pub use strategy::User;
pub use tls::{SharedTls, Tls};
