//! One write about a pod.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use reconcile::Key;
use serde_json::Value;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Write {
    /// The patch of a status.
    Status(Value),
    /// The end of a pod that waits for it.
    Delete,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Written {
    /// The pod as it is now.
    Pod(Box<Pod>),
    /// The pod is not there any more, or was told to go at once.
    Gone { uid: String },
    /// It has to be written again.
    Failed { uid: String },
}

/// Writes; `uid` keeps it from touching another pod of the name.
pub(super) async fn write(client: Client, key: &Key, uid: &str, what: Write) -> Written {
    let pods: Api<Pod> = Api::namespaced(client, &key.namespace);
    let uid = uid.to_owned();
    let result = match what {
        Write::Status(status) => {
            let patch = Patch::Strategic(status);
            pods.patch_status(&key.name, &PatchParams::default(), &patch).await.map(|pod| Written::Pod(Box::new(pod)))
        }
        Write::Delete => {
            let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
            // finalizers may keep it; then there is nothing left to do either
            pods.delete(&key.name, &params).await.map(|_| Written::Gone { uid: uid.clone() })
        }
    };
    match result {
        Ok(written) => written,
        Err(kube::Error::Api(status)) if status.code == 404 => Written::Gone { uid },
        Err(error) => {
            tracing::debug!(pod = key.name, namespace = key.namespace, %error, "cannot write about pod");
            Written::Failed { uid }
        }
    }
}
