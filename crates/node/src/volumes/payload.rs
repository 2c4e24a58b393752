//! The files of ConfigMap, Secret, downward API and projected volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, KeyToPath, Pod, ProjectedVolumeSource,
    SecretVolumeSource,
};

use crate::{
    container::fields::{FieldError, PodFacts, field, resource},
    sources::Sources,
};

/// Upstream's default of `defaultMode`.
const DEFAULT_MODE: i32 = 0o644;
/// Mode of a token that belongs to somebody.
const PRIVATE_MODE: u32 = 0o600;

/// Contents and mode by path relative to the volume.
pub(crate) type Files = BTreeMap<String, File>;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    /// The user it is given to, where that is not root.
    pub(crate) owner: Option<u32>,
}

impl File {
    fn new(content: Vec<u8>, mode: u32) -> Self {
        Self { content, mode, owner: None }
    }
}

/// What makes a payload impossible for now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("configmap {0:?} not found")]
    ConfigMap(String),
    #[error("secret {0:?} not found")]
    Secret(String),
    #[error("references non-existent config key: {0}")]
    ConfigKey(String),
    #[error("references non-existent secret key: {0}")]
    SecretKey(String),
    #[error("path {0:?} must be relative and must not contain \"..\"")]
    Path(String),
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// A path of a file inside a volume stays inside it.
fn checked(path: &str) -> Result<String, PayloadError> {
    let normal = |part| matches!(part, std::path::Component::Normal(_));
    if path.is_empty() || !std::path::Path::new(path).components().all(normal) {
        return Err(PayloadError::Path(path.to_owned()));
    }
    Ok(path.to_owned())
}

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    (own.or(default).unwrap_or(DEFAULT_MODE) & 0o777) as u32
}

/// Selects `items` of `data`, or all of it.
fn select(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    default_mode: Option<i32>,
    optional: bool,
    missing: impl Fn(String) -> PayloadError,
) -> Result<Files, PayloadError> {
    let mut files = Files::new();
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, content) in data {
            files.insert(checked(key)?, File::new(content.clone(), mode(None, default_mode)));
        }
        return Ok(files);
    };
    for item in items {
        match data.get(&item.key) {
            Some(content) => {
                let file = File::new(content.clone(), mode(item.mode, default_mode));
                files.insert(checked(&item.path)?, file);
            }
            None if optional => {}
            None => return Err(missing(item.key.clone())),
        }
    }
    Ok(files)
}

fn config_map_files(
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    default_mode: Option<i32>,
    optional: Option<bool>,
    sources: &Sources,
) -> Result<Files, PayloadError> {
    let optional = optional == Some(true);
    let Some(found) = sources.config_maps.get(name) else {
        return if optional { Ok(Files::new()) } else { Err(PayloadError::ConfigMap(name.to_owned())) };
    };
    let text = found.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = found.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    select(&text.chain(binary).collect(), items, default_mode, optional, PayloadError::ConfigKey)
}

fn secret_files(
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    default_mode: Option<i32>,
    optional: Option<bool>,
    sources: &Sources,
) -> Result<Files, PayloadError> {
    let optional = optional == Some(true);
    let Some(found) = sources.secrets.get(name) else {
        return if optional { Ok(Files::new()) } else { Err(PayloadError::Secret(name.to_owned())) };
    };
    let data = found.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    select(&data, items, default_mode, optional, PayloadError::SecretKey)
}

/// Files of a ConfigMap volume.
pub(crate) fn config_map(source: &ConfigMapVolumeSource, sources: &Sources) -> Result<Files, PayloadError> {
    config_map_files(&source.name, source.items.as_ref(), source.default_mode, source.optional, sources)
}

/// Files of a Secret volume.
pub(crate) fn secret(source: &SecretVolumeSource, sources: &Sources) -> Result<Files, PayloadError> {
    let name = source.secret_name.as_deref().unwrap_or_default();
    secret_files(name, source.items.as_ref(), source.default_mode, source.optional, sources)
}

fn downward_files(
    items: Option<&Vec<DownwardAPIVolumeFile>>,
    default_mode: Option<i32>,
    pod: &Pod,
    facts: &PodFacts,
) -> Result<Files, PayloadError> {
    let mut files = Files::new();
    for item in items.into_iter().flatten() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(reference), _) => field(pod, facts, &reference.field_path)?,
            (None, Some(reference)) => resource(pod, facts, None, reference)?,
            (None, None) => String::new(),
        };
        let file = File::new(text.into_bytes(), mode(item.mode, default_mode));
        files.insert(checked(&item.path)?, file);
    }
    Ok(files)
}

/// Files of a downward API volume.
pub(crate) fn downward(source: &DownwardAPIVolumeSource, pod: &Pod, facts: &PodFacts) -> Result<Files, PayloadError> {
    downward_files(source.items.as_ref(), source.default_mode, pod, facts)
}

/// Files of a projected volume; `tokens` by path.
pub(crate) fn projected(
    source: &ProjectedVolumeSource,
    pod: &Pod,
    facts: &PodFacts,
    sources: &Sources,
    tokens: &BTreeMap<String, String>,
) -> Result<Files, PayloadError> {
    let mut files = Files::new();
    let default = source.default_mode;
    for part in source.sources.iter().flatten() {
        if let Some(source) = &part.config_map {
            files.extend(config_map_files(&source.name, source.items.as_ref(), default, source.optional, sources)?);
        }
        if let Some(source) = &part.secret {
            files.extend(secret_files(&source.name, source.items.as_ref(), default, source.optional, sources)?);
        }
        if let Some(source) = &part.downward_api {
            files.extend(downward_files(source.items.as_ref(), default, pod, facts)?);
        }
        if let Some(wanted) = &part.service_account_token
            && let Some(token) = tokens.get(&wanted.path)
        {
            let file = token_file(pod, token, mode(None, default));
            files.insert(checked(&wanted.path)?, file);
        }
    }
    Ok(files)
}

/// A token is for one user or group alone where the pod says which, and for whoever is there otherwise.
fn token_file(pod: &Pod, token: &str, mode: u32) -> File {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let owner = only_user(pod);
    let private = owner.is_some() || context.is_some_and(|context| context.fs_group.is_some());
    File { content: token.as_bytes().to_vec(), mode: if private { PRIVATE_MODE } else { mode }, owner }
}

/// The user that all containers say they run as.
fn only_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut users =
        containers.map(|container| container.security_context.as_ref().and_then(|own| own.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sources() -> Sources {
        Sources {
            namespace: "ns".into(),
            config_maps: [(
                "cm".to_owned(),
                serde_json::from_value(json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AAE="}})).unwrap(),
            )]
            .into(),
            secrets: [("sec".to_owned(), serde_json::from_value(json!({"data": {"k": "djE="}})).unwrap())].into(),
        }
    }

    fn names(files: &Files) -> Vec<(&str, u32)> {
        files.iter().map(|(path, file)| (path.as_str(), file.mode)).collect()
    }

    #[test]
    fn items_select_rename_and_set_modes() {
        let render = |source| config_map(&serde_json::from_value(source).unwrap(), &sources());
        let all = render(json!({"name": "cm", "defaultMode": 0o400})).unwrap();
        assert_eq!(names(&all), [("a", 0o400), ("b", 0o400), ("c", 0o400)]);
        assert_eq!(all["c"].content, [0, 1]);
        let some = render(json!({"name": "cm", "items": [{"key": "a", "path": "x/y", "mode": 0o755}]})).unwrap();
        assert_eq!(names(&some), [("x/y", 0o755)]);
        let cases = [
            (json!({"name": "no"}), "configmap \"no\" not found"),
            (json!({"name": "cm", "items": [{"key": "z", "path": "z"}]}), "references non-existent config key: z"),
            (json!({"name": "cm", "items": [{"key": "a", "path": "../a"}]}), "path \"../a\" must be relative"),
        ];
        for (source, expected) in cases {
            assert!(render(source).unwrap_err().to_string().starts_with(expected), "{expected}");
        }
        assert!(render(json!({"name": "no", "optional": true})).unwrap().is_empty());
    }

    #[test]
    fn a_projected_volume_joins_its_sources() {
        let source = serde_json::from_value(json!({"sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca.crt"}]}},
            {"secret": {"name": "sec"}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}))
        .unwrap();
        let pod = serde_json::from_value(json!({"metadata": {"namespace": "ns"}})).unwrap();
        let tokens = [("token".to_owned(), "t".to_owned())].into();
        let files = projected(&source, &pod, &PodFacts::default(), &sources(), &tokens).unwrap();
        assert_eq!(names(&files), ["ca.crt", "k", "namespace", "token"].map(|name| (name, 0o644)));
        assert_eq!(files["namespace"].content, b"ns");
    }

    #[test]
    fn a_token_belongs_to_the_only_user_or_group_of_its_pod() {
        let of = |context, containers| {
            let spec = json!({"securityContext": context, "containers": containers});
            let pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            let file = token_file(&pod, "t", 0o644);
            (file.mode, file.owner)
        };
        let as_user = |user| json!({"name": "c", "securityContext": {"runAsUser": user}});
        let plain = json!({"name": "c"});
        assert_eq!(of(json!({}), json!([plain])), (0o644, None));
        assert_eq!(of(json!({"fsGroup": 10000}), json!([plain])), (0o600, None));
        assert_eq!(of(json!({"runAsUser": 1000}), json!([plain, plain])), (0o600, Some(1000)));
        assert_eq!(of(json!({"runAsUser": 1000}), json!([plain, as_user(1001)])), (0o644, None));
        assert_eq!(of(json!({}), json!([as_user(1001), as_user(1001)])), (0o600, Some(1001)));
        assert_eq!(of(json!({}), json!([as_user(1001), plain])), (0o644, None));
        assert_eq!(of(json!({"runAsUser": 0}), json!([plain])), (0o600, Some(0)));
    }
}
