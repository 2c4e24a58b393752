//! What of the workloads fits on the nodes, where it went, and why the rest did not: worked out from what the API shows once
//! nothing moves any more, and printed.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use k8s_openapi::api::core::v1::{Node, Pod};
use kinds::demand::{Resources, requests};
use kube::ResourceExt as _;
use serde::Serialize;

use crate::{manifests::Refused, summary::Reason};

/// Nodes that are printed one by one; programs get all of them.
const NODES_SHOWN: usize = 40;
/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

/// An object that makes pods, or makes what makes them.
#[derive(Clone, Debug)]
pub(crate) struct Maker {
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// The object that made it.
    pub(crate) made_by: Option<String>,
    /// Pods that it is to have at a time.
    pub(crate) wanted: i64,
}

/// All that is looked at.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) nodes: Vec<Node>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) makers: Vec<Maker>,
    /// Why pods could not be created, by the maker's uid.
    pub(crate) failures: HashMap<String, String>,
    pub(crate) refused: Vec<Refused>,
}

/// What fits.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fit {
    /// Objects that the API did not take.
    pub refused: Vec<Refused>,
    /// What makes pods, and pods that nothing made.
    pub workloads: Vec<WorkloadFit>,
    /// How full the nodes are.
    pub nodes: Vec<NodeFit>,
    /// False when it was still moving when the time was over.
    pub settled: bool,
}

/// How a workload fared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadFit {
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Pods it is to have at a time.
    pub wanted: i64,
    /// Those that have a node.
    pub placed: i64,
    /// Why the others have none, the most frequent reason first.
    pub unplaced: Vec<Reason>,
    /// On how many nodes it is.
    pub nodes: usize,
}

/// How full a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFit {
    /// Name.
    pub name: String,
    /// What its pods ask for.
    pub requested: Amounts,
    /// What it has for pods.
    pub allocatable: Amounts,
}

/// Amounts of what every pod takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amounts {
    /// Pods.
    pub pods: i64,
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
}

impl From<&Resources> for Amounts {
    fn from(resources: &Resources) -> Self {
        Self { pods: resources.pods, cpu_milli: resources.cpu_milli, memory_bytes: resources.memory_bytes }
    }
}

/// Pods of one workload.
#[derive(Default)]
struct Counted {
    pods: i64,
    placed: i64,
    nodes: BTreeMap<String, i64>,
    reasons: BTreeMap<String, i64>,
}

/// Kind, namespace and name.
type Name = (String, String, String);

impl Seen {
    /// The maker that nobody known made, starting from one.
    fn root<'a>(&'a self, by_uid: &HashMap<&str, &'a Maker>, uid: &str) -> Option<&'a Maker> {
        let mut maker = *by_uid.get(uid)?;
        // makers are three levels deep at most; whoever made a ring of them is not followed for ever
        for _ in 0..self.makers.len() {
            match maker.made_by.as_deref().and_then(|uid| by_uid.get(uid)) {
                Some(above) => maker = above,
                None => break,
            }
        }
        Some(maker)
    }

    /// Works it out.
    pub(crate) fn fit(&self, settled: bool) -> Fit {
        let by_uid: HashMap<&str, &Maker> = self.makers.iter().map(|maker| (maker.uid.as_str(), maker)).collect();
        let mut workloads: BTreeMap<Name, Counted> = BTreeMap::new();
        let mut wanted: HashMap<Name, i64> = HashMap::new();
        for maker in self.makers.iter().filter(|maker| maker.wanted > 0) {
            let is_root = self.root(&by_uid, &maker.uid).is_some_and(|root| root.uid == maker.uid);
            if is_root {
                wanted.insert(maker.full_name(), maker.wanted);
                workloads.entry(maker.full_name()).or_default();
            }
        }
        let mut on_nodes: HashMap<&str, Resources> = HashMap::new();
        for pod in self.pods.iter().filter(|pod| !is_over(pod)) {
            let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
            let namespace = pod.namespace().unwrap_or_default();
            let name = match owner {
                None => ("Pod".to_owned(), namespace, pod.name_any()),
                Some(owner) => self
                    .root(&by_uid, &owner.uid)
                    .map_or_else(|| (owner.kind.clone(), namespace, owner.name.clone()), Maker::full_name),
            };
            let counted = workloads.entry(name).or_default();
            counted.pods += 1;
            match pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
                Some(node) => {
                    counted.placed += 1;
                    *counted.nodes.entry(node.to_owned()).or_default() += 1;
                    on_nodes.entry(node).or_default().add(&requests(pod));
                }
                None => *counted.reasons.entry(why_unplaced(pod)).or_default() += 1,
            }
        }
        let workloads = workloads.into_iter().map(|(name, counted)| self.workload(&by_uid, &wanted, name, counted));
        let workloads = workloads.collect();
        let mut nodes: Vec<NodeFit> = self.nodes.iter().map(|node| node_fit(node, &on_nodes)).collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        Fit { refused: self.refused.clone(), workloads, nodes, settled }
    }

    fn workload(
        &self,
        by_uid: &HashMap<&str, &Maker>,
        wanted: &HashMap<Name, i64>,
        name: Name,
        mut counted: Counted,
    ) -> WorkloadFit {
        let wanted = wanted.get(&name).copied().unwrap_or(counted.pods);
        let missing = wanted - counted.pods;
        if missing > 0 {
            let own = |uid: &str| self.root(by_uid, uid).is_some_and(|root| root.full_name() == name);
            let why = self.failures.iter().find(|(uid, _)| own(uid)).map(|(_, why)| why.clone());
            *counted.reasons.entry(why.unwrap_or_else(|| "not created".to_owned())).or_default() += missing;
        }
        let mut unplaced: Vec<Reason> =
            counted.reasons.into_iter().map(|(message, pods)| Reason { pods: pods.unsigned_abs(), message }).collect();
        unplaced.sort_by_key(|reason| std::cmp::Reverse(reason.pods));
        let (kind, namespace, name) = name;
        WorkloadFit { kind, namespace, name, wanted, placed: counted.placed, unplaced, nodes: counted.nodes.len() }
    }
}

impl Maker {
    fn full_name(&self) -> Name {
        (self.kind.to_owned(), self.namespace.clone(), self.name.clone())
    }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some()
}

fn why_unplaced(pod: &Pod) -> String {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let scheduled = conditions.into_iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    let message = scheduled.and_then(|condition| condition.message.clone());
    message.unwrap_or_else(|| {
        let scheduler = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or_default();
        format!("scheduler {scheduler} has not looked at it")
    })
}

fn node_fit(node: &Node, on_nodes: &HashMap<&str, Resources>) -> NodeFit {
    let name = node.name_any();
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    NodeFit {
        requested: on_nodes.get(name.as_str()).map(Amounts::from).unwrap_or_default(),
        allocatable: allocatable.map(|list| Amounts::from(&Resources::of(list))).unwrap_or_default(),
        name,
    }
}

impl Fit {
    /// Whether everything was taken and every pod has a node.
    pub fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.workloads.iter().all(|workload| workload.unplaced.is_empty())
    }

    /// Pods that have a node, and those that should have one.
    pub fn pods(&self) -> (i64, i64) {
        let sum = |of: fn(&WorkloadFit) -> i64| self.workloads.iter().map(of).sum();
        (sum(|workload| workload.placed), sum(|workload| workload.wanted.max(workload.placed)))
    }

    fn total(&self) -> NodeFit {
        let zero = NodeFit { name: "all".to_owned(), requested: Amounts::default(), allocatable: Amounts::default() };
        self.nodes.iter().fold(zero, |sum, node| NodeFit {
            name: sum.name,
            requested: sum.requested.plus(node.requested),
            allocatable: sum.allocatable.plus(node.allocatable),
        })
    }
}

impl Amounts {
    fn plus(self, other: Self) -> Self {
        Self {
            pods: self.pods + other.pods,
            cpu_milli: self.cpu_milli + other.cpu_milli,
            memory_bytes: self.memory_bytes + other.memory_bytes,
        }
    }
}

fn percent(part: i64, whole: i64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.0}%", part as f64 * 100.0 / whole as f64) }
}

impl NodeFit {
    fn cells(&self) -> [String; 4] {
        let (requested, allocatable) = (self.requested, self.allocatable);
        let cpu = |milli: i64| milli as f64 / 1000.0;
        let memory = |bytes: i64| bytes as f64 / GIB;
        [
            self.name.clone(),
            format!("{}/{}", requested.pods, allocatable.pods),
            format!(
                "{:.1}/{:.1} {}",
                cpu(requested.cpu_milli),
                cpu(allocatable.cpu_milli),
                percent(requested.cpu_milli, allocatable.cpu_milli)
            ),
            format!(
                "{:.1}/{:.1}Gi {}",
                memory(requested.memory_bytes),
                memory(allocatable.memory_bytes),
                percent(requested.memory_bytes, allocatable.memory_bytes)
            ),
        ]
    }
}

/// Rows of a table, each followed by lines of its own.
fn table(f: &mut fmt::Formatter<'_>, rows: &[([String; 4], Vec<String>)]) -> fmt::Result {
    let width = |column: usize| rows.iter().map(|(cells, _)| cells[column].chars().count()).max().unwrap_or(0);
    let (first, second, third) = (width(0), width(1), width(2));
    for ([one, two, three, four], lines) in rows {
        writeln!(f, "{one:<first$}  {two:<second$}  {three:<third$}  {four}")?;
        for line in lines {
            writeln!(f, "    {line}")?;
        }
    }
    Ok(())
}

fn heading(cells: [&str; 4]) -> ([String; 4], Vec<String>) {
    (cells.map(ToOwned::to_owned), Vec::new())
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (placed, wanted) = self.pods();
        writeln!(f, "{placed} of {wanted} pods have one of {} nodes", self.nodes.len())?;
        if !self.settled {
            writeln!(f, "pods were still on their way when the time was over: --for gives them more")?;
        }
        for Refused { source, object, message } in &self.refused {
            writeln!(f, "refused: {source}: {object}: {message}")?;
        }
        writeln!(f)?;
        let workloads = self.workloads.iter().map(|workload| {
            let WorkloadFit { kind, namespace, name, wanted, placed, unplaced, nodes } = workload;
            let cells =
                [format!("{kind} {namespace}/{name}"), wanted.to_string(), placed.to_string(), nodes.to_string()];
            (cells, unplaced.iter().map(|reason| format!("{} not placed: {}", reason.pods, reason.message)).collect())
        });
        let rows: Vec<_> = [heading(["WORKLOAD", "WANTED", "PLACED", "NODES"])].into_iter().chain(workloads).collect();
        table(f, &rows)?;
        writeln!(f)?;
        let (used, empty): (Vec<_>, Vec<_>) = self.nodes.iter().partition(|node| node.requested.pods > 0);
        let total = (self.total().cells(), Vec::new());
        let shown = used.iter().take(NODES_SHOWN).map(|node| (node.cells(), Vec::new()));
        let rows: Vec<_> =
            [heading(["NODE", "PODS", "CPU", "MEMORY"])].into_iter().chain(shown).chain([total]).collect();
        table(f, &rows)?;
        if used.len() > NODES_SHOWN {
            writeln!(f, "{} more have pods: -o json shows all", used.len() - NODES_SHOWN)?;
        }
        write!(f, "{} nodes have no pod", empty.len())
    }
}

#[cfg(test)]
mod tests;
