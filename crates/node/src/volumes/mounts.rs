//! The mounts of one container.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Container;
use runtime::api::{Mount, Propagation};

use super::{Volumes, subpath};
use crate::container::environment::expand;

/// Why a container's mounts cannot be made; a user reads it under `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountsError {
    #[error("cannot find volume {volume:?} to mount into container {container:?}")]
    Volume { volume: String, container: String },
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}: {source}")]
    SubPath { volume: String, container: String, source: io::Error },
    #[error("cannot create termination log {path}: {source}", path = .path.display())]
    TerminationLog { path: PathBuf, source: io::Error },
}

/// Renders the mounts, in the order of their depth so that inner ones lie on outer ones.
pub(crate) fn container_mounts(
    container: &Container,
    volumes: &Volumes,
    pod_dir: &Path,
    variables: &[(String, String)],
    termination_log: &Path,
) -> Result<Vec<Mount>, MountsError> {
    let mut mounts = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        let names = || (wanted.name.clone(), container.name.clone());
        let volume = volumes.paths.get(&wanted.name).ok_or_else(|| {
            let (volume, container) = names();
            MountsError::Volume { volume, container }
        })?;
        let find = |name: &str| variables.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
        let inner = match (&wanted.sub_path, &wanted.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => Some(path.clone()),
            (_, Some(expression)) if !expression.is_empty() => Some(expand(expression, find)),
            _ => None,
        };
        let host_path = match inner {
            None => volume.path.clone(),
            Some(inner) => {
                let target = pod_dir.join("volume-subpaths").join(&container.name).join(index.to_string());
                subpath::bind(&volume.path, Path::new(&inner), &target).map_err(|source| {
                    let (volume, container) = names();
                    MountsError::SubPath { volume, container, source }
                })?;
                target
            }
        };
        mounts.push(Mount {
            host_path,
            container_path: absolute(&wanted.mount_path),
            readonly: volume.readonly || wanted.read_only == Some(true),
            propagation: match wanted.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        });
    }
    let path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !path.is_empty() {
        create_termination_log(termination_log)
            .map_err(|source| MountsError::TerminationLog { path: termination_log.to_owned(), source })?;
        mounts.push(Mount {
            host_path: termination_log.to_owned(),
            container_path: absolute(path),
            readonly: false,
            propagation: Propagation::Private,
        });
    }
    mounts.sort_by_key(|mount| mount.container_path.components().count());
    Ok(mounts)
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

/// Any user of the container may write its last words.
fn create_termination_log(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o666))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::VolumePath, *};

    #[test]
    fn mounts_are_ordered_and_read_only_where_they_must_be() {
        let directory = tempfile::tempdir().unwrap();
        let container: Container = serde_json::from_value(json!({
            "name": "c",
            "volumeMounts": [
                {"name": "cm", "mountPath": "/data/config/deep"},
                {"name": "dir", "mountPath": "data"},
                {"name": "dir", "mountPath": "/ro", "readOnly": true},
            ],
        }))
        .unwrap();
        let path = |readonly| VolumePath { path: "/v".into(), readonly };
        let paths = [("cm".to_owned(), path(true)), ("dir".to_owned(), path(false))].into();
        let volumes = Volumes { paths, renew_at: None };
        let log = directory.path().join("c/0");
        let mounts = container_mounts(&container, &volumes, directory.path(), &[], &log).unwrap();
        let seen: Vec<_> = mounts.iter().map(|m| (m.container_path.to_str().unwrap(), m.readonly)).collect();
        assert_eq!(
            seen,
            [("/data", false), ("/ro", true), ("/dev/termination-log", false), ("/data/config/deep", true)]
        );
        assert!(log.exists());
        let none = container_mounts(&container, &Volumes::default(), directory.path(), &[], &log).unwrap_err();
        assert_eq!(none.to_string(), "cannot find volume \"cm\" to mount into container \"c\"");
    }
}
