//! A Job run to its end against a model of the API, in which the controller is cut off at random points: however often
//! that happens, every pod is counted once.

use std::collections::BTreeMap;

use super::*;

/// A small generator of numbers: a seed makes a run repeatable.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

struct Model {
    dice: Dice,
    job: Job,
    pods: BTreeMap<String, Arc<Pod>>,
    made: u64,
    succeeded: usize,
    failed: usize,
}

/// The controller ends here, as if it were killed.
struct Killed;

impl Model {
    fn chance(&mut self) -> Result<(), Killed> {
        if self.dice.roll(40) == 0 { Err(Killed) } else { Ok(()) }
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        let Some(known) = self.pods.remove(name) else { return };
        let mut pod = known.as_ref().clone();
        change(&mut pod);
        let gone = pod.metadata.deletion_timestamp.is_some()
            && pod.metadata.finalizers.as_ref().is_none_or(Vec::is_empty)
            && pods::is_terminal(&pod);
        if !gone {
            self.pods.insert(name.to_owned(), Arc::new(pod));
        }
    }

    /// What kubelets do: some pods end.
    fn kubelets(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        for name in names {
            let pod = &self.pods[&name];
            if pods::is_terminal(pod) || self.dice.roll(3) != 0 {
                continue;
            }
            let leaves = pod.metadata.deletion_timestamp.is_some();
            let fails = leaves || self.dice.roll(5) == 0;
            if !leaves {
                if fails { self.failed += 1 } else { self.succeeded += 1 }
            }
            let phase = if fails { "Failed" } else { "Succeeded" };
            self.change(&name, |pod| pod.status.as_mut().unwrap().phase = Some(phase.to_owned()));
        }
    }

    fn reconcile(&mut self) -> Result<(), Killed> {
        let (job, pods) = (self.job.clone(), self.pods.values().cloned().collect::<Vec<_>>());
        // far in the future, so that no back-off is left
        let later = "2027-01-01T00:00:00Z".parse().unwrap();
        let view = View::of(&job, job.spec.as_ref().unwrap(), &pods, None, later);
        let (end, operation, _) = decide(&view);
        let mut acted = Acted::default();
        match operation {
            Operation::Keep => {}
            Operation::Create(new) => {
                for new in new {
                    self.chance()?;
                    self.made += 1;
                    let index = new.index.map(|index| format!("-{index}")).unwrap_or_default();
                    let name = format!("p{}{index}", self.made);
                    self.pods.insert(name.clone(), pod(&name, "Running", json!({})));
                    acted.created += 1;
                }
            }
            Operation::End(pods) | Operation::Release(pods) => {
                for pod in pods {
                    self.chance()?;
                    self.change(&pod.name_any(), |pod| {
                        pod.metadata.deletion_timestamp = pod::finished_at(pod).to_string().parse().ok().map(time);
                    });
                    acted.deleted += 1;
                }
            }
        }
        let mut tracking = tracking::settle(&view, end, true, acted);
        self.chance()?;
        self.job.status = Some(tracking.status.clone());
        let mut removed = Vec::new();
        for pod in std::mem::take(&mut tracking.remove) {
            self.chance()?;
            self.change(&pod.name_any(), |pod| pod.metadata.finalizers = None);
            removed.push(pod::uid(&pod).to_owned());
        }
        tracking.removed(removed);
        let _ = tracking.finish(view.spec.completions, later);
        self.chance()?;
        self.job.status = Some(tracking.status);
        Ok(())
    }
}

fn time(at: Timestamp) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at)
}

#[test]
fn no_pod_is_lost_or_counted_twice_however_often_the_controller_is_killed() {
    for seed in 0..60 {
        let indexed = if seed % 2 == 0 { "NonIndexed" } else { "Indexed" };
        let spec = json!({"parallelism": 7, "completions": 40, "backoffLimit": 1000, "completionMode": indexed});
        let mut model = Model {
            dice: Dice(seed),
            job: job(spec, json!({})),
            pods: BTreeMap::new(),
            made: 0,
            succeeded: 0,
            failed: 0,
        };
        let mut killed = 0;
        for _ in 0..5_000 {
            model.kubelets();
            killed += u32::from(model.reconcile().is_err());
            if terminal(&model.job).is_some() {
                break;
            }
        }
        let status = model.job.status.as_ref().unwrap();
        assert!(killed > 0, "seed {seed} killed nobody");
        assert_eq!(conditions(status).last(), Some(&("Complete", "CompletionsReached")), "seed {seed}");
        assert_eq!(status.succeeded, Some(40), "seed {seed}");
        assert_eq!(
            (model.succeeded, model.failed),
            (40, usize::try_from(status.failed.unwrap_or(0)).unwrap()),
            "seed {seed}"
        );
        assert!(model.pods.values().all(|pod| !pod::is_tracked(pod)), "seed {seed}");
        if indexed == "Indexed" {
            assert_eq!(status.completed_indexes.as_deref(), Some("0-39"));
        }
    }
}
