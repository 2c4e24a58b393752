use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use super::*;

mod cases;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

/// A cluster of one deployment whose sets become what the plans say.
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    pods: BTreeMap<String, Vec<Arc<Pod>>>,
    events: Vec<String>,
    clock: i64,
}

fn deployment(replicas: i32, strategy: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
        "spec": {"replicas": replicas, "strategy": strategy, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "web:1"}]}}}}))
    .unwrap()
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: Vec::new(), pods: BTreeMap::new(), events: Vec::new(), clock: 0 }
    }

    fn image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
    }

    fn replicas(&mut self, replicas: i32) {
        self.deployment.spec.as_mut().unwrap().replicas = Some(replicas);
    }

    fn now(&self) -> Timestamp {
        now() + Duration::from_secs(self.clock.unsigned_abs())
    }

    /// One reconcile; true when it wrote anything but status.
    fn step(&mut self) -> bool {
        self.clock += 1;
        let sets: Vec<Arc<ReplicaSet>> = self.sets.iter().cloned().map(Arc::new).collect();
        let pods_of = |uid: &str| self.pods.get(uid).cloned().unwrap_or_default();
        let plan = plan::decide(&self.deployment, &sets, &pods_of, self.now());
        let wrote = !plan.actions.is_empty();
        for action in plan.actions {
            self.act(action);
        }
        self.deployment.status = Some(plan.status);
        wrote
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Create(mut set) => {
                set.metadata.uid = Some(format!("uid-{}", set.name_any()));
                set.metadata.resource_version = Some("1".into());
                set.metadata.creation_timestamp = Some(Time(self.now()));
                self.sets.push(*set);
            }
            Action::Update { name, patch, event } => {
                let set = self.sets.iter_mut().find(|set| set.name_any() == name).unwrap();
                let annotations = patch["metadata"]["annotations"].as_object().unwrap();
                for (key, value) in annotations {
                    set.annotations_mut().insert(key.clone(), value.as_str().unwrap().to_owned());
                }
                if let Some(replicas) = patch["spec"]["replicas"].as_i64() {
                    set.spec.as_mut().unwrap().replicas = Some(i32::try_from(replicas).unwrap());
                }
                self.events.extend(event);
            }
            Action::Delete { name, .. } => self.sets.retain(|set| set.name_any() != name),
            Action::Annotate(annotations) => self.deployment.annotations_mut().extend(annotations),
            Action::RollBack(rollback) => panic!("nobody asked for {rollback:?}"),
        }
    }

    /// All pods that are asked for run and are ready.
    fn pods_run(&mut self) {
        for set in &mut self.sets {
            let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap();
            let some = (replicas != 0).then_some(replicas);
            let status = json!({"replicas": replicas, "readyReplicas": some, "availableReplicas": some});
            set.status = Some(serde_json::from_value(status).unwrap());
        }
    }

    /// Reconciles until nothing is written, pods running after each step; checks the bounds at each.
    fn settle(&mut self, at_least: i32, at_most: i32) -> usize {
        for step in 0..100 {
            let available: i32 = self
                .sets
                .iter()
                .map(|set| set.status.as_ref().map_or(0, |s| s.available_replicas.unwrap_or(0).min(plan::size(set))))
                .sum();
            let asked: i32 = self.sets.iter().map(plan::size).sum();
            assert!(available >= at_least && asked <= at_most, "step {step}: {available} available, {asked} asked for");
            let wrote = self.step();
            self.pods_run();
            if !wrote && !self.step() {
                return step;
            }
        }
        panic!("does not settle: {:?}", self.sizes());
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(plan::size).collect()
    }

    fn condition(&self, type_: &str) -> (String, String) {
        let conditions = self.deployment.status.as_ref().unwrap().conditions.as_ref().unwrap();
        let condition = conditions.iter().find(|condition| condition.type_ == type_).unwrap();
        (condition.status.clone(), condition.reason.clone().unwrap())
    }

    fn revision(&self) -> &str {
        &self.deployment.annotations()[history::REVISION]
    }
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.into(), reason.into())
}

#[test]
fn a_first_rollout_creates_one_set_and_reports_progress() {
    let mut world = World::new(deployment(3, rolling(json!("25%"), json!("25%"))));
    world.step();
    let set = &world.sets[0];
    assert_eq!(world.sizes(), [3]);
    let hash = &set.labels()["pod-template-hash"];
    assert_eq!(set.name_any(), format!("web-{hash}"));
    assert_eq!(set.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap()["pod-template-hash"], *hash);
    assert_eq!(world.condition("Progressing"), pair("True", "NewReplicaSetCreated"));
    assert_eq!(world.condition("Available"), pair("False", "MinimumReplicasUnavailable"));
    assert_eq!(world.revision(), "1");
    world.pods_run();
    world.step();
    assert_eq!(world.condition("Progressing"), pair("True", "NewReplicaSetAvailable"));
    assert_eq!(world.condition("Available"), pair("True", "MinimumReplicasAvailable"));
    assert!(!world.step(), "nothing left to do");
}

#[test]
fn rolling_updates_stay_within_surge_and_unavailability() {
    for (replicas, surge, unavailable, at_least, at_most) in [
        (4, json!(1), json!(0), 4, 5),
        (4, json!(0), json!(1), 3, 4),
        (10, json!("25%"), json!("25%"), 8, 13),
        (1, json!(0), json!(0), 0, 1),
        (3, json!("100%"), json!("50%"), 2, 6),
    ] {
        let mut world = World::new(deployment(replicas, rolling(surge, unavailable)));
        world.settle(0, at_most);
        world.image("web:2");
        world.settle(at_least, at_most);
        assert_eq!(world.sizes(), [0, replicas]);
        assert_eq!(world.revision(), "2");
        assert_eq!(world.condition("Progressing"), pair("True", "NewReplicaSetAvailable"));
    }
}

#[test]
fn a_set_whose_status_lags_behind_its_size_is_not_shrunk_for_the_same_pods_twice() {
    let mut world = World::new(deployment(10, rolling(json!(2), json!(1))));
    world.settle(0, 12);
    world.image("web:2");
    for _ in 0..5 {
        // the new set's pods run and it says so; the old set does not tell yet what it lost
        let before = world.sets[0].status.clone();
        let running = world.sizes();
        world.step();
        let available: i32 = running.iter().zip(world.sizes()).map(|(running, size)| size.min(*running)).sum();
        assert!(available >= 9, "{available} are left: {:?}", world.sizes());
        world.pods_run();
        world.sets[0].status = before;
    }
}

#[test]
fn an_update_that_never_becomes_ready_stops_and_times_out() {
    let mut world = World::new(deployment(4, rolling(json!(1), json!(1))));
    world.settle(0, 5);
    world.image("web:broken");
    for _ in 0..10 {
        world.step();
    }
    assert_eq!(world.sizes(), [3, 2], "as many old pods stay as must be available");
    assert_eq!(world.condition("Progressing").1, "NewReplicaSetCreated");
    world.clock += 601;
    world.step();
    assert_eq!(world.condition("Progressing"), pair("False", "ProgressDeadlineExceeded"));
}

#[test]
fn undo_reuses_the_old_set_with_a_new_revision() {
    let mut world = World::new(deployment(2, rolling(json!(1), json!(0))));
    world.settle(0, 3);
    world.image("web:2");
    world.settle(2, 3);
    world.image("web:1");
    world.settle(2, 3);
    assert_eq!(world.sizes(), [2, 0]);
    assert_eq!(world.revision(), "3");
    let annotations = world.sets[0].annotations();
    assert_eq!((annotations[history::REVISION].as_str(), annotations[history::REVISION_HISTORY].as_str()), ("3", "1"));
}

#[test]
fn scaling_is_told_with_both_sizes() {
    let mut world = World::new(deployment(2, rolling(json!(1), json!(0))));
    world.settle(0, 3);
    world.replicas(5);
    world.settle(2, 6);
    let name = world.sets[0].name_any();
    assert_eq!(world.events, [format!("Scaled up replica set {name} from 2 to 5")]);
    world.replicas(0);
    world.settle(0, 6);
    assert_eq!(world.events[1], format!("Scaled down replica set {name} from 5 to 0"));
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_shared() {
    let mut world = World::new(deployment(10, rolling(json!(3), json!(2))));
    world.settle(0, 13);
    world.image("web:2");
    for _ in 0..3 {
        world.step();
    }
    assert_eq!(world.sizes(), [8, 5]);
    world.replicas(15);
    world.step();
    assert_eq!(world.sizes(), [11, 7], "five more in proportion, eighteen in all");
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(deployment(2, rolling(json!(1), json!(0))));
    world.settle(0, 3);
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.image("web:2");
    world.replicas(4);
    world.settle(2, 5);
    assert_eq!(world.sizes(), [4]);
    assert_eq!(world.condition("Progressing"), pair("Unknown", "DeploymentPaused"));
    world.deployment.spec.as_mut().unwrap().paused = None;
    world.settle(4, 5);
    assert_eq!(world.sizes(), [0, 4]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new(deployment(2, json!({"type": "Recreate"})));
    world.settle(0, 2);
    world.image("web:2");
    let old = world.sets[0].uid().unwrap();
    let pod: Pod = serde_json::from_value(json!({"status": {"phase": "Running"}})).unwrap();
    world.pods.insert(old, vec![Arc::new(pod)]);
    for _ in 0..3 {
        world.step();
    }
    assert_eq!(world.sizes(), [0], "the old pod still runs");
    world.pods.clear();
    world.settle(0, 2);
    assert_eq!(world.sizes(), [0, 2]);
}

#[test]
fn old_sets_beyond_the_history_limit_are_deleted() {
    let mut world = World::new(deployment(1, rolling(json!(1), json!(0))));
    world.deployment.spec.as_mut().unwrap().revision_history_limit = Some(2);
    for at in 1..=5 {
        world.image(&format!("web:{at}"));
        world.settle(0, 2);
    }
    let images: Vec<_> = world.sets.iter().map(history::revision).collect();
    assert_eq!(images, [3, 4, 5]);
}

#[test]
fn hashes_differ_between_templates_and_collision_counts() {
    let template = |image: &str| {
        let mut deployment = deployment(1, json!({}));
        deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        deployment.spec.unwrap().template
    };
    let first = history::template_hash(&template("web:1"), None);
    assert_eq!(first, history::template_hash(&template("web:1"), None));
    assert_ne!(first, history::template_hash(&template("web:2"), None));
    assert_ne!(first, history::template_hash(&template("web:1"), Some(1)));
    assert!(first.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte)));
}
