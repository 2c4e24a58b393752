//! Which kinds the server has, in the version that is the most stable.

use std::collections::{BTreeSet, HashSet};

use kube::Client;
use kube::core::discovery::v2::{APIGroupDiscovery, APIResourceDiscovery};
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

/// What the server has.
#[derive(Debug, Default)]
pub(crate) struct Discovered {
    /// All kinds that can be listed and deleted.
    pub(crate) kinds: Vec<Kind>,
    /// All kinds, in each version in which they are served: group-version and kind.
    pub(crate) served: HashSet<(String, String)>,
    /// Group-versions whose server does not say what it has now.
    pub(crate) stale: BTreeSet<String>,
}

impl Discovered {
    /// Takes in a group: each of its resources in the first version that has it.
    fn add(&mut self, group: APIGroupDiscovery) {
        let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
        let mut known = HashSet::new();
        for version in group.versions {
            let version_name = version.version.unwrap_or_default();
            let api_version = if name.is_empty() { version_name.clone() } else { format!("{name}/{version_name}") };
            if version.freshness.as_deref() == Some("Stale") {
                self.stale.insert(api_version);
                continue;
            }
            for resource in version.resources {
                let Some(plural) = resource.resource.clone() else { continue };
                let kind = resource.response_kind.as_ref().and_then(|kind| kind.kind.clone()).unwrap_or_default();
                self.served.insert((api_version.clone(), kind.clone()));
                let is_listed = |verb: &&str| resource.verbs.iter().any(|known| known == verb);
                if ![verbs::LIST, verbs::DELETE].iter().all(is_listed) || !known.insert(plural.clone()) {
                    continue;
                }
                let (group, version, api_version) = (name.clone(), version_name.clone(), api_version.clone());
                let described = ApiResource { group, version, api_version, kind, plural };
                self.kinds.push(Kind::new(described, capabilities(resource)));
            }
        }
    }
}

fn capabilities(resource: APIResourceDiscovery) -> ApiCapabilities {
    let namespaced = resource.scope.as_deref() == Some("Namespaced");
    let scope = if namespaced { Scope::Namespaced } else { Scope::Cluster };
    ApiCapabilities { scope, subresources: Vec::new(), operations: resource.verbs }
}

/// Asks the server what it has. Kinds of servers behind it that do not answer are left out, and named.
pub(crate) async fn discover(client: &Client) -> Result<Discovered, kube::Error> {
    let (core, others) = (client.list_core_api_versions_aggregated(), client.list_api_groups_aggregated());
    let mut discovered = Discovered::default();
    if let (Ok(core), Ok(others)) = futures::future::join(core, others).await {
        for group in core.items.into_iter().chain(others.items) {
            discovered.add(group);
        }
    }
    if discovered.kinds.is_empty() {
        // Servers before 1.30 may not aggregate, and then answer in another shape.
        let found = Discovery::new(client.clone()).run().await?;
        for group in found.groups() {
            let all = group.versions().flat_map(|version| group.versioned_resources(version));
            discovered.served.extend(all.map(|(resource, _)| (resource.api_version, resource.kind)));
        }
        let kinds = found.groups().flat_map(|group| group.resources_by_stability());
        let kinds = kinds.map(|(resource, capabilities)| Kind::new(resource, capabilities));
        discovered.kinds.extend(kinds.filter(Kind::can_be_listed_and_deleted));
    }
    Ok(discovered)
}

/// All kinds that can be listed and deleted, as far as their servers answer.
pub(crate) async fn kinds(client: &Client) -> Result<Vec<Kind>, kube::Error> {
    discover(client).await.map(|discovered| discovered.kinds)
}

/// The metadata of all objects of a kind in a namespace.
pub(crate) async fn list_metadata(client: &Client, kind: &Kind, namespace: &str) -> Result<Vec<Metadata>, kube::Error> {
    let url = Metadata::url_path(&kind.resource, Some(namespace));
    let request = Request::new(url).list_metadata(&ListParams::default()).map_err(kube::Error::BuildRequest)?;
    let list: ObjectList<Metadata> = client.request(request).await?;
    Ok(list.items)
}

#[cfg(test)]
mod tests {
    use kube::core::discovery::v2::APIGroupDiscoveryList;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_resource_is_taken_in_its_first_version_and_silent_servers_are_named() {
        let resource = |name: &str, kind: &str, verbs: &[&str]| json!({"resource": name, "scope": "Namespaced", "verbs": verbs, "responseKind": {"kind": kind}});
        let (all, few) = (["list", "delete", "deletecollection", "watch"], ["list"]);
        let list: APIGroupDiscoveryList = serde_json::from_value(json!({"items": [
            {"metadata": {"name": ""}, "versions": [{"version": "v1", "freshness": "Current",
                "resources": [resource("pods", "Pod", &all), resource("componentstatuses", "ComponentStatus", &few)]}]},
            {"metadata": {"name": "example.com"}, "versions": [
                {"version": "v2", "freshness": "Current", "resources": [resource("widgets", "Widget", &all)]},
                {"version": "v1", "freshness": "Current",
                    "resources": [resource("widgets", "Widget", &all), resource("gadgets", "Gadget", &all)]},
                {"version": "v1alpha1", "freshness": "Stale", "resources": [resource("relics", "Relic", &all)]}]},
        ]}))
        .unwrap();
        let mut discovered = Discovered::default();
        for group in list.items {
            discovered.add(group);
        }
        let kinds: Vec<String> = discovered
            .kinds
            .iter()
            .map(|kind| format!("{} {} {}", kind.resource.api_version, kind.resource.plural, kind.resource.kind))
            .collect();
        assert_eq!(kinds, ["v1 pods Pod", "example.com/v2 widgets Widget", "example.com/v1 gadgets Gadget"]);
        assert!(discovered.kinds[0].namespaced() && discovered.kinds[0].can_delete_collection());
        let served = |version: &str, kind: &str| discovered.served.contains(&(version.to_owned(), kind.to_owned()));
        assert!(served("example.com/v1", "Widget") && served("v1", "ComponentStatus"));
        assert!(!served("example.com/v1alpha1", "Relic") && !served("example.com/v2", "Gadget"));
        assert_eq!(discovered.stale.into_iter().collect::<Vec<_>>(), ["example.com/v1alpha1"]);
    }
}
