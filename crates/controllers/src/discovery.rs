//! Which kinds the server has, in the version that is the most stable.

use kube::Client;
use kube::core::{ApiResource, Request};
use kube::discovery::{ApiCapabilities, Discovery, Scope, verbs};
use kube::{Resource, api::ListParams, core::ObjectList};
use reconcile::Metadata;

/// A kind the server has.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    capabilities: ApiCapabilities,
}

impl Kind {
    pub(crate) fn new(resource: ApiResource, capabilities: ApiCapabilities) -> Self {
        Self { resource, capabilities }
    }

    pub(crate) fn namespaced(&self) -> bool {
        self.capabilities.scope == Scope::Namespaced
    }

    pub(crate) fn can_be_listed_and_deleted(&self) -> bool {
        [verbs::LIST, verbs::DELETE].iter().all(|verb| self.capabilities.supports_operation(verb))
    }

    pub(crate) fn can_be_watched(&self) -> bool {
        self.capabilities.supports_operation(verbs::WATCH)
    }

    pub(crate) fn can_delete_collection(&self) -> bool {
        self.capabilities.supports_operation(verbs::DELETE_COLLECTION)
    }

    /// `pods` or `deployments.apps`.
    pub(crate) fn group_resource(&self) -> String {
        match self.resource.group.as_str() {
            "" => self.resource.plural.clone(),
            group => format!("{}.{group}", self.resource.plural),
        }
    }
}

/// All kinds that can be listed and deleted.
pub(crate) async fn kinds(client: &Client) -> Result<Vec<Kind>, kube::Error> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        // Servers before 1.30 may not aggregate.
        Err(_) => Discovery::new(client.clone()).run().await?,
    };
    let kinds = discovery.groups().flat_map(|group| group.resources_by_stability());
    let kinds = kinds.map(|(resource, capabilities)| Kind::new(resource, capabilities));
    Ok(kinds.filter(Kind::can_be_listed_and_deleted).collect())
}

/// The metadata of all objects of a kind in a namespace.
pub(crate) async fn list_metadata(client: &Client, kind: &Kind, namespace: &str) -> Result<Vec<Metadata>, kube::Error> {
    let url = Metadata::url_path(&kind.resource, Some(namespace));
    let request = Request::new(url).list_metadata(&ListParams::default()).map_err(kube::Error::BuildRequest)?;
    let list: ObjectList<Metadata> = client.request(request).await?;
    Ok(list.items)
}
