//! The image builder: a static binary or a root filesystem, and a small configuration, become an image in an OCI layout
//! folder. Nothing of the machine, the user or the clock enters it, so the same input has the same digest everywhere.

mod binary;
mod config;
mod layer;
mod layout;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

pub use config::{ConfigError, ImageConfig, Port};
pub(crate) use layout::Layout;
pub use layout::LayoutError;

use crate::client::{ClientError, RegistryClient};
use crate::digest::Digest;
use crate::oci::{Descriptor, IMAGE_CONFIG, IMAGE_MANIFEST, LAYER_GZIP, Manifest};
use crate::reference::Reference;

/// What the image's files are made of.
#[derive(Debug, Clone)]
pub enum Source {
    /// A statically linked executable; it becomes `/<its name>` and the entry point.
    Binary(PathBuf),
    /// A folder with a root filesystem.
    RootFs(PathBuf),
}

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildSpec {
    /// The files.
    pub source: Source,
    /// How a container of the image runs.
    pub config: ImageConfig,
    /// A file with certificate authorities, to be put where TLS libraries look for it.
    pub ca_certificates: Option<PathBuf>,
    /// The time that files and image bear, in seconds since 1970; `SOURCE_DATE_EPOCH` by convention, 0 by default.
    pub epoch_seconds: i64,
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The image's manifest.
    pub manifest: Descriptor,
    /// Bytes of the image: manifest, configuration and compressed layers.
    pub size: u64,
}

/// Why no image came out.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}", path = .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// The file is no executable for Linux.
    #[error("{path} is not a Linux executable for amd64 or arm64", path = .0.display())]
    NotExecutable(PathBuf),
    /// The executable needs a loader, which an image without a root filesystem does not have.
    #[error("{path} is dynamically linked (it asks for {interpreter}); link it statically or give a root filesystem", path = .path.display())]
    Dynamic {
        /// The executable.
        path: PathBuf,
        /// The loader that it asks for.
        interpreter: String,
    },
    /// A file is neither a folder, a regular file nor a symbolic link.
    #[error("{path} is a device, socket or pipe, which an image cannot hold", path = .0.display())]
    FileKind(PathBuf),
    /// The root filesystem says nowhere what to run.
    #[error("an image from a root filesystem needs an entrypoint")]
    NoEntrypoint,
    /// The time lies outside of the calendar.
    #[error("{0} is not a time in seconds since 1970")]
    Epoch(i64),
    /// The layout folder could not be written.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The image could not be pushed.
    #[error(transparent)]
    Push(#[from] ClientError),
    /// The work was interrupted by the process' end.
    #[error("the build was interrupted")]
    Interrupted,
}

/// The configuration document of an image, in its written order.
#[derive(Serialize)]
struct ConfigDocument<'a> {
    created: String,
    architecture: &'a str,
    os: &'a str,
    config: RunConfig<'a>,
    rootfs: RootFs,
    history: [History<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RunConfig<'a> {
    user: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    cmd: &'a [String],
    working_dir: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
}

/// `{}`.
#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: [Digest; 1],
}

#[derive(Serialize)]
struct History<'a> {
    created: String,
    created_by: &'a str,
}

/// Builds an image into a layout folder under a reference, and returns what was built.
pub async fn build(spec: BuildSpec, layout: &Path, reference: &Reference) -> Result<Built, BuildError> {
    let (layout, reference) = (layout.to_owned(), reference.clone());
    match tokio::task::spawn_blocking(move || build_blocking(&spec, &layout, &reference)).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(BuildError::Interrupted),
        },
    }
}

/// Builds an image and pushes it to a registry.
pub async fn build_into(spec: BuildSpec, registry: &RegistryClient, to: &Reference) -> Result<Built, BuildError> {
    let folder = tempfile::tempdir().map_err(|source| BuildError::Io {
        action: "create a folder in",
        path: std::env::temp_dir(),
        source,
    })?;
    let built = build(spec, folder.path(), to).await?;
    registry.push(folder.path(), to).await?;
    Ok(built)
}

fn build_blocking(spec: &BuildSpec, folder: &Path, reference: &Reference) -> Result<Built, BuildError> {
    let created = Timestamp::from_second(spec.epoch_seconds).map_err(|_| BuildError::Epoch(spec.epoch_seconds))?;
    let epoch = u64::try_from(spec.epoch_seconds).map_err(|_| BuildError::Epoch(spec.epoch_seconds))?;
    let (architecture, entrypoint) = match &spec.source {
        Source::Binary(path) => (binary::architecture(path)?, Some(binary::image_path(path)?)),
        Source::RootFs(_) => (binary::host_architecture(), None),
    };
    let entrypoint = match (&spec.config.entrypoint, entrypoint) {
        (Some(entrypoint), _) => entrypoint.clone(),
        (None, Some(binary)) => vec![binary],
        (None, None) => return Err(BuildError::NoEntrypoint),
    };
    let layout = Layout::create(folder)?;
    let layer = layer::write(&layout, &spec.source, spec.ca_certificates.as_deref(), epoch)?;
    let document = ConfigDocument {
        created: created.to_string(),
        architecture,
        os: "linux",
        config: RunConfig {
            user: &spec.config.user,
            exposed_ports: spec.config.exposed_ports().map(|port| (port, Empty {})).collect(),
            env: spec.config.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            entrypoint,
            cmd: &spec.config.args,
            working_dir: &spec.config.working_dir,
            labels: &spec.config.labels,
        },
        rootfs: RootFs { kind: "layers", diff_ids: [layer.diff_id] },
        history: [History { created: created.to_string(), created_by: "keelson image build" }],
    };
    let config = layout.add_json(IMAGE_CONFIG, &document)?;
    let blob = Descriptor::new(LAYER_GZIP, layer.digest, layer.size);
    let size = config.size + blob.size;
    let manifest = layout.add_json(IMAGE_MANIFEST, &Manifest::image(config, vec![blob]))?;
    layout.write_index(&manifest, &reference.to_string())?;
    Ok(Built { size: size + manifest.size, manifest })
}
