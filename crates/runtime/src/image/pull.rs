//! Pulling: from a reference to an image in the store.

use std::{
    collections::HashMap,
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::{BoxFuture, Shared},
    stream,
};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncWriteExt as _, time::timeout};
use tokio_rustls::rustls::ClientConfig;

use super::{
    reference::{Reference, is_digest},
    registry::{BODY_IDLE_TIMEOUT, FetchError, Repository, collect, is_local, tls_config},
    store::{ImageRecord, ImageStore},
    unpack::unpack,
};
use crate::{
    api::{ImageStatus, RegistryAuth},
    error::{PullError, PullErrorKind},
    spec::ImageProcess,
};

/// Largest manifest or index; the limit registries set themselves.
const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest image configuration.
const CONFIG_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest compressed layer.
const LAYER_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Most layers: what overlayfs takes in one mount.
const LAYERS_MAX: usize = 127;
/// Layers of one image fetched at once, as Docker does.
const LAYERS_AT_ONCE: usize = 3;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

#[derive(Clone, Debug, Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An index or a manifest: which one, its fields tell.
#[derive(Debug, Deserialize)]
struct Manifest {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Debug, Deserialize)]
struct ImageConfig {
    rootfs: RootFs,
    config: Option<ProcessConfig>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ProcessConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

impl From<ProcessConfig> for ImageProcess {
    fn from(config: ProcessConfig) -> Self {
        Self {
            env: config.env.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            stop_signal: config.stop_signal.unwrap_or_default(),
        }
    }
}

type Flight = Shared<BoxFuture<'static, Result<ImageStatus, PullError>>>;

/// Pulls images into a store.
pub(crate) struct Puller {
    store: Arc<ImageStore>,
    mirror_port: Option<u16>,
    mirror_host: String,
    tls: Mutex<Option<Arc<ClientConfig>>>,
    flights: Mutex<HashMap<(String, String), Flight>>,
    /// One lock per layer being fetched, so that images that share it fetch it once.
    layers: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Removing images waits for pulls, which may be counting on their layers.
    pub(crate) gate: tokio::sync::RwLock<()>,
    next: AtomicU64,
}

impl Puller {
    pub(crate) fn new(store: Arc<ImageStore>, mirror: Option<std::net::SocketAddr>) -> Self {
        Self {
            store,
            mirror_port: mirror.map(|address| address.port()),
            mirror_host: mirror.map(|address| address.to_string()).unwrap_or_default(),
            tls: Mutex::default(),
            flights: Mutex::default(),
            layers: Mutex::default(),
            gate: tokio::sync::RwLock::default(),
            next: AtomicU64::default(),
        }
    }

    /// Pulls; callers that want the same at the same time share the work.
    pub(crate) async fn pull(
        self: &Arc<Self>,
        reference: &str,
        auth: Option<RegistryAuth>,
    ) -> Result<ImageStatus, PullError> {
        let parsed = Reference::parse(reference).map_err(|message| PullError {
            kind: PullErrorKind::InvalidReference,
            reference: reference.to_owned(),
            message,
        })?;
        let canonical = parsed.to_string();
        let key = (canonical.clone(), auth.as_ref().map(|auth| auth.username.clone()).unwrap_or_default());
        let flight = {
            let mut flights = self.flights.lock();
            flights.retain(|_, flight| flight.peek().is_none());
            let this = self.clone();
            let fresh = move || {
                async move {
                    let _gate = this.gate.read().await;
                    this.fetch(&parsed, auth).await.map_err(|error| PullError {
                        kind: error.kind,
                        message: describe(&error, &canonical),
                        reference: canonical,
                    })
                }
                .boxed()
                .shared()
            };
            flights.entry(key).or_insert_with(fresh).clone()
        };
        flight.await
    }

    /// From the mirror if it has the image, else from where the reference says.
    async fn fetch(&self, reference: &Reference, auth: Option<RegistryAuth>) -> Result<ImageStatus, FetchError> {
        if let Some(port) = self.mirror_port {
            let (repository, own) = reference.in_mirror(port);
            let mirror = Repository::new(&self.mirror_host, &repository, auth.clone(), None);
            match self.fetch_from(&mirror, reference).await {
                Err(error) if !own && matches!(error.kind, PullErrorKind::NotFound | PullErrorKind::Network) => {
                    tracing::debug!(%reference, error = error.message, "not in the embedded registry");
                }
                other => return other,
            }
        }
        // Certificate authorities cost a megabyte and are only loaded for registries elsewhere.
        let tls = (!is_local(&reference.registry)).then(|| self.tls());
        let remote = Repository::new(&reference.registry, &reference.repository, auth, tls);
        self.fetch_from(&remote, reference).await
    }

    fn tls(&self) -> Arc<ClientConfig> {
        self.tls.lock().get_or_insert_with(tls_config).clone()
    }

    async fn fetch_from(&self, from: &Repository, reference: &Reference) -> Result<ImageStatus, FetchError> {
        let (bytes, top_digest) = manifest(from, reference.tag_or_digest(), reference.digest.as_deref()).await?;
        let mut parsed: Manifest = parse("manifest", &bytes)?;
        if let Some(entries) = &parsed.manifests {
            let chosen = choose(entries)?;
            let (bytes, _) = manifest(from, &chosen.digest, Some(&chosen.digest)).await?;
            parsed = parse("manifest", &bytes)?;
        }
        let (Some(config), Some(layers)) = (parsed.config, parsed.layers) else {
            return Err(FetchError::new(
                PullErrorKind::Invalid,
                "manifest has neither config and layers nor manifests",
            ));
        };
        let bytes = blob(from, &config, CONFIG_BYTES_MAX).await?;
        let image: ImageConfig = parse("image config", &bytes)?;
        let diff_ids = image.rootfs.diff_ids;
        if layers.len() != diff_ids.len() || layers.len() > LAYERS_MAX || !diff_ids.iter().all(|id| is_digest(id)) {
            return Err(FetchError::new(
                PullErrorKind::Invalid,
                format!("image has {} layers and {} layer digests, at most {LAYERS_MAX}", layers.len(), diff_ids.len()),
            ));
        }
        let fetches: Vec<_> =
            layers.iter().zip(&diff_ids).map(|(layer, diff_id)| self.layer(from, layer, diff_id).boxed()).collect();
        let sizes: Vec<u64> = stream::iter(fetches).buffer_unordered(LAYERS_AT_ONCE).try_collect().await?;
        let record = ImageRecord {
            id: config.digest,
            tags: reference.tag.iter().map(|tag| format!("{}:{tag}", reference.name())).collect(),
            digests: vec![format!("{}@{top_digest}", reference.name())],
            layers: diff_ids,
            size: sizes.iter().sum(),
            process: image.config.unwrap_or_default().into(),
        };
        Ok(self.store.insert(record).map_err(|error| storage("record the image", &error))?.status())
    }

    /// Makes sure that a layer is in the store; returns its size.
    async fn layer(&self, from: &Repository, layer: &Descriptor, diff_id: &str) -> Result<u64, FetchError> {
        let lock = self.layers.lock().entry(diff_id.to_owned()).or_default().clone();
        let held = lock.lock().await;
        let outcome = match self.store.layer_size(diff_id) {
            Some(size) => Ok(size),
            None => self.fetch_layer(from, layer, diff_id).await,
        };
        drop(held);
        drop(lock);
        self.layers.lock().retain(|_, lock| Arc::strong_count(lock) > 1);
        outcome
    }

    async fn fetch_layer(&self, from: &Repository, layer: &Descriptor, diff_id: &str) -> Result<u64, FetchError> {
        if layer.size > LAYER_BYTES_MAX {
            return Err(FetchError::new(PullErrorKind::Invalid, format!("layer of {} bytes is too large", layer.size)));
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let home = Scratch(self.store.temporary_dir().join(format!("layer-{number}")));
        let archive = home.0.join("archive");
        fs::create_dir(&home.0).map_err(|error| storage("make a directory", &error))?;
        download(from, layer, &archive).await?;
        let store = self.store.clone();
        let (expected, shown) = (diff_id.to_owned(), layer.digest.clone());
        tokio::task::spawn_blocking(move || {
            let unpacked = unpack_into(&home.0, &archive).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
                    FetchError::new(PullErrorKind::Invalid, format!("layer {shown}: {error}"))
                }
                _ => storage(&format!("layer {shown}"), &error),
            })?;
            if unpacked.diff_id != expected {
                let message = format!("layer {shown} unpacks to {}, the image says {expected}", unpacked.diff_id);
                return Err(FetchError::new(PullErrorKind::Invalid, message));
            }
            store.adopt_layer(&home.0, &expected, unpacked.size).map_err(|error| storage("keep the layer", &error))?;
            Ok(unpacked.size)
        })
        .await
        .map_err(|error| FetchError::new(PullErrorKind::Storage, format!("unpack: {error}")))?
    }
}

/// A directory that is removed when it is not adopted.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Adopted or never made is fine, and the rest is removed when the store is opened.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn unpack_into(home: &std::path::Path, archive: &std::path::Path) -> io::Result<super::unpack::Unpacked> {
    use std::os::unix::fs::PermissionsExt as _;
    let target = home.join("fs");
    fs::create_dir(&target)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    let unpacked = unpack(fs::File::open(archive)?, &target)?;
    fs::remove_file(archive)?;
    Ok(unpacked)
}

fn storage(what: &str, error: &io::Error) -> FetchError {
    FetchError::new(PullErrorKind::Storage, format!("{what}: {error}"))
}

fn describe(error: &FetchError, canonical: &str) -> String {
    match error.kind {
        PullErrorKind::NotFound => {
            format!("failed to resolve reference \"{canonical}\": {canonical}: {}", error.message)
        }
        PullErrorKind::Unauthorized | PullErrorKind::Network | PullErrorKind::Unavailable => {
            format!("failed to resolve reference \"{canonical}\": {}", error.message)
        }
        _ => error.message.clone(),
    }
}

fn parse<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, FetchError> {
    serde_json::from_slice(bytes).map_err(|error| FetchError::new(PullErrorKind::Invalid, format!("{what}: {error}")))
}

/// The entry of an index for this machine.
fn choose(entries: &[Descriptor]) -> Result<&Descriptor, FetchError> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    entries
        .iter()
        .find(|entry| {
            entry
                .platform
                .as_ref()
                .is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture)
        })
        .ok_or_else(|| {
            FetchError::new(
                PullErrorKind::Platform,
                format!("no match for platform in manifest: linux/{architecture}: not found"),
            )
        })
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn verify(what: &str, expected: &str, actual: &str) -> Result<(), FetchError> {
    if expected == actual {
        return Ok(());
    }
    Err(FetchError::new(PullErrorKind::Invalid, format!("{what} has digest {actual}, expected {expected}")))
}

async fn manifest(from: &Repository, name: &str, digest: Option<&str>) -> Result<(Bytes, String), FetchError> {
    let answer = from.get(&format!("manifests/{name}"), MANIFEST_TYPES).await?;
    let bytes = collect(answer, MANIFEST_BYTES_MAX).await?;
    let actual = digest_of(&bytes);
    if let Some(expected) = digest {
        verify("manifest", expected, &actual)?;
    }
    Ok((bytes, actual))
}

async fn blob(from: &Repository, descriptor: &Descriptor, bytes_max: usize) -> Result<Bytes, FetchError> {
    if !is_digest(&descriptor.digest) {
        return Err(FetchError::new(PullErrorKind::Invalid, format!("invalid digest {:?}", descriptor.digest)));
    }
    let answer = from.get(&format!("blobs/{}", descriptor.digest), "*/*").await?;
    let bytes = collect(answer, bytes_max).await?;
    verify("blob", &descriptor.digest, &digest_of(&bytes))?;
    Ok(bytes)
}

/// Writes a blob to a file while checking its digest and length.
async fn download(from: &Repository, layer: &Descriptor, path: &std::path::Path) -> Result<(), FetchError> {
    if !is_digest(&layer.digest) {
        return Err(FetchError::new(PullErrorKind::Invalid, format!("invalid digest {:?}", layer.digest)));
    }
    let mut answer = from.get(&format!("blobs/{}", layer.digest), "*/*").await?;
    let file = tokio::fs::File::create(path).await.map_err(|error| storage("make a file", &error))?;
    let mut file = tokio::io::BufWriter::with_capacity(256 * 1024, file);
    let mut hash = Sha256::new();
    let mut length = 0;
    loop {
        let frame = timeout(BODY_IDLE_TIMEOUT, answer.response.body_mut().frame())
            .await
            .map_err(|_| FetchError::new(PullErrorKind::Network, format!("layer {}: i/o timeout", layer.digest)))?;
        let Some(frame) = frame else { break };
        let frame = frame
            .map_err(|error| FetchError::new(PullErrorKind::Network, format!("layer {}: {error}", layer.digest)))?;
        let Ok(bytes) = frame.into_data() else { continue };
        length += bytes.len() as u64;
        if length > layer.size {
            let message = format!("layer {} is longer than {} bytes", layer.digest, layer.size);
            return Err(FetchError::new(PullErrorKind::Invalid, message));
        }
        hash.update(&bytes);
        file.write_all(&bytes).await.map_err(|error| storage("write the layer", &error))?;
    }
    file.flush().await.map_err(|error| storage("write the layer", &error))?;
    verify("layer", &layer.digest, &format!("sha256:{}", hex::encode(hash.finalize())))
}
