//! What decides where a pod may run, apart from who it is. Pods of one shape are alike to the scheduler: they share one
//! description in memory and one evaluation of the nodes.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, Pod, PodAffinityTerm, PodSpec, TopologySpreadConstraint, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use kinds::demand::HostPort;
use kinds::matching::{Labels, NodeDemand, NodeTerm, Requirement, Selector, Toleration};

use crate::resources::Requests;

/// A term of inter-pod affinity or anti-affinity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PodTerm {
    /// Which pods are meant, in whichever namespaces.
    pub(crate) pods: PodSelection,
    /// The label that makes nodes one place.
    pub(crate) topology_key: String,
}

/// Pods by namespace and labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PodSelection {
    /// Namespaces by name.
    pub(crate) namespaces: BTreeSet<String>,
    /// Namespaces by their labels, besides those named; absent selects none.
    pub(crate) namespace_selector: Selector,
    /// Pods by their labels.
    pub(crate) selector: Selector,
}

impl PodSelection {
    /// Whether a pod is meant, given the labels of its namespace.
    pub(crate) fn selects(&self, namespace: &str, labels: &Labels, namespace_labels: &Labels) -> bool {
        (self.namespaces.contains(namespace) || self.namespace_selector.selects(namespace_labels))
            && self.selector.selects(labels)
    }
}

/// What a pod wants of the pods around it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PodAffinities {
    /// Must be beside.
    pub(crate) required: Vec<PodTerm>,
    /// Must not be beside.
    pub(crate) forbidden: Vec<PodTerm>,
    /// Should be beside, or (with a negative weight) should not.
    pub(crate) preferred: Vec<(i32, PodTerm)>,
}

/// A constraint on how pods are spread.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spread {
    /// By how much one domain may exceed another.
    pub(crate) max_skew: i32,
    /// The label that makes nodes one domain.
    pub(crate) topology_key: String,
    /// Whether a pod rather waits than breaks the constraint.
    pub(crate) hard: bool,
    /// Which pods count.
    pub(crate) selector: Selector,
    /// With fewer domains than this, the emptiest counts as empty.
    pub(crate) min_domains: i32,
    /// Whether only nodes that the pod's node affinity accepts count.
    pub(crate) honors_affinity: bool,
    /// Whether only nodes whose taints the pod tolerates count.
    pub(crate) honors_taints: bool,
}

/// What a pod mounts that may tie it to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum VolumeUse {
    /// A claim of the pod's namespace.
    Claim {
        /// Its name.
        name: String,
        /// The uid of the pod that it must have been made for.
        made_for: Option<String>,
    },
    /// A disk that two pods of one node cannot both write.
    Disk {
        /// Which one, with its kind.
        id: String,
        /// Whether this pod only reads it, where that lets others read too.
        shared: bool,
    },
    /// A volume of a CSI driver inside the pod.
    InlineCsi {
        /// The driver.
        driver: String,
    },
}

/// The controller of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    /// Its kind.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
}

/// All that decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ShapeParts {
    /// Namespace.
    pub(crate) namespace: String,
    /// Labels.
    pub(crate) labels: Labels,
    /// `schedulerName`.
    pub(crate) scheduler: String,
    /// What it asks for.
    pub(crate) requests: Requests,
    /// The nodes it accepts.
    pub(crate) demand: NodeDemand,
    /// Nodes it likes, with how much.
    pub(crate) preferences: Vec<(i32, NodeTerm)>,
    /// Taints it tolerates.
    pub(crate) tolerations: Vec<Toleration>,
    /// Ports it opens on the node.
    pub(crate) host_ports: Vec<HostPort>,
    /// What it wants of the pods around it.
    pub(crate) affinities: PodAffinities,
    /// How it wants to be spread.
    pub(crate) spread: Vec<Spread>,
    /// Its controller.
    pub(crate) owner: Option<Owner>,
    /// Its images, one per container.
    pub(crate) images: Vec<String>,
    /// What it mounts.
    pub(crate) volumes: Vec<VolumeUse>,
    /// Pods of higher priority are placed first.
    pub(crate) priority: i32,
    /// Whether it never drives other pods out.
    pub(crate) never_preempts: bool,
    /// Whether it is on its way out.
    pub(crate) terminating: bool,
}

/// The parts with their hash, which is asked for at every decision.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    parts: ShapeParts,
    hash: u64,
}

impl Shape {
    /// Freezes the parts.
    pub(crate) fn new(parts: ShapeParts) -> Self {
        let mut hasher = DefaultHasher::new();
        parts.hash(&mut hasher);
        Self { hash: hasher.finish(), parts }
    }

    /// Reads a pod.
    pub(crate) fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let controller = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let mut parts = ShapeParts {
            namespace: meta.namespace.clone().unwrap_or_default(),
            labels: meta.labels.clone().unwrap_or_default(),
            owner: controller.map(|owner| Owner { kind: owner.kind.clone(), name: owner.name.clone() }),
            terminating: meta.deletion_timestamp.is_some(),
            requests: Requests::of(pod),
            ..ShapeParts::default()
        };
        if let Some(spec) = &pod.spec {
            parts.read(spec, meta);
        }
        Self::new(parts)
    }
}

impl Deref for Shape {
    type Target = ShapeParts;

    fn deref(&self) -> &ShapeParts {
        &self.parts
    }
}

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.parts == other.parts
    }
}

impl Eq for Shape {}

impl Hash for Shape {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Default for Shape {
    fn default() -> Self {
        Self::new(ShapeParts::default())
    }
}

impl ShapeParts {
    fn read(&mut self, spec: &PodSpec, pod: &ObjectMeta) {
        self.scheduler = spec.scheduler_name.clone().unwrap_or_default();
        self.demand = NodeDemand::of(spec);
        if let Some(affinity) = &spec.affinity {
            self.read_affinity(affinity);
        }
        self.tolerations = spec.tolerations.iter().flatten().map(Toleration::of).collect();
        self.host_ports = HostPort::of(spec).collect();
        self.spread = spec.topology_spread_constraints.iter().flatten().map(|c| spread(c, &self.labels)).collect();
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        self.images = containers.map(|c| c.image.as_deref().unwrap_or_default()).map(normal_image).collect();
        let volumes = spec.volumes.iter().flatten();
        let mounted = volumes.clone().filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
        self.images.extend(mounted.map(normal_image));
        self.volumes = volumes.flat_map(|volume| volume_uses(volume, pod)).collect();
        self.priority = spec.priority.unwrap_or(0);
        self.never_preempts = spec.preemption_policy.as_deref() == Some("Never");
    }

    fn read_affinity(&mut self, affinity: &Affinity) {
        if let Some(node) = &affinity.node_affinity {
            self.preferences = preferences(node);
        }
        let term = |term: &PodAffinityTerm| pod_term(term, &self.namespace, &self.labels);
        if let Some(pods) = &affinity.pod_affinity {
            let required = pods.required_during_scheduling_ignored_during_execution.iter().flatten();
            self.affinities.required = required.map(term).collect();
            let preferred = pods.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            self.affinities.preferred = preferred.map(|p| (p.weight, term(&p.pod_affinity_term))).collect();
        }
        if let Some(pods) = &affinity.pod_anti_affinity {
            let required = pods.required_during_scheduling_ignored_during_execution.iter().flatten();
            self.affinities.forbidden = required.map(term).collect();
            let preferred = pods.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            let shunned = preferred.map(|p| (-p.weight, term(&p.pod_affinity_term)));
            self.affinities.preferred.extend(shunned);
        }
    }
}

/// The nodes that a node affinity likes, with how much.
pub(crate) fn preferences(affinity: &NodeAffinity) -> Vec<(i32, NodeTerm)> {
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    preferred.map(|preferred| (preferred.weight, NodeTerm::of(&preferred.preference))).collect()
}

fn pod_term(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> PodTerm {
    let mut selector = Selector::of(term.label_selector.as_ref());
    // The API server adds these keys to the selector of new pods; older pods have them apart.
    for key in term.match_label_keys.iter().flatten() {
        if let Some(value) = labels.get(key) {
            selector.and(Requirement::equals(key, value));
        }
    }
    for key in term.mismatch_label_keys.iter().flatten() {
        if let Some(value) = labels.get(key) {
            selector.and(Requirement::differs(key, value));
        }
    }
    let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.insert(namespace.to_owned());
    }
    let namespace_selector = Selector::of(term.namespace_selector.as_ref());
    PodTerm { pods: PodSelection { namespaces, namespace_selector, selector }, topology_key: term.topology_key.clone() }
}

/// Reads a constraint as it is for a pod with these labels.
pub(crate) fn spread(constraint: &TopologySpreadConstraint, labels: &Labels) -> Spread {
    let mut selector = Selector::of(constraint.label_selector.as_ref());
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = labels.get(key) {
            selector.and(Requirement::equals(key, value));
        }
    }
    Spread {
        max_skew: constraint.max_skew,
        topology_key: constraint.topology_key.clone(),
        hard: constraint.when_unsatisfiable == "DoNotSchedule",
        selector,
        min_domains: constraint.min_domains.unwrap_or(1),
        honors_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honors_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

/// The image's name as nodes report it: with a tag where there is neither tag nor digest.
fn normal_image(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || image.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

fn volume_uses(volume: &Volume, pod: &ObjectMeta) -> Vec<VolumeUse> {
    let disk = |id: String, shared: bool| vec![VolumeUse::Disk { id, shared }];
    if let Some(claim) = &volume.persistent_volume_claim {
        return vec![VolumeUse::Claim { name: claim.claim_name.clone(), made_for: None }];
    }
    if volume.ephemeral.is_some() {
        let name = format!("{}-{}", pod.name.as_deref().unwrap_or_default(), volume.name);
        return vec![VolumeUse::Claim { name, made_for: Some(pod.uid.clone().unwrap_or_default()) }];
    }
    if let Some(csi) = &volume.csi {
        return vec![VolumeUse::InlineCsi { driver: csi.driver.clone() }];
    }
    if let Some(gce) = &volume.gce_persistent_disk {
        return disk(format!("gce/{}", gce.pd_name), gce.read_only == Some(true));
    }
    if let Some(aws) = &volume.aws_elastic_block_store {
        return disk(format!("aws/{}", aws.volume_id), false);
    }
    if let Some(iscsi) = &volume.iscsi {
        return disk(format!("iscsi/{}", iscsi.iqn), iscsi.read_only == Some(true));
    }
    let Some(rbd) = &volume.rbd else { return Vec::new() };
    let (pool, shared) = (rbd.pool.as_deref().unwrap_or("rbd"), rbd.read_only == Some(true));
    // Clusters are the same where they share a monitor.
    let ids = rbd.monitors.iter().map(|monitor| format!("rbd/{monitor}/{pool}/{}", rbd.image));
    ids.map(|id| VolumeUse::Disk { id, shared }).collect()
}
