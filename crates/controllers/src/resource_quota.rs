//! ResourceQuota: counts what a namespace uses when something was given back, when a quota changes, and now and then.
//!
//! What a write adds is charged by the API server in the same transaction. A count is made from lists that are newer than
//! the quota they are written to; a charge in between changes the quota's version, and the count is made anew.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use kube::ResourceExt;
use kube::api::{Api, ListParams, PostParams};
use kube::core::{ApiResource, Request};
use quota::{Amounts, Item, Kind};
use reconcile::{Change, Informer, Key, Metadata, Queue, Subscription, run_controller};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, is_conflict, is_not_found, run_with_feeds, synced};
use crate::discovery;

/// Quotas counted at once.
const WORKERS: usize = 4;
/// Everything is counted anew so often, whatever events said; upstream's period.
const RESYNC: Duration = Duration::from_secs(300);
/// How often a count is made anew because the quota was charged meanwhile, before it waits its turn again.
const ATTEMPTS_MAX: usize = 3;

type Quantities = BTreeMap<String, Quantity>;

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let quotas = context.informers.of::<ResourceQuota>();
    if !synced(&stop, quotas.synced()).await {
        return;
    }
    let queue: Queue<Key> = Queue::new();
    let reconcile = |key: Key| count(context.client.clone(), key);
    let feeds = feeds(&context, &quotas, &queue);
    run_with_feeds(run_controller("resource-quota", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

/// Queues quotas that changed, and those of a namespace where something they count was given back.
async fn feeds(context: &Context, quotas: &Informer<ResourceQuota>, queue: &Queue<Key>) {
    let mut changes = quotas.subscribe();
    let definition = ApiResource::erase::<CustomResourceDefinition>(&());
    let mut definitions = context.informers.metadata(&definition).subscribe();
    let mut watched: HashSet<Kind> = HashSet::new();
    // kinds that are limited and not served, or not any more
    let mut missing: HashSet<Kind> = HashSet::new();
    let mut returns: FuturesUnordered<BoxFuture<'_, Kind>> = FuturesUnordered::new();
    loop {
        let mut wanted: Vec<Kind> = Vec::new();
        tokio::select! {
            change = changes.next() => {
                let Some(change) = change else { return };
                let Change::Applied { old, new } = change else { continue };
                if old.as_ref().is_none_or(|old| old.spec != new.spec) || !is_counted(&new) {
                    queue.add(Key::of(&*new));
                }
                wanted.extend(kinds(hard(&new).keys().map(String::as_str)));
            }
            change = definitions.next() => {
                if change.is_none() {
                    return;
                }
                wanted.extend(missing.iter().cloned());
            }
            Some(ended) = returns.next(), if !returns.is_empty() => {
                watched.remove(&ended);
                missing.insert(ended);
            }
        }
        for kind in wanted.into_iter().filter(|kind| !watched.contains(kind)).collect::<Vec<_>>() {
            let Some(watching) = watch(context, quotas, queue, &kind).await else {
                missing.insert(kind);
                continue;
            };
            if missing.remove(&kind) {
                // what was there before it could be counted counts from now on
                let counting = quotas.list().into_iter().filter(|quota| counts(quota, &kind));
                counting.for_each(|quota| queue.add(Key::of(&*quota)));
            }
            watched.insert(kind.clone());
            returns.push(
                async move {
                    watching.await;
                    kind
                }
                .boxed(),
            );
        }
    }
}

fn counts(quota: &ResourceQuota, kind: &Kind) -> bool {
    hard(quota).keys().any(|name| kind.counts_for(name))
}

fn hard(quota: &ResourceQuota) -> Quantities {
    quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default()
}

/// The kinds that count for these resources.
fn kinds<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for kind in names.filter_map(Kind::counting) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

/// Whether the status says something about everything the spec limits.
fn is_counted(quota: &ResourceQuota) -> bool {
    let status = quota.status.clone().unwrap_or_default();
    let (hard, used) = (status.hard.unwrap_or_default(), status.used.unwrap_or_default());
    hard == self::hard(quota) && hard.keys().all(|name| used.contains_key(name) || Kind::counting(name).is_none())
}

/// Queues a namespace's quotas when objects of `kind` there give something back; `None` while there is no such kind.
async fn watch<'a>(
    context: &'a Context,
    quotas: &'a Informer<ResourceQuota>,
    queue: &'a Queue<Key>,
    kind: &Kind,
) -> Option<BoxFuture<'a, ()>> {
    let of_namespace = move |namespace: Option<String>, kind: Kind| {
        let quotas = quotas.namespace(&namespace.unwrap_or_default());
        quotas.into_iter().filter(move |quota| counts(quota, &kind)).map(|quota| Key::of(&*quota)).collect::<Vec<_>>()
    };
    let kind = kind.clone();
    let resource = match &kind {
        Kind::Pods => {
            let pods = context.informers.of::<Pod>();
            return Some(returned(pods, queue, pod_gives_back, move |ns| of_namespace(ns, kind.clone())).boxed());
        }
        Kind::Services => {
            let services = context.informers.of::<Service>();
            return Some(
                returned(
                    services,
                    queue,
                    |old, new| old.is_some_and(|old| service_gives_back(old, new)),
                    move |ns| of_namespace(ns, kind.clone()),
                )
                .boxed(),
            );
        }
        Kind::Claims => {
            let claims = context.informers.of::<PersistentVolumeClaim>();
            return Some(
                returned(
                    claims,
                    queue,
                    |old, new| old.is_some_and(|old| claim_gives_back(old, new)),
                    move |ns| of_namespace(ns, kind.clone()),
                )
                .boxed(),
            );
        }
        Kind::Other(_) => {
            let (group, plural) = kind.resource();
            let known = discovery::kinds(&context.client).await.ok()?;
            known.into_iter().find(|known| known.resource.group == group && known.resource.plural == plural)?
        }
    };
    if !resource.can_be_watched() {
        return None;
    }
    let objects: Informer<Metadata> = context.informers.metadata(&resource.resource);
    Some(returned(objects, queue, |_, _| false, move |ns| of_namespace(ns, kind.clone())).boxed())
}

/// Follows an informer; what `gives_back` is told of an object it has not seen before is its state after a burst.
async fn returned<O: reconcile::Object>(
    informer: Informer<O>,
    queue: &Queue<Key>,
    gives_back: impl Fn(Option<&O>, &O) -> bool,
    keys: impl Fn(Option<String>) -> Vec<Key>,
) {
    let mut changes: Subscription<O> = informer.subscribe();
    while let Some(change) = changes.next().await {
        let returned = match &change {
            Change::Deleted(_) => true,
            Change::Applied { old, new } => gives_back(old.as_deref(), new),
        };
        if returned {
            for key in keys(change.object().namespace()) {
                queue.add(key);
            }
        }
    }
}

fn pod_gives_back(old: Option<&Pod>, new: &Pod) -> bool {
    let ended = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    // A pod that came and ended within one burst was charged for, and is seen for the first time now.
    let Some(old) = old else { return ended(new) };
    let asks = |pod: &Pod| {
        let spec = pod.spec.clone().unwrap_or_default();
        let containers = spec.containers.into_iter().map(|container| container.resources);
        (containers.collect::<Vec<_>>(), spec.resources, spec.active_deadline_seconds)
    };
    // what was resized counts for the larger of both until the node has done it
    let held = |pod: &Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
        statuses.into_iter().map(|status| (status.resources, status.allocated_resources)).collect::<Vec<_>>()
    };
    ended(old) != ended(new) || asks(old) != asks(new) || held(old) != held(new)
}

fn service_gives_back(old: &Service, new: &Service) -> bool {
    let counts = |service: &Service| {
        let spec = service.spec.clone().unwrap_or_default();
        (spec.type_, spec.allocate_load_balancer_node_ports, spec.ports)
    };
    counts(old) != counts(new)
}

fn claim_gives_back(old: &PersistentVolumeClaim, new: &PersistentVolumeClaim) -> bool {
    let asks = |claim: &PersistentVolumeClaim| {
        let spec = claim.spec.clone().unwrap_or_default();
        let allocated = claim.status.as_ref().and_then(|status| status.allocated_resources.clone());
        let status = claim.status.clone().unwrap_or_default();
        let classes = (status.current_volume_attributes_class_name, status.modify_volume_status);
        (spec.resources, spec.volume_attributes_class_name, allocated, classes)
    };
    asks(old) != asks(new)
}

async fn count(client: Client, key: Key) -> Result<Option<Duration>, ReconcileError> {
    let name = format!("resourcequota {}/{}", key.namespace, key.name);
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), &key.namespace);
    for _ in 0..ATTEMPTS_MAX {
        let this = ListParams::default().fields(&format!("metadata.name={}", key.name));
        let found = quotas.list(&this).await.map_err(failed("read", &name))?;
        let Some(mut quota) = found.items.into_iter().next() else { return Ok(None) };
        let hard = hard(&quota);
        let used = used(&client, &quota, &hard).await.map_err(failed("count for", &name))?;
        let mut status = quota.status.clone().unwrap_or_default();
        let known = status.used.clone().unwrap_or_default();
        if status.hard.as_ref() == Some(&hard) && same(&known, &used) {
            return Ok(Some(RESYNC));
        }
        (status.hard, status.used) = (Some(hard), Some(used));
        quota.status = Some(status);
        match quotas.replace_status(&key.name, &PostParams::default(), &quota).await {
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) if is_conflict(&error) => {}
            Err(error) => return Err(failed("write status of", &name)(error)),
            Ok(_) => return Ok(Some(RESYNC)),
        }
    }
    Ok(Some(Duration::ZERO))
}

/// Whether two lists say the same, however it is written.
fn same(one: &Quantities, other: &Quantities) -> bool {
    amounts(one) == amounts(other)
}

fn amounts(quantities: &Quantities) -> Amounts {
    let list: serde_json::Map<String, Value> =
        quantities.iter().map(|(name, Quantity(text))| (name.clone(), text.clone().into())).collect();
    Amounts::read(Some(&Value::Object(list)))
}

/// What the namespace uses of what is limited.
async fn used(client: &Client, quota: &ResourceQuota, hard: &Quantities) -> Result<Quantities, kube::Error> {
    let namespace = quota.namespace().unwrap_or_default();
    let tree = serde_json::to_value(quota).map_err(kube::Error::SerdeError)?;
    let names: BTreeSet<&str> = hard.keys().map(String::as_str).collect();
    let mut all = Amounts::default();
    for kind in kinds(names.iter().copied()) {
        let counted = match &kind {
            Kind::Other(_) if is_scoped(quota) => Some(Amounts::default()),
            Kind::Other(_) => count_objects(client, &kind, &namespace, &names).await?,
            Kind::Pods | Kind::Services | Kind::Claims => Some(sum(client, &kind, &namespace, &tree).await?),
        };
        // a kind that is not served cannot be counted
        let Some(counted) = counted else { continue };
        for name in names.iter().filter(|name| kind.counts_for(name)) {
            all.ensure(name);
            if let Some(amount) = counted.get(name) {
                all.set(name, *amount);
            }
        }
    }
    let quantity = |name: &str| Some((name.to_owned(), Quantity(all.get(name)?.to_string())));
    Ok(all.names().filter_map(quantity).collect())
}

fn is_scoped(quota: &ResourceQuota) -> bool {
    let Some(spec) = &quota.spec else { return false };
    let selects = spec
        .scope_selector
        .as_ref()
        .is_some_and(|selector| selector.match_expressions.iter().flatten().next().is_some());
    selects || spec.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty())
}

/// What all pods, services or claims that the quota is about count for.
async fn sum(client: &Client, kind: &Kind, namespace: &str, quota: &Value) -> Result<Amounts, kube::Error> {
    let (group, plural) = kind.resource();
    let now = Timestamp::now();
    let list = list(client, &format!("/api/v1/namespaces/{namespace}/{plural}"), &ListParams::default()).await?;
    let items = list["items"].as_array().into_iter().flatten();
    let items = items.map(|object| Item::of(group, plural, object, now)).filter(|item| item.in_scope(quota));
    let mut all = Amounts::default();
    for item in items {
        all.add(&item.usage);
    }
    Ok(all)
}

/// How many objects there are; the server says so without sending them.
async fn count_objects(
    client: &Client,
    kind: &Kind,
    namespace: &str,
    names: &BTreeSet<&str>,
) -> Result<Option<Amounts>, kube::Error> {
    let (group, plural) = kind.resource();
    let version = if group.is_empty() {
        Some("v1".to_owned())
    } else {
        let groups = client.list_api_groups().await?.groups;
        let found = groups.into_iter().find(|known| known.name == group);
        found.and_then(|found| found.preferred_version.or_else(|| found.versions.into_iter().next())).map(|v| v.version)
    };
    let Some(version) = version else { return Ok(None) };
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let one = ListParams::default().limit(1);
    let list = match list(client, &format!("{root}/namespaces/{namespace}/{plural}"), &one).await {
        Err(error) if is_not_found(&error) => return Ok(None),
        list => list?,
    };
    let here = list["items"].as_array().map_or(0, Vec::len) as i64;
    let total = here + list["metadata"]["remainingItemCount"].as_i64().unwrap_or(0);
    let mut counted = Amounts::default();
    for name in names.iter().filter(|name| kind.counts_for(name)) {
        counted.set_count(name, total);
    }
    Ok(Some(counted))
}

async fn list(client: &Client, url: &str, params: &ListParams) -> Result<Value, kube::Error> {
    let request = Request::new(url).list(params).map_err(kube::Error::BuildRequest)?;
    client.request(request).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of<K: serde::de::DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_gives_something_back_is_counted_anew() {
        let pod = |phase: &str, cpu: &str| -> Pod {
            of(
                json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": phase}}),
            )
        };
        assert!(pod_gives_back(None, &pod("Failed", "1")) && !pod_gives_back(None, &pod("Running", "1")));
        assert!(!pod_gives_back(Some(&pod("Pending", "1")), &pod("Running", "1")));
        assert!(pod_gives_back(Some(&pod("Running", "1")), &pod("Succeeded", "1")));
        assert!(pod_gives_back(Some(&pod("Running", "2")), &pod("Running", "1")));
        let service = |kind: &str| -> Service { of(json!({"spec": {"type": kind}})) };
        assert!(service_gives_back(&service("NodePort"), &service("ClusterIP")));
        assert!(!service_gives_back(&service("NodePort"), &service("NodePort")));
        let claim = |class: &str| -> PersistentVolumeClaim {
            of(json!({"status": {"currentVolumeAttributesClassName": class}}))
        };
        assert!(
            claim_gives_back(&claim("gold"), &claim("silver")) && !claim_gives_back(&claim("gold"), &claim("gold"))
        );
    }

    #[test]
    fn a_quota_is_counted_when_its_status_covers_its_spec() {
        let quota = |status: Value| -> ResourceQuota {
            of(json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1", "bogus": "1"}}, "status": status}))
        };
        let hard = json!({"pods": "1", "bogus": "1"});
        assert!(!is_counted(&quota(json!({}))));
        assert!(!is_counted(&quota(json!({"hard": hard, "used": {}}))));
        assert!(is_counted(&quota(json!({"hard": hard, "used": {"pods": "0"}}))));
        assert_eq!(kinds(["pods", "requests.cpu", "bogus", "secrets"].into_iter()).len(), 2);
    }
}
