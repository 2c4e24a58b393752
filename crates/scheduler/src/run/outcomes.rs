//! What came of requests.

use std::sync::Arc;

use reconcile::EventType;
use tokio::time::Instant;

use super::Scheduler;
use super::changes::node_of;
use super::refusal::{Reason, reference, reference_to};
use super::requests::{Binding, Done, bind};
use crate::metrics::{Outcome, Step};
use crate::plugins::PluginSet;
use crate::pod::PodInfo;

impl Scheduler {
    pub(super) fn done(&mut self, done: Done) {
        match done {
            Done::Volumes { binding, plan, result } => {
                self.waiting_pods.remove(&binding.attempt.pod.uid);
                self.snapshot.volumes.release(&plan);
                let step = Step::PreBind { done: result.is_ok() };
                self.metrics.step(&binding.attempt.pod.shape.scheduler, step, binding.step_began.elapsed());
                match result {
                    Ok(()) => {
                        let Binding { attempt, began, node, .. } = binding;
                        self.request(bind(self.client.clone(), attempt, began, node));
                    }
                    Err(error) => {
                        self.unbound(
                            &binding,
                            &format!("running PreBind plugin \"VolumeBinding\": binding volumes: {error}"),
                        );
                    }
                }
            }
            Done::Bound { binding, result } => {
                let profile = &binding.attempt.pod.shape.scheduler;
                self.metrics.step(profile, Step::Bind { done: result.is_ok() }, binding.step_began.elapsed());
                match result {
                    Ok(()) => self.bound(&binding),
                    Err(error) => {
                        let why = match &error {
                            kube::Error::Api(status) => status.message.clone(),
                            other => other.to_string(),
                        };
                        self.unbound(&binding, &format!("running Bind plugin \"DefaultBinder\": {why}"));
                    }
                }
            }
            Done::Left { victim, by, node, result: Ok(()) } => {
                self.sent_away(&by.uid);
                let message = format!("Preempted by pod {} on node {node}", by.uid);
                let about = reference_to(&victim.key, &victim.uid);
                self.recorder.event(&about, EventType::Normal, "Preempted", "Preempting", message);
            }
            Done::Left { victim, by, result: Err(error), .. } => {
                tracing::warn!(pod = %victim.key, by = %by.key, %error, "cannot preempt");
                self.sent_away(&by.uid);
                // Nothing will make room: the pod must look again.
                let now = Instant::now();
                self.snapshot.denominate(&by.uid);
                self.queue.happened("ForceActivate", now, PluginSet::MAX, |shape, _| *shape == *by.shape);
            }
            Done::StatusWritten(Ok(())) => {}
            Done::StatusWritten(Err(error)) => tracing::debug!(%error, "cannot write a pod's status"),
        }
    }

    fn bound(&mut self, binding: &Binding) {
        let Binding { attempt, node, began, .. } = binding;
        let pod = &attempt.pod;
        self.queue.bound(pod, Instant::now());
        self.metrics.attempted(&pod.shape.scheduler, Outcome::Scheduled, began.elapsed());
        self.metrics.bound(attempt.number, attempt.since.elapsed());
        let message = format!("Successfully assigned {} to {node}", pod.key);
        self.recorder.event(&reference(pod), EventType::Normal, "Scheduled", "Binding", message);
    }

    fn sent_away(&mut self, by: &str) {
        if let Some(left) = self.preempting.get_mut(by) {
            *left -= 1;
            if *left == 0 {
                self.preempting.remove(by);
            }
        }
    }

    /// Unless the pod was seen on a node after all, gives back what was assumed, and says why.
    fn unbound(&mut self, binding: &Binding, why: &str) {
        let pod: &Arc<PodInfo> = &binding.attempt.pod;
        self.metrics.attempted(&pod.shape.scheduler, Outcome::Error, binding.began.elapsed());
        tracing::debug!(pod = %pod.key, node = binding.node, why, "not bound");
        let now = Instant::now();
        let seen = self.caches.pods.get(&pod.key.namespace, &pod.key.name);
        let seen = seen.filter(|seen| seen.metadata.uid.as_deref() == Some(&pod.uid));
        if seen.as_ref().is_some_and(|seen| node_of(seen).is_some()) {
            return;
        }
        self.release(&pod.uid, now);
        self.queue.back_off(pod, now);
        if let Some(seen) = seen {
            let status = seen.status.as_ref();
            let nominated = status.and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default();
            let clear = (!nominated.is_empty()).then_some("");
            self.explain(pod, Some(&seen), Reason::SchedulerError, why, clear);
        }
    }
}
