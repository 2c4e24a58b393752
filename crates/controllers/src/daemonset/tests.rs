use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use super::eligibility::{Eligibility, Rule};
use super::plan::{Ended, Place};
use super::*;

mod updating;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn daemon(spec: Value) -> DaemonSet {
    let mut daemon = json!({
        "metadata": {"name": "agent", "namespace": "default", "uid": "set", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "agent"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "template": {"metadata": {"labels": {"app": "agent"}},
                "spec": {"containers": [{"name": "c", "image": "agent:1"}]}}}});
    for (path, value) in spec.as_object().unwrap() {
        match path.strip_prefix("pod.") {
            Some(field) => daemon["spec"]["template"]["spec"][field] = value.clone(),
            None => daemon["spec"][path] = value.clone(),
        }
    }
    serde_json::from_value(daemon).unwrap()
}

fn node(name: &str, spec: Value) -> Node {
    let labels = json!({"kubernetes.io/hostname": name});
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": spec})).unwrap()
}

fn tainted(key: &str, effect: &str) -> Value {
    json!({"taints": [{"key": key, "effect": effect}]})
}

/// A cluster of one set whose pods become what the plans say.
struct World {
    daemon: DaemonSet,
    nodes: BTreeMap<String, Arc<Node>>,
    pods: BTreeMap<String, Pod>,
    hash: String,
    names: usize,
    clock: i64,
    next: Option<Duration>,
}

impl World {
    fn new(spec: Value, nodes: &[&str]) -> Self {
        let nodes = nodes.iter().map(|name| ((*name).to_owned(), Arc::new(node(name, json!({}))))).collect();
        let pods = BTreeMap::new();
        Self { daemon: daemon(spec), nodes, pods, hash: "h1".into(), names: 0, clock: 0, next: None }
    }

    fn change_node(&mut self, name: &str, spec: Value) {
        self.nodes.insert(name.into(), Arc::new(node(name, spec)));
    }

    fn now(&self) -> Timestamp {
        now() + Duration::from_secs(self.clock.unsigned_abs())
    }

    fn decide(
        &self,
        back_off: &(dyn Fn(&str) -> Option<Duration> + Sync),
    ) -> (Plan, DaemonSetStatus, Option<Duration>) {
        let pods: Vec<Arc<Pod>> = self.pods.values().cloned().map(Arc::new).collect();
        let rule = Rule::of(&eligibility::daemon_spec(&self.daemon));
        let nodes = self.nodes.iter().map(|(name, node)| (name.as_str().into(), rule.eligibility(node))).collect();
        let (daemon, hash, now) = (&self.daemon, self.hash.as_str(), self.now());
        let observed = Observed { daemon, nodes: &nodes, pods: &pods, hash, back_off, now };
        let places: BTreeMap<&str, Place<'_>> = plan::places(&observed);
        let (status, next) = status::compute(&observed, &places, 0);
        (plan::decide(&observed, &places), status, next)
    }

    /// One reconcile; what was done is told in short: pods are called after their node and number.
    fn step(&mut self) -> Vec<String> {
        self.step_backing_off(&|_| None)
    }

    fn step_backing_off(&mut self, back_off: &(dyn Fn(&str) -> Option<Duration> + Sync)) -> Vec<String> {
        self.clock += 1;
        let (plan, status, available_in) = self.decide(back_off);
        self.next = plan.next.or(available_in);
        self.daemon.status = Some(status);
        let mut told = Vec::new();
        for node in plan.create {
            told.push(format!("+{node}"));
            self.create(&node);
        }
        let at = self.now();
        for pod in plan.delete {
            told.push(format!("-{}", pod.name_any()));
            self.pods.get_mut(&pod.name_any()).unwrap().metadata.deletion_timestamp = Some(Time(at));
        }
        told
    }

    fn create(&mut self, node: &str) {
        self.names += 1;
        let name = format!("{node}{}", self.names);
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "labels": {"app": "agent", REVISION_HASH: self.hash},
                "creationTimestamp": self.now().to_string()},
            "spec": {"containers": []}, "status": {"phase": "Pending"}}))
        .unwrap();
        eligibility::pin(pod.spec.as_mut().unwrap(), node);
        self.pods.insert(name, pod);
    }

    fn status_of(&mut self, name: &str, phase: &str, ready: &str) {
        let since = self.now();
        let status = json!({"phase": phase,
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since.to_string()}]});
        self.pods.get_mut(name).unwrap().status = serde_json::from_value(status).unwrap();
    }

    /// Deleted pods end, pinned ones are bound and run; those of the hash `broken` do not become ready.
    fn kubelet(&mut self) {
        self.pods.retain(|_, pod| pod.metadata.deletion_timestamp.is_none());
        let pending: Vec<_> = self.pods.values().filter(|pod| pods::phase(pod) == "Pending").cloned().collect();
        for pod in pending {
            let node = eligibility::target(&pod).unwrap().to_owned();
            if !self.nodes.contains_key(&node) {
                continue;
            }
            let name = pod.name_any();
            self.pods.get_mut(&name).unwrap().spec.as_mut().unwrap().node_name = Some(node);
            self.status_of(&name, "Running", if pod.labels()[REVISION_HASH] == "broken" { "False" } else { "True" });
        }
    }

    /// Steps until nothing is done, pods running after each; what was done is told in one line.
    fn settle(&mut self) -> String {
        let mut all = Vec::new();
        for _ in 0..100 {
            let told = self.step();
            self.kubelet();
            if told.is_empty() && self.step().is_empty() {
                return all.join(" ");
            }
            all.push(told.join(","));
        }
        panic!("does not settle: {all:?}");
    }

    /// Desired, current, misscheduled, ready, updated, available, unavailable.
    fn counts(&self) -> [i32; 7] {
        let status = self.daemon.status.clone().unwrap();
        let [updated, available, unavailable] =
            [status.updated_number_scheduled, status.number_available, status.number_unavailable]
                .map(|count| count.unwrap_or(0));
        let scheduled = [status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled];
        let [desired, current, misscheduled] = scheduled;
        [desired, current, misscheduled, status.number_ready, updated, available, unavailable]
    }
}

#[test]
fn every_node_gets_one_pod_and_keeps_it() {
    let mut world = World::new(json!({}), &["a", "b"]);
    assert_eq!(world.step(), ["+a", "+b"]);
    assert_eq!(world.step(), [""; 0]);
    assert_eq!(world.counts(), [2, 2, 0, 0, 2, 0, 2]);
    world.kubelet();
    assert_eq!((world.step(), world.counts()), (vec![], [2, 2, 0, 2, 2, 2, 0]));
    world.change_node("c", json!({}));
    assert_eq!(world.settle(), "+c");

    world.nodes.remove("b");
    assert_eq!(world.step(), [""; 0], "what ran there is the pod garbage collector's business");
    assert_eq!(world.counts(), [2, 2, 0, 2, 2, 2, 0]);
    world.create("gone");
    assert_eq!(world.step(), ["-gone4"], "it was never bound, so nobody else deletes it");
}

#[test]
fn nodes_are_chosen_by_selector_affinity_name_and_taints() {
    use Eligibility::{Leaves, Runs, Stays};
    let affinity = |key: &str, values: Value| {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
            [{"matchExpressions": [{"key": key, "operator": "In", "values": values}]}]}}})
    };
    let plain = json!({});
    for (spec, on_node, expected) in [
        (json!({}), plain.clone(), Runs),
        (json!({"pod.nodeName": "a"}), plain.clone(), Runs),
        (json!({"pod.nodeName": "b"}), plain.clone(), Leaves),
        (json!({"pod.nodeSelector": {"kubernetes.io/hostname": "a"}}), plain.clone(), Runs),
        (json!({"pod.nodeSelector": {"gpu": "yes"}}), plain.clone(), Leaves),
        (json!({"pod.affinity": affinity("kubernetes.io/hostname", json!(["a", "z"]))}), plain.clone(), Runs),
        (json!({"pod.affinity": affinity("kubernetes.io/hostname", json!(["z"]))}), plain, Leaves),
        (json!({}), tainted("x", "NoSchedule"), Stays),
        (json!({}), tainted("x", "PreferNoSchedule"), Runs),
        (json!({}), tainted("x", "NoExecute"), Leaves),
        (json!({"pod.tolerations": [{"operator": "Exists"}]}), tainted("x", "NoExecute"), Runs),
        (json!({}), tainted("node.kubernetes.io/not-ready", "NoExecute"), Runs),
        (json!({}), tainted("node.kubernetes.io/not-ready", "NoSchedule"), Stays),
        (json!({}), tainted("node.kubernetes.io/unreachable", "NoExecute"), Runs),
        (json!({}), tainted("node.kubernetes.io/disk-pressure", "NoSchedule"), Runs),
        (json!({}), tainted("node.kubernetes.io/memory-pressure", "NoSchedule"), Runs),
        (json!({}), tainted("node.kubernetes.io/pid-pressure", "NoSchedule"), Runs),
        (json!({}), tainted("node.kubernetes.io/unschedulable", "NoSchedule"), Runs),
        (json!({}), tainted("node.kubernetes.io/network-unavailable", "NoSchedule"), Stays),
        (json!({"pod.hostNetwork": true}), tainted("node.kubernetes.io/network-unavailable", "NoSchedule"), Runs),
    ] {
        let eligibility =
            Rule::of(&eligibility::daemon_spec(&daemon(spec.clone()))).eligibility(&node("a", on_node.clone()));
        assert_eq!(eligibility, expected, "{spec} {on_node}");
    }
}

#[test]
fn a_toleration_of_its_own_replaces_one_that_is_given_with_a_limit() {
    let given = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
        "tolerationSeconds": 5}, {"key": "mine", "operator": "Exists"}]);
    let spec = eligibility::daemon_spec(&daemon(json!({"pod.tolerations": given})));
    let tolerations = spec.tolerations.unwrap();
    assert_eq!((tolerations.len(), tolerations[0].toleration_seconds), (7, None));
    assert_eq!(tolerations[1].key.as_deref(), Some("mine"));
}

#[test]
fn pods_follow_changes_of_their_nodes() {
    let mut world = World::new(json!({"pod.nodeSelector": {"kubernetes.io/hostname": "a"}}), &["a", "b"]);
    assert_eq!(world.settle(), "+a");
    assert_eq!(world.counts(), [1, 1, 0, 1, 1, 1, 0]);

    world.change_node("a", tainted("x", "NoSchedule"));
    assert_eq!(world.settle(), "", "it may stay");
    assert_eq!(world.counts(), [0, 0, 1, 0, 0, 0, 0], "in a place it would not be started in");
    world.pods.clear();
    assert_eq!(world.settle(), "");
    world.change_node("a", json!({}));
    assert_eq!(world.settle(), "+a");

    world.change_node("a", tainted("x", "NoExecute"));
    assert_eq!(world.settle(), "-a2");
    assert_eq!(world.counts(), [0; 7]);
}

#[test]
fn pods_are_pinned_and_found_by_the_nodes_name() {
    let mut spec = eligibility::daemon_spec(&daemon(json!({"pod.affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": []}]},
        "preferredDuringSchedulingIgnoredDuringExecution": []}}})));
    eligibility::pin(&mut spec, "a");
    let terms = serde_json::to_value(&spec.affinity).unwrap();
    assert_eq!(
        terms["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"],
        json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}])
    );
    assert_eq!(terms["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"], json!([]));
    let mut pod = Pod { spec: Some(spec), ..Pod::default() };
    assert_eq!(eligibility::target(&pod), Some("a"));
    pod.spec.as_mut().unwrap().node_name = Some("b".into());
    assert_eq!(eligibility::target(&pod), Some("b"));
    assert_eq!(eligibility::target(&Pod::default()), None);
}

#[test]
fn a_pod_that_ended_is_made_anew_and_one_that_fails_again_and_again_later() {
    let mut world = World::new(json!({}), &["a"]);
    world.settle();
    world.status_of("a1", "Failed", "False");
    assert_eq!(world.step_backing_off(&|_| Some(Duration::from_secs(4))), [""; 0]);
    assert_eq!(world.next, Some(Duration::from_secs(4)));
    let (plan, ..) = world.decide(&|_| None);
    assert!(matches!(&plan.ended[..], [Ended { failed: true, node, .. }] if node == "a"));
    assert_eq!(world.settle(), "-a1 +a");

    world.status_of("a2", "Succeeded", "False");
    let (plan, ..) = world.decide(&|_| Some(Duration::MAX));
    assert!(matches!(&plan.ended[..], [Ended { failed: false, .. }]), "it did not fail");
    assert_eq!(world.settle(), "-a2 +a");

    world.status_of("a3", "Failed", "False");
    world.step();
    assert_eq!(world.step(), ["+a"], "one that has ended and is only held keeps no other from running");
}

#[test]
fn of_several_pods_on_a_node_the_oldest_scheduled_one_stays() {
    let mut world = World::new(json!({}), &["a"]);
    world.settle();
    world.clock += 1;
    world.create("a");
    world.create("a");
    assert_eq!(world.step(), ["-a2", "-a3"]);
    world.kubelet();
    assert_eq!(world.pods.keys().collect::<Vec<_>>(), ["a1"]);
}

#[test]
fn pods_have_to_be_ready_for_some_time() {
    let mut world = World::new(json!({"minReadySeconds": 10}), &["a"]);
    world.step();
    world.kubelet();
    world.clock += 2;
    world.step();
    assert_eq!((world.counts(), world.next), ([1, 1, 0, 1, 1, 0, 1], Some(Duration::from_secs(7))));
    world.clock += 7;
    world.step();
    assert_eq!((world.counts(), world.next), ([1, 1, 0, 1, 1, 1, 0], None));
}

#[test]
fn the_status_names_what_is_zero_only_where_upstream_does() {
    let mut world = World::new(json!({}), &[]);
    world.step();
    let status = world.daemon.status.clone().unwrap();
    assert_eq!(
        serde_json::to_value(&status).unwrap(),
        json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
            "observedGeneration": 1})
    );
    let patch = status::patch(&world.daemon, &status);
    assert_eq!(patch["status"]["numberAvailable"], Value::Null);
    assert!(patch["status"].get("conditions").is_none(), "they are not this controller's");
}
