//! Writes the pod's status: only changes, the latest wins, and a bounded number of retries.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use pod_lifecycle::status::patch;
use serde_json::Value;

use super::{Done, StatusState, Worker};

/// Tries of one write before the worker is asked again.
const TRIES_MAX: u32 = 5;
/// The first wait between tries; doubled each time.
const TRY_WAIT: Duration = Duration::from_millis(100);
/// After all tries failed.
const RETRY_LATER: SignedDuration = SignedDuration::from_secs(10);

impl StatusState {
    /// Whether the API has what was last wanted, or never will.
    pub(super) fn is_settled(&self) -> bool {
        self.sending.is_none() && self.wanted.is_none()
    }
}

impl Worker {
    pub(super) fn send_status(&mut self, rendered: PodStatus, now: Timestamp) {
        let latest = self.status.wanted.as_ref().or(self.status.sending.as_ref()).or(self.status.written.as_ref());
        if latest != Some(&rendered) {
            self.status.wanted = Some(rendered);
        }
        if self.status.sending.is_some() || self.status.retry_at.is_some_and(|at| at > now) {
            return;
        }
        let Some(wanted) = self.status.wanted.take() else { return };
        self.status.sending = Some(wanted.clone());
        self.status.retry_at = None;
        let (namespace, name) = self.names();
        let patch = patch(self.uid(), self.status.written.as_ref(), &wanted);
        let write =
            write(self.shared.client.clone(), namespace.to_owned(), name.to_owned(), self.uid().to_owned(), patch);
        self.ops.spawn(async move { Done::Status { written: write.await } });
    }

    pub(super) fn take_status_written(&mut self, written: bool) {
        let sent = self.status.sending.take();
        if written {
            self.status.written = sent;
        } else {
            // Newer wishes go first; without one the same is tried again later.
            self.status.wanted = self.status.wanted.take().or(sent);
            self.status.retry_at = Timestamp::now().checked_add(RETRY_LATER).ok();
        }
    }

    /// The last word of the node on a deleted pod.
    pub(super) fn delete_from_api(&mut self) {
        let (namespace, name) = self.names();
        let pods: Api<Pod> = Api::namespaced(self.shared.client.clone(), namespace);
        let (name, uid) = (name.to_owned(), self.uid().to_owned());
        self.ops.spawn(async move {
            let preconditions = Preconditions { uid: Some(uid), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
            let mut wait = TRY_WAIT;
            loop {
                match pods.delete(&name, &params).await {
                    Ok(_) => return Done::Deleted,
                    Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => return Done::Deleted,
                    Err(error) => tracing::debug!(pod = name, %error, "cannot delete pod"),
                }
                // The pod cannot be left: the wait is bounded, the number of tries is not, and the task ends with the
                // worker.
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(30));
            }
        });
    }
}

/// Writes one status; `true` when the API has it, or the pod is not there to have one.
async fn write(client: Client, namespace: String, name: String, uid: String, patch: Value) -> bool {
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let patch = Patch::Strategic(patch);
    let mut wait = TRY_WAIT;
    for _ in 0..TRIES_MAX {
        match pods.patch_status(&name, &PatchParams::default(), &patch).await {
            Ok(_) => return true,
            Err(kube::Error::Api(status)) if status.code == 404 => return true,
            Err(error) => {
                tracing::debug!(pod = name, %error, "cannot write pod status");
                // A conflict may mean that another pod has the name now.
                let conflict = matches!(&error, kube::Error::Api(status) if status.code == 409);
                if conflict && is_another(&pods, &name, &uid).await {
                    return true;
                }
            }
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    tracing::warn!(pod = name, namespace, "pod status was not written");
    false
}

async fn is_another(pods: &Api<Pod>, name: &str, uid: &str) -> bool {
    match pods.get_opt(name).await {
        Ok(found) => found.is_none_or(|pod| pod.metadata.uid.as_deref() != Some(uid)),
        Err(_) => false,
    }
}
