//! The command line. Flags that set something are rows of [`crate::config::SETTINGS`]; the rest are commands.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

mod simulate;
mod upstream_flags;

pub(crate) use simulate::{Cluster, LoadFlags, Output, Simulate};
pub(crate) use upstream_flags::UpstreamFlags;

/// The cloud-native platform in one binary.
#[derive(Debug, Parser)]
#[command(name = "keelson", version, about, propagate_version = true, max_term_width = 120)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the platform in the foreground
    Up(Up),
    /// Stop what runs from a data directory and remove its containers, network and mounts
    Down(Down),
    /// Show what runs from a data directory
    Status(At),
    /// Simulate nodes and what runs on them, for scale tests, capacity planning and trying scheduling policies
    Simulate(Box<Simulate>),
    /// Print the version
    Version,
    /// Show settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Work with kubeconfig files
    #[command(subcommand)]
    Kubeconfig(KubeconfigCommand),
    /// Back up the objects of an instance, and restore them
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Show what this machine lacks, and the fix
    Check,
    /// Look at the mesh between pods
    #[command(subcommand)]
    Mesh(MeshCommand),
    /// Build and manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Work with the gateway
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Where settings come from, for commands that need them.
#[derive(Debug, Default, Args)]
pub(crate) struct At {
    /// Folder that holds everything this instance keeps [default: /var/lib/keelson]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE", env = "KEELSON_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Flags of `up`.
#[derive(Debug, Default, Args)]
pub(crate) struct Up {
    /// Where settings come from.
    #[command(flatten)]
    pub at: At,
    /// Address of the Kubernetes API; port 0 picks a free one [default: 127.0.0.1:6443]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where the objects are kept: embedded, or etcd://HOST:PORT,HOST:PORT (https:// for TLS) [default: embedded]
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Run the control plane without containers or network (needs no root)
    #[arg(long)]
    pub no_node: bool,
    /// Take over from the instance that runs from the data directory: its sockets stay open, requests under way end there
    #[arg(long)]
    pub replace: bool,
    /// How pods are scheduled: a KubeSchedulerConfiguration (YAML)
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<String>,
    /// Settings under kube-apiserver's names.
    #[command(flatten)]
    pub upstream: UpstreamFlags,
}

/// Flags of `down`.
#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Where settings come from.
    #[command(flatten)]
    pub at: At,
    /// Remove the data directory too
    #[arg(long)]
    pub purge: bool,
}

/// `keelson mesh …`
#[derive(Debug, Subcommand)]
pub(crate) enum MeshCommand {
    /// Show what takes part, and what of routes and policies cannot be followed
    Check {
        /// Where settings come from.
        #[command(flatten)]
        at: At,
        /// Ask the API that this kubeconfig names instead of the instance of the data directory
        #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
        kubeconfig: Option<PathBuf>,
    },
    /// Show where requests to a Service go
    Routes {
        /// The Service
        service: String,
        /// Its namespace
        #[arg(long, short, default_value = "default")]
        namespace: String,
        /// Where settings come from.
        #[command(flatten)]
        at: At,
        /// Ask the API that this kubeconfig names instead of the instance of the data directory
        #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
        kubeconfig: Option<PathBuf>,
    },
}

/// `keelson config …`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting, its value and where it came from
    Explain(Up),
}

/// `keelson backup …`
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Write all objects at one revision to a file, also while the instance works
    Create {
        /// File to write; it must not exist
        file: PathBuf,
        /// Where settings come from.
        #[command(flatten)]
        at: At,
        /// Ask the API that this kubeconfig names instead of the instance of the data directory
        #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
        kubeconfig: Option<PathBuf>,
        /// Read this etcd instead, where no instance runs from the data directory: etcd://HOST:PORT
        #[arg(long, value_name = "URL", conflicts_with = "kubeconfig")]
        store: Option<String>,
    },
    /// Check every checksum of a backup, and say what it holds
    Verify {
        /// The backup
        file: PathBuf,
    },
    /// Put a backup into the data directory of an instance that does not run, or into an etcd that no server uses
    Restore {
        /// The backup
        file: PathBuf,
        /// Where settings come from.
        #[command(flatten)]
        at: At,
        /// Where the objects go: embedded, or etcd://HOST:PORT,HOST:PORT (https:// for TLS) [default: embedded]
        #[arg(long, value_name = "URL")]
        store: Option<String>,
        /// Replace the objects that are there
        #[arg(long)]
        force: bool,
    },
}

/// `keelson gateway …`
#[derive(Debug, Subcommand)]
pub(crate) enum GatewayCommand {
    /// Print what Ingresses are in Gateway API; what has no equivalent is told on standard error
    Translate(Translate),
    /// Make certificates for development, by an authority whose root can be exported
    Ca(Ca),
}

/// Flags of `gateway ca`.
#[derive(Debug, Args)]
pub(crate) struct Ca {
    /// Print the root's certificate, for browsers and clients to trust
    #[arg(long, conflicts_with_all = ["secret", "namespace"])]
    pub export: bool,
    /// Hostnames and addresses of a new certificate, for example shop.test '*.shop.test'; prints a Secret with it
    #[arg(value_name = "HOST", required_unless_present = "export", conflicts_with = "export")]
    pub hosts: Vec<String>,
    /// Name of the Secret
    #[arg(long, value_name = "NAME", default_value = "development-tls")]
    pub secret: String,
    /// Namespace of the Secret
    #[arg(short = 'n', long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Where settings come from.
    #[command(flatten)]
    pub at: At,
}

/// Flags of `gateway translate`.
#[derive(Debug, Args)]
pub(crate) struct Translate {
    /// Files with Ingresses and the Services and ConfigMaps that they name; - is standard input [default: ask the cluster]
    #[arg(short = 'f', long, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// All namespaces, as without a namespace
    #[arg(short = 'A', long, conflicts_with_all = ["filename", "namespace"])]
    pub all_namespaces: bool,
    /// Only this namespace
    #[arg(short = 'n', long, value_name = "NAME", conflicts_with = "filename")]
    pub namespace: Option<String>,
    /// The GatewayClass of the Gateways
    #[arg(long, value_name = "NAME", default_value = "keelson")]
    pub class: String,
    /// Ask the API that this kubeconfig names instead of the instance of the data directory
    #[arg(long, value_name = "FILE", conflicts_with_all = ["filename", "data_dir"])]
    pub kubeconfig: Option<PathBuf>,
    /// Where settings come from.
    #[command(flatten)]
    pub at: At,
}

/// `keelson kubeconfig …`
#[derive(Debug, Subcommand)]
pub(crate) enum KubeconfigCommand {
    /// Add this instance to a kubeconfig under a context of its own
    Merge {
        /// Where settings come from.
        #[command(flatten)]
        at: At,
        /// File to merge into [default: $KUBECONFIG's first entry, else ~/.kube/config]
        #[arg(long, value_name = "FILE")]
        into: Option<PathBuf>,
        /// Name of the context
        #[arg(long, default_value = "keelson")]
        context: String,
    },
}

/// Which registry an image command talks to.
#[derive(Debug, Args)]
pub(crate) struct RegistryAt {
    /// Where settings come from.
    #[command(flatten)]
    pub at: At,
    /// Address of the registry [default: that of the instance running from the data directory]
    #[arg(long, value_name = "IP:PORT")]
    pub registry: Option<SocketAddr>,
}

/// `keelson image …`
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build an image from a static binary or a root filesystem folder; the same input gives the same digest
    Build(ImageBuild),
    /// List the images of the registry
    Ls(RegistryAt),
    /// Push an OCI layout folder to the registry
    Push {
        /// The OCI layout folder
        source: PathBuf,
        /// Name it gets, for example shop/web:1.0
        reference: String,
        /// The registry.
        #[command(flatten)]
        registry: RegistryAt,
    },
    /// Remove an image from the registry
    Rm {
        /// The image, for example shop/web:1.0
        reference: String,
        /// The registry.
        #[command(flatten)]
        registry: RegistryAt,
    },
    /// Print an image's manifest and configuration
    Inspect {
        /// The image, for example shop/web:1.0
        reference: String,
        /// The registry.
        #[command(flatten)]
        registry: RegistryAt,
    },
}

/// Flags of `image build`.
#[derive(Debug, Args)]
pub(crate) struct ImageBuild {
    /// A static binary, or a folder that becomes the root filesystem
    pub source: PathBuf,
    /// Name of the image, for example shop/web:1.0
    #[arg(long, short)]
    pub tag: String,
    /// Image configuration file (YAML: entrypoint, args, env, user, ports, labels, workingDir)
    #[arg(long, short = 'f', value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Program the container starts; may be repeated for arguments [default: the binary]
    #[arg(long)]
    pub entrypoint: Vec<String>,
    /// Environment variable NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// User the container runs as, UID or UID:GID [default: 65532:65532]
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// Port the program listens on, for example 8080; may be repeated
    #[arg(long)]
    pub port: Vec<String>,
    /// Label NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Write an OCI layout folder here instead of pushing to the registry
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// The registry.
    #[command(flatten)]
    pub registry: RegistryAt,
}
