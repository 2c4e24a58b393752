//! Which pods belong together by Service or controller, for spreading pods that say nothing about it themselves.

use std::collections::{BTreeMap, HashMap};

use crate::shape::ShapeParts;
use kinds::matching::{Labels, Selector};

/// Kinds whose selector tells which pods are one workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WorkloadKind {
    /// ReplicationController.
    ReplicationController,
    /// ReplicaSet.
    ReplicaSet,
    /// StatefulSet.
    StatefulSet,
}

impl WorkloadKind {
    fn of(kind: &str) -> Option<Self> {
        match kind {
            "ReplicationController" => Some(Self::ReplicationController),
            "ReplicaSet" => Some(Self::ReplicaSet),
            "StatefulSet" => Some(Self::StatefulSet),
            _ => None,
        }
    }
}

/// Selectors of Services and controllers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Workloads {
    services: HashMap<String, BTreeMap<String, Labels>>,
    controllers: HashMap<(WorkloadKind, String, String), Selector>,
    version: u64,
}

impl Workloads {
    /// Changes with every selector.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Takes over the selector of a Service; without one it selects nothing.
    pub(crate) fn set_service(&mut self, namespace: &str, name: &str, selector: Option<Labels>) {
        let services = self.services.entry(namespace.to_owned()).or_default();
        match selector.filter(|selector| !selector.is_empty()) {
            Some(selector) if services.get(name) == Some(&selector) => return,
            Some(selector) => services.insert(name.to_owned(), selector),
            None => services.remove(name),
        };
        if services.is_empty() {
            self.services.remove(namespace);
        }
        self.version += 1;
    }

    /// Takes over the selector of a controller; none when it is gone.
    pub(crate) fn set_controller(
        &mut self,
        kind: WorkloadKind,
        namespace: &str,
        name: &str,
        selector: Option<Selector>,
    ) {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let known = self.controllers.get(&key);
        if known == selector.as_ref() {
            return;
        }
        match selector {
            Some(selector) => self.controllers.insert(key, selector),
            None => self.controllers.remove(&key),
        };
        self.version += 1;
    }

    /// What selects the pods that belong with one of that shape; trivial where it belongs to nothing.
    pub(crate) fn selector_of(&self, shape: &ShapeParts) -> Selector {
        let mut labels = Labels::new();
        for service in self.services.get(&shape.namespace).into_iter().flat_map(BTreeMap::values) {
            if service.iter().all(|(key, value)| shape.labels.get(key) == Some(value)) {
                labels.extend(service.clone());
            }
        }
        let mut selector = Selector::labels(&labels);
        if let Some(owner) = &shape.owner
            && let Some(kind) = WorkloadKind::of(&owner.kind)
            && let Some(own) = self.controllers.get(&(kind, shape.namespace.clone(), owner.name.clone()))
        {
            selector.and_all(own);
        }
        selector
    }
}
