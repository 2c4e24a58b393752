//! The configuration: upstream's `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1), read into profiles.
//!
//! What it says of the process around the scheduler (leader election, client connection, profiling, parallelism) is accepted
//! and has no meaning here. Every fault is reported, with the path of the field.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::SCHEDULER_NAME;
use crate::plugins::inter_pod_affinity::InterPodAffinityArgs;
use crate::plugins::node_affinity::NodeAffinityArgs;
use crate::plugins::node_resources_fit::{FitArgs, ResourceWeight};
use crate::plugins::pod_topology_spread::SpreadArgs;
use crate::plugins::{Build, DEFAULT_BINDER, DEFAULT_PREEMPTION, PLUGINS, PRIORITY_SORT, SCHEDULING_GATES};
use crate::preemption::PreemptionArgs;
use crate::profile::{Profile, Rule};
use crate::queue::Backoff;
use reader::{Reader, at};

mod args;
mod reader;
#[cfg(test)]
mod tests;

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";
/// The name that stands for all plug-ins.
const ALL: &str = "*";
/// Points at which plug-ins take part, by their names in the configuration.
const POINTS: [&str; 13] = [
    "multiPoint",
    "preEnqueue",
    "queueSort",
    "preFilter",
    "filter",
    "postFilter",
    "preScore",
    "score",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
];
/// How long a pod's volumes may take to be bound, upstream's value.
const VOLUMES_WAIT_MAX: Duration = Duration::from_secs(600);

/// What is wrong with a configuration: one line per fault, each with the path of the field.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ConfigurationError(Vec<String>);

/// Arguments of all plug-ins.
#[derive(Clone, Debug)]
pub(crate) struct PluginArgs {
    pub(crate) fit: FitArgs,
    pub(crate) balanced: Vec<ResourceWeight>,
    pub(crate) node_affinity: NodeAffinityArgs,
    pub(crate) inter_pod_affinity: InterPodAffinityArgs,
    pub(crate) spread: SpreadArgs,
    pub(crate) preemption: PreemptionArgs,
    pub(crate) volumes_wait_max: Duration,
}

impl Default for PluginArgs {
    fn default() -> Self {
        Self {
            fit: FitArgs::default(),
            balanced: ResourceWeight::defaults(),
            node_affinity: NodeAffinityArgs::default(),
            inter_pod_affinity: InterPodAffinityArgs::default(),
            spread: SpreadArgs::default(),
            preemption: PreemptionArgs::default(),
            volumes_wait_max: VOLUMES_WAIT_MAX,
        }
    }
}

/// How one profile differs from the standard one.
#[derive(Clone, Debug)]
struct ProfileConfig {
    scheduler: String,
    nodes_percent: Option<usize>,
    /// By place in the table: whether the plug-in does what it does before nodes are compared, and its weight after.
    active: Vec<Activity>,
    args: PluginArgs,
}

/// What a plug-in does in a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Activity {
    /// It filters; or, a part of the engine, does its work.
    works: bool,
    /// Its weight among scores; 0 where it does not score.
    weight: i64,
}

/// The configuration of the scheduler.
#[derive(Clone, Debug)]
pub struct Configuration {
    profiles: Vec<ProfileConfig>,
    nodes_percent: usize,
    backoff: Backoff,
}

impl Default for Configuration {
    fn default() -> Self {
        let profiles = vec![ProfileConfig::standard(SCHEDULER_NAME)];
        Self { profiles, nodes_percent: 0, backoff: Backoff::default() }
    }
}

impl Configuration {
    /// Reads the document of a configuration file.
    pub fn read(document: &Value) -> Result<Self, ConfigurationError> {
        let mut reader = Reader::default();
        let configuration = Self::parse(&mut reader, document);
        match (configuration, reader.faults) {
            (Some(configuration), faults) if faults.is_empty() => Ok(configuration),
            (_, faults) => Err(ConfigurationError(faults)),
        }
    }

    fn parse(reader: &mut Reader, document: &Value) -> Option<Self> {
        let ignored = [
            "parallelism",
            "leaderElection",
            "clientConnection",
            "enableProfiling",
            "enableContentionProfiling",
            "delayCacheUntilActive",
        ];
        let read = [
            "apiVersion",
            "kind",
            "profiles",
            "percentageOfNodesToScore",
            "podInitialBackoffSeconds",
            "podMaxBackoffSeconds",
            "extenders",
        ];
        let fields = reader.object("", document, &[&read[..], &ignored[..]].concat())?;
        for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
            if fields.get(field).and_then(Value::as_str) != Some(expected) {
                reader.fault(field, format!("must be {expected}"));
            }
        }
        if fields.get("extenders").is_some_and(|extenders| extenders.as_array().is_none_or(|list| !list.is_empty())) {
            reader.fault("extenders", "is not supported");
        }
        let nodes_percent = reader.integer(fields, "", "percentageOfNodesToScore", 0..=100).unwrap_or(0);
        let standard = Backoff::default();
        let mut seconds = |field: &str, default: Duration| {
            let seconds = reader.integer(fields, "", field, 1..=i64::from(i32::MAX));
            seconds.map_or(default, |seconds| Duration::from_secs(seconds.unsigned_abs()))
        };
        let initial = seconds("podInitialBackoffSeconds", standard.initial);
        let max = seconds("podMaxBackoffSeconds", standard.max);
        if max < initial {
            reader.fault("podMaxBackoffSeconds", "must be greater than or equal to podInitialBackoffSeconds");
        }
        let profiles = match fields.get("profiles") {
            None => vec![ProfileConfig::standard(SCHEDULER_NAME)],
            Some(profiles) => {
                let list = reader.list("profiles", profiles);
                if list.is_empty() {
                    reader.fault("profiles", "must not be empty");
                }
                let numbered = (0..).zip(list);
                let several = profiles.as_array().is_some_and(|list| list.len() > 1);
                numbered.filter_map(|(n, profile)| ProfileConfig::parse(reader, n, profile, several)).collect()
            }
        };
        let mut names = BTreeSet::new();
        for (n, profile) in profiles.iter().enumerate() {
            if !names.insert(profile.scheduler.clone()) {
                reader
                    .fault(&format!("profiles[{n}].schedulerName"), format!("duplicate value {:?}", profile.scheduler));
            }
        }
        let nodes_percent = usize::try_from(nodes_percent).unwrap_or(0);
        Some(Self { profiles, nodes_percent, backoff: Backoff { initial, max } })
    }

    pub(crate) fn backoff(&self) -> Backoff {
        self.backoff
    }

    /// Makes the profiles.
    pub(crate) fn profiles(&self) -> Vec<Profile> {
        self.profiles.iter().map(|profile| profile.build(self.nodes_percent)).collect()
    }
}

impl ProfileConfig {
    fn standard(scheduler: &str) -> Self {
        let active = PLUGINS.iter().map(|plugin| Activity { works: true, weight: plugin.weight });
        Self {
            scheduler: scheduler.to_owned(),
            nodes_percent: None,
            active: active.collect(),
            args: PluginArgs::default(),
        }
    }

    fn parse(reader: &mut Reader, n: usize, value: &Value, named: bool) -> Option<Self> {
        let path = format!("profiles[{n}]");
        let known = ["schedulerName", "percentageOfNodesToScore", "plugins", "pluginConfig"];
        let fields = reader.object(&path, value, &known)?;
        let scheduler = reader.text(fields, &path, "schedulerName").unwrap_or_default();
        if scheduler.is_empty() && (named || fields.contains_key("schedulerName")) {
            reader.fault(&at(&path, "schedulerName"), "is required");
        }
        let mut this = Self::standard(if scheduler.is_empty() { SCHEDULER_NAME } else { &scheduler });
        let percent = reader.integer(fields, &path, "percentageOfNodesToScore", 0..=100);
        this.nodes_percent = percent.and_then(|percent| usize::try_from(percent).ok());
        if let Some(plugins) = fields.get("plugins") {
            this.plugins(reader, &at(&path, "plugins"), plugins);
        }
        for (needed, what) in [(PRIORITY_SORT, "queue sort"), (DEFAULT_BINDER, "bind")] {
            let works = PLUGINS.iter().zip(&this.active).any(|(plugin, active)| plugin.name == needed && active.works);
            if !works {
                reader.fault(&at(&path, "plugins"), format!("no {what} plugin is enabled: {needed} is the only one"));
            }
        }
        if let Some(configs) = fields.get("pluginConfig") {
            let path = at(&path, "pluginConfig");
            let mut names = BTreeSet::new();
            for (n, config) in reader.list(&path, configs).iter().enumerate() {
                let path = format!("{path}[{n}]");
                let Some(fields) = reader.object(&path, config, &["name", "args"]) else { continue };
                let name = reader.text(fields, &path, "name").unwrap_or_default();
                if !names.insert(name.clone()) {
                    reader.fault(&at(&path, "name"), format!("duplicate value {name:?}"));
                }
                this.args.read(reader, &path, &name, fields.get("args"));
            }
        }
        Some(this)
    }

    /// Applies what is enabled and disabled: first at all points together, then at each.
    fn plugins(&mut self, reader: &mut Reader, path: &str, plugins: &Value) {
        let Some(points) = reader.object(path, plugins, &POINTS) else { return };
        for point in POINTS {
            let Some(set) = points.get(point) else { continue };
            let path = at(path, point);
            let Some(fields) = reader.object(&path, set, &["enabled", "disabled"]) else { continue };
            if let Some(disabled) = fields.get("disabled") {
                let path = at(&path, "disabled");
                for (n, plugin) in reader.list(&path, disabled).iter().enumerate() {
                    let path = format!("{path}[{n}]");
                    let Some(plugin) = reader.object(&path, plugin, &["name", "weight"]) else { continue };
                    let name = reader.text(plugin, &path, "name").unwrap_or_default();
                    let places = (0..PLUGINS.len()).filter(|at| name == ALL || PLUGINS[*at].name == name);
                    places.for_each(|place| self.set(point, place, None));
                }
            }
            if let Some(enabled) = fields.get("enabled") {
                let path = at(&path, "enabled");
                for (n, plugin) in reader.list(&path, enabled).iter().enumerate() {
                    self.enable(reader, point, &format!("{path}[{n}]"), plugin);
                }
            }
        }
    }

    fn enable(&mut self, reader: &mut Reader, point: &str, path: &str, plugin: &Value) {
        let Some(fields) = reader.object(path, plugin, &["name", "weight"]) else { return };
        let name = reader.text(fields, path, "name").unwrap_or_default();
        let weight = reader.integer(fields, path, "weight", 0..=i64::from(i32::MAX)).unwrap_or(0);
        match PLUGINS.iter().position(|plugin| plugin.name == name) {
            None => reader.fault(&at(path, "name"), format!("there is no plugin {name:?}")),
            Some(place) => self.set(point, place, Some(weight)),
        }
    }

    /// Sets what a plug-in does at a point; a weight of 0 is that of the table.
    fn set(&mut self, point: &str, place: usize, enabled: Option<i64>) {
        let plugin = &PLUGINS[place];
        let active = &mut self.active[place];
        let is_engine = |names: &[&str]| names.contains(&plugin.name);
        let works = match point {
            "multiPoint" => true,
            "filter" => matches!(plugin.build, Build::Rule(_)),
            "preEnqueue" => is_engine(&[SCHEDULING_GATES]),
            "queueSort" => is_engine(&[PRIORITY_SORT]),
            "postFilter" => is_engine(&[DEFAULT_PREEMPTION]),
            "bind" => is_engine(&[DEFAULT_BINDER]),
            _ => false,
        };
        if works {
            active.works = enabled.is_some();
        }
        if matches!(point, "multiPoint" | "score") && plugin.weight > 0 {
            active.weight = match enabled {
                None => 0,
                Some(0) => plugin.weight,
                Some(weight) => weight,
            };
        }
    }

    fn build(&self, nodes_percent: usize) -> Profile {
        let works =
            |name: &str| PLUGINS.iter().zip(&self.active).any(|(plugin, active)| plugin.name == name && active.works);
        let rules = PLUGINS.iter().zip(&self.active).enumerate().filter_map(|(place, (plugin, active))| {
            let Build::Rule(build) = &plugin.build else { return None };
            let idle = !active.works && active.weight == 0;
            (!idle).then(|| Rule { place, plugin: build(&self.args), filters: active.works, weight: active.weight })
        });
        Profile {
            scheduler: self.scheduler.clone(),
            rules: rules.collect(),
            preemption: works(DEFAULT_PREEMPTION).then(|| self.args.preemption.clone()),
            gates: works(SCHEDULING_GATES),
            nodes_percent: self.nodes_percent.unwrap_or(nodes_percent),
            volumes_wait_max: self.args.volumes_wait_max,
        }
    }
}
