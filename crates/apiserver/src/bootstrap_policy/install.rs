//! Writing the default roles, bindings and priority classes at a start, in as few transactions as the store allows.

use std::sync::Arc;

use jiff::Timestamp;
use store::{CommitError, Key, Mutation, Precondition, Write};

use super::{PolicyObject, objects, priority_classes, reconcile};
use crate::{bootstrap::BootstrapError, codec, meta, server::ApiServer};

/// How often the transaction is put together anew when another write was faster.
const ATTEMPTS_MAX: usize = 8;

impl ApiServer {
    /// Brings the default roles, bindings and priority classes up to date; a start that finds them so writes nothing.
    pub(crate) async fn install_policy(&self, now: Timestamp) -> Result<(), BootstrapError> {
        let mut wanted = objects();
        wanted.extend(priority_classes());
        let mut refusal = String::new();
        for _ in 0..ATTEMPTS_MAX {
            let changes = self.policy_changes(&wanted, now);
            if changes.is_empty() {
                return Ok(());
            }
            match self.write_policy(&changes).await {
                Ok(()) => return Ok(()),
                Err(error @ CommitError::Precondition { .. }) => refusal = error.to_string(),
                Err(error) => return Err(failed(error.to_string())),
            }
        }
        Err(failed(refusal))
    }

    async fn write_policy(&self, changes: &[(Write, serde_json::Value)]) -> Result<(), CommitError> {
        for changes in changes.chunks(self.store.writes_max()) {
            self.store.commit(changes.iter().map(|(write, _)| write.clone()).collect()).await?;
            let objects =
                changes.iter().map(|(write, object)| (&*write.key.collection, &*write.key.path, Some(object)));
            self.authorizer.apply_all(objects);
        }
        Ok(())
    }

    /// What has to be written, each with the object it writes.
    fn policy_changes(&self, wanted: &[PolicyObject], now: Timestamp) -> Vec<(Write, serde_json::Value)> {
        let snapshot = self.snapshot();
        wanted
            .iter()
            .filter_map(|wanted| {
                let stored = snapshot.get(wanted.collection, &wanted.path);
                let current = stored.as_ref().and_then(|object| codec::stored(&object.bytes).ok());
                let mut object = reconcile(current.as_ref(), &wanted.object)?;
                let precondition = match &stored {
                    None => {
                        meta::begin(&mut object, now);
                        Precondition::Absent
                    }
                    Some(stored) => Precondition::Revision(stored.revision),
                };
                let key = Key { collection: wanted.collection.into(), path: Arc::from(wanted.path.as_str()) };
                let mutation = Mutation::Put(codec::encode(&object));
                Some((Write { key, precondition, mutation }, object))
            })
            .collect()
    }
}

fn failed(message: String) -> BootstrapError {
    BootstrapError { path: "the default roles".to_owned(), message }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use identity::TokenSigner;

    use crate::{
        authorization::{Attributes, Decision},
        server::{ApiServer, ApiServerConfig},
        testing,
    };
    use strategy::User;

    #[tokio::test]
    async fn a_second_start_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let signer = TokenSigner::load_or_create(&directory.path().join("sa.key"), "issuer").unwrap();
        let server = ApiServer::new(testing::store(directory.path()), ApiServerConfig::default(), Arc::new(signer));
        server.install_policy(jiff::Timestamp::UNIX_EPOCH).await.unwrap();
        let revision = server.snapshot().revision();
        server.install_policy(jiff::Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(server.snapshot().revision(), revision);
        let user = User::new("system:kube-scheduler", &[]);
        let attributes = Attributes {
            user: &user,
            verb: "create",
            group: "",
            resource: "pods",
            subresource: "binding",
            namespace: "n",
            name: "p",
            path: None,
        };
        assert_eq!(server.authorizer.authorize(&attributes), Decision::Allow);
    }
}
