//! Changes of the objects that pods and nodes refer to.

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, ReplicationController, Service};
use kube::ResourceExt;
use reconcile::{Change, Key};
use tokio::time::Instant;

use super::Scheduler;
use super::inputs::Input;
use crate::plugin::Event;
use crate::preemption::Budget;
use crate::snapshot::volumes::{Claim, Class, Volume};
use crate::snapshot::workloads::WorkloadKind;
use kinds::matching::Selector;

/// The object, when it is still there.
fn applied<K>(change: &Change<K>) -> Option<&K> {
    match change {
        Change::Applied { new, .. } => Some(new),
        Change::Deleted(_) => None,
    }
}

impl Scheduler {
    pub(super) fn object(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Namespace(change) => self.namespace(&change, now),
            Input::Service(change) => self.service(&change),
            Input::ReplicaSet(change) => {
                let selector = applied(&change).and_then(|set: &ReplicaSet| set.spec.as_ref());
                let selector = selector.map(|spec| Selector::of(Some(&spec.selector)));
                self.controller(WorkloadKind::ReplicaSet, &Key::of(&**change.object()), selector);
            }
            Input::StatefulSet(change) => {
                let selector = applied(&change).and_then(|set: &StatefulSet| set.spec.as_ref());
                let selector = selector.map(|spec| Selector::of(Some(&spec.selector)));
                self.controller(WorkloadKind::StatefulSet, &Key::of(&**change.object()), selector);
            }
            Input::ReplicationController(change) => {
                let labels =
                    applied(&change).and_then(|set: &ReplicationController| set.spec.as_ref()?.selector.as_ref());
                let selector = labels.map(Selector::labels);
                self.controller(WorkloadKind::ReplicationController, &Key::of(&**change.object()), selector);
            }
            Input::PodDisruptionBudget(change) => {
                self.snapshot.set_budget(Key::of(&**change.object()), applied(&change).map(Budget::of));
            }
            Input::PersistentVolumeClaim(change) => {
                let Key { namespace, name } = Key::of(&**change.object());
                if self.snapshot.volumes.set_claim(&namespace, &name, applied(&change).map(Claim::of)) {
                    self.snapshot.touch();
                    self.happened(&Event::Claim { namespace, name }, now);
                }
            }
            Input::PersistentVolume(change) => {
                let name = change.object().name_any();
                let changed = self.snapshot.volumes.set_volume(&name, applied(&change).map(Volume::of));
                self.storage(changed, now);
            }
            Input::StorageClass(change) => {
                let name = change.object().name_any();
                let changed = self.snapshot.volumes.set_class(&name, applied(&change).map(Class::of));
                self.storage(changed, now);
            }
            Input::CSINode(change) => {
                let name = change.object().name_any();
                let changed = self.snapshot.volumes.set_limits(&name, applied(&change));
                self.storage(changed, now);
            }
            Input::Pod(change) => self.pod(change),
            Input::Node(change) => self.node(change),
        }
    }

    fn namespace(&mut self, change: &Change<Namespace>, now: Instant) {
        let name = change.object().name_any();
        let changed = match applied(change) {
            Some(namespace) => {
                let labels = namespace.metadata.labels.clone().unwrap_or_default();
                self.snapshot.set_namespace(&name, labels)
            }
            None => {
                self.snapshot.remove_namespace(&name);
                true
            }
        };
        if changed {
            self.happened(&Event::Namespace, now);
        }
    }

    fn service(&mut self, change: &Change<Service>) {
        let Key { namespace, name } = Key::of(&**change.object());
        let selector = applied(change).and_then(|service| service.spec.as_ref()?.selector.clone());
        self.snapshot.workloads.set_service(&namespace, &name, selector);
    }

    fn controller(&mut self, kind: WorkloadKind, key: &Key, selector: Option<Selector>) {
        self.snapshot.workloads.set_controller(kind, &key.namespace, &key.name, selector);
    }

    fn storage(&mut self, changed: bool, now: Instant) {
        if changed {
            self.snapshot.touch();
            self.happened(&Event::Storage, now);
        }
    }
}
