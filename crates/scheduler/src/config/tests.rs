use serde_json::{Value, json};

use super::*;

fn document(more: &Value) -> Value {
    let mut document = json!({"apiVersion": API_VERSION, "kind": KIND});
    for (key, value) in more.as_object().unwrap() {
        document[key] = value.clone();
    }
    document
}

fn read(more: &Value) -> Configuration {
    Configuration::read(&document(more)).unwrap()
}

fn profile(more: &Value) -> Profile {
    let mut profile = json!({"schedulerName": "own"});
    for (key, value) in more.as_object().unwrap() {
        profile[key] = value.clone();
    }
    read(&json!({"profiles": [profile]})).profiles().remove(0)
}

/// Name, whether it filters, and weight of each rule of a profile.
fn rules(profile: &Profile) -> Vec<(&'static str, bool, i64)> {
    profile.rules.iter().map(|rule| (PLUGINS[rule.place].name, rule.filters, rule.weight)).collect()
}

#[test]
fn an_empty_configuration_is_upstreams_default() {
    let profiles = read(&json!({"leaderElection": {"leaderElect": true}, "parallelism": 16})).profiles();
    assert_eq!(profiles.len(), 1);
    assert_eq!(profiles[0].scheduler, "default-scheduler");
    assert!(profiles[0].gates && profiles[0].preemption.is_some());
    let weights: Vec<_> =
        rules(&profiles[0]).into_iter().filter(|rule| rule.2 > 0).map(|rule| (rule.0, rule.2)).collect();
    assert_eq!(
        weights,
        [
            ("TaintToleration", 3),
            ("NodeAffinity", 2),
            ("NodeResourcesFit", 1),
            ("PodTopologySpread", 2),
            ("InterPodAffinity", 2),
            ("NodeResourcesBalancedAllocation", 1),
            ("ImageLocality", 1),
        ]
    );
}

#[test]
fn plugins_are_enabled_disabled_and_weighted_by_point() {
    let changed = profile(&json!({"plugins": {
        "score": {"disabled": [{"name": "ImageLocality"}, {"name": "NodeAffinity"}], "enabled": [{"name": "NodeResourcesFit", "weight": 7}]},
        "filter": {"disabled": [{"name": "NodePorts"}]},
        "postFilter": {"disabled": [{"name": "*"}]},
        "preEnqueue": {"disabled": [{"name": "SchedulingGates"}]}}}));
    assert!(changed.preemption.is_none() && !changed.gates);
    let rules_of = rules(&changed);
    let of = |name: &str| rules_of.iter().find(|rule| rule.0 == name).map(|rule| (rule.1, rule.2));
    assert_eq!(of("ImageLocality"), Some((true, 0)));
    assert_eq!(of("NodeAffinity"), Some((true, 0)), "it filters still");
    assert_eq!(of("NodeResourcesFit"), Some((true, 7)));
    assert_eq!(of("NodePorts"), None);

    let few = profile(&json!({"plugins": {"multiPoint": {"disabled": [{"name": "*"}], "enabled": [
        {"name": "PrioritySort"}, {"name": "DefaultBinder"}, {"name": "NodeResourcesFit", "weight": 4}]}}}));
    assert_eq!(rules(&few), [("NodeResourcesFit", true, 4)]);
}

#[test]
fn several_profiles_differ() {
    let configuration = read(
        &json!({"percentageOfNodesToScore": 30, "podInitialBackoffSeconds": 2, "podMaxBackoffSeconds": 20,
        "profiles": [
            {"schedulerName": "default-scheduler"},
            {"schedulerName": "packing", "percentageOfNodesToScore": 100, "pluginConfig": [
                {"name": "NodeResourcesFit", "args": {"kind": "NodeResourcesFitArgs", "scoringStrategy": {"type": "MostAllocated"}}},
                {"name": "DefaultPreemption", "args": {"minCandidateNodesAbsolute": 5, "minCandidateNodesPercentage": 50}},
                {"name": "VolumeBinding", "args": {"bindTimeoutSeconds": 30}}]}]}),
    );
    let profiles = configuration.profiles();
    let seen: Vec<_> = profiles.iter().map(|profile| (profile.scheduler.as_str(), profile.nodes_percent)).collect();
    assert_eq!(seen, [("default-scheduler", 30), ("packing", 100)]);
    let preemption = profiles[1].preemption.as_ref().unwrap();
    assert_eq!((preemption.nodes_min, preemption.nodes_percent), (5, 50));
    assert_eq!(profiles[1].volumes_wait_max, Duration::from_secs(30));
    assert_eq!(
        (configuration.backoff().initial, configuration.backoff().max),
        (Duration::from_secs(2), Duration::from_secs(20))
    );
}

#[test]
fn every_fault_is_reported_with_its_field() {
    let faults = |more: Value| Configuration::read(&document(&more)).unwrap_err().to_string();
    for (what, expected) in [
        (json!({"kind": "Pod"}), "kind: must be KubeSchedulerConfiguration"),
        (
            json!({"apiVersion": "kubescheduler.config.k8s.io/v1beta3"}),
            "apiVersion: must be kubescheduler.config.k8s.io/v1",
        ),
        (json!({"profile": []}), "profile: unknown field"),
        (json!({"profiles": []}), "profiles: must not be empty"),
        (json!({"extenders": [{}]}), "extenders: is not supported"),
        (
            json!({"percentageOfNodesToScore": 200}),
            "percentageOfNodesToScore: invalid value 200: not in valid range [0-100]",
        ),
        (
            json!({"podInitialBackoffSeconds": 20}),
            "podMaxBackoffSeconds: must be greater than or equal to podInitialBackoffSeconds",
        ),
        (
            json!({"profiles": [{"schedulerName": "a"}, {"schedulerName": "a"}]}),
            "profiles[1].schedulerName: duplicate value \"a\"",
        ),
        (json!({"profiles": [{"schedulerName": "a"}, {}]}), "profiles[1].schedulerName: is required"),
        (
            json!({"profiles": [{"plugins": {"filter": {"enabled": [{"name": "NodePorts"}, {"name": "Magic"}]}}}]}),
            "profiles[0].plugins.filter.enabled[1].name: there is no plugin \"Magic\"",
        ),
        (json!({"profiles": [{"plugins": {"filters": {}}}]}), "profiles[0].plugins.filters: unknown field"),
        (
            json!({"profiles": [{"plugins": {"bind": {"disabled": [{"name": "*"}]}}}]}),
            "profiles[0].plugins: no bind plugin is enabled: DefaultBinder is the only one",
        ),
        (
            json!({"profiles": [{"pluginConfig": [{"name": "NodePorts", "args": {}}]}]}),
            "profiles[0].pluginConfig[0].name: plugin \"NodePorts\" takes no arguments",
        ),
        (
            json!({"profiles": [{"pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "Best"}}}]}]}),
            "profiles[0].pluginConfig[0].args.scoringStrategy.type: unsupported value \"Best\"",
        ),
        (
            json!({"profiles": [{"pluginConfig": [{"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 101}}]}]}),
            "profiles[0].pluginConfig[0].args.hardPodAffinityWeight: invalid value 101",
        ),
        (
            json!({"profiles": [{"pluginConfig": [{"name": "PodTopologySpread", "args": {
                "defaultConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}}]}]}),
            "profiles[0].pluginConfig[0].args.defaultConstraints: when defaultingType is \"System\"",
        ),
        (
            json!({"profiles": [{"pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {
                "type": "RequestedToCapacityRatio", "requestedToCapacityRatio": {"shape": [
                    {"utilization": 50, "score": 1}, {"utilization": 50, "score": 11}]}}}}]}]}),
            "requestedToCapacityRatio.shape[1].score: invalid value 11",
        ),
    ] {
        let all = faults(what);
        assert!(all.contains(expected), "{all}");
    }
    let both = faults(json!({"profile": [], "percentageOfNodesToScore": -1}));
    assert_eq!(both.matches("; ").count(), 1, "{both}");
}
