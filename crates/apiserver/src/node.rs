//! The way to a node: what the API server asks of whoever runs pods.

use futures::future::BoxFuture;
use http::{Request, Response};

use crate::body::Body;

/// A node could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum NodeConnectError {
    /// No node of this name is known.
    #[error("node {0:?} is not known")]
    Unknown(String),
    /// The node is known and does not answer.
    #[error("node {node:?} does not answer: {reason}")]
    Unreachable {
        /// Name of the node.
        node: String,
        /// What was seen.
        reason: String,
    },
}

/// Carries requests to the kubelet endpoints of nodes (`/containerLogs/…`, `/exec/…`, `/attach/…`, `/portForward/…`).
///
/// Upgrades pass through: the request carries hyper's `OnUpgrade` extension, and the node answers 101 and takes the
/// upgraded stream itself.
pub trait NodeConnector: Send + Sync {
    /// Sends the request to the node and returns its answer.
    fn call(&self, node: &str, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, NodeConnectError>>;
}
