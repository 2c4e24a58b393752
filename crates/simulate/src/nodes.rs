//! What a simulated node looks like in the API.

use std::{collections::BTreeMap, str::FromStr};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo, Taint},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
    },
};

use pod_lifecycle::advertised::corrections;

use crate::{addresses::Range, behaviour::DOMAIN};

/// The label that says in which zone a node is.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
/// How long a lease is good, as upstream.
const LEASE_SECONDS: i32 = 40;
/// What a simulated node says of its version, which tools read.
const KUBELET_VERSION: &str = "v1.36.0-simulated";

/// The nodes of a fleet.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// How many.
    pub count: usize,
    /// Their names are this and a number, and it names the fleet.
    pub prefix: String,
    /// Zones they are spread over.
    pub zones: usize,
    /// The region of all zones.
    pub region: String,
    /// CPUs of each.
    pub cpu: String,
    /// Memory of each.
    pub memory: String,
    /// Pods that each takes.
    pub pods: u32,
    /// Other resources of each, for example `nvidia.com/gpu`.
    pub resources: BTreeMap<String, String>,
    /// More labels.
    pub labels: BTreeMap<String, String>,
    /// More annotations.
    pub annotations: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// The architecture they say they have.
    pub architecture: String,
}

/// Why a text is no taint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a taint: KEY[=VALUE]:EFFECT with the effect NoSchedule, PreferNoSchedule or NoExecute")]
pub struct TaintError(String);

/// Reads a taint as kubectl writes it: `KEY=VALUE:EFFECT`.
///
/// # Errors
/// When it is none.
pub fn taint(text: &str) -> Result<Taint, TaintError> {
    let parsed = text.rsplit_once(':').and_then(|(rest, effect)| {
        let (key, value) = rest.split_once('=').map_or((rest, None), |(key, value)| (key, Some(value)));
        let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) && !key.is_empty();
        known.then(|| Taint {
            key: key.to_owned(),
            value: value.filter(|value| !value.is_empty()).map(ToOwned::to_owned),
            effect: effect.to_owned(),
            time_added: None,
        })
    });
    parsed.ok_or_else(|| TaintError(text.to_owned()))
}

impl NodeOptions {
    /// So many nodes of a common size: 32 CPUs, 128 GiB, 110 pods.
    pub fn new(count: usize) -> Self {
        Self {
            count,
            prefix: "sim".to_owned(),
            zones: 3,
            region: "simulated".to_owned(),
            cpu: "32".to_owned(),
            memory: "128Gi".to_owned(),
            pods: 110,
            resources: BTreeMap::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            taints: Vec::new(),
            architecture: "amd64".to_owned(),
        }
    }

    /// The label that says whose a node is.
    pub(crate) fn fleet_label() -> String {
        format!("{DOMAIN}fleet")
    }

    /// The annotation with which a user makes a node fail.
    pub(crate) fn down_annotation() -> String {
        format!("{DOMAIN}down")
    }

    /// The name of a node; four digits, so that lists are in order.
    pub(crate) fn name(&self, number: usize) -> String {
        format!("{}-{number:04}", self.prefix)
    }

    /// The number of one of these nodes.
    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        let number = self.any_number(name)?;
        (number < self.count).then_some(number)
    }

    /// The number of a node of this fleet, also if it has fewer now.
    pub(crate) fn any_number(&self, name: &str) -> Option<usize> {
        let number = usize::from_str(name.strip_prefix(&self.prefix)?.strip_prefix('-')?).ok()?;
        (self.name(number) == name).then_some(number)
    }

    /// The address of a node.
    pub(crate) fn address(number: usize) -> String {
        Range::NODES.nth(u32::try_from(number).unwrap_or_default()).to_string()
    }

    /// The zone of a node.
    pub(crate) fn zone(&self, number: usize) -> String {
        format!("{}-{}", self.region, number % self.zones.max(1) + 1)
    }

    fn labels(&self, number: usize) -> BTreeMap<String, String> {
        let own = [
            ("kubernetes.io/hostname".to_owned(), self.name(number)),
            ("kubernetes.io/os".to_owned(), "linux".to_owned()),
            ("kubernetes.io/arch".to_owned(), self.architecture.clone()),
            ("node.kubernetes.io/instance-type".to_owned(), "simulated".to_owned()),
            ("topology.kubernetes.io/region".to_owned(), self.region.clone()),
            (ZONE.to_owned(), self.zone(number)),
            (Self::fleet_label(), self.prefix.clone()),
        ];
        own.into_iter().chain(self.labels.clone()).collect()
    }

    /// A node as it registers.
    pub(crate) fn node(&self, number: usize, now: Timestamp) -> Node {
        Node {
            metadata: ObjectMeta {
                name: Some(self.name(number)),
                labels: Some(self.labels(number)),
                annotations: (!self.annotations.is_empty()).then(|| self.annotations.clone()),
                ..ObjectMeta::default()
            },
            spec: (!self.taints.is_empty())
                .then(|| NodeSpec { taints: Some(self.taints.clone()), ..NodeSpec::default() }),
            status: Some(self.status(number, None, now)),
        }
    }

    /// What a node has.
    fn amounts(&self) -> BTreeMap<String, Quantity> {
        let common = [("cpu", &self.cpu), ("memory", &self.memory), ("pods", &self.pods.to_string())]
            .map(|(name, amount)| (name.to_owned(), amount.clone()));
        common.into_iter().chain(self.resources.clone()).map(|(name, amount)| (name, Quantity(amount))).collect()
    }

    /// What has to change in the allocatable amounts of a node that somebody has told to have more.
    pub(crate) fn corrections(&self, known: &NodeStatus) -> BTreeMap<String, Option<Quantity>> {
        corrections(&self.amounts(), known)
    }

    /// The status of a node that works; `old` is what the API has.
    pub(crate) fn status(&self, number: usize, old: Option<&NodeStatus>, now: Timestamp) -> NodeStatus {
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let amounts = self.amounts();
        let address = |type_: &str, address| NodeAddress { type_: type_.to_owned(), address };
        let conditions = [
            ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ];
        let known = old.and_then(|old| old.conditions.as_deref()).unwrap_or_default();
        let conditions = conditions.map(|(type_, status, reason, message)| {
            let before = known.iter().find(|condition| condition.type_ == type_ && condition.status == status);
            NodeCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: before.and_then(|old| old.last_transition_time.clone()).or(Some(Time(now))),
            }
        });
        NodeStatus {
            capacity: Some(amounts.clone()),
            allocatable: Some(amounts),
            addresses: Some(vec![address("InternalIP", Self::address(number)), address("Hostname", self.name(number))]),
            conditions: Some(conditions.into()),
            node_info: Some(self.info(number)),
            ..NodeStatus::default()
        }
    }

    fn info(&self, number: usize) -> NodeSystemInfo {
        NodeSystemInfo {
            architecture: self.architecture.clone(),
            container_runtime_version: "simulated://1".to_owned(),
            kernel_version: "simulated".to_owned(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: self.name(number),
            operating_system: "linux".to_owned(),
            os_image: "simulated".to_owned(),
            ..NodeSystemInfo::default()
        }
    }

    /// The lease of a node; `uid` is the node's.
    pub(crate) fn lease(&self, number: usize, uid: &str, now: Timestamp) -> Lease {
        let name = self.name(number);
        Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: name.clone(),
                    uid: uid.to_owned(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(MicroTime(now)),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// Whether a status says that its node is ready.
pub(crate) fn is_ready(status: Option<&NodeStatus>) -> bool {
    let conditions = status.and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_each_others() {
        let options = NodeOptions { prefix: "a-b".to_owned(), ..NodeOptions::new(20_000) };
        for number in [0, 7, 9999, 10_000, 19_999] {
            assert_eq!(options.number(&options.name(number)), Some(number));
        }
        assert_eq!(options.name(3), "a-b-0003");
        assert_eq!((options.number("a-b-20000"), options.any_number("a-b-20000")), (None, Some(20_000)));
        for name in ["a-b-3", "a-b-00003", "a-b-+003", "a-b", "a-0003", "a-b-c-0003"] {
            assert_eq!(options.any_number(name), None, "{name}");
        }
    }

    #[test]
    fn nodes_are_spread_over_zones_and_each_has_its_own_address() {
        let options = NodeOptions { zones: 2, ..NodeOptions::new(4) };
        let now = Timestamp::from_second(100).unwrap();
        let zones: Vec<String> = (0..4)
            .map(|number| options.node(number, now).metadata.labels.unwrap()["topology.kubernetes.io/zone"].clone())
            .collect();
        assert_eq!(zones, ["simulated-1", "simulated-2", "simulated-1", "simulated-2"]);
        assert_eq!((NodeOptions::address(0), NodeOptions::address(256)), ("198.18.0.1".into(), "198.18.1.1".into()));
    }

    #[test]
    fn a_heartbeat_keeps_when_a_condition_began() {
        let options = NodeOptions::new(1);
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = options.status(0, None, at(100));
        let second = options.status(0, Some(&first), at(400));
        let ready = second.conditions.unwrap().pop().unwrap();
        assert_eq!(ready.last_heartbeat_time, Some(Time(at(400))));
        assert_eq!(ready.last_transition_time, Some(Time(at(100))));
        assert!(is_ready(Some(&first)) && !is_ready(None));
    }

    #[test]
    fn taints_are_read_or_refused() {
        let read = taint("example.org/gpu=yes:NoExecute").unwrap();
        assert_eq!((read.key.as_str(), read.value.as_deref()), ("example.org/gpu", Some("yes")));
        assert_eq!(taint("key:NoSchedule").unwrap().value, None);
        for text in ["", "key", "key:Never", ":NoSchedule", "=x:NoSchedule"] {
            assert_eq!(taint(text), Err(TaintError(text.to_owned())));
        }
    }
}
