//! What a set has to know of each of its pods. A large set has more pods than are kept decoded, and looks at all of them
//! whenever one changes.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::set::Set;
use crate::selector::Labels;
use crate::{owners, pods};

/// One pod.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fact {
    /// Mostly those of the template: pods share them.
    labels: Arc<Option<Labels>>,
    pub(super) is_terminal: bool,
    pub(super) is_leaving: bool,
    pub(super) is_ready: bool,
    pub(super) ready_since: Option<Timestamp>,
}

impl Fact {
    /// Of a pod; its labels may be those of `another`.
    pub(super) fn of(pod: &Pod, another: Option<&Self>) -> Self {
        let labels = another.map(|another| &another.labels).filter(|labels| ***labels == pod.metadata.labels);
        Self {
            labels: labels.map_or_else(|| Arc::new(pod.metadata.labels.clone()), Arc::clone),
            is_terminal: pods::is_terminal(pod),
            is_leaving: pod.metadata.deletion_timestamp.is_some(),
            is_ready: pods::is_ready(pod),
            ready_since: pods::ready_since(pod),
        }
    }

    pub(super) fn labels(&self) -> Option<&Labels> {
        (*self.labels).as_ref()
    }

    /// Whether the pod counts as a running replica or will become one.
    pub(super) fn is_active(&self) -> bool {
        !self.is_terminal && !self.is_leaving
    }
}

/// The uid of the set that controls the pod, if such a set does.
pub(super) fn controller_uid<S: Set>(pod: &Pod) -> Option<String> {
    let owner = owners::controller_of(&pod.metadata)?;
    let is_set = owner.kind == S::kind(&()) && owner.api_version == S::api_version(&());
    is_set.then(|| owner.uid.clone())
}
