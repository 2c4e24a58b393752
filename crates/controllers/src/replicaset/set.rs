//! What ReplicaSets and ReplicationControllers have in common: all but their types and names.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController};
use kube::core::NamespaceResourceScope;
use serde::de::DeserializeOwned;

use crate::owners::Selecting;
use crate::selector::{self, Labels};

/// A template and how many pods of it there are to be.
pub(super) trait Set:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Selecting
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// What its events come from.
    const COMPONENT: &'static str;
    /// Name of its queue, and of itself in errors.
    const QUEUE: &'static str;
    /// Whether its status counts pods that are on their way out.
    const COUNTS_TERMINATING: bool;

    /// How many pods are wanted.
    fn replicas(&self) -> i32;

    /// How long a pod has to be ready before it counts as available.
    fn min_ready_seconds(&self) -> i32;

    /// Whether a pod with these labels is one of its own.
    fn selects_labels(&self, labels: Option<&Labels>) -> bool;

    /// Whether the pod is one of its own, going by the labels.
    fn selects(&self, pod: &Pod) -> bool {
        self.selects_labels(pod.metadata.labels.as_ref())
    }

    /// What the pods look like.
    fn template(&self) -> PodTemplateSpec;

    /// The labels of the template.
    fn template_labels(&self) -> Option<&Labels>;

    /// Its status, in the form ReplicaSets have.
    fn status(&self) -> Option<ReplicaSetStatus>;
}

impl Set for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";
    const QUEUE: &'static str = "replicaset";
    const COUNTS_TERMINATING: bool = true;

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn selects_labels(&self, labels: Option<&Labels>) -> bool {
        let selector = self.spec.as_ref().map(|spec| &spec.selector);
        selector.is_some_and(|selector| !selector::is_empty(selector) && selector::matches(selector, labels))
    }

    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default()
    }

    fn template_labels(&self) -> Option<&Labels> {
        self.spec.as_ref()?.template.as_ref()?.metadata.as_ref()?.labels.as_ref()
    }

    fn status(&self) -> Option<ReplicaSetStatus> {
        self.status.clone()
    }
}

impl Set for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";
    const QUEUE: &'static str = "replicationcontroller";
    const COUNTS_TERMINATING: bool = false;

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn selects_labels(&self, labels: Option<&Labels>) -> bool {
        let wanted = self.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|labels| !labels.is_empty());
        wanted.is_some_and(|wanted| selector::contains_all(labels, wanted))
    }

    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default()
    }

    fn template_labels(&self) -> Option<&Labels> {
        self.spec.as_ref()?.template.as_ref()?.metadata.as_ref()?.labels.as_ref()
    }

    fn status(&self) -> Option<ReplicaSetStatus> {
        let status = self.status.clone()?;
        let conditions = status.conditions.map(|conditions| {
            let condition = |from: k8s_openapi::api::core::v1::ReplicationControllerCondition| ReplicaSetCondition {
                last_transition_time: from.last_transition_time,
                message: from.message,
                reason: from.reason,
                status: from.status,
                type_: from.type_,
            };
            conditions.into_iter().map(condition).collect()
        });
        Some(ReplicaSetStatus {
            available_replicas: status.available_replicas,
            conditions,
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
            terminating_replicas: None,
        })
    }
}
