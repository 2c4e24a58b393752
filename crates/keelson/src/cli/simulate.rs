//! Flags of `keelson simulate`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use jiff::SignedDuration;
use simulate::{Range, RunFor, Span, share};

use super::At;

/// How the summary is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Flags of `simulate`.
#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// Nodes to simulate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub nodes: u32,
    /// Plan with the manifests of this file or folder in a cluster of the simulated nodes alone, which is gone afterwards:
    /// print what fits, where it goes, and why the rest does not; may be repeated
    #[arg(
        long,
        short,
        value_name = "FILE",
        conflicts_with_all = ["data_dir", "kubeconfig", "pods_per_second", "keep", "node_fail_every"]
    )]
    pub filename: Vec<PathBuf>,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: Cluster,
    /// What the nodes are like.
    #[command(flatten)]
    pub fleet: FleetFlags,
    /// How containers behave.
    #[command(flatten)]
    pub behaviour: BehaviourFlags,
    /// What is created.
    #[command(flatten)]
    pub load: LoadFlags,
    /// End after this time and print a summary; without it, run until interrupted
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    pub time: Option<Duration>,
    /// What all decisions depend on: the same seed decides the same
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Leave nodes and pods when it ends; the next run takes them over
    #[arg(long)]
    pub keep: bool,
    /// How the summary is printed
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// Which cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which cluster")]
pub(crate) struct Cluster {
    /// Where settings come from.
    #[command(flatten)]
    pub at: At,
    /// The cluster that this kubeconfig names instead of the instance of the data directory
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,
}

/// What the nodes are like.
#[derive(Debug, Args)]
#[command(next_help_heading = "Nodes")]
pub(crate) struct FleetFlags {
    /// Names of nodes are this and a number; nodes of another prefix are left alone
    #[arg(long, value_name = "NAME", default_value = "sim")]
    pub name_prefix: String,
    /// Zones the nodes are spread over
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub zones: u32,
    /// Region of all zones
    #[arg(long, value_name = "NAME", default_value = "simulated")]
    pub region: String,
    /// CPUs of a node
    #[arg(long, value_name = "QUANTITY", default_value = "32")]
    pub cpu: String,
    /// Memory of a node
    #[arg(long, value_name = "QUANTITY", default_value = "128Gi")]
    pub memory: String,
    /// Pods a node takes
    #[arg(long, value_name = "N", default_value_t = 110)]
    pub pods: u32,
    /// Another resource of a node, for example nvidia.com/gpu=8; may be repeated
    #[arg(long, value_name = "NAME=QUANTITY", value_parser = pair)]
    pub resource: Vec<(String, String)>,
    /// Label of all nodes; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
    /// Annotation of all nodes; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub annotation: Vec<(String, String)>,
    /// Taint of all nodes; may be repeated
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_parser = simulate::taint)]
    pub taint: Vec<k8s_openapi::api::core::v1::Taint>,
    /// Architecture of the nodes
    #[arg(long, value_name = "NAME", default_value = "amd64")]
    pub arch: String,
    /// Let each node fail when it has worked for this long, for example 10m..30m
    #[arg(long, value_name = "TIME")]
    pub node_fail_every: Option<Span>,
    /// How long a node that fails is silent
    #[arg(long, value_name = "TIME", default_value = "2m..5m", requires = "node_fail_every")]
    pub node_down_for: Span,
    /// Addresses of pods
    #[arg(long, value_name = "CIDR", default_value = "100.64.0.0/10")]
    pub pod_cidr: Range,
}

/// How containers behave.
#[derive(Debug, Args)]
#[command(next_help_heading = "Pods (annotations simulate.keelson.dev/FLAG of a pod go before)")]
pub(crate) struct BehaviourFlags {
    /// From the decision to start a container until it runs
    #[arg(long, value_name = "TIME", default_value = "200ms..800ms")]
    pub start_after: Span,
    /// From when a container runs until it is ready
    #[arg(long, value_name = "TIME", default_value = "1s..3s")]
    pub ready_after: Span,
    /// How long an init container runs
    #[arg(long, value_name = "TIME", default_value = "500ms..1s")]
    pub init_for: Span,
    /// How long containers run whose pod runs to an end, as those of Jobs; or "forever"
    #[arg(long, value_name = "TIME", default_value = "2s..5s")]
    pub run_for: RunFor,
    /// How long a container takes to end once it is told to
    #[arg(long, value_name = "TIME", default_value = "200ms..1s")]
    pub terminate_after: Span,
    /// Share of the runs of containers that fail, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub fail_rate: f64,
    /// Let each container crash when it has run for this long, for example 1m..1h
    #[arg(long, value_name = "TIME", default_value = "forever", hide_default_value = true)]
    pub crash_every: RunFor,
}

/// What is created.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadFlags {
    /// Create so many pods a second, and measure how they fare
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub pods_per_second: Option<f64>,
    /// What the pods are made from: a Pod, or anything with a pod template (YAML) [default: one container, 100m, 128Mi]
    #[arg(long, value_name = "FILE", requires = "pods_per_second")]
    pub template: Option<PathBuf>,
    /// Namespace of the pods; it is made, and deleted at the end
    #[arg(long, value_name = "NAME", default_value = "simulated-load", requires = "pods_per_second")]
    pub namespace: String,
    /// Delete each pod when it has been ready for this long
    #[arg(long, value_name = "TIME", value_parser = time, requires = "pods_per_second")]
    pub stay: Option<Duration>,
}

fn time(text: &str) -> Result<Duration, String> {
    let read = text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    read.ok_or_else(|| format!("{text:?} is not a time such as 30s, 5m or 1h30m"))
}

fn rate(text: &str) -> Result<f64, String> {
    let read = text.parse::<f64>().ok().filter(|rate| *rate > 0.0 && *rate <= 1e6);
    read.ok_or_else(|| format!("{text:?} is not a rate above 0"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let read = text.split_once('=').filter(|(name, _)| !name.is_empty());
    read.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| format!("{text:?} is not NAME=VALUE"))
}
