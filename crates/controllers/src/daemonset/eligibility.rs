//! Which nodes a DaemonSet runs on.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Affinity, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration};
use kinds::matching::{self, Labels, NodeDemand};

use crate::pods;

/// What a daemon pod tolerates by itself: it runs on nodes that are not as they should be, and stays on them.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// What one on the host's network tolerates besides.
const TOLERATED_ON_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");
/// The field by which a pod is pinned to a node; the scheduler then places it.
const NAME_FIELD: &str = "metadata.name";

/// What a DaemonSet has to do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eligibility {
    /// It is to run there.
    Runs,
    /// It starts nothing there, but what runs there may stay.
    Stays,
    /// It is not to run there.
    Leaves,
}

/// The pod spec with the tolerations every daemon pod has.
pub(super) fn daemon_spec(daemon: &DaemonSet) -> PodSpec {
    let mut spec = daemon.spec.as_ref().and_then(|spec| spec.template.spec.clone()).unwrap_or_default();
    let host = (spec.host_network == Some(true)).then_some(TOLERATED_ON_HOST_NETWORK);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(host) {
        let wanted = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        let same = |given: &&mut Toleration| {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            given.key == wanted.key
                && given.effect == wanted.effect
                && given.operator == wanted.operator
                && text(&given.value).is_empty()
        };
        // Given with a time limit it loses the limit, as upstream.
        match tolerations.iter_mut().find(same) {
            Some(given) => *given = wanted,
            None => tolerations.push(wanted),
        }
    }
    spec
}

/// What decides where a DaemonSet runs, read from the spec of its pods once.
pub(super) struct Rule {
    /// The only node, where the spec names one.
    node: Option<String>,
    demand: NodeDemand,
    tolerations: Vec<matching::Toleration>,
}

impl Rule {
    /// Reads the spec.
    pub(super) fn of(spec: &PodSpec) -> Self {
        Self {
            node: spec.node_name.clone().filter(|name| !name.is_empty()),
            demand: NodeDemand::of(spec),
            tolerations: spec.tolerations.iter().flatten().map(matching::Toleration::of).collect(),
        }
    }

    /// What the DaemonSet has to do with the node.
    pub(super) fn eligibility(&self, node: &Node) -> Eligibility {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let none = Labels::new();
        let labels = node.metadata.labels.as_ref().unwrap_or(&none);
        if self.node.as_ref().is_some_and(|wanted| wanted != name) || !self.demand.accepts(name, labels) {
            return Eligibility::Leaves;
        }
        let mut eligibility = Eligibility::Runs;
        for taint in node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()) {
            if matching::tolerated(&self.tolerations, taint) {
                continue;
            }
            match taint.effect.as_str() {
                "NoExecute" => return Eligibility::Leaves,
                "NoSchedule" => eligibility = Eligibility::Stays,
                _ => {}
            }
        }
        eligibility
    }
}

/// Pins a pod to a node. What the node affinity asked for besides has been looked at already.
pub(super) fn pin(spec: &mut PodSpec, node: &str) {
    let term = NodeSelectorTerm {
        match_fields: Some(vec![NodeSelectorRequirement {
            key: NAME_FIELD.into(),
            operator: "In".into(),
            values: Some(vec![node.to_owned()]),
        }]),
        match_expressions: None,
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let nodes = affinity.node_affinity.get_or_insert_default();
    nodes.required_during_scheduling_ignored_during_execution.get_or_insert_default().node_selector_terms = vec![term];
}

/// The node a daemon pod is on or pinned to.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    pods::node_name(pod).or_else(|| {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
        let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
        let mut names = fields.filter(|field| field.key == NAME_FIELD && field.operator == "In");
        match names.next()?.values.as_deref() {
            Some([name]) => Some(name),
            _ => None,
        }
    })
}
