//! What to do about a deployment, decided from it, its ReplicaSets and their pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::ResourceExt;
use kube::core::ObjectMeta;
use serde_json::{Value, json};

use super::history::{self, DESIRED_REPLICAS, MAX_REPLICAS, TEMPLATE_HASH};
use super::rollback::{self, Rollback};
use super::{rollout, status};
use crate::{owners, pods};

/// One write.
#[derive(Debug)]
pub(super) enum Action {
    /// Create a ReplicaSet.
    Create(Box<ReplicaSet>),
    /// Merge-patch a ReplicaSet; the event tells of a changed size.
    Update { name: String, patch: Value, event: Option<String> },
    /// Delete a ReplicaSet that is beyond the history limit.
    Delete { name: String, uid: String },
    /// Annotate the deployment itself.
    Annotate(BTreeMap<String, String>),
    /// Give the deployment an earlier template.
    RollBack(Rollback),
}

/// All writes of one reconcile, in order; the status comes last.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) status: DeploymentStatus,
    /// When to look again without an event.
    pub(super) next: Option<Duration>,
}

/// A ReplicaSet, and the size it is to have.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) set: Arc<ReplicaSet>,
    pub(super) replicas: i32,
    /// The set is planned, not there yet.
    pub(super) planned: bool,
}

impl Member {
    fn of(set: &Arc<ReplicaSet>) -> Self {
        Self { set: Arc::clone(set), replicas: size(set), planned: false }
    }

    pub(super) fn available(&self) -> i32 {
        self.set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    /// Pods that may be there: those the set is to have, and those that it has not given up yet. It has asked for their
    /// deletion before its status says that it saw its size.
    pub(super) fn present(&self) -> i32 {
        let status = self.set.status.as_ref();
        let seen = status.and_then(|status| status.observed_generation).unwrap_or(0);
        let left = if seen >= self.set.metadata.generation.unwrap_or(0) {
            size(&self.set)
        } else {
            status.map_or(0, |status| status.replicas).max(size(&self.set))
        };
        if self.planned { self.replicas } else { self.replicas.max(left) }
    }
}

/// What a deployment asks for, with percentages resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) replicas: i32,
    pub(super) max_surge: i32,
    pub(super) max_unavailable: i32,
}

/// All sets of the deployment, oldest first, the one of the current template apart.
#[derive(Clone, Debug)]
pub(super) struct Sets {
    pub(super) new: Option<Member>,
    pub(super) old: Vec<Member>,
}

impl Sets {
    pub(super) fn all(&self) -> impl Iterator<Item = &Member> {
        self.old.iter().chain(&self.new)
    }

    pub(super) fn total(&self) -> i32 {
        self.all().map(|member| member.replicas).sum()
    }
}

/// The size a set is asked to have.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)
}

/// The metadata of a template as the deployment gave it, in a form that can be compared.
fn plain(template: Option<&PodTemplateSpec>) -> ObjectMeta {
    let mut meta = template.and_then(|template| template.metadata.clone()).unwrap_or_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(TEMPLATE_HASH);
    }
    meta.labels = meta.labels.filter(|labels| !labels.is_empty());
    meta.annotations = meta.annotations.filter(|annotations| !annotations.is_empty());
    meta.creation_timestamp = None;
    meta
}

fn template_of(set: &ReplicaSet) -> Option<&PodTemplateSpec> {
    set.spec.as_ref()?.template.as_ref()
}

/// The template that the set was made from.
pub(super) fn template_without_hash(set: &ReplicaSet) -> PodTemplateSpec {
    let template = template_of(set);
    PodTemplateSpec { metadata: Some(plain(template)), spec: template.and_then(|template| template.spec.clone()) }
}

/// Whether the set was made from the deployment's current template.
pub(super) fn same_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let [ours, wanted] = [template_of(set), deployment.spec.as_ref().map(|spec| &spec.template)];
    let [own_spec, wanted_spec] = [ours, wanted].map(|template| template.and_then(|template| template.spec.as_ref()));
    own_spec == wanted_spec && plain(ours) == plain(wanted)
}

/// Decides on all writes of one reconcile.
pub(super) fn decide(
    deployment: &Deployment,
    owned: &[Arc<ReplicaSet>],
    pods_of: &dyn Fn(&str) -> Vec<Arc<Pod>>,
    now: Timestamp,
) -> Plan {
    let nothing = DeploymentSpec::default();
    let spec = deployment.spec.as_ref().unwrap_or(&nothing);
    let bounds = rollout::bounds(spec);
    let mut sets = partition(deployment, owned);
    let mut actions = Vec::new();
    let paused = spec.paused == Some(true);
    let leaving = deployment.metadata.deletion_timestamp.is_some();
    let recreate = spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
    if let Some(rollback) = rollback::decide(deployment, owned).filter(|_| !leaving && !paused) {
        let status = deployment.status.clone().unwrap_or_default();
        return Plan { actions: vec![Action::RollBack(rollback)], status, next: None };
    }

    let mut created = false;
    let mut scaled = false;
    if !leaving {
        let scaling = rollout::is_scaling_event(&sets, bounds.replicas);
        if paused || scaling {
            adopt_new(deployment, &mut sets, bounds, recreate, false, &mut actions);
            rollout::scale(&mut sets, bounds, recreate, deployment);
        } else if recreate {
            scaled = rollout::retire_old(&mut sets);
            let old_running = old_pods_running(&sets, pods_of);
            if !scaled && !old_running {
                created = adopt_new(deployment, &mut sets, bounds, recreate, true, &mut actions);
                if let Some(new) = &mut sets.new {
                    new.replicas = bounds.replicas;
                }
            } else {
                adopt_new(deployment, &mut sets, bounds, recreate, false, &mut actions);
            }
        } else {
            created = adopt_new(deployment, &mut sets, bounds, recreate, true, &mut actions);
            rollout::roll(&mut sets, bounds);
        }
    }
    resize(deployment, &sets, bounds, &mut actions);
    let mut status = status::compute(deployment, &sets, bounds, now);
    match &sets.new {
        Some(new) if created => status::created(&mut status, deployment, &new.set.name_any(), now),
        Some(new) if !leaving => status::found(&mut status, deployment, &new.set.name_any(), now),
        _ => {}
    }
    let next = if paused || leaving {
        status::paused(&mut status, deployment, paused, now);
        None
    } else {
        status::progress(&mut status, deployment, &sets, now)
    };
    let settled = !scaled && actions.is_empty();
    if !leaving && settled && (paused || status::is_complete(deployment, &status)) {
        actions.extend(beyond_history(&sets, spec.revision_history_limit.unwrap_or(10)));
    }
    Plan { actions, status, next }
}

fn partition(deployment: &Deployment, owned: &[Arc<ReplicaSet>]) -> Sets {
    let mut owned: Vec<&Arc<ReplicaSet>> = owned.iter().collect();
    owned.sort_by_key(|set| (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.name_any()));
    // Of several sets with the current template the oldest is the new one, upstream's rule.
    let new = owned.iter().position(|set| same_template(set, deployment));
    let new_member = new.map(|at| Member::of(owned[at]));
    let old = owned.iter().enumerate().filter(|(at, _)| Some(*at) != new).map(|(_, set)| Member::of(set)).collect();
    Sets { new: new_member, old }
}

/// Brings revision and annotations of the current template's set up to date, or plans to create it. True when created.
fn adopt_new(
    deployment: &Deployment,
    sets: &mut Sets,
    bounds: Bounds,
    recreate: bool,
    create: bool,
    actions: &mut Vec<Action>,
) -> bool {
    let newest_old = sets.old.iter().map(|member| history::revision(member.set.as_ref())).max().unwrap_or(0);
    let revision = newest_old + 1;
    let created = match &sets.new {
        Some(member) => {
            let set = &member.set;
            let wanted = history::wanted_annotations(deployment, Some(set), revision);
            let stale = wanted.iter().any(|(name, value)| set.annotations().get(name) != Some(value));
            let min_ready = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
            let set_min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
            if stale || min_ready != set_min_ready {
                let patch = json!({
                    "metadata": {"uid": set.metadata.uid, "annotations": wanted},
                    "spec": {"minReadySeconds": min_ready}});
                actions.push(Action::Update { name: set.name_any(), patch, event: None });
            }
            false
        }
        None if create => {
            let replicas = rollout::new_set_size(sets, bounds, recreate, 0);
            let set = new_set(deployment, replicas, bounds, revision);
            actions.push(Action::Create(Box::new(set.clone())));
            sets.new = Some(Member { set: Arc::new(set), replicas, planned: true });
            true
        }
        None => false,
    };
    if let Some(member) = &sets.new {
        let of_set = history::revision(member.set.as_ref()).max(revision).to_string();
        if deployment.annotations().get(history::REVISION) != Some(&of_set) {
            actions.push(Action::Annotate(BTreeMap::from([(history::REVISION.to_owned(), of_set)])));
        }
    }
    created
}

fn new_set(deployment: &Deployment, replicas: i32, bounds: Bounds, revision: i64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let mut template = spec.template;
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = history::template_hash(&template, collisions);
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(TEMPLATE_HASH.into(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.into(), hash.clone());
    let mut annotations = history::wanted_annotations(deployment, None, revision);
    annotations.insert(DESIRED_REPLICAS.into(), bounds.replicas.to_string());
    annotations.insert(MAX_REPLICAS.into(), (bounds.replicas + bounds.max_surge).to_string());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owners::controller_reference(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// Patches for all sets whose size or size annotations differ from the plan.
fn resize(deployment: &Deployment, sets: &Sets, bounds: Bounds, actions: &mut Vec<Action>) {
    let desired = bounds.replicas.to_string();
    let most = (bounds.replicas + bounds.max_surge).to_string();
    for member in sets.all().filter(|member| !member.planned) {
        let set = &member.set;
        let current = size(set);
        let annotations = set.annotations();
        let stale = member.replicas > 0
            && (annotations.get(DESIRED_REPLICAS) != Some(&desired) || annotations.get(MAX_REPLICAS) != Some(&most));
        if member.replicas == current && !stale || deployment.metadata.deletion_timestamp.is_some() {
            continue;
        }
        // The resource version turns a decision made on an outdated set into a conflict; a patch planned before in this
        // reconcile has already moved it on, so then the uid must do.
        let name = set.name_any();
        let touched =
            actions.iter().any(|action| matches!(action, Action::Update { name: other, .. } if *other == name));
        let version = (!touched).then(|| set.metadata.resource_version.clone()).flatten();
        let mut metadata = json!({
            "uid": set.metadata.uid,
            "annotations": {DESIRED_REPLICAS: desired, MAX_REPLICAS: most}});
        if let Some(version) = version {
            metadata["resourceVersion"] = json!(version);
        }
        let patch = json!({"metadata": metadata, "spec": {"replicas": member.replicas}});
        let event = (member.replicas != current).then(|| {
            let direction = if member.replicas > current { "up" } else { "down" };
            format!("Scaled {direction} replica set {name} from {current} to {}", member.replicas)
        });
        actions.push(Action::Update { name, patch, event });
    }
}

fn old_pods_running(sets: &Sets, pods_of: &dyn Fn(&str) -> Vec<Arc<Pod>>) -> bool {
    let counted = |member: &Member| member.set.status.as_ref().is_some_and(|status| status.replicas > 0);
    let of_old = sets.old.iter().filter_map(|member| member.set.metadata.uid.as_deref()).flat_map(pods_of);
    sets.old.iter().any(counted) || of_old.into_iter().any(|pod| !pods::is_terminal(&pod))
}

/// Deletions of the oldest unused sets above the limit.
pub(super) fn beyond_history(sets: &Sets, limit: i32) -> Vec<Action> {
    let mut unused: Vec<&Member> =
        sets.old.iter().filter(|member| member.set.metadata.deletion_timestamp.is_none()).collect();
    let surplus = unused.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    unused.sort_by_key(|member| history::revision(member.set.as_ref()));
    let clean = |member: &&Member| {
        let status = member.set.status.as_ref();
        member.replicas == 0
            && status.is_none_or(|status| status.replicas == 0)
            && status.and_then(|status| status.observed_generation) >= member.set.metadata.generation
    };
    unused
        .into_iter()
        .take(surplus)
        .filter(clean)
        .map(|member| Action::Delete { name: member.set.name_any(), uid: member.set.uid().unwrap_or_default() })
        .collect()
}
