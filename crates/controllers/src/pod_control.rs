//! Creating and deleting the pods of a workload, with the events every workload controller gives.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use reconcile::{EventType, Key, Recorder};

use crate::brief::Brief;
use crate::context::{Context, cause, is_namespace_terminating, is_not_found};
use crate::pending::PendingWrites;

/// Writes pods for one owner in one reconcile: tells of it by events on the owner, and remembers it in `pending`.
pub(crate) struct PodControl<'a, O> {
    pods: Brief,
    owner: &'a O,
    key: &'a Key,
    recorder: &'a Recorder,
    pending: &'a PendingWrites,
}

impl<'a, O: kube::Resource<DynamicType = ()>> PodControl<'a, O> {
    /// For the owner that `key` names.
    pub(crate) fn new(
        context: &Context,
        owner: &'a O,
        key: &'a Key,
        recorder: &'a Recorder,
        pending: &'a PendingWrites,
    ) -> Self {
        Self { pods: context.brief::<Pod>(&key.namespace), owner, key, recorder, pending }
    }

    /// Creates a pod. In a namespace that is being deleted nothing is created, which is no failure.
    pub(crate) async fn create(&self, pod: &Pod) -> Result<(), kube::Error> {
        match self.pods.create(pod).await {
            Ok(created) => {
                self.pending.wrote(self.key, &created);
                let message = format!("Created pod: {}", created.name.unwrap_or_default());
                self.recorder.about(self.owner, EventType::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) if is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                let message = format!("Error creating: {}", cause(&error));
                self.recorder.about(self.owner, EventType::Warning, "FailedCreate", message);
                Err(error)
            }
        }
    }

    /// Deletes exactly this pod; one that is gone already needs nothing.
    pub(crate) async fn delete(&self, pod: &Pod) -> Result<(), kube::Error> {
        let name = pod.name_any();
        match self.pods.delete(&name, &deletion(pod)).await {
            Ok(()) => {
                self.pending.deleted(self.key, &pod.metadata);
                self.recorder.about(self.owner, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => {
                let message = format!("Error deleting: {}", cause(&error));
                self.recorder.about(self.owner, EventType::Warning, "FailedDelete", message);
                Err(error)
            }
        }
    }
}

/// Asks for the deletion of this pod and of no later one of the same name.
pub(crate) fn deletion(pod: &Pod) -> DeleteParams {
    let preconditions = Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
    DeleteParams { preconditions, ..DeleteParams::background() }
}
