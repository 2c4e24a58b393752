//! The volumes of a pod: made before its sandbox, kept up to date while it runs, removed after it.
//!
//! Files live below `<pod>/volumes/<kind>/<name>`. Projected contents (ConfigMap, Secret, downward API, tokens) are
//! written by [`atomic`] so that a container sees either the old set of files or the new one.

mod atomic;
mod claims;
pub(crate) mod host;
mod mounts;
mod ownership;
mod payload;
mod subpath;
mod token;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use kube::Client;

use kinds::quantity::units;
pub(crate) use mounts::container_mounts;
use ownership::ChangePolicy;
use payload::PayloadError;

use crate::{
    config::NodeConfig,
    container::fields::PodFacts,
    sources::{References, Sources, api_message},
};

/// Directory bits of a volume everybody may write to; emptyDir has them upstream.
const EMPTY_DIR_MODE: u32 = 0o777;

/// Why a volume cannot be set up; a user reads it in a `FailedMount` event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Payload { volume: String, source: PayloadError },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {action} {path}: {source}", path = .path.display())]
    File { volume: String, action: &'static str, path: PathBuf, source: io::Error },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {message}")]
    Host { volume: String, message: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : failed to fetch token: {}", api_message(source))]
    Token { volume: String, source: kube::Error },
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], failed to process \
         volumes=[{volume}]: error processing PVC {claim}: {problem}"
    )]
    Claim { volume: String, claim: String, problem: String },
    #[error("{0}")]
    Message(String),
    #[error("volume {0:?} is of a kind this node does not support")]
    Unsupported(String),
    #[error("cannot read what the volumes refer to: {}", api_message(.0))]
    Api(#[from] kube::Error),
}

/// Where volumes are on the node, by name, and when the set must be renewed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes {
    pub(crate) paths: BTreeMap<String, VolumePath>,
    pub(crate) renew_at: Option<Timestamp>,
}

/// One volume on the node.
#[derive(Clone, Debug)]
pub(crate) struct VolumePath {
    pub(crate) path: PathBuf,
    /// Always mounted read-only, as ConfigMaps and Secrets are.
    pub(crate) readonly: bool,
}

/// Why volumes are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The pod begins.
    Start,
    /// The pod runs, and what its volumes show may have changed.
    Refresh,
}

/// Sets up, or brings up to date, all volumes of a pod on `node`. Idempotent.
pub(crate) async fn set_up(
    client: &Client,
    pod: &Pod,
    node: &NodeConfig,
    facts: &PodFacts,
    purpose: Purpose,
    now: Timestamp,
) -> Result<Volumes, VolumeError> {
    let pod_dir = &node.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let sources = Sources::fetch(client, namespace, &References::of_volumes(pod)).await?;
    let mut volumes = Volumes::default();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let one = Setup { client, pod, node: &node.name, pod_dir, facts, purpose, sources: &sources, volume };
        let (path, renew_at) = one.run(now).await?;
        volumes.paths.insert(volume.name.clone(), path);
        volumes.renew_at = [volumes.renew_at, renew_at].into_iter().flatten().min();
    }
    Ok(volumes)
}

struct Setup<'a> {
    client: &'a Client,
    pod: &'a Pod,
    node: &'a str,
    pod_dir: &'a Path,
    facts: &'a PodFacts,
    purpose: Purpose,
    sources: &'a Sources,
    volume: &'a Volume,
}

impl Setup<'_> {
    async fn run(&self, now: Timestamp) -> Result<(VolumePath, Option<Timestamp>), VolumeError> {
        let volume = self.volume;
        let writable = |path| VolumePath { path, readonly: false };
        if let Some(source) = &volume.empty_dir {
            return Ok((writable(self.empty_dir(source)?), None));
        }
        if let Some(source) = &volume.host_path {
            let path = PathBuf::from(&source.path);
            host::check(&path, source.type_.as_deref().unwrap_or_default())
                .map_err(|message| VolumeError::Host { volume: volume.name.clone(), message })?;
            return Ok((writable(path), None));
        }
        if let Some(source) = &volume.persistent_volume_claim {
            let path = self.claimed(&source.claim_name, false).await?;
            return Ok((VolumePath { path, readonly: source.read_only == Some(true) }, None));
        }
        if volume.ephemeral.is_some() {
            let claim = format!("{}-{}", self.pod.metadata.name.as_deref().unwrap_or_default(), volume.name);
            return Ok((writable(self.claimed(&claim, true).await?), None));
        }
        let (kind, files, renew_at) = self.files(now).await?;
        let path = self.pod_dir.join("volumes").join(kind).join(&volume.name);
        let group = self.fs_group();
        let written = path.clone();
        let write = tokio::task::spawn_blocking(move || atomic::write(&written, &files, group, now));
        let written = write.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|source| self.file_error("write", &path, source))?;
        Ok((VolumePath { path, readonly: true }, renew_at))
    }

    fn file_error(&self, action: &'static str, path: &Path, source: io::Error) -> VolumeError {
        VolumeError::File { volume: self.volume.name.clone(), action, path: path.to_owned(), source }
    }

    fn fs_group(&self) -> Option<u32> {
        let group = self.pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
        u32::try_from(group).ok()
    }

    fn empty_dir(&self, source: &EmptyDirVolumeSource) -> Result<PathBuf, VolumeError> {
        let path = self.pod_dir.join("volumes/empty-dir").join(&self.volume.name);
        let in_memory = source.medium.as_deref() == Some("Memory");
        let is_mounted = || host::is_mounted(&path).map_err(|error| self.file_error("look for", &path, error));
        // A reboot takes the memory-backed file system away and leaves the directory.
        if path.exists() && (!in_memory || is_mounted()?) {
            return Ok(path);
        }
        fs::create_dir_all(&path).map_err(|error| self.file_error("create", &path, error))?;
        if in_memory {
            let size = source.size_limit.as_ref().and_then(|limit| units(&limit.0)).filter(|size| *size > 0);
            host::mount_tmpfs(&path, size).map_err(|error| self.file_error("mount tmpfs on", &path, error))?;
        }
        let mut mode = EMPTY_DIR_MODE;
        if let Some(group) = self.fs_group() {
            std::os::unix::fs::chown(&path, None, Some(group))
                .map_err(|error| self.file_error("chown", &path, error))?;
            mode |= 0o2000;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(|error| self.file_error("chmod", &path, error))?;
        Ok(path)
    }

    /// The directory behind a bound claim, given to the pod's group when the pod begins.
    async fn claimed(&self, claim: &str, ephemeral: bool) -> Result<PathBuf, VolumeError> {
        let wanted = claims::Wanted { volume: &self.volume.name, claim: claim.to_owned(), ephemeral };
        let found = claims::find(self.client, self.pod, self.node, &wanted, self.purpose).await?;
        if let (Some(group), true, Purpose::Start) = (self.fs_group(), found.is_owned, self.purpose) {
            let context = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
            let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
            let policy = match policy {
                Some("OnRootMismatch") => ChangePolicy::OnRootMismatch,
                _ => ChangePolicy::Always,
            };
            let path = found.path.clone();
            let given = tokio::task::spawn_blocking(move || ownership::give(&path, group, policy)).await;
            let given = given.unwrap_or_else(|error| Err(io::Error::other(error)));
            given.map_err(|source| self.file_error("apply fsGroup to", &found.path, source))?;
        }
        Ok(found.path)
    }

    /// The contents of a volume that is made of files.
    async fn files(&self, now: Timestamp) -> Result<(&'static str, payload::Files, Option<Timestamp>), VolumeError> {
        let volume = self.volume;
        let wrong = |source| VolumeError::Payload { volume: volume.name.clone(), source };
        if let Some(source) = &volume.config_map {
            return Ok(("config-map", payload::config_map(source, self.sources).map_err(wrong)?, None));
        }
        if let Some(source) = &volume.secret {
            return Ok(("secret", payload::secret(source, self.sources).map_err(wrong)?, None));
        }
        if let Some(source) = &volume.downward_api {
            return Ok(("downward-api", payload::downward(source, self.pod, self.facts).map_err(wrong)?, None));
        }
        let Some(source) = &volume.projected else {
            return Err(VolumeError::Unsupported(volume.name.clone()));
        };
        let mut tokens = BTreeMap::new();
        let mut renew_at = None;
        for wanted in source.sources.iter().flatten().filter_map(|source| source.service_account_token.as_ref()) {
            let path = self.pod_dir.join("volumes/projected").join(&volume.name).join(&wanted.path);
            let token = token::token(self.client, self.pod, wanted, &path, now)
                .await
                .map_err(|source| VolumeError::Token { volume: volume.name.clone(), source })?;
            renew_at = [renew_at, Some(token.renew_at)].into_iter().flatten().min();
            tokens.insert(wanted.path.clone(), token.text);
        }
        let files = payload::projected(source, self.pod, self.facts, self.sources, &tokens).map_err(wrong)?;
        Ok(("projected", files, renew_at))
    }
}

/// Unmounts everything below a pod's directory and removes it. Idempotent.
pub(crate) fn tear_down(pod_dir: &Path) -> io::Result<()> {
    host::unmount_below(pod_dir)?;
    match fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
