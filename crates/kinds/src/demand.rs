//! What a pod takes of its node: amounts of resources, and ports.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::quantity;

#[cfg(test)]
mod tests;

/// An amount of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of local storage.
    pub ephemeral_storage_bytes: i64,
    /// Pods.
    pub pods: i64,
    /// Everything else, by name.
    pub extended: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list.
    pub fn of(list: &BTreeMap<String, Quantity>) -> Self {
        let mut resources = Self::default();
        for (name, Quantity(text)) in list {
            match name.as_str() {
                "cpu" => resources.cpu_milli = quantity::milli(text).unwrap_or(0),
                "memory" => resources.memory_bytes = quantity::units(text).unwrap_or(0),
                "ephemeral-storage" => resources.ephemeral_storage_bytes = quantity::units(text).unwrap_or(0),
                "pods" => resources.pods = quantity::units(text).unwrap_or(0),
                _ => {
                    resources.extended.insert(name.clone(), quantity::units(text).unwrap_or(0));
                }
            }
        }
        resources
    }

    /// The amount of a resource by its name in the API.
    pub fn amount(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu_milli,
            "memory" => self.memory_bytes,
            "ephemeral-storage" => self.ephemeral_storage_bytes,
            "pods" => self.pods,
            _ => self.extended.get(name).copied().unwrap_or(0),
        }
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.merge(other, i64::saturating_add);
    }

    /// Takes `other` away again.
    pub fn subtract(&mut self, other: &Self) {
        self.merge(other, i64::saturating_sub);
        if !other.extended.is_empty() {
            self.extended.retain(|_, amount| *amount != 0);
        }
    }

    fn raise_to(&mut self, other: &Self) {
        self.merge(other, i64::max);
    }

    fn merge(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.cpu_milli = with(self.cpu_milli, other.cpu_milli);
        self.memory_bytes = with(self.memory_bytes, other.memory_bytes);
        self.ephemeral_storage_bytes = with(self.ephemeral_storage_bytes, other.ephemeral_storage_bytes);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }
}

/// What the node must have free for `pod`; what its containers have been given counts where that is more, so that a resize
/// under way is neither overlooked nor counted before it is possible.
pub fn requests(pod: &Pod) -> Resources {
    let mut requests = requests_with(pod, |_, _| {});
    requests.pods = i64::from(pod.spec.is_some());
    requests
}

/// What `pod` asks for without the place it takes itself, when each container's requests are completed first.
pub fn requests_with(pod: &Pod, complete: impl Fn(&Container, &mut Resources)) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let status = pod.status.as_ref();
    let statuses = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let of_init = status.and_then(|s| s.init_container_statuses.as_deref()).unwrap_or_default();
    let infeasible =
        status.and_then(|s| s.conditions.as_deref()).unwrap_or_default().iter().any(|condition| {
            condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible")
        });
    sum(spec, &Given { statuses, of_init, infeasible }, complete)
}

/// What the containers of a pod have been given, as its status says.
struct Given<'a> {
    statuses: &'a [ContainerStatus],
    of_init: &'a [ContainerStatus],
    /// The node will never grant the wish: only what is given counts.
    infeasible: bool,
}

impl Given<'_> {
    fn raise(&self, statuses: &[ContainerStatus], container: &Container, requests: &mut Resources) {
        let Some(status) = statuses.iter().find(|status| status.name == container.name) else { return };
        let actual = status.resources.as_ref().and_then(|r| r.requests.as_ref());
        let amounts = [actual, status.allocated_resources.as_ref()];
        if self.infeasible && amounts.iter().any(Option::is_some) {
            *requests = Resources::default();
        }
        for amount in amounts.into_iter().flatten() {
            requests.raise_to(&Resources::of(amount));
        }
    }
}

/// Containers and sidecars run together; an init container runs beside the sidecars started before it. The pod needs the
/// larger of the two situations, and its overhead in both. Pod-level requests replace the sum.
fn sum(spec: &PodSpec, given: &Given<'_>, complete: impl Fn(&Container, &mut Resources)) -> Resources {
    let requests_of = |container: &Container, statuses: &[ContainerStatus]| {
        let of = |resources: &ResourceRequirements| resources.requests.as_ref().map(Resources::of);
        let mut requests = container.resources.as_ref().and_then(of).unwrap_or_default();
        complete(container, &mut requests);
        given.raise(statuses, container, &mut requests);
        requests
    };
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&requests_of(container, given.statuses));
    }
    let mut sidecars = Resources::default();
    let mut initializing = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut requests = requests_of(container, given.of_init);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&requests);
            running.add(&requests);
            initializing.raise_to(&sidecars);
        } else {
            requests.add(&sidecars);
            initializing.raise_to(&requests);
        }
    }
    running.raise_to(&initializing);
    if let Some(requests) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        for (name, amount) in requests {
            let of = || Resources::of(&BTreeMap::from([(name.clone(), amount.clone())]));
            match name.as_str() {
                "cpu" => running.cpu_milli = of().cpu_milli,
                "memory" => running.memory_bytes = of().memory_bytes,
                _ if name.starts_with("hugepages-") => running.extended.extend(of().extended),
                _ => {}
            }
        }
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Resources::of(overhead));
    }
    running.pods = 0;
    running
}

/// A port of the node that a pod occupies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Address; empty means all.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Number.
    pub port: i32,
}

impl HostPort {
    /// The ports that the pod's containers and sidecars occupy as long as they run.
    pub fn of(spec: &PodSpec) -> impl Iterator<Item = Self> {
        let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.is_some());
        spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten()).filter_map(
            |port| {
                Some(Self {
                    ip: port.host_ip.clone().unwrap_or_default(),
                    protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                    port: port.host_port.filter(|port| *port > 0)?,
                })
            },
        )
    }

    /// Whether both cannot be open on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}
