//! The kinds the loop watches, as one stream of changes.

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use reconcile::{Change, Informer, Informers, Subscription};

macro_rules! inputs {
    ($($field:ident: $kind:ident),+ $(,)?) => {
        /// A change of an object of any kind that matters.
        pub(super) enum Input {
            $($kind(Change<$kind>)),+
        }

        /// The shared caches.
        pub(super) struct Caches {
            $(pub(super) $field: Informer<$kind>),+
        }

        /// The changes of all of them.
        pub(super) struct Inputs {
            $($field: Subscription<$kind>),+
        }

        impl Caches {
            pub(super) fn new(informers: &Informers) -> Self {
                Self { $($field: informers.of()),+ }
            }

            /// Waits until all are complete; false when the informers stopped before.
            pub(super) async fn synced(&self) -> bool {
                $(self.$field.synced().await)&&+
            }

            pub(super) fn subscribe(&self) -> Inputs {
                Inputs { $($field: self.$field.subscribe()),+ }
            }
        }

        impl Inputs {
            /// The next change; none when the informers have stopped.
            pub(super) async fn next(&mut self) -> Option<Input> {
                tokio::select! {
                    $(change = self.$field.next() => change.map(Input::$kind)),+
                }
            }

            /// A change that waits, of pods last: what they refer to should be known before them.
            pub(super) fn try_next(&mut self) -> Option<Input> {
                $(if let Some(change) = self.$field.try_next() {
                    return Some(Input::$kind(change));
                })+
                None
            }
        }
    };
}

inputs! {
    nodes: Node,
    namespaces: Namespace,
    services: Service,
    replica_sets: ReplicaSet,
    replication_controllers: ReplicationController,
    stateful_sets: StatefulSet,
    budgets: PodDisruptionBudget,
    classes: StorageClass,
    csi_nodes: CSINode,
    volumes: PersistentVolume,
    claims: PersistentVolumeClaim,
    pods: Pod,
}
