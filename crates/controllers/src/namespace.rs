//! Namespace: empties a namespace that is being deleted, and then lets it go.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use reconcile::{Change, Informer, Metadata, Queue, feed, run_controller};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, cause, failed, gone_is_done, is_not_found, run_with_feeds, synced};
use crate::discovery::{self, Kind};

/// Namespaces emptied at once.
const WORKERS: usize = 4;
/// Kinds looked at concurrently within a namespace.
const KINDS_AT_ONCE: usize = 8;
/// What remains is looked at again after a quarter of the time it has taken so far, within these bounds: a namespace that
/// empties quickly goes quickly, and one that waits for a finalizer costs little.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
const FINALIZER: &str = "kubernetes";

/// What is left in a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Remains {
    /// Objects per kind.
    objects: BTreeMap<String, usize>,
    /// Objects per finalizer.
    finalizers: BTreeMap<String, usize>,
    /// What could not be deleted, and why.
    failures: Vec<String>,
    /// Group-versions whose server does not say what it has.
    undiscovered: BTreeSet<String>,
}

impl Remains {
    fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.failures.is_empty() && self.undiscovered.is_empty()
    }

    fn merge(&mut self, other: Self) {
        self.objects.extend(other.objects);
        for (finalizer, count) in other.finalizers {
            *self.finalizers.entry(finalizer).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.undiscovered.extend(other.undiscovered);
    }

    /// Upstream's conditions of a terminating namespace: type, status, reason, message.
    fn conditions(&self) -> [(&'static str, bool, &'static str, String); 5] {
        let listed = |counts: &BTreeMap<String, usize>, text: fn(&str, usize) -> String| {
            counts.iter().map(|(name, count)| text(name, *count)).collect::<Vec<_>>().join(", ")
        };
        let content = if self.failures.is_empty() {
            (false, "ContentDeleted", "All content successfully deleted, may be waiting on finalization".to_owned())
        } else {
            let message = format!("Failed to delete all resource types, {} remaining: ", self.failures.len());
            let mut failures = self.failures.clone();
            failures.sort();
            (true, "ContentDeletionFailed", message + &failures.join(", "))
        };
        let remaining = if self.objects.is_empty() {
            (false, "ContentRemoved", "All content successfully removed".to_owned())
        } else {
            // Upstream names core resources with a trailing dot.
            let text = |kind: &str, count| {
                let dot = if kind.contains('.') { "" } else { "." };
                format!("{kind}{dot} has {count} resource instances")
            };
            (true, "SomeResourcesRemain", format!("Some resources are remaining: {}", listed(&self.objects, text)))
        };
        let finalizers = if self.finalizers.is_empty() {
            (false, "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned())
        } else {
            let listed = listed(&self.finalizers, |name, count| format!("{name} in {count} resource instances"));
            let message = format!("Some content in the namespace has finalizers remaining: {listed}");
            (true, "SomeFinalizersRemain", message)
        };
        let discovery = if self.undiscovered.is_empty() {
            (false, "ResourcesDiscovered", "All resources successfully discovered".to_owned())
        } else {
            let stale = |version: &String| format!("{version}: stale GroupVersion discovery: {version}");
            let message = format!(
                "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                self.undiscovered.len(),
                self.undiscovered.iter().map(stale).collect::<Vec<_>>().join(", ")
            );
            (true, "DiscoveryFailed", message)
        };
        let parsed = "All legacy kube types successfully parsed".to_owned();
        [
            ("NamespaceDeletionDiscoveryFailure", discovery.0, discovery.1, discovery.2),
            ("NamespaceDeletionGroupVersionParsingFailure", false, "ParsedGroupVersions", parsed),
            ("NamespaceDeletionContentFailure", content.0, content.1, content.2),
            ("NamespaceContentRemaining", remaining.0, remaining.1, remaining.2),
            ("NamespaceFinalizersRemaining", finalizers.0, finalizers.1, finalizers.2),
        ]
    }
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let namespaces = context.informers.of::<Namespace>();
    let pods = context.informers.of::<Pod>();
    if !synced(&stop, namespaces.synced()).await {
        return;
    }
    let queue: Queue<String> = Queue::new();
    let leaving = |namespace: &Namespace| namespace.metadata.deletion_timestamp.is_some();
    let feeds = futures::future::join(
        feed(&namespaces, &queue, |change| match change {
            Change::Applied { new, .. } if leaving(new) => Some(new.name_any()),
            Change::Applied { .. } | Change::Deleted(_) => None,
        }),
        feed(&pods, &queue, |change| match change {
            // the others are waited for: the last pod is what everything else waits for
            Change::Deleted(pod) => pod.namespace().filter(|name| {
                namespaces.get("", name).is_some_and(|n| leaving(&n)) && pods.namespace(name).is_empty()
            }),
            Change::Applied { .. } => None,
        }),
    );
    let begun = Begun::default();
    let reconcile = |name: String| reconcile(context.clone(), namespaces.clone(), begun.clone(), name);
    run_with_feeds(run_controller("namespace", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

/// Namespaces whose objects this process has told to go; at most those that are being deleted.
type Begun = Arc<Mutex<HashSet<String>>>;

async fn reconcile(
    context: Context,
    namespaces: Informer<Namespace>,
    begun: Begun,
    name: String,
) -> Result<Option<Duration>, ReconcileError> {
    let Some(namespace) = namespaces.get("", &name) else {
        begun.lock().remove(&name);
        return Ok(None);
    };
    let Some(leaving_since) = namespace.metadata.deletion_timestamp.as_ref().map(|time| time.0) else {
        return Ok(None);
    };
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(None);
    }
    let taken = Duration::try_from(Timestamp::now().duration_since(leaving_since)).unwrap_or_default();
    let pass = Pass { first: !begun.lock().contains(&name), taken };
    let remains = empty_all(&context.client, &name, pass).await?;
    if remains.is_empty() {
        finalize(&context, &namespace, finalizers).await?;
        return Ok(None);
    }
    if remains.failures.is_empty() {
        begun.lock().insert(name.clone());
    }
    write_conditions(&context, &namespace, &remains).await?;
    Ok(Some((taken / 4).clamp(LOOK_AGAIN.0, LOOK_AGAIN.1)))
}

/// One look at a namespace.
#[derive(Clone, Copy)]
struct Pass {
    /// Nothing has been told to go yet, as far as this process knows.
    first: bool,
    /// How long ago the namespace was deleted.
    taken: Duration,
}

/// Whether objects are to be told to go: all in the first pass, which may shorten the time of those that go already, and
/// later those that have not been told.
fn are_to_be_told(objects: &[Metadata], first: bool) -> bool {
    first || objects.iter().any(|object| object.metadata.deletion_timestamp.is_none())
}

/// Deletes what is in a namespace, and says what is left.
async fn empty_all(client: &Client, namespace: &str, pass: Pass) -> Result<Remains, ReconcileError> {
    let discovered = discovery::discover(client).await;
    let discovered = discovered.map_err(failed("discover kinds for namespace", namespace))?;
    let (pods, others): (Vec<Kind>, Vec<Kind>) =
        discovered.kinds.into_iter().filter(Kind::namespaced).partition(is_pods);
    let mut remains = empty_kinds(client, &pods, namespace, pass).await;
    remains.undiscovered = discovered.stale;
    // Pods go first: what they use (policies, secrets, accounts) must outlive them.
    if remains.objects.is_empty() {
        remains.merge(empty_kinds(client, &others, namespace, pass).await);
    }
    Ok(remains)
}

fn is_pods(kind: &Kind) -> bool {
    kind.resource.group.is_empty() && kind.resource.plural == "pods"
}

async fn empty_kinds(client: &Client, kinds: &[Kind], namespace: &str, pass: Pass) -> Remains {
    let mut remains = Remains::default();
    let requests: Vec<_> = kinds.iter().map(|kind| empty(client, kind, namespace, pass)).collect();
    let mut results = futures::stream::iter(requests).buffer_unordered(KINDS_AT_ONCE);
    while let Some(of_kind) = results.next().await {
        remains.merge(of_kind);
    }
    remains
}

/// Deletes all objects of a kind and says what is left.
async fn empty(client: &Client, kind: &Kind, namespace: &str, pass: Pass) -> Remains {
    match try_empty(client, kind, namespace, pass).await {
        Ok(remains) => remains,
        // A kind may vanish between discovery and now.
        Err(error) if is_not_found(&error) => Remains::default(),
        Err(error) => Remains { failures: vec![cause(&error)], ..Remains::default() },
    }
}

async fn try_empty(client: &Client, kind: &Kind, namespace: &str, pass: Pass) -> Result<Remains, kube::Error> {
    let before = discovery::list_metadata(client, kind, namespace).await?;
    if before.is_empty() {
        return Ok(Remains::default());
    }
    let after = if are_to_be_told(&before, pass.first) {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource);
        let params = DeleteParams::background();
        if kind.can_delete_collection() {
            api.delete_collection(&params, &ListParams::default()).await?;
        } else {
            for object in &before {
                gone_is_done(api.delete(&object.name_any(), &params).await)?;
            }
        }
        discovery::list_metadata(client, kind, namespace).await?
    } else {
        before
    };
    let grace = if is_pods(kind) { after.iter().filter_map(grace).max().unwrap_or_default() } else { Duration::ZERO };
    Ok(left(kind, namespace, &after, pass.taken < grace))
}

/// How long an object may take to end.
fn grace(object: &Metadata) -> Option<Duration> {
    let seconds = object.metadata.deletion_grace_period_seconds?;
    Some(Duration::from_secs(seconds.max(0).unsigned_abs()))
}

/// What objects of a kind that were told to go are still there; `expected` says that they need some time.
fn left(kind: &Kind, namespace: &str, objects: &[Metadata], expected: bool) -> Remains {
    let mut remains = Remains::default();
    if objects.is_empty() {
        return remains;
    }
    remains.objects.insert(kind.group_resource(), objects.len());
    for finalizer in objects.iter().flat_map(|object| object.finalizers()) {
        *remains.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    if remains.finalizers.is_empty() && !expected {
        let ApiResource { group, version, plural, .. } = &kind.resource;
        remains.failures.push(format!(
            "unexpected items still remain in namespace: {namespace} for gvr: {group}/{version}, Resource={plural}"
        ));
    }
    remains
}

async fn finalize(context: &Context, namespace: &Namespace, finalizers: Vec<String>) -> Result<(), ReconcileError> {
    let name = namespace.name_any();
    let mut finalized = namespace.clone();
    let left = finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
    finalized.spec.get_or_insert_default().finalizers = Some(left);
    let api = context.api_all::<Namespace>();
    let result: Result<Namespace, _> =
        api.replace_subresource("finalize", &name, &PostParams::default(), &finalized).await;
    gone_is_done(result).map_err(failed("finalize namespace", &name))
}

async fn write_conditions(context: &Context, namespace: &Namespace, remains: &Remains) -> Result<(), ReconcileError> {
    let name = namespace.name_any();
    let status = namespace.status.clone().unwrap_or_default();
    let current = status.conditions.unwrap_or_default();
    let conditions = merged(&current, remains, Timestamp::now());
    if conditions == current && status.phase.as_deref() == Some("Terminating") {
        return Ok(());
    }
    let patch = json!({"metadata": {"uid": namespace.metadata.uid},
        "status": {"phase": "Terminating", "conditions": conditions}});
    let api = context.api_all::<Namespace>();
    let result = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    gone_is_done(result).map_err(failed("write status of namespace", &name))
}

/// The conditions with what is left now; those of others stay, and what stays the same keeps its time.
fn merged(current: &[NamespaceCondition], remains: &Remains, now: Timestamp) -> Vec<NamespaceCondition> {
    let mut conditions = current.to_vec();
    for (type_, value, reason, message) in remains.conditions() {
        let value = if value { "True" } else { "False" };
        let mut wanted = NamespaceCondition {
            type_: type_.into(),
            status: value.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            Some(known) => {
                if known.status == value && known.last_transition_time.is_some() {
                    wanted.last_transition_time = known.last_transition_time.clone();
                }
                *known = wanted;
            }
            None => conditions.push(wanted),
        }
    }
    conditions
}

#[cfg(test)]
mod tests {
    use kube::discovery::{ApiCapabilities, Scope};

    use super::*;

    #[test]
    fn conditions_name_what_is_left() {
        let remains = Remains {
            objects: BTreeMap::from([("pods".into(), 2), ("widgets.example.com".into(), 1)]),
            finalizers: BTreeMap::from([("example.com/hold".into(), 1)]),
            ..Remains::default()
        };
        let conditions = remains.conditions();
        let message = |type_: &str| conditions.iter().find(|c| c.0 == type_).map(|c| (c.1, c.3.as_str())).unwrap();
        assert_eq!(
            message("NamespaceContentRemaining"),
            (
                true,
                "Some resources are remaining: pods. has 2 resource instances, \
                 widgets.example.com has 1 resource instances"
            )
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining").1,
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        assert!(Remains::default().conditions().iter().all(|condition| !condition.1));
    }

    #[test]
    fn conditions_name_what_failed() {
        let remains = Remains {
            failures: vec!["z is forbidden".into(), "a is broken".into()],
            undiscovered: BTreeSet::from(["metrics.k8s.io/v1beta1".into()]),
            ..Remains::default()
        };
        assert!(!remains.is_empty());
        let conditions = remains.conditions();
        let [discovery, parsing, content, remaining, finalizers] = &conditions;
        assert_eq!((discovery.1, discovery.2), (true, "DiscoveryFailed"));
        assert_eq!(
            discovery.3,
            "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: \
             metrics.k8s.io/v1beta1: stale GroupVersion discovery: metrics.k8s.io/v1beta1"
        );
        let expected = "Failed to delete all resource types, 2 remaining: a is broken, z is forbidden";
        assert_eq!((content.1, content.2, content.3.as_str()), (true, "ContentDeletionFailed", expected));
        assert!(!parsing.1 && !remaining.1 && !finalizers.1);
    }

    #[test]
    fn what_goes_already_is_told_once() {
        let object = |at: Option<&str>| -> Metadata {
            serde_json::from_value(json!({"metadata": {"name": "p", "deletionTimestamp": at}})).unwrap()
        };
        let (going, staying) = (object(Some("2026-01-01T00:00:00Z")), object(None));
        assert!(are_to_be_told(std::slice::from_ref(&going), true));
        assert!(!are_to_be_told(std::slice::from_ref(&going), false));
        assert!(are_to_be_told(&[going, staying], false));
    }

    #[test]
    fn what_stays_without_a_reason_is_unexpected() {
        let capabilities =
            ApiCapabilities { scope: Scope::Namespaced, subresources: Vec::new(), operations: Vec::new() };
        let kind = Kind::new(ApiResource::erase::<Pod>(&()), capabilities);
        let object = |finalizers: &[&str]| -> Metadata {
            serde_json::from_value(json!({"metadata": {"name": "p", "finalizers": finalizers,
                "deletionGracePeriodSeconds": 30}}))
            .unwrap()
        };
        assert_eq!(grace(&object(&[])), Some(Duration::from_secs(30)));
        for (objects, expected, failures) in [
            (vec![], false, 0),
            (vec![object(&[])], true, 0),
            (vec![object(&[])], false, 1),
            (vec![object(&["a"]), object(&[])], false, 0),
        ] {
            let remains = left(&kind, "ns", &objects, expected);
            assert_eq!((remains.failures.len(), remains.objects.len()), (failures, usize::from(!objects.is_empty())));
            for failure in remains.failures {
                assert_eq!(failure, "unexpected items still remain in namespace: ns for gvr: /v1, Resource=pods");
            }
        }
    }

    #[test]
    fn conditions_of_others_stay_and_times_change_with_the_status() {
        let before = "2026-01-01T00:00:00Z".parse().unwrap();
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let foreign =
            NamespaceCondition { type_: "Foreign".into(), status: "True".into(), ..NamespaceCondition::default() };
        let first = merged(&[foreign], &Remains::default(), before);
        assert_eq!((first.len(), first[0].type_.as_str()), (6, "Foreign"));
        let remains = Remains { objects: BTreeMap::from([("pods".into(), 1)]), ..Remains::default() };
        let second = merged(&first, &remains, now);
        for (old, new) in first.iter().zip(&second).skip(1) {
            let expected = if old.status == new.status { before } else { now };
            assert_eq!(new.last_transition_time, Some(Time(expected)), "{}", new.type_);
        }
        assert_eq!(merged(&second, &remains, now), second);
    }
}
