//! A pod as the scheduler sees it: who it is, and its shape.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use reconcile::Key;

use crate::shape::Shape;

/// A pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodInfo {
    /// Namespace and name.
    pub key: Key,
    /// Unique id.
    pub uid: Arc<str>,
    /// What decides where it may run; shared with pods alike.
    pub(crate) shape: Arc<Shape>,
    /// When it began, in seconds: of equal pods the one that runs longest is driven out last.
    pub(crate) started: i64,
    /// The node that was made free for it.
    pub(crate) nominated: Option<String>,
    /// Whether it is leaving because it was driven out.
    pub(crate) preempted: bool,
}

impl PodInfo {
    /// Reads a pod.
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let status = pod.status.as_ref();
        let started = status.and_then(|status| status.start_time.as_ref()).or(meta.creation_timestamp.as_ref());
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        Self {
            key: Key::of(pod),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            shape: Arc::new(Shape::of(pod)),
            started: started.map_or(0, |time| time.0.as_second()),
            nominated: status.and_then(|status| status.nominated_node_name.clone()).filter(|name| !name.is_empty()),
            preempted: conditions.iter().any(|condition| {
                condition.type_ == "DisruptionTarget"
                    && condition.status == "True"
                    && condition.reason.as_deref() == Some("PreemptionByScheduler")
            }),
        }
    }
}
