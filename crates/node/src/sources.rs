//! The ConfigMaps and Secrets a pod refers to, read fresh when they are needed.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use kube::{Api, Client};

/// An error of the API in the words it was told in, without the client's wrapping.
pub(crate) fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

/// Names of what is referred to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) config_maps: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
}

impl References {
    /// What a container's environment refers to.
    pub(crate) fn of_environment(container: &Container) -> Self {
        let mut found = Self::default();
        for source in container.env_from.iter().flatten() {
            found.config_maps.extend(source.config_map_ref.as_ref().map(|reference| reference.name.clone()));
            found.secrets.extend(source.secret_ref.as_ref().map(|reference| reference.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            found.config_maps.extend(source.config_map_key_ref.as_ref().map(|reference| reference.name.clone()));
            found.secrets.extend(source.secret_key_ref.as_ref().map(|reference| reference.name.clone()));
        }
        found
    }

    /// What a pod's volumes refer to.
    pub(crate) fn of_volumes(pod: &Pod) -> Self {
        let mut found = Self::default();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            found.config_maps.extend(volume.config_map.as_ref().map(|source| source.name.clone()));
            found.secrets.extend(volume.secret.as_ref().and_then(|source| source.secret_name.clone()));
            for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
                found.config_maps.extend(source.config_map.as_ref().map(|source| source.name.clone()));
                found.secrets.extend(source.secret.as_ref().map(|source| source.name.clone()));
            }
        }
        found
    }
}

/// What was found; a name without an entry does not exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub(crate) namespace: String,
    pub(crate) config_maps: BTreeMap<String, ConfigMap>,
    pub(crate) secrets: BTreeMap<String, Secret>,
}

impl Sources {
    /// Reads everything referred to.
    pub(crate) async fn fetch(client: &Client, namespace: &str, wanted: &References) -> Result<Self, kube::Error> {
        let mut sources = Self { namespace: namespace.to_owned(), ..Self::default() };
        let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        for name in &wanted.config_maps {
            sources.config_maps.extend(config_maps.get_opt(name).await?.map(|found| (name.clone(), found)));
        }
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        for name in &wanted.secrets {
            sources.secrets.extend(secrets.get_opt(name).await?.map(|found| (name.clone(), found)));
        }
        Ok(sources)
    }
}
