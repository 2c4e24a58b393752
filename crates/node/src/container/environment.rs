//! A container's environment, and `$(VAR)` in its command and arguments.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};

use super::fields::{FieldError, PodFacts, field, resource};
use crate::sources::Sources;

/// What makes an environment impossible for now; a user reads it under `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvironmentError {
    #[error("configmap {0:?} not found")]
    ConfigMap(String),
    #[error("secret {0:?} not found")]
    Secret(String),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key { key: String, kind: &'static str, namespace: String, name: String },
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// Variables in the order they were defined; a later definition replaces the value in place.
#[derive(Debug, Default)]
struct Variables {
    list: Vec<(String, String)>,
    positions: HashMap<String, usize>,
}

impl Variables {
    fn set(&mut self, name: &str, value: String) {
        match self.positions.get(name) {
            Some(position) => self.list[*position].1 = value,
            None => {
                self.positions.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.positions.get(name).map(|position| self.list[*position].1.as_str())
    }
}

/// The environment of a container.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    facts: &PodFacts,
    sources: &Sources,
    services: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, EnvironmentError> {
    let mut variables = Variables::default();
    add_env_from(container, sources, &mut variables)?;
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => {
                let known = |name: &str| variables.get(name).or_else(|| services.get(name).map(String::as_str));
                Some(expand(variable.value.as_deref().unwrap_or_default(), known))
            }
            Some(source) => value_from(pod, container, facts, sources, source)?,
        };
        if let Some(value) = value {
            variables.set(&variable.name, value);
        }
    }
    for (name, value) in services {
        if variables.get(name).is_none() {
            variables.set(name, value.clone());
        }
    }
    Ok(variables.list)
}

fn add_env_from(container: &Container, sources: &Sources, variables: &mut Variables) -> Result<(), EnvironmentError> {
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut add = |key: &str, value: String| variables.set(&format!("{prefix}{key}"), value);
        if let Some(reference) = &source.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(found) => found.data.iter().flatten().for_each(|(key, value)| add(key, value.clone())),
                None if reference.optional == Some(true) => {}
                None => return Err(EnvironmentError::ConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(found) => found
                    .data
                    .iter()
                    .flatten()
                    .for_each(|(key, value)| add(key, String::from_utf8_lossy(&value.0).into_owned())),
                None if reference.optional == Some(true) => {}
                None => return Err(EnvironmentError::Secret(reference.name.clone())),
            }
        }
    }
    Ok(())
}

fn value_from(
    pod: &Pod,
    container: &Container,
    facts: &PodFacts,
    sources: &Sources,
    source: &EnvVarSource,
) -> Result<Option<String>, EnvironmentError> {
    if let Some(reference) = &source.field_ref {
        return Ok(Some(field(pod, facts, &reference.field_path)?));
    }
    if let Some(reference) = &source.resource_field_ref {
        return Ok(Some(resource(pod, facts, Some(&container.name), reference)?));
    }
    let missing_key = |kind, key: &str, name: &str| EnvironmentError::Key {
        key: key.to_owned(),
        kind,
        namespace: sources.namespace.clone(),
        name: name.to_owned(),
    };
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let found = sources.config_maps.get(&reference.name);
        let value = found.and_then(|map| map.data.as_ref()?.get(&reference.key)).cloned();
        return match (found, value) {
            (_, Some(value)) => Ok(Some(value)),
            _ if optional => Ok(None),
            (None, _) => Err(EnvironmentError::ConfigMap(reference.name.clone())),
            (Some(_), None) => Err(missing_key("ConfigMap", &reference.key, &reference.name)),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let found = sources.secrets.get(&reference.name);
        let value = found.and_then(|secret| secret.data.as_ref()?.get(&reference.key));
        return match (found, value) {
            (_, Some(value)) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            _ if optional => Ok(None),
            (None, _) => Err(EnvironmentError::Secret(reference.name.clone())),
            (Some(_), None) => Err(missing_key("Secret", &reference.key, &reference.name)),
        };
    }
    Ok(None)
}

/// Replaces `$(NAME)` by its value; unknown names stay, `$$` is a dollar sign.
pub(crate) fn expand<'a>(text: &str, known: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        out.push_str(&rest[..position]);
        rest = &rest[position + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match known(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Expands every element of a command line with the container's own environment.
pub(crate) fn expand_all(parts: Option<&Vec<String>>, variables: &[(String, String)]) -> Vec<String> {
    let find = |name: &str| variables.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    parts.into_iter().flatten().map(|part| expand(part, find)).collect()
}

/// Variables that name the services of the pod's namespace, and always the API's own.
pub(crate) fn service_variables<'a>(
    services: impl Iterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for service in services {
        let is_api = service.metadata.name.as_deref() == Some("kubernetes")
            && service.metadata.namespace.as_deref() == Some("default");
        let in_namespace = service.metadata.namespace.as_deref() == Some(namespace);
        // A service called kubernetes of the pod's own namespace goes before the API's.
        if is_api || (links && in_namespace) {
            let more = variables_of(service);
            if in_namespace {
                variables.extend(more);
            } else {
                for (name, value) in more {
                    variables.entry(name).or_insert(value);
                }
            }
        }
    }
    variables
}

fn variables_of(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let address = match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => return Vec::new(),
        Some(address) => address,
    };
    let name = service.metadata.name.as_deref().unwrap_or_default().to_uppercase().replace('-', "_");
    let mut variables = vec![(format!("{name}_SERVICE_HOST"), address.to_owned())];
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let (number, protocol) = (port.port, port.protocol.as_deref().unwrap_or("TCP"));
        let url = format!("{}://{address}:{number}", protocol.to_lowercase());
        let link = format!("{name}_PORT_{number}_{protocol}");
        if index == 0 {
            variables.push((format!("{name}_SERVICE_PORT"), number.to_string()));
            variables.push((format!("{name}_PORT"), url.clone()));
        }
        if let Some(own) = port.name.as_deref().filter(|own| !own.is_empty()) {
            let own = own.to_uppercase().replace('-', "_");
            variables.push((format!("{name}_SERVICE_PORT_{own}"), number.to_string()));
        }
        variables.push((link.clone(), url));
        variables.push((format!("{link}_PROTO"), protocol.to_lowercase()));
        variables.push((format!("{link}_PORT"), number.to_string()));
        variables.push((format!("{link}_ADDR"), address.to_owned()));
    }
    variables
}

#[cfg(test)]
mod tests;
