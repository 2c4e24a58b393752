//! Quality-of-service class of a pod.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::PodSpec, apimachinery::pkg::api::resource::Quantity};
use kinds::quantity::milli;

/// The class (`status.qosClass`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has limits for CPU and memory, and requests no less.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// Requests or limits of a container.
pub type Amounts = Option<BTreeMap<String, Quantity>>;

/// An amount in thousandths, unless there is none or it is zero.
pub fn amount(amounts: Option<&Amounts>, name: &str) -> Option<i64> {
    amounts?.as_ref()?.get(name).and_then(|quantity| milli(&quantity.0)).filter(|amount| *amount > 0)
}

/// The class of a pod, from the requests and limits of its containers.
pub fn qos_class(spec: &PodSpec) -> QosClass {
    let (mut any, mut guaranteed) = (false, true);
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let resources = container.resources.as_ref();
        for name in ["cpu", "memory"] {
            let limit = amount(resources.map(|resources| &resources.limits), name);
            let request = amount(resources.map(|resources| &resources.requests), name).or(limit);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}
