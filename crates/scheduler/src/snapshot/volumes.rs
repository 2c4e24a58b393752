//! Claims, volumes, classes and what nodes can attach, as far as they decide where pods go.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, StorageClass};
use kinds::matching::{Labels, NodeDemand, NodeTerm, Selector};
use kinds::quantity;

/// Says that a claim and its volume are bound for good.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Tells the provisioner where a claim's volume is needed.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// A claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Claim {
    pub(crate) volume: Option<String>,
    pub(crate) bind_completed: bool,
    pub(crate) class: String,
    pub(crate) modes: Vec<String>,
    volume_mode: String,
    pub(crate) bytes: i64,
    selector: Option<Selector>,
    pub(crate) selected_node: Option<String>,
    pub(crate) deleting: bool,
    pub(crate) lost: bool,
    /// The uid of the pod it was made for.
    pub(crate) pod: Option<String>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Volume {
    pub(crate) demand: NodeDemand,
    pub(crate) labels: Labels,
    class: String,
    bytes: i64,
    modes: Vec<String>,
    volume_mode: String,
    /// Namespace and name of its claim.
    claim: Option<(String, String)>,
    available: bool,
    deleting: bool,
    /// CSI driver and its name for the volume.
    pub(crate) csi: Option<(String, String)>,
}

/// A class.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Class {
    /// Whether volumes are bound when the first pod needs them.
    pub(crate) waits: bool,
    provisions: bool,
    /// Nodes where volumes can be made; none means everywhere.
    topologies: Vec<NodeTerm>,
}

/// How an unbound claim gets its volume on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provision {
    /// It takes this volume.
    Take {
        /// The claim.
        claim: String,
        /// The volume.
        volume: String,
    },
    /// One is made on the node.
    Make {
        /// The claim.
        claim: String,
    },
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes {
    claims: HashMap<(String, String), Claim>,
    volumes: HashMap<String, Volume>,
    classes: HashMap<String, Class>,
    limits: HashMap<String, HashMap<String, i64>>,
    /// Volumes that claims are about to take.
    reserved: HashMap<String, (String, String)>,
    version: u64,
}

impl Claim {
    /// Reads a claim.
    pub(crate) fn of(claim: &PersistentVolumeClaim) -> Self {
        let spec = claim.spec.clone().unwrap_or_default();
        let annotations = claim.metadata.annotations.as_ref();
        let annotation = |name: &str| annotations.and_then(|annotations| annotations.get(name));
        let storage = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage"));
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        let mut owners = claim.metadata.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true));
        Self {
            volume: spec.volume_name.filter(|name| !name.is_empty()),
            bind_completed: annotation(BIND_COMPLETED).is_some(),
            class: spec.storage_class_name.unwrap_or_default(),
            modes: spec.access_modes.unwrap_or_default(),
            volume_mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".into()),
            bytes: storage.map_or(0, |quantity| quantity::units(&quantity.0).unwrap_or(0)),
            selector: spec.selector.as_ref().map(|selector| Selector::of(Some(selector))),
            selected_node: annotation(SELECTED_NODE).cloned(),
            deleting: claim.metadata.deletion_timestamp.is_some(),
            lost: phase == Some("Lost"),
            pod: owner.filter(|owner| owner.kind == "Pod").map(|owner| owner.uid.clone()),
        }
    }

    /// Whether it has its volume for good.
    pub(crate) fn is_bound(&self) -> bool {
        self.volume.is_some() && self.bind_completed
    }
}

impl Volume {
    /// Reads a volume.
    pub(crate) fn of(volume: &PersistentVolume) -> Self {
        let spec = volume.spec.clone().unwrap_or_default();
        let required = spec.node_affinity.and_then(|affinity| affinity.required);
        let terms = required.map(|selector| selector.node_selector_terms.iter().map(NodeTerm::of).collect());
        let storage = spec.capacity.as_ref().and_then(|capacity| capacity.get("storage"));
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let claim = spec.claim_ref.as_ref();
        Self {
            demand: NodeDemand { labels: Labels::new(), terms },
            labels: volume.metadata.labels.clone().unwrap_or_default(),
            class: spec.storage_class_name.unwrap_or_default(),
            bytes: storage.map_or(0, |quantity| quantity::units(&quantity.0).unwrap_or(0)),
            modes: spec.access_modes.unwrap_or_default(),
            volume_mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".into()),
            claim: claim.map(|c| (c.namespace.clone().unwrap_or_default(), c.name.clone().unwrap_or_default())),
            available: matches!(phase, None | Some("Available" | "Pending")),
            deleting: volume.metadata.deletion_timestamp.is_some(),
            csi: spec.csi.map(|csi| (csi.driver, csi.volume_handle)),
        }
    }

    fn satisfies(&self, claim: &Claim) -> bool {
        self.class == claim.class
            && self.volume_mode == claim.volume_mode
            && self.bytes >= claim.bytes
            && !self.deleting
            && claim.modes.iter().all(|mode| self.modes.contains(mode))
            && claim.selector.as_ref().is_none_or(|selector| selector.selects(&self.labels))
    }
}

impl Class {
    /// Reads a class.
    pub(crate) fn of(class: &StorageClass) -> Self {
        let topologies = class.allowed_topologies.iter().flatten().map(|term| {
            let expressions = term.match_label_expressions.iter().flatten();
            let requirements = expressions.map(|e| NodeSelectorRequirement {
                key: e.key.clone(),
                operator: "In".into(),
                values: Some(e.values.clone()),
            });
            let term = NodeSelectorTerm { match_expressions: Some(requirements.collect()), match_fields: None };
            NodeTerm::of(&term)
        });
        Self {
            waits: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            provisions: class.provisioner != NO_PROVISIONER,
            topologies: topologies.collect(),
        }
    }
}

impl Volumes {
    /// Changes with each of them.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Takes over a claim; none when it is gone. Says whether anything changed.
    pub(crate) fn set_claim(&mut self, namespace: &str, name: &str, claim: Option<Claim>) -> bool {
        let changed = replace(&mut self.claims, (namespace.to_owned(), name.to_owned()), claim);
        self.version += u64::from(changed);
        changed
    }

    /// Takes over a volume; none when it is gone. Says whether anything changed.
    pub(crate) fn set_volume(&mut self, name: &str, volume: Option<Volume>) -> bool {
        if volume.as_ref().is_none_or(|volume| volume.claim.is_some()) {
            self.reserved.remove(name);
        }
        let changed = replace(&mut self.volumes, name.to_owned(), volume);
        self.version += u64::from(changed);
        changed
    }

    /// Takes over a class; none when it is gone. Says whether anything changed.
    pub(crate) fn set_class(&mut self, name: &str, class: Option<Class>) -> bool {
        let changed = replace(&mut self.classes, name.to_owned(), class);
        self.version += u64::from(changed);
        changed
    }

    /// Takes over how many volumes of each driver a node can attach; says whether anything changed.
    pub(crate) fn set_limits(&mut self, node: &str, csi: Option<&CSINode>) -> bool {
        let limits = csi.map(|csi| {
            let drivers = csi.spec.drivers.iter();
            let limit =
                |driver: &CSINodeDriver| Some((driver.name.clone(), i64::from(driver.allocatable.as_ref()?.count?)));
            drivers.filter_map(limit).collect()
        });
        let changed = replace(&mut self.limits, node.to_owned(), limits);
        self.version += u64::from(changed);
        changed
    }

    pub(crate) fn claim(&self, namespace: &str, name: &str) -> Option<&Claim> {
        // Claims are few next to pods; a pod without one never asks.
        self.claims.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub(crate) fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.get(name)
    }

    /// How many volumes of a driver a node can attach, where it says so.
    pub(crate) fn limit(&self, node: &str, driver: &str) -> Option<i64> {
        self.limits.get(node)?.get(driver).copied()
    }

    /// Whether a claim is bound only when a pod needs it.
    pub(crate) fn waits(&self, claim: &Claim) -> bool {
        self.classes.get(&claim.class).is_some_and(|class| class.waits)
    }

    /// How unbound claims of a namespace would get their volumes on a node; none when one of them cannot.
    pub(crate) fn provide(
        &self,
        namespace: &str,
        claims: &[(String, Claim)],
        node: &str,
        labels: &Labels,
    ) -> Option<Vec<Provision>> {
        let mut taken: Vec<&str> = Vec::new();
        let mut plan = Vec::with_capacity(claims.len());
        for (name, claim) in claims {
            let selected = claim.selected_node.as_deref();
            if selected.is_some_and(|selected| selected != node) {
                return None;
            }
            let found = selected.is_none().then(|| self.take(namespace, name, claim, node, labels, &taken)).flatten();
            if let Some(volume) = found {
                taken.push(volume);
                plan.push(Provision::Take { claim: name.clone(), volume: volume.to_owned() });
                continue;
            }
            let class = self.classes.get(&claim.class)?;
            let reachable =
                class.topologies.is_empty() || class.topologies.iter().any(|term| term.matches(node, labels));
            if !class.provisions || !reachable {
                return None;
            }
            plan.push(Provision::Make { claim: name.clone() });
        }
        Some(plan)
    }

    /// The volume set aside for the claim, else the smallest that would do.
    fn take(
        &self,
        namespace: &str,
        name: &str,
        claim: &Claim,
        node: &str,
        labels: &Labels,
        taken: &[&str],
    ) -> Option<&str> {
        let mut best: Option<(i64, &str)> = None;
        for (volume_name, volume) in &self.volumes {
            let holder = volume.claim.as_ref().or_else(|| self.reserved.get(volume_name));
            let ours = holder.is_some_and(|(ns, claim)| ns == namespace && claim == name);
            let free = holder.is_none() && volume.available && !taken.contains(&volume_name.as_str());
            if !(ours || free) || !volume.satisfies(claim) || !volume.demand.accepts(node, labels) {
                continue;
            }
            if ours {
                return Some(volume_name);
            }
            let rank = (volume.bytes, volume_name.as_str());
            if best.is_none_or(|best| rank < best) {
                best = Some(rank);
            }
        }
        best.map(|(_, name)| name)
    }

    /// Sets volumes aside for the claims that are to take them.
    pub(crate) fn reserve(&mut self, namespace: &str, plan: &[Provision]) {
        for step in plan {
            if let Provision::Take { claim, volume } = step {
                self.version += 1;
                self.reserved.insert(volume.clone(), (namespace.to_owned(), claim.clone()));
            }
        }
    }

    /// Undoes [`Volumes::reserve`].
    pub(crate) fn release(&mut self, plan: &[Provision]) {
        for step in plan {
            if let Provision::Take { volume, .. } = step {
                self.version += u64::from(self.reserved.remove(volume).is_some());
            }
        }
    }
}

fn replace<K: std::hash::Hash + Eq, V: PartialEq>(map: &mut HashMap<K, V>, key: K, value: Option<V>) -> bool {
    match value {
        Some(value) if map.get(&key) == Some(&value) => false,
        Some(value) => {
            map.insert(key, value);
            true
        }
        None => map.remove(&key).is_some(),
    }
}
