use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use super::identity::{POD_INDEX, POD_NAME};
use super::retention::User;
use super::*;

mod retaining;
mod updating;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn set(spec: Value) -> StatefulSet {
    let mut set = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "set", "generation": 1},
        "spec": {"replicas": 3, "serviceName": "peers", "selector": {"matchLabels": {"app": "web"}},
            "podManagementPolicy": "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "web:1"}]}}}});
    for (field, value) in spec.as_object().unwrap() {
        set["spec"][field] = value.clone();
    }
    serde_json::from_value(set).unwrap()
}

/// A cluster of one set whose pods and claims become what the plans say.
struct World {
    set: StatefulSet,
    pods: BTreeMap<String, Pod>,
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    revisions: Vec<Revision>,
    uids: usize,
    clock: i64,
    told: Vec<String>,
    next: Option<Duration>,
    judged: Option<plan::Judged>,
}

impl World {
    fn new(spec: Value) -> Self {
        let (pods, claims) = (BTreeMap::new(), BTreeMap::new());
        let (revisions, told) = (Vec::new(), Vec::new());
        Self { set: set(spec), pods, claims, revisions, uids: 0, clock: 0, told, next: None, judged: None }
    }

    fn now(&self) -> Timestamp {
        now() + Duration::from_secs(self.clock.unsigned_abs())
    }

    fn spec(&mut self) -> &mut StatefulSetSpec {
        self.set.spec.as_mut().unwrap()
    }

    fn image(&mut self, image: &str) {
        self.spec().template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
    }

    fn revision(&mut self) -> Revision {
        let template = self.spec().template.clone();
        if let Some(at) = self.revisions.iter().position(|revision| revision.template == template) {
            return self.revisions[at].clone();
        }
        let revision = Revision { name: format!("web-{}", self.revisions.len() + 1), template };
        self.revisions.push(revision.clone());
        revision
    }

    /// One reconcile; what was done is told in short.
    fn step(&mut self) -> Vec<String> {
        self.clock += 1;
        let update = self.revision();
        let current = self.set.status.as_ref().and_then(|status| status.current_revision.clone());
        let current = self.revisions.iter().find(|revision| Some(&revision.name) == current.as_ref());
        let current = current.cloned().unwrap_or_else(|| update.clone());
        let pods: Vec<Arc<Pod>> = self.pods.values().cloned().map(Arc::new).collect();
        let claims = self.claims.clone();
        let claim = |name: &str| claims.get(name).cloned();
        let observed =
            Observed { pods: &pods, claim: &claim, current: &current, update: &update, collisions: 0, now: self.now() };
        let plan = plan::decide(&self.set, &observed);
        self.set.status = Some(plan.status);
        self.next = plan.next;
        self.judged = plan.judged;
        self.told.clear();
        for action in plan.phases.into_iter().flatten() {
            self.act(action);
        }
        self.told.clone()
    }

    fn uid(&mut self) -> Option<String> {
        self.uids += 1;
        Some(format!("uid-{}", self.uids))
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Create { mut pod, claims } => {
                self.told.push(format!("+{}", pod.name_any()));
                pod.metadata.uid = self.uid();
                pod.metadata.creation_timestamp = Some(Time(self.now()));
                pod.status = serde_json::from_value(json!({"phase": "Pending"})).unwrap();
                self.create(claims);
                self.pods.insert(pod.name_any(), *pod);
            }
            Action::Blocked { pod, claim } => self.told.push(format!("{pod} waits for the end of {claim}")),
            Action::Claims { claims, .. } => {
                self.told.extend(claims.iter().map(|claim| format!("+{}", claim.name_any())));
                self.create(claims);
            }
            Action::Own { claim, owners } => {
                let kinds: Vec<_> = owners.iter().map(|owner| owner.kind.as_str()).collect();
                self.told.push(format!("{} of {kinds:?}", claim.name_any()));
                let mut claim = PersistentVolumeClaim::clone(&claim);
                claim.metadata.owner_references = Some(owners);
                self.claims.insert(claim.name_any(), Arc::new(claim));
            }
            Action::Repair { pod, patch, .. } => {
                self.told.push(format!("~{}", pod.name_any()));
                let labels = self.pods.get_mut(&pod.name_any()).unwrap().labels_mut();
                for (key, value) in patch["metadata"]["labels"].as_object().unwrap() {
                    labels.insert(key.clone(), value.as_str().unwrap().into());
                }
            }
            Action::Delete(pod) => {
                self.told.push(format!("-{}", pod.name_any()));
                let at = self.now();
                self.pods.get_mut(&pod.name_any()).unwrap().metadata.deletion_timestamp = Some(Time(at));
            }
        }
    }

    fn create(&mut self, claims: Vec<PersistentVolumeClaim>) {
        for mut claim in claims {
            claim.metadata.uid = self.uid();
            self.claims.insert(claim.name_any(), Arc::new(claim));
        }
    }

    fn status_of(&mut self, name: &str, phase: &str, ready: &str) {
        let since = self.now();
        let status = json!({"phase": phase,
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since.to_string()}]});
        self.pods.get_mut(name).unwrap().status = serde_json::from_value(status).unwrap();
    }

    /// Deleted pods end, pending ones run; those of the image `broken` do not become ready.
    fn kubelet(&mut self) {
        self.pods.retain(|_, pod| pod.metadata.deletion_timestamp.is_none());
        let pending: Vec<_> = self.pods.values().filter(|pod| crate::pods::phase(pod) == "Pending").cloned().collect();
        for pod in pending {
            let image = pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
            self.status_of(&pod.name_any(), "Running", if image == "broken" { "False" } else { "True" });
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

    fn counts(&self) -> [i32; 5] {
        let status = self.set.status.clone().unwrap();
        let optional =
            [status.ready_replicas, status.available_replicas, status.current_replicas, status.updated_replicas];
        let [ready, available, current, updated] = optional.map(|count| count.unwrap_or(0));
        [status.replicas, ready, available, current, updated]
    }

    fn revisions_of_pods(&self) -> String {
        let all: Vec<_> = self.pods.values().map(identity::revision).collect();
        all.join(" ")
    }
}

fn claims_template() -> Value {
    json!([{"metadata": {"name": "data", "labels": {"tier": "db"}, "annotations": {"a": "b"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"}}])
}

#[test]
fn ordered_pods_come_one_by_one_and_go_from_the_top() {
    let mut world = World::new(json!({}));
    assert_eq!(world.step(), ["+web-0"]);
    assert_eq!(world.step(), [""; 0], "web-0 is pending");
    world.kubelet();
    assert_eq!(world.step(), ["+web-1"]);
    world.kubelet();
    world.status_of("web-0", "Running", "False");
    assert_eq!(world.step(), [""; 0], "all below have to be ready, not only the last");
    world.status_of("web-0", "Running", "True");
    assert_eq!(world.settle(), "+web-2");
    assert_eq!(world.counts(), [3, 3, 3, 3, 3]);

    world.spec().replicas = Some(1);
    assert_eq!(world.step(), ["-web-2"]);
    assert_eq!(world.step(), [""; 0], "web-2 is still going");
    assert_eq!(world.counts(), [3, 3, 3, 2, 2], "what goes is not counted by revision");
    world.kubelet();
    assert_eq!(world.settle(), "-web-1");
    assert_eq!(world.counts(), [1, 1, 1, 1, 1]);
}

#[test]
fn an_unhealthy_pod_stops_ordered_scaling() {
    let mut world = World::new(json!({}));
    world.settle();
    world.spec().replicas = Some(0);
    world.status_of("web-2", "Running", "False");
    world.status_of("web-1", "Running", "False");
    assert_eq!(world.step(), [""; 0], "web-1 is unhealthy and goes after web-2");
    world.status_of("web-1", "Running", "True");
    assert_eq!(world.step(), ["-web-2"], "the only unhealthy one may go");
    world.kubelet();
    assert_eq!(world.settle(), "-web-1 -web-0");

    let mut world = World::new(json!({}));
    world.settle();
    world.spec().replicas = Some(2);
    world.status_of("web-0", "Running", "False");
    assert_eq!(world.step(), [""; 0], "those that stay come first");
}

#[test]
fn parallel_pods_come_and_go_together_whatever_their_health() {
    let mut world = World::new(json!({"podManagementPolicy": "Parallel"}));
    world.image("broken");
    assert_eq!(world.step(), ["+web-0", "+web-1", "+web-2"]);
    world.kubelet();
    assert_eq!((world.step(), world.counts()), (vec![], [3, 0, 0, 3, 3]));
    world.spec().replicas = Some(5);
    assert_eq!(world.step(), ["+web-3", "+web-4"]);
    world.spec().replicas = Some(1);
    assert_eq!(world.step(), ["-web-4", "-web-3", "-web-2", "-web-1"]);
    assert_eq!(world.step(), [""; 0], "they are going already");

    world.spec().replicas = Some(2000);
    world.pods.clear();
    assert_eq!(world.step().len(), 500, "one set does not keep others waiting");
}

#[test]
fn pods_have_an_identity_and_claims() {
    let mut world =
        World::new(json!({"replicas": 1, "ordinals": {"start": 7}, "volumeClaimTemplates": claims_template()}));
    let volumes = json!([{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]);
    world.spec().template.spec.as_mut().unwrap().volumes = serde_json::from_value(volumes).unwrap();
    assert_eq!(world.step(), ["+web-7"]);
    let pod = &world.pods["web-7"];
    let labels = pod.labels();
    assert_eq!((labels[POD_NAME].as_str(), labels[POD_INDEX].as_str(), labels["app"].as_str()), ("web-7", "7", "web"));
    assert_eq!(labels["controller-revision-hash"], "web-1");
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-7"), Some("peers")));
    assert_eq!(
        serde_json::to_value(&spec.volumes).unwrap(),
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-7"}}, {"name": "tmp", "emptyDir": {}}])
    );
    assert_eq!(owners::controller_of(&pod.metadata).map(|owner| owner.uid.as_str()), Some("set"));
    let claim = &world.claims["data-web-7"];
    assert_eq!(
        serde_json::to_value((&claim.metadata.labels, &claim.metadata.annotations, &claim.metadata.owner_references))
            .unwrap(),
        json!([{"app": "web", "tier": "db"}, {"a": "b"}, null])
    );
    assert!(claim.status.is_none());

    world.claims.clear();
    assert_eq!(world.step(), ["+data-web-7"], "a pending pod gets its claim again");
    world.kubelet();
    world.pods.get_mut("web-7").unwrap().labels_mut().remove(POD_NAME);
    assert_eq!(world.settle(), "~web-7");
}

#[test]
fn names_tell_whose_a_pod_or_claim_is() {
    for (name, expected) in [
        ("web-0", Some(0)),
        ("web-12", Some(12)),
        ("web-01", None),
        ("web-", None),
        ("web-x", None),
        ("web", None),
        ("web-a-0", None),
        ("my-web-0", None),
        ("web--1", None),
        ("web-99999999999", None),
    ] {
        assert_eq!(identity::ordinal("web", name), expected, "{name}");
    }
    let makers = |name: &'static str| identity::makers_of_claim(name).collect::<Vec<_>>();
    assert_eq!(makers("data-web-0"), [("data", "web")]);
    assert_eq!(makers("my-data-web-3"), [("my", "data-web"), ("my-data", "web")]);
    assert_eq!(makers("data-web-x"), []);
    assert_eq!(makers("data-0"), []);
}

#[test]
fn moving_the_first_ordinal_moves_the_pods() {
    let mut world = World::new(json!({"replicas": 2}));
    world.settle();
    world.spec().ordinals = serde_json::from_value(json!({"start": 1})).unwrap();
    assert_eq!(world.settle(), "+web-2 -web-0");
    assert_eq!(world.pods.keys().collect::<Vec<_>>(), ["web-1", "web-2"]);
}

#[test]
fn a_pod_that_ended_is_made_anew() {
    for phase in ["Failed", "Succeeded"] {
        let mut world = World::new(json!({}));
        world.settle();
        world.status_of("web-1", phase, "False");
        assert_eq!(world.step(), ["-web-1"]);
        assert_eq!(world.step(), [""; 0], "its name is taken until it is gone");
        world.kubelet();
        assert_eq!(world.settle(), "+web-1");
    }
}

#[test]
fn pods_have_to_be_ready_for_some_time() {
    let mut world = World::new(json!({"minReadySeconds": 30}));
    world.step();
    world.kubelet();
    assert_eq!((world.step(), world.next), (vec![], Some(Duration::from_secs(29))));
    assert_eq!(world.counts(), [1, 1, 0, 1, 1]);
    world.clock += 29;
    assert_eq!(world.step(), ["+web-1"]);
}

#[test]
fn a_set_that_is_deleted_is_only_counted() {
    let mut world = World::new(json!({}));
    world.settle();
    world.pods.remove("web-1");
    world.set.metadata.deletion_timestamp = Some(Time(now()));
    assert_eq!((world.step(), world.counts()), (vec![], [2, 2, 2, 2, 2]));
}

#[test]
fn the_status_names_what_is_zero_only_where_upstream_does() {
    let mut world = World::new(json!({}));
    world.step();
    let status = world.set.status.clone().unwrap();
    assert_eq!(
        serde_json::to_value(&status).unwrap(),
        json!({"replicas": 0, "availableReplicas": 0, "currentRevision": "web-1", "updateRevision": "web-1",
            "observedGeneration": 1, "collisionCount": 0})
    );
    let patch = status::patch(&world.set, &status);
    assert_eq!(patch["status"]["readyReplicas"], Value::Null);
    assert!(patch["status"].get("conditions").is_none(), "they are not this controller's");
}
