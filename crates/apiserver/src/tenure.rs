//! Tenures: a part of this process that does what one of several servers does at a time writes only while it leads.

use std::sync::Arc;

use serde_json::Value;
use store::{CommitError, Key, Tenure};
use strategy::User;

use crate::server::ApiServer;

/// The collection of Leases.
const LEASES: &str = "coordination.k8s.io/leases";
/// Where the Leases of components lie.
const NAMESPACE: &str = "kube-system";
/// Looks at a Lease that changes meanwhile: its holder renews it every few seconds, and a look takes milliseconds.
const ATTEMPTS_MAX: usize = 5;

impl ApiServer {
    /// As [`ApiServer::client`], for as long as a tenure lasts: after that it writes nothing.
    pub fn client_during(self: &Arc<Self>, tenure: &Arc<Tenure>, user: User) -> kube::Client {
        self.component(user, Some(tenure.clone()))
    }

    /// Begins the tenure of who holds a Lease of `kube-system`; `None` where `identity` does not.
    ///
    /// # Errors
    /// When the store cannot be asked, or the Lease changes faster than this can look.
    pub async fn begin_tenure(&self, lease: &str, identity: &str) -> Result<Option<Arc<Tenure>>, CommitError> {
        let key = Key { collection: LEASES.into(), path: format!("{NAMESPACE}/{lease}").into() };
        for _ in 0..ATTEMPTS_MAX {
            self.store.latest().await.map_err(|error| CommitError::Unavailable(error.0))?;
            let Some(found) = self.store.snapshot().get(&key.collection, &key.path).cloned() else { return Ok(None) };
            let held: Value = serde_json::from_slice(&found.bytes).unwrap_or_default();
            if held.pointer("/spec/holderIdentity").and_then(Value::as_str) != Some(identity) {
                return Ok(None);
            }
            if let Some(tenure) = self.store.begin_tenure(lease, &key, found.revision).await? {
                return Ok(Some(Arc::new(tenure)));
            }
        }
        Err(CommitError::Unavailable(format!("the lease {lease} keeps changing")))
    }
}
