//! What to do about a StatefulSet, decided from it, its pods and their claims.
//!
//! Ordered sets go through their pods by ordinal and stop at the first that is not as it should be; only when all are are
//! surplus pods deleted from the highest ordinal down, and only when there are none left is another revision rolled out.
//! Parallel sets take each of these steps for all pods at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::identity::{self, POD_INDEX, POD_NAME};
use super::retention::{self, User};
use super::status::{self, is_available, is_unavailable};
use crate::percentage::{Round, resolve};
use crate::pods;

/// Writes of one phase, upstream's value: other sets get their turn.
const BURST: usize = 500;

/// One thing to do.
#[derive(Debug)]
pub(super) enum Action {
    /// Create the claims that are missing, then the pod.
    Create { pod: Box<Pod>, claims: Vec<PersistentVolumeClaim> },
    /// The pod cannot be created: its claim is being deleted.
    Blocked { pod: String, claim: String },
    /// Create the missing claims of a pod that waits for them.
    Claims { pod: String, claims: Vec<PersistentVolumeClaim> },
    /// Change the owners of a claim.
    Own { claim: Arc<PersistentVolumeClaim>, owners: Vec<OwnerReference> },
    /// Give a pod its labels, or volumes.
    Repair { pod: Arc<Pod>, patch: Value, claims: Vec<PersistentVolumeClaim> },
    /// Delete a pod.
    Delete(Arc<Pod>),
}

/// All writes of one reconcile: what is in one phase may be done at once; a failure ends it before the next phase.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) phases: Vec<Vec<Action>>,
    pub(super) status: StatefulSetStatus,
    /// When to look again without an event.
    pub(super) next: Option<Duration>,
    /// How an update was judged, where one could go on.
    pub(super) judged: Option<Judged>,
}

/// What bounds a rolling update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) max_unavailable: i32,
    /// Pods that are missing or not available.
    pub(super) unavailable: i32,
}

/// A revision, and the template it holds.
#[derive(Clone, Debug)]
pub(super) struct Revision {
    pub(super) name: String,
    pub(super) template: PodTemplateSpec,
}

/// What there is.
pub(super) struct Observed<'a> {
    /// The pods that are the set's.
    pub(super) pods: &'a [Arc<Pod>],
    /// A claim of the set's namespace by its name.
    pub(super) claim: &'a (dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>> + Sync),
    /// The revision all pods had when the last update was complete.
    pub(super) current: &'a Revision,
    /// The revision of the template as it is now.
    pub(super) update: &'a Revision,
    pub(super) collisions: i32,
    pub(super) now: Timestamp,
}

/// Whether a step lets the next one follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Go,
    Stop,
}

/// Decides on all writes of one reconcile.
pub(super) fn decide(set: &StatefulSet, observed: &Observed<'_>) -> Plan {
    let spec = set.spec.clone().unwrap_or_default();
    let wanted = identity::ordinals(set);
    let mut pods = BTreeMap::new();
    let mut surplus = Vec::new();
    for pod in observed.pods {
        match identity::ordinal_of(set, pod) {
            Some(ordinal) if wanted.contains(&ordinal) => {
                pods.insert(ordinal, Arc::clone(pod));
            }
            Some(ordinal) => surplus.push((ordinal, Arc::clone(pod))),
            None => {}
        }
    }
    surplus.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
    let (status, next) = status::compute(set, observed, pods.values().chain(surplus.iter().map(|(_, pod)| pod)));
    let parallel = spec.pod_management_policy.as_deref() == Some("Parallel");
    let mut round =
        Sweep { set, spec, observed, wanted, parallel, pods, surplus, phases: Vec::new(), status, judged: None };
    if set.metadata.deletion_timestamp.is_none() {
        round.run();
    }
    status::complete_update(set, &mut round.status);
    Plan { phases: round.phases, status: round.status, next, judged: round.judged }
}

struct Sweep<'a> {
    set: &'a StatefulSet,
    spec: StatefulSetSpec,
    observed: &'a Observed<'a>,
    wanted: std::ops::Range<i32>,
    parallel: bool,
    /// Pods the set is to have, by ordinal.
    pods: BTreeMap<i32, Arc<Pod>>,
    /// Pods it is not to have, highest ordinal first.
    surplus: Vec<(i32, Arc<Pod>)>,
    phases: Vec<Vec<Action>>,
    status: StatefulSetStatus,
    judged: Option<Judged>,
}

impl Sweep<'_> {
    fn run(&mut self) {
        if self.keep() == Flow::Stop || self.own_surplus_claims() == Flow::Stop || self.shrink() == Flow::Stop {
            return;
        }
        let strategy = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        if strategy != Some("OnDelete") {
            self.update();
        }
    }

    /// Ends a phase. In an ordered set whoever acts has the others wait.
    fn end_phase(&mut self, phase: Vec<Action>) -> Flow {
        let full = phase.len() >= BURST;
        if !phase.is_empty() {
            self.phases.push(phase);
        }
        if full { Flow::Stop } else { Flow::Go }
    }

    /// Sees to it that every wanted pod is there and as it should be.
    fn keep(&mut self) -> Flow {
        let mut phase = Vec::new();
        for ordinal in self.wanted.clone() {
            let flow = match self.pods.get(&ordinal).cloned() {
                None => self.create(ordinal, &mut phase),
                Some(pod) => self.keep_pod(ordinal, &pod, &mut phase),
            };
            if flow == Flow::Stop && !self.parallel {
                self.end_phase(phase);
                return Flow::Stop;
            }
            if phase.len() >= BURST {
                break;
            }
        }
        self.end_phase(phase)
    }

    fn create(&self, ordinal: i32, phase: &mut Vec<Action>) -> Flow {
        let name = identity::pod_name(self.set, ordinal);
        let user = User { name: &name, pod: None, wanted: true };
        let mut missing = Vec::new();
        let mut owned = Vec::new();
        for mut claim in identity::claims(self.set, ordinal) {
            match (self.observed.claim)(&claim.name_any()) {
                None => {
                    claim.metadata.owner_references = retention::initial_owners(self.set);
                    missing.push(claim);
                }
                Some(there) if retention::goes_with_earlier_pod(self.set, &there, &name) => return Flow::Stop,
                Some(there) if there.metadata.deletion_timestamp.is_some() => {
                    phase.push(Action::Blocked { pod: name, claim: there.name_any() });
                    return Flow::Stop;
                }
                Some(claim) => {
                    let owners = retention::corrected_owners(self.set, &claim, user);
                    owned.extend(owners.map(|owners| Action::Own { claim, owners }));
                }
            }
        }
        let revision = self.revision_of_new(ordinal);
        let pod = identity::new_pod(self.set, revision.template.clone(), &revision.name, ordinal);
        phase.extend(owned);
        phase.push(Action::Create { pod: Box::new(pod), claims: missing });
        Flow::Stop
    }

    /// A pod below the partition, or of an update that goes on without a partition, comes back as it was.
    fn revision_of_new(&self, ordinal: i32) -> &Revision {
        let strategy = self.spec.update_strategy.as_ref();
        let index = ordinal - self.wanted.start;
        let as_it_was = match strategy.and_then(|strategy| strategy.rolling_update.as_ref()) {
            Some(rolling) => index < rolling.partition.unwrap_or(0),
            None => {
                let rolling = strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("RollingUpdate");
                let current = self.set.status.as_ref().and_then(|status| status.current_replicas);
                rolling && index < current.unwrap_or(0)
            }
        };
        if as_it_was { self.observed.current } else { self.observed.update }
    }

    fn keep_pod(&self, ordinal: i32, pod: &Arc<Pod>, phase: &mut Vec<Action>) -> Flow {
        let leaves = pod.metadata.deletion_timestamp.is_some();
        if pods::is_terminal(pod) {
            if !leaves {
                phase.push(Action::Delete(Arc::clone(pod)));
            }
            return Flow::Stop;
        }
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        let waits = leaves || !status::is_running_and_ready(pod) || !is_available(pod, min_ready, self.observed.now);
        let pending = pods::phase(pod) == "Pending" && !leaves;
        if pending {
            let claims = self.missing_claims(ordinal);
            if !claims.is_empty() {
                phase.push(Action::Claims { pod: pod.name_any(), claims });
            }
        }
        if waits && !self.parallel && !pending {
            return Flow::Stop;
        }
        self.own_claims(ordinal, pod, true, phase);
        if waits && !self.parallel {
            return Flow::Stop;
        }
        self.repair(ordinal, pod, phase);
        Flow::Go
    }

    fn missing_claims(&self, ordinal: i32) -> Vec<PersistentVolumeClaim> {
        let missing = identity::claims(self.set, ordinal).filter(|claim| {
            let name = claim.name_any();
            (self.observed.claim)(&name).is_none()
        });
        missing
            .map(|mut claim| {
                claim.metadata.owner_references = retention::initial_owners(self.set);
                claim
            })
            .collect()
    }

    fn own_claims(&self, ordinal: i32, pod: &Pod, wanted: bool, phase: &mut Vec<Action>) {
        let name = pod.name_any();
        let user = User { name: &name, pod: Some(pod), wanted };
        for claim in identity::claim_names(self.set, ordinal).filter_map(|name| (self.observed.claim)(&name)) {
            if let Some(owners) = retention::corrected_owners(self.set, &claim, user) {
                phase.push(Action::Own { claim, owners });
            }
        }
    }

    fn repair(&self, ordinal: i32, pod: &Arc<Pod>, phase: &mut Vec<Action>) {
        let volumes = identity::missing_volumes(self.set, pod, ordinal);
        if identity::is_labelled(pod) && volumes.is_none() {
            return;
        }
        let labels = json!({POD_NAME: pod.name_any(), POD_INDEX: ordinal.to_string()});
        let mut patch = json!({"metadata": {"uid": pod.metadata.uid, "labels": labels}});
        let mut claims = Vec::new();
        if let Some(volumes) = volumes {
            patch["spec"] = json!({"volumes": volumes});
            claims = self.missing_claims(ordinal);
        }
        phase.push(Action::Repair { pod: Arc::clone(pod), patch, claims });
    }

    /// Claims of pods that are to go may have to go with them.
    fn own_surplus_claims(&mut self) -> Flow {
        let mut phase = Vec::new();
        for (ordinal, pod) in &self.surplus {
            self.own_claims(*ordinal, pod, false, &mut phase);
        }
        self.end_phase(phase)
    }

    fn shrink(&mut self) -> Flow {
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        let now = self.observed.now;
        if self.parallel {
            let staying = self.surplus.iter().filter(|(_, pod)| pod.metadata.deletion_timestamp.is_none());
            let phase = staying.take(BURST).map(|(_, pod)| Action::Delete(Arc::clone(pod))).collect();
            return self.end_phase(phase);
        }
        let Some((_, highest)) = self.surplus.first().cloned() else { return Flow::Go };
        // The lowest of those that are not available may go, also when it is not the highest: nothing waits for it.
        let unavailable = self.surplus.iter().rev().find(|(_, pod)| is_unavailable(pod, min_ready, now));
        let is_lowest_unavailable = unavailable.is_some_and(|(_, pod)| Arc::ptr_eq(pod, &highest));
        let is_healthy = status::is_running_and_ready(&highest) && is_available(&highest, min_ready, now);
        if highest.metadata.deletion_timestamp.is_none() && (is_healthy || is_lowest_unavailable) {
            self.phases.push(vec![Action::Delete(highest)]);
        }
        Flow::Stop
    }

    /// Deletes pods of other revisions, highest ordinal first, so that they come back as the current one.
    fn update(&mut self) {
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        let now = self.observed.now;
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
        let replicas = self.wanted.end - self.wanted.start;
        let bound = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let bound = bound.map_or(1, |bound| resolve(bound, replicas, Round::Down).max(1));
        let unavailable = self
            .wanted
            .clone()
            .filter(|ordinal| self.pods.get(ordinal).is_none_or(|pod| is_unavailable(pod, min_ready, now)));
        let unavailable = i32::try_from(unavailable.count()).unwrap_or(i32::MAX);
        self.judged = Some(Judged { max_unavailable: bound, unavailable });
        let budget = usize::try_from(bound.saturating_sub(unavailable)).unwrap_or(0);

        let from = self.wanted.start.saturating_add(partition.max(0)).min(self.wanted.end);
        let old = self.pods.range(from..).rev().map(|(_, pod)| pod).filter(|pod| {
            pod.metadata.deletion_timestamp.is_none() && identity::revision(pod) != self.observed.update.name
        });
        let (healthy, broken): (Vec<_>, Vec<_>) = old.partition(|pod| is_available(pod, min_ready, now));
        // What is not available anyway costs nothing; an ordered set comes here only when there is nothing of the kind.
        let doomed: Vec<Arc<Pod>> =
            broken.into_iter().chain(healthy.into_iter().take(budget)).take(BURST).cloned().collect();
        let current = &self.observed.current.name;
        let of_current = doomed.iter().filter(|pod| identity::revision(pod) == current).count();
        let of_current = i32::try_from(of_current).unwrap_or(i32::MAX);
        self.status.current_replicas = status::some(self.status.current_replicas.unwrap_or(0) - of_current);
        self.end_phase(doomed.into_iter().map(Action::Delete).collect());
    }
}
