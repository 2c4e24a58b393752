//! Arguments of plug-ins, as `pluginConfig` gives them.

use std::time::Duration;

use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde_json::{Map, Value};

use super::PluginArgs;
use super::reader::{Reader, at};
use crate::plugins::node_affinity::NodeAffinityArgs;
use crate::plugins::node_resources_fit::{ResourceWeight, Strategy};
use crate::plugins::pod_topology_spread::SpreadArgs;
use crate::shape::{preferences, spread};
use kinds::matching::{Labels, NodeTerm};

/// A shape's scores go to 10, a node's to 100.
const CURVE_SCALE: i64 = 10;
/// Longest a pod may be told to wait for its volumes: a day.
const VOLUMES_WAIT_SECONDS_MAX: i64 = 86_400;

type Fields = Map<String, Value>;

impl PluginArgs {
    /// Reads the arguments of one plug-in.
    pub(super) fn read(&mut self, reader: &mut Reader, path: &str, plugin: &str, args: Option<&Value>) {
        let known: &[&str] = match plugin {
            "NodeResourcesFit" => &["ignoredResources", "ignoredResourceGroups", "scoringStrategy"],
            "NodeResourcesBalancedAllocation" => &["resources"],
            "NodeAffinity" => &["addedAffinity"],
            "InterPodAffinity" => &["hardPodAffinityWeight", "ignorePreferredTermsOfExistingPods"],
            "PodTopologySpread" => &["defaultConstraints", "defaultingType"],
            "DefaultPreemption" => &["minCandidateNodesPercentage", "minCandidateNodesAbsolute"],
            "VolumeBinding" => &["bindTimeoutSeconds", "shape"],
            _ => return reader.fault(&at(path, "name"), format!("plugin {plugin:?} takes no arguments")),
        };
        let path = at(path, "args");
        let Some(args) = args.filter(|args| !args.is_null()) else { return };
        let Some(fields) = reader.object(&path, args, &[known, &["apiVersion", "kind"]].concat()) else { return };
        let kind = reader.text(fields, &path, "kind");
        if kind.is_some_and(|kind| kind != format!("{plugin}Args")) {
            reader.fault(&at(&path, "kind"), format!("must be {plugin}Args"));
        }
        match plugin {
            "NodeResourcesFit" => self.fit(reader, &path, fields),
            "NodeResourcesBalancedAllocation" => {
                if let Some(resources) = resources(reader, &path, fields, 1) {
                    self.balanced = resources;
                }
            }
            "NodeAffinity" => self.node_affinity(reader, &path, fields),
            "InterPodAffinity" => {
                let args = &mut self.inter_pod_affinity;
                let weight = reader.integer(fields, &path, "hardPodAffinityWeight", 0..=100);
                args.hard_weight = weight.unwrap_or(args.hard_weight);
                let ignore = reader.boolean(fields, &path, "ignorePreferredTermsOfExistingPods");
                args.ignore_preferences_of_placed = ignore.unwrap_or(false);
            }
            "PodTopologySpread" => self.spread(reader, &path, fields),
            "DefaultPreemption" => self.preemption(reader, &path, fields),
            _ => {
                let seconds = reader.integer(fields, &path, "bindTimeoutSeconds", 0..=VOLUMES_WAIT_SECONDS_MAX);
                if let Some(seconds) = seconds {
                    self.volumes_wait_max = Duration::from_secs(seconds.unsigned_abs());
                }
            }
        }
    }

    fn fit(&mut self, reader: &mut Reader, path: &str, fields: &Fields) {
        let mut names = |field: &str| {
            let path = at(path, field);
            let list = fields.get(field).map(|list| reader.typed::<Vec<String>>(&path, list));
            list.flatten().unwrap_or_default()
        };
        self.fit.ignored = names("ignoredResources");
        self.fit.ignored_groups = names("ignoredResourceGroups");
        if let Some(group) = self.fit.ignored_groups.iter().find(|group| group.contains('/')) {
            let fault = format!("invalid value {group:?}: resource group name can't contain '/'");
            reader.fault(&at(path, "ignoredResourceGroups"), fault);
        }
        let Some(strategy) = fields.get("scoringStrategy").filter(|strategy| !strategy.is_null()) else { return };
        let path = at(path, "scoringStrategy");
        let known = ["type", "resources", "requestedToCapacityRatio"];
        let Some(fields) = reader.object(&path, strategy, &known) else { return };
        if let Some(resources) = resources(reader, &path, fields, 100) {
            self.fit.resources = resources;
        }
        let ratio = fields.get("requestedToCapacityRatio");
        self.fit.strategy = match reader.text(fields, &path, "type").as_deref() {
            None | Some("LeastAllocated") => Strategy::LeastAllocated,
            Some("MostAllocated") => Strategy::MostAllocated,
            Some("RequestedToCapacityRatio") => {
                Strategy::RequestedToCapacityRatio(curve(reader, &at(&path, "requestedToCapacityRatio"), ratio))
            }
            Some(other) => {
                let known = "LeastAllocated, MostAllocated, RequestedToCapacityRatio";
                reader.fault(&at(&path, "type"), format!("unsupported value {other:?}: supported values: {known}"));
                return;
            }
        };
    }

    fn node_affinity(&mut self, reader: &mut Reader, path: &str, fields: &Fields) {
        let path = at(path, "addedAffinity");
        let Some(added) = fields.get("addedAffinity").filter(|added| !added.is_null()) else { return };
        if let Some(affinity) = reader.typed::<NodeAffinity>(&path, added) {
            let (required, preferred) = (NodeTerm::required(&affinity), preferences(&affinity));
            self.node_affinity = NodeAffinityArgs { required, preferred };
        }
    }

    fn spread(&mut self, reader: &mut Reader, path: &str, fields: &Fields) {
        let field = at(path, "defaultConstraints");
        let constraints: Vec<TopologySpreadConstraint> = fields
            .get("defaultConstraints")
            .filter(|list| !list.is_null())
            .and_then(|list| reader.typed(&field, list))
            .unwrap_or_default();
        match reader.text(fields, path, "defaultingType").as_deref() {
            None | Some("System") => {
                if !constraints.is_empty() {
                    reader.fault(&field, "when defaultingType is \"System\", defaultConstraints must be empty");
                }
                return;
            }
            Some("List") => {}
            Some(other) => {
                let fault = format!("unsupported value {other:?}: supported values: System, List");
                return reader.fault(&at(path, "defaultingType"), fault);
            }
        }
        for (n, constraint) in constraints.iter().enumerate() {
            let path = format!("{field}[{n}]");
            if constraint.max_skew <= 0 {
                reader.fault(&at(&path, "maxSkew"), "not in valid range (0, inf)");
            }
            if constraint.topology_key.is_empty() {
                reader.fault(&at(&path, "topologyKey"), "can not be empty");
            }
            if !matches!(constraint.when_unsatisfiable.as_str(), "DoNotSchedule" | "ScheduleAnyway") {
                let fault = "unsupported value: supported values: DoNotSchedule, ScheduleAnyway";
                reader.fault(&at(&path, "whenUnsatisfiable"), fault);
            }
            if constraint.label_selector.is_some() {
                let fault = "constraint must not define a selector, as they are deduced for each pod";
                reader.fault(&at(&path, "labelSelector"), fault);
            }
        }
        let none = Labels::new();
        self.spread = SpreadArgs { defaults: constraints.iter().map(|c| spread(c, &none)).collect(), system: false };
    }

    fn preemption(&mut self, reader: &mut Reader, path: &str, fields: &Fields) {
        let percent = reader.integer(fields, path, "minCandidateNodesPercentage", 0..=100);
        let least = reader.integer(fields, path, "minCandidateNodesAbsolute", 0..=i64::from(i32::MAX));
        let number =
            |number: Option<i64>, default: usize| number.map_or(default, |n| usize::try_from(n).unwrap_or(default));
        let args = &mut self.preemption;
        args.nodes_percent = number(percent, args.nodes_percent);
        args.nodes_min = number(least, args.nodes_min);
        if args.nodes_percent == 0 && args.nodes_min == 0 {
            reader.fault(path, "minCandidateNodesPercentage and minCandidateNodesAbsolute cannot both be zero");
        }
    }
}

/// Resources with weights; none where they are absent.
fn resources(reader: &mut Reader, path: &str, fields: &Fields, weight_max: i64) -> Option<Vec<ResourceWeight>> {
    let list = fields.get("resources").filter(|list| !list.is_null())?;
    let path = at(path, "resources");
    let mut resources = Vec::new();
    for (n, resource) in reader.list(&path, list).iter().enumerate() {
        let path = format!("{path}[{n}]");
        let Some(fields) = reader.object(&path, resource, &["name", "weight"]) else { continue };
        let name = reader.text(fields, &path, "name").unwrap_or_default();
        if name.is_empty() {
            reader.fault(&at(&path, "name"), "is required");
        }
        let weight = reader.integer(fields, &path, "weight", 1..=weight_max).unwrap_or(1);
        resources.push(ResourceWeight { name, weight });
    }
    if resources.is_empty() {
        return None;
    }
    Some(resources)
}

/// The curve of a shape, scaled to scores of nodes.
fn curve(reader: &mut Reader, path: &str, ratio: Option<&Value>) -> Vec<(i64, i64)> {
    let Some(ratio) = ratio.filter(|ratio| !ratio.is_null()) else {
        reader.fault(path, "is required for this type");
        return Vec::new();
    };
    let Some(fields) = reader.object(path, ratio, &["shape"]) else { return Vec::new() };
    let path = at(path, "shape");
    let mut curve: Vec<(i64, i64)> = Vec::new();
    for (n, point) in reader.list(&path, fields.get("shape").unwrap_or(&Value::Null)).iter().enumerate() {
        let path = format!("{path}[{n}]");
        let Some(fields) = reader.object(&path, point, &["utilization", "score"]) else { continue };
        let utilization = reader.integer(fields, &path, "utilization", 0..=100).unwrap_or(0);
        let score = reader.integer(fields, &path, "score", 0..=10).unwrap_or(0);
        if curve.last().is_some_and(|(before, _)| *before >= utilization) {
            reader.fault(&at(&path, "utilization"), "utilization values must be sorted in increasing order");
        }
        curve.push((utilization, score * CURVE_SCALE));
    }
    if curve.is_empty() {
        reader.fault(&path, "at least one point must be specified");
    }
    curve
}
