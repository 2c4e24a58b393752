//! Nodes and pods for tests, and the questions tests ask.

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use crate::config::Configuration;
use crate::plugin::Event;
use crate::pod::PodInfo;
use crate::schedule::{Placement, Planner};
use crate::snapshot::Snapshot;

/// `base` with the members of `extra` in the place of its own, member by member.
fn merged(mut base: Value, extra: &Value) -> Value {
    match (&mut base, extra) {
        (Value::Object(base), Value::Object(extra)) => {
            for (key, value) in extra {
                let merged = merged(base.remove(key).unwrap_or(Value::Null), value);
                base.insert(key.clone(), merged);
            }
        }
        _ => return extra.clone(),
    }
    base
}

/// A node of 4 CPUs, 8 GiB and 110 pods, with its host name as label.
pub(crate) fn node(name: &str, extra: &Value) -> Node {
    let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}});
    serde_json::from_value(merged(node, extra)).unwrap()
}

/// A node with labels besides its host name.
pub(crate) fn labelled(name: &str, labels: &Value) -> Node {
    node(name, &json!({"metadata": {"labels": labels}}))
}

/// A pod of the namespace `default` whose container asks for 100m and nothing else.
pub(crate) fn pod(name: &str, extra: &Value) -> PodInfo {
    let pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"schedulerName": "default-scheduler",
            "containers": [{"name": "c", "image": "web:1", "resources": {"requests": {"cpu": "100m"}}}]}});
    PodInfo::of(&serde_json::from_value(merged(pod, extra)).unwrap())
}

/// A pod with labels and a part of its spec.
pub(crate) fn pod_with(name: &str, labels: &Value, spec: &Value) -> PodInfo {
    pod(name, &json!({"metadata": {"labels": labels}, "spec": spec}))
}

/// A pod that asks for so much CPU.
pub(crate) fn pod_of(name: &str, cpu: &str, extra: &Value) -> PodInfo {
    let containers = json!([{"name": "c", "image": "web:1", "resources": {"requests": {"cpu": cpu}}}]);
    pod(name, &merged(json!({"spec": {"containers": containers}}), extra))
}

/// A snapshot and the plug-ins of the standard profile.
pub(crate) struct Cluster {
    pub(crate) snapshot: Snapshot,
    pub(crate) planner: Planner,
}

impl Cluster {
    pub(crate) fn of(nodes: &[Node]) -> Self {
        Self::with(&Configuration::default(), nodes)
    }

    pub(crate) fn with(configuration: &Configuration, nodes: &[Node]) -> Self {
        let planner = Planner::new(configuration);
        let mut snapshot = Snapshot::new();
        for node in nodes {
            snapshot.set_node(node);
        }
        Self { snapshot, planner }
    }

    /// Places a pod by hand.
    pub(crate) fn place(&mut self, pod: &PodInfo, node: &str) {
        self.snapshot.place(pod, node);
    }

    pub(crate) fn decide(&mut self, pod: &PodInfo) -> Placement {
        self.planner.decide(&mut self.snapshot, pod, 7)
    }

    /// The node a pod goes to.
    pub(crate) fn node_for(&mut self, pod: &PodInfo) -> String {
        match self.decide(pod) {
            Placement::Node { name, .. } => name,
            Placement::Unschedulable(why) => panic!("{why}"),
        }
    }

    /// All nodes that would take the pod.
    pub(crate) fn nodes_for(&mut self, pod: &PodInfo) -> Vec<String> {
        self.planner.feasible(&mut self.snapshot, pod)
    }

    /// What one plug-in gives each node that takes the pod, by the nodes' names.
    pub(crate) fn scores(&mut self, plugin: &str, pod: &PodInfo) -> Vec<i64> {
        self.planner.scores_of(&mut self.snapshot, plugin, pod)
    }

    /// Why no node takes the pod.
    pub(crate) fn refusal(&mut self, pod: &PodInfo) -> String {
        match self.decide(pod) {
            Placement::Node { name, .. } => panic!("placed on {name}"),
            Placement::Unschedulable(why) => why.to_string(),
        }
    }

    /// Whether an event may help a pod that no node takes now.
    pub(crate) fn helps(&mut self, pod: &PodInfo, event: impl FnOnce(&mut Snapshot) -> Event) -> bool {
        let Placement::Unschedulable(why) = self.decide(pod) else { panic!("the pod has a node") };
        let event = event(&mut self.snapshot);
        self.planner.may_help(&self.snapshot, &pod.shape, why.plugins, &event)
    }
}
