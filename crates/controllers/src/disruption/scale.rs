//! How many pods the controllers of some pods want: read from the caches for the kinds that everybody has, and from the
//! scale subresource for all others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use reconcile::{Informer, Key};

use super::followed::Asked;
use crate::context::{Context, cause, is_not_found};
use crate::owners;

/// Kinds whose resource is remembered; more than owners of pods come in. Beyond it all are asked for again.
const KINDS_MAX: usize = 256;

/// What was found out about some pods.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// How many their controllers want together.
    pub(super) pods: i32,
    /// Names of those that have no controller.
    pub(super) unmanaged: Vec<String>,
}

/// Why it cannot be said.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScaleError {
    /// A pod's controller is none that is known, or is gone.
    #[error("found no controllers for pod {0:?}")]
    NoController(String),
    /// A pod's controller has no size.
    #[error("{0} does not implement the scale subresource")]
    NoScale(String),
    /// The API server refused or did not answer.
    #[error("{}", cause(.0))]
    Api(#[source] kube::Error),
}

/// Finds out.
pub(super) struct Scales {
    client: Client,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    replication_controllers: Informer<ReplicationController>,
    stateful_sets: Informer<StatefulSet>,
    kinds: Mutex<HashMap<GroupVersionKind, ApiResource>>,
}

impl Scales {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            deployments: context.informers.of(),
            replica_sets: context.informers.of(),
            replication_controllers: context.informers.of(),
            stateful_sets: context.informers.of(),
            kinds: Mutex::default(),
        }
    }

    pub(super) async fn synced(&self) -> bool {
        self.deployments.synced().await
            && self.replica_sets.synced().await
            && self.replication_controllers.synced().await
            && self.stateful_sets.synced().await
    }

    /// Forgets what kinds there are.
    pub(super) fn forget_kinds(&self) {
        self.kinds.lock().clear();
    }

    /// What the controllers of `pods` want; each is asked once, however many pods it has. Those that are not of the usual
    /// kinds are added to `asked`.
    pub(super) async fn of(
        &self,
        namespace: &str,
        pods: &[Arc<Pod>],
        asked: &mut Vec<Asked>,
    ) -> Result<Wanted, ScaleError> {
        let mut wanted = Wanted::default();
        // by the uid of the pods' owner, and of what owns that
        let (mut owners, mut sizes) = (HashSet::<&str>::new(), HashMap::<String, i32>::new());
        for pod in pods {
            let Some(owner) = owners::controller_of(&pod.metadata) else {
                wanted.unmanaged.push(pod.name_any());
                continue;
            };
            if !owners.insert(&owner.uid) {
                continue;
            }
            let found = match self.known(namespace, owner) {
                Some(found) => Some(found),
                None => self.ask(namespace, owner, asked).await?.map(|size| (owner.uid.clone(), size)),
            };
            let (uid, size) = found.ok_or_else(|| ScaleError::NoController(pod.name_any()))?;
            sizes.insert(uid, size);
        }
        wanted.pods = sizes.values().fold(0, |sum: i32, size| sum.saturating_add(*size));
        Ok(wanted)
    }

    /// Uid and size of a workload of the usual kinds; of a Deployment's ReplicaSet those of the Deployment.
    fn known(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let own = |uid: Option<String>| uid.filter(|uid| *uid == owner.uid);
        match (owner.api_version.as_str(), owner.kind.as_str()) {
            ("apps/v1", "ReplicaSet") => {
                let set = self.replica_sets.get(namespace, &owner.name)?;
                let uid = own(set.uid())?;
                match owners::controller_of(&set.metadata).filter(|above| above.kind == "Deployment") {
                    Some(above) => {
                        let deployment = self.deployments.get(namespace, &above.name)?;
                        let uid = deployment.uid().filter(|uid| *uid == above.uid)?;
                        Some((uid, deployment.spec.as_ref()?.replicas.unwrap_or(1)))
                    }
                    None => Some((uid, set.spec.as_ref()?.replicas.unwrap_or(1))),
                }
            }
            ("apps/v1", "StatefulSet") => {
                let set = self.stateful_sets.get(namespace, &owner.name)?;
                Some((own(set.uid())?, set.spec.as_ref()?.replicas.unwrap_or(1)))
            }
            ("v1", "ReplicationController") => {
                let controller = self.replication_controllers.get(namespace, &owner.name)?;
                Some((own(controller.uid())?, controller.spec.as_ref()?.replicas.unwrap_or(1)))
            }
            _ => None,
        }
    }

    /// The size of anything that has one; `None` if it is not there.
    async fn ask(
        &self,
        namespace: &str,
        owner: &OwnerReference,
        asked: &mut Vec<Asked>,
    ) -> Result<Option<i32>, ScaleError> {
        let resource = self.resource(owner).await?;
        asked.push(Asked { resource: resource.clone(), owner: Key::new(namespace, &owner.name) });
        let objects: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let scale = match objects.get_scale(&owner.name).await {
            Ok(scale) => scale,
            Err(error) if is_not_found(&error) => return self.missing(&resource, owner).await,
            Err(error) => return Err(ScaleError::Api(error)),
        };
        let own = scale.metadata.uid.as_ref() == Some(&owner.uid);
        Ok(scale.spec.filter(|_| own).map(|spec| spec.replicas.unwrap_or(0)))
    }

    /// Tells an object that is not there from a kind without sizes.
    async fn missing(&self, resource: &ApiResource, owner: &OwnerReference) -> Result<Option<i32>, ScaleError> {
        let found = kube::discovery::pinned_kind(&self.client, &gvk(owner)).await;
        let (_, capabilities) = found.map_err(ScaleError::Api)?;
        if capabilities.subresources.iter().any(|(resource, _)| resource.plural.ends_with("scale")) {
            return Ok(None);
        }
        let name = match resource.group.as_str() {
            "" => resource.plural.clone(),
            group => format!("{}.{group}", resource.plural),
        };
        Err(ScaleError::NoScale(name))
    }

    async fn resource(&self, owner: &OwnerReference) -> Result<ApiResource, ScaleError> {
        let kind = gvk(owner);
        if let Some(resource) = self.kinds.lock().get(&kind) {
            return Ok(resource.clone());
        }
        let found = kube::discovery::pinned_kind(&self.client, &kind).await;
        let (resource, _) = found.map_err(ScaleError::Api)?;
        let mut kinds = self.kinds.lock();
        if kinds.len() >= KINDS_MAX {
            kinds.clear();
        }
        kinds.insert(kind, resource.clone());
        Ok(resource)
    }
}

fn gvk(owner: &OwnerReference) -> GroupVersionKind {
    let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    GroupVersionKind::gvk(group, version, &owner.kind)
}
