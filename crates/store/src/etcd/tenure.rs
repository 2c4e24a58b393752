//! Tenures: what keeps a server that led from writing as if it still did.
//!
//! Whoever leads may be stopped for any time, between any two steps, and go on when another one leads. So the leader begins a
//! tenure: it writes a key that all servers know by the name of its Lease, on the condition that the Lease is as the leader
//! wrote it. Each of its transactions insists on the revision of that key. The next leader's tenure writes the key anew,
//! and from that revision on nothing of the former leader is applied.

use super::{Backend, commit::MIRROR_PATIENCE, keys, messages::Txn};
use crate::{CommitError, Key, Revision};

/// The right to write as the leader, until somebody else begins a tenure of that name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenure {
    pub(super) key: Vec<u8>,
    pub(super) revision: u64,
}

impl Backend {
    /// Begins a tenure if an object's last change is this revision; `None` where it has changed since.
    ///
    /// When the answer is lost the tenure may have begun. That hurts nobody: who tries again makes a new one.
    pub(crate) async fn begin_tenure(
        &self,
        name: &str,
        witness: &Key,
        at: Revision,
    ) -> Result<Option<Tenure>, CommitError> {
        let key = format!("{}leaders/{name}", keys::OWN).into_bytes();
        let txn = Txn::default().if_changed_at(&keys::of(witness), at.0).put(&key, b"").into_bytes();
        let response = self.client.txn(&txn).await.map_err(|error| CommitError::Unavailable(error.to_string()))?;
        if !response.succeeded {
            return Ok(None);
        }
        // who begins has to see everything that the one before has written
        if !self.waiters.wait(response.revision, MIRROR_PATIENCE).await {
            return Err(CommitError::Unavailable("etcd does not tell of the tenure".to_owned()));
        }
        Ok(Some(Tenure { key, revision: response.revision }))
    }
}
