//! Amounts of resources, and how much a pod asks for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

/// An amount of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// What a container without a CPU request counts as in scoring, upstream's value: it will use something.
const SCORE_CPU_MILLI_DEFAULT: i64 = 100;
/// What a container without a memory request counts as in scoring, upstream's value.
const SCORE_MEMORY_BYTES_DEFAULT: i64 = 200 << 20;

impl Resources {
    /// Reads a resource list.
    pub fn of(list: &BTreeMap<String, Quantity>) -> Self {
        let mut resources = Self::default();
        for (name, Quantity(text)) in list {
            match name.as_str() {
                "cpu" => resources.cpu_milli = quantity::milli(text),
                "memory" => resources.memory_bytes = quantity::units(text),
                "ephemeral-storage" => resources.ephemeral_storage_bytes = quantity::units(text),
                "pods" => resources.pods = quantity::units(text),
                _ => {
                    resources.extended.insert(name.clone(), quantity::units(text));
                }
            }
        }
        resources
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.merge(other, i64::saturating_add);
    }

    /// Takes `other` away again.
    pub fn subtract(&mut self, other: &Self) {
        self.merge(other, i64::saturating_sub);
        self.extended.retain(|_, amount| *amount != 0);
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

/// What the pod asks for, and CPU and memory as scoring counts them.
///
/// Containers and sidecars run together; an init container runs beside the sidecars started before it. The pod needs the
/// larger of the two situations, and its overhead in both. Pod-level requests replace the sum.
pub(crate) fn pod_requests(spec: &PodSpec) -> (Resources, (i64, i64)) {
    let mut running = Resources::default();
    let mut score = (0, 0);
    for container in &spec.containers {
        let requests = container_requests(container);
        score.0 += if requests.cpu_milli == 0 { SCORE_CPU_MILLI_DEFAULT } else { requests.cpu_milli };
        score.1 += if requests.memory_bytes == 0 { SCORE_MEMORY_BYTES_DEFAULT } else { requests.memory_bytes };
        running.add(&requests);
    }
    let mut sidecars = Resources::default();
    let mut initializing = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut requests = container_requests(container);
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
        let pod_level = Resources::of(requests);
        let replace = |mine: &mut i64, name: &str, theirs: i64| {
            if requests.contains_key(name) {
                *mine = theirs;
            }
        };
        replace(&mut running.cpu_milli, "cpu", pod_level.cpu_milli);
        replace(&mut running.memory_bytes, "memory", pod_level.memory_bytes);
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Resources::of(overhead));
    }
    score = (score.0.max(running.cpu_milli), score.1.max(running.memory_bytes));
    running.pods = 1;
    (running, score)
}

fn container_requests(container: &Container) -> Resources {
    let of = |resources: &ResourceRequirements| resources.requests.as_ref().map(Resources::of);
    container.resources.as_ref().and_then(of).unwrap_or_default()
}
